from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import kerasimg
from kerasimg.errors import CallError, SpecError
from kerasimg.models.to_spec import copy_weights, to_spec
from kerasimg.spec import arguments


def image(channels: int = 3, size: int = 8) -> Any:
    return keras.Input((size, size, channels))


def model(make: Callable[[Any], Any], channels: int = 3) -> keras.Model:
    pixels = image(channels)
    return keras.Model(pixels, make(pixels), name="made")


def nodes_of(made: keras.Model) -> list[dict[str, Any]]:
    document = to_spec(made).document
    assert "blocks" not in document
    return document["model"]


def node_of(layer: keras.layers.Layer) -> dict[str, Any]:
    """The one node that a layer becomes."""
    (node,) = nodes_of(model(layer))
    return node


def round_trip(made: keras.Model, *, by: str = "order") -> keras.Model:
    """What the model's spec builds, with its weights; it must agree, in weights and in outputs."""
    built = kerasimg.build(to_spec(made))
    values = [np.random.default_rng(index).uniform(0.1, 1, w.shape) for index, w in enumerate(made.weights)]
    made.set_weights(values)
    if by == "order":
        assert [w.shape for w in built.weights] == [w.shape for w in made.weights]
        built.set_weights(made.get_weights())
    else:
        copy_weights(made, built)
    pixels = np.random.default_rng(0).uniform(0, 1, (2, *made.input_shape[1:])).astype("float32")
    np.testing.assert_allclose(built(pixels), made(pixels), rtol=1e-5, atol=1e-6)
    return built


def refused(made: Any) -> str:
    with pytest.raises((SpecError, CallError)) as caught:
        to_spec(made)
    return str(caught.value)


def test_a_sequential_model_becomes_its_layers_with_what_differs_from_their_defaults():
    made = keras.Sequential(
        [
            image(),
            layers.Conv2D(4, 3, activation="relu", use_bias=False),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(5, activation="softmax", name="classes"),
        ],
        name="tiny",
    )
    assert dict(to_spec(made).document) == {
        "kerasimg": 1,
        "name": "tiny",
        "about": "From a Keras model, by kerasimg.to_spec.",
        "image": {"size": [8, 8], "scale": "none"},
        "model": [
            {"layer": "Conv2D", "filters": 4, "kernel_size": 3, "activation": "relu", "use_bias": False},
            {"layer": "MaxPooling2D"},
            {"layer": "Flatten"},
            {"layer": "Dropout", "rate": 0.5},
            {"layer": "Dense", "name": "classes", "units": 5, "activation": "softmax"},
        ],
        "expect": {"params": 293, "output": [None, 5]},
    }
    round_trip(made)


def test_the_spec_can_be_named():
    assert to_spec(model(layers.Flatten()), "other").name == "other"


def test_a_name_that_no_spec_can_have_is_mended():
    pixels = image()
    made = keras.Model(pixels, layers.Flatten()(pixels), name="1.5 net")
    assert to_spec(made).name == "_1_5_net"


