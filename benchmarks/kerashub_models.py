"""KerasHub's image classifiers as specs: which go through `to_spec` with equal outputs, and why the others do not.

    pip install keras-hub
    python benchmarks/kerashub_models.py           # prints the table
    python benchmarks/kerashub_models.py --write   # and writes it into docs/coming-from.md

Each classifier is built small from its config, with random weights: presets are not downloaded. The layers that are
KerasHub's own are registered, the model becomes a spec, the spec a model, the weights are copied, and the outputs of
two images are compared.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasimg
from kerasimg.errors import KerasimgError

PAGE: Final = Path(__file__).parents[1] / "docs" / "coming-from.md"
BEGIN: Final = "<!-- the table, written by python benchmarks/kerashub_models.py --write -->\n"
END: Final = "<!-- the end of the table -->\n"
CLASSES: Final = 5
SMALL: Final = {"image_shape": (32, 32, 3)}


def hub() -> Any:
    """KerasHub's models."""
    import keras_hub

    return keras_hub.models


def resnet(block_type: str, **changes: Any) -> keras.Model:
    """A ResNet of four stages."""
    backbone = hub().ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 16, 24, 32],
        stackwise_num_blocks=[1, 2, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type=block_type,
        **(SMALL | changes),
    )
    return hub().ResNetImageClassifier(backbone, num_classes=CLASSES)


def on_tokens(backbone: keras.Model) -> keras.Model:
    """A classifier on the first token of a backbone for which KerasHub has none."""
    classes = keras.layers.Dense(CLASSES, activation="softmax")(backbone.output[:, 0])
    return keras.Model(backbone.input, classes)


def vit() -> keras.Model:
    backbone = hub().ViTBackbone(patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, **SMALL)
    return hub().ViTImageClassifier(backbone, num_classes=CLASSES)


def deit() -> keras.Model:
    sizes = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    return hub().DeiTImageClassifier(hub().DeiTBackbone(**sizes, **SMALL), num_classes=CLASSES)


def swin() -> keras.Model:
    backbone = hub().SwinTransformerBackbone(
        patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, **SMALL
    )
    return hub().SwinTransformerImageClassifier(backbone, num_classes=CLASSES)


def mit() -> keras.Model:
    backbone = hub().MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        hidden_dims=[8, 16],
        **SMALL,
    )
    return hub().MiTImageClassifier(backbone, num_classes=CLASSES)


def mobilenet() -> keras.Model:
    backbone = hub().MobileNetBackbone(
        stackwise_expansion=[[8, 8], [16, 16]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[8, 8], [16, 16]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=32,
        depthwise_filters=8,
        depthwise_stride=1,
        depthwise_residual=False,
        last_layer_filter=32,
        **SMALL,
    )
    return hub().MobileNetImageClassifier(backbone, num_classes=CLASSES)


def densenet() -> keras.Model:
    return hub().DenseNetImageClassifier(hub().DenseNetBackbone([1, 2], growth_rate=8, **SMALL), num_classes=CLASSES)


def vgg() -> keras.Model:
    return hub().VGGImageClassifier(hub().VGGBackbone([1, 1], [8, 8], **SMALL), num_classes=CLASSES)


def dinov2() -> keras.Model:
    return on_tokens(hub().DINOV2Backbone(8, 2, 16, 2, 32, position_embedding_shape=(32, 32, 3), **SMALL))


def dinov2_registers() -> keras.Model:
    shape = {"position_embedding_shape": (32, 32, 3), "num_register_tokens": 4}
    return on_tokens(hub().DINOV2Backbone(8, 2, 16, 2, 32, **shape, **SMALL))


MAKERS: Final[dict[str, Callable[[], keras.Model]]] = {
    "ResNet 18, 34": lambda: resnet("basic_block"),
    "ResNet 50 to 152 (bottleneck)": lambda: resnet("bottleneck_block"),
    "ResNet V2": lambda: resnet("bottleneck_block", use_pre_activation=True),
    "ViT": vit,
    "DeiT": deit,
    "Swin": swin,
    "MiT": mit,
    "MobileNet V3": mobilenet,
    "DenseNet": densenet,
    "VGG": vgg,
    "DINOv2": dinov2,
    "DINOv2 with registers": dinov2_registers,
}


def layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Every layer of a functional model and of those inside."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers_of(layer)
        else:
            yield layer


def compare(model: keras.Model) -> tuple[list[str], str]:
    """The layers that had to be registered; the largest difference of an output, or why there is no spec."""
    own = {type(layer) for layer in layers_of(model) if type(layer).__module__.startswith("keras_hub.")}
    names = sorted(cls.__name__ for cls in own)
    try:
        for cls in own:
            kerasimg.register(cls, replace=True)
        built = kerasimg.build(kerasimg.to_spec(model))
        kerasimg.copy_weights(model, built)
    except KerasimgError as error:
        reason = str(error).splitlines()[0].partition(": ")[2]
        return names, "refused: " + reason.replace("|", "\\|")
    images = np.random.RandomState(0).uniform(0, 255, (2, *model.input_shape[1:])).astype("float32")
    apart = np.abs(model.predict(images, verbose=0) - built.predict(images, verbose=0)).max()
    return names, f"{apart:.0e}" if apart else "0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/coming-from.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = ["| KerasHub's | registered | difference |", "| --- | --- | --- |"]
    for name, make in MAKERS.items():
        registered, result = compare(make())
        lines.append(f"| {name} | {', '.join(f'`{each}`' for each in registered)} | {result} |")
        print(lines[-1], flush=True)
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
