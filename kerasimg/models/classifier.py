"""A trained model with all that its numbers mean: the spec, and the classes in the order of the outputs.

On disk it is one `.keras` file that Keras loads by itself; what Keras does not know is stored in it as one more
member, `kerasimg.json`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import keras
import numpy as np
import PIL.Image

import kerasimg.layers  # noqa: F401 - Keras finds the classes of a saved model among those that were imported
from kerasimg.boundary import file_inside, limit, open_archive, parse_json, read_file, reading
from kerasimg.catalog import ZOO, find, load_to_build
from kerasimg.compile_cache import open_compile_cache
from kerasimg.errors import CallError, Fault, SpecError, counted
from kerasimg.files import replacing, to_json
from kerasimg.keras_internals import save_and_load_quickly
from kerasimg.models.backbones import specs_beside
from kerasimg.models.build import construct
from kerasimg.models.compiled_predict import MODEL_LOCK, Run, answers, final_outputs_of, in_batches
from kerasimg.models.flips import with_flips
from kerasimg.models.initial_values import cheap_values
from kerasimg.models.keras_file import Answer, model_file, read_facts
from kerasimg.models.known import Head, Known, check_fits, find_head, outputs_and_features, p_value_model
from kerasimg.models.lowering import Working
from kerasimg.models.output_kind import OutputKind, as_probabilities, output_kind
from kerasimg.models.temperature import at_temperature
from kerasimg.models.weights import check_hdf5, load_pack
from kerasimg.run_folder import RunReference, check_classifier, folder_of
from kerasimg.spec import pack
from kerasimg.spec.document import Image
from kerasimg.spec.formatting import dumps
from kerasimg.spec.inheritance import Found
from kerasimg.spec.load import Spec, load_file
from kerasimg.spec.pack import KNOWN, KnownRule, SetRule, is_pack
from kerasimg.staleness import MEMBER, ModelIdentity

ClassifierReference = RunReference
"""A run, a run's folder, a model.keras or .kerasimg file, a spec that brings its weights ("efficientnet_lite0"), or a
Classifier."""


class Values(NamedTuple):
    """What a model gives for images in one pass."""

    outputs: np.ndarray
    """(N, K) float32."""
    features: np.ndarray | None
    """(N, d) float32, what the last layer with weights takes, averaged over positions; None without a single one."""

    def required_features(self) -> np.ndarray:
        """Returns `features`; CallError where the model has none."""
        if self.features is None:
            raise CallError("the model has no last layer with weights and a single input, whose features could be had")
        return self.features


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
    known: Known | None = None
    """The rule that finds unknown images (`kerasimg.known`)."""
    flips: bool = False
    """Whether probabilities are averaged over an image and its mirror image (`kerasimg.flips`)."""
    _compiled: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """Compiled forward passes; `replace` hands them on, since a change of the decisions leaves the model as it is."""

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
        save_and_load_quickly()
        with replacing(path) as partial:
            plain.save(partial)
            with zipfile.ZipFile(partial, "a") as archive:
                archive.writestr(MEMBER, to_json(content))
                if self.known is not None:
                    archive.writestr(KNOWN, self.known.to_bytes())

    def identity(self) -> ModelIdentity:
        """The identity that every file derived from this classifier stores, see `kerasimg.staleness`."""
        thresholds = None if self.thresholds is None else list(self.thresholds)
        digest = weights_digest(self.model)
        return {"weights": digest, "temperature": self.temperature, "thresholds": thresholds, "flips": self.flips}

    def _decisions(self) -> dict[str, Any]:
        """What the file holds about decisions: the identity, and the rules of sets and of unknown images."""
        rules = {"sets": self.sets, "known": None if self.known is None else self.known.rule}
        return self.identity() | {name: None if rule is None else rule.model_dump() for name, rule in rules.items()}

    @staticmethod
    def open(ref: ClassifierReference) -> Classifier:
        """The classifier that a run, a folder or a file holds; CallError when there is none."""
        if isinstance(ref, Classifier):
            return ref
        path = folder_of(ref)
        if not path.exists() or path.suffix == ".json":
            return _pretrained(str(ref))
        if is_pack(str(path)):
            return read_pack(path)
        file = model_file(path)
        content = read_facts(file)
        thresholds = None if content.thresholds is None else tuple(content.thresholds)
        place = f"'{file}': {MEMBER}"
        spec = content.load_spec(place)
        model = _load_model(file)
        known = None if content.known is None else _known_of(file, content.known)
        check_facts(place, model, spec, tuple(content.classes), thresholds, content.sets, known)
        classes, of_run = tuple(content.classes), path if path.is_dir() else None
        decisions = content.temperature, thresholds, content.sets, known, content.flips
        return Classifier(model, spec, classes, of_run, *decisions)

    @cached_property
    def asked(self) -> keras.Model:
        """The model that answers, at temperature 1: `model`, or that with flips."""
        return with_flips(self.model) if self.flips else self.model

    @cached_property
    def head(self) -> Head | None:
        """The last layer with weights, if there is a single one."""
        return find_head(self.model)

    def values(self, images: Any, *, draft: bool = False) -> Values:
        """The outputs of the model for images as `probabilities` takes them, and their features.

        draft: in bfloat16 where the CPU has it, for statistics over many images.
        """
        outputs, *features = in_batches(self._forward("bfloat16" if draft else "float32"), images)
        return Values(outputs, features[0] if features else None)

    def probabilities(self, images: Any) -> np.ndarray:
        """(N, K) float32 for images (N, H, W, C), 0-255, or for batches of them as the pipeline gives."""
        run = self._forward("float32")
        return self.probabilities_of(in_batches(lambda *batch: run(*batch)[:1], images)[0])

    def answer(self, images: Any, kept: Sequence[int] | np.ndarray = ()) -> Answer:
        """As `probabilities`, with the p-values of the images where the classifier has a rule for them.

        kept: the places, ascending, of images whose features the answer holds.
        """
        run, asked = self._forward("float32"), 0
        features: list[np.ndarray] = []

        def answer_batch(*batch: Any) -> list[np.ndarray]:
            nonlocal asked
            outputs, *found = run(*batch)
            if not found:
                return [outputs]
            places = np.asarray(kept, np.int64) - asked
            features.append(found[0][places[(places >= 0) & (places < len(outputs))]])
            asked += len(outputs)
            return [outputs] if self.known is None else [outputs, self.p_values(found[0])]

        outputs, *p_values = in_batches(answer_batch, images)
        return self._answer(outputs, p_values[0] if p_values else None, np.concatenate(features) if features else None)

    def answer_from(self, values: Values, kept: Sequence[int] | np.ndarray = ()) -> Answer:
        """As `answer`, for images whose values are known."""
        if values.features is None:
            return self._answer(values.outputs, None, None)
        p_values = None if self.known is None else self.p_values(values.features)
        return self._answer(values.outputs, p_values, values.features[np.asarray(kept, np.int64)])

    def _answer(self, outputs: np.ndarray, p_values: np.ndarray | None, features: np.ndarray | None) -> Answer:
        share = 0.0 if self.known is None else self.known.rule.share
        return Answer(self.probabilities_of(outputs), p_values, share, features)

    def p_values(self, features: np.ndarray) -> np.ndarray:
        """(N,) float32 of images by their features, by the rule for unknown images.

        Raises:
            CallError: if the classifier has no rule.
        """
        if self._p_values is None:
            raise CallError("the classifier has no rule for unknown images")
        return answers(self._p_values, features)[:, 0]

    def probabilities_of(self, outputs: np.ndarray) -> np.ndarray:
        """(N, K) float32 of the outputs of the model, at the classifier's temperature."""
        task = self.spec.task
        return at_temperature(as_probabilities(outputs, self._kind, task), self.temperature, task)

    @cached_property
    def _kind(self) -> OutputKind:
        with MODEL_LOCK:
            return output_kind(self.model)

    @cached_property
    def _p_values(self) -> keras.Model | None:
        """Features -> p-values."""
        return None if self.head is None or self.known is None else p_value_model(self.head, self.known)

    def use_pass(self, run: Run) -> None:
        """Have a compiled pass of the model, to its outputs and features, used instead of compiling one."""
        self._compiled[self.model, False, "float32"] = run

    def _forward(self, working: Working) -> Run:
        """The pass that gives outputs and, where there are any, features."""
        whole = self.model, self.flips
        with MODEL_LOCK:
            if (*whole, working) not in self._compiled:
                if whole not in self._compiled:
                    both = None if self.head is None else outputs_and_features(self.model)
                    self._compiled[whole] = self.asked if both is None else with_flips(both) if self.flips else both
                self._compiled[*whole, working] = final_outputs_of(self._compiled[whole], working)
            return cast(Run, self._compiled[*whole, working])


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
    """Write a classifier's decisions into its `.keras` file; the model in it stays as it is."""
    content = read_facts(file).model_dump() | classifier._decisions()
    with replacing(file) as partial, zipfile.ZipFile(file) as old, zipfile.ZipFile(partial, "w") as new:
        for member in old.infolist():
            if member.filename not in (MEMBER, KNOWN):
                with old.open(member) as source, new.open(member, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
        new.writestr(MEMBER, to_json(content))
        if classifier.known is not None:
            new.writestr(KNOWN, classifier.known.to_bytes())


def _known_of(file: Path, rule: KnownRule) -> Known:
    """The rule with the arrays in the `.keras` file."""
    with open_archive(file, f"'{file}': {KNOWN}", ".keras") as archive:
        return Known.of(rule, archive.read(KNOWN, limit("known_bytes")))


UNSAFE_LAYERS = frozenset(
    (
        *("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"),
        *("StringLookup", "IntegerLookup", "TextVectorization", "Hashing"),
    )
)
"""Layers of Keras that run code, load other files, or read them; none of them can be in a spec."""


def _load_model(file: Path) -> keras.Model:
    """The model in a `.keras` file that a stranger may have written; CallError where it is no such model."""
    open_compile_cache()
    save_and_load_quickly()
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
        with cheap_values(lambda variable: True):
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
    known: Known | None,
) -> None:
    """CallError where classes, thresholds or rules from outside do not go with their model."""
    if any(not name.strip() for name in classes):
        raise CallError(f"{place}: classes: a class has no name")
    names = [unicodedata.normalize("NFC", name) for name in classes]  # as they are shown
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CallError(f"{place}: classes: {twice[:80]!r} is listed twice")
    if spec.task == "binary" and len(classes) != 2:
        raise CallError(f"{place}: classes: expected 2 for a binary task, found {len(classes)}")
    wanted = {"multiclass": 0, "binary": 1, "multilabel": len(classes)}[spec.task]
    if thresholds is not None and len(thresholds) != wanted:
        raise CallError(f"{place}: thresholds: expected {wanted or 'none'} for {spec.task}, found {len(thresholds)}")
    if sets is not None and (spec.task == "multilabel" or len(sets.limits) not in (1, len(classes))):
        raise CallError(
            f"{place}: sets: {len(sets.limits)} limits do not fit {counted(len(classes), 'class')}, {spec.task}"
        )
    try:
        check_outputs(model, spec, classes)
    except SpecError as error:
        raise CallError(f"{place}: classes: {error.faults[0].message}") from None
    if known is not None:
        try:
            check_fits(model, known)
        except CallError as error:
            raise CallError(f"{place}: {error}") from None


