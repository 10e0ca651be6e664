"""The common corruptions of Hendrycks and Dietterich 2019 (arXiv:1903.12261), each at five severities.

For images of any size: lengths are for 224 pixels and are scaled by the shorter side. The elastic transform is that of
Michaelis et al. 2019 (arXiv:1907.07484), which grows with the severity. At 224 pixels each changes images as much as
the code of those authors does (docs/evaluation.md has the figures), but draws other random numbers, so accuracies are
not those on the files of ImageNet-C. Frost is left out: it blends photographs of ice, which would have to be shipped.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
import PIL.Image

SEVERITIES: Final = (1, 2, 3, 4, 5)
SIDE = 224
"""Side in pixels of the images that the lengths below are for."""

Corrupt = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""Pixels (H, W, C) float32, 0-1, the severity less 1, and random numbers -> such pixels, which may leave 0-1."""


def corrupt(pixels: np.ndarray, name: str, severity: int, random: np.random.Generator) -> np.ndarray:
    """Returns an image with a corruption.

    Args:
        pixels: (H, W, C) uint8.
        name: one of CORRUPTIONS.
        severity: 1 to 5.
        random: what noise, snow and the like are drawn from.
    """
    changed = CORRUPTIONS[name](pixels.astype(np.float32) / 255, severity - 1, random)
    return np.asarray(np.clip(changed.reshape(pixels.shape) * 255, 0, 255).round().astype(np.uint8))


def _length(x: np.ndarray, pixels: float, least: float = 0.0) -> float:
    """A length for images of SIDE pixels, for this image."""
    return max(least, pixels * min(x.shape[:2]) / SIDE)


def _gaussian_noise(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    return x + random.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[k], x.shape)


