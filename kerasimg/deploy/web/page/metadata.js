// Metadata of JPEG and WebP files: reads the orientation and removes EXIF, XMP and colour profiles, which make browsers
// rotate or recolour images, so that every browser returns the stored pixels.

const EXIF = "Exif\0\0";
const XMP = "http://ns.adobe.com/xap/1.0/\0";

/** {bytes, orientation}: the file without metadata, and the orientation (1 to 8) of EXIF, else of XMP. */
export function withoutMetadata(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return jpegWithout(bytes);
  if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 4) === "WEBP") return webpWithout(bytes);
  return { bytes, orientation: 1 };
}

/** The orientation in an EXIF block; 0 without one.  bytes: start at the TIFF header. */
export function exifOrientation(bytes) {
  const order = text(bytes, 0, 2);
  if (bytes.length < 14 || (order !== "II" && order !== "MM")) return 0;
  const little = order === "II";
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    const directory = view.getUint32(4, little);
    const entries = view.getUint16(directory, little);
    for (let i = 0; i < entries; i++) {
      const entry = directory + 2 + i * 12;
      if (view.getUint16(entry, little) !== 0x0112) continue;
      const type = view.getUint16(entry + 2, little);
      if (type === 3) return view.getUint16(entry + 8, little);
      return type === 4 ? view.getUint32(entry + 8, little) : view.getUint8(entry + 8);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // invalid blocks are ignored
  }
  return 0;
}

/** The orientation in an XMP document; 0 without one. */
export function xmpOrientation(document) {
  const found = /tiff:Orientation(?:="|>)([0-9])/.exec(document);
  return found ? Number(found[1]) : 0;
}

/** The orientation of EXIF if set, else of XMP, else 1. */
export function orientationOf(exif, xmp) {
  return exif || xmp || 1;
}

function jpegWithout(bytes) {
  const parts = [bytes.subarray(0, 2)];
  let [exif, xmp] = [0, 0];
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff) {
    const marker = bytes[at + 1];
    if (marker === 0xff) {
      at += 1; // padding
      continue;
    }
    if (marker === 0xda) break; // the image itself
    const next = at + 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
    const content = bytes.subarray(at + 4, next);
    if (marker === 0xe1 && text(content, 0, EXIF.length) === EXIF) {
      exif ||= exifOrientation(content.subarray(EXIF.length));
    } else if (marker === 0xe1 && text(content, 0, XMP.length) === XMP) {
      xmp ||= xmpOrientation(text(content, XMP.length, content.length));
    } else if (marker !== 0xe2) {
      parts.push(bytes.subarray(at, next)); // drops colour profiles and indices of further images
    }
    at = next;
  }
  parts.push(bytes.subarray(at));
  return { bytes: joined(parts), orientation: orientationOf(exif, xmp) };
}

function webpWithout(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let [exif, xmp] = [0, 0];
  for (let at = 12; at + 8 <= bytes.length; ) {
    const name = text(bytes, at, 4);
    const size = view.getUint32(at + 4, true);
    const next = at + 8 + size + (size % 2);
    const content = bytes.subarray(at + 8, at + 8 + size);
    if (name === "EXIF") {
      const headed = text(content, 0, EXIF.length) === EXIF;
      exif ||= exifOrientation(headed ? content.subarray(EXIF.length) : content);
    } else if (name === "XMP ") {
      xmp ||= xmpOrientation(text(content, 0, content.length));
    } else if (name !== "ICCP") {
      const chunk = bytes.slice(at, next);
      if (name === "VP8X") chunk[8] &= ~0b00101100; // clears the flags of profile, EXIF and XMP
      parts.push(chunk);
    }
    at = next;
  }
  const all = joined([bytes.subarray(0, 12), ...parts]);
  new DataView(all.buffer).setUint32(4, all.length - 8, true);
  return { bytes: all, orientation: orientationOf(exif, xmp) };
}

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Decodes bytes as Latin-1. */
export function text(bytes, from, length) {
  let characters = "";
  for (const byte of bytes.subarray(from, from + length)) characters += String.fromCharCode(byte);
  return characters;
}
