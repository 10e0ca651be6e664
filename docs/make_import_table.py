"""The tables of docs/importing.md: architectures of timm and Hugging Face in full size, imported and compared.

    python docs/make_import_table.py                    # every architecture; needs timm and torch: tox -e timm
    python docs/make_import_table.py vit_tiny_patch16_224   # those that are named; the others stay as they are
    python docs/make_import_table.py --transformers     # only those of Hugging Face; needs transformers
    python docs/make_import_table.py --pixels           # only the preprocessing
    python docs/make_import_table.py --page             # only the page, from import-parity.json

The weights are random, from the seed of `tests/checkpoints/seeded.py`: nothing is downloaded. The logits are those of
one image. The preprocessing is compared with timm's own transform on photographs of scikit-learn and scikit-image.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).parent
PAGE: Final = DOCS / "importing.md"
RESULTS: Final = DOCS / "import-parity.json"
CONVERTERS: Final = DOCS.parent / "zoo" / "converters"
BEGIN: Final = "<!-- {}, written by python docs/make_import_table.py -->\n"
END: Final = "<!-- the end of {} -->\n"

FURTHER: Final = ("deit_base_patch16_224", "mobilenetv4_hybrid_medium", "vit_base_patch32_siglip_256")
"""Architectures without a fixture in tests/checkpoints. The last has only weights of SigLIP 2."""
TOKENS: Final[dict[str, Any]] = {
    **{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 192, "image_size": 64}
}
STAGES: Final[dict[str, Any]] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "image_size": 64}
TRANSFORMERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ViTForImageClassification": ("ViTConfig", TOKENS),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", TOKENS),
    "BeitForImageClassification": (
        "BeitConfig",
        {**TOKENS, "use_relative_position_bias": True, "use_mean_pooling": True},
    ),
    "SwinForImageClassification": (
        "SwinConfig",
        {"embed_dim": 24, "depths": [2, 2], "num_heads": [3, 6], "image_size": 56},
    ),
    "ConvNextForImageClassification": ("ConvNextConfig", STAGES),
    "ConvNextV2ForImageClassification": ("ConvNextV2Config", STAGES),
    "ResNetForImageClassification": ("ResNetConfig", {"hidden_sizes": [256, 512, 64, 96], "depths": [2, 1, 1, 1]}),
    "Dinov2Model": ("Dinov2Config", {**TOKENS, "image_size": 56}),
    "DINOv3ViTModel": ("DINOv3ViTConfig", {**TOKENS, "num_register_tokens": 4}),
    "CLIPVisionModel": ("CLIPVisionConfig", TOKENS),
    "SiglipVisionModel": ("SiglipVisionConfig", TOKENS),
}
"""Class of the transformers package -> its config, and arguments that shrink it."""
MAX_LOGITS: Final = 1e-4
"""Largest difference of a log probability."""
MAX_PIXELS: Final = 1.0
"""Largest mean difference of the pixels of a photograph, of 255."""
PHOTOS: Final = ("china.jpg", "flower.jpg", "coffee.png", "chelsea.png", "astronaut.png")
SHAPES: Final = {"640x427": ("china.jpg", False), "300x451": ("chelsea.png", True), "512x512": ("astronaut.png", False)}
"""Width and height -> a photograph, and whether it is turned by 90 degrees."""
SIZE: Final = 224
CROPS: Final = (0.8, 0.875, 0.9, 0.95, 1.0)


def table(results: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [
        "| architecture of timm | converter | its lines | becomes | parameters | logits | pixels |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for architecture, row in sorted(results.items(), key=lambda item: (item[1]["family"], item[0])):
        family = row["family"]
        length = len((CONVERTERS / f"{family}.json").read_text(encoding="utf-8").splitlines())
        lines.append(
            f"| {architecture} | `{family}` | {length} | `zoo/{row['spec']}` | {row['parameters']:,} "
            f"| {row['logits']:.0e} | {row['pixels']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def transformers_table(results: dict[str, dict[str, Any]]) -> str:
    """The table of Hugging Face in Markdown."""
    lines = [
        "| class of transformers | converter | becomes | parameters | outputs |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for name, row in sorted(results.items()):
        lines.append(
            f"| {name} | `{row['family']}` | `zoo/{row['spec']}` | {row['parameters']:,} | {row['outputs']:.0e} |"
        )
    return "\n".join(lines) + "\n"


def pixel_table(rows: list[dict[str, Any]]) -> str:
    """The table of the preprocessing in Markdown."""
    lines = [
        f"| crop_mode | interpolation | crop_pct | {' | '.join(SHAPES)} |",
        "| --- | --- | --- |" + " ---: |" * len(SHAPES),
    ]
    for row in rows:
        apart = " | ".join(f"{row[shape]:.4f}" for shape in SHAPES)
        lines.append(f"| {row['crop_mode']} | {row['interpolation']} | {row['crop_pct']} | {apart} |")
    return "\n".join(lines) + "\n"


def page(text: str, results: dict[str, Any]) -> str:
    """The page with the current tables."""
    tables = {
        "architectures": table(results["architectures"]),
        "transformers": transformers_table(results["transformers"]),
        "pixels": pixel_table(results["pixels"]),
    }
    for name, lines in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{lines}\n{end}{after}"
    return text


def measure(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Imports each architecture and compares it with timm."""
    sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests" / "checkpoints")]
    import seeded

    of_fixtures = (seeded.read(name)["config"]["architecture"] for name in seeded.names())
    architectures = list(dict.fromkeys((*of_fixtures, *FURTHER)))
    if unknown := sorted(set(names) - set(architectures)):
        raise SystemExit(f"{unknown[0]}: expected one of {', '.join(architectures)}")
    for architecture in names or architectures:
        with tempfile.TemporaryDirectory() as folder:
            yield architecture, compare(architecture, Path(folder))
        gc.collect()


