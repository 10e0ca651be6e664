"""The same augmented images on TensorFlow, JAX and PyTorch: each backend against images that TensorFlow made.

Without another backend's environment, this file tests the active backend. `python tests/data/test_augment_backends.py`
writes the expected images again, with TensorFlow.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasimg.data.augment import compile_augment, image_seeds
from kerasimg.data.augmentation import draws
from kerasimg.spec.document import Image

EXPECTED = Path(__file__).parent / "augmented.npz"
SIZE = (14, 17)
SEED = 11
COUNT = 6

WARP = [
    ("RandomFlip", {}),
    ("RandomRotation", {"factor": 0.1}),
    ("RandomTranslation", {"height_factor": 0.2, "width_factor": 0.2}),
]
CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "flip": [("RandomFlip", {})],
    "warp": [*WARP, ("RandomZoom", {"height_factor": 0.3, "fill_mode": "constant", "fill_value": 9.0})],
    "wrapped": [
        ("RandomShear", {"x_factor": 0.4, "y_factor": 0.3, "fill_mode": "wrap"}),
        ("RandomPerspective", {"scale": 0.5}),
        ("RandomTranslation", {"height_factor": 0.6, "width_factor": 0.6, "fill_mode": "nearest"}),
    ],
    "crop": [("RandomCrop", {"height": 9, "width": 12})],
    "colours": [
        ("RandomBrightness", {"factor": 0.3}),
        ("RandomContrast", {"factor": 0.4}),
        ("RandomSaturation", {"factor": 0.7}),
        ("RandomHue", {"factor": 0.4}),
        ("RandomColorDegeneration", {"factor": 0.8}),
        ("RandomGrayscale", {"factor": 0.3}),
    ],
    "few colours": [("RandomInvert", {"factor": 0.6}), ("RandomPosterization", {"factor": [2, 7]})],
    "solarized": [("Solarization", {"addition_factor": 0.2, "threshold_factor": 0.8}), ("AutoContrast", {})],
    "sharpness": [("RandomSharpness", {"factor": 0.9}), ("RandomGaussianBlur", {"kernel_size": 5})],
    "equalized": [("Equalization", {})],
    "noise": [("RandomErasing", {})],
    "one colour": [("RandomErasing", {"fill_value": 7.0}), ("GridMask", {})],
    "MixUp": [*WARP[:1], ("MixUp", {"alpha": 3.0})],
    "CutMix": [("RandomBrightness", {"factor": 0.3}), ("CutMix", {})],
    "TrivialAugment": [("TrivialAugment", {})],
    "RandAugmentPerImage": [("RandAugmentPerImage", {})],
    "RandAugment": [("RandAugment", {})],
    "AugMix": [("AugMix", {})],
    "all": [
        *WARP,
        ("RandomColorJitter", {"brightness_factor": 0.2, "contrast_factor": 0.2, "hue_factor": 0.1}),
        ("TrivialAugment", {}),
        ("RandomErasing", {}),
        ("CutMix", {}),
    ],
}


def photographs(count: int = COUNT, channels: int = 3) -> np.ndarray:
    """Smooth noise, uint8."""
    noise = np.random.default_rng(2).uniform(0, 255, (count, *SIZE, channels))
    for axis in (1, 2):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / 3
    return ((noise - noise.min()) * 255 / np.ptp(noise)).round().astype("uint8")


def augmented(name: str, count: int = COUNT, epoch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels after a case, as NumPy arrays."""
    augment = compile_augment(CASES[name], Image(size=list(SIZE)), SEED)
    assert augment is not None
    labels = np.eye(4, dtype="float32")[np.arange(count) % 4]
    images, labels = augment(
        keras.ops.convert_to_tensor(photographs(count)),
        keras.ops.convert_to_tensor(labels),
        image_seeds(SEED, epoch, np.arange(count)),
        count,
    )
    return keras.ops.convert_to_numpy(images), keras.ops.convert_to_numpy(labels)


def random_words() -> np.ndarray:
    """Some, of seeds and streams that need all 64 bits."""
    key = draws.keys(image_seeds(-3, 2, np.arange(2**31 - 1, 2**31 + 2)))
    (words,) = draws.words(key, [draws.Part(6, (3, 2**31 + 1))], draws.word(-5))
    return keras.ops.convert_to_numpy(words).astype(np.uint32)


@pytest.mark.parametrize("name", CASES)
def test_images_are_those_that_tensorflow_makes(name: str):
    expected = np.load(EXPECTED)
    images, labels = augmented(name)
    assert np.abs(images - expected[name]).max() < 0.5
    assert np.abs(labels - expected[f"{name} labels"]).max() < 1e-6
    assert np.abs(images - photographs()).max() > 5


def test_random_words_are_the_same_bits():
    assert random_words().tolist() == np.load(EXPECTED)["words"].tolist()


if __name__ == "__main__":
    arrays = {"words": random_words()}
    for case in CASES:
        arrays[case], arrays[f"{case} labels"] = augmented(case)
        # A step of an eighth at most.
        arrays[case] = arrays[case].astype("float16")
    np.savez_compressed(EXPECTED, **arrays)
