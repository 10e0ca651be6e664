"""Pack a run into one file, and unpack it: `kerasimg.pack`, `kerasimg.unpack`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kerasimg.errors import CallError
from kerasimg.files import require_free
from kerasimg.models.classifier import Classifier, ClassifierReference, read_pack, write_pack
from kerasimg.run_folder import RunFolder
from kerasimg.spec import pack as form
from kerasimg.staleness import stale_files, warn_of_stale


def pack(run: ClassifierReference, out: str | os.PathLike[str] | None = None) -> Path:
    """Pack a trained classifier into one file: spec, classes, weights, model card, hashes; no code, no pickle.

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        out: the file, ending in `.kerasimg`; an existing file is replaced. None: `<name>.kerasimg` in this folder.

    Returns:
        The path of the file, which `build`, `train`, `evaluate`, `predict`, `export` and `serve` accept.

    Raises:
        CallError: if there is no trained model.

    Example:
        >>> str(kerasimg.pack("runs/photos-1", "photos.kerasimg"))
        'photos.kerasimg'
    """
    classifier = Classifier.open(run)
    path = Path(f"{classifier.spec.name}{form.SUFFIX}" if out is None else out)
    if path.suffix != form.SUFFIX:
        raise CallError(f"out: expected a name that ends in {form.SUFFIX}, got '{path}'")
    if not path.parent.is_dir():
        raise CallError(f"out: no folder '{path.parent}'; create it first")
    card, figures = "", {}
    if classifier.folder is not None:
        files = RunFolder(classifier.folder)
        warn_of_stale(classifier.folder)
        stale = {each.path for each in stale_files(classifier.folder)}
        if files.card_file not in stale and files.card_file.is_file():
            card = files.card_file.read_text(encoding="utf-8")
        if files.evaluation.metrics_file not in stale:
            figures = _figures(files.evaluation.metrics() or {})
    write_pack(classifier, path, card=card, figures=figures)
    return path


def unpack(file: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Unpack a pack into a folder with spec, classes, `model.keras` and model card, for `kerasimg.Run` and Keras.

    Args:
        file: the pack.
        out: the folder, which must not exist or be empty. None: the file's name without its suffix.

    Returns:
        The folder.

    Raises:
        CallError: if the file is not a valid pack, or the folder is not empty.
    """
    path = Path(file)
    opened = form.Pack(path)
    folder = path.with_suffix("") if out is None else Path(out)
    require_free(folder)
    classifier = read_pack(path)
    folder.mkdir(parents=True, exist_ok=True)
    opened.write_specs(folder)
    files = RunFolder(folder)
    files.write_classes(opened.manifest.classes)
    for member in (form.CARD, form.NOTICE):
        if content := opened.read(member):
            (folder / member).write_bytes(content)
    classifier.save(files.model_file)
    return folder


def _figures(scores: dict[str, Any]) -> dict[str, Any]:
    """Returns the scalar figures."""
    return {
        key: value for key, value in scores.items() if isinstance(value, float | int) and not isinstance(value, bool)
    }
