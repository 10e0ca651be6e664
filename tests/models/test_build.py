import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError, SpecError
from kerasimg.models.build import construct


def spec(*nodes: dict[str, Any], size: int = 8, **sections: Any) -> dict[str, Any]:
    return {"kerasimg": 1, "name": "tiny", "image": {"size": [size, size]}, "model": list(nodes), **sections}


CONV = {"layer": "Conv2D", "name": "conv", "filters": 4, "kernel_size": 3, "activation": "relu"}
HEAD = ({"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": 2, "activation": "softmax"})
PIXELS = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3)).astype("float32")


def test_a_node_may_have_the_name_of_a_layer_that_belongs_to_no_node():
    nodes = [{**CONV, "name": "image_scale"}, {**CONV, "name": "image"}, *HEAD]
    names = [layer.name for layer in kerasimg.build(spec(*nodes)).layers]
    assert names[:4] == ["image", "image_scale", "image_scale_1", "image_1"]


def test_a_build_is_a_plain_functional_model_of_keras_own_layers():
    model = kerasimg.build(spec(CONV, *HEAD))
    assert type(model) is keras.Model or type(model).__module__.startswith("keras.")
    assert model.name == "tiny"
    assert model.input_shape == (None, 8, 8, 3)
    assert model.output_shape == (None, 2)
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kernel_constraint", {"type": "MaxNorm", "axis": 7}),
        ("bias_constraint", {"type": "UnitNorm", "axis": [0, 1]}),
        ("kernel_regularizer", "OrthogonalRegularizer"),
    ],
)
def test_a_penalty_that_does_not_fit_its_variable_is_named_before_training(key: str, value: Any):
    kind = key.split("_")[1]
    with pytest.raises(SpecError, match=rf"the {kind} of conv/\w+ does not take its shape, [\dx]+: (Invalid|Inputs)"):
        kerasimg.build(spec({**CONV, key: value}, *HEAD))


@pytest.mark.parametrize(
    "node",
    [
        {"layer": "Softmax", "axis": 7},
        {"layer": "UnitNormalization", "axis": [1, 5]},
        {"layer": "Rescaling", "scale": [1, 2]},
        {"layer": "RMSNormalization", "axis": 1},
    ],
)
def test_arguments_that_only_fail_at_the_first_image_fail_when_the_model_is_built(node: dict[str, Any]):
    with pytest.raises(SpecError, match=r"model\[1\] \(\w+\): does not take 6x6x4: \S"):
        kerasimg.build(spec(CONV, node, *HEAD))


def test_a_build_takes_pixels_of_0_to_255():
    model = kerasimg.build(spec({"layer": "Flatten"}, size=1))
    assert model.predict(np.array([[[[0.0, 51.0, 255.0]]]]), verbose=0)[0] == pytest.approx([0, 0.2, 1])


def test_a_build_loads_where_kerasimg_was_never_imported(tmp_path: Path):
    model = kerasimg.build(spec(CONV, *HEAD, image={"size": [8, 8], "scale": "caffe"}))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", PIXELS)
    code = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model('model.keras')\n"
        "np.save('outputs.npy', model.predict(np.load('pixels.npy'), verbose=0))\n"
        "sys.exit(any(name.startswith('kerasimg') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), model.predict(PIXELS, verbose=0), atol=1e-6)


def test_a_build_trains_like_any_other_model():
    model = kerasimg.build(spec(CONV, *HEAD))
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [np.array(weight) for weight in model.get_weights()]
    model.fit(PIXELS, np.array([0, 1, 0]), verbose=0)
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


def test_layer_names_are_the_same_in_every_build():
    document = spec(CONV, {"layer": "ReLU"}, {"layer": "ReLU"}, {"layer": "Dropout", "rate": 0.5}, *HEAD)
    first, second = kerasimg.build(document), kerasimg.build(document)
    names = ["image", "image_scale", "conv", "re_lu", "re_lu_1", "dropout", "global_average_pooling2d", "dense"]
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers] == names


