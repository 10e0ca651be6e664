"""The contract of every layer, metric and callback of kerasimg, on every backend; a new one is one more table row.

KERAS_BACKEND=jax python -m pytest tests/contract/test_layers.py
"""

import inspect
import os
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# JAX compiles each operation for each shape, which takes most of the time here.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import keras
import numpy as np
import pytest
from keras import ops

from kerasimg import callbacks, layers, metrics, optimizers
from kerasimg.spec import arguments

BACKEND = keras.backend.backend()
# PyTorch would need a C++ compiler.
JIT = False if BACKEND == "torch" else "auto"


class Case(NamedTuple):
    """The arguments of a layer, and the shapes of its input and output without the batch dimension."""

    arguments: dict[str, Any]
    input: tuple[int, ...]
    output: tuple[int, ...]


LAYERS = {
    "BlurPool2D": [Case({}, (8, 7, 3), (4, 4, 3)), Case({"kernel_size": 4, "strides": 1}, (5, 5, 2), (5, 5, 2))],
    "CBAM": [Case({"ratio": 0.5, "kernel_size": 3}, (5, 4, 6), (5, 4, 6))],
    "ChannelShuffle": [Case({"groups": 3}, (4, 3, 6), (4, 3, 6))],
    "ClassToken": [Case({}, (4, 6), (5, 6)), Case({"count": 2, "initializer": "ones"}, (4, 6), (6, 6))],
    "AttentionPooling": [Case({"num_heads": 2, "mlp_units": 6, "activation": "relu"}, (5, 8), (8,))],
    "CoordChannels": [Case({}, (4, 5, 3), (4, 5, 5)), Case({"radius": True}, (1, 5, 3), (1, 5, 6))],
    "CosineHead": [Case({"units": 3}, (6,), (3,)), Case({"units": 4, "learn_scale": True}, (6,), (4,))],
    "DropPath": [Case({"rate": 0.4, "seed": 1}, (3, 3, 2), (3, 3, 2)), Case({"rate": 0.0}, (5,), (5,))],
    "EfficientChannelAttention": [Case({}, (4, 4, 8), (4, 4, 8)), Case({"kernel_size": 5}, (4, 4, 8), (4, 4, 8))],
    "GELU": [*(Case({"approximate": kind}, (3, 4), (3, 4)) for kind in ("none", "tanh", "sigmoid"))],
    "GeMPooling2D": [Case({}, (4, 3, 5), (5,)), Case({"p": 1.0, "keepdims": True}, (4, 3, 5), (1, 1, 5))],
    "GlobalResponseNorm": [Case({}, (4, 3, 5), (4, 3, 5))],
    "LayerScale": [Case({"shared": True}, (4, 3, 5), (4, 3, 5)), Case({"initial_value": 0.1}, (7, 5), (7, 5))],
    "LocalResponseNorm": [Case({"size": 2, "alpha": 0.5}, (2, 3, 5), (2, 3, 5))],
    "Maxout": [Case({"pieces": 3}, (4, 6), (4, 2))],
    "PatchEmbed": [
        Case({"units": 5, "patch_size": 3}, (9, 7, 3), (6, 5)),
        Case({"units": 5, "patch_size": [2, 4], "flatten": False, "use_bias": False}, (4, 8, 3), (2, 2, 5)),
    ],
    "PatchMerging": [Case({}, (5, 4, 3), (3, 2, 6)), Case({"units": 4, "norm_last": True}, (4, 4, 3), (2, 2, 4))],
    "PatchWhitening": [Case({}, (4, 5, 3), (3, 4, 24)), Case({"kernel_size": 1}, (2, 3, 4), (2, 3, 8))],
    "PositionEmbedding": [
        Case({"extra_tokens": 1}, (10, 8), (10, 8)),
        Case({"kind": "sincos", "extra_tokens": 1, "grid": [3, 2]}, (7, 8), (7, 8)),
        Case({}, (3, 4, 8), (3, 4, 8)),
    ],
    "SelfAttention": [
        Case({"num_heads": 2}, (5, 8), (5, 8)),
        Case(
            {"num_heads": 2, "key_dim": 4, "value_dim": 3, "units": 6, "qk_norm": True, "dropout": 0.5}, (4, 8), (4, 6)
        ),
        Case({"num_heads": 2, "rope": "dinov3", "extra_tokens": 2, "grid": [2, 3]}, (8, 8), (8, 8)),
        Case({"num_heads": 1, "rope": "eva02", "rope_size": 16, "key_bias": False}, (4, 8), (4, 8)),
        Case({"num_heads": 2, "position_bias": True, "extra_tokens": 1, "use_bias": False}, (5, 8), (5, 8)),
    ],
    "SequencePooling": [Case({"use_bias": False}, (6, 5), (5,))],
    "SqueezeExcite": [
        Case({}, (3, 4, 8), (3, 4, 8)),
        Case({"units": 3, "activation": "swish", "gate_activation": "hard_sigmoid"}, (3, 4, 8), (3, 4, 8)),
    ],
    "StandardizedConv2D": [Case({"filters": 3, "kernel_size": 2, "gain": True}, (4, 4, 2), (3, 3, 3))],
    "TakeChannels": [Case({"parts": 3, "index": 1, "count": 2}, (3, 4, 6), (3, 4, 4))],
    "TakeToken": [Case({"index": -1}, (3, 4), (4,))],
    "WindowAttention": [
        Case({"num_heads": 2, "window_size": 3, "shift": 1}, (7, 6, 4), (7, 6, 4)),
        Case({"num_heads": 1, "window_size": 4, "dropout": 0.5}, (4, 8, 4), (4, 8, 4)),
        Case({"num_heads": 2, "window_size": 2, "cosine": True, "pretrained_window": 3}, (2, 4, 4), (2, 4, 4)),
    ],
}

