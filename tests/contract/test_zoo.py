"""Every spec that ships meets its card and its `expect` section, and equals the network of Keras where there is one.

Every model of keras.applications also becomes a spec through `to_spec`. It is made once for both comparisons.
"""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import keras
import numpy as np
import pytest

# The published ImageNet weights are in a format that Keras reads but has no public function to write.
from keras.src.legacy.saving import legacy_h5_format

import kerasimg
from kerasimg.catalog import load, load_to_build, read_zoo, zoo_names
from kerasimg.models.budget import Budget, no_variables
from kerasimg.models.graph import Graph
from kerasimg.models.to_spec import copy_weights, to_spec
from kerasimg.spec.arguments import entry

SMALL: dict[str, dict[str, Any]] = {
    "branched": {"size": 32},
    "convmixer": {"size": 8, "depth": 1, "width": 16},
    "convnext": {"size": 32, "depths": [1, 1, 1, 1], "channels": [8, 16, 32, 64]},
    "deit": {"size": 32, "variant": "tiny_distilled", "depth": 2, "width": 24},
    "densenet": {"size": 32, "depths": [1, 1, 1, 1], "growth": 8},
    "efficientnet": {"size": 32, "width": 0.25, "depth": 0.25},
    "efficientnet_lite": {"size": 32, "width": 0.25, "depth": 0.25},
    "efficientnet_lite0": {"size": 32},
    "efficientnet_lite1": {"size": 32, "width": 0.25, "depth": 0.25},
    "efficientnet_lite2": {"size": 32, "width": 0.25, "depth": 0.25},
    "efficientnet_v2": {"size": 32, "width": 0.25, "depths": [1, 1, 1, 1, 1, 1]},
    "ghostnet": {"size": 32, "width": 0.5},
    "mlp_mixer": {"variant": "s32", "size": 64, "depth": 2, "width": 16},
    "mobilenet": {"size": 32},
    "mobilenet_v1": {"size": 32, "alpha": 0.25},
    "mobilenet_v2": {"size": 32, "alpha": 0.35},
    "mobilenet_v3": {"size": 32, "variant": "small", "alpha": 0.75},
    "mobilenet_v4": {"size": 32, "alpha": 0.25},
    "modern_vit": {"variant": "dinov3_s16", "size": 32, "patch": 8, "depth": 1, "width": 32, "heads": 2},
    "recipes/finetune": {"size": 32},
    "recipes/from_scratch": {"size": 28, "channels": 1, "width": 16},
    "recipes/imbalanced": {"size": 32},
    "recipes/multilabel": {"size": 32},
    "recipes/robust": {"size": 32},
    "recipes/speedrun": {"size": 28, "channels": 1, "width": 16},
    "recipes/tiny_device": {"size": 32},
    "recipes/transfer": {"size": 32},
    "regnet": {"size": 32, "depths": [1, 1, 2, 1], "widths": [8, 16, 24, 32]},
    "repvgg": {"size": 32, "depths": [1, 2, 1, 1], "a": 0.125, "b": 0.125},
    "resnet": {"size": 32, "variant": "18", "depths": [1, 1, 1, 1]},
    "resnet_v2": {"size": 32, "depths": [2, 2, 2, 2]},
    "shufflenet_v2": {"size": 32, "variant": "0.5x"},
    "simple_cnn": {"size": 32},
    "small_resnet": {"size": 28, "channels": 1, "depth": 8},
    "small_vit": {"size": 28, "channels": 1, "depth": 2, "width": 32},
    "squeezenet": {"size": 64},
    "swin": {"size": 32, "depths": [2, 2], "width": 24},
    "swin_v2": {"size": 32, "depths": [2, 2], "width": 24, "window": 4},
    "vgg": {"size": 32, "units": 16},
    "vit": {"size": 32, "depth": 2, "width": 24, "heads": 3},
    "wide_resnet": {"size": 32, "depth": 10, "width": 1},
    "xception": {"size": 71, "middle": 1},
}
"""Every spec, with params that make it small."""