def compare(architecture: str, folder: Path) -> dict[str, Any]:
    """The differences of one architecture with random weights.

    Args:
        architecture: of timm.
        folder: for the checkpoint.
    """
    import keras
    import numpy as np
    import seeded
    import timm
    import torch

    import kerasimg
    from kerasimg.catalog import load_to_build

    keras.backend.clear_session()
    original = timm.create_model(architecture, num_classes=1000).eval()
    cfg = original.pretrained_cfg
    arrays = seeded.arrays({key: list(value.shape) for key, value in original.state_dict().items()})
    original.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    size = cfg["input_size"][1]
    pixels = seeded.image(size)
    mean, std = (torch.tensor(cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    normalized = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std
    settle_batch_statistics(original, normalized)
    arrays = {key: value.numpy() for key, value in original.state_dict().items()}
    with torch.inference_mode():
        wanted = torch.log_softmax(original(normalized[None])[0].double(), 0).numpy()

    (folder / "source").mkdir()
    seeded.write_safetensors(folder / "source" / "model.safetensors", arrays)
    keys = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    config = {
        "architecture": architecture,
        "num_classes": 1000,
        "pretrained_cfg": {key: cfg[key] for key in keys if key in cfg},
    }
    (folder / "source" / "config.json").write_text(json.dumps(config))
    imported = kerasimg.import_checkpoint(folder / "source", folder / "out")
    model = kerasimg.build(imported.spec)
    found = keras.ops.convert_to_numpy(model(pixels[None].astype("float32"), training=False))[0].astype("float64")
    spec = json.loads(imported.spec.read_text())
    return {
        "family": imported.family,
        "spec": spec["extends"].removeprefix("zoo/"),
        "parameters": imported.params,
        "range": float(f"{np.ptp(wanted):.2g}"),
        "logits": float(f"{np.abs(np.log(found) - wanted).max():.1e}"),
        "pixels": compare_preprocessing(cfg, load_to_build(imported.spec).image),
    }


def compare_transformers(name: str, folder: Path) -> dict[str, Any]:
    """The difference of one model of the transformers package with random weights: of log probabilities or features.

    Args:
        name: of the class.
        folder: for the checkpoint.
    """
    import keras
    import numpy as np
    import seeded
    import torch
    import transformers

    import kerasimg

    keras.backend.clear_session()
    config, arguments = TRANSFORMERS[name]
    original = getattr(transformers, name)(getattr(transformers, config)(**arguments)).eval()
    arrays = seeded.arrays({key: list(value.shape) for key, value in original.state_dict().items()})
    original.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    pixels = seeded.image(getattr(original.config, "image_size", 224))
    normalized = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    settle_batch_statistics(original, normalized)
    original.save_pretrained(folder / "source")
    with torch.inference_mode():
        output = original(normalized[None])
    has_head = hasattr(output, "logits")
    wanted = (torch.log_softmax(output.logits.double(), 1) if has_head else output.pooler_output)[0].numpy()
    imported = kerasimg.import_checkpoint(folder / "source", folder / "out")
    spec = imported.spec
    if not has_head:
        spec = spec.with_name("features.json")
        nodes = [{"backbone": imported.spec.name, "weights": "imagenet"}]
        spec.write_text(json.dumps({"kerasimg": 1, "image": {"size": list(pixels.shape[:2])}, "model": nodes}))
    model = kerasimg.build(spec)
    found = keras.ops.convert_to_numpy(model(pixels[None].astype("float32"), training=False))[0].astype("float64")
    return {
        "family": imported.family,
        "spec": json.loads(imported.spec.read_text())["extends"].removeprefix("zoo/"),
        "parameters": imported.params,
        "outputs": float(f"{np.abs((np.log(found) if has_head else found) - wanted).max():.1e}"),
    }


def settle_batch_statistics(model: Any, normalized: Any) -> None:
    """Sets the moving statistics of batch normalizations near those of an image; random ones let values explode."""
    import torch

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 0.9
        layer.train()
    with torch.inference_mode():
        if layers:
            model(torch.stack([normalized, normalized.flip(2)]))
    model.eval()


def compare_preprocessing(cfg: dict[str, Any], image: Any) -> float:
    """The largest mean difference, over the photographs, of the pixels that timm's transform and ours give a model."""
    return max(pixel_difference(cfg, image, photo) for photo in photos(PHOTOS))


def pixel_difference(cfg: dict[str, Any], image: Any, photo: Any) -> float:
    """The mean difference, of 255, of what timm's transform and ours make of a photograph.

    Args:
        cfg: the preprocessing as timm writes it.
        image: the section `image`.
        photo: an RGB image of Pillow.
    """
    import numpy as np
    import timm.data
    import torch

    from kerasimg.data.decode import decode

    mean, std = (torch.tensor(cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg))
    theirs = (transform(photo) * std + mean) * 255
    apart = np.abs(theirs.permute(1, 2, 0).numpy() - decode(np.asarray(photo), image))
    return round(float(apart.mean()), 4)


def of_cfg(cfg: dict[str, Any]) -> Any:
    """The section `image` of a checkpoint with this preprocessing."""
    from kerasimg.models.checkpoint_files import timm_preprocessing
    from kerasimg.spec.document import Image

    return Image(**timm_preprocessing("cfg", cfg, cfg["input_size"][1:]))


def compare_pixels() -> list[dict[str, Any]]:
    """The differences of photographs of several shapes, for every way that timm resizes them."""
    from kerasimg.models.checkpoint_files import CROP_MODES, FILTERS

    rows = []
    for mode in CROP_MODES:
        for interpolation in FILTERS:
            for crop_pct in CROPS if mode == "center" else CROPS[1::3]:
                cfg = {"input_size": (3, SIZE, SIZE), "interpolation": interpolation, "crop_pct": crop_pct}
                cfg |= {"crop_mode": mode, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
                image = of_cfg(cfg)
                row: dict[str, Any] = {key: cfg[key] for key in ("crop_mode", "interpolation", "crop_pct")}
                for shape, (name, turned) in SHAPES.items():
                    (photo,) = photos([name])
                    row[shape] = pixel_difference(cfg, image, photo.rotate(90, expand=True) if turned else photo)
                rows.append(row)
    return rows


def photos(names: Iterable[str]) -> list[Any]:
    """Photographs that installed packages bring, as RGB images of Pillow."""
    import skimage
    import sklearn
    from PIL import Image

    folders = [Path(sklearn.__file__).parent / "datasets" / "images", Path(skimage.__file__).parent / "data"]
    paths = [next(folder / name for folder in folders if (folder / name).exists()) for name in names]
    return [Image.open(path).convert("RGB") for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*")
    parser.add_argument("--transformers", action="store_true", help="compare only the models of Hugging Face")
    parser.add_argument("--pixels", action="store_true", help="compare only the preprocessing")
    parser.add_argument("--page", action="store_true", help="write only the page")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    far = []
    only_some = options.page or options.pixels or options.transformers
    for architecture, row in () if only_some else measure(options.architectures):
        results["architectures"][architecture] = row
        print(architecture, row, flush=True)
        if row["logits"] > MAX_LOGITS or row["pixels"] > MAX_PIXELS:
            far.append(architecture)
        write(results)
    if options.transformers or not (only_some or options.architectures):
        sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests" / "checkpoints")]
        for name in TRANSFORMERS:
            with tempfile.TemporaryDirectory() as folder:
                row = compare_transformers(name, Path(folder))
            results.setdefault("transformers", {})[name] = row
            print(name, row, flush=True)
            far += [name] if row["outputs"] > MAX_LOGITS else []
            write(results)
    if options.pixels:
        import timm

        for architecture, row in results["architectures"].items():
            cfg = timm.get_pretrained_cfg(architecture).to_dict()
            row["pixels"] = compare_preprocessing(cfg, of_cfg(cfg))
    if not options.page and not options.transformers and not options.architectures:
        results["pixels"] = compare_pixels()
        far += [str(row) for row in results["pixels"] if max(row[shape] for shape in SHAPES) > MAX_PIXELS]
        write(results)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    if far:
        raise SystemExit(
            f"the difference is above {MAX_LOGITS} in logits or {MAX_PIXELS} of 255 in pixels: {', '.join(far)}"
        )


def write(results: dict[str, Any]) -> None:
    """Stores what was measured so far."""
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
