"""Checks the call of a node, for the loader (shapes unknown) and for the builder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kerasimg.errors import SpecError, nearest
from kerasimg.spec import arguments
from kerasimg.spec.expand import Call, Handle
from kerasimg.spec.expressions import UNKNOWN, is_expression
from kerasimg.spec.heads import Output, output_of
from kerasimg.spec.locations import Path, Report
from kerasimg.spec.reader import shown
from kerasimg.spec.values import value_at, with_expression

if TYPE_CHECKING:
    from kerasimg.spec.load import Spec

WEIGHTS_FILE = re.compile(r"[^/\\:][^\\:]*\.weights\.h5")
HUB_WEIGHTS = re.compile(r"hf://[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+@[0-9a-f]{40}")
"""A checkpoint on the Hugging Face Hub, with its commit: a branch or a tag may change."""
SHA256 = re.compile(r"[0-9a-f]{64}")
OpenSpec = Callable[[str, Mapping[str, Any]], "Spec"]
"""(reference, params) -> the spec that a backbone names; SpecError when there is none."""


class Checker:
    """A visitor that makes nothing and finds the faults that need no shapes."""

    def __init__(self, size: Sequence[Any], report: Report, open_spec: OpenSpec) -> None:
        self.size = tuple(size)
        self.report = report
        self.open_spec = open_spec
        self.layers: dict[str, tuple[str, Mapping[str, Any], Path]] = {}
        """By name: the class, the arguments, and the path of the activation."""
        self.maps: dict[str, Sequence[str]] = {}
        """The feature maps that a backbone gives, by its name."""
        self._reported: set[tuple[Path, str]] = set()

    def visit(self, call: Call) -> Handle:
        """Check one call; its output says whether it gives probabilities, not its shape."""
        if call.kind == "layer" and (arguments.entry("layers", call.target) or {}).get("augment"):
            message = f"{call.target} belongs in 'augment'; in 'model', predictions and exports would be augmented too"
            self.report(call.node.places["layer"], message)
        checked = self._check(call)
        inputs = call.inputs.values() if isinstance(call.inputs, dict) else call.inputs
        inputs = list(inputs) if isinstance(call.inputs, list | dict) else [inputs]
        if call.kind == "layer":
            place = call.node.places.get("activation", call.node.path)
            self.layers[call.name] = call.target, checked, place
        elif call.kind == "backbone" or call.target not in self.layers:
            if maps := checked.get("features"):
                self.maps[call.name] = maps
            maps = self.maps.get(call.name if call.kind == "backbone" else call.target)
            return {name: Output(kind=None) for name in maps} if maps else Output(kind=None)
        return output_of(*self.layers[call.name if call.kind == "layer" else call.target], inputs)

    def _check(self, call: Call) -> dict[str, Any]:
        """Check a call; a fault that it has again in another row, block or repeat is reported once."""

        def report(path: Path, message: str) -> None:
            fault = path, message.removeprefix(f"{call.origin}: ")
            if fault not in self._reported:
                self._reported.add(fault)
                self.report(path, message)

        return check_call(call, report, self.open_spec)

    def shape(self, handle: Handle) -> Sequence[Any]:
        """The image's, for the input; else unknown."""
        return self.size if handle == "image" else (UNKNOWN, UNKNOWN, UNKNOWN)


OF_COLOURS = ("AugMix", "RandAugment", "RandomColorJitter", "RandomGrayscale", "RandomHue", "RandomSaturation")
"""Augmentations that need images of red, green and blue."""


class AugmentChecker(Checker):
    """A visitor that collects the augmentation layers of a spec, each as (class, arguments)."""

    def __init__(self, size: Sequence[Any], report: Report, open_spec: OpenSpec) -> None:
        super().__init__(size, report, open_spec)
        self.augmentations: list[tuple[str, dict[str, Any]]] = []

    def visit(self, call: Call) -> Handle:
        """Check that one call is an augmentation."""
        entry = arguments.entry("layers", call.target) if call.kind == "layer" else None
        channels = self.size[-1]
        if call.target in OF_COLOURS and isinstance(channels, int) and channels > 3:
            message = f"{call.target} changes colours and needs 3 channels; image.channels is {channels}"
            self.report(call.node.places["layer"], message)
        if call.kind != "layer" or (entry is not None and not entry.get("augment")):
            near = nearest(call.target, arguments.augmentations())
            self.report(call.node.places[call.kind], f"'{call.target}' is no augmentation layer{near}")
        else:
            self.augmentations.append((call.target, self._check(call)))
        return Output(kind=None)