def test_equal_seeds_give_the_initial_weights_of_plain_keras():
    keras.utils.set_random_seed(3)
    ours = kerasimg.build(spec(CONV, {"layer": "Flatten"}, {"layer": "Dense", "units": 5}))
    keras.utils.set_random_seed(3)
    plain = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )
    for one, other in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_node_that_shall_not_train_does_not():
    model = kerasimg.build(spec({**CONV, "trainable": False}, *HEAD))
    assert [layer.name for layer in model.layers if layer.trainable_variables] == ["dense"]


def test_a_node_that_shall_not_train_can_be_made_to_later():
    model = kerasimg.build(spec({**CONV, "trainable": False}, *HEAD))
    model.get_layer("conv").trainable = True
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = np.array(model.get_layer("conv").kernel)
    model.fit(PIXELS, np.array([0, 1, 0]), verbose=0)
    assert (before != model.get_layer("conv").get_weights()[0]).any()


def test_a_reused_layer_has_its_weights_once():
    model = kerasimg.build(
        spec(
            {**CONV, "filters": 3, "padding": "same"},
            {"reuse": "conv", "name": "again"},
            {"layer": "Add", "inputs": ["conv", "again"]},
        )
    )
    assert model.count_params() == 3 * 3 * 3 * 3 + 3
    conv = model.get_layer("conv")
    once = conv(PIXELS / 255)
    np.testing.assert_allclose(model(PIXELS), once + conv(once), atol=1e-6)


def test_inputs_by_name_reach_the_arguments_of_that_name():
    model = kerasimg.build(
        spec(
            {"layer": "Reshape", "name": "tokens", "target_shape": [64, 3]},
            {"layer": "Dense", "name": "asked", "units": 6},
            {"layer": "Dense", "name": "known", "inputs": "tokens", "units": 5},
            {
                "layer": "MultiHeadAttention",
                "name": "attention",
                "inputs": {"query": "asked", "value": "known"},
                "num_heads": 2,
                "key_dim": 4,
            },
        )
    )
    assert model.output_shape == (None, 64, 6)
    attention = model.get_layer("attention")
    tokens = PIXELS.reshape(3, 64, 3) / 255
    asked, known = model.get_layer("asked")(tokens), model.get_layer("known")(tokens)
    np.testing.assert_allclose(model(PIXELS), attention(query=asked, value=known), atol=1e-5)


def test_blocks_tables_and_repeats_see_the_shape_of_what_enters_them():
    document = spec(
        {"block": "widen", "table": [["factor", "n"], [2, 1], [1, 3]]},
        *HEAD,
        blocks={
            "widen": {
                "args": {"factor": None, "n": 1},
                "nodes": [
                    {
                        "layer": "Conv2D",
                        "filters": "=in_channels * factor",
                        "kernel_size": "=3 if in_height > 4 else 1",
                        "strides": "=2 if i == 0 else 1",
                        "padding": "same",
                        "repeat": "=n",
                    },
                    {"layer": "Add", "inputs": ["in", "prev"], "when": "=in_channels == 6 and in_height == 99"},
                ],
            }
        },
    )
    convolutions = [layer for layer in kerasimg.build(document).layers if isinstance(layer, keras.layers.Conv2D)]
    assert [(layer.filters, layer.kernel_size[0], layer.strides[0]) for layer in convolutions] == [
        (6, 3, 2),
        (6, 1, 2),
        (6, 1, 1),
        (6, 1, 1),
    ]
    assert [layer.name for layer in convolutions] == [
        "widen_conv2d",
        "widen_1_conv2d",
        "widen_1_conv2d_1",
        "widen_1_conv2d_2",
    ]


def test_the_layers_of_a_block_belong_to_its_node():
    document = spec(
        {"block": "pair", "name": "body"},
        *HEAD,
        blocks={"pair": {"nodes": [{**CONV, "name": "a"}, {"layer": "BatchNormalization"}]}},
    )
    built = construct(kerasimg.load(document))
    assert built.members["body"] == ["body_a", "body_batch_normalization"]
    assert built.members["dense"] == ["dense"]