APPLICATIONS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    *(("mobilenet_v1", {"alpha": a}, "MobileNet", {"alpha": a}) for a in (0.25, 0.5, 0.75, 1.0)),
    *(("mobilenet_v2", {"alpha": a}, "MobileNetV2", {"alpha": a}) for a in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)),
    *(
        ("mobilenet_v3", {"variant": size.lower(), **options}, f"MobileNetV3{size}", options)
        for size in ("Small", "Large")
        for options in ({"alpha": 1.0}, {"alpha": 0.75}, {"alpha": 1.25}, {"minimalistic": True})
    ),
    *(("resnet", {"variant": depth}, f"ResNet{depth}", {}) for depth in ("50", "101", "152")),
    *(("resnet_v2", {"variant": depth}, f"ResNet{depth}V2", {}) for depth in ("50", "101", "152")),
    *(("densenet", {"variant": depth}, f"DenseNet{depth}", {}) for depth in ("121", "169", "201")),
    *(("vgg", {"variant": depth}, f"VGG{depth}", {}) for depth in ("16", "19")),
    ("xception", {}, "Xception", {}),
    *(("efficientnet", {"variant": f"b{i}"}, f"EfficientNetB{i}", {}) for i in range(8)),
    *(
        ("efficientnet_v2", {"variant": v}, f"EfficientNetV2{v.upper()}", {})
        for v in ("b0", "b1", "b2", "b3", "s", "m", "l")
    ),
    *(("convnext", {"variant": v}, f"ConvNeXt{v.title()}", {}) for v in ("tiny", "small", "base", "large")),
]
"""A spec, its params, the constructor of keras.applications for the same network, and its arguments."""

OTHERS = ("ConvNeXtXLarge", "InceptionResNetV2", "InceptionV3", "NASNetLarge", "NASNetMobile")
"""The models of keras.applications that the zoo does not have."""

REWRITTEN = ("ConvNeXt", "InceptionResNetV2", "MobileNetV3")
"""Models with operations, private layers or nested models: `to_spec` writes other layers with the same effect."""

ONE_OF_EACH_FAMILY = (
    *("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionResNetV2", "InceptionV3"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception"),
)
SMALL_APPLICATIONS = ("EfficientNetB0", "MobileNet", "MobileNetV2", "MobileNetV3Small", "ResNet50V2", "Xception")
"""Those whose outputs are compared with the spec that `to_spec` writes, too."""

DEFAULTS: tuple[dict[str, Any], ...] = ({}, {"alpha": 1.0})
SMALLEST_PX = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}

OUTPUTS: list[tuple[str, dict[str, Any], str, dict[str, Any], int, str]] = [
    ("mobilenet_v1", {"alpha": 0.25}, "MobileNet", {"alpha": 0.25}, 64, "mobilenet"),
    ("mobilenet_v2", {"alpha": 0.35}, "MobileNetV2", {"alpha": 0.35}, 64, "mobilenet_v2"),
    ("mobilenet_v3", {"variant": "small"}, "MobileNetV3Small", {}, 64, ""),
    ("mobilenet_v3", {"variant": "large", "alpha": 0.75}, "MobileNetV3Large", {"alpha": 0.75}, 64, ""),
    ("resnet", {}, "ResNet50", {}, 32, "resnet"),
    ("resnet_v2", {}, "ResNet50V2", {}, 64, "resnet_v2"),
    ("densenet", {}, "DenseNet121", {}, 32, "densenet"),
    ("vgg", {}, "VGG16", {}, 32, "vgg16"),
    ("xception", {}, "Xception", {}, 71, "xception"),
    ("efficientnet", {}, "EfficientNetB0", {}, 64, ""),
    ("efficientnet_v2", {"variant": "s"}, "EfficientNetV2S", {}, 32, ""),
    ("convnext", {}, "ConvNeXtTiny", {}, 32, ""),
]
"""One small member of each family, a size in pixels, and the module with the `preprocess_input` of the Keras model."""