def test_a_grey_image_has_one_channel():
    assert to_spec(model(layers.Flatten(), channels=1)).document["image"]["channels"] == 1


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: layers.Conv2D(2, (3, 5), strides=(2, 2)), {"filters": 2, "kernel_size": [3, 5], "strides": 2}),
        (lambda: layers.ZeroPadding2D(((0, 1), (2, 3))), {"padding": [[0, 1], [2, 3]]}),
        (lambda: layers.ZeroPadding2D(((3, 3), (3, 3))), {"padding": 3}),
        (lambda: layers.MaxPooling2D(3, strides=3), {"pool_size": 3}),
        (lambda: layers.ReLU(max_value=6.0), {"max_value": 6}),
        (lambda: layers.BatchNormalization(axis=3), {}),
        (lambda: layers.BatchNormalization(epsilon=1e-3, momentum=0.9), {"momentum": 0.9}),
        (lambda: layers.LayerNormalization(axis=-1), {}),
        (lambda: layers.Activation("swish"), {"activation": "silu"}),
        (
            lambda: layers.Dense(2, kernel_initializer=keras.initializers.HeNormal(seed=3)),
            {"units": 2, "kernel_initializer": {"type": "HeNormal", "seed": 3}},
        ),
        (lambda: layers.Dense(2, kernel_initializer="he_normal"), {"units": 2, "kernel_initializer": "HeNormal"}),
        (
            lambda: layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5)),
            {"units": 2, "kernel_regularizer": {"type": "L2", "l2": 0.5}},
        ),
        (lambda: layers.Dense(2, kernel_regularizer="l2"), {"units": 2, "kernel_regularizer": "L2"}),
        (
            lambda: layers.Dense(2, kernel_constraint=keras.constraints.MaxNorm(3)),
            {"units": 2, "kernel_constraint": {"type": "MaxNorm", "max_value": 3}},
        ),
        (lambda: layers.Dense(2, trainable=False), {"units": 2, "trainable": False}),
        (lambda: layers.Dense(2, dtype="mixed_float16"), {"units": 2, "dtype": "mixed_float16"}),
        (
            lambda: layers.Normalization(mean=np.array([1.0, 2.0, 3.0]), variance=np.array([4.0, 4.0, 4.0])),
            {"mean": [1, 2, 3], "variance": [4, 4, 4]},
        ),
        (lambda: layers.Rescaling(1 / 4, offset=-1.0), {"scale": 0.25, "offset": -1}),
        (lambda: layers.Resizing(4, 4), {"height": 4, "width": 4}),
    ],
)
def test_an_argument_is_written_shortly_and_a_default_is_left_out(layer: Any, said: dict[str, Any]):
    made = layer()
    assert node_of(made) == {"layer": type(made).__name__, **said}


def test_what_an_argument_becomes_makes_the_same_layer_again():
    made = layers.Conv2D(2, 3, kernel_initializer=keras.initializers.VarianceScaling(2.0, mode="fan_out"))
    built = kerasimg.build(to_spec(model(made)))
    config = built.layers[-1].get_config()
    assert config["kernel_initializer"]["config"] == made.get_config()["kernel_initializer"]["config"]


def test_an_image_of_several_bands_keeps_its_channels():
    bands = keras.Input((8, 8, 5))
    assert to_spec(keras.Model(bands, layers.Conv2D(2, 3)(bands))).image.channels == 5


def test_branches_are_named_and_what_joins_them_lists_them():
    def make(pixels: Any) -> Any:
        wide = layers.Conv2D(2, 1, name="wide")(layers.Conv2D(2, 3, padding="same")(pixels))
        narrow = layers.Conv2D(2, 1)(pixels)
        return layers.Concatenate()([narrow, wide, pixels])

    made = model(make)
    assert nodes_of(made)[1:] == [
        {"layer": "Conv2D", "name": "wide", "filters": 2, "kernel_size": 1},
        {"layer": "Conv2D", "inputs": "in", "filters": 2, "kernel_size": 1},
        {"layer": "Concatenate", "inputs": ["prev", "wide", "in"]},
    ]
    round_trip(made)


def test_a_layer_that_is_called_twice_is_reused():
    def make(pixels: Any) -> Any:
        shared = layers.Conv2D(3, 1, name="shared")
        return layers.Add()([shared(pixels), shared(shared(pixels))])

    made = model(make)
    assert [next(iter(node)) for node in nodes_of(made)] == ["layer", "reuse", "reuse", "layer"]
    round_trip(made)


def test_models_inside_of_a_model_are_opened_up():
    def make(pixels: Any) -> Any:
        inner = keras.Sequential([image(), layers.Conv2D(3, 1), keras.Sequential([image(), layers.ReLU()])])
        return layers.Flatten()(inner(pixels))

    made = model(make)
    assert [node["layer"] for node in nodes_of(made)] == ["Conv2D", "ReLU", "Flatten"]
    round_trip(made)


def test_a_model_that_is_called_twice_shares_its_layers():
    def make(pixels: Any) -> Any:
        inner = keras.Sequential([image(), layers.Conv2D(3, 1), layers.BatchNormalization()])
        return layers.Add()([inner(pixels), inner(layers.ReLU()(pixels))])

    assert len(round_trip(model(make)).weights) == 6


def test_weights_of_models_side_by_side_are_copied_layer_by_layer():
    def make(pixels: Any) -> Any:
        sides = [
            keras.Sequential([image(), layers.Conv2D(4, 3, padding="same"), layers.Conv2D(4, 1)]) for _ in range(2)
        ]
        return layers.Add()([side(pixels) for side in sides])

    round_trip(model(make), by="layer")


