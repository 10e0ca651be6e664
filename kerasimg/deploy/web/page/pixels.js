// Preprocesses decoded pixels, bit-exactly like kerasimg's reference decoder (Pillow).
//
// An image is {width, height, data}: RGB, three bytes per pixel, upright and opaque. `drawImage` is not used for
// resizing: it does not antialias and differs by up to 56/255.

const PRECISION_BITS = 22; // as in Pillow: integer weights make sums exact on every machine

const FILTERS = {
  area: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: bicubic },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** The model's input: bytes (height, width, channels).  image: the `image` section, as in preprocess.json. */
export function modelInput(decoded, image) {
  const sized = fitted(decoded, image);
  return image.channels === 1 ? grey(sized) : sized.data;
}

/** RGBA, not premultiplied, over a background: (c a + b (255 - a)) / 255, rounded. */
export function overBackground(rgba, background) {
  const pixels = rgba.length / 4;
  const rgb = new Uint8Array(pixels * 3);
  for (let i = 0, from = 0, to = 0; i < pixels; i++, from += 4, to += 3) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      if (alpha === 255) {
        rgb[to + channel] = rgba[from + channel];
        continue;
      }
      const sum = rgba[from + channel] * alpha + background[channel] * (255 - alpha) + 128;
      rgb[to + channel] = (sum + (sum >> 8)) >> 8;
    }
  }
  return rgb;
}

/** Rotates or mirrors an image according to its EXIF orientation (1 to 8). */
export function upright(image, orientation) {
  if (!(orientation >= 2 && orientation <= 8)) return image;
  const { width, height, data } = image;
  const swaps = orientation >= 5;
  const [outWidth, outHeight] = swaps ? [height, width] : [width, height];
  const flipsX = [2, 3, 7, 8].includes(orientation); // of the stored image
  const flipsY = [3, 4, 6, 7].includes(orientation);
  const out = new Uint8Array(data.length);
  for (let y = 0, to = 0; y < outHeight; y++) {
    for (let x = 0; x < outWidth; x++, to += 3) {
      const column = swaps ? y : x;
      const row = swaps ? x : y;
      const from = ((flipsY ? height - 1 - row : row) * width + (flipsX ? width - 1 - column : column)) * 3;
      out[to] = data[from];
      out[to + 1] = data[from + 1];
      out[to + 2] = data[from + 2];
    }
  }
  return { width: outWidth, height: outHeight, data: out };
}

/** Resizes the whole image to whole pixels and takes the centre of what exceeds the size; the rest is background. */
function fitted(decoded, image) {
  const [height, width] = image.size;
  let [down, across] = image.size.map((side) => Math.floor(side / (image.crop_fraction ?? 1)));
  const wide = decoded.width * down > across * decoded.height;
  if (image.resize === "crop") {
    if (wide) across = Math.floor((decoded.width * down) / decoded.height);
    else down = Math.floor((decoded.height * across) / decoded.width);
  } else if (image.resize === "pad") {
    if (wide) down = Math.max(1, roundedHalfToEven((decoded.height * across) / decoded.width));
    else across = Math.max(1, roundedHalfToEven((decoded.width * down) / decoded.height));
  }
  const [x0, x1, innerWidth] = middle(decoded.width, across, width);
  const [y0, y1, innerHeight] = middle(decoded.height, down, height);
  const inner = resized(decoded, innerWidth, innerHeight, image.interpolation, [x0, y0, x1, y1]);
  if (innerWidth === width && innerHeight === height) return inner;
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < data.length; i++) data[i] = image.background[i % 3];
  const [left, top] = [(width - innerWidth) >> 1, (height - innerHeight) >> 1];
  for (let y = 0; y < innerHeight; y++) {
    const row = inner.data.subarray(y * innerWidth * 3, (y + 1) * innerWidth * 3);
    data.set(row, ((top + y) * width + left) * 3);
  }
  return { width, height, data };
}

/** The part of an axis of `length` pixels that is resized to `resizedTo`, of which `size` are used: from, to, pixels. */
function middle(length, resizedTo, size) {
  if (resizedTo <= size) return [0, length, resizedTo];
  const first = roundedHalfToEven((resizedTo - size) / 2);
  return [(first * length) / resizedTo, ((first + size) * length) / resizedTo, size];
}

