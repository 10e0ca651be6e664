"""Speed and sharpness of the compiled augmentation, against Keras' own layers.

    python benchmarks/augment.py [--quick] [--json OUT.json]

Speed: batches of 32 uint8 images of 224 x 224 in memory go through `tf.data` with one thread per core, once through
`compile_augment` and once through the same Keras layers (kerasimg's, if Keras has none) in sequence. Both take turns in
one process after an untimed run of each. The script prints median images per second, and the median ratio with
quartiles.

Sharpness: photographs of scikit-image at half size are flipped, rotated and shifted at random: with one interpolation,
as in `compile_augment`, and with one per layer, as in Keras, by the same matrices. The reference is computed from the
full-size photograph by cubic interpolation at four points per pixel, averaged. The script prints the PSNR (dB), and the
mean gradient and the power in the upper half of the spectrum as fractions of the reference, all in a central square
without border pixels. Without scikit-image it uses random images with the spectrum of photographs.

Exit code 1 if the warp is less than 4 times as fast as the three layers, or not sharper.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from scipy import ndimage

from kerasimg.data.augment import compile_augment, image_seeds
from kerasimg.data.parallel import cores
from kerasimg.objects import make_layer
from kerasimg.spec.document import Image

SIZE, BATCH = 224, 32
FIRST = 4
"""Batches before those that are timed: more than may be on their way at once, on two cores."""
LIMIT = 4.0

WARP = [
    ("RandomFlip", {}),
    ("RandomRotation", {"factor": 0.055}),
    ("RandomTranslation", {"height_factor": 0.2, "width_factor": 0.2}),
]
JITTER = {"brightness_factor": 0.2, "contrast_factor": 0.2, "saturation_factor": [0.4, 0.6], "hue_factor": 0.1}
ROWS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "flip + rotation + translation": WARP,
    "the same, and brightness + contrast": [
        *WARP,
        ("RandomBrightness", {"factor": 0.2}),
        ("RandomContrast", {"factor": 0.2}),
    ],
    "RandomFlip": [("RandomFlip", {})],
    "RandomRotation": [("RandomRotation", {"factor": 0.055})],
    "RandomZoom": [("RandomZoom", {"height_factor": 0.2})],
    "RandomPerspective": [("RandomPerspective", {"scale": 0.3})],
    "RandomBrightness": [("RandomBrightness", {"factor": 0.2})],
    "RandomContrast": [("RandomContrast", {"factor": 0.2})],
    "RandomSaturation": [("RandomSaturation", {"factor": [0.4, 0.6]})],
    "RandomHue": [("RandomHue", {"factor": 0.1})],
    "RandomColorJitter": [("RandomColorJitter", JITTER)],
    "RandomGrayscale": [("RandomGrayscale", {})],
    "RandomPosterization": [("RandomPosterization", {"factor": [2, 7]})],
    "Solarization": [("Solarization", {"threshold_factor": 0.5})],
    "AutoContrast": [("AutoContrast", {})],
    "RandomColorDegeneration": [("RandomColorDegeneration", {"factor": 0.5})],
    "RandomSharpness": [("RandomSharpness", {"factor": 1.0})],
    "RandomGaussianBlur": [("RandomGaussianBlur", {"kernel_size": 5})],
    "RandomErasing, noise": [("RandomErasing", {})],
    "RandomErasing, one colour": [("RandomErasing", {"fill_value": 0.0})],
    "GridMask": [("GridMask", {})],
    "MixUp": [("MixUp", {})],
    "CutMix": [("CutMix", {})],
    "RandAugment": [("RandAugment", {})],
    "RandAugmentPerImage": [("RandAugmentPerImage", {})],
    "TrivialAugment": [("TrivialAugment", {})],
    "AugMix": [("AugMix", {})],
    "RandomElasticTransform (left to Keras)": [("RandomElasticTransform", {})],
}
QUICK = ("flip + rotation + translation", "RandomBrightness", "MixUp", "TrivialAugment")

Change = Callable[[Any, Any, Any], tuple[Any, Any]]


def ours(nodes: list[tuple[str, dict[str, Any]]]) -> Change:
    augment = compile_augment(nodes, Image(size=[SIZE, SIZE]), 0)
    return lambda images, labels, seeds: augment(images, labels, seeds, BATCH)


def keras_s(nodes: list[tuple[str, dict[str, Any]]]) -> Change:
    layers = [make_layer(name, arguments) for name, arguments in nodes]

    def change(images: Any, labels: Any, seeds: Any) -> tuple[Any, Any]:
        images = tf.cast(images, tf.float32)
        for layer, (name, _) in zip(layers, nodes, strict=True):
            if name in ("MixUp", "CutMix"):
                made = layer({"images": images, "labels": labels}, training=True)
                images, labels = made["images"], made["labels"]
            else:
                images = layer(images, training=True)
        return images, labels

    return change


def runner(change: Change) -> Callable[[int], float]:
    """Returns a function that processes a number of batches and returns images per second."""
    images = tf.constant(np.stack([photograph(SIZE, number) for number in range(BATCH)]))
    labels = tf.one_hot(tf.range(BATCH) % 10, 10)

    def augmented(number: Any) -> tuple[Any, Any]:
        places = tf.cast(number * BATCH + tf.range(BATCH, dtype=tf.int64), tf.uint32)
        zeros = tf.zeros_like(places)
        return change(images, labels, tf.stack([zeros, zeros, places, zeros], axis=1))

    as_written = tf.autograph.experimental.do_not_convert(augmented)
    dataset = tf.data.Dataset.counter().map(as_written, num_parallel_calls=cores()).prefetch(1)

    def run(batches: int) -> float:
        iterator = iter(dataset)
        # Without what making the iterator takes, and what is made while nobody counts.
        for _ in range(FIRST):
            next(iterator)
        start = time.perf_counter()
        for _ in range(batches):
            next(iterator)
        return batches * BATCH / (time.perf_counter() - start)

    return run


def photograph(side: int, number: int) -> np.ndarray:
    """Returns a random uint8 image with the power spectrum of photographs (1/f^2)."""
    random = np.random.default_rng(number)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    amplitude = 1 / np.maximum(frequency, 1 / side)
    common = random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)
    planes = []
    for _ in range(3):
        own = random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)
        plane = np.fft.irfft2((common + 0.5 * own) * amplitude, (side, side))
        planes.append(128 + 50 * (plane - plane.mean()) / plane.std())
    return np.clip(np.round(np.stack(planes, axis=-1)), 0, 255).astype("uint8")


def speed(names: list[str], rounds: int, seconds: float) -> list[dict[str, Any]]:
    print(f"{'layers':40} {'Keras/s':>9} {'ours/s':>9}   ratio (quartiles)")
    rows = []
    for name in names:
        runs = {"keras": runner(keras_s(ROWS[name])), "ours": runner(ours(ROWS[name]))}
        # As many batches as take about so long.
        batches = {which: min(max(round(seconds * run(2) / BATCH), 2), 100) for which, run in runs.items()}
        rates: dict[str, list[float]] = {"keras": [], "ours": []}
        for turn in range(rounds):
            for which in ("keras", "ours") if turn % 2 else ("ours", "keras"):
                rates[which].append(runs[which](batches[which]))
        ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates["keras"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        row = {
            "layers": name,
            "keras": statistics.median(rates["keras"]),
            "ours": statistics.median(rates["ours"]),
            "ratio": statistics.median(ratios),
            "quartiles": [low, high],
        }
        rows.append(row)
        print(
            f"{name:40} {row['keras']:9.0f} {row['ours']:9.0f}   {row['ratio']:.1f} ({low:.1f}-{high:.1f})", flush=True
        )
    return rows


def photographs() -> dict[str, np.ndarray]:
    """Returns uint8 images with even sides by name."""
    try:
        from skimage import data
    except ImportError:
        return {f"random {number}": photograph(448, number) for number in range(3)}
    found = {name: getattr(data, name)() for name in ("astronaut", "coffee", "chelsea")}
    return {name: pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2, :3] for name, pixels in found.items()}


def halved(pixels: np.ndarray) -> np.ndarray:
    height, width, channels = pixels.shape
    return pixels.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


def ideal(large: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Warps the halved image, computed from the full-size one at four points per pixel."""
    height, width, channels = large.shape
    y, x = np.meshgrid((np.arange(height) + 0.5) / 2 - 0.5, (np.arange(width) + 0.5) / 2 - 0.5, indexing="ij")
    back = matrix.reshape(3, 3) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    places = [(back[1] + 0.5) * 2 - 0.5, (back[0] + 0.5) * 2 - 0.5]
    planes = [
        ndimage.map_coordinates(large[..., channel].astype(float), places, order=3, mode="reflect")
        for channel in range(channels)
    ]
    return halved(np.stack(planes, axis=-1).reshape(large.shape))


