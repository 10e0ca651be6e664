/* Converts an image of any size to the model's input. Written by kerasimg for the model '@name@'. */
#ifndef KERASIMG_PREPROCESS_H_
#define KERASIMG_PREPROCESS_H_

#include <stddef.h>
#include <stdint.h>

#define KERASIMG_STRETCH 0 /* to the size, whatever the aspect */
#define KERASIMG_CROP 1    /* the shorter side fits, the centre is used */
#define KERASIMG_PAD 2     /* the whole image in its aspect, on the background */

#define KERASIMG_NEAREST 0
#define KERASIMG_BILINEAR 1
#define KERASIMG_BICUBIC 2
#define KERASIMG_LANCZOS 3
#define KERASIMG_AREA 4

/* The spec's `image` section. */
#define KERASIMG_HEIGHT @height@
#define KERASIMG_WIDTH @width@
#define KERASIMG_CHANNELS @channels@
#define KERASIMG_RESIZE KERASIMG_@resize@
#define KERASIMG_RESIZED_HEIGHT @resized_height@ /* what the whole image is resized for; the input is its centre */
#define KERASIMG_RESIZED_WIDTH @resized_width@
#define KERASIMG_FILTER KERASIMG_@filter@
#define KERASIMG_BACKGROUND_RED @red@
#define KERASIMG_BACKGROUND_GREEN @green@
#define KERASIMG_BACKGROUND_BLUE @blue@

#define KERASIMG_INPUT_BYTES (KERASIMG_HEIGHT * KERASIMG_WIDTH * KERASIMG_CHANNELS)

#define KERASIMG_OK 0
#define KERASIMG_BAD_CALL 1      /* a pointer is null, or a size is none */
#define KERASIMG_SMALL_SCRATCH 2 /* the scratch memory is null, not aligned to 4 bytes, or too small */

#ifdef __cplusplus
extern "C" {
#endif

/* Returns the size of the scratch memory for an image, in bytes. */
size_t kerasimg_scratch_bytes(int32_t width, int32_t height);

/*
 * rgb: upright and opaque, 3 bytes per pixel, rows from the top; stride: bytes from row to row, width * 3 or more.
 * input: KERASIMG_INPUT_BYTES, the pixels minus 128, rows from the top, channels last.
 * scratch: aligned to 4 bytes, kerasimg_scratch_bytes(width, height) or more.
 */
int kerasimg_preprocess(const uint8_t *rgb, int32_t width, int32_t height, size_t stride, int8_t *input, void *scratch,
                        size_t scratch_bytes);

#ifdef __cplusplus
}
#endif

#endif
