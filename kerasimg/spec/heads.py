"""Task and head: what the last layer of a classifier gives, and whether that fits the task and the loss.

Nothing here needs Keras: the check of a spec asks it of the written layers, `models/output_kind.py` of a built model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from kerasimg.spec.expressions import UNKNOWN
from kerasimg.spec.locations import Path

Targets = Literal["sparse", "one_hot", "binary", "multi_hot"]
"""The form of the labels that the loss gets."""

PROBABILITIES: Final = ("softmax", "sigmoid")
NO_ACTIVATION: Final = (None, "linear")
# Softmax of the logarithm of a softmax is that softmax again.
SCORES: Final = (*NO_ACTIVATION, "log_softmax")
ACTIVATION_LAYERS: Final[Mapping[str, str]] = {
    "Softmax": "softmax",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "ELU": "elu",
    "GELU": "gelu",
}
KEEPS: Final = frozenset(
    {
        *("Activation", "Average", "AveragePooling2D", "Dropout", "Flatten", "GlobalAveragePooling2D", "Identity"),
        *("Permute", "Reshape"),
    }
)
"""Layers that give probabilities where all their inputs are probabilities."""
KEEPS_SIGMOID: Final = frozenset({"Concatenate", "GlobalMaxPooling2D", "Maximum", "Minimum"})
"""Layers that do so only where classes are independent."""
CHANGES: Final = frozenset(
    {
        *("Add", "GaussianDropout", "GaussianNoise", "Multiply", "Rescaling", "SpatialDropout1D", "SpatialDropout2D"),
        "Subtract",
    }
)
"""Layers without an activation that give neither probabilities nor logits where their inputs are probabilities."""
IN_TRAINING: Final = frozenset({"Dropout"})
"""Layers of `KEEPS` that do so in training: the loss gets what are no probabilities."""
FLATTENS: Final = frozenset(
    {
        *("Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GeMPooling2D", "SequencePooling", "TakeToken"),
        "CosineHead",
    }
)
"""Layers whose output has one row of numbers per image."""
BLENDING: Final = ("MixUp", "CutMix")
ON_PROBABILITIES: Final = ("Crossentropy", "KLDivergence")
FOLLOW: Final = '"=head_activation", which follows the task'


class Output(NamedTuple):
    """The facts about a layer's output that are known without building it."""

    kind: str | None = "logits"
    """softmax, sigmoid, logits, or the name of an activation that gives neither; None: not known."""
    flat: bool = False
    """Whether it has one row of numbers per image, as a classifier's output."""
    units: Any = None
    """Number of outputs, if the layer gives it."""
    layer: str = ""
    path: Path = ()
    """The path of the activation in the document, or of the node."""


