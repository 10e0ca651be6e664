"""From the layers of a spec's `augment` to steps: runs of what can be compiled, and single Keras layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kerasimg.data.augmentation.backend import BACKEND
from kerasimg.data.augmentation.blend import Blend, CutMix, MixUp
from kerasimg.data.augmentation.colour import COLOURED, PHOTOMETRIC
from kerasimg.data.augmentation.compiled import Compiled
from kerasimg.data.augmentation.draws import Part
from kerasimg.data.augmentation.erase import Erasing, Grid
from kerasimg.data.augmentation.geometry import GEOMETRIC, Flip, Geometric, Size, Warp, scaling
from kerasimg.data.augmentation.keras_step import KerasStep
from kerasimg.data.augmentation.operations import Node, Operation, Step
from kerasimg.data.augmentation.policies import changes, keras_aug_mix, keras_rand_augment
from kerasimg.errors import CallError
from kerasimg.objects import make_layer
from kerasimg.spec import arguments

RANGE: Final = (0, 255)

BLENDING: Final[dict[str, Callable[[Any], Blend]]] = {"MixUp": MixUp, "CutMix": CutMix}

OTHERS: Final[dict[str, Callable[[Any, Size], list[Operation] | None]]] = {
    "RandomErasing": lambda layer, size: [Erasing(layer)],
    "GridMask": lambda layer, size: [Grid(layer)],
    "RandAugment": keras_rand_augment,
    "AugMix": keras_aug_mix,
    "TrivialAugment": lambda layer, size: changes("TrivialAugment", layer, size),
    "RandAugmentPerImage": lambda layer, size: changes("RandAugmentPerImage", layer, size),
}

ALTERNATING: Final = "AlternatingFlip"
"""The layer whose draws in an epoch depend on those of the one before."""

LATER: Final = 1 << 16
"""Added to a layer's number for each further operation that it becomes, so that all streams differ."""


class Lowered(NamedTuple):
    """What an Augmentation is made of."""

    steps: Sequence[Step]
    said: str
    size: Size
    blending: Sequence[str]


CACHED: Final = 16
_cached: Final[dict[str, Lowered]] = {}
"""Made before, so that a search does not compile the same functions for each of its trials."""


def lowered(nodes: Sequence[Node], size: Size, channels: int) -> Lowered:
    """Steps for layers and images of this size; the same ones for the same arguments, as long as all are compiled."""
    try:
        key = json.dumps([nodes, size, channels], sort_keys=True)
    except TypeError:
        key = ""
    if key in _cached:
        return _cached[key]
    lowering = Lowering(size, channels)
    for number, (name, given) in enumerate(nodes):
        lowering.add(number, name, given)
    made = lowering.end(size)
    if key and all(isinstance(step, Compiled) for step in made.steps):
        while len(_cached) >= CACHED:
            del _cached[next(iter(_cached))]
        _cached[key] = made
    return made


class Lowering:
    """What has become of the layers so far."""

    def __init__(self, size: Size, channels: int):
        self.size, self.channels = size, channels
        self.steps: list[Step] = []
        self.said: list[str] = []
        self.blending: list[str] = []
        self.operations: list[Operation] = []
        self.parts: list[list[Part]] = []
        self.moves: list[tuple[str, Any, Geometric, Part]] = []

    def add(self, number: int, name: str, given: Mapping[str, Any]) -> None:
        """Take the number-th layer."""
        layer = _layer(number, name, given)
        stream = (number, 0 if given.get("seed") is None else given["seed"] + 1)
        if name in COLOURED and self.channels != 3:
            raise CallError(f"augment[{number}] ({name}): needs images of 3 channels; they have {self.channels}")
        steps = GEOMETRIC[name](layer, self.size) if name in GEOMETRIC and _plain(name, given) else None
        if steps:
            for step in steps:
                self._move(name, layer, step, Part(step.numbers, stream, name == ALTERNATING))
            return
        self._end_moves()
        operations = self._operations(name, layer) if _plain(name, given) else None
        if operations is None:
            self._keras(name, layer, stream)
            return
        self.said.append(name)
        self.operations += operations
        self.parts += [
            [Part(operation.numbers, (number + LATER * later, stream[1]))] for later, operation in enumerate(operations)
        ]

    def end(self, size: Size) -> Lowered:
        """Bring the images to this size, and finish."""
        if self.size != size:
            self._move("to size", None, scaling(self.size, size), Part(0, (0, 0)))
        self._end_operations()
        native = any(isinstance(step, Compiled) for step in self.steps)
        said = ", ".join(self.said) + (f"; {BACKEND.described}" if native else "")
        return Lowered(self.steps, said, size, self.blending)

    def _move(self, name: str, layer: Any, step: Geometric, part: Part) -> None:
        interpolations = {one.interpolation for _, _, one, _ in self.moves} | {step.interpolation}
        if len(interpolations - {None}) > 1:
            self._end_moves()
        self.moves.append((name, layer, step, part))
        self.size = step.size

    def _end_moves(self) -> None:
        """Make one operation of the moves that have come together."""
        if not self.moves:
            return
        names, layers, steps, parts = zip(*self.moves, strict=True)
        said = " + ".join(dict.fromkeys(names))
        self.said.append(f"one warp ({said})" if len(set(names)) > 1 else said)
        flips = set(names) <= {"RandomFlip", ALTERNATING}
        self.operations.append(Flip(said, [layer.mode for layer in layers]) if flips else Warp(said, steps))
        self.parts.append(list(parts))
        self.moves = []

    def _operations(self, name: str, layer: Any) -> Sequence[Operation] | None:
        if name in BLENDING:
            self.blending.append(name)
            return [BLENDING[name](layer)]
        if name in OTHERS:
            return OTHERS[name](layer, self.size)
        return PHOTOMETRIC[name](layer) if name in PHOTOMETRIC else None

    def _end_operations(self) -> None:
        """Make one function of the operations that have come together."""
        self._end_moves()
        if self.operations:
            self.steps.append(Compiled(self.operations, self.parts))
        self.operations, self.parts = [], []

    def _keras(self, name: str, layer: Any, stream: tuple[int, int]) -> None:
        self._end_operations()
        step = KerasStep(name, layer, stream, (*self.size, self.channels))
        self.steps.append(step)
        self.size = step.shape[:2]
        self.said.append(f"{name} (by Keras)")


def _layer(number: int, name: str, given: Mapping[str, Any]) -> Any:
    """The Keras layer, which checks its arguments and knows its ranges; with the defaults of images here."""
    if given.get("data_format") == "channels_first":
        raise CallError(f"augment[{number}] ({name}): data_format: images are channels_last here")
    takes = (arguments.entry("layers", name) or {"args": {}})["args"]
    usual = {"value_range": list(RANGE), "data_format": "channels_last", "dtype": "float32"}
    return make_layer(name, {key: value for key, value in usual.items() if key in takes} | dict(given))


def _plain(name: str, given: Mapping[str, Any]) -> bool:
    """Whether a layer is Keras' or kerasimg's own, on pixels as they are here; others are left as they are."""
    own = "object" in (arguments.entry("layers", name) or {})
    usual = tuple(given.get("value_range") or RANGE) == RANGE and given.get("dtype") in (None, "float32")
    return (usual or name == ALTERNATING) and not own