def _pretrained(ref: str) -> Classifier:
    """The classifier of a spec that brings its own weights and class names."""
    check_classifier(ref)
    spec = load_to_build(ref)
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


# Packs: the model is built from its spec, and only numbers are read. They are in the order in which Keras lists a
# model's weights, each with its path as a name for people; the same spec gives the same order on every backend.

PACKAGES = ("kerasimg", "keras")


def write_pack(classifier: Classifier, path: Path, *, card: str = "", figures: Mapping[str, Any] | None = None) -> None:
    """Write a classifier as a pack.  card: its model card, Markdown.  figures: what it reached."""
    from safetensors.numpy import save

    spec = classifier.spec
    arrays = {_key(place, variable): _array(variable) for place, variable in enumerate(classifier.model.weights)}
    members = {pack.SPEC: dumps(spec.resolved).encode()}
    if beside := specs_beside(spec):
        members[pack.BESIDE] = to_json(beside).encode()
    if card:
        members[pack.CARD] = card.encode()
    if any(Path(inner.folder).is_relative_to(ZOO) for inner in spec.within.opened.values()):
        members[pack.NOTICE] = (ZOO / "NOTICE").read_bytes()
    members[pack.VECTORS] = _pack_vectors(classifier)
    if classifier.known is not None:
        members[pack.KNOWN] = classifier.known.to_bytes()
    members[pack.WEIGHTS] = save(arrays, {"format": "keras"})
    facts = {
        "name": spec.name,
        "task": spec.task,
        "classes": list(classifier.classes),
        **classifier.identity(),
        "sets": None if classifier.sets is None else classifier.sets.model_dump(),
        "known": None if classifier.known is None else classifier.known.rule.model_dump(),
        "license": spec.card.license,
        "figures": dict(figures or {}),
        "versions": {name: version(name) for name in PACKAGES},
    }
    pack.write(path, facts, members)