def _shot_noise(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    photons = (60, 25, 12, 5, 3)[k]
    return np.asarray(random.poisson(x * photons) / photons)


def _impulse_noise(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    hit = random.random(x.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[k]
    return np.where(hit, random.integers(0, 2, x.shape), x)


def _defocus_blur(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    return _filter(x, _disk(_length(x, (3, 4, 6, 8, 10)[k], 0.6 + 0.2 * k)))


def _glass_blur(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """Pixels take the values of near ones, one after the other from the last to the first, between two blurs."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[k]
    sigma, most = _length(x, sigma, 0.3), max((1, 1, 2, 2, 3)[k], round(_length(x, reach)))
    blurred = _gaussian(x, sigma)
    height, width = x.shape[:2]
    rows, columns = np.indices((height, width))
    values = list(range(height * width))
    for _ in range(rounds):
        moves = random.integers(-most, most, (2, height, width))
        near = np.clip(rows + moves[0], 0, height - 1) * width + np.clip(columns + moves[1], 0, width - 1)
        for pixel, other in zip(range(height * width - 1, -1, -1), near.ravel()[::-1].tolist(), strict=True):
            values[pixel] = values[other]
    blurred = blurred.reshape(height * width, -1)[values].reshape(blurred.shape)
    return _gaussian(blurred, sigma)


def _motion_blur(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[k]
    return _filter(x, _streak(x, radius, sigma, random.uniform(-45, 45)))


def _zoom_blur(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """The mean of the image at many enlargements about its centre."""
    most, step = ((0.11, 0.01), (0.16, 0.01), (0.21, 0.02), (0.26, 0.02), (0.31, 0.03))[k]
    views = [_zoom(x, factor) for factor in np.arange(1, 1 + most, step)]
    return np.asarray(np.mean([x, *views], axis=0))


def _snow(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """Flakes that fall in one direction, before an image that is paler and greyer."""
    mean, deviation, size, threshold, radius, sigma, keep = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[k]
    flakes = _zoom(random.normal(mean, deviation, x.shape[:2]).astype(np.float32)[..., None], max(1, size))
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    flakes = _filter(flakes, _streak(x, radius, sigma, random.uniform(-135, -45)))
    pale = keep * x + (1 - keep) * np.maximum(x, _grey(x) * 1.5 + 0.5)
    return pale + flakes + flakes[::-1, ::-1]


def _fog(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """A plasma fractal, by the diamond-square algorithm, before the image."""
    strength, decay = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[k]
    most = float(x.max())
    side = 1 << int(np.ceil(np.log2(max(x.shape[:2]))))
    fog = _plasma(side, decay, random)[: x.shape[0], : x.shape[1], None]
    return (x + strength * fog) * most / (most + strength)


def _brightness(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    added = (0.1, 0.2, 0.3, 0.4, 0.5)[k]
    if x.shape[-1] != 3:
        return x + added
    hsv = cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _contrast(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    means = x.mean(axis=(0, 1), keepdims=True)
    return (x - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[k] + means


def _elastic_transform(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """A random field of displacements, smoothed."""
    side, strength = min(x.shape[:2]), (12.5, 16.25, 21.25, 25, 30)[k]
    fields = random.uniform(-0.005 * side, 0.005 * side, (2, *x.shape[:2])).astype(np.float32)
    dx, dy = (cv2.GaussianBlur(each, (0, 0), max(0.5, 0.01 * side)) * strength for each in fields)
    columns, rows = np.meshgrid(np.arange(x.shape[1], dtype=np.float32), np.arange(x.shape[0], dtype=np.float32))
    return np.asarray(cv2.remap(x, columns + dx, rows + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def _pixelate(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    if x.shape[-1] > 4:  # more than OpenCV resizes together
        return np.concatenate([_pixelate(x[..., c : c + 1], k, random) for c in range(x.shape[-1])], axis=-1)
    height, width = x.shape[:2]
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[k]
    small = cv2.resize(x, (max(1, int(width * share)), max(1, int(height * share))), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)).reshape(x.shape)


def _jpeg(x: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    pixels = np.clip(x * 255, 0, 255).round().astype(np.uint8)
    if pixels.shape[-1] not in (1, 3):  # each channel by itself
        return np.concatenate([_jpeg(x[..., c : c + 1], k, random) for c in range(x.shape[-1])], axis=-1)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, "JPEG", quality=(25, 18, 15, 10, 7)[k]
    )
    return np.asarray(PIL.Image.open(file), np.float32).reshape(x.shape) / 255


CORRUPTIONS: Final[dict[str, Corrupt]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
}
"""Name -> corruption, in the order of the paper: noise, blur, weather, digital."""


def _filter(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT_101)).reshape(x.shape)


def _gaussian(x: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(x, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)).reshape(x.shape)


def _disk(radius: float) -> np.ndarray:
    """A kernel of the mean over a disk; at its edge pixels count by how far they are inside."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return np.asarray((inside / inside.sum()).astype(np.float32))


def _streak(x: np.ndarray, radius: float, sigma: float, degrees: float) -> np.ndarray:
    """A kernel of motion: Gaussian weights along a line from the pixel, 2 `radius` long."""
    length, sigma = max(2.0, _length(x, 2 * radius)), max(0.5, _length(x, sigma))
    reach = int(np.ceil(length))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    across, down = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    for place in np.linspace(0, length, 4 * reach + 1):
        column, row = across * place + reach, down * place + reach
        left, top = int(column), int(row)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = (1 - abs(column - left - dx)) * (1 - abs(row - top - dy))
            if top + dy < len(kernel) and left + dx < len(kernel):
                kernel[top + dy, left + dx] += max(0, share) * np.exp(-0.5 * (place / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())


def _zoom(x: np.ndarray, factor: float) -> np.ndarray:
    """The centre of an image, enlarged to its size."""
    height, width = x.shape[:2]
    left, top = (1 - factor) * (width - 1) / 2, (1 - factor) * (height - 1) / 2
    matrix = np.array([[factor, 0, left], [0, factor, top]], np.float32)
    warped = cv2.warpAffine(x, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(warped).reshape(x.shape)


def _grey(x: np.ndarray) -> np.ndarray:
    return np.asarray(x @ [0.299, 0.587, 0.114])[..., None] if x.shape[-1] == 3 else x.mean(axis=-1, keepdims=True)


def _plasma(side: int, decay: float, random: np.random.Generator) -> np.ndarray:
    """A fractal of clouds (side, side), 0-1: means of four neighbours and noise that shrinks with the distance."""
    grid = np.zeros((side, side))
    step, noise = side, 1.0
    while step >= 2:
        half = step // 2
        corners = grid[::step, ::step]
        below, right = np.roll(corners, -1, 0), np.roll(corners, -1, 1)
        middle = (corners + below + right + np.roll(below, -1, 1)) / 4
        grid[half::step, half::step] = middle + random.uniform(-noise, noise, middle.shape)
        above, left = np.roll(middle, 1, 0), np.roll(middle, 1, 1)
        grid[::step, half::step] = (corners + right + middle + above) / 4 + random.uniform(-noise, noise, middle.shape)
        grid[half::step, ::step] = (corners + below + middle + left) / 4 + random.uniform(-noise, noise, middle.shape)
        step, noise = half, noise / decay
    grid -= grid.min()
    return np.asarray(grid / max(grid.max(), 1e-12))


def describe() -> dict[str, Any]:
    """What a result stores of how images were corrupted."""
    return {"source": "arXiv:1903.12261", "left_out": ["frost"], "side": SIDE}