def test_attention_is_given_its_inputs_by_name():
    def make(pixels: Any) -> Any:
        tokens = layers.Reshape((64, 3))(pixels)
        other = layers.Dense(3, name="other")(tokens)
        return layers.MultiHeadAttention(2, 4)(tokens, other, key=tokens)

    made = model(make)
    assert nodes_of(made)[-1]["inputs"].keys() == {"query", "value", "key"}
    round_trip(made)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda x: x + 3.0, {"layer": "Rescaling", "scale": 1, "offset": 3.0}),
        (lambda x: 3 - x, {"layer": "Rescaling", "scale": -1, "offset": 3}),
        (lambda x: x * 0.5, {"layer": "Rescaling", "scale": 0.5}),
        (lambda x: x / 4.0, {"layer": "Rescaling", "scale": 0.25}),
        (lambda x: -x, {"layer": "Rescaling", "scale": -1}),
        (lambda x: x - np.array([1.0, 2.0, 3.0]), {"layer": "Rescaling", "scale": 1, "offset": [-1.0, -2.0, -3.0]}),
        (lambda x: x + x, {"layer": "Add", "inputs": ["in", "in"]}),
        (lambda x: ops.maximum(x, x), {"layer": "Maximum", "inputs": ["in", "in"]}),
        (ops.relu, {"layer": "Activation", "activation": "relu"}),
        (lambda x: ops.gelu(x, approximate=False), {"layer": "Activation", "activation": "gelu"}),
        (lambda x: ops.mean(x, axis=(1, 2)), {"layer": "GlobalAveragePooling2D"}),
        (lambda x: ops.max(x, axis=[-3, -2], keepdims=True), {"layer": "GlobalMaxPooling2D", "keepdims": True}),
        (lambda x: ops.reshape(x, (-1, 64, 3)), {"layer": "Reshape", "target_shape": [64, 3]}),
        (lambda x: ops.expand_dims(x, 1), {"layer": "Reshape", "target_shape": [1, 8, 8, 3]}),
        (lambda x: ops.transpose(x, (0, 3, 1, 2)), {"layer": "Permute", "dims": [3, 1, 2]}),
        (lambda x: ops.concatenate([x, x], axis=1), {"layer": "Concatenate", "inputs": ["in", "in"], "axis": 1}),
        (keras.activations.relu, {"layer": "Activation", "activation": "relu"}),
        (lambda x: keras.activations.relu(x, max_value=6.0), {"layer": "ReLU", "max_value": 6}),
        (lambda x: ops.clip(x, 0, 6), {"layer": "ReLU", "max_value": 6}),
        (ops.square, {"layer": "Multiply", "inputs": ["in", "in"]}),
        (lambda x: x[:, 1:-1, 2:], {"layer": "Cropping2D", "cropping": [[1, 1], [2, 0]]}),
        (lambda x: x[:, ::2, ::2], {"layer": "MaxPooling2D", "pool_size": 1, "strides": 2}),
        (lambda x: x[..., 1:2], {"layer": "TakeChannels", "parts": 3, "index": 1}),
        (
            lambda x: ops.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]]),
            {"layer": "ZeroPadding2D", "padding": [[1, 2], [0, 1]]},
        ),
        (lambda x: ops.average_pool(x, 2), {"layer": "AveragePooling2D", "pool_size": 2}),
        (
            lambda x: ops.max_pool(x, 3, strides=2, padding="same"),
            {"layer": "MaxPooling2D", "pool_size": 3, "strides": 2, "padding": "same"},
        ),
        (lambda x: ops.image.resize(x, (4, 2)), {"layer": "Resizing", "height": 4, "width": 2}),
    ],
)
def test_an_operation_becomes_the_layer_that_does_the_same(operation: Any, expected: dict[str, Any]):
    made = model(operation)
    assert nodes_of(made) == [expected]
    round_trip(made)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda x: x[:, 0], {"layer": "TakeToken"}),
        (lambda x: x[:, -1], {"layer": "TakeToken", "index": 63}),
        (lambda x: x[:, 1:], {"layer": "Cropping1D", "cropping": [1, 0]}),
        (lambda x: ops.mean(x, axis=1), {"layer": "GlobalAveragePooling1D"}),
        (lambda x: ops.max(x, axis=1, keepdims=True), {"layer": "GlobalMaxPooling1D", "keepdims": True}),
        (lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 0]]), {"layer": "ZeroPadding1D", "padding": [1, 0]}),
        (lambda x: layers.RMSNormalization()(x), {"layer": "RMSNormalization"}),
    ],
)
def test_an_operation_on_tokens_becomes_the_layer_that_does_the_same(operation: Any, expected: dict[str, Any]):
    made = model(lambda x: operation(layers.Reshape((64, 3))(x)))
    assert nodes_of(made)[1] == expected
    round_trip(made)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: layers.Conv2D(1, 3)(x) * np.array([2.0, 2.0, 2.0]),
        lambda x: layers.Conv2D(1, 3)(x) + np.array([1.0, 2.0, 3.0]),
        lambda x: ops.clip(x, -1, 6),
        ops.abs,
        lambda x: x[:, 2],
        lambda x: x[..., 1],
        lambda x: layers.GlobalAveragePooling2D()(x)[:, None, None, :],
        lambda x: layers.GroupQueryAttention(4, 2, 1)(layers.Reshape((64, 3))(x), layers.Reshape((64, 3))(x)),
    ],
)
def test_what_takes_several_layers_or_broadcasts_gives_the_same_numbers(operation: Any):
    round_trip(model(operation))


