"""Reader of PyTorch checkpoints of timm or Hugging Face: what one says of itself, and the model with its weights.

Nothing of a checkpoint is executed: `config.json` and the header of the safetensors file are read within the limits of
`kerasimg.boundary`, a converter turns them into a zoo spec (see `converters.py`), and every shape is compared before
a model gets memory.
"""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import keras

from kerasimg import boundary
from kerasimg.catalog import ZOO, load_to_build
from kerasimg.errors import CallError, WeightsError, listed
from kerasimg.models import converters
from kerasimg.models.hub_client import hub_client
from kerasimg.models.scaling import IMAGENET_MEAN, IMAGENET_STD
from kerasimg.spec.load import Spec

HUB = "hf://"
Construct = Callable[[Spec, Callable[[keras.Model], None]], keras.Model]
"""Builds the model of a spec without weights, and shows it before its variables have values."""
CONFIG, CARD, PREPROCESSOR = "config.json", "README.md", "preprocessor_config.json"
WEIGHTS = "model.safetensors"
PICKLES = frozenset({".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"})
MAX_SIDE = 4096
"""Pixels of a side of the image that a checkpoint may ask for."""
MAX_CLASSES = 1_000_000
MAX_LINE = 500
"""Characters of the name of a class, and of a licence."""
IMAGENET_CLASSES = ZOO / "imagenet.classes.json"
FILTERS = ("bicubic", "bilinear", "nearest", "lanczos")
"""The `interpolation` of timm that the section `image` has, too."""
CROP_MODES = {"center": "crop", "squash": "stretch", "border": "pad"}
"""The `crop_mode` of timm -> our `resize`."""
CROP_PCT = 0.875
"""The `crop_pct` of timm and ConvNeXt's preprocessor where a checkpoint says none."""
CONVNEXT_STRETCHES = 384
"""Pixels from which ConvNeXt's preprocessor stretches an image and crops nothing."""
PILLOW_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "area"}
"""`resample` of Hugging Face's preprocessors, the numbers of Pillow's filters."""


class Found(NamedTuple):
    """The files of a checkpoint on this machine."""

    weights: Path
    config: Path
    card: Path
    preprocessor: Path
    name: str
    source: str


class Facts(NamedTuple):
    """What a checkpoint says of itself."""

    architecture: str
    recipe: converters.Recipe
    image: dict[str, Any]
    classes: int
    """Of its head; 0 for none."""
    names: tuple[str, ...]
    """Of the classes, where it has them."""
    license: str | None


def load_hub_weights(model: keras.Model, backbone: str, source: str, construct: Construct) -> None:
    """Gives a backbone the weights of a checkpoint on the Hub.

    Args:
        model: the backbone, a spec of the zoo up to its features.
        backbone: the file of that spec, "zoo/vit.json".
        source: `hf://owner/name@commit`.
        construct: builds the checkpoint's own model.

    Raises:
        CallError: if there is no such checkpoint, or no converter knows it.
        WeightsError: if it is of another family or another size.
    """
    with open_files(source, None) as found:
        facts = read_facts(found)
        if backbone.removeprefix("zoo/") != facts.recipe.spec:
            raise WeightsError(f"'{source}' is a checkpoint of zoo/{facts.recipe.spec}, and the backbone is {backbone}")
        values = load_model(found, facts, construct).weights[: len(model.weights)]
    for mine, theirs in zip(model.weights, values, strict=True):
        if mine.shape != theirs.shape:
            raise WeightsError(
                f"'{source}': expected {mine.path} of shape {tuple(mine.shape)}, found {tuple(theirs.shape)}; "
                f"give the backbone the checkpoint's params: {converters.listed_params(facts.recipe)}"
            )
    model.set_weights([keras.ops.convert_to_numpy(value) for value in values])


# Files