# They are random, so they have tests of their own.
AUGMENTATIONS = {
    "AlternatingFlip": {"mode": "horizontal", "seed": 1},
    "GridMask": {"cell": [0.2, 0.4], "seed": 1},
    "RandAugmentPerImage": {"num_ops": 3, "magnitude": 0.9, "seed": 1},
    "TrivialAugment": {"seed": 1},
}

METRICS = {
    "BalancedAccuracy": {"num_classes": 3},
    "ExpectedCalibrationError": {"bins": 5},
    "F1": {"num_classes": 3, "average": "weighted"},
    "MatthewsCorrelation": {"num_classes": 3},
    "SparsePrecision": {"num_classes": 3},
    "SparseRecall": {"num_classes": 3, "average": "none"},
}

CALLBACKS = {
    "ConfusionToTensorBoard": lambda folder: {
        "batches": [(np.full((2, 3), 9.0), [0, 1])],
        "classes": ["a", "b", "c"],
        "folder": folder,
        "samples": 0,
    },
    "CurvesToTensorBoard": lambda folder: {"history": folder / "history.csv", "folder": folder},
    "JsonLines": lambda folder: {"path": folder / "log.jsonl"},
    "LearningRateFinder": lambda folder: {"steps": 3},
    "ProgressiveUnfreezing": lambda folder: {"layer": "first"},
    "TimeBudget": lambda folder: {"seconds": 60.0},
    "WarmupCosine": lambda folder: {"warmup_epochs": 0.5},
}

CASES = [pytest.param(name, case, id=f"{name}-{n}") for name, cases in LAYERS.items() for n, case in enumerate(cases)]
every_layer = pytest.mark.parametrize(("name", "case"), CASES)
every_augmentation = pytest.mark.parametrize("name", AUGMENTATIONS)
every_metric = pytest.mark.parametrize("name", METRICS)
every_callback = pytest.mark.parametrize("name", CALLBACKS)


def exported(module, base):
    return {name for name, thing in vars(module).items() if inspect.isclass(thing) and issubclass(thing, base)}


def pixels(case, n=2):
    return np.random.default_rng(0).uniform(0.1, 1.0, (n, *case.input)).astype("float32")


def make(name, case, /, **more):
    return getattr(layers, name)(**case.arguments, **more)


def functional(name, case):
    image = keras.Input(case.input)
    return keras.Model(image, make(name, case, name="own")(image))


def as_array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def test_every_exported_class_is_in_its_table():
    for module, base, table in (
        (layers, keras.layers.Layer, {**LAYERS, **AUGMENTATIONS}),
        (metrics, keras.metrics.Metric, METRICS),
        (callbacks, keras.callbacks.Callback, CALLBACKS),
    ):
        assert exported(module, base) == set(table) == set(module.__all__)


@pytest.mark.parametrize("group", ["layers", "metrics", "callbacks", "optimizers"])
def test_every_class_has_an_entry_for_specs_unless_it_opts_out(group):
    module = {"layers": layers, "metrics": metrics, "callbacks": callbacks, "optimizers": optimizers}[group]
    for name in module.__all__:
        assert bool(arguments.entry(group, name)) == getattr(getattr(module, name), "in_specs", True), name
        assert not hasattr(getattr(keras, group), name), f"Keras has a {name}"