def test_the_parameters_are_those_of_the_layers_that_the_output_needs():
    inputs = keras.Input((8, 8, 3))
    middle = layers.Conv2D(2, 3)(inputs)
    base = keras.Model(inputs, layers.Conv2D(4, 3)(middle))
    features, _ = keras.Model(base.input, [middle, base.output])(inputs)
    made = keras.Model(inputs, layers.Dense(1)(features))
    assert to_spec(made).document["expect"]["params"] == 3 * 3 * 3 * 2 + 2 + 2 + 1


def test_arithmetic_in_integers_is_refused_and_what_keeps_their_values_is_not():
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    for wrapping in (inputs * 2, layers.Add()([inputs, inputs]), layers.Add()([inputs[:, 1:], inputs[:, 1:]])):
        assert "computes in integers" in refused(keras.Model(inputs, layers.Rescaling(0.5)(wrapping), name="made"))
    pooled = layers.MaxPooling2D()(inputs[:, 1:])
    made = keras.Model(inputs, layers.Add()([layers.Rescaling(0.5)(pooled), ops.cast(pooled, "float32")]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("uint8")
    assert np.array_equal(made(pixels), kerasimg.build(to_spec(made))(pixels.astype("float32")))


def test_a_registered_layer_is_named_by_its_class(monkeypatch: pytest.MonkeyPatch):
    class Double(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * 2

    registered = {"layers": {"Double": {"args": {}, "object": Double}}}
    monkeypatch.setattr(arguments, "_registered", {**{group: {} for group in arguments.MODULES}, **registered})
    assert node_of(Double()) == {"layer": "Double"}


def test_training_false_is_left_out_since_keras_overrides_it():
    def make(pixels: Any) -> Any:
        inner = keras.Sequential([image(), layers.BatchNormalization(), layers.Dropout(0.5)])
        return inner(pixels, training=False)

    assert nodes_of(model(make)) == [{"layer": "BatchNormalization"}, {"layer": "Dropout", "rate": 0.5}]


def test_repeats_become_one_block():
    def make(pixels: Any) -> Any:
        output = layers.Conv2D(8, 1)(pixels)
        for filters, count in ((16, 2), (32, 3), (64, 2)):
            for _ in range(count):
                output = layers.Conv2D(filters, 3, padding="same", use_bias=False)(output)
                output = layers.BatchNormalization()(output)
                output = layers.ReLU()(output)
            output = layers.MaxPooling2D(padding="same")(output)
        return layers.GlobalAveragePooling2D()(output)

    made = model(make)
    document = to_spec(made).document
    pool = {"layer": "MaxPooling2D", "padding": "same"}
    assert document["blocks"] == {
        "conv_bn_relu": {
            "args": {"filters": None},
            "nodes": [
                {
                    "layer": "Conv2D",
                    "filters": "=filters",
                    "kernel_size": 3,
                    "padding": "same",
                    "use_bias": False,
                },
                {"layer": "BatchNormalization"},
                {"layer": "ReLU"},
            ],
        }
    }
    assert document["model"] == [
        {"layer": "Conv2D", "filters": 8, "kernel_size": 1},
        {"block": "conv_bn_relu", "repeat": 2, "filters": 16},
        pool,
        {"block": "conv_bn_relu", "repeat": 3, "filters": 32},
        pool,
        {"block": "conv_bn_relu", "repeat": 2, "filters": 64},
        pool,
        {"layer": "GlobalAveragePooling2D"},
    ]
    round_trip(made)


def test_without_blocks_there_is_a_node_for_each_layer():
    made = keras.Sequential([image(), *(layers.Conv2D(4, 1) for _ in range(5))])
    assert len(to_spec(made).document["model"]) == 1
    assert len(to_spec(made, blocks=False).document["model"]) == 5


class Odd(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs


class Subclassed(keras.Model):
    def call(self, inputs: Any) -> Any:
        return inputs


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: layers.Lambda(lambda x: x, name="odd"), "layer 'Lambda' cannot stand in a spec: it runs code"),
        (lambda: Odd(name="odd"), "kerasimg.register(Odd)"),
        (lambda: Subclassed(name="odd"), "rewrite it as a functional model"),
        (lambda: layers.TimeDistributed(layers.ReLU(), name="odd"), "it wraps another layer"),
        (lambda: layers.Activation(lambda x: np.tanh(x), name="odd"), "activation of its own"),
        (lambda: layers.BatchNormalization(renorm=True, renorm_clipping={"rmax": 3}, name="odd"), "renorm_clipping"),
    ],
)
def test_a_layer_that_a_spec_cannot_express_is_named_with_the_remedy(layer: Any, expected: str):
    message = refused(model(layer()))
    assert message.startswith("made: odd: ")
    assert expected in message


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda x: ops.sin(x), "keras.ops.sin"),
        (lambda x: ops.log_softmax(x, axis=1), "keras.ops.log_softmax along an axis"),
        (lambda x: ops.mean(x, axis=1), "over axes other than height and width"),
        (lambda x: ops.reshape(x, (-1, 2)), "reshapes across images"),
        (lambda x: x + np.ones((8, 8, 3)), "one number for each channel"),
    ],
)
def test_an_operation_without_a_layer_is_named(operation: Any, expected: str):
    assert expected in refused(model(operation))