M = 1_000_000
PUBLISHED: list[tuple[str, dict[str, Any], float, float]] = [
    ("resnet", {"variant": "18"}, 11_689_512, 0),
    ("resnet", {"variant": "34"}, 21_797_672, 0),
    ("resnet", {"variant": "50d"}, 25_576_264, 0),
    ("resnet", {"variant": "101d"}, 44_568_392, 0),
    ("resnet", {"variant": "152d"}, 60_212_040, 0),
    ("resnet", {"variant": "wide50_2"}, 68_883_240, 0),
    ("resnet", {"variant": "wide101_2"}, 126_886_696, 0),
    ("resnet", {"variant": "x50_32x4d"}, 25_028_904, 0),
    ("resnet", {"variant": "x101_32x8d"}, 88_791_336, 0),
    ("squeezenet", {"variant": "1.0"}, 1_248_424, 0),
    ("squeezenet", {"variant": "1.1"}, 1_235_496, 0),
    ("shufflenet_v2", {"variant": "0.5x"}, 1_366_792, 0),
    ("shufflenet_v2", {"variant": "1x"}, 2_278_604, 0),
    ("shufflenet_v2", {"variant": "1.5x"}, 3_503_624, 0),
    ("shufflenet_v2", {"variant": "2x"}, 7_393_996, 0),
    ("wide_resnet", {"depth": 28, "width": 10}, 36_479_194, 0),
    ("wide_resnet", {"depth": 16, "width": 8}, 11.0 * M, 0.1 * M),
    ("wide_resnet", {"depth": 40, "width": 4}, 8.9 * M, 0.1 * M),
    ("small_resnet", {"depth": 20}, 0.27 * M, 0.01 * M),
    ("small_resnet", {"depth": 56}, 0.85 * M, 0.01 * M),
    ("small_resnet", {"depth": 110}, 1.7 * M, 0.1 * M),
    ("ghostnet", {"width": 0.5}, 2.6 * M, 0.1 * M),
    ("ghostnet", {"width": 1.0}, 5.2 * M, 0.1 * M),
    ("ghostnet", {"width": 1.3}, 7.3 * M, 0.1 * M),
    ("convmixer", {"variant": "256/8"}, 0.7 * M, 0.1 * M),
    ("convmixer", {"variant": "768/32"}, 21.1 * M, 0.1 * M),
    ("convmixer", {"variant": "1536/20"}, 51.6 * M, 0.1 * M),
    # The MLP-Mixer paper does not count the classifier.
    ("mlp_mixer", {"variant": "s32", "num_classes": 1}, 19 * M, 1 * M),
    ("mlp_mixer", {"variant": "s16", "num_classes": 1}, 18 * M, 1 * M),
    ("mlp_mixer", {"variant": "b32", "num_classes": 1}, 60 * M, 1 * M),
    ("mlp_mixer", {"variant": "b16", "num_classes": 1}, 59 * M, 1 * M),
    ("mlp_mixer", {"variant": "l32", "num_classes": 1}, 206 * M, 1 * M),
    ("mlp_mixer", {"variant": "l16", "num_classes": 1}, 207 * M, 1 * M),
    ("efficientnet_lite", {"variant": "lite0"}, 4_652_008, 0),
    ("efficientnet_lite", {"variant": "lite1"}, 5.4 * M, 0.1 * M),
    ("efficientnet_lite", {"variant": "lite2"}, 6.1 * M, 0.1 * M),
    ("efficientnet_lite", {"variant": "lite3"}, 8.2 * M, 0.1 * M),
    ("efficientnet_lite", {"variant": "lite4"}, 13.0 * M, 0.1 * M),
    # The counts of timm, which are also those of torchvision and the authors if they have the network.
    ("vit", {"variant": "ti16"}, 5_717_416, 0),
    ("vit", {"variant": "s32"}, 22_878_952, 0),
    ("vit", {"variant": "s16"}, 22_050_664, 0),
    ("vit", {"variant": "b32"}, 88_224_232, 0),
    ("vit", {"variant": "b16"}, 86_567_656, 0),
    ("vit", {"variant": "l32"}, 306_535_400, 0),
    ("vit", {"variant": "l16"}, 304_326_632, 0),
    ("deit", {"variant": "tiny"}, 5_717_416, 0),
    ("deit", {"variant": "small"}, 22_050_664, 0),
    ("deit", {"variant": "base"}, 86_567_656, 0),
    ("deit", {"variant": "tiny_distilled"}, 5_910_800, 0),
    ("deit", {"variant": "small_distilled"}, 22_436_432, 0),
    ("deit", {"variant": "base_distilled"}, 87_338_192, 0),
    ("mobilenet_v4", {"variant": "small"}, 3_774_024, 0),
    ("mobilenet_v4", {"variant": "medium"}, 9_715_512, 0),
    ("mobilenet_v4", {"variant": "large"}, 32_590_864, 0),
    ("mobilenet_v4", {"variant": "hybrid_medium"}, 11_074_648, 0),
    ("mobilenet_v4", {"variant": "hybrid_large"}, 37_764_624, 0),
    ("modern_vit", {"variant": "beit_b16"}, 86_530_984, 0),
    ("modern_vit", {"variant": "beit_l16"}, 304_430_568, 0),
    ("modern_vit", {"variant": "deit3_s16"}, 22_059_496, 0),
    ("modern_vit", {"variant": "deit3_b16"}, 86_585_320, 0),
    ("modern_vit", {"variant": "deit3_l16"}, 304_374_760, 0),
    ("modern_vit", {"variant": "clip_b32"}, 88_225_000, 0),
    ("modern_vit", {"variant": "clip_b16"}, 86_568_424, 0),
    ("modern_vit", {"variant": "clip_l14"}, 304_204_776, 0),
    ("modern_vit", {"variant": "siglip_b16"}, 93_653_224, 0),
    ("modern_vit", {"variant": "dinov2_s14"}, 22_441_192, 0),
    ("modern_vit", {"variant": "dinov2_b14"}, 87_348_712, 0),
    ("modern_vit", {"variant": "dinov2_l14"}, 305_392_616, 0),
    ("modern_vit", {"variant": "dinov2_s14_reg4"}, 22_442_344, 0),
    ("modern_vit", {"variant": "dinov2_b14_reg4"}, 87_351_016, 0),
    ("modern_vit", {"variant": "dinov2_l14_reg4"}, 305_395_688, 0),
    ("modern_vit", {"variant": "eva02_ti14"}, 5_695_144, 0),
    ("modern_vit", {"variant": "eva02_s14"}, 22_006_120, 0),
    ("modern_vit", {"variant": "eva02_b14"}, 86_527_720, 0),
    ("modern_vit", {"variant": "dinov3_s16"}, 21_971_944, 0),
    ("modern_vit", {"variant": "dinov3_b16"}, 86_410_216, 0),
    ("modern_vit", {"variant": "dinov3_l16"}, 304_104_424, 0),
    ("convnext", {"variant": "v2_atto"}, 3_708_400, 0),
    ("convnext", {"variant": "v2_femto"}, 5_233_240, 0),
    ("convnext", {"variant": "v2_pico"}, 9_066_280, 0),
    ("convnext", {"variant": "v2_nano"}, 15_623_800, 0),
    ("convnext", {"variant": "v2_tiny"}, 28_635_496, 0),
    ("convnext", {"variant": "v2_base"}, 88_717_800, 0),
    ("convnext", {"variant": "v2_large"}, 197_956_840, 0),
    ("swin", {"variant": "tiny"}, 28_288_354, 0),
    ("swin", {"variant": "small"}, 49_606_258, 0),
    ("swin", {"variant": "base"}, 87_768_224, 0),
    ("swin", {"variant": "large"}, 196_532_476, 0),
    ("swin_v2", {"variant": "tiny"}, 28_347_154, 0),
    ("swin_v2", {"variant": "small"}, 49.73 * M, 0.01 * M),
    ("swin_v2", {"variant": "base"}, 87_918_816, 0),
    ("swin_v2", {"variant": "large"}, 196.74 * M, 0.01 * M),
    ("small_vit", {"variant": "2/3x2"}, 0.28 * M, 0.01 * M),
    ("small_vit", {"variant": "4/3x2"}, 0.48 * M, 0.01 * M),
    ("small_vit", {"variant": "6/3x2"}, 3.33 * M, 0.01 * M),
    ("small_vit", {"variant": "7/3x2"}, 3.85 * M, 0.01 * M),
    ("small_vit", {"variant": "7/3x1"}, 3.76 * M, 0.01 * M),
    ("regnet", {"variant": "x200mf"}, 2.7 * M, 0.1 * M),
    ("regnet", {"variant": "x400mf"}, 5_157_512, 0),
    ("regnet", {"variant": "x600mf"}, 6.2 * M, 0.1 * M),
    ("regnet", {"variant": "x800mf"}, 7_259_656, 0),
    ("regnet", {"variant": "x1.6gf"}, 9_190_136, 0),
    ("regnet", {"variant": "x3.2gf"}, 15_296_552, 0),
    ("regnet", {"variant": "y200mf"}, 3.2 * M, 0.1 * M),
    ("regnet", {"variant": "y400mf"}, 4_344_144, 0),
    ("regnet", {"variant": "y600mf"}, 6.1 * M, 0.1 * M),
    ("regnet", {"variant": "y800mf"}, 6.3 * M, 0.1 * M),
    ("regnet", {"variant": "y1.6gf"}, 11_202_430, 0),
    ("regnet", {"variant": "y3.2gf"}, 19_436_338, 0),
    # The paper lists the deployed form; the counts of the training form are those of timm.
    ("repvgg", {"variant": "a0", "deploy": True}, 8.30 * M, 0.01 * M),
    ("repvgg", {"variant": "a1", "deploy": True}, 12.78 * M, 0.01 * M),
    ("repvgg", {"variant": "a2", "deploy": True}, 25.49 * M, 0.01 * M),
    ("repvgg", {"variant": "b0", "deploy": True}, 14.33 * M, 0.01 * M),
    ("repvgg", {"variant": "b1", "deploy": True}, 51.82 * M, 0.01 * M),
    ("repvgg", {"variant": "b2", "deploy": True}, 80.31 * M, 0.01 * M),
    ("repvgg", {"variant": "b3", "deploy": True}, 110.96 * M, 0.01 * M),
    ("repvgg", {"variant": "a0"}, 9.11 * M, 0.01 * M),
    ("repvgg", {"variant": "a1"}, 14.09 * M, 0.01 * M),
    ("repvgg", {"variant": "a2"}, 28.21 * M, 0.01 * M),
    ("repvgg", {"variant": "b0"}, 15.82 * M, 0.01 * M),
    ("repvgg", {"variant": "b1"}, 57.42 * M, 0.01 * M),
    ("repvgg", {"variant": "b2"}, 89.02 * M, 0.01 * M),
    ("repvgg", {"variant": "b3"}, 123.09 * M, 0.01 * M),
]
"""A spec, its params, the published number of trainable parameters, and its tolerance: one unit of the last digit."""