@contextmanager
def open_files(source: str | os.PathLike[str], revision: str | None) -> Iterator[Found]:
    """The files of a checkpoint, from the Hub through its client's own cache."""
    text = os.fspath(source)
    if text.startswith(HUB):
        yield _download(text.removeprefix(HUB), revision)
        return
    if revision is not None:
        raise CallError(f"revision: expected a source that begins with {HUB}, got '{text}'")
    path = Path(text)
    if path.suffix.lower() in PICKLES:
        raise CallError(_is_pickle(path))
    if path.is_dir():
        path = _weights_in(path)
    elif not path.is_file():
        raise CallError(f"no file and no folder '{path}'; from the Hub: {HUB}owner/name")
    elif path.suffix != ".safetensors":
        raise CallError(f"'{path}': expected a .safetensors file with {CONFIG} beside it, or a folder with both")
    folder = path.parent
    if not (folder / CONFIG).is_file():
        raise CallError(f"'{path}': there is no {CONFIG} beside it, which says what the arrays are")
    name = folder.resolve().name if path.name == WEIGHTS else path.stem
    yield Found(path, folder / CONFIG, folder / CARD, folder / PREPROCESSOR, _file_name(name), str(source))


def _weights_in(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if len(files) == 1:
        return files[0]
    if files:
        raise CallError(f"'{folder}' has {len(files)} .safetensors files; name one, or join the parts")
    pickles = [path for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
    raise CallError(
        _is_pickle(pickles[0])
        if pickles
        else f"'{folder}' has no .safetensors file; download {WEIGHTS} and {CONFIG} of the checkpoint into it, or name "
        f"{HUB}OWNER/NAME"
    )


def _is_pickle(path: Path) -> str:
    return (
        f"'{path}' is a pickle, which can run any code when it is opened. Convert it where you trust it:\n"
        f'  python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{path}', weights_only=True), '{path.with_name(WEIGHTS)}')\""
    )


def _download(text: str, revision: str | None) -> Found:
    repo, _, named = text.partition("@")
    if named and revision is not None:
        raise CallError(f"revision: '{HUB}{text}' names one already")
    missing = f"the repository has no {WEIGHTS} or no {CONFIG}; pickles (.bin, .pth) are not read"
    with hub_client(repo, missing) as hub:
        from huggingface_hub.errors import EntryNotFoundError

        config = Path(hub.hf_hub_download(repo, CONFIG, revision=named or revision))
        commit = config.parent.name  # the client stores each commit in a folder of its name
        weights = Path(hub.hf_hub_download(repo, WEIGHTS, revision=commit))
        for name in (CARD, PREPROCESSOR):
            with suppress(EntryNotFoundError):
                hub.hf_hub_download(repo, name, revision=commit)
    return Found(
        weights,
        config,
        config.with_name(CARD),
        config.with_name(PREPROCESSOR),
        _file_name(repo.rpartition("/")[2]),
        f"{HUB}{repo}@{commit}",
    )


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "checkpoint"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[boundary.Bytes, Mapping[str, boundary.Tensor]]]:
    """The bytes of a safetensors file, mapped and not read, and its header."""
    place = f"'{path}' is not a valid safetensors file"
    if path.stat().st_size == 0:
        raise WeightsError(f"{place}: it is empty")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:2] == b"PK" or content[:1] == b"\x80":
            raise CallError(_is_pickle(path))
        with boundary.reading(place, WeightsError):
            tensors = boundary.safetensors_arrays(content)
        yield content, tensors


# What the checkpoint says


def read_facts(found: Found) -> Facts:
    config = _read_json(found.config)
    for key in ("auto_map", "custom_pipelines", "trust_remote_code"):
        if key in config:
            raise CallError(f"'{found.config}': {key}: the checkpoint asks for code of its own; nothing is executed")
    license = _license(found.card)
    if "architecture" in config:
        return _timm_facts(found, config, license)
    if "model_type" in config:
        return _transformers_facts(found, config, license)
    raise CallError(
        f"'{found.config}': expected 'architecture', as timm writes it, or 'model_type', as Hugging Face does"
    )


