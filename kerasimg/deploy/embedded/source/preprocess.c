/*
 * Converts an image of any size to the model's input, bit-exactly like kerasimg's reference decoder (Pillow 13):
 * antialiased resizing with 22-bit integer weights, rounded to bytes after each of the two directions. It only uses
 * scratch memory from the caller and allocates nothing.
 *
 * The weights are computed in double, once per column and row. A compiler that fuses multiplications and additions
 * (-ffp-contract) may change their last bit, and so a few pixels by 1.
 */
#include "preprocess.h"

#include <math.h>

#define PRECISION_BITS 22
#define HALF ((int32_t)1 << (PRECISION_BITS - 1))

/* The part of the image, and the part of the input that it is resized to. */
typedef struct {
  float x0, y0, x1, y1;               /* the box, at fractions of a pixel */
  int32_t left, top, width, height;   /* its place in the input */
} Plan;

/* The source of an output pixel in one direction. */
typedef struct {
  int32_t first, count;
} Span;

#if KERASIMG_FILTER == KERASIMG_AREA
#define SUPPORT 0.5
static double weight(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }
#elif KERASIMG_FILTER == KERASIMG_BICUBIC
#define SUPPORT 2.0
static double weight(double x) {
  const double a = -0.5; /* Keys 1981 */
  if (x < 0.0) x = -x;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}
#elif KERASIMG_FILTER == KERASIMG_LANCZOS
#define SUPPORT 3.0
static double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= 3.14159265358979323846;
  return sin(x) / x;
}
static double weight(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }
#elif KERASIMG_FILTER == KERASIMG_BILINEAR
#define SUPPORT 1.0
static double weight(double x) {
  if (x < 0.0) x = -x;
  return x < 1.0 ? 1.0 - x : 0.0;
}
#else
#define SUPPORT 0.0 /* nearest */
#endif

/* The middle of an axis that is resized from `length` to `resized` pixels, of which `size` are used. */
static void middle(int32_t length, int64_t resized, int32_t size, float *from, float *to, int32_t *used, int32_t *before) {
  *from = 0.0f;
  *to = (float)length;
  *used = size;
  *before = 0;
  if (resized <= size) {
    *used = (int32_t)resized;
    *before = (size - *used) / 2;
  } else {
    const int64_t first = (int64_t)rint((double)(resized - size) / 2);
    *from = (float)((double)(first * length) / (double)resized);
    *to = (float)((double)((first + size) * length) / (double)resized);
  }
}

/* Resizes the whole image to whole pixels and takes the centre of what exceeds the input. */
static Plan plan_of(int32_t width, int32_t height) {
  Plan plan;
  int64_t across = KERASIMG_RESIZED_WIDTH, down = KERASIMG_RESIZED_HEIGHT;
  const int wide = width * down > across * height;
#if KERASIMG_RESIZE == KERASIMG_CROP
  if (wide) {
    across = width * down / height;
  } else {
    down = height * across / width;
  }
#elif KERASIMG_RESIZE == KERASIMG_PAD
  if (wide) {
    down = (int64_t)rint((double)(height * across) / width);
    if (down < 1) down = 1;
  } else {
    across = (int64_t)rint((double)(width * down) / height);
    if (across < 1) across = 1;
  }
#else
  (void)wide;
#endif
  middle(width, across, KERASIMG_WIDTH, &plan.x0, &plan.x1, &plan.width, &plan.left);
  middle(height, down, KERASIMG_HEIGHT, &plan.y0, &plan.y1, &plan.height, &plan.top);
  return plan;
}

static void put(int8_t *input, int32_t x, int32_t y, uint8_t red, uint8_t green, uint8_t blue) {
  int8_t *to = input + ((size_t)y * KERASIMG_WIDTH + (size_t)x) * KERASIMG_CHANNELS;
#if KERASIMG_CHANNELS == 1
  to[0] = (int8_t)((int32_t)((19595u * red + 38470u * green + 7471u * blue + 32768u) >> 16) - 128);
#else
  to[0] = (int8_t)(red - 128);
  to[1] = (int8_t)(green - 128);
  to[2] = (int8_t)(blue - 128);
#endif
}

static void fill(int8_t *input) {
  for (int32_t y = 0; y < KERASIMG_HEIGHT; y++) {
    for (int32_t x = 0; x < KERASIMG_WIDTH; x++) {
      put(input, x, y, KERASIMG_BACKGROUND_RED, KERASIMG_BACKGROUND_GREEN, KERASIMG_BACKGROUND_BLUE);
    }
  }
}

#if KERASIMG_FILTER == KERASIMG_NEAREST

