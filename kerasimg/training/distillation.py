"""Knowledge distillation from a larger model (Hinton, Vinyals, Dean 2015, arXiv:1503.02531).

Keras' own Distiller trains the student. It expects logits and ignores sample weights; this module adapts the models,
and refuses specs that need the weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
from keras import ops

from kerasimg.boundary import file_inside
from kerasimg.errors import CallError, Fault, SpecError, WeightsError, listed
from kerasimg.models.classifier import Classifier
from kerasimg.models.keras_file import model_file
from kerasimg.models.output_kind import OutputKind, output_kind
from kerasimg.spec.document import Teacher
from kerasimg.spec.load import Spec, load_again
from kerasimg.spec.pack import SUFFIX
from kerasimg.staleness import identity_of_file
from kerasimg.training.features import wants_features
from kerasimg.training.objective import weighs
from kerasimg.training.stages import size_of

SMALLEST = 1e-7
"""Probabilities are clipped to this minimum before the logarithm."""


def has_teacher(spec: Spec) -> bool:
    """Whether a spec names a teacher."""
    return spec.fit.teacher is not None


def locate_teacher(spec: Spec) -> tuple[Spec, dict[str, Any]]:
    """Returns the spec with an absolute path of the teacher, and the teacher's hash for the notes of the run."""
    if spec.fit.teacher is None:
        return spec, {}
    digest = teacher_digest(spec)
    place = os.path.abspath(spec.fit.teacher.run)
    return load_again(spec, edits={"fit.teacher.run": place}, other_options=False), digest


def teacher_digest(spec: Spec) -> dict[str, Any]:
    """Returns the teacher's hash, under "teacher"; empty without one.  SpecError if it is not there."""
    if spec.fit.teacher is None:
        return {}
    try:
        return {"teacher": _digests(model_file(spec.fit.teacher.run))[0]}
    except CallError as error:
        raise SpecError([Fault(spec.file, "fit.teacher.run", str(error))]) from None


def check_teacher_place(spec: Spec) -> None:
    """SpecError if a spec file names a teacher outside the current folder: a stranger may have written the file.

    A caller may name any path (`--set fit.teacher.run=PATH`, or a dict in a program).
    """
    source = spec.origins.of(("fit", "teacher", "run"))
    if spec.fit.teacher is None or not source.endswith((".json", SUFFIX)):
        return
    try:
        file_inside(Path.cwd(), spec.fit.teacher.run)
    except ValueError as error:
        message = f"{error}: a file may name a folder below this one; for another: --set fit.teacher.run=PATH"
        raise SpecError([Fault(source, "fit.teacher.run", message)]) from None


def check_same_teacher(spec: Spec, notes: Mapping[str, Any]) -> None:
    """WeightsError if the teacher of a run no longer exists or has changed."""
    if spec.fit.teacher is None:
        return
    try:
        digests = _digests(model_file(spec.fit.teacher.run))
    except CallError:
        raise WeightsError(f"the teacher '{spec.fit.teacher.run}' is no longer there; put it back") from None
    if notes["teacher"] not in digests:
        raise WeightsError(
            f"the teacher '{spec.fit.teacher.run}' is not the one that the run began with: it has changed"
        )


def open_teacher(spec: Spec, student: keras.Model, classes: tuple[str, ...]) -> Any:
    """Returns the teacher's model, None if the spec names none; SpecError if the student cannot learn from it."""
    if spec.fit.teacher is None:
        return None
    teacher = Classifier.open(spec.fit.teacher.run)
    messages = [*_of_the_spec(spec), *_of_the_models(teacher, spec, student, classes)]
    if messages:
        raise SpecError([Fault(spec.file, "fit.teacher", message) for message in messages])
    return teacher.model


def wrap_student(spec: Spec, student: keras.Model, teacher: keras.Model | None) -> Any:
    """Returns the model to compile and fit: a Distiller if the spec names a teacher, else the student."""
    if spec.fit.teacher is None or teacher is None:
        return student
    return with_teacher(student, teacher, spec.fit.teacher)


def with_teacher(student: keras.Model, teacher: keras.Model, settings: Teacher) -> Any:
    """Returns a Distiller to compile and fit, which trains the weights of the student."""
    loss = _OnAnyOutput(settings.temperature, output_kind(teacher), output_kind(student))
    distiller = keras.distillation.Distiller(
        teacher, student, distillation_losses=loss, student_loss_weight=1.0 - settings.alpha
    )
    distiller.dtype_policy = student.dtype_policy  # decides whether Keras scales the loss
    return distiller


class _OnAnyOutput(keras.distillation.LogitsDistillation):
    """Keras' loss, also for models that end in a softmax: log-probabilities equal the logits up to a constant."""

    def __init__(self, temperature: float, teacher: OutputKind, student: OutputKind) -> None:
        # Keras turns its default, the name "kl_divergence", into a function that it calls with logits.
        super().__init__(temperature, loss=keras.losses.KLDivergence())
        self.kinds = teacher, student

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Any:
        """(N, K) twice -> a number."""
        logits = [
            ops.cast(y, "float32") if kind == "logits" else ops.log(ops.maximum(ops.cast(y, "float32"), SMALLEST))
            for y, kind in zip((teacher_outputs, student_outputs), self.kinds, strict=True)
        ]
        return super().compute_loss(*logits, **kwargs)


def _of_the_spec(spec: Spec) -> list[str]:
    messages = []
    if spec.task != "multiclass":
        messages.append(f"is for one class per image, not for the task '{spec.task}'")
    if weighs(spec):
        messages.append("cannot go with class_weight or sample_weight, which Keras' Distiller leaves out of account")
    if (mode := wants_features(spec)) is not None:
        messages.append(f'cannot go with features: "{mode}", since the teacher needs the images; write "off"')
    if any(size_of(stage, spec) != tuple(spec.image.size) for stage in spec.fit.stages):
        messages.append("cannot go with stages of other image sizes: the teacher knows one size")
    return messages


def _of_the_models(teacher: Classifier, spec: Spec, student: keras.Model, classes: tuple[str, ...]) -> list[str]:
    messages = []
    if teacher.classes != classes:
        messages.append(f"knows the classes {listed(teacher.classes)}, and the data has {listed(classes)}")
    named = ("size", "channels", "resize", "background")
    theirs, ours = ({name: getattr(each.image, name) for name in named} for each in (teacher.spec, spec))
    for name in named:
        if theirs[name] != ours[name] and (name != "background" or ours["resize"] == "pad"):
            messages.append(f"sees images with image.{name} {theirs[name]}, and the student with {ours[name]}")
    if not messages and teacher.model.outputs[0].dtype != student.outputs[0].dtype:
        types = f"{teacher.model.outputs[0].dtype} and {student.outputs[0].dtype}"
        messages.append(f'gives numbers of another type ({types}); write "dtype": "float32" in the last node of both')
    return messages


def _digests(file: Path) -> list[str]:
    """Returns the digests that identify a teacher: of its weights, if its file stores one, and of the whole file.

    A student depends only on the weights, so a teacher may be calibrated. Earlier versions stored the digest of the
    whole file.
    """
    model = identity_of_file(file)
    with file.open("rb") as stream:
        whole = hashlib.file_digest(stream, "sha256").hexdigest()
    return [whole] if model is None else [model["weights"], whole]
