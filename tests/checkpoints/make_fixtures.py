"""Writes the fixtures of this folder with timm: python tests/checkpoints/make_fixtures.py [NAME...].

Needs `pip install timm torch`; `tox -e timm -- --write` does both. Each model is shrunk by its own arguments, and its
weights are those of `seeded.py`, so that a fixture is the shapes of the arrays and ten logits.
"""

import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch

sys.path.insert(0, str(Path(__file__).parent))
import seeded

CLASSES = 10

SHRUNK: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", 64, {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}),
    "deit": ("deit_tiny_patch16_224", 64, {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}),
    "deit_distilled": (
        "deit_tiny_distilled_patch16_224",
        64,
        {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64},
    ),
    "convnext": ("convnext_tiny", 64, {"depths": [1, 1, 2, 1], "dims": [16, 24, 32, 48]}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        56,
        {"embed_dim": 24, "depths": [2, 2], "num_heads": [3, 6], "img_size": 56},
    ),
    "mixer": ("mixer_s32_224", 64, {"embed_dim": 48, "num_blocks": 2, "img_size": 64}),
}
"""Fixture -> the architecture, the size of its image, and the arguments that shrink it."""


def preprocessing(model: Any, size: int) -> dict[str, Any]:
    """The `pretrained_cfg` of a checkpoint, as timm stores it in config.json."""
    found = model.pretrained_cfg
    keys = ("interpolation", "crop_pct", "mean", "std", "license", "first_conv", "classifier")
    return {**{key: found[key] for key in keys if key in found}, "input_size": [3, size, size], "num_classes": CLASSES}


def make(name: str) -> dict[str, Any]:
    """Runs a shrunk model of timm with seeded weights."""
    architecture, size, arguments = SHRUNK[name]
    model = timm.create_model(architecture, num_classes=CLASSES, **arguments).eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(value) for key, value in seeded.arrays(shapes).items()})
    cfg = preprocessing(model, size)
    mean, std = (torch.tensor(cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    pixels = torch.from_numpy(seeded.image(size)).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        logits = model(((pixels - mean) / std)[None])[0].tolist()
    config = {"architecture": architecture, "num_classes": CLASSES, "model_args": arguments, "pretrained_cfg": cfg}
    return {"config": config, "size": size, "logits": [round(value, 7) for value in logits], "tensors": shapes}


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