def names(task: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """What expressions may name besides the params: the head that the task wants. A param of the same name wins."""
    units = {"head_units": 1 if task == "binary" else params["num_classes"]} if "num_classes" in params else {}
    return {
        **units,
        "head_activation": "softmax" if task == "multiclass" else "sigmoid",
        "head_loss": "CategoricalCrossentropy" if task == "multiclass" else "BinaryCrossentropy",
        **params,
    }


def output_of(layer: str, arguments: Mapping[str, Any], path: Path, inputs: Sequence[Any]) -> Output:
    """The output of a layer.

    arguments: evaluated.  path: of its activation.  inputs: `Output`s, or an image, or not known.
    """
    known = [item for item in inputs if isinstance(item, Output)]
    kind = kind_of(layer, arguments.get("activation"), [item.kind for item in known])
    if layer in IN_TRAINING and kind in PROBABILITIES:
        kind = f"{layer} of {kind}"
    flat = layer in FLATTENS or (layer != "Reshape" and any(item.flat for item in known))
    units = arguments.get(
        "units", known[0].units if known and layer in (*ACTIVATION_LAYERS, *KEEPS, *CHANGES) else None
    )
    return Output(kind, flat, units, layer, path)


def kind_of(layer: str, activation: Any, inputs: Sequence[str | None]) -> str | None:
    """The kind of a layer's outputs: softmax, sigmoid, logits, or the name of another activation; None: not known.

    activation: its name; None where there is none.  inputs: what its inputs are.
    """
    name = ACTIVATION_LAYERS.get(layer, activation)
    if name is UNKNOWN or not isinstance(name, str | None):
        return None
    if name in PROBABILITIES:
        return name
    if name not in SCORES:
        return name
    same = set(inputs)
    if name in NO_ACTIVATION and len(same) == 1:
        (kind,) = same
        if layer in KEEPS or (layer in KEEPS_SIGMOID and kind == "sigmoid"):
            return kind
        if layer in CHANGES and kind in PROBABILITIES:
            return f"{layer} of {kind}"
    return "logits"


def units_fault(task: str, head: Output) -> str | None:
    """Why the number of outputs does not fit the task; None where it does, or is not known."""
    if task == "binary" and isinstance(head.units, int) and head.units != 1:
        return (
            f"the task 'binary' has one output, the probability of the positive class, got {head.units}; write 1, or "
            '"=head_units", which follows the task'
        )
    return None


def head_fault(task: str, head: Output) -> str | None:
    """Why a head does not fit the task, with what to write; None where it does, or is not known."""
    right = "softmax" if task == "multiclass" else "sigmoid"
    write = f'write "{right}" (or {FOLLOW})'
    if head.kind is None:
        return None
    if head.kind not in (*PROBABILITIES, "logits"):
        return f"{head.kind} gives neither probabilities nor scores of both signs; for the task '{task}' {write}"
    if task == "multiclass" and head.kind == "sigmoid":
        return (
            "sigmoid gives each class a probability by itself, and the task 'multiclass' wants probabilities that sum "
            f'to 1; {write}, or for several labels per image "task": "multilabel"'
        )
    if task == "multilabel" and head.kind == "softmax":
        return f"softmax makes the labels of an image exclude one another; for the task 'multilabel' {write}"
    if task == "binary" and head.kind == "softmax":
        return (
            "softmax of one number is always 1, and the task 'binary' has one output; write \"units\": 1 and "
            f'"{right}" (or "=head_units" and "=head_activation", which follow the task), or for two outputs '
            '"task": "multiclass"'
        )
    return None


def targets_of(task: str, loss: Any, blends: bool) -> Targets:
    """The form in which the loss gets the labels.

    loss: `compile.loss`.  blends: whether labels are shares of classes.
    """
    if task == "binary":
        return "binary"
    if task == "multilabel":
        return "multi_hot"
    if loss_type(loss) == "auto":
        return "one_hot" if blends else "sparse"
    return "sparse" if loss_type(loss).startswith("Sparse") else "one_hot"


def loss_type(loss: Any) -> str:
    """The class of a loss as a spec writes it, or "auto"."""
    return str(loss["type"]) if isinstance(loss, Mapping) else str(loss)


def loss_faults(loss: Any, task: str, head: str | None, blends: Sequence[str]) -> Iterator[str]:
    """Why a loss does not go with the task, the head, or the augmentations that blend labels.

    head: "softmax", "sigmoid", "logits"; None: not known.
    """
    name = loss_type(loss)
    if name == "auto":
        return
    targets = targets_of(task, loss, bool(blends))
    takes_logits = isinstance(loss, Mapping) and bool(loss.get("from_logits"))
    if name.endswith(ON_PROBABILITIES) and head is not None and takes_logits is not (head == "logits"):
        given = "logits, as its last layer has no softmax or sigmoid" if head == "logits" else f"{head} probabilities"
        yield (
            f"the model gives {given}, and {name} takes {'logits' if takes_logits else 'probabilities'}; "
            'write "auto", or set from_logits'
        )
    if targets == "sparse" and blends:
        yield f'{blends[0]} blends labels, and {name} takes a single class; write "auto"'
    if name.startswith("Binary") and task == "multiclass":
        yield f'{name} treats each class by itself; for one class per image write "auto"'
    if task != "multiclass" and "Categorical" in name:
        yield f'{name} takes one class of several per image; for this task write "auto"'