@every_layer
def test_the_output_shape_is_the_computed_one_with_and_without_a_batch_size(name, case):
    layer = make(name, case)
    assert tuple(layer.compute_output_shape((2, *case.input))) == (2, *case.output)
    assert tuple(layer.compute_output_shape((None, *case.input))) == (None, *case.output)
    assert tuple(layer(keras.Input(case.input)).shape) == (None, *case.output)
    assert tuple(layer(pixels(case)).shape) == (2, *case.output)


@every_layer
def test_a_config_makes_the_same_layer(name, case):
    layer = make(name, case, name="own", dtype="mixed_bfloat16")
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer)
    assert keras.saving.serialize_keras_object(again) == config
    assert set(case.arguments) <= set(layer.get_config())


@every_layer
def test_a_saved_model_loads_with_equal_outputs(name, case, tmp_path):
    model = functional(name, case)
    for weight in model.trainable_weights:
        weight.assign(as_array(weight) + np.random.default_rng(1).uniform(0, 0.2, weight.shape))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(as_array(again(pixels(case))), as_array(model(pixels(case))))


@every_layer
def test_compiled_and_eager_agree_and_inference_is_repeatable(name, case):
    model = functional(name, case)
    model.compile(jit_compile=JIT)
    eager = as_array(model.get_layer("own")(pixels(case), training=False))
    np.testing.assert_allclose(model.predict(pixels(case), verbose=0), eager, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(as_array(model(pixels(case))), eager)


@every_layer
def test_half_precision_agrees_with_full(name, case):
    full = make(name, case)
    expected = as_array(full(pixels(case)))
    for policy in ("mixed_float16", "float16", "mixed_bfloat16", "bfloat16"):
        dtype = policy.removeprefix("mixed_")
        half = make(name, case, dtype=policy)
        half.build((None, *case.input))
        half.set_weights(full.get_weights())
        result = half(pixels(case))
        assert keras.backend.standardize_dtype(result.dtype) == dtype, policy
        dtypes = {weight.dtype for weight in half.trainable_weights}
        assert dtypes <= {dtype if policy == dtype else "float32"}, policy
        near = 0.01 if dtype == "float16" else 0.06
        atol = near * max(1, np.abs(expected).max())
        np.testing.assert_allclose(as_array(result), expected, atol=atol, err_msg=policy)


@every_layer
def test_every_weight_trains_and_so_does_a_preceding_layer(name, case):
    # With another seed all units of a small ReLU may be dead.
    keras.utils.set_random_seed(0)
    image = keras.Input(case.input)
    before = keras.layers.Dense(case.input[-1], kernel_initializer="identity", name="before")
    model = keras.Model(image, make(name, case, name="own")(before(image)))
    for weight in model.get_layer("own").trainable_weights:
        weight.assign(as_array(weight) + np.random.default_rng(1).uniform(0.1, 0.2, weight.shape))
    target = np.random.default_rng(2).uniform(1, 2, (4, *case.output)).astype("float32")
    start = [as_array(weight) for weight in model.trainable_weights]
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse", jit_compile=JIT)
    history = model.fit(pixels(case, 4), target, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    for weight, old in zip(model.trainable_weights, start, strict=True):
        new = as_array(weight)
        assert np.isfinite(new).all(), weight.path
        # Some rows of a table may be unused and some units of a ReLU dead, but never a whole weight.
        assert (new != old).any(), f"{weight.path} does not train"


@every_layer
def test_the_arguments_in_a_spec_are_those_of_the_constructor(name, case):
    entry = arguments.entry("layers", name)
    assert entry["module"] == "kerasimg.layers"
    faults = []
    arguments.check_arguments("layers", name, case.arguments, lambda *fault: faults.append(fault))
    assert faults == []


@every_augmentation
def test_an_augmentation_varies_images_in_training_only_and_repeatably(name):
    images = np.random.default_rng(0).uniform(0, 255, (6, 12, 10, 3)).astype("float32")
    first, second = (getattr(layers, name)(**AUGMENTATIONS[name]) for _ in range(2))
    np.testing.assert_array_equal(as_array(first(images, training=False)), images)
    result = as_array(first(images))
    assert result.shape == images.shape
    assert (result != images).any(axis=(1, 2, 3)).sum() > 2
    np.testing.assert_array_equal(as_array(second(images)), result)
    assert as_array(first(images[0])).shape == images[0].shape


@every_augmentation
def test_an_augmentation_is_configured_saved_and_marked_for_specs(name, tmp_path):
    layer = getattr(layers, name)(**AUGMENTATIONS[name])
    config = keras.saving.serialize_keras_object(layer)
    assert keras.saving.serialize_keras_object(keras.saving.deserialize_keras_object(config)) == config
    image = keras.Input((12, 10, 3))
    model = keras.Model(image, layer(image))
    assert model.output_shape == (None, 12, 10, 3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    images = np.full((2, 12, 10, 3), 99, "float32")
    np.testing.assert_array_equal(as_array(again(images, training=False)), images)
    assert arguments.entry("layers", name)["augment"]
    faults = []
    arguments.check_arguments("layers", name, AUGMENTATIONS[name], lambda *fault: faults.append(fault))
    assert faults == []


@every_augmentation
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_augmentation_outputs_the_requested_precision(name, dtype):
    result = getattr(layers, name)(**AUGMENTATIONS[name], dtype=f"mixed_{dtype}")(np.full((2, 8, 8, 3), 99.0))
    assert keras.backend.standardize_dtype(result.dtype) == dtype
    assert np.isfinite(as_array(result)).all()


def labels_and_scores(n=20, k=3):
    random = np.random.default_rng(3)
    scores = random.random((n, k)).astype("float32")
    return random.integers(0, k, n), scores / scores.sum(axis=1, keepdims=True)


@every_metric
def test_a_metric_is_the_same_in_batches_when_compiled_and_after_a_reset(name):
    truth, scores = labels_and_scores()
    metric = getattr(metrics, name)(**METRICS[name])
    whole = as_array(metric(truth, scores))
    assert np.isfinite(whole).all()
    metric.reset_state()
    assert not as_array(metric.result()).any()
    for start in range(0, 20, 7):
        metric.update_state(truth[start : start + 7], scores[start : start + 7])
    np.testing.assert_allclose(as_array(metric.result()), whole, atol=1e-6)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    model.compile(loss="sparse_categorical_crossentropy", metrics=[metric], jit_compile=JIT)
    result = model.evaluate(scores, truth, batch_size=8, verbose=0, return_dict=True)
    np.testing.assert_allclose(result[metric.name], whole, atol=1e-6)


@every_metric
def test_a_metric_accepts_one_hot_labels_columns_and_weights(name):
    truth, scores = labels_and_scores()
    expected = as_array(getattr(metrics, name)(**METRICS[name])(truth, scores))
    for labels in (truth[:, None], np.eye(3)[truth]):
        metric = getattr(metrics, name)(**METRICS[name])
        np.testing.assert_allclose(as_array(metric(labels, scores, np.full(20, 2.0))), expected, atol=1e-6)


@every_metric
def test_a_metric_survives_being_serialized(name):
    metric = getattr(metrics, name)(**METRICS[name], name="own")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is type(metric)
    assert again.get_config() == metric.get_config()
    assert set(METRICS[name]) < set(metric.get_config())


@every_metric
def test_a_metric_counts_half_precision_exactly(name):
    truth, scores = labels_and_scores()
    scores = np.round(scores * 64) / 64
    expected = as_array(getattr(metrics, name)(**METRICS[name])(truth, scores))
    result = getattr(metrics, name)(**METRICS[name])(truth, ops.cast(scores, "bfloat16"))
    np.testing.assert_allclose(as_array(result), expected, atol=1e-6)


@every_callback
def test_a_callback_works_for_two_trainings(name, tmp_path):
    if name.endswith("ToTensorBoard"):
        pytest.importorskip("tensorboard")
    image = keras.Input((3,))
    hidden = keras.layers.Dense(4, name="first")(image)
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(hidden))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", jit_compile=JIT)
    callback = getattr(callbacks, name)(**CALLBACKS[name](tmp_path))
    for _ in range(2):
        history = model.fit(
            np.random.default_rng(0).random((8, 3)),
            np.arange(8) % 3,
            batch_size=2,
            epochs=2,
            callbacks=[callback],
            verbose=0,
        )
        assert np.isfinite(history.history["loss"]).all()


@every_callback
def test_a_callback_of_a_spec_has_its_arguments_in_its_config(name, tmp_path):
    cls = getattr(callbacks, name)
    if getattr(cls, "in_specs", True):
        callback = cls(**CALLBACKS[name](tmp_path))
        assert set(callback.get_config()) == set(arguments.entry("callbacks", name)["args"])
        assert cls(**callback.get_config()).get_config() == callback.get_config()
