"""Merged document -> the parts of a spec: search values replaced, params and sections evaluated, calls checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, get_args

from kerasimg.errors import listed, nearest
from kerasimg.spec import heads, metrics, search
from kerasimg.spec.check import AugmentChecker, Checker
from kerasimg.spec.document import KEYS, SECTIONS, Expect, Section, Task, Tune
from kerasimg.spec.expand import MAX_WORK, Expansion, ExpansionLimit
from kerasimg.spec.expressions import UNKNOWN
from kerasimg.spec.heads import Output
from kerasimg.spec.locations import Faults, Path
from kerasimg.spec.nodes import NAME, NAME_WORDS, Block, Node, parse_blocks, parse_nodes
from kerasimg.spec.reader import is_comment, kind_of, shown
from kerasimg.spec.sections import validate
from kerasimg.spec.values import (
    MAX_VALUES,
    evaluate_deep,
    evaluate_params,
    names_in,
    size_of,
    unknown_paths,
    value_at,
    with_expression,
)

STRUCTURE = ("image", "variants", "blocks", "model", "features")
"""The keys that, with the params, decide what the model is."""
TRIAL_WORK = 500
"""The cost of checking the smallest spec, in the unit of `MAX_WORK`."""


class Making:
    """The steps from a merged document to the parts of a spec; they report faults and continue.

    open_spec: the spec that a reference names as a backbone, with these params.
    is_backbone: whether this spec is itself the backbone of another, which has no use for its head.
    """

    def __init__(self, document: dict[str, Any], faults: Faults, open_spec: Any, is_backbone: bool = False) -> None:
        self.document = document
        self.faults = faults
        self.report = faults.report
        self.open_spec = open_spec
        self.replaced: dict[str, Any] = document
        self.params: dict[str, Any] = {}
        self.sections: dict[str, Any] = {}
        self.nodes: tuple[Node, ...] = ()
        self.blocks: dict[str, Block] = {}
        self.augment: list[tuple[str, dict[str, Any]]] = []
        self.is_backbone = is_backbone
        self.head: Output | None = None
        """What the last node gives, where that is one row of numbers per image, as many as it says."""
        self.incomplete: set[str] = set()
        """Sections that are faulty, or not known yet."""
        self.work = TRIAL_WORK + size_of(document, MAX_WORK)

    def check_keys(self) -> None:
        """Report keys that are not of a spec, and a name that is none."""
        for key in self.document:
            if key not in KEYS and not is_comment(key):
                self.report((key,), f"no such key in a spec{nearest(key, KEYS)}")
        for key in ("$schema", "about"):
            if key in self.document and not isinstance(self.document[key], str):
                self.report((key,), f"expected a string, got {kind_of(self.document[key])}")
        name = self.document.get("name")
        if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
            self.report(("name",), f"expected {NAME_WORDS}, got {shown(name)}")
        if "model" not in self.document:
            needs = "a spec needs 'model', the list of its nodes, or 'extends', a spec that has one"
            self.report(("model",), f"missing; {needs}")

    def replace_search(self, chosen: Mapping[str, Any]) -> None:
        """Put a value in the place of each search value: the chosen one, or its default."""
        self.replaced, self.faults.moved, self.faults.faulty = search.replace(self.document, chosen, self.report)

    def evaluate(self, given: Mapping[str, Any], partial: bool) -> None:
        """Params, sections, nodes, in that order; then the walk that checks every call."""
        variants = self.replaced.get("variants")
        self.params = evaluate_params(self.replaced.get("params", {}), given, self.report, variants)
        if isinstance(variants, dict) and self.params.get("variant") not in list(variants):
            partial = True  # what the variant would give is not what is missing
        missing = [name for name, value in self.params.items() if value is UNKNOWN and self._declared_null(name)]
        if not partial:
            for name in missing:
                self.report(
                    ("params", name), f"must be given: {name}=... in Python, --set {name}=... on the command line"
                )
        for name, section in SECTIONS.items():
            self.sections[name] = self._section(name, section)
        if self.task() not in get_args(Task):
            known = ", ".join(get_args(Task))
            found = self.replaced["task"]
            self.report(("task",), f"expected one of {known}, got {shown(found)}{nearest(str(found), get_args(Task))}")
        self._check_nodes()
        positive = self.positive_class()
        if not isinstance(positive, str | None):
            self.report(("positive_class",), f"expected the name of a class, got {shown(positive)}")
        elif positive is not None and self.task() != "binary":
            self.report(("positive_class",), f"is for the task 'binary', and the task is '{self.task()}'")
        self._fill_directions()
        self._check_objective()

    @property
    def names(self) -> dict[str, Any]:
        """The names that expressions of sections and nodes may use."""
        return heads.names(self.task(), self.params)

    def _declared_null(self, name: str) -> bool:
        return self.replaced["params"].get(name) is None

    def _section(self, name: str, section: type[Section]) -> Section:
        raw = self.replaced.get(name, {})
        value = evaluate_deep(raw, self.names, (name,), self.report)
        if size_of(value, MAX_VALUES) > MAX_VALUES:
            self.report((name,), f"more than {MAX_VALUES:,} values once evaluated")
            self.incomplete.add(name)
            return section()

        def report(path: Path, message: str) -> None:
            self.report((name, *path), with_expression(value_at(raw, path), message))

        made = validate(section, value, report, unknown_paths(value))
        if made is None:
            self.incomplete.add(name)
        return made or section()

    def _fill_directions(self) -> None:
        """Check every figure that is watched, and fill in which way it is better."""
        if self.incomplete & {"compile", "fit"}:
            return
        compiled, fit = self.sections["compile"], self.sections["fit"]
        for path, message in metrics.rate_faults(compiled, fit):
            self.report(("fit", *path), message)
        self.sections["fit"] = metrics.Directions(compiled, fit, self.faults.below(("fit",))).filled()
        tune = self.sections["tune"]
        # The default is resolved into the spec of every run, which need not measure it.
        chosen = tune.objective != Tune().objective or ("tune" in self.replaced and any(search.find(self.document)))
        if chosen and "tune" not in self.incomplete and (fault := metrics.objective_fault(compiled, fit, tune)):
            self.report(("tune", *fault[0]), fault[1])

    def _check_objective(self) -> None:
        """Check task, head, loss and metrics against one another. What serves only as a backbone has no task."""
        task = self.task()
        if self.is_backbone or task not in get_args(Task) or "compile" in self.incomplete:
            return
        head, kind = self.head, None
        if head is not None and self.features() != (self.nodes[-1].name or ""):
            if message := heads.head_fault(task, head):
                self.report(head.path, message)
            elif message := heads.units_fault(task, head):
                at = head.path[:-1] if head.path[-1:] == ("activation",) else head.path
                self.report((*at, "units"), message)
            elif head.kind in (*heads.PROBABILITIES, "logits"):
                kind = head.kind
        compiled = self.sections["compile"]
        blends = [name for name, _ in self.augment if name in heads.BLENDING]
        for message in heads.loss_faults(compiled.loss, task, kind, blends):
            self.report(("compile", "loss"), message)
        for index, path, message in metrics.metric_faults(compiled.metrics, task, kind):
            self.report(("compile", "metrics", index, *path), message)

    def _check_nodes(self) -> None:
        self.blocks = parse_blocks(self.replaced.get("blocks", {}), ("blocks",), self.report, self.names)
        self.nodes = parse_nodes(self.replaced.get("model", []), ("model",), self.report, self.names)
        if self.replaced.get("model") == []:
            self.report(("model",), "expected at least one node")
        image = self.sections["image"]
        size = (*image.size, image.channels)
        if unknown_paths(evaluate_deep(self.replaced.get("image", {}), self.names, (), _unreported)):
            size = (UNKNOWN, UNKNOWN, UNKNOWN)
        augment = AugmentChecker(size, self.report, self.open_spec)
        nodes = parse_nodes(self.replaced.get("augment", []), ("augment",), self.report, self.names)
        for checker, body in ((Checker(size, self.report, self.open_spec), self.nodes), (augment, nodes)):
            expansion = Expansion(self.blocks, checker, self.report)
            output = None
            with suppress(ExpansionLimit):
                output = expansion.run(body, self.names, "image", whole=checker is not augment)
            self.work += expansion.work
            if body is self.nodes and isinstance(output, Output) and output.flat and output.units is not None:
                self.head = output
        self.augment = augment.augmentations
        self._check_names([node.name for node in self.nodes if node.name])

    def _check_names(self, names: Sequence[str]) -> None:
        """Check what refers to nodes of `model` from outside of it."""
        there = listed(names) or "none"
        if (features := self.features()) is not None and features not in names:
            message = f"expected the name of a node of 'model', got {shown(features)} (names: {there})"
            self.report(("features",), message)
        for index, stage in enumerate(self.sections["fit"].stages):
            for key in ("unfreeze", "freeze"):
                for place, name in enumerate(getattr(stage, key)):
                    if name not in names:
                        at = name if key == "unfreeze" else place
                        message = f"no node '{name}' in 'model'{nearest(name, names)} (names: {there})"
                        self.report(("fit", "stages", index, key, at), message)

    def check_other_options(self, given: Mapping[str, Any]) -> None:
        """Check what would be checked if each other option, and each other variant, were chosen, as far as work allows.

        What is left out here is checked when a search chooses it.
        """
        work = 0
        for value in filter(search.is_sound, search.find(self.document)):
            if value.kind != "$choice":
                others: Sequence[Any] = [bound for bound in value.given[value.kind] if bound != value.given["default"]]
            else:
                others = [option for option in value.options if option != value.given["default"]]
            for option in others:
                if work > MAX_WORK:
                    return
                work += self._try({**dict(value.within), value.name: option}, given)
        for variant in self.document.get("variants") or ():
            if variant != self.params.get("variant") and not is_comment(variant) and work <= MAX_WORK:
                work += self._try({}, {**given, "variant": variant})

    def _try(self, chosen: Mapping[str, Any], given: Mapping[str, Any]) -> int:
        """Check what these search values and params would make; the work that it took."""
        trial = Making(self.document, self.faults, self.open_spec, self.is_backbone)
        trial.replace_search(chosen)
        trial.evaluate(given, partial=True)
        return trial.work

    def text(self, key: str) -> str:
        """The text at a key."""
        return str(self.document.get(key) or "")

    def task(self) -> str:
        """The kind of classification."""
        return str(self.replaced.get("task", "multiclass"))

    def positive_class(self) -> Any:
        """Name of the positive class of the task binary, or None: the second by name."""
        return self.replaced.get("positive_class")

    def features(self) -> Any:
        """Name of the node at which the head begins, or None."""
        return self.replaced.get("features")

    def resolved(self, expect_holds: bool) -> dict[str, Any]:
        """The document with nothing left to choose or to default, and without an `expect` of another model."""
        made = {**self.replaced, "name": self.text("name") or None, "task": self.task()}
        made = {key: value for key, value in made.items() if value is not None}
        if self.params:
            made["params"] = {
                name: None if value is UNKNOWN else value
                for name, value in {**self.replaced["params"], **self._final_params()}.items()
            }
        for name in SECTIONS:
            made[name] = _filled(made.get(name, {}), self.sections[name].model_dump(mode="json"))
        if not expect_holds:
            made["expect"] = Expect().model_dump(mode="json")
        return made

    def _final_params(self) -> dict[str, Any]:
        """The values of the params that are no expressions; the others follow from them."""
        raw = self.replaced["params"]
        given = {path[1] for path in self.faults.origins.paths() if path[:1] == ("params",) and len(path) == 2}
        return {name: value for name, value in self.params.items() if not names_in(raw[name]) or name in given}

    def expect_holds(self, document: Mapping[str, Any]) -> bool:
        """Whether what `expect` says of the model as `document` has it can be said of this one."""
        as_written = search.replace(dict(document), {}, _unreported).document
        same = {name: value for name, value in self.params.items() if name == "variant"}
        params = evaluate_params(as_written.get("params", {}), same, _unreported, as_written.get("variants"))
        named = names_in(document.get("expect", {}))
        if "head_units" in named:
            named |= {"num_classes"}
        if self.params.get("variant") != as_written.get("params", {}).get("variant"):
            of_variants = {name for values in (as_written.get("variants") or {}).values() for name in values}
            if not self._used_by(named) & of_variants:  # only the file's own variant is expected to be like this
                return False
        changed = {name for name, value in self.params.items() if params.get(name) != value}
        return changed <= named and all(as_written.get(key) == self.replaced.get(key) for key in STRUCTURE)

    def _used_by(self, names: Set[str]) -> set[str]:
        """The names and all params that their expressions use."""
        used: set[str] = set()
        while new := names - used:
            used |= new
            names = names_in([self.replaced.get("params", {}).get(name) for name in new])
        return used


def _unreported(path: Any, message: str) -> None:
    """Faults that were reported before."""


def _filled(raw: Any, full: Any) -> Any:
    """The values as written, with defaults filled in from the validated section."""
    if isinstance(raw, dict) and isinstance(full, dict):
        return {**raw, **{key: _filled(raw.get(key, value), value) for key, value in full.items()}}
    if isinstance(raw, list) and isinstance(full, list) and len(raw) == len(full):
        return [_filled(item, value) for item, value in zip(raw, full, strict=True)]
    return raw
