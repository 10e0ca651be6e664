"""The `.keras` file of a classifier, and the facts in it that Keras does not store; read without Keras.

They are one more member of the archive, `kerasimg.json`: the spec, the class names, temperature, thresholds, flips and
the rules of prediction sets and of unknown images.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from kerasimg.boundary import limit, open_archive, parse_json, reading
from kerasimg.catalog import find
from kerasimg.errors import CallError, listed
from kerasimg.escaping import command
from kerasimg.run_folder import MODEL, RunFolder, RunReference, folder_of, kind_of
from kerasimg.spec.document import Section
from kerasimg.spec.load import Spec, load_document
from kerasimg.spec.pack import KnownRule, Probability, SetRule, Temperature, write_beside
from kerasimg.staleness import MEMBER


class Answer(NamedTuple):
    """What a model says of images."""

    probabilities: np.ndarray
    """(N, K) float32."""
    p_values: np.ndarray | None = None
    """(N,) float32: how usual each image is among images like the training images; None without a rule for it."""
    share: float = 0.0
    """Images with a p-value up to this are unknown."""
    features: np.ndarray | None = None
    """(M, d) float32, of the images whose features were asked for; None where the model has none."""


class Facts(Section):
    """The content that kerasimg adds to a `.keras` file."""

    kerasimg: Literal[1] = 1
    classes: Annotated[list[str], Field(min_length=1)]
    spec: dict[str, Any]
    beside: dict[str, Any]
    weights: str | None = None
    """The digest of the weights; None in a file of an earlier version."""
    temperature: Temperature = 1.0
    thresholds: list[Probability] | None = None
    flips: bool = False
    """Whether the probabilities are averaged over an image and its mirror image."""
    sets: SetRule | None = None
    known: KnownRule | None = None

    def load_spec(self, place: str) -> Spec:
        """Loads the spec; a CallError says where it is wrong.  place: the file and its member, for the message."""
        with TemporaryDirectory() as folder, reading(place):
            write_beside(self.beside, Path(folder))
            return load_document(self.spec, find, Path(folder))


def read_facts(file: Path) -> Facts:
    """Reads the facts in a `.keras` file; CallError if it has none."""
    place = f"'{file}' was not written by kerasimg: it has no valid {MEMBER}"
    with open_archive(file, place, ".keras") as archive:
        document = parse_json(archive.read(MEMBER, most=limit("json_bytes")))
        try:
            return Facts.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def model_file(ref: RunReference) -> Path:
    """Returns the `.keras` file of a run, a run's folder or the file itself; CallError if there is none."""
    path = folder_of(ref)
    file = RunFolder(path).model_file if path.is_dir() else path
    if not file.is_file():
        raise CallError(_why_no_model(path, file))
    return file


def _why_no_model(path: Path, file: Path) -> str:
    files, found = RunFolder(path), kind_of(path)
    if (path / "best.json").is_file() and found is not None and found[0] == "a search":
        return (
            f"'{path}' is a search and holds no trained model; train its best spec: "
            f"{command('train', path / 'best.json')} --data DATA"
        )
    if found is not None and found[0] != "a run":
        return f"'{path}' is {found[0]} that has not ended; to continue it: {found[1]}"
    inside = sorted(str(each) for each in path.iterdir() if RunFolder(each).is_run) if path.is_dir() else []
    runs = f" ({listed(inside, 3)})" if inside else ""
    return files.interrupted or f"no trained model '{file}'; name a run's folder{runs} or a {MODEL} file"