def check_call(call: Call, report: Report, open_spec: OpenSpec) -> dict[str, Any]:
    """The call's arguments as the constructor takes them; every fault is reported at its place in the document."""

    def report_at(below: Path, message: str) -> None:
        key = str(below[0]) if below else call.kind
        columns, places = call.node.columns, call.node.places
        if takes and columns and key not in (takes.keys() & places.keys()) | {call.kind, "inputs"}:
            place = columns.get(key, places.get(key, (*call.node.path, "table", 0)))
            report(place, message)  # of a name that is wrong or missing: at the table's header, and not in each row
            return
        written = value_at(call.node.arguments, below)
        if is_expression(written) and call.origin:  # what it gives differs from call to call
            message = f"{call.origin}: {with_expression(written, message)}"
        else:
            message = with_expression(written, message)
        report((*call.node.places.get(key, (*call.node.path, *below[:1])), *below[1:]), message)

    takes: Mapping[str, Any] = {}
    if call.kind == "reuse":
        return {}
    if call.kind == "backbone":
        takes = (arguments.entry("backbones", call.target) or {}).get("args", {})
        return _check_backbone(call, report_at, open_spec)
    entry = arguments.entry("layers", call.target)
    takes = (entry or {}).get("args", {})
    if entry is None:
        report(call.node.places["layer"], arguments.unknown_name("layers", call.target))
        return {}
    checked = arguments.check_arguments("layers", call.target, call.arguments, report_at)
    _check_inputs(call, entry, report_at)
    return checked


def _check_inputs(call: Call, entry: Mapping[str, Any], report_at: Report) -> None:
    takes = entry.get("inputs") or ()
    several = isinstance(call.inputs, list)
    if isinstance(call.inputs, dict):
        if not takes:
            report_at(("inputs",), f"{call.target} has no named inputs; give a name or a list of names")
        for key in call.inputs.keys() - set(takes or call.inputs):
            report_at(
                ("inputs", key), f"no such input of {call.target}{nearest(key, takes)} (inputs: {', '.join(takes)})"
            )
    elif entry.get("merge") and not several and call.inputs is not UNKNOWN:
        report_at(("inputs",), f"{call.target} joins several nodes: give a list of their names")


def _check_backbone(call: Call, report_at: Report, open_spec: OpenSpec) -> dict[str, Any]:
    given = dict(call.arguments)
    weights = given.pop("weights", None)
    trainable = given.pop("trainable", True)
    also: dict[str, Any] = {}
    if "features" in given:
        also["features"] = _feature_names(given.pop("features"), call, report_at)
    if message := weights_fault(weights):
        report_at(("weights",), message)
    if trainable is not UNKNOWN and not isinstance(trainable, bool):
        report_at(("trainable",), f"expected true or false, got {shown(trainable)}")
    if call.target.endswith(".json"):
        known = {key: value for key, value in given.items() if value is not UNKNOWN}
        try:
            spec = open_spec(call.target, known)
        except SpecError as error:
            for fault in error.faults:
                report_at(("backbone",), str(fault))
        else:
            given = {key: value for key, value in given.items() if key in spec.params}
    elif arguments.entry("backbones", call.target) is None:
        report_at(("backbone",), arguments.unknown_name("backbones", call.target))
    else:
        given = arguments.check_arguments("backbones", call.target, given, report_at)
    return {**given, "weights": weights, "trainable": trainable, **also}


def _feature_names(names: Any, call: Call, report_at: Report) -> list[str]:
    """The names of the feature maps that a backbone gives; empty if they are not such."""
    if names is UNKNOWN:
        return []
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        report_at(("features",), f"expected a list of names of nodes of the backbone, got {shown(names)}")
        return []
    if len(set(names)) < len(names):
        report_at(("features",), f"expected each name once, got {shown(names)}")
    if call.node.name is None:
        report_at(("features",), "the node needs a 'name', by which later nodes take them: NAME." + names[0])
    return names


def weights_fault(weights: Any) -> str:
    """The error in a node's `weights`; empty if there is none."""
    expected = (
        'expected null, "imagenet", a .weights.h5 file beside the spec, {"file": ..., "sha256": ...}, '
        'or "hf://owner/name@" with the 40 digits of a commit'
    )
    if weights is None or weights is UNKNOWN or weights == "imagenet":
        return ""
    if isinstance(weights, str) and HUB_WEIGHTS.fullmatch(weights):
        return ""
    file, digest = weights, None
    if isinstance(weights, dict):
        if weights.keys() - {"file", "sha256"} or "file" not in weights:
            return f"{expected}, got {shown(weights)}"
        file, digest = weights["file"], weights.get("sha256")
    if not isinstance(file, str) or not WEIGHTS_FILE.fullmatch(file) or ".." in file.split("/"):
        return f"{expected}, got {shown(weights)}"
    if digest is not None and not (isinstance(digest, str) and SHA256.fullmatch(digest)):
        return f"expected sha256 as 64 hexadecimal digits, got {shown(digest)}"
    return ""
