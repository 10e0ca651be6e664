import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.models.budget import Budget, no_variables
from kerasimg.models.build import construct
from kerasimg.models.graph import Graph
from kerasimg.models.outline import outline
from kerasimg.spec.arguments import entry, known

Folder = Callable[..., Path]
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype("float32")

BODY = {"layer": "Conv2D", "name": "body", "filters": 4, "kernel_size": 3}
HEAD = [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": 10}]


def spec(*nodes: dict[str, Any], size: int = 32, scale: Any = "auto", **sections: Any) -> dict[str, Any]:
    return {
        "kerasimg": 1,
        "name": "tiny",
        "image": {"size": [size, size], "scale": scale},
        "model": list(nodes),
        **sections,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """folder(inner={...}, outer={...}) writes these specs as files and gives the last one's path."""

    def write(**specs: dict[str, Any]) -> Path:
        for name, document in specs.items():
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(document))
        return path

    return write


@pytest.mark.parametrize("backbone", known("backbones"))
def test_every_model_of_keras_applications_is_a_backbone_at_its_smallest_size(backbone: str):
    size = entry("backbones", backbone)["min_size"]
    document = spec({"backbone": backbone, "name": "base"}, size=size)
    with no_variables():
        image = keras.Input((size, size, 3), name="image")
        graph = Graph(kerasimg.load(document), Budget())
        features = graph.make(image)
        height, width, channels = features.shape[1:]
        assert 1 <= height == width <= 3
        assert channels >= 512
        assert graph.layers["base"].name == "base"
        assert graph.budget.params == graph.layers["base"].count_params() > 900_000


@pytest.mark.parametrize("backbone", ["MobileNetV2", "VGG16", "DenseNet121"])
def test_a_backbone_gives_what_keras_gives_after_its_preprocessing(backbone: str):
    ours = kerasimg.build(spec({"backbone": backbone, "name": "base"}))
    constructor = getattr(keras.applications, backbone)
    plain = constructor(include_top=False, weights=None, input_shape=(32, 32, 3))
    plain.set_weights(ours.get_weights())
    pixels = importlib.import_module(constructor.__module__).preprocess_input(PIXELS.copy())
    wanted = np.asarray(plain(pixels))
    np.testing.assert_allclose(ours(PIXELS), wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())


def test_arguments_of_a_backbone_reach_its_constructor():
    model = kerasimg.build(spec({"backbone": "MobileNetV2", "alpha": 0.35, "pooling": "avg"}))
    assert model.output_shape == (None, 1280)
    assert model.count_params() == 410_208


def test_a_frozen_backbone_does_not_train():
    model = kerasimg.build(spec({"backbone": "MobileNet", "alpha": 0.25, "trainable": False}, *HEAD))
    assert [variable.path for variable in model.trainable_variables] == ["dense/kernel", "dense/bias"]


def test_a_frozen_backbone_can_train_later():
    model = kerasimg.build(
        spec({"backbone": "MobileNet", "name": "base", "alpha": 0.25, "pooling": "avg", "trainable": False})
    )
    base = model.get_layer("base")
    base.trainable = True
    model.compile("sgd", "mean_squared_error", run_eagerly=True)  # one step: tracing it would take longer
    before = [np.array(variable) for variable in base.trainable_variables]
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    model.fit(images, np.ones((4, 256)), verbose=0)
    after = base.trainable_variables
    assert all((one != np.array(other)).any() for one, other in zip(before[-3:], after[-3:], strict=True))


def test_several_backbones_have_each_their_own_scale():
    model = kerasimg.build(
        spec(
            {"backbone": "MobileNet", "name": "symmetric", "alpha": 0.25, "pooling": "avg"},
            {"backbone": "VGG16", "name": "caffe", "inputs": "in", "pooling": "avg"},
            {"backbone": "MobileNetV3Small", "name": "inside", "inputs": "in", "pooling": "avg"},
            {"layer": "Concatenate", "inputs": ["symmetric", "caffe", "inside"]},
        )
    )
    as_mobilenet = keras.applications.mobilenet.preprocess_input(PIXELS.copy())
    as_vgg = keras.applications.vgg16.preprocess_input(PIXELS.copy())
    parts = [
        model.get_layer("symmetric")(as_mobilenet),
        model.get_layer("caffe")(as_vgg),
        model.get_layer("inside")(PIXELS),
    ]
    wanted = np.concatenate([np.asarray(part) for part in parts], axis=1)
    np.testing.assert_allclose(model(PIXELS), wanted, rtol=1e-3, atol=1e-4)


def test_backbones_of_one_scale_share_it():
    model = kerasimg.build(
        spec(
            {"backbone": "MobileNet", "name": "one", "alpha": 0.25, "pooling": "avg"},
            {"backbone": "MobileNetV2", "name": "two", "inputs": "in", "alpha": 0.35, "pooling": "avg"},
            {"layer": "Concatenate", "inputs": ["one", "two"]},
        )
    )
    assert [layer.name for layer in model.layers if isinstance(layer, keras.layers.Rescaling)] == ["image_scale"]


@pytest.mark.parametrize("backbone", ["EfficientNetB0", "EfficientNetV2B0", "MobileNetV3Small", "ConvNeXtTiny"])
def test_a_scale_of_its_own_is_refused_for_a_backbone_that_scales_inside(backbone: str):
    with pytest.raises(SpecError, match=f'image.scale: {backbone} scales the pixels itself: leave "auto"'):
        kerasimg.build(spec({"backbone": backbone}, scale="unit"))


def test_a_scale_of_its_own_is_used_for_any_other_backbone():
    model = kerasimg.build(spec({"backbone": "MobileNet", "name": "base", "alpha": 0.25}, scale="unit"))
    np.testing.assert_allclose(model(PIXELS), model.get_layer("base")(PIXELS / 255), rtol=1e-4, atol=1e-5)


def test_a_backbone_after_another_layer_gets_no_second_scale():
    model = kerasimg.build(spec({"layer": "ReLU"}, {"backbone": "MobileNet", "alpha": 0.25}))
    scales = [(layer.scale, layer.offset) for layer in model.layers if isinstance(layer, keras.layers.Rescaling)]
    assert scales == [(1 / 255, 0.0)]


def test_a_image_below_a_backbones_smallest_size_is_refused():
    with pytest.raises(SpecError, match=r"model\[0\] \(MobileNet\): .*at least 32x32"):
        kerasimg.build(spec({"backbone": "MobileNet"}, size=16))


def test_a_spec_is_a_backbone_without_its_head(folder: Folder):
    path = folder(
        inner={"kerasimg": 1, "model": [BODY, *HEAD]},
        outer=spec({"backbone": "inner.json", "name": "base", "trainable": False}, {"layer": "Flatten"}, size=5),
    )
    model = kerasimg.build(path)
    assert model.output_shape == (None, 3 * 3 * 4)
    assert [layer.name for layer in model.get_layer("base").layers] == ["image", "base_body"]
    assert not model.trainable_variables


def test_a_spec_says_by_features_where_its_head_begins(folder: Folder):
    layers = [BODY, {"layer": "MaxPooling2D", "name": "pooled"}, {"layer": "Dense", "units": 3}]
    inner = {"kerasimg": 1, "model": layers}
    outer = spec({"backbone": "inner.json"}, size=6)
    with pytest.raises(SpecError, match=r"inner\.json: features: cannot serve as a backbone: .* name the node"):
        kerasimg.build(folder(inner=inner, outer=outer))
    assert kerasimg.build(folder(inner={**inner, "features": "pooled"}, outer=outer)).output_shape == (None, 2, 2, 4)


@pytest.mark.parametrize(
    ("inner", "wanted"),
    [
        ({"image": {"scale": "symmetric"}, "model": [BODY, *HEAD]}, "symmetric"),
        ({"model": [BODY, *HEAD]}, "unit"),
        ({"model": [{"backbone": "MobileNet", "alpha": 0.25}, *HEAD]}, "symmetric"),
    ],
)
def test_a_spec_as_a_backbone_has_its_pixels_as_it_wants_them(folder: Folder, inner: dict[str, Any], wanted: str):
    outer = spec({"backbone": "inner.json", "name": "base"})
    model = kerasimg.build(folder(inner={"kerasimg": 1, **inner}, outer=outer))
    scaled = PIXELS / 127.5 - 1 if wanted == "symmetric" else PIXELS / 255
    np.testing.assert_allclose(model(PIXELS), model.get_layer("base")(scaled), rtol=1e-3, atol=1e-4)


def test_params_of_a_spec_are_given_as_arguments(folder: Folder):
    inner = {"kerasimg": 1, "params": {"width": None}, "model": [{**BODY, "filters": "=width"}, *HEAD]}
    outer = spec({"backbone": "inner.json", "width": "=3 * k"}, size=6, params={"k": 2})
    assert kerasimg.build(folder(inner=inner, outer=outer)).output_shape == (None, 4, 4, 6)


def test_a_spec_twice_as_a_backbone_has_two_sets_of_weights(folder: Folder):
    model = kerasimg.build(
        folder(
            inner={"kerasimg": 1, "model": [BODY, *HEAD]},
            outer=spec(
                {"backbone": "inner.json", "name": "left"},
                {"backbone": "inner.json", "name": "right", "inputs": "in"},
                {"layer": "Add", "inputs": ["left", "right"]},
                size=6,
            ),
        )
    )
    left, right = (model.get_layer(name).get_weights()[0] for name in ("left", "right"))
    assert (left != right).any()


def test_the_layers_of_a_backbone_belong_to_its_node():
    built = construct(kerasimg.load(spec({"backbone": "MobileNet", "name": "base", "alpha": 0.25}, *HEAD)))
    assert built.members == {
        "base": ["base"],
        "global_average_pooling2d": ["global_average_pooling2d"],
        "dense": ["dense"],
    }


def test_a_backbone_gives_the_feature_maps_that_are_named_with_the_weights_of_the_whole(folder: Folder):
    first = {"layer": "Conv2D", "name": "first", "filters": 2, "kernel_size": 3}
    last = {"layer": "Conv2D", "name": "last", "filters": 8, "kernel_size": 3}
    whole = kerasimg.build(folder(inner=spec(first, BODY, last)), weights=None)
    pool = {"layer": "GlobalAveragePooling2D"}
    nodes = [
        {"backbone": "inner.json", "name": "base", "weights": "w.weights.h5", "features": ["first", "body"]},
        {"reuse": "base", "name": "again", "inputs": "in"},
        {**pool, "inputs": "base.first", "name": "fine"},
        {**pool, "inputs": "base", "name": "coarse"},
        {**pool, "inputs": "again.first", "name": "twice"},
        {"layer": "Concatenate", "inputs": ["fine", "coarse", "twice"]},
    ]
    path = folder(inner=spec(first, BODY, last, *HEAD, features="last"), outer=spec(*nodes))
    whole.save_weights(path.with_name("w.weights.h5"))
    model = kerasimg.build(path)
    assert [layer.name for layer in model.get_layer("base").layers] == ["image", "base_first", "base_body"]
    fine, coarse = (np.asarray(keras.ops.mean(layer, (1, 2))) for layer in _maps(whole, PIXELS / 255))
    np.testing.assert_allclose(model(PIXELS), np.concatenate([fine, coarse, fine], axis=1), rtol=1e-4, atol=1e-5)
    assert [part.inputs for part in outline(kerasimg.load(path)).nodes][2:5] == [("base",), ("base",), ("again",)]


def _maps(whole: keras.Model, pixels: Any) -> Iterator[Any]:
    """The outputs of the first two convolutions."""
    for name in ("first", "body"):
        pixels = whole.get_layer(name)(pixels)
        yield pixels


def test_the_feature_maps_of_keras_applications_are_its_layers():
    maps = ["conv_pw_3_relu", "conv_pw_11_relu"]
    model = kerasimg.build(spec({"backbone": "MobileNet", "alpha": 0.25, "name": "base", "features": maps}))
    assert model.get_layer("base").output_shape == [(None, 8, 8, 32), (None, 2, 2, 128)]
    assert model.output_shape == (None, 2, 2, 128)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"name": "base", "features": ["bod"]},
            r"model\[0\] \(inner.json\).features.*no node 'bod'; did you mean 'body'",
        ),
        ({"name": "base", "features": "body"}, 'expected a list of names of nodes of the backbone, got "body"'),
        ({"name": "base", "features": ["body", "body"]}, "expected each name once"),
        ({"features": ["body"]}, "the node needs a 'name', by which later nodes take them: NAME.body"),
    ],
)
def test_wrong_feature_maps_are_refused(node: dict[str, Any], message: str, folder: Folder):
    path = folder(inner=spec(BODY, *HEAD), outer=spec({"backbone": "inner.json", **node}))
    with pytest.raises(SpecError, match=message):
        kerasimg.build(path)
