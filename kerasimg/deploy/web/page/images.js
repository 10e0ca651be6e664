// Reads a file, a video frame or a canvas as an image for `pixels.js`: RGB, upright and opaque.

import { withoutMetadata } from "./metadata.js";
import { overBackground, upright } from "./pixels.js";
import { isPng, readPng } from "./png.js";

const MOST_PIXELS = 178956970; // same limit as in Python
const BAND = 1 << 22; // pixels per drawn band; some browsers refuse canvases of more than 16 million

/** {width, height, data}.  source: a Blob or File, or what a canvas can draw (video, image, canvas, ImageBitmap). */
export async function readImage(source, background) {
  if (!(source instanceof Blob)) return drawn(source, background);
  const bytes = new Uint8Array(await source.arrayBuffer());
  if (!bytes.length) throw new Error("is empty");
  if (isPng(bytes)) {
    const { width, height, rgba, orientation } = await readPng(bytes, MOST_PIXELS);
    return upright({ width, height, data: overBackground(rgba, background) }, orientation);
  }
  const plain = withoutMetadata(bytes);
  const bitmap = await decoded(new Blob([plain.bytes], { type: source.type }));
  try {
    return upright(drawn(bitmap, background), plain.orientation);
  } finally {
    bitmap.close();
  }
}

async function decoded(blob) {
  try {
    // Without colour conversion and premultiplied alpha. The orientation metadata is already removed.
    return await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (error) {
    throw new Error("is not an image that this browser can read", { cause: error });
  }
}

/** Draws the source at its original size. */
function drawn(source, background) {
  const width = source.videoWidth ?? source.naturalWidth ?? source.width;
  const height = source.videoHeight ?? source.naturalHeight ?? source.height;
  if (!width || !height) throw new Error("has no pixels");
  if (width * height > MOST_PIXELS) throw new Error(`is too large (${width} x ${height} pixels)`);
  const data = new Uint8Array(width * height * 3);
  const band = Math.max(1, Math.min(height, Math.floor(BAND / width)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, band];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += band) {
    const rows = Math.min(band, height - top);
    context.clearRect(0, 0, width, band);
    context.drawImage(source, 0, -top);
    data.set(overBackground(context.getImageData(0, 0, width, rows).data, background), top * width * 3);
  }
  return { width, height, data };
}