def _timm_facts(found: Found, config: Mapping[str, Any], license: str | None) -> Facts:
    cfg = {**config, **_object(found.config, config, "pretrained_cfg")}
    place = f"'{found.config}': pretrained_cfg"
    size = _whole_numbers(place, "input_size", cfg.get("input_size", [3, 224, 224]), 3, MAX_SIDE)
    if size[0] != 3:
        raise CallError(f"{place}.input_size: expected 3 channels, got {size[0]}")
    classes = _count(f"'{found.config}'", "num_classes", config.get("num_classes", cfg.get("num_classes", 0)))
    with boundary.reading(f"'{found.config}'"):
        recipe = converters.for_timm(config, classes, size[1:])
    image = timm_preprocessing(place, cfg, size[1:])
    names = cfg.get("label_names")
    descriptions = cfg.get("label_descriptions")
    if isinstance(names, list) and isinstance(descriptions, dict):
        names = [descriptions.get(name, name) if isinstance(name, str) else name for name in names]
    license = license or _one_line(cfg.get("license"))
    architecture = str(config["architecture"])[:100]
    return Facts(architecture, recipe, image, classes, _class_names(found, names, classes), license)


def timm_preprocessing(place: str, cfg: Mapping[str, Any], size: Sequence[int]) -> dict[str, Any]:
    """The section `image` of a checkpoint of timm; what it does not say is as in timm.

    Args:
        place: of `cfg`, for errors.
        cfg: its `pretrained_cfg`.
        size: of the image, (height, width).
    """
    mean = cfg.get("mean") or IMAGENET_MEAN
    image: dict[str, Any] = {
        "size": list(size),
        "resize": CROP_MODES[_name(place, "crop_mode", cfg.get("crop_mode") or "center", CROP_MODES)],
        "interpolation": _name(place, "interpolation", cfg.get("interpolation") or "bicubic", FILTERS),
        "scale": _scale(place, mean, cfg.get("std") or IMAGENET_STD),
        **_cropped(place, "crop_pct", _number(place, "crop_pct", cfg.get("crop_pct") or CROP_PCT)),
    }
    if image["resize"] == "pad":
        image["background"] = [round(255 * _number(place, "mean", value)) for value in _three(place, "mean", mean)]
    return image


def _cropped(place: str, key: str, fraction: float) -> dict[str, Any]:
    """The section's `crop_fraction`, where it is not 1."""
    if not 0.1 <= fraction <= 1:
        raise CallError(f"{place}.{key}: expected 0.1 to 1 of the resized image, got {fraction:g}")
    return {} if fraction == 1 else {"crop_fraction": fraction}


def transformers_preprocessing(place: str, steps: Mapping[str, Any]) -> dict[str, Any]:
    """The section `image`, except the size, of a checkpoint of Hugging Face.

    Args:
        place: of `steps`, for errors.
        steps: the content of its `preprocessor_config.json`.
    """
    kind = str(steps.get("image_processor_type") or steps.get("feature_extractor_type") or "")
    resample = steps.get("resample", 2)
    if type(resample) is not int or resample not in PILLOW_FILTERS:
        known = listed(map(str, PILLOW_FILTERS))
        raise CallError(f"{place}.resample: expected one of {known}, got {str(resample)[:40]!r}")
    factor = _number(place, "rescale_factor", steps.get("rescale_factor", 1 / 255))
    factor = factor if steps.get("do_rescale", True) else 1
    normalizes = steps.get("do_normalize", True)
    mean = steps.get("image_mean") or [0.5] * 3 if normalizes else [0.0] * 3
    std = steps.get("image_std") or [0.5] * 3 if normalizes else [1.0] * 3
    image = {"interpolation": PILLOW_FILTERS[resample], "scale": _scale(place, mean, std, factor)}
    if not steps.get("do_resize", True):
        raise CallError(f"{place}.do_resize: expected true; a model takes images of one size")
    size = steps.get("size", {})
    by_shorter_side = kind.startswith(("CLIP", "ConvNext", "Bit"))
    if not isinstance(size, dict):
        size = {"shortest_edge": size} if by_shorter_side else {"height": size, "width": size}
    if unknown := sorted(size.keys() - {"shortest_edge", "height", "width"}):
        raise CallError(f"{place}.size.{unknown[0][:40]}: expected shortest_edge, or height and width")
    edge = size.get("shortest_edge", size.get("height"))
    if edge is None:
        return {**image, "resize": "stretch"}
    whole = _number(place, "size", edge)
    if kind.startswith("ConvNext"):
        if whole >= CONVNEXT_STRETCHES:
            return {**image, "resize": "stretch"}
        share = _number(place, "crop_pct", steps.get("crop_pct") or CROP_PCT)
        return {**image, "resize": "crop", **_cropped(place, "crop_pct", share)}
    image["resize"] = "crop" if "shortest_edge" in size else "stretch"
    crop = steps.get("crop_size")
    if crop is None or not steps.get("do_center_crop", "shortest_edge" in size):
        return image
    inner = _number(
        place, "crop_size", crop.get("height", crop.get("shortest_edge")) if isinstance(crop, dict) else crop
    )
    return image | _cropped(place, "crop_size", _exact_fraction(inner, whole))


