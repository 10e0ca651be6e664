"""Trials that differ in the head of a model whose trunk is frozen: the trunk's features are computed once, and of the
models of all further trials nothing but the head is made.

The head gets the weights that it would get in the whole model. Where that is not so to the last bit, as a first trial
shows, the whole model is made for every trial.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasimg.models.budget import Budget, deferred_variables
from kerasimg.models.build import Built
from kerasimg.models.graph import Graph, functional
from kerasimg.spec.expand import Call
from kerasimg.spec.load import Spec
from kerasimg.training import splits, stages
from kerasimg.training.auto_settings import dtype_policy, precision_of
from kerasimg.training.engine import has_callbacks
from kerasimg.training.features import FeaturePlan, settings_of
from kerasimg.training.rates import differs_by_layer
from kerasimg.tuning.graph_signature import Calls, Outline

CHECKED = 16
"""Rows of features on which the head is compared with the end of the whole model."""


@dataclass(frozen=True, eq=False)
class Trunk:
    """The frozen part of a model, as far as it is known without it."""

    frame: str
    calls: tuple[str, ...]
    """Digests, in their order; they come before those of the head."""
    seam: str
    """Digest of the call whose output the head goes on from."""
    random: Any
    """Where Python's random numbers stand when the trunk has been made."""
    plan: FeaturePlan
    """With the features of all images; its model is that of the first trial."""

    def fits(self, spec: Spec, outline: Outline) -> bool:
        """Whether this is the trunk of another spec's model."""
        digests = tuple(digest for _, _, digest in outline.calls)
        head, count = digests[len(self.calls) :], len(self.calls)
        return (
            digests[:count] == self.calls
            and not outline.again
            and set(head).union({self.seam}).issuperset(one for digest in head for one in outline.inputs[digest])
            and can_have_trunk(spec, outline)
            and frame(spec) == self.frame
        )

    def head(self, spec: Spec, known: Calls, limits: Mapping[str, int] | None) -> Built:
        """The head of a spec's model: features -> what the model gives."""
        shape, dtype = self.plan.model.inputs[0].shape[1:], self.plan.model.inputs[0].dtype
        with dtype_policy(precision_of(spec)), deferred_variables():
            features = keras.Input(shape, dtype=dtype, name="features")
            graph = _Head(self, features, spec, known, limits)
            image = keras.KerasTensor((None, *spec.image.size, spec.image.channels))
            model = functional(spec, features, graph.make(image), spec.name)
        for finish in graph.later:
            finish()
        return Built(model, graph.members)


class _Head(Graph):
    """Makes what comes after a trunk."""

    def __init__(self, trunk: Trunk, features: Any, spec: Spec, known: Calls, limits: Mapping[str, int] | None) -> None:
        super().__init__(spec, Budget(limits), None)
        self.trunk, self.features, self.known = trunk, features, known
        self.left = list(trunk.calls)

    def visit(self, call: Call) -> Any:
        """The features for the call at the seam, a stand-in for others of the trunk; the head's are made."""
        if not self.left:
            return super().visit(call)
        digest = self.left.pop(0)
        if not self.left:
            random.setstate(self.trunk.random)
        if digest == self.trunk.seam:
            return self.features
        shape, dtype = self.known[digest].output
        return keras.KerasTensor(shape, dtype)


def can_have_trunk(spec: Spec, outline: Outline) -> bool:
    """Whether a trunk is worth looking for: something is frozen, and stays so in all stages."""
    own = tuple(spec.image.size)
    return (
        outline.frozen
        and not outline.again
        and settings_of(spec).mode in ("auto", "cached")
        and not any(
            stages.changes_layers(stage) or stages.size_of(stage, spec) != own or differs_by_layer(stage)
            for stage in spec.fit.stages
        )
        and not has_callbacks(spec)  # one may unfreeze
    )


def find_trunk(
    spec: Spec, outline: Outline, plan: FeaturePlan, states: Mapping[str, Any], known: Calls
) -> Trunk | None:
    """The trunk of a model that has been made, and not trained; None where its head alone would not be the same.

    plan: of its first stage.  states: where the random numbers stood after each call.
    """
    parts = {part for part in ("train", "validation") if part in plan.data.parts}
    if plan.mode != "cached" or parts - plan.rows.keys() or len(plan.model.inputs) != 1:
        return None
    names = {layer.name for layer in plan.model.layers if not isinstance(layer, keras.layers.InputLayer)}
    if names - {name for name, _, _ in outline.calls}:
        return None  # the seam is inside of a backbone
    calls = tuple(digest for name, _, digest in outline.calls if name not in names)
    head = [digest for name, _, digest in outline.calls if name in names]
    seams = {one for digest in head for one in outline.inputs[digest]} - set(head)
    if len(seams) != 1 or not calls or not seams <= set(calls):
        return None
    trunk = Trunk(frame(spec), calls, seams.pop(), states[calls[-1]], plan)
    if not trunk.fits(spec, outline):
        return None
    made = trunk.head(spec, known, None).model
    return trunk if _same(made, plan.model, plan) else None


def frame(spec: Spec) -> str:
    """All that features depend on but for the model."""
    fit = spec.fit.model_dump(mode="json")
    said: dict[str, Any] = {
        "image": spec.image.model_dump(mode="json"),
        "task": spec.task,
        "data": [fit[key] for key in (*splits.KEYS, "precision", "features")],
    }
    if spec.augment:
        epochs = [stage["epochs"] for stage in fit["stages"]]
        said["augment"] = [[name, dict(arguments)] for name, arguments in spec.augment]
        said["views"] = [fit["views"], fit["batch_size"], epochs, str(spec.compile.loss)]
    return json.dumps(said, sort_keys=True, default=repr)


def _same(made: keras.Model, rest: keras.Model, plan: FeaturePlan) -> bool:
    """Whether a head has the weights of the whole model's end, and gives the same."""
    for layer in made.layers[1:]:
        ours, theirs = layer.variables, rest.get_layer(layer.name).variables
        if len(ours) != len(theirs) or not all(map(_equal, ours, theirs)):
            return False
    some = np.asarray(plan.rows["train"].parts[0][:CHECKED], np.float32)
    return _equal(made(some, training=False), rest(some, training=False))


def _equal(one: Any, other: Any) -> bool:
    return np.array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