def variants(name: str) -> dict[str, dict[str, Any]]:
    return read_zoo(name).get("variants", {})


def without_values(make: Callable[[], Any]) -> Any:
    """A model whose variables have shapes but no values. `build` still checks `expect`."""
    with no_variables():
        return make()


def application(constructor: str, shape: tuple[int, int, int] | None = None, **arguments: Any) -> Any:
    return getattr(keras.applications, constructor)(weights=None, input_shape=shape, **arguments)


def named(rows: list[Any]) -> list[Any]:
    return [pytest.param(*row, id="-".join(map(str, (row[0], *row[1].values())))) for row in rows]


def shapes(model: Any, constructor: str) -> list[tuple[int, ...]]:
    """The shapes of a model's weights in layer order, in the form of the spec where Keras uses another one."""
    found = [tuple(variable.shape) for variable in model.weights]
    if constructor.startswith("EfficientNetB"):
        return found[3:]  # the mean, variance and count of its normalization, constants in the spec
    if constructor.startswith("ConvNeXt"):
        return [(7, 7, shape[3], 1) if shape[:3] == (7, 7, 1) else shape for shape in found]
    return found


def randomize(model: Any, pixels: np.ndarray) -> None:
    """Set weights and statistics so that the outputs depend on every layer and on the pixels, and do not saturate."""
    draw = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) == 1:
            low, high = (0.5, 1.5) if "gamma" in variable.path else (-0.1, 0.1)
            variable.assign(draw.uniform(low, high, variable.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(pixels, training=True)
    logits = np.log(keras.ops.convert_to_numpy(model(pixels, training=False)) + 1e-37)
    kernel = model.trainable_variables[-2]
    kernel.assign(kernel / logits.std())


def with_random_weights(
    constructor: str, arguments: dict[str, Any], size: int, module: str
) -> tuple[Any, np.ndarray, np.ndarray]:
    """A model of keras.applications, eight images, and the same images as the model takes them."""
    keras.utils.set_random_seed(0)
    model = application(constructor, (size, size, 3), **arguments)
    if constructor.startswith("EfficientNetB"):  # whose mean and variance come with the ImageNet weights
        normalization = model.get_layer(index=2)
        normalization.adapt_mean.assign([0.485, 0.456, 0.406])
        normalization.adapt_variance.assign(np.square([0.229, 0.224, 0.225]))
        normalization.finalize_state()
    draw = np.random.default_rng(0)
    colours, noise = draw.uniform(0, 255, (8, 1, 1, 3)), draw.uniform(0, 255, (8, size, size, 3))
    pixels = ((colours + noise) / 2).astype("float32")
    seen = getattr(keras.applications, module).preprocess_input(pixels.copy()) if module else pixels
    randomize(model, seen)
    return model, pixels, seen


def compute(model: Any, pixels: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(pixels, training=False))


def build_with_weights_of(theirs: Any, name: str, **params: Any) -> Any:
    """The model of a spec, with weights from a file of the format that keras.applications publishes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.h5"
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, theirs)
        return kerasimg.build(name, weights=path, **params)


def outputs(
    name: str, params: dict[str, Any], constructor: str, arguments: dict[str, Any], size: int, module: str
) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of the model of keras.applications and of the spec for eight images, with the same weights."""
    theirs, pixels, seen = with_random_weights(constructor, arguments, size, module)
    return compute(theirs, seen), compute(build_with_weights_of(theirs, name, size=size, **params), pixels)


def graph(model: Any) -> list[tuple[Any, ...]]:
    """For each layer in order: its class, the layers it is called on, the shapes of its weights and of its output."""
    numbers = {layer.name: number for number, layer in enumerate(model.layers)}
    return [
        (
            type(layer).__name__,
            [
                numbers[tensor._keras_history.operation.name]
                for node in layer._inbound_nodes
                for tensor in node.input_tensors
            ],
            [tuple(weight.shape) for weight in layer.weights],
            tuple(layer.output.shape),
        )
        for layer in model.layers
    ]


def assert_to_spec_keeps_graph(constructor: str, model: Any) -> None:
    with no_variables():
        spec = to_spec(model)
        image = keras.Input((*spec.image.size, spec.image.channels))
        built = keras.Model(image, Graph(spec, Budget()).make(image))
    assert built.count_params() == model.count_params() == spec.expect.params
    assert built.output_shape == model.output_shape
    assert [tuple(w.shape) for w in built.weights] == [tuple(w.shape) for w in model.weights]
    if not constructor.startswith(REWRITTEN):
        assert graph(built) == graph(model)


def test_every_spec_of_the_zoo_is_in_the_table():
    assert set(SMALL) == set(zoo_names())


@pytest.mark.parametrize("name", SMALL)
def test_a_spec_has_a_name_a_source_a_licence_and_an_expect_section(name: str):
    spec = load(name)
    assert spec.name == name.rsplit("/", 1)[-1]
    assert spec.about
    assert spec.card.source
    assert spec.card.license
    assert spec.expect.params
    assert spec.expect.output == [None, spec.params["num_classes"]]


@pytest.mark.parametrize("name", [name for name in SMALL if not variants(name)])
def test_a_spec_meets_its_expect_section(name: str):
    assert load_to_build(name).expect_holds
    without_values(lambda: kerasimg.build(name, weights=None))


def test_every_variant_is_compared_with_keras_or_with_its_paper():
    compared = {(row[0], row[1].get("variant")) for row in (*APPLICATIONS, *PUBLISHED)}
    assert {(name, variant) for name in SMALL for variant in variants(name)} <= compared


@pytest.mark.parametrize("name", [name for name in SMALL if variants(name)])
def test_every_variant_expects_its_own_number_of_parameters(name: str):
    specs = [load_to_build(name, params={"variant": variant}) for variant in variants(name)]
    assert all(spec.expect_holds for spec in specs)  # so building one, as the next tests do, checks it
    assert len({spec.expect.params for spec in specs}) == len(specs)


@pytest.mark.parametrize("name", [name for name in SMALL if name.startswith("recipes/")])
def test_a_users_file_can_extend_a_recipe(name: str, tmp_path: Path):
    path = tmp_path / "mine.json"
    document = {"kerasimg": 1, "extends": name, "params": {"num_classes": 3}, "set": {"fit.stages.0.epochs": 2}}
    path.write_text(json.dumps(document))
    mine, recipe = load(path), load(name)
    assert (mine.fit.stages[0].epochs, mine.params["num_classes"]) == (2, 3)
    assert (mine.compile.loss, mine.augment) == (recipe.compile.loss, recipe.augment)


@pytest.mark.parametrize("name", SMALL)
def test_a_spec_can_be_a_backbone(name: str):
    backbone = {"backbone": f"zoo/{name}.json", **SMALL[name], "weights": None}
    size, channels = SMALL[name]["size"], SMALL[name].get("channels", 3)
    image = {"size": [size, size], "channels": channels if isinstance(channels, int) else 3}
    spec = {"kerasimg": 1, "params": {"num_classes": 2}, "image": image, "model": [backbone]}
    features = without_values(lambda: kerasimg.build(spec, weights=None))
    assert features.output_shape[-1] > 2


@pytest.mark.parametrize("name", SMALL)
def test_a_spec_gives_probabilities_of_the_requested_number_of_classes(name: str):
    spec = load_to_build(name, params={"num_classes": 5, **SMALL[name]})
    model = kerasimg.build(spec, weights=None)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:])).astype("float32")
    probabilities = keras.ops.convert_to_numpy(model(pixels, training=False))
    assert probabilities.shape == (2, 5)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    if spec.task == "multiclass":
        assert probabilities.sum(axis=-1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("name", "params", "constructor", "arguments"), named(APPLICATIONS))