/** Resizes a box of the image along x, then along y, rounding to bytes after each.  box: x0, y0, x1, y1. */
function resized(image, width, height, interpolation, box) {
  const [x0, y0, x1, y1] = box.map(Math.fround); // as Pillow passes it
  const alongX = x0 !== 0 || x1 !== width || width !== image.width;
  const alongY = y0 !== 0 || y1 !== height || height !== image.height;
  if (!alongX && !alongY) return image;
  if (interpolation === "nearest") return nearest(image, width, height, [x0, y0, x1, y1]);
  const filter = FILTERS[interpolation];
  const across = alongX && taps(image.width, x0, x1, width, filter);
  const down = alongY && taps(image.height, y0, y1, height, filter);
  // Pillow 13 shrinks tall images along y first, which rounds differently.
  const tall = height < image.height && image.height - height > 2 * (image.width - width);
  let sized = image;
  if (tall && down) sized = rows(sized, height, down);
  if (across) sized = columns(sized, width, across);
  if (!tall && down) sized = rows(sized, height, down);
  return sized;
}

/** For each output pixel of an axis: the first input pixel, their number, and their integer weights. */
function taps(inSize, from, to, outSize, filter) {
  const scale = Math.fround(to - from) / outSize;
  const stretched = Math.max(scale, 1); // widens the filter when shrinking: antialiasing
  const support = filter.support * stretched;
  const most = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(outSize);
  const count = new Int32Array(outSize);
  const weights = new Int32Array(outSize * most);
  const exact = new Float64Array(most);
  for (let i = 0; i < outSize; i++) {
    const centre = from + (i + 0.5) * scale;
    first[i] = Math.max(0, Math.trunc(centre - support + 0.5));
    count[i] = Math.min(inSize, Math.trunc(centre + support + 0.5)) - first[i];
    let total = 0;
    for (let k = 0; k < count[i]; k++) {
      exact[k] = filter.weight((k + first[i] - centre + 0.5) * (1 / stretched));
      total += exact[k];
    }
    for (let k = 0; k < count[i]; k++) {
      const share = (total === 0 ? exact[k] : exact[k] / total) * 2 ** PRECISION_BITS;
      weights[i * most + k] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    }
  }
  return { first, count, weights, most };
}

function columns(image, width, { first, count, weights, most }) {
  const { height, data } = image;
  const out = new Uint8Array(width * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    const row = y * image.width * 3;
    for (let x = 0; x < width; x++, to += 3) {
      let [red, green, blue] = [HALF, HALF, HALF];
      let from = row + first[x] * 3;
      const last = x * most + count[x];
      for (let k = x * most; k < last; k++, from += 3) {
        red += data[from] * weights[k];
        green += data[from + 1] * weights[k];
        blue += data[from + 2] * weights[k];
      }
      out[to] = byte(red);
      out[to + 1] = byte(green);
      out[to + 2] = byte(blue);
    }
  }
  return { width, height, data: out };
}

function rows(image, height, { first, count, weights, most }) {
  const stride = image.width * 3;
  const out = new Uint8Array(stride * height);
  const sums = new Int32Array(stride);
  for (let y = 0; y < height; y++) {
    sums.fill(HALF);
    for (let k = 0; k < count[y]; k++) {
      const from = (first[y] + k) * stride;
      const weight = weights[y * most + k];
      for (let i = 0; i < stride; i++) sums[i] += image.data[from + i] * weight;
    }
    for (let i = 0; i < stride; i++) out[y * stride + i] = byte(sums[i]);
  }
  return { width: image.width, height, data: out };
}

function nearest(image, width, height, [x0, y0, x1, y1]) {
  const across = steps(x0, x1, width, image.width);
  const down = steps(y0, y1, height, image.height);
  const out = new Uint8Array(width * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const from = (down[y] * image.width + across[x]) * 3;
      out.set(image.data.subarray(from, from + 3), to);
    }
  }
  return { width, height, data: out };
}

/** Accumulates the steps in doubles as Pillow does, because rounding matters at pixel edges. */
function steps(from, to, outSize, inSize) {
  const step = (to - from) / outSize;
  const places = new Int32Array(outSize);
  let at = from + step * 0.5;
  for (let i = 0; i < outSize; i++, at += step) places[i] = Math.min(Math.trunc(at), inSize - 1);
  return places;
}

function grey({ width, height, data }) {
  const out = new Uint8Array(width * height);
  for (let i = 0, from = 0; i < out.length; i++, from += 3) {
    out[i] = (19595 * data[from] + 38470 * data[from + 1] + 7471 * data[from + 2] + 32768) >> 16;
  }
  return out;
}

const HALF = 2 ** (PRECISION_BITS - 1);

function byte(sum) {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** Keys 1981, with a = -0.5. */
function bicubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function roundedHalfToEven(x) {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}
