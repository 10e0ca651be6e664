"""The same augmented images on TensorFlow, JAX and PyTorch: each backend against images that TensorFlow made.

Without another backend's environment, this file tests the active backend. `python tests/data/test_augment_backends.py`
writes the expected images again, with TensorFlow.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.data.augment import compile_augment, image_seeds
from kerasimg.data.augmentation import backend, draws, lowering
from kerasimg.data.augmentation.backend import BACKEND
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
    "few colours": [
        ("RandomInvert", {"factor": 0.6}),
        ("RandomPosterization", {"factor": [2, 7]}),
        ("Equalization", {}),
    ],
    "sharpness": [
        ("Solarization", {"addition_factor": 0.2, "threshold_factor": 0.8}),
        ("AutoContrast", {}),
        ("RandomSharpness", {"factor": 0.9}),
        ("RandomGaussianBlur", {"kernel_size": 5}),
    ],
    "noise": [("RandomErasing", {}), ("GridMask", {}), ("RandomErasing", {"fill_value": 7.0})],
    "MixUp": [("RandomFlip", {}), ("MixUp", {"alpha": 3.0}), ("RandomBrightness", {"factor": 0.3}), ("CutMix", {})],
    "TrivialAugment": [("TrivialAugment", {})],
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

SLOW = {"AugMix", "RandAugment", "all"}
"""Cases that TensorFlow takes seconds to compile; test_augment_exact.py compares their parts with Keras."""


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


@pytest.mark.parametrize("name", CASES if keras.backend.backend() != "tensorflow" else sorted(CASES.keys() - SLOW))
def test_images_are_those_that_tensorflow_makes(name: str):
    expected = np.load(EXPECTED)
    images, labels = augmented(name)
    assert np.abs(images - expected[name]).max() < 0.5
    assert np.abs(labels - expected[f"{name} labels"]).max() < 1e-6
    assert np.abs(images - photographs()).max() > 5


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow has one form")
@pytest.mark.parametrize("name", ["warp", "noise", "TrivialAugment", "MixUp"])
def test_a_loop_over_images_and_all_at_once_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch):
    made = []
    # JAX vectorises on a GPU, PyTorch small images, too.
    for vectorises, small in ((True, 1 << 30), (False, 0)):
        monkeypatch.setattr(lowering, "_cached", {})
        monkeypatch.setattr(BACKEND, "vectorises", lambda vectorises=vectorises: vectorises)
        monkeypatch.setattr(backend, "SMALL", small)
        made.append(augmented(name)[0])
    np.testing.assert_allclose(*made, atol=2e-3)


def test_random_words_are_the_same_bits():
    assert random_words().tolist() == np.load(EXPECTED)["words"].tolist()


@pytest.mark.parametrize("more", [{}, {"dtype": "float16"}])
def test_an_alternating_flip_mirrors_each_image_in_every_other_epoch(more: dict[str, Any]):
    pixels, positions = photographs(40), np.arange(40)
    augment = compile_augment([("AlternatingFlip", {"mode": "horizontal", **more})], Image(size=list(SIZE)), SEED)
    assert augment is not None

    def flipped(epoch: int) -> np.ndarray:
        seeds = image_seeds(SEED, epoch, positions)
        images, _ = augment(keras.ops.convert_to_tensor(pixels), positions, seeds, 40)
        found = keras.ops.convert_to_numpy(images)
        mirrored = (found == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
        assert (mirrored | (found == pixels).all(axis=(1, 2, 3))).all()
        return mirrored

    first = flipped(0)
    assert 10 < first.sum() < 30
    for epoch in (1, 2, 7):
        assert np.array_equal(flipped(epoch), first if epoch % 2 == 0 else ~first)


class Noisy(keras.layers.Layer):
    """A layer of a user's own that draws from Keras' global generator, in half precision."""

    def call(self, images: Any, training: bool = False) -> Any:
        noise = keras.random.uniform(keras.ops.shape(images), 0, 9, dtype="float32")
        return keras.ops.cast(images + noise if training else images, "float16")


@pytest.mark.parametrize(
    "node", [("Noisy", {}), ("RandomElasticTransform", {}), ("RandomHue", {"factor": 0.3, "value_range": [0, 200]})]
)
def test_a_keras_layer_draws_from_the_images_seeds(node: tuple[str, dict[str, Any]]):
    kerasimg.register(Noisy)
    augment = compile_augment([node], Image(size=list(SIZE)), SEED)
    assert augment is not None
    assert "by Keras" in augment.describe()
    images, seeds, labels = photographs(), image_seeds(SEED, 0, np.arange(COUNT)), np.zeros(COUNT)
    whole = keras.ops.convert_to_numpy(augment(images, labels, seeds)[0])
    assert np.abs(whole - images).max() > 1
    order = np.array([4, 1, 5])
    some = keras.ops.convert_to_numpy(augment(images[order], labels[order], seeds[order])[0])
    assert np.array_equal(some, whole[order])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="what JAX cannot compile")
def test_what_jax_cannot_compile_is_logged_once_and_other_errors_are_raised(caplog: pytest.LogCaptureFixture):
    calls = []

    def needs_values(x: Any) -> Any:
        calls.append(1)
        return x + 1 if float(x.sum()) > 0 else x

    function = BACKEND.compiled(needs_values, by_xla=False)
    assert [float(function(np.float32([number]))[0]) for number in (1, 2)] == [2, 3]
    assert len(calls) == 3  # traced once, then as written
    assert [record.message for record in caplog.records if "runs step by step" in record.message][1:] == []
    assert "augment: JAX cannot compile this" in caplog.text

    def wrong(x: Any) -> Any:
        raise ValueError("a mistake of the layer")

    with pytest.raises(ValueError, match="a mistake of the layer"):
        BACKEND.compiled(wrong, by_xla=False)(np.float32([1]))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a step compiled by JAX")
def test_a_training_step_can_augment_with_traced_seeds():
    import jax

    kerasimg.register(Noisy)
    nodes = [*WARP, ("Noisy", {}), ("TrivialAugment", {}), ("MixUp", {})]
    augment = compile_augment(nodes, Image(size=list(SIZE)), SEED)
    assert augment is not None
    given = photographs(), np.eye(COUNT, dtype="float32"), image_seeds(SEED, 1, np.arange(COUNT))
    for inside, outside in zip(jax.jit(augment)(*given), augment(*given), strict=True):
        np.testing.assert_allclose(inside, outside, atol=1e-3)


if __name__ == "__main__":
    arrays = {"words": random_words()}
    for case in CASES:
        arrays[case], arrays[f"{case} labels"] = augmented(case)
        # A step of an eighth at most.
        arrays[case] = arrays[case].astype("float16")
    np.savez_compressed(EXPECTED, **arrays)