def _exact_fraction(side: float, resized: float) -> float:
    """The shortest `crop_fraction` with which `side` pixels are the centre of exactly `resized`."""
    share = side / max(resized, 1)
    rounded = round(share, 4)
    return rounded if rounded and math.floor(side / rounded) == resized else math.floor(1e6 * share) / 1e6


def _transformers_facts(found: Found, config: Mapping[str, Any], license: str | None) -> Facts:
    place = f"'{found.config}'"
    vision = _object(found.config, config, "vision_config")
    side = {**config, **vision}.get("image_size", 224)
    size = _whole_numbers(place, "image_size", side if isinstance(side, list) else [side, side], 2, MAX_SIDE)
    architectures = config.get("architectures") or [""]
    has_head = isinstance(architectures, list) and "ForImageClassification" in str(architectures[0])
    labels = _object(found.config, config, "id2label") if has_head else {}
    classes = _count(place, "id2label", len(labels) or (config.get("num_labels", 2) if has_head else 0))
    with boundary.reading(place):
        recipe = converters.for_transformers(config, classes, size)
    steps = _read_json(found.preprocessor) if found.preprocessor.is_file() else {}
    image = {"size": list(size), **transformers_preprocessing(f"'{found.preprocessor}'", steps)}
    names = [labels.get(str(index)) for index in range(classes)] if labels else None
    return Facts(str(config["model_type"])[:100], recipe, image, classes, _class_names(found, names, classes), license)


def _class_names(found: Found, names: Any, classes: int) -> tuple[str, ...]:
    """The names of the classes, each once; none where the checkpoint has none."""
    if names is None:
        names = _imagenet_names() if classes == 1000 else []
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise CallError(f"'{found.config}': the names of the classes: expected a list of strings")
    lines = [_one_line(name) for name in names]
    if None in lines:
        index = lines.index(None)
        raise CallError(
            f"'{found.config}': the name of class {index}: expected 1 to {MAX_LINE} characters without control "
            f"characters, got {names[index][:40]!a}"
        )
    names = [line for line in lines if line]
    if len(names) != classes:
        if names:
            raise CallError(f"'{found.config}': expected {classes:,} names of classes, found {len(names):,}")
        return ()
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    return tuple(f"{name} ({index})" if counted[name] > 1 else name for index, name in enumerate(names))


def _imagenet_names() -> list[str]:
    names = boundary.parse_json(IMAGENET_CLASSES.read_bytes())
    return [str(name) for name in names]


def _license(card: Path) -> str | None:
    """The licence in the metadata at the top of a model card."""
    if not card.is_file():
        return None
    with boundary.reading(f"'{card}'"):
        text = boundary.read_file(card, boundary.limit("text_bytes")).decode(errors="replace")
    head = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    named = re.search(r"(?m)^license:\s*([\w.+-]+)\s*$", head[1]) if head else None
    return _one_line(named[1]) if named else None