size_t kerasimg_scratch_bytes(int32_t width, int32_t height) {
  (void)width;
  (void)height;
  return 0;
}

int kerasimg_preprocess(const uint8_t *rgb, int32_t width, int32_t height, size_t stride, int8_t *input, void *scratch,
                        size_t scratch_bytes) {
  (void)scratch;
  (void)scratch_bytes;
  if (!rgb || !input || width < 1 || height < 1 || stride < (size_t)width * 3) return KERASIMG_BAD_CALL;
  const Plan plan = plan_of(width, height);
  if (plan.width < KERASIMG_WIDTH || plan.height < KERASIMG_HEIGHT) fill(input);
  /* Accumulates the steps as Pillow does, because rounding matters at pixel edges. */
  const double step_x = ((double)plan.x1 - plan.x0) / plan.width, step_y = ((double)plan.y1 - plan.y0) / plan.height;
  double at_y = plan.y0 + step_y * 0.5;
  for (int32_t y = 0; y < plan.height; y++, at_y += step_y) {
    const int32_t row = (int32_t)at_y < height ? (int32_t)at_y : height - 1;
    double at_x = plan.x0 + step_x * 0.5;
    for (int32_t x = 0; x < plan.width; x++, at_x += step_x) {
      const int32_t column = (int32_t)at_x < width ? (int32_t)at_x : width - 1;
      const uint8_t *from = rgb + (size_t)row * stride + (size_t)column * 3;
      put(input, plan.left + x, plan.top + y, from[0], from[1], from[2]);
    }
  }
  return KERASIMG_OK;
}

#else

static double scale_of(float from, float to, int32_t out) { return (double)(to - from) / out; }

/* The maximum number of input pixels per output pixel. */
static int32_t most_of(double scale) { return (int32_t)ceil(SUPPORT * (scale < 1.0 ? 1.0 : scale)) * 2 + 1; }

/* The source pixels of output pixel `i` in one direction, and their weights. */
static Span span_of(int32_t in, float from, double scale, int32_t i, int32_t *weights) {
  const double stretched = scale < 1.0 ? 1.0 : scale;
  const double support = SUPPORT * stretched, step = 1.0 / stretched;
  const double centre = from + (i + 0.5) * scale;
  Span span;
  span.first = (int32_t)(centre - support + 0.5);
  if (span.first < 0) span.first = 0;
  span.count = (int32_t)(centre + support + 0.5);
  if (span.count > in) span.count = in;
  span.count -= span.first;
  double total = 0.0;
  for (int32_t k = 0; k < span.count; k++) total += weight((k + span.first - centre + 0.5) * step);
  for (int32_t k = 0; k < span.count; k++) {
    double share = weight((k + span.first - centre + 0.5) * step);
    if (total != 0.0) share /= total;
    share *= (double)((int32_t)1 << PRECISION_BITS);
    weights[k] = (int32_t)(share < 0.0 ? share - 0.5 : share + 0.5);
  }
  return span;
}

static uint8_t byte_of(int32_t sum) {
  if (sum < 0) return 0;
  sum >>= PRECISION_BITS;
  return sum > 255 ? 255 : (uint8_t)sum;
}

/* The layout of the scratch memory: integers first, then rows of bytes. */
typedef struct {
  int32_t most_x, most_y;
  size_t integers, row_bytes, rows;
} Layout;

/* Pillow shrinks tall images along y first. */
static int rows_first(int32_t width, int32_t height, const Plan *plan) {
  return plan->height < height && (int64_t)height - plan->height > 2 * ((int64_t)width - plan->width);
}

static Layout layout_of(int32_t width, int32_t height, const Plan *plan) {
  Layout layout;
  layout.most_x = most_of(scale_of(plan->x0, plan->x1, plan->width));
  layout.most_y = most_of(scale_of(plan->y0, plan->y1, plan->height));
  layout.integers = (size_t)plan->width * ((size_t)layout.most_x + 2) + (size_t)layout.most_y;
  if (rows_first(width, height, plan)) {
    layout.rows = 1;
    layout.row_bytes = (size_t)width * 3;
  } else {
    layout.rows = (size_t)layout.most_y;
    layout.row_bytes = (size_t)plan->width * 3;
  }
  return layout;
}

size_t kerasimg_scratch_bytes(int32_t width, int32_t height) {
  if (width < 1 || height < 1) return 0;
  const Plan plan = plan_of(width, height);
  const Layout layout = layout_of(width, height, &plan);
  return layout.integers * sizeof(int32_t) + layout.rows * layout.row_bytes;
}