def test_a_spec_has_the_weights_of_its_keras_application_in_the_same_order_and_to_spec_its_graph(
    name: str, params: dict[str, Any], constructor: str, arguments: dict[str, Any]
):
    theirs = without_values(lambda: application(constructor, **arguments))
    ours = without_values(lambda: kerasimg.build(name, **params))
    assert theirs.input_shape in (ours.input_shape, (None, None, None, 3))
    assert [tuple(variable.shape) for variable in ours.weights] == shapes(theirs, constructor)
    assert ours.count_params() == theirs.count_params() - (7 if name == "efficientnet" else 0)
    if arguments in DEFAULTS:
        if theirs.input_shape[1] is None:
            theirs = without_values(lambda: application(constructor, (32, 32, 3), **arguments))
        assert_to_spec_keeps_graph(constructor, theirs)


@pytest.mark.parametrize("constructor", OTHERS)
def test_to_spec_keeps_the_graph_of_an_application_that_the_zoo_does_not_have(constructor: str):
    assert_to_spec_keeps_graph(constructor, without_values(lambda: application(constructor)))


@pytest.mark.parametrize("constructor", ONE_OF_EACH_FAMILY)
def test_to_spec_keeps_the_graph_of_a_backbone(constructor: str):
    size = SMALLEST_PX.get(constructor, 32)
    model = without_values(lambda: application(constructor, (size, size, 3), include_top=False))
    assert_to_spec_keeps_graph(constructor, model)