def read_pack(path: Path) -> Classifier:
    """The classifier in a pack; CallError when it is none, WeightsError when its parts do not go together."""
    opened = pack.Pack(path)
    spec = load_file(Found(pack.spec_file(path), str(path)), find)
    manifest = opened.manifest
    if manifest.task != spec.task:
        raise CallError(f"'{path}': {pack.MANIFEST}: task: '{manifest.task}', and its spec has '{spec.task}'")
    thresholds = None if manifest.thresholds is None else tuple(manifest.thresholds)
    model = construct(spec, weights=None).model
    load_pack(model, path)
    known = None
    if manifest.known is not None:
        with opened.reading(pack.KNOWN):
            known = Known.of(manifest.known, opened.read(pack.KNOWN))
    check_facts(f"'{path}': {pack.MANIFEST}", model, spec, tuple(manifest.classes), thresholds, manifest.sets, known)
    decisions = manifest.temperature, thresholds, manifest.sets, known, manifest.flips
    return Classifier(model, spec, tuple(manifest.classes), None, *decisions)


class PackVectors(NamedTuple):
    """Drawn images, and what the model answered where it was packed: no image of the author's is in a pack."""

    pixels: np.ndarray
    """(N, H, W, C) uint8, 0-255."""
    probabilities: np.ndarray
    """(N, K) float32."""