/* Resizes a row of the image. */
static void along_x(const uint8_t *row, uint8_t *out, int32_t width, const int32_t *spans, const int32_t *weights,
                    int32_t most) {
  for (int32_t x = 0; x < width; x++, weights += most, out += 3) {
    const uint8_t *from = row + (size_t)spans[2 * x] * 3;
    int32_t red = HALF, green = HALF, blue = HALF;
    for (int32_t k = 0; k < spans[2 * x + 1]; k++, from += 3) {
      red += from[0] * weights[k];
      green += from[1] * weights[k];
      blue += from[2] * weights[k];
    }
    out[0] = byte_of(red);
    out[1] = byte_of(green);
    out[2] = byte_of(blue);
  }
}

/* The weighted sum of one byte of several rows. */
static uint8_t along_y(const uint8_t *column, size_t row_bytes, size_t ring, Span span, const int32_t *weights) {
  int32_t sum = HALF;
  for (int32_t k = 0; k < span.count; k++) {
    const size_t row = (size_t)(span.first + k);
    sum += column[(ring ? row % ring : row) * row_bytes] * weights[k];
  }
  return byte_of(sum);
}

int kerasimg_preprocess(const uint8_t *rgb, int32_t width, int32_t height, size_t stride, int8_t *input, void *scratch,
                        size_t scratch_bytes) {
  if (!rgb || !input || width < 1 || height < 1 || stride < (size_t)width * 3) return KERASIMG_BAD_CALL;
  if (!scratch || (uintptr_t)scratch % sizeof(int32_t) || scratch_bytes < kerasimg_scratch_bytes(width, height)) {
    return KERASIMG_SMALL_SCRATCH;
  }
  const Plan plan = plan_of(width, height);
  const Layout layout = layout_of(width, height, &plan);
  const int by_rows = rows_first(width, height, &plan);
  const int resize_x = plan.x0 != 0.0f || plan.x1 != (float)plan.width || plan.width != width;
  const int resize_y = plan.y0 != 0.0f || plan.y1 != (float)plan.height || plan.height != height;
  const double scale_y = scale_of(plan.y0, plan.y1, plan.height);
  int32_t *weights_y = (int32_t *)scratch;
  int32_t *spans_x = weights_y + layout.most_y;
  int32_t *weights_x = spans_x + 2 * (size_t)plan.width;
  uint8_t *rows = (uint8_t *)(weights_x + (size_t)plan.width * (size_t)layout.most_x);

  if (plan.width < KERASIMG_WIDTH || plan.height < KERASIMG_HEIGHT) fill(input);
  for (int32_t x = 0; x < plan.width; x++) {
    if (resize_x) {
      const Span span = span_of(width, plan.x0, scale_of(plan.x0, plan.x1, plan.width), x,
                                weights_x + (size_t)x * (size_t)layout.most_x);
      spans_x[2 * x] = span.first;
      spans_x[2 * x + 1] = span.count;
    } else {
      spans_x[2 * x] = x;
      spans_x[2 * x + 1] = 1;
      weights_x[(size_t)x * (size_t)layout.most_x] = (int32_t)1 << PRECISION_BITS; /* the pixel itself */
    }
  }
  int32_t made = 0; /* rows of the image that are already at the input's width */
  for (int32_t y = 0; y < plan.height; y++) {
    Span span = {y, 1};
    weights_y[0] = (int32_t)1 << PRECISION_BITS;
    if (resize_y) span = span_of(height, plan.y0, scale_y, y, weights_y);
    if (by_rows) {
      for (size_t i = 0; i < layout.row_bytes; i++) {
        rows[i] = along_y(rgb + i, stride, 0, span, weights_y);
      }
      /* Resizes the row in place, pixel by pixel. */
      for (int32_t x = 0; x < plan.width; x++) {
        uint8_t pixel[3];
        along_x(rows, pixel, 1, spans_x + 2 * x, weights_x + (size_t)x * (size_t)layout.most_x, layout.most_x);
        put(input, plan.left + x, plan.top + y, pixel[0], pixel[1], pixel[2]);
      }
      continue;
    }
    if (made < span.first) made = span.first;
    for (; made < span.first + span.count; made++) {
      along_x(rgb + (size_t)made * stride, rows + ((size_t)made % layout.rows) * layout.row_bytes, plan.width, spans_x,
              weights_x, layout.most_x);
    }
    for (int32_t x = 0; x < plan.width; x++) {
      const uint8_t *column = rows + (size_t)x * 3;
      put(input, plan.left + x, plan.top + y, along_y(column, layout.row_bytes, layout.rows, span, weights_y),
          along_y(column + 1, layout.row_bytes, layout.rows, span, weights_y),
          along_y(column + 2, layout.row_bytes, layout.rows, span, weights_y));
    }
  }
  return KERASIMG_OK;
}

#endif
