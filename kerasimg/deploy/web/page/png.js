// A PNG decoder that returns the stored values, like kerasimg's reference decoder. Browsers' decoders differ: a canvas
// premultiplies alpha, and 16-bit values, gamma and profiles are treated differently.

import { exifOrientation, orientationOf, text, xmpOrientation } from "./metadata.js";

const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // by colour type
const PASSES = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
]; // Adam7: x, y of the first pixel, steps

export function isPng(bytes) {
  return text(bytes, 0, 8) === "\x89PNG\r\n\x1a\n";
}

/** {width, height, rgba, orientation} of a PNG file; throws an Error if it is invalid. */
export async function readPng(bytes, mostPixels) {
  const file = chunks(bytes);
  const { width, height, colour, depth } = file.header;
  if (width * height > mostPixels) throw new Error(`is too large (${width} x ${height} pixels)`);
  const bits = depth * CHANNELS[colour];
  const passes = file.header.interlaced ? PASSES : [[0, 0, 1, 1]];
  const raw = await inflated(file.data, width, height, bits, passes);
  const rgba = new Uint8Array(width * height * 4);
  let at = 0;
  for (const [x0, y0, stepX, stepY] of passes) {
    const [columns, rows] = [Math.ceil((width - x0) / stepX), Math.ceil((height - y0) / stepY)];
    if (columns <= 0 || rows <= 0) continue;
    const stride = Math.ceil((columns * bits) / 8);
    unfilter(raw.subarray(at, at + (stride + 1) * rows), stride, Math.max(1, bits >> 3));
    for (let row = 0; row < rows; row++) {
      const line = raw.subarray(at + row * (stride + 1) + 1, at + (row + 1) * (stride + 1));
      const to = (y0 + row * stepY) * width + x0;
      spread(line, columns, rgba, to, stepX, file);
    }
    at += (stride + 1) * rows;
  }
  return { width, height, rgba, orientation: orientationOf(file.exif, file.xmp) };
}

function chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const file = { header: null, palette: null, transparent: null, data: [], exif: 0, xmp: 0 };
  for (let at = 8; at + 12 <= bytes.length; ) {
    const size = view.getUint32(at);
    const name = text(bytes, at + 4, 4);
    const content = bytes.subarray(at + 8, at + 8 + size);
    if (content.length < size) throw new Error("is truncated");
    if (name === "IHDR") {
      file.header = {
        width: view.getUint32(at + 8),
        height: view.getUint32(at + 12),
        depth: content[8],
        colour: content[9],
        interlaced: content[12] === 1,
      };
      if (!(content[9] in CHANNELS) || ![1, 2, 4, 8, 16].includes(content[8])) throw new Error("is damaged");
    } else if (name === "PLTE") file.palette = content;
    else if (name === "tRNS") file.transparent = content;
    else if (name === "IDAT") file.data.push(content);
    else if (name === "eXIf") file.exif ||= exifOrientation(content);
    else if (name === "iTXt" && text(content, 0, 17) === "XML:com.adobe.xmp") {
      file.xmp ||= xmpOrientation(text(content, 17, size));
    } else if (name === "IEND") break;
    at += 12 + size;
  }
  const { header } = file;
  if (!header || !header.width || !header.height) throw new Error("is damaged within its header");
  if (header.colour === 3 && !file.palette) throw new Error("is damaged (it has no palette)");
  return file;
}

async function inflated(parts, width, height, bits, passes) {
  let expected = 0;
  for (const [x0, y0, stepX, stepY] of passes) {
    const [columns, rows] = [Math.ceil((width - x0) / stepX), Math.ceil((height - y0) / stepY)];
    if (columns > 0 && rows > 0) expected += (Math.ceil((columns * bits) / 8) + 1) * rows;
  }
  const all = new Uint8Array(expected);
  let at = 0;
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  try {
    for (let step = await reader.read(); !step.done && at < expected; step = await reader.read()) {
      all.set(step.value.subarray(0, expected - at), at);
      at += step.value.length;
    }
    reader.cancel().catch(() => {}); // data after the last pixel is ignored
  } catch (error) {
    if (at < expected) throw new Error("is truncated or damaged", { cause: error });
  }
  if (at < expected) throw new Error("is truncated");
  return all;
}

/** Reverses the row filters in place; each row starts with its filter type. */
function unfilter(raw, stride, pixel) {
  for (let row = 0; row * (stride + 1) < raw.length; row++) {
    const from = row * (stride + 1) + 1;
    const kind = raw[from - 1];
    for (let i = 0; i < stride && kind > 0; i++) {
      const left = i >= pixel ? raw[from + i - pixel] : 0;
      const above = row > 0 ? raw[from + i - stride - 1] : 0;
      const corner = row > 0 && i >= pixel ? raw[from + i - stride - 1 - pixel] : 0;
      if (kind === 1) raw[from + i] += left;
      else if (kind === 2) raw[from + i] += above;
      else if (kind === 3) raw[from + i] += (left + above) >> 1;
      else raw[from + i] += paeth(left, above, corner);
    }
  }
}

function paeth(left, above, corner) {
  const guess = left + above - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - above), Math.abs(guess - corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? above : corner;
}

/** Writes the pixels of a row as RGBA. */
function spread(line, columns, rgba, to, step, { header, palette, transparent }) {
  const { colour, depth } = header;
  const channels = CHANNELS[colour];
  const hidden = transparent && (colour === 0 || colour === 2) ? hiddenColour(transparent, colour, depth) : null;
  for (let x = 0; x < columns; x++) {
    const out = (to + x * step) * 4;
    if (colour === 3) {
      const index = sample(line, x, depth);
      for (let k = 0; k < 3; k++) rgba[out + k] = palette[index * 3 + k] ?? 0;
      rgba[out + 3] = transparent && index < transparent.length ? transparent[index] : 255;
      continue;
    }
    const values = [];
    for (let k = 0; k < channels; k++) values.push(sample(line, x * channels + k, depth));
    const bytes = values.map((value) => asByte(value, colour, depth));
    const grey = colour === 0 || colour === 4;
    rgba[out] = bytes[0];
    rgba[out + 1] = grey ? bytes[0] : bytes[1];
    rgba[out + 2] = grey ? bytes[0] : bytes[2];
    if (colour === 4 || colour === 6) rgba[out + 3] = bytes[channels - 1];
    else {
      const compared = colour === 0 && depth === 16 ? values : bytes;
      rgba[out + 3] = hidden && hidden.every((value, k) => value === compared[k]) ? 0 : 255;
    }
  }
}

function sample(line, index, depth) {
  if (depth === 8) return line[index];
  if (depth === 16) return (line[index * 2] << 8) | line[index * 2 + 1];
  const bit = index * depth;
  return (line[bit >> 3] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
}

/** Like Pillow: divides 16-bit grey by 257 and rounds, and uses the high byte of other 16-bit values. */
function asByte(value, colour, depth) {
  if (depth === 8) return value;
  if (depth === 16) return colour === 0 ? Math.floor((value + 128) / 257) : value >> 8;
  return (value * 255) / ((1 << depth) - 1);
}

/** The transparent colour, in the values that Pillow compares with. */
function hiddenColour(transparent, colour, depth) {
  const values = [];
  for (let k = 0; k < CHANNELS[colour]; k++) values.push((transparent[k * 2] << 8) | transparent[k * 2 + 1]);
  if (colour === 0 && depth === 1) return values.map((value) => (value ? 255 : 0));
  return colour === 2 && Math.max(...values) > 255 ? values.map((value) => value >> 8) : values;
}
