"""Weights that a spec or a caller names -> a file on this machine; never random ones in silence."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from kerasimg.errors import WeightsError, listed
from kerasimg.spec.arguments import entry

DOWNLOAD_TIMEOUT_S = 5
"""Longest silence of the server before a download is given up."""


def imagenet_file(backbone: str, arguments: Mapping[str, Any], size: tuple[int, int], channels: int) -> Path:
    """The file of ImageNet weights without top, from Keras' cache or downloaded into it.

    arguments: of the constructor.  size: (height, width) of the backbone's input, in pixels.
    Raises WeightsError when there is no such file, and within seconds when it cannot be downloaded.
    """
    if channels != 3:
        raise WeightsError(f'ImageNet weights take 3 channels, and the picture has {channels}; give "weights": null')
    known = entry("backbones", backbone) or {}
    files = known["imagenet"]
    defaults = {name: argument.get("default") for name, argument in known["args"].items()}
    rows = {file["rows"] for file in files if "rows" in file}
    wanted = {**defaults, **arguments, "rows": size[0] if size[0] == size[1] and size[0] in rows else 224}
    variants = [{key: value for key, value in file.items() if key not in ("file", "url", "hash")} for file in files]
    for file, variant in zip(files, variants, strict=True):
        if all(wanted[key] == value for key, value in variant.items()):
            return _fetch(backbone, file)
    there = dict.fromkeys(str({key: value for key, value in variant.items() if key != "rows"}) for variant in variants)
    raise WeightsError(
        f"there are no ImageNet weights of {backbone} with {dict(arguments)} (there are: {listed(there)}); "
        'give "weights": null or a file'
    )


def _fetch(backbone: str, file: Mapping[str, Any]) -> Path:
    cache = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser()) / "models"
    try:
        with _impatient():
            return Path(keras.utils.get_file(file["file"], file["url"], cache_subdir="models", file_hash=file["hash"]))
    except Exception as error:  # Keras raises a bare Exception for a failed download
        raise WeightsError(
            f"the ImageNet weights of {backbone} are not in Keras' cache and cannot be downloaded.\n"
            f"  sought: {cache / file['file']}\n"
            f"  from:   {file['url']}\n"
            f"  reason: {str(error).splitlines()[0]}\n"
            f'Put the file there; or name one you have: weights="FILE.weights.h5" (--weights FILE); '
            f"or build without: weights=None (--weights none)."
        ) from None


@contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def local_file(weights: str | os.PathLike[str] | Mapping[str, str], folder: Path, *, anywhere: bool = False) -> Path:
    """The weights file that a spec in `folder` names, its sha256 checked where one is given.

    anywhere: the caller names it, not a file that somebody sent: any path will do.
    """
    name, digest = (weights["file"], weights.get("sha256")) if isinstance(weights, Mapping) else (weights, None)
    path = Path(name) if anywhere else folder / name
    if not path.is_file():
        raise WeightsError(f"no weights file '{path}'; put it there, or build without: weights=None (--weights none)")
    if not anywhere and not path.resolve().is_relative_to(folder.resolve()):
        raise WeightsError(f"the weights file '{path}' is a link out of the folder of the spec")
    if digest is not None:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
            raise WeightsError(f"the weights file '{path}' is not the one that the spec names: its sha256 is {found}")
    return path


def load_into(model: Any, path: Path) -> None:
    """Load a weights file into a model or a backbone; WeightsError when it belongs to another."""
    try:
        model.load_weights(str(path))
    except Exception as error:  # h5py, Keras and the backends each raise their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"the weights in '{path}' do not fit {model.name}: {reason}") from None
