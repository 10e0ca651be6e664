import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasimg
from kerasimg.data.augment import compile_augment, image_seeds
from kerasimg.data.augmentation.backend import BACKEND
from kerasimg.errors import CallError
from kerasimg.spec.document import Image

IMAGES = np.random.default_rng(1).integers(0, 256, (20, 10, 12, 3)).astype("uint8")
LABELS = np.eye(4, dtype="float32")[np.arange(20) % 4]

Nodes = Sequence[tuple[str, dict[str, Any]]]

MOVES = [
    ("RandomFlip", {}),
    ("RandomRotation", {"factor": 0.1}),
    ("RandomTranslation", {"height_factor": 0.2, "width_factor": 0.2, "fill_mode": "constant", "fill_value": 9.0}),
    ("RandomZoom", {"height_factor": 0.2, "fill_mode": "nearest"}),
    ("RandomPerspective", {"scale": 0.5}),
]
JITTER = {"brightness_factor": 0.2, "contrast_factor": 0.3, "saturation_factor": 0.5, "hue_factor": 0.2}
ALL = [
    *MOVES[:3],
    ("RandomColorJitter", JITTER),
    ("RandomSharpness", {"factor": 0.9}),
    ("TrivialAugment", {}),
    ("RandomCrop", {"height": 8, "width": 9}),
    ("RandomErasing", {}),
    ("GridMask", {}),
]