def stacked(image: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """Applies the layers in sequence, each with its own interpolation, as Keras does."""
    pixels = tf.constant(image[np.newaxis], tf.float32)
    for matrix in matrices:
        pixels = tf.raw_ops.ImageProjectiveTransformV3(
            images=pixels,
            transforms=matrix[np.newaxis, :8],
            output_shape=image.shape[:2],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="REFLECT",
        )
    return pixels.numpy()[0]


def upper_half(pixels: np.ndarray) -> float:
    """Power above half of the highest frequency."""
    window = np.outer(np.hanning(pixels.shape[0]), np.hanning(pixels.shape[1]))[..., np.newaxis]
    power = np.abs(np.fft.fft2((pixels - pixels.mean(axis=(0, 1))) * window, axes=(0, 1))) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in pixels.shape[:2]), indexing="ij"))
    return float(power[frequency > 0.25].sum())


def gradient(pixels: np.ndarray) -> float:
    return float(np.mean(np.hypot(np.diff(pixels, axis=0)[:, :-1], np.diff(pixels, axis=1)[:-1])))


def sharpness(draws: int) -> list[dict[str, Any]]:
    print(f"\n{'photograph':12} {'interpolations':>14} {'PSNR, dB':>9} {'gradient':>9} {'upper half':>11}")
    rows = []
    for name, large in photographs().items():
        small = halved(large)
        height, width, _ = small.shape
        size = [height, width]
        step = compile_augment(WARP, Image(size=size), 0).steps[0]
        seeds = image_seeds(1, 0, np.arange(draws))
        drawn = step.draw(seeds, tf.constant(0, tf.uint32), tf.constant(draws))
        images = tf.constant(np.repeat(small[np.newaxis].astype("float32"), draws, axis=0))
        fused = step.apply(images, drawn, tf.constant(draws)).numpy()
        figures: dict[str, list[tuple[float, float, float]]] = {"one": [], "each layer": []}
        y, x = np.mgrid[:height, :width]
        corners = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        for number in range(draws):
            matrices = [matrix[number].numpy().astype(float) for matrix in drawn[0]]
            whole = np.eye(3)
            for matrix in matrices:
                whole = whole @ matrix.reshape(3, 3)
            back = whole @ corners
            inside = (np.abs(back[0] - width / 2) < width / 2 - 3) & (np.abs(back[1] - height / 2) < height / 2 - 3)
            middle = _square(inside.reshape(height, width))
            if middle is None:
                continue
            wanted = ideal(large, whole)[middle]
            one_by_one = stacked(small, [matrix.astype("float32") for matrix in matrices])
            for kind, made in (("one", fused[number]), ("each layer", one_by_one)):
                error = np.mean((made[middle] - wanted) ** 2)
                figures[kind].append(
                    (
                        10 * np.log10(255**2 / error),
                        gradient(made[middle]) / gradient(wanted),
                        upper_half(made[middle]) / upper_half(wanted),
                    )
                )
        for kind, found in figures.items():
            psnr, slope, upper = (statistics.median(column) for column in zip(*found, strict=True))
            rows.append({"photograph": name, "kind": kind, "psnr": psnr, "gradient": slope, "upper": upper})
            print(f"{name:12} {kind:>14} {psnr:9.1f} {slope:9.2f} {upper:11.2f}")
    return rows


def _square(inside: np.ndarray) -> tuple[slice, slice] | None:
    """Returns the largest central square inside the image; None if it is small."""
    places = np.argwhere(inside)
    row, column = places.mean(axis=0).astype(int)
    half = 0
    while half < min(row, column, inside.shape[0] - row, inside.shape[1] - column):
        if not inside[row - half - 1 : row + half + 1, column - half - 1 : column + half + 1].all():
            break
        half += 1
    return (slice(row - half, row + half), slice(column - half, column + half)) if half >= 24 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows and rounds, to see that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    names = list(QUICK) if options.quick else list(ROWS)
    rows = speed(names, rounds=3 if options.quick else 7, seconds=0.3 if options.quick else 0.6)
    sharp = sharpness(draws=4 if options.quick else 24)
    if options.json:
        options.json.write_text(json.dumps({"speed": rows, "sharpness": sharp, "cores": cores()}, indent=1) + "\n")
    sharper = all(one["psnr"] > each["psnr"] for one, each in zip(sharp[::2], sharp[1::2], strict=True))
    return 0 if rows[0]["ratio"] >= LIMIT and sharper else 1


if __name__ == "__main__":
    sys.exit(main())