def test_every_layer_that_cannot_be_expressed_is_listed():
    message = refused(model(lambda x: Odd(name="second")(layers.Lambda(lambda y: y, name="first")(x))))
    assert [line.split(":")[1].strip() for line in message.splitlines()] == ["first", "second"]


def test_a_call_with_more_than_tensors_is_refused():
    def make(pixels: Any) -> Any:
        tokens = layers.Reshape((64, 3))(pixels)
        return layers.MultiHeadAttention(2, 4)(tokens, tokens, use_causal_mask=True)

    assert "use_causal_mask=True" in refused(model(make))


def test_a_call_as_in_training_is_refused():
    assert "training=True" in refused(model(lambda x: layers.Dropout(0.5)(x, training=True)))


def test_several_inputs_are_refused():
    pixels, other = image(), image()
    made = keras.Model([pixels, other], layers.Add()([pixels, other]), name="two")
    assert refused(made) == "'two' has 2 inputs; a spec has one image and one output"


def test_several_outputs_are_refused():
    pixels = image()
    made = keras.Model(pixels, [layers.ReLU()(pixels), layers.Flatten()(pixels)], name="two")
    assert refused(made) == "'two' has 2 outputs; a spec has one image and one output"


def test_an_unknown_size_is_refused():
    pixels = keras.Input((None, None, 3))
    assert "unknown size" in refused(keras.Model(pixels, layers.ReLU()(pixels), name="open"))


def test_an_input_that_is_not_an_image_is_refused():
    row = keras.Input((7,))
    assert "a spec takes an image" in refused(keras.Model(row, layers.Dense(2)(row), name="row"))


def test_a_model_that_was_not_built_is_refused():
    assert "begin it with keras.Input" in refused(keras.Sequential([layers.Dense(2)]))


def test_a_subclassed_model_is_refused():
    assert "whose graph only its code knows" in refused(Subclassed())


def test_an_object_that_is_not_a_model_is_refused():
    assert refused(layers.ReLU()) == "to_spec takes a Keras model, got ReLU"


def test_weights_are_not_copied_into_another_model():
    made, other = model(layers.Conv2D(2, 3)), model(layers.Conv2D(2, 5))
    with pytest.raises(CallError, match="was not built from the spec"):
        copy_weights(made, other)