def _one_line(text: Any) -> str | None:
    """A text of a stranger as it can be shown, line breaks and tabs as spaces; None for one that should not be."""
    line = " ".join(text.split()) if isinstance(text, str) else ""
    return line if line.isprintable() and 0 < len(line) <= MAX_LINE else None


def _scale(place: str, mean: Any, std: Any, factor: float = 1 / 255) -> str | dict[str, Any]:
    """The section's `scale`, of the mean and standard deviation of pixels that were multiplied by a factor."""
    means = [_number(place, "mean", value) for value in _three(place, "mean", mean)]
    stds = [_number(place, "std", value) for value in _three(place, "std", std)]
    known = {
        "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
        "symmetric": ((0.5,) * 3, (0.5,) * 3),
        "unit": ((0.0,) * 3, (1.0,) * 3),
    }
    unit = math.isclose(factor, 1 / 255, rel_tol=1e-6)
    for name, (some_mean, some_std) in known.items():
        if unit and means == list(some_mean) and stds == list(some_std):
            return name
    if not factor or not all(stds):
        raise CallError(f"{place}: rescale_factor and std: expected numbers above 0")
    return {"mean": [round(value / factor, 6) for value in means], "std": [round(value / factor, 6) for value in stds]}


def _name(place: str, key: str, name: Any, known: Iterable[str]) -> str:
    if name not in known:
        raise CallError(f"{place}.{key}: expected one of {', '.join(known)}, got {str(name)[:40]!r}")
    return str(name)


# Checked values


def _read_json(path: Path) -> dict[str, Any]:
    with boundary.reading(f"'{path}'"):
        content = boundary.parse_json(boundary.read_file(path, boundary.limit("json_bytes")))
        if not isinstance(content, dict):
            raise ValueError("expected an object")
    return content


def _object(place: Path, config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise CallError(f"'{place}': {key}: expected an object")
    return value


def _whole_numbers(place: str, key: str, value: Any, count: int, most: int) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(type(side) is int and 0 < side <= most for side in value)
    if not whole or len(value) != count:
        raise CallError(f"{place}.{key}: expected {count} whole numbers from 1 to {most:,}, got {str(value)[:80]}")
    return tuple(value)


def _count(place: str, key: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_CLASSES:
        raise CallError(f"{place}: {key}: expected a whole number from 0 to {MAX_CLASSES:,}, got {str(value)[:80]}")
    return value


def _three(place: str, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise CallError(f"{place}.{key}: expected 3 numbers, got {str(value)[:80]}")
    return list(value)


def _number(place: str, key: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e6:
        raise CallError(f"{place}.{key}: expected a number, got {str(value)[:80]}")
    return float(value)


# Spec and weights


def extending(facts: Facts) -> dict[str, Any]:
    """The part of the spec that the model follows from."""
    params = dict(facts.recipe.params)
    image = dict(facts.image)
    if "size" in params:
        del image["size"]
    return {"kerasimg": 1, "extends": f"zoo/{facts.recipe.spec}", "params": params, "image": image}


def load_model(found: Found, facts: Facts, construct: Construct) -> keras.Model:
    """Returns the model with the weights of the checkpoint. It gets memory only once every array fits."""
    spec = load_to_build({"name": found.name, **extending(facts)})
    with _opened(found.weights) as (content, named):
        tensors = {name.removeprefix(facts.recipe.prefix): tensor for name, tensor in named.items()}
        plan: list[converters.Assignment] = []

        def inspect(model: keras.Model) -> None:
            inner = model if facts.classes else headless(model)
            with boundary.reading(f"'{found.weights}'", WeightsError):
                plan.extend(converters.assign_arrays(inner.weights, facts.recipe, spec.params, tensors))

        model = construct(spec, inspect)
        with boundary.reading(f"'{found.weights}'", WeightsError):
            for assignment in plan:
                assignment.variable.assign(converters.read_values(content, assignment, tensors))
    return model


def headless(model: keras.Model) -> keras.Model:
    """A model up to the input of its last layer with weights."""
    head = next(layer for layer in reversed(model.layers) if layer.weights)
    return keras.Model(model.input, head.input)
