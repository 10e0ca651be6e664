"""A trained model with all that its numbers mean: the spec, and the classes in the order of the outputs.

On disk it is one `.keras` file that Keras loads by itself; what Keras does not know is stored in it as one more
member, `kerasimg.json`.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import keras
import numpy as np
from pydantic import Field, ValidationError

import kerasimg.layers  # noqa: F401 - Keras finds the classes of a saved model among those that were imported
from kerasimg.boundary import file_inside, limit, open_archive, parse_json, read_file, reading
from kerasimg.catalog import find, load_to_build
from kerasimg.errors import CallError, Fault, SpecError
from kerasimg.files import replacing, to_json
from kerasimg.models.backbones import specs_beside
from kerasimg.models.build import construct
from kerasimg.models.compiled_predict import answers
from kerasimg.models.output_kind import as_probabilities, output_kind
from kerasimg.models.temperature import at_temperature
from kerasimg.models.weights import check_hdf5
from kerasimg.run_folder import MODEL, RunFolder, RunReference, folder_of
from kerasimg.spec.document import Section
from kerasimg.spec.load import Spec, load_document
from kerasimg.spec.pack import Probability, SetRule, Temperature, is_pack, write_beside
from kerasimg.staleness import MEMBER, ModelIdentity

ClassifierReference = RunReference
"""A run, a run's folder, a model.keras or .kerasimg file, a spec that brings its weights ("efficientnet_lite0"), or a
Classifier."""


@dataclass(frozen=True)
class Classifier:
    """A model that can be asked."""

    model: keras.Model
    spec: Spec
    classes: tuple[str, ...]
    """Names, in the order of the outputs; where the task is binary, the second is the one of the output."""
    folder: Path | None = None
    """The run's folder, if it has one."""
    temperature: float = 1.0
    """The temperature of the probabilities (`kerasimg.calibrate`); 1: as the model was trained."""
    thresholds: tuple[float, ...] | None = None
    """What a probability must exceed to be decided for (`kerasimg.choose_thresholds`): of the second class where the
    task is binary, of each label where it is multilabel. None: 0.5."""
    sets: SetRule | None = None
    """The rule of prediction sets (`kerasimg.prediction_sets`)."""

    def save(self, path: Path) -> None:
        """Write the `.keras` file, without optimizer, so that it opens wherever Keras is."""
        plain = keras.Model(self.model.input, self.model.output, name=self.model.name)
        content = {
            "kerasimg": 1,
            "classes": list(self.classes),
            "spec": dict(self.spec.resolved),
            "beside": specs_beside(self.spec),
            **self._decisions(),
        }
        with replacing(path) as partial:
            plain.save(partial)
            with zipfile.ZipFile(partial, "a") as archive:
                archive.writestr(MEMBER, to_json(content))

    def identity(self) -> ModelIdentity:
        """The identity that every file derived from this classifier stores, see `kerasimg.staleness`."""
        thresholds = None if self.thresholds is None else list(self.thresholds)
        return {"weights": weights_digest(self.model), "temperature": self.temperature, "thresholds": thresholds}

    def _decisions(self) -> dict[str, Any]:
        """What the file holds about decisions: the identity, and the rule of prediction sets, which changes none."""
        return {**self.identity(), "sets": None if self.sets is None else self.sets.model_dump()}

    @staticmethod
    def open(ref: ClassifierReference) -> Classifier:
        """The classifier that a run, a folder or a file holds; CallError when there is none."""
        if isinstance(ref, Classifier):
            return ref
        path = folder_of(ref)
        if not path.exists() or path.suffix == ".json":
            return _pretrained(str(ref))
        if is_pack(str(path)):
            from kerasimg.models.pack_io import read  # which makes classifiers, too

            return read(path)
        file = model_file(path)
        content = _member(file)
        thresholds = None if content.thresholds is None else tuple(content.thresholds)
        place = f"'{file}': {MEMBER}"
        with TemporaryDirectory() as folder, reading(place):
            write_beside(content.beside, Path(folder))
            spec = load_document(content.spec, find, Path(folder))
        model = _load_model(file)
        check_facts(place, model, spec, tuple(content.classes), thresholds, content.sets)
        folder_of_run = path if path.is_dir() else None
        return Classifier(
            model, spec, tuple(content.classes), folder_of_run, content.temperature, thresholds, content.sets
        )

    def probabilities(self, images: Any) -> np.ndarray:
        """(N, K) float32 for images (N, H, W, C), 0-255, or for batches of them as the pipeline gives."""
        kind = output_kind(self.model)
        task = self.spec.task
        return at_temperature(as_probabilities(answers(self.model, images), kind, task), self.temperature, task)


