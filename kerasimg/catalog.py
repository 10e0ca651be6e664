"""References: "zoo/mobilenet.json", "mobilenet", a path -> a spec file; what the zoo holds; `load`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasimg.errors import CallError, listed, nearest, nearest_path
from kerasimg.spec import pack
from kerasimg.spec.inheritance import ZOO as ZOO
from kerasimg.spec.inheritance import Found
from kerasimg.spec.load import Spec, load_again, load_document, load_file
from kerasimg.spec.reader import read, shown

Reference = str | os.PathLike[str] | Mapping[str, Any] | Spec
"""A reference to a spec: a zoo name, a path, a dict, or a loaded spec."""


RECIPES = "recipes"
"""The folder of the zoo that holds the recipes."""
SCHEMA = "kerasimg-1.schema.json"
"""The JSON Schema of the format, beside the specs."""


def zoo_names() -> list[str]:
    """Names of the specs that ship: "mobilenet", "recipes/finetune", ..."""
    files = (
        path
        for path in (*ZOO.glob("*.json"), *(ZOO / RECIPES).glob("*.json"))
        if not path.name.endswith((".schema.json", ".classes.json"))
    )
    return sorted(path.relative_to(ZOO).with_suffix("").as_posix() for path in files)


def zoo_file(name: str) -> Found:
    """The file of a zoo spec; CallError when there is none."""
    if (found := in_zoo(name)) is None:
        raise CallError(f"no zoo spec {shown(_zoo_name(name))}{nearest_spec(name)} (see: kerasimg zoo list)")
    return found


def read_zoo(name: str) -> dict[str, Any]:
    """A zoo spec as its author wrote it."""
    return read(zoo_file(name).path)


def load(
    ref: Reference,
    *,
    overrides: Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
    partial: bool = False,
    **params: Any,
) -> Spec:
    """Read and check a spec; importing neither Keras nor TensorFlow.

    ref: a zoo name ("mobilenet", "zoo/mobilenet.json"), the path of a file, a dict, or a loaded spec.
    overrides: edits by path, as in {"model.hidden.units": 64}.  chosen: search values by name.
    partial: allow params that must be given (default null) to be missing.  params: values of the spec's params.

    Raises SpecError with every fault found.
    """
    return load_with(ref, params=params, edits=overrides, chosen=chosen, partial=partial)


def merged_params(params: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a call: of its `params` and of its keywords; CallError where one is given twice."""
    merged = dict(_mapping("params", params))
    if twice := sorted(merged.keys() & more.keys()):
        raise CallError(f"params: '{twice[0]}' is given twice, in params and as a keyword")
    return {**merged, **more}


def _mapping(name: str, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise CallError(f"{name}: expected a dict, got {type(given).__name__}")
    return given or {}


def load_to_build(
    ref: Reference, *, overrides: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None
) -> Spec:
    """As `load`, without checking the options that only a search would choose: that takes as long as building."""
    return load_with(ref, params=params, edits=overrides, other_options=False)


def load_with(ref: Reference, **options: Any) -> Spec:
    """The spec of a reference; the options are those of `spec.load.load_document`."""
    _mapping("params", options.get("params"))
    _mapping("overrides", options.get("edits"))
    if isinstance(ref, Spec):
        return load_again(ref, **options) if any(options.get(key) for key in ("params", "edits", "chosen")) else ref
    if isinstance(ref, Mapping):
        return load_document(ref, find, Path.cwd(), **options)
    if not isinstance(ref, (str, os.PathLike)):
        raise CallError(f"expected a zoo name, a path, a dict or a Spec, got {type(ref).__name__}")
    return load_file(locate(ref), find, **options)


def own_weights(ref: Reference) -> str | None:
    """The pack that a reference is, or was loaded from, with whose weights its spec begins; None for other specs."""
    text = ref.file if isinstance(ref, Spec) else os.fspath(ref) if isinstance(ref, (str, os.PathLike)) else ""
    return text if pack.is_pack(text) else None


def locate(ref: str | os.PathLike[str]) -> Found:
    """The file that a user means: a path first (of a pack, its spec), then the zoo. CallError when there is none."""
    text = os.fspath(ref)
    path = Path(text)
    if _is_file(path):
        return Found(pack.spec_file(path) if pack.is_pack(text) else path, text)
    if (found := in_zoo(text)) is not None:
        return found
    if os.path.isdir(text):  # not Path.is_dir, which raises where the name is too long
        spec = path / pack.SPEC  # a run or an unpacked pack
        inside = f"it holds one: {shown(str(spec))}" if _is_file(spec) else "name a .json file"
        raise CallError(f"{shown(text)} is a folder, and no spec; {inside}")
    names = zoo_names()
    name = _zoo_name(text)
    raise CallError(
        f"no file or folder {shown(text)} and no zoo spec {shown(name)}{nearest_path(text) or nearest_spec(text)} "
        f"(kerasimg zoo list shows all {len(names)}: {listed(names, 8)})"
    )


def is_data(text: str) -> bool:
    """Whether a text names images and not a spec: a folder, a file that is not a spec, or a name or pattern of a data
    source.
    """
    path = Path(text)
    if _is_file(path):
        return path.suffix.lower() != ".json" and not pack.is_pack(text)
    if in_zoo(text) is not None:
        return False
    return text == "sample" or ":" in text or any(sign in text for sign in "*?{") or os.path.isdir(text)


def find(reference: str, folder: Path) -> Found:
    """The file that a spec means: one in its own folder, or of the zoo; never one elsewhere. LookupError if none."""
    if "\\" in reference or ".." in reference.split("/") or Path(reference).is_absolute() or ":" in reference:
        raise LookupError(f"{shown(reference)} leaves the folder of the spec; name a file beside it or a zoo spec")
    beside = folder / reference
    if _is_file(beside):
        if not beside.resolve().is_relative_to(folder.resolve()):
            raise LookupError(f"{shown(reference)} is a link out of the folder of the spec")
        return Found(beside, _beside_label(beside, reference))
    if (found := in_zoo(reference)) is not None:
        return found
    raise LookupError(f"no file {shown(reference)} beside the spec and no such zoo spec{nearest_spec(reference)}")


def nearest_spec(reference: str) -> str:
    """A hint at the zoo spec whose name is nearest; "" if none is near."""
    names = zoo_names()
    return nearest(_zoo_name(reference), [*names, *(name.removeprefix(f"{RECIPES}/") for name in names)])


def _beside_label(path: Path, reference: str) -> str:
    return f"zoo/{reference}" if path.parent == ZOO else reference


def _zoo_name(reference: str) -> str:
    return reference.replace("\\", "/").removeprefix("zoo/").removesuffix(".json")


def in_zoo(reference: str) -> Found | None:
    """The file of a zoo name; a recipe may be named without its folder ("finetune"), since no spec has its name."""
    short = _zoo_name(reference)
    if not short or ".." in short.split("/") or Path(short).is_absolute():
        return None
    for name in (short, f"{RECIPES}/{short}"):
        if _is_file(path := ZOO / f"{name}.json"):
            return Found(path, f"zoo/{name}.json")
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for one
        return False
