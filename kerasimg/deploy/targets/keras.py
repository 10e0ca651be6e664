"""Keras: the run's model as a .keras file, which any backend opens, with the temperature beside it as in the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kerasimg.deploy.export_context import Exporting
from kerasimg.deploy.logits import in_float32
from kerasimg.deploy.manifest import ModelFile
from kerasimg.errors import CallError
from kerasimg.run_folder import MODEL


def write(exporting: Exporting, folder: Path) -> list[ModelFile]:
    """`model.keras`, float32, without an optimizer. CallError where a fixed batch is asked for."""
    if exporting.batch is not None:
        raise CallError("keras: model.keras takes any number of images; leave out --batch")
    replace(exporting.classifier, model=in_float32(exporting.classifier.model)).save(folder / MODEL)
    return [ModelFile(path=MODEL, runtime="keras", precision="float32", input_dtype="float32")]