def applied(
    nodes: Nodes,
    images: np.ndarray = IMAGES,
    labels: np.ndarray = LABELS,
    *,
    split: int = 20,
    batch_size: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    threads: int = 1,
    order: np.ndarray | None = None,
    augment: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As the data pipeline applies them: in a graph, on batches of `split`, with its seeds; in an order, or all.

    augment: of an earlier call of `compile_augment` with these nodes, where it is to be used again.
    """
    image = Image(size=list(images.shape[1:3]), channels=images.shape[3])
    augment = augment or compile_augment(nodes, image, seed)
    assert augment is not None
    seeds = image_seeds(seed, epoch, np.arange(len(images)))
    order = np.arange(len(images)) if order is None else order
    dataset = tf.data.Dataset.from_tensor_slices((images[order], labels[order], seeds[order])).batch(split)
    change = tf.autograph.experimental.do_not_convert(lambda x, y, s: augment(x, y, s, batch_size))
    dataset = dataset.map(change, num_parallel_calls=threads)
    made = list(dataset.as_numpy_iterator())
    imgs, labels = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return imgs, labels


def test_no_layers_are_no_augmentation():
    assert compile_augment([], Image(), 0) is None


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    """What all of the compiled layers make of the images in one batch."""
    return applied(ALL, batch_size=20)[0]


def test_images_stay_images(whole: np.ndarray):
    assert whole.shape == IMAGES.shape
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() <= 255
    assert (np.abs(whole - IMAGES).mean(axis=(1, 2, 3)) > 1).all()


@pytest.mark.parametrize(("split", "batch_size", "threads"), [(8, 8, 2), (1, None, 1)])
def test_batches_and_threads_change_no_bit(whole: np.ndarray, split: int, batch_size: int | None, threads: int):
    assert np.array_equal(applied(ALL, split=split, batch_size=batch_size, threads=threads)[0], whole)


def test_a_graph_that_knows_the_number_of_images_changes_no_bit(whole: np.ndarray):
    augment = compile_augment(ALL, Image(size=[10, 12]), 0)
    for count in (20, 6):  # compiled once: the number itself is no constant of what is compiled
        in_graph = tf.function(lambda *given: augment(*given, 20), autograph=False)
        made, _ = in_graph(IMAGES[:count], LABELS[:count], image_seeds(0, 0, np.arange(count)))
        assert np.array_equal(made, whole[:count])


def test_what_is_drawn_is_of_the_image_not_of_its_place(whole: np.ndarray):
    order = np.random.default_rng(0).permutation(20)
    assert np.array_equal(applied(ALL, order=order, batch_size=20)[0], whole[order])


def test_without_xla_the_same_comes_out_but_for_rounding(monkeypatch: pytest.MonkeyPatch):
    nodes = [*MOVES[1:3], ("RandomHue", {"factor": 0.3}), ("GridMask", {})]
    compiled, _ = applied(nodes)
    monkeypatch.setattr("kerasimg.data.augmentation.lowering._cached", {})
    monkeypatch.setattr(BACKEND, "has_xla", lambda: False)
    plain, _ = applied(nodes)
    assert "without XLA" in compile_augment(nodes, Image(size=[10, 12]), 0).describe()
    assert np.mean(np.abs(plain - compiled) < 0.05) > 0.999
    assert not np.array_equal(compiled, IMAGES)


def test_xla_is_there_to_be_tested():
    assert BACKEND.has_xla()


def test_seeds_and_epochs_change_what_is_drawn_and_nothing_else_does():
    nodes = [("RandomRotation", {"factor": 0.3})]
    made = [applied(nodes, seed=seed, epoch=epoch)[0] for seed, epoch in ((0, 0), (1, 0), (0, 1), (0, 0))]
    assert np.array_equal(made[0], made[3])
    for one, other in itertools.combinations(made[:3], 2):
        assert (np.abs(one - other).max(axis=(1, 2, 3)) > 1).all()


def drawn(*nodes: tuple[str, dict[str, Any]]) -> list[np.ndarray]:
    """What such layers draw for twenty images."""
    augment = compile_augment(nodes, Image(size=[10, 12]), 0)
    seeds = image_seeds(0, 0, np.arange(20))
    return [np.asarray(rows) for rows in tf.nest.flatten(augment.steps[0].draw(seeds, tf.constant(0, tf.uint32), 20))]


def test_a_layers_own_seed_changes_its_draws_alone():
    dark = ("RandomBrightness", {"factor": 0.5})
    (plain, first), (own, second), (other, third) = (
        drawn(("RandomInvert", {"factor": 0.5} | given), dark) for given in ({}, {"seed": 0}, {"seed": 1})
    )
    assert not np.array_equal(plain, own)
    assert not np.array_equal(own, other)
    assert np.array_equal(first, second)
    assert np.array_equal(second, third)


def test_the_same_layer_twice_draws_twice():
    dark = ("RandomBrightness", {"factor": 0.5})
    first, second = drawn(dark, dark)
    assert not np.isin(first, second).any()


def test_a_run_of_moves_is_one_warp_until_the_interpolation_changes():
    image = Image(size=[10, 12])
    assert compile_augment(MOVES, image, 0).describe() == (
        "one warp (RandomFlip + RandomRotation + RandomTranslation + RandomZoom + RandomPerspective); compiled by XLA"
    )
    nearest = ("RandomShear", {"x_factor": 0.1, "interpolation": "nearest"})
    assert compile_augment([*MOVES[:2], nearest, MOVES[0]], image, 0).describe() == (
        "one warp (RandomFlip + RandomRotation), one warp (RandomShear + RandomFlip); compiled by XLA"
    )
    bright = ("RandomBrightness", {"factor": 0.1})
    assert compile_augment([MOVES[0], bright, MOVES[1]], image, 0).describe() == (
        "RandomFlip, RandomBrightness, RandomRotation; compiled by XLA"
    )


@pytest.mark.parametrize("mode", ["reflect", "nearest", "wrap", "constant"])
def test_whole_pixels_moved_by_several_layers_are_exactly_where_keras_puts_them(mode: str):
    from kerasimg.data.augmentation.warp import Move, Outside, warp

    size = (10, 12)
    shifts = [
        [1, 0, 5, 0, 1, -3],
        [-1, 0, 11, 0, 1, 0],
        [1, 0, -7, 0, 1, 14],
        [0, 1, 2, -1, 0, 4],
        [2, 0, -3, 0, 3, -9],
    ]
    expected, moves = tf.constant(IMAGES[:1], tf.float32), []
    for k, shift in enumerate(shifts):
        moves.append(Move(tf.constant([*shift, 0, 0, 1], tf.float32), Outside(mode, 10.0 * k, size), k % 2 == 0))
        matrix = tf.constant([[*shift, 0, 0]], tf.float32)
        expected = tf.raw_ops.ImageProjectiveTransformV3(
            images=expected,
            transforms=matrix,
            output_shape=size,
            fill_value=10.0 * k,
            interpolation="BILINEAR",
            fill_mode=mode.upper(),
        )
    for interpolation in ("bilinear", "nearest"):
        found = warp(tf.constant(IMAGES[0]), moves, size, interpolation)
        assert np.array_equal(found, expected[0])


def test_a_fused_run_is_close_to_the_layers_one_by_one_and_sharper():
    y, x = np.mgrid[:64, :64]
    coarse, fine = (
        np.repeat((127 + 60 * np.sin(x / length) + 60 * np.cos(y / length))[None, ..., None], 6, axis=0)
        for length in (6.0, 0.8)
    )
    gray = {"fill_mode": "constant", "fill_value": 127.0}
    nodes = [
        ("RandomRotation", {"factor": 0.02} | gray),
        ("RandomTranslation", {"height_factor": 0.03, "width_factor": 0.03} | gray),
        ("RandomZoom", {"height_factor": 0.03} | gray),
    ]
    step = compile_augment(nodes, Image(size=[64, 64], channels=1), 0).steps[0]
    seeds = image_seeds(0, 0, np.arange(6))
    inner = np.s_[:, 8:-8, 8:-8]
    for waves in (coarse, fine):
        images = waves.round().astype("uint8")
        fused = applied(nodes, images, np.zeros(6), split=6)[0][inner]
        stacked = tf.constant(images, tf.float32)
        ((matrices),) = step.draw(seeds, tf.constant(0, tf.uint32), tf.constant(6))
        for matrix in matrices:
            stacked = tf.raw_ops.ImageProjectiveTransformV3(
                images=stacked,
                transforms=matrix[:, :8],
                output_shape=[64, 64],
                fill_value=127.0,
                interpolation="BILINEAR",
                fill_mode="CONSTANT",
            )
        one_by_one = stacked.numpy()[inner]
        if waves is coarse:
            assert np.abs(fused - one_by_one).mean() < 1.5
        else:
            assert fused.std() > 1.15 * one_by_one.std()


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_blending_layers_blend_images_and_labels_alike(name: str):
    # Of one colour, so that an image says how much of which it is made of.
    flat = np.ones((20, 10, 12, 3), np.uint8) * (np.arange(20) % 4 * 80)[:, None, None, None].astype(np.uint8)
    images, labels = applied([(name, {})], flat)
    assert labels.shape == (20, 4)
    assert np.allclose(labels.sum(axis=1), 1)
    assert images.dtype == labels.dtype == np.float32
    of_labels = labels @ (np.arange(4) * 80)
    assert np.abs(images.mean(axis=(1, 2, 3)) - of_labels).max() < (1e-3 if name == "MixUp" else 50)
    assert (labels.max(axis=1) < 0.999).sum() > 3


def test_each_image_is_blended_by_a_share_of_its_own_with_another_one():
    labels = np.eye(20, dtype="float32")
    _, mixed = applied([("MixUp", {"alpha": 5.0})], labels=labels)
    partners = np.where(np.diag(mixed) < 1, (mixed - np.diag(np.diag(mixed))).argmax(axis=1), np.arange(20))
    assert sorted(partners) == list(range(20))
    assert len(np.unique(np.diag(mixed).round(4))) > 15


def test_padding_is_nobodys_partner():
    labels = np.eye(5, dtype="float32")
    images, mixed = applied([("MixUp", {"alpha": 5.0})], IMAGES[:5] // 2 + 100, labels, split=5, batch_size=16)
    assert np.allclose(mixed.sum(axis=1), 1)
    assert images.min() >= 100


def test_blending_sees_what_the_layers_before_have_made():
    black = [
        ("RandomBrightness", {"factor": (-1.0, -1.0)}),
        ("MixUp", {}),
        ("RandomBrightness", {"factor": (0.1, 0.1)}),
    ]
    assert np.allclose(applied(black)[0], 25.5)


def test_blending_needs_labels_that_can_be_blended():
    with pytest.raises(CallError, match=r"MixUp blends labels: use targets 'one_hot', not 'sparse'"):
        applied([("MixUp", {})], labels=np.arange(20))
    assert compile_augment([("CutMix", {})], Image(), 0).blends
    assert not compile_augment(MOVES, Image(), 0).blends


def test_crops_are_brought_back_to_the_size_of_the_images():
    images, _ = applied([("RandomCrop", {"height": 5, "width": 6})])
    assert images.shape == IMAGES.shape
    expected = {
        tf.image.resize(IMAGES[0, top : top + 5, left : left + 6], (10, 12)).numpy().round(1).tobytes()
        for top in range(6)
        for left in range(7)
    }
    assert images[0].round(1).tobytes() in expected


@pytest.mark.parametrize("name", ["RandomSaturation", "RandomHue"])
def test_gray_images_have_no_colours_to_change(name: str):
    with pytest.raises(CallError, match=rf"augment\[0\] \({name}\): needs images of 3 channels; they have 1"):
        compile_augment([(name, {"factor": 0.2})], Image(channels=1), 0)


def test_gray_images_are_augmented_too():
    nodes = [MOVES[1], ("RandomContrast", {"factor": 0.2}), ("RandomGrayscale", {}), ("TrivialAugment", {})]
    images, _ = applied(nodes, IMAGES[..., :1])
    assert images.shape == (20, 10, 12, 1)


def test_channels_first_is_refused():
    with pytest.raises(CallError, match=r"augment\[0\] \(RandomFlip\): data_format: images are channels_last here"):
        compile_augment([("RandomFlip", {"data_format": "channels_first"})], Image(), 0)


def test_a_policy_of_precision_leaves_images_exact():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        images, _ = applied(
            [("RandomFlip", {}), ("ContrastLimitedAdaptiveHistogramEqualization", {"tile_grid_size": [2, 2]})]
        )
        assert images.dtype == np.float32
        assert not np.array_equal(images, images.astype("float16"))
    finally:
        keras.config.set_dtype_policy("float32")


LEFT_TO_KERAS = [
    ("RandomElasticTransform", {}),
    ("AugMix", {"alpha": 0.5}),
    ("RandomBrightness", {"factor": 0.2, "value_range": [0, 200]}),
    ("RandomGaussianBlur", {"kernel_size": [3, 5]}),
]


@pytest.mark.parametrize(("name", "arguments"), LEFT_TO_KERAS)
def test_what_is_left_to_keras_is_as_repeatable(name: str, arguments: dict[str, Any]):
    small = IMAGES[:6]
    images, _ = applied([(name, arguments)], small, LABELS[:6])
    assert images.shape == small.shape
    assert not np.array_equal(images, small)
    order = np.array([5, 2, 0, 3])
    again, _ = applied([(name, arguments)], small, LABELS[:6], split=2, threads=2, order=order)
    assert np.array_equal(again, images[order])
    assert f"{name} (by Keras)" in compile_augment([(name, arguments)], Image(size=[10, 12]), 0).describe()


class Salted(keras.layers.RandomBrightness):
    """A layer of a user's own, on Keras' base for image layers; it draws once too often for the seeds prepared."""

    def transform_images(self, images: Any, transformation: Any, training: bool = True) -> Any:
        for _ in range(66):
            seed = self._get_seed_generator(self.backend._backend)
            images = images + self.backend.random.uniform((1, 1, 1, 3), -3.0, 3.0, seed=seed)
        return images


class Plain(keras.layers.Layer):
    """A layer that knows nothing of tf.data and draws from Keras' global generator, in half precision."""

    def call(self, images: Any, training: bool = False) -> Any:
        noise = keras.random.uniform(keras.ops.shape(images), 0, 9, dtype="float32")
        return keras.ops.cast(images + noise if training else images, "float16")


class Stateful(keras.layers.Layer):
    """A layer that draws behind Keras' back."""

    def call(self, images: Any) -> Any:
        return images + tf.random.uniform((1, 1, 1, 3))


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    for layer in (Salted, Plain, Stateful):
        kerasimg.register(layer)


@pytest.mark.parametrize("name", ["Salted", "Plain"])
def test_a_layer_of_ones_own_draws_from_the_images_seeds(name: str):
    nodes = [("RandomFlip", {}), (name, {"factor": 0.1} if name == "Salted" else {}), ("GridMask", {})]
    augment = compile_augment(nodes, Image(size=[10, 12]), 0)
    images, _ = applied(nodes, IMAGES[:8], LABELS[:8], augment=augment)
    order = np.array([5, 2, 1, 0, 3, 7])  # two batches, padded to the same size: to compile for another takes seconds
    again, _ = applied(nodes, IMAGES[:8], LABELS[:8], split=3, threads=2, order=order, augment=augment)
    assert np.array_equal(again, images[order])
    same = np.repeat(IMAGES[:1], 8, axis=0)
    alone, _ = applied(nodes[1:2], same, LABELS[:8])
    assert len(np.unique(alone.reshape(8, -1), axis=0)) == 8


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a layer that draws by TensorFlow")
def test_a_layer_that_no_seed_reaches_is_warned_of():
    with pytest.warns(
        UserWarning, match="Stateful draws by TensorFlow's RandomUniform, which no seed of the run reaches"
    ):
        applied([("Stateful", {})], IMAGES[:2], LABELS[:2])


def test_the_same_functions_serve_the_next_run_with_another_seed():
    one, other = (compile_augment(MOVES, Image(size=[10, 12]), 0) for _ in range(2))
    assert one.steps is other.steps
    assert compile_augment(MOVES, Image(size=[10, 12]), 1).steps is one.steps
    assert compile_augment(MOVES, Image(size=[10, 14]), 0).steps is not one.steps
    own = [compile_augment([("Plain", {})], Image(size=[10, 12]), 0) for _ in range(2)]
    assert own[0].steps is not own[1].steps