def read_vectors(path: Path) -> PackVectors | None:
    """The test vectors in a pack; None in one that was written without."""
    opened = pack.Pack(path)
    if pack.VECTORS not in opened.manifest.files:
        return None
    spec = load_file(Found(pack.spec_file(path), str(path)), find)
    with opened.reading(pack.VECTORS):
        document = parse_json(opened.read(pack.VECTORS), most=limit("vectors_bytes"))
        rows, files = np.asarray(document["probabilities"], np.float32), document["images"]
        if not 0 < len(files) <= MOST_VECTORS or rows.ndim != 2 or len(rows) != len(files):
            raise ValueError(f"expected 1 to {MOST_VECTORS} images, and probabilities of each")
        if not np.isfinite(rows).all():
            raise ValueError("its probabilities are not all finite")
        return PackVectors(np.stack([_pixels(text, spec.image) for text in files]), rows)


def draw_image(number: int, height: int, width: int) -> PIL.Image.Image:
    """An image of smooth colours, the same for the same number."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)


VECTORS, MOST_VECTORS = 5, 64


def _pack_vectors(classifier: Classifier) -> bytes:
    image = classifier.spec.image
    height, width = image.size
    files, rows = [], []
    for number in range(VECTORS):
        img = draw_image(number, height, _width(image)).convert("RGB" if image.channels == 3 else "L")
        file = io.BytesIO()
        img.save(file, "PNG")
        files.append(base64.b64encode(file.getvalue()).decode())
        rows.append(np.asarray(img, np.float32).reshape(height, width, image.channels))
    probabilities = classifier.probabilities(np.stack(rows)).astype(float).tolist()
    return json.dumps({"images": files, "probabilities": probabilities}).encode()


def _width(image: Image) -> int:
    """The width of the PNG of a test vector: more than three channels are stored as grey pixels, side by side."""
    return image.size[1] * (image.channels if image.channels > 3 else 1)


def _pixels(text: Any, image: Image) -> np.ndarray:
    content = base64.b64decode(text, validate=True)
    if not content.startswith(b"\x89PNG"):
        raise ValueError("an image is not a PNG")
    with PIL.Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
        if [opened.height, opened.width] != [image.size[0], _width(image)]:
            raise ValueError(f"an image has {opened.height}x{opened.width} pixels, and the model takes {image.size}")
        return np.asarray(opened.convert("RGB" if image.channels == 3 else "L")).reshape(*image.size, image.channels)


def _key(place: int, variable: Any) -> str:
    return f"{place:05d} {variable.path}"


def _array(variable: Any) -> np.ndarray:
    array = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
    if array.dtype not in (np.float32, np.float16, np.float64, np.int32, np.int64, np.uint8, np.int8, np.bool_):
        raise CallError(f"{variable.path}: weights of type {array.dtype} cannot be packed")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CallError(f"{variable.path}: its numbers are not all finite; such weights cannot be packed")
    return array