def test_a_model_that_meets_its_expectation_is_built():
    model = kerasimg.build(spec(CONV, *HEAD, expect={"params": 122, "output": [None, 2]}))
    assert model.count_params() == 122


def test_a_model_that_does_not_is_refused_with_both_figures():
    with pytest.raises(SpecError) as caught:
        kerasimg.build(spec(CONV, *HEAD, expect={"params": 123, "output": [None, 3]}))
    assert str(caught.value) == (
        "tiny: expect.params: expected 123, built 122\ntiny: expect.output: expected [None, 3], built [None, 2]"
    )


def test_an_expectation_does_not_bind_a_model_with_other_params():
    document = spec({**CONV, "filters": "=filters"}, *HEAD, params={"filters": 4}, expect={"params": 122})
    assert kerasimg.build(document).count_params() == 122
    assert kerasimg.build(document, filters=5).count_params() == 152


def test_an_expectation_that_names_the_param_binds_for_all_its_values():
    document = spec(
        {**CONV, "filters": "=filters"}, *HEAD, params={"filters": 4}, expect={"params": "=28 * filters + 10"}
    )
    with pytest.raises(SpecError, match="expected 150, built 152"):
        kerasimg.build(document, filters=5)


@pytest.mark.parametrize("node", [{"layer": "Dense", "units": 2}, {"block": "head"}])
def test_the_last_layer_of_a_mixed_precision_model_keeps_all_digits(node: dict[str, Any]):
    document = spec(CONV, {"layer": "Flatten"}, node, blocks={"head": {"nodes": [{"layer": "Dense", "units": 2}]}})
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = kerasimg.build(document)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("conv").compute_dtype == "bfloat16"
    assert model.layers[-1].compute_dtype == "float32"
    assert model.outputs[0].dtype == "float32"


def test_the_dtype_of_the_last_node_is_used():
    model = kerasimg.build(spec({"layer": "Flatten"}, {"layer": "Dense", "units": 2, "dtype": "float16"}))
    assert model.outputs[0].dtype == "float16"


def test_an_unknown_limit_is_named_with_the_nearest():
    with pytest.raises(CallError, match="no limit 'parms'; did you mean 'params'"):
        kerasimg.build(spec(*HEAD), limits={"parms": 3})


def test_a_loaded_spec_takes_further_params():
    loaded = kerasimg.load(spec({"layer": "Flatten"}, {"layer": "Dense", "units": "=units"}, params={"units": 2}))
    assert kerasimg.build(loaded).output_shape == (None, 2)
    assert kerasimg.build(loaded, units=7).output_shape == (None, 7)


def test_a_block_or_a_backbone_that_is_called_again_has_the_same_weights(tmp_path: Path):
    conv = {"layer": "Conv2D", "filters": 3, "kernel_size": 3, "padding": "same"}
    pooled = {"layer": "GlobalAveragePooling2D"}
    inner = {"kerasimg": 1, "image": {"scale": "symmetric"}, "model": [conv, pooled, {"layer": "Dense", "units": 2}]}
    (tmp_path / "inner.json").write_text(json.dumps(inner))
    model = [
        {"backbone": "inner.json", "name": "first", "weights": None},
        {"reuse": "first", "name": "second", "inputs": "in"},
        {"layer": "Subtract", "name": "backbones", "inputs": ["first", "second"]},
        {"block": "pair", "name": "third", "inputs": "first"},
        {"reuse": "third", "name": "fourth", "inputs": "first"},
        {"layer": "Subtract", "inputs": ["third", "fourth"]},
        {"layer": "Concatenate", "inputs": ["backbones", "prev"]},
    ]
    spec = {"kerasimg": 1, "image": {"size": [8, 8]}, "blocks": {"pair": {"nodes": [conv, conv]}}, "model": model}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    built = kerasimg.build(tmp_path / "spec.json")
    assert built.count_params() == 3 * (3 * 9 * 3 + 3)
    np.testing.assert_array_equal(built(np.full((1, 8, 8, 3), 200.0)), np.zeros((1, 8, 8, 6)))