def test_all_models_of_keras_applications_are_compared():
    every = {name for name, thing in vars(keras.applications).items() if inspect.isfunction(thing)}
    assert len(every) == 40
    assert {row[2] for row in APPLICATIONS if row[3] in DEFAULTS} | set(OTHERS) == every


@pytest.mark.parametrize(("name", "params", "constructor", "arguments"), named(APPLICATIONS))
def test_a_spec_names_its_keras_application_as_the_source_of_its_imagenet_weights(
    name: str, params: dict[str, Any], constructor: str, arguments: dict[str, Any]
):
    own = load_to_build(name, params=params).pretrained.imagenet
    assert own is not None
    assert own.keras == constructor
    assert arguments.items() <= own.arguments.items()
    assert own.arguments.keys() <= (entry("backbones", constructor) or {})["args"].keys()


@pytest.mark.parametrize(("name", "params", "constructor", "arguments", "size", "module"), named(OUTPUTS))
def test_the_specs_of_the_zoo_and_of_to_spec_give_the_outputs_of_a_keras_application_with_its_weights(
    name: str, params: dict[str, Any], constructor: str, arguments: dict[str, Any], size: int, module: str
):
    theirs, pixels, seen = with_random_weights(constructor, arguments, size, module)
    expected = compute(theirs, seen)
    assert np.abs(expected[0] - expected[1]).max() > 1e-4
    ours = build_with_weights_of(theirs, name, size=size, **params)
    np.testing.assert_allclose(compute(ours, pixels), expected, rtol=0, atol=1e-5)
    if constructor in SMALL_APPLICATIONS:
        built = kerasimg.build(to_spec(theirs))
        copy_weights(theirs, built)
        np.testing.assert_allclose(compute(built, seen), expected, rtol=1e-4, atol=1e-7)
        for copied, weight in zip(built.get_weights(), theirs.get_weights(), strict=True):  # so set_weights works, too
            np.testing.assert_array_equal(copied, weight)


@pytest.mark.parametrize(("name", "params", "published", "digit"), named(PUBLISHED))
def test_a_spec_has_the_number_of_parameters_of_its_paper(
    name: str, params: dict[str, Any], published: float, digit: float
):
    model = without_values(lambda: kerasimg.build(name, **params))
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert abs(trainable - published) <= digit
