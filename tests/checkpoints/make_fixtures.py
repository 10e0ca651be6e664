"""Writes the fixtures of this folder with timm: python tests/checkpoints/make_fixtures.py [NAME...].

Needs timm and torch, as the tox environment `timm` has them. Each model is shrunk by its own arguments, and its
weights are those of `seeded.py`, so that a fixture is the shapes of the arrays and ten logits.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import efficientnet, ghostnet, mlp_mixer, mobilenetv3, vgg

sys.path.insert(0, str(Path(__file__).parent))
import seeded

CLASSES = 10

NARROW = {"channel_multiplier": 0.25, "depth_multiplier": 0.1}
TOKENS = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}


def of_tensorflow(make: Callable[..., Any]) -> Callable[..., Any]:
    """A maker of networks whose weights were trained with TensorFlow, as timm's functions that begin with `tf_`."""
    return functools.partial(make, bn_eps=1e-3, pad_type="same")


def narrow_vgg(_: str, depths: list[int], channels: list[int], num_features: int, num_classes: int) -> Any:
    """VGG, whose two hidden layers have 4096 units in timm."""

    class Narrow(vgg.VGG):
        num_features = head_hidden_size = property(lambda self: num_features, lambda self, value: None)

    stages = [layer for width, depth in zip(channels, depths, strict=True) for layer in (*[width] * depth, "M")]
    return Narrow(stages, num_classes=num_classes)


SHRUNK: dict[str, tuple[Any, ...]] = {
    "vit": ("vit_tiny_patch16_224", 64, TOKENS),
    "deit": ("deit_tiny_patch16_224", 64, TOKENS),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", 64, TOKENS),
    "convnext": ("convnext_tiny", 64, {"depths": [1, 1, 2, 1], "dims": [16, 24, 32, 48]}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        56,
        {"embed_dim": 24, "depths": [2, 2], "num_heads": [3, 6], "img_size": 56},
    ),
    "swin_v2": (
        "swinv2_tiny_window8_256",
        64,
        {
            "embed_dim": 24,
            "depths": [2, 2],
            "num_heads": [3, 6],
            "img_size": 64,
            "window_size": 8,
            "pretrained_window_sizes": [6, 4],
        },
    ),
    "mixer": (
        "mixer_s32_224",
        64,
        {"embed_dim": 48, "num_blocks": 2, "img_size": 64, "patch_size": 32},
        lambda _, **arguments: mlp_mixer.MlpMixer(**arguments),
    ),
    "resnet_basic": ("resnet18", 64, {"layers": [1, 2, 1, 1], "channels": [8, 16, 24, 32]}),
    "resnet": ("resnet50", 64, {"layers": [2, 1, 1, 1], "channels": [8, 16, 24, 32]}),
    "resnet_d": ("resnet50d", 64, {"layers": [2, 1, 1, 1], "channels": [8, 16, 24, 32]}),
    "wide_resnet": ("wide_resnet50_2", 64, {"layers": [2, 1, 1, 1], "channels": [8, 16, 24, 32]}),
    "resnext": ("resnext50_32x4d", 64, {"layers": [2, 1, 1, 1], "channels": [16, 32, 48, 64]}),
    "regnet_x": ("regnetx_002", 64, {}),
    "regnet_y": ("regnety_002", 64, {}),
    "efficientnet_tf": ("tf_efficientnet_b0", 64, NARROW, of_tensorflow(efficientnet._gen_efficientnet)),
    "efficientnet": ("efficientnet_b0", 64, NARROW, efficientnet._gen_efficientnet),
    "efficientnet_lite": ("tf_efficientnet_lite0", 64, NARROW, of_tensorflow(efficientnet._gen_efficientnet_lite)),
    "efficientnet_v2": (
        "tf_efficientnetv2_b0",
        64,
        {"channel_multiplier": 0.25},
        of_tensorflow(efficientnet._gen_efficientnetv2_base),
    ),
    "mobilenet_v2": ("mobilenetv2_100", 64, {"channel_multiplier": 0.35}, efficientnet._gen_mobilenet_v2),
    "mobilenet_v3": ("tf_mobilenetv3_small_075", 64, {}),
    "mobilenet_v3_large": ("mobilenetv3_large_100", 64, {}),
    "mobilenet_v4": ("mobilenetv4_conv_small", 64, {"channel_multiplier": 0.5}, mobilenetv3._gen_mobilenet_v4),
    "densenet": ("densenet121", 64, {"growth_rate": 8, "block_config": [2, 2, 2, 2]}),
    "vgg": (
        "vgg16",
        224,
        {"depths": [1, 1, 2, 1, 1], "channels": [8, 8, 12, 16, 16], "num_features": 32},
        narrow_vgg,
    ),
    "ghostnet": ("ghostnet_100", 64, {"width": 0.5}, ghostnet._create_ghostnet),
    "repvgg": ("repvgg_a0", 64, {}),
    "convnext_v2": ("convnextv2_atto", 64, {"depths": [1, 1, 2, 1], "dims": [16, 24, 32, 48]}),
    "deit3": ("deit3_small_patch16_224", 64, TOKENS),
    "dinov2": ("vit_small_patch14_dinov2", 56, {**TOKENS, "img_size": 56}),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", 56, {**TOKENS, "img_size": 56}),
    "siglip": ("vit_base_patch16_siglip_224", 64, TOKENS),
    "clip": ("vit_base_patch32_clip_224", 64, TOKENS),
    "beit": ("beit_base_patch16_224", 64, TOKENS),
    "eva02": ("eva02_tiny_patch14_224", 56, {**TOKENS, "img_size": 56}),
    "dinov3": ("vit_small_patch16_dinov3", 64, TOKENS),
}
"""Fixture -> the architecture, the size of its image, the arguments that shrink it, and what takes them if not timm."""