def model_file(ref: ClassifierReference) -> Path:
    """The `.keras` file of a run, a run's folder or the file itself; CallError when there is none."""
    path = folder_of(ref)
    file = RunFolder(path).model_file if path.is_dir() else path
    if not file.is_file():
        raise CallError(f"no trained model '{file}'; name a run's folder or a {MODEL} file")
    return file


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over a model's weights: over the sorted digests of the arrays, each with its type and shape.

    Names and order do not count: both may differ between the model that was trained and the same one read from a file.
    """
    digests = []
    for variable in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        one = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
        one.update(array.tobytes())
        digests.append(one.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def set_decisions(file: Path, classifier: Classifier) -> None:
    """Write a classifier's temperature, thresholds and sets into its `.keras` file; the model in it stays as it is."""
    content = _member(file).model_dump() | classifier._decisions()
    with replacing(file) as partial, zipfile.ZipFile(file) as old, zipfile.ZipFile(partial, "w") as new:
        for member in old.infolist():
            if member.filename != MEMBER:
                with old.open(member) as source, new.open(member, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
        new.writestr(MEMBER, to_json(content))


class _Member(Section):
    """The content that kerasimg adds to a `.keras` file."""

    kerasimg: Literal[1] = 1
    classes: Annotated[list[str], Field(min_length=1)]
    spec: dict[str, Any]
    beside: dict[str, Any]
    weights: str | None = None
    """The digest of the weights; None in a file of an earlier version."""
    temperature: Temperature = 1.0
    thresholds: list[Probability] | None = None
    sets: SetRule | None = None


def _member(file: Path) -> _Member:
    """The facts about a model that Keras does not store."""
    place = f"'{file}' was not written by kerasimg: it has no valid {MEMBER}"
    with open_archive(file, place, ".keras") as archive:
        document = parse_json(archive.read(MEMBER, most=limit("json_bytes")))
        try:
            return _Member.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


UNSAFE_LAYERS = frozenset(
    (
        *("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"),
        *("StringLookup", "IntegerLookup", "TextVectorization", "Hashing"),
    )
)
"""Layers of Keras that run code, load other files, or read them; none of them can be in a spec."""


def _load_model(file: Path) -> keras.Model:
    """The model in a `.keras` file that a stranger may have written; CallError where it is no such model."""
    place = f"'{file}' cannot be loaded"
    with open_archive(file, place, ".keras") as archive:
        config = parse_json(
            archive.read("config.json", limit("config_bytes")),
            most=limit("config_bytes"),
            depth=limit("config_depth"),
            values=limit("config_values"),
        )
        _check_config(config)
        with archive.open("model.weights.h5") as weights:
            check_hdf5(weights)
        return keras.models.load_model(file, compile=False)


def _check_config(config: Any) -> None:
    """ValueError for a class that is neither of Keras, nor of kerasimg, nor registered with Keras by this program."""
    rest = [config]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            name, module = item.get("class_name"), item.get("module")
            if isinstance(name, str) and "config" in item:
                if name in UNSAFE_LAYERS:
                    raise ValueError(f"it has a layer {name}, which can run code or read other files")
                own = isinstance(module, str) and module.split(".")[0] in ("keras", "kerasimg", "builtins")
                if module is not None and not own and not _registered(item.get("registered_name")):
                    raise ValueError(f"it names '{module}.{name}', which this program has not registered with Keras")
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)


def _registered(name: Any) -> bool:
    return isinstance(name, str) and keras.saving.get_registered_object(name) is not None


def check_facts(
    place: str,
    model: keras.Model,
    spec: Spec,
    classes: tuple[str, ...],
    thresholds: tuple[float, ...] | None,
    sets: SetRule | None,
) -> None:
    """CallError where classes, thresholds or sets from outside do not go with their model."""
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise CallError(f"{place}: classes: {twice[:80]!r} is listed twice")
    if spec.task == "binary" and len(classes) != 2:
        raise CallError(f"{place}: classes: expected 2 for a binary task, found {len(classes)}")
    wanted = {"multiclass": 0, "binary": 1, "multilabel": len(classes)}[spec.task]
    if thresholds is not None and len(thresholds) != wanted:
        raise CallError(f"{place}: thresholds: expected {wanted or 'none'} for {spec.task}, found {len(thresholds)}")
    if sets is not None and (spec.task == "multilabel" or len(sets.limits) not in (1, len(classes))):
        raise CallError(f"{place}: sets: {len(sets.limits)} limits do not fit {len(classes)} classes, {spec.task}")
    try:
        check_outputs(model, spec, classes)
    except SpecError as error:
        raise CallError(f"{place}: classes: {error.faults[0].message}") from None


def _pretrained(ref: str) -> Classifier:
    """The classifier of a spec that brings its own weights and class names."""
    try:
        spec = load_to_build(ref)
    except CallError as error:
        raise CallError(f"no run, no model file and no spec '{ref}': {error}") from None
    own = spec.pretrained.imagenet
    if own is None or own.classes is None:
        raise CallError(f"'{spec.file}' has not been trained: it brings no weights with class names; train it first")
    with reading(f"'{spec.file}': {own.classes}"):
        names = parse_json(read_file(file_inside(spec.folder, own.classes), limit("json_bytes")))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("expected a list of names")
    model = construct(spec, weights="imagenet").model
    return Classifier(model, spec, tuple(names))


def check_outputs(model: keras.Model, spec: Spec, classes: tuple[str, ...]) -> None:
    """SpecError when the model's output cannot stand for these classes."""
    wanted = 1 if spec.task == "binary" else len(classes)
    found = tuple(model.output_shape[1:])
    if found != (wanted,):
        what = "1, the probability of the second class" if spec.task == "binary" else f"{wanted}, one for each class"
        shape = "x".join(map(str, found)) or "a scalar"
        message = f"the task '{spec.task}' and the data want an output of {what}; the last node gives {shape}"
        raise SpecError([Fault(spec.file, "model", message)])