VARIANCES = {"repvgg": 3.0}
"""Fixture -> the variance that batch normalization divides by; RepVGG adds up three branches."""


def preprocessing(architecture: str, size: int) -> dict[str, Any]:
    """The `pretrained_cfg` of a checkpoint, as timm stores it in config.json."""
    found = timm.get_pretrained_cfg(architecture).to_dict()
    keys = ("interpolation", "crop_pct", "mean", "std", "license", "first_conv", "classifier")
    return {**{key: found[key] for key in keys if key in found}, "input_size": [3, size, size], "num_classes": CLASSES}


def make(name: str) -> dict[str, Any]:
    """Runs a shrunk model of timm with seeded weights."""
    architecture, size, arguments, *maker = SHRUNK[name]
    make = maker[0] if maker else timm.create_model
    model = make(architecture, num_classes=CLASSES, **arguments).eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    variance = VARIANCES.get(name, 1.0)
    arrays = seeded.arrays(shapes, variance)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    cfg = preprocessing(architecture, size)
    mean, std = (torch.tensor(cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    pixels = torch.from_numpy(seeded.image(size)).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        logits = model(((pixels - mean) / std)[None])[0].tolist()
    config = {"architecture": architecture, "num_classes": CLASSES, "model_args": arguments, "pretrained_cfg": cfg}
    return {
        "config": config,
        "size": size,
        "variance": variance,
        "logits": [round(value, 7) for value in logits],
        "tensors": shapes,
    }


def main() -> None:
    """Writes the fixtures that are named, or all."""
    seeded.FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or SHRUNK:
        made = make(name)
        tensors = ",\n  ".join(f"{json.dumps(key)}: {json.dumps(shape)}" for key, shape in made.pop("tensors").items())
        head = json.dumps(made)[:-1]
        (seeded.FOLDER / f"{name}.json").write_text(f'{head}, "tensors": {{\n  {tensors}\n}}}}\n')
        print(name, max(map(abs, made["logits"])))


if __name__ == "__main__":
    main()
