"""File or dict -> `Spec`: read, extend, set, replace search values, evaluate, check. All faults at once.

Order of precedence, last wins: defaults, parent, file, the file's `set`, the caller's params and edits, a
trial's values. Expressions are evaluated last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from kerasimg.errors import Fault, SpecError, listed, nearest
from kerasimg.spec import search, showing
from kerasimg.spec.check import AugmentChecker, Checker
from kerasimg.spec.document import KEYS, SECTIONS, Card, Compile, Expect, Fit, Image, Pretrained, Section, Task, Tune
from kerasimg.spec.expand import MAX_WORK, Expansion, ExpansionLimit, Handle, Visitor
from kerasimg.spec.expressions import UNKNOWN
from kerasimg.spec.merge import edit
from kerasimg.spec.nodes import NAME, NAME_WORDS, Block, Node, parse_blocks, parse_nodes
from kerasimg.spec.parents import MAX_PARENTS, Find, Found, extended, with_parents
from kerasimg.spec.places import Faults, Origins, Report
from kerasimg.spec.reader import as_read, is_comment, kind_of, shown
from kerasimg.spec.sections import validate
from kerasimg.spec.values import MAX_VALUES, evaluate_deep, evaluate_params, names_in, size_of, unknown_paths

STRUCTURE = ("image", "variants", "blocks", "model", "features")
"""The keys that, with the params, decide what the model is."""
MAX_BACKBONES = 64
TRIAL_WORK = 500
"""What checking the smallest spec takes, in the unit of `MAX_WORK`."""


class Within(NamedTuple):
    """The specs that one is a backbone of, and the backbones opened so far for the outermost."""

    chain: tuple[str, ...]
    opened: dict[str, Spec]
    """By file and params."""

    def of(self, label: str) -> Within:
        """What is within a spec that is itself within these."""
        return self if self.chain[-1:] == (label,) else Within((*self.chain, label), self.opened)


@dataclass(frozen=True, repr=False)
class Spec:
    """A checked spec with every value resolved. Made by `kerasimg.load`."""

    name: str
    about: str
    task: Task
    params: Mapping[str, Any]
    """Every param with its value."""
    card: Card
    image: Image
    compile: Compile
    fit: Fit
    tune: Tune
    pretrained: Pretrained
    expect: Expect
    nodes: tuple[Node, ...]
    blocks: Mapping[str, Block]
    features: str | None
    """Name of the top-level node at which the head begins, where the spec says so."""
    augment: tuple[tuple[str, Mapping[str, Any]], ...]
    """The augmentation layers in order: (class, arguments)."""
    search: tuple[search.SearchValue, ...]
    """The search values, each replaced by one value in all the rest."""
    file: str
    """What errors call it."""
    folder: Path
    """Where files that it names stand."""
    document: Mapping[str, Any] = field(repr=False)
    """As written, merged with its parents and edits."""
    resolved: Mapping[str, Any] = field(repr=False)
    """As `document`, search values replaced, params final, defaults filled in; loads as this same spec."""
    origins: Origins = field(repr=False)
    expect_holds: bool
    """False when a param that `expect` does not name, or the model, is not as the file has it."""
    find: Find = field(repr=False)
    given: Mapping[str, Any] = field(repr=False)
    """The params that the caller gave."""
    chosen: Mapping[str, Any] = field(repr=False)
    """The search values that the caller gave."""
    within: Within = field(repr=False)

    def __repr__(self) -> str:
        return showing.as_line(self)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return showing.as_html(self)

    def walk(self, visitor: Visitor, report: Report, entered: Handle) -> Handle:
        """Send every call of the model to `visitor`, in order; the output of the last."""
        return Expansion(self.blocks, visitor, report).run(self.nodes, self.params, entered)

    def open(self, reference: str, params: Mapping[str, Any]) -> Spec:
        """The spec that this one names as a backbone; SpecError when there is none."""
        return _opener(self.find, self.folder, self.within.of(self.file))(reference, params)


def load_file(found: Found, find: Find, **how: Any) -> Spec:
    """The spec in a file; `how` is as for `load_document`."""
    document, origins = with_parents(found, find, ())
    return _make(document, origins, found.path.parent, find, file=found.label, stem=found.path.stem, **how)


def load_document(document: Mapping[str, Any], find: Find, folder: Path, **how: Any) -> Spec:
    """The spec that a dict is.

    params: values of its params.  edits: values by path.  chosen: search values by name.
    partial: params that must be given may be missing; what depends on them is not checked.
    other_options: check what a search could choose too, besides what is chosen.
    """
    name = document.get("name")
    label = name if isinstance(name, str) and NAME.fullmatch(name) else "spec"
    merged, origins = extended(as_read(document, label), Found(folder / label, label), find, ())
    return _make(merged, origins, folder, find, file=label, stem=label, **how)


def load_again(
    spec: Spec,
    *,
    params: Mapping[str, Any] | None = None,
    edits: Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
    partial: bool = False,
    other_options: bool = True,
) -> Spec:
    """A loaded spec with further params, edits and search values, on top of those that it was loaded with."""
    document = {key: value for key, value in spec.document.items() if key != "expect" or spec.expect_holds}
    return _make(
        document,
        deepcopy(spec.origins),
        spec.folder,
        spec.find,
        file=spec.file,
        stem=spec.name,
        params={**spec.given, **(params or {})},
        edits=edits,
        chosen={**spec.chosen, **(chosen or {})},
        partial=partial,
        other_options=other_options,
        within=spec.within,
    )


def _opener(find: Find, folder: Path, within: Within) -> Callable[[str, Mapping[str, Any]], Spec]:
    def open_spec(reference: str, params: Mapping[str, Any]) -> Spec:
        try:
            found = find(reference, folder)
        except LookupError as error:
            raise SpecError([Fault("", "", str(error.args[0]))]) from None
        if found.label in within.chain or len(within.chain) > MAX_PARENTS:
            chain = " -> ".join((*within.chain, found.label))
            raise SpecError([Fault("", "", f"a backbone within itself: {chain}")])
        key = f"{found.path} {json.dumps(dict(params), sort_keys=True, default=repr)}"
        if key not in within.opened:
            if len(within.opened) >= MAX_BACKBONES:
                raise SpecError([Fault("", "", f"more than {MAX_BACKBONES} specs as backbones, one within another")])
            how: dict[str, Any] = {"params": params, "partial": True, "within": within.of(found.label)}
            # What a search could choose in it is its own affair: no search of the spec around it does.
            within.opened[key] = load_file(found, find, other_options=False, **how)
        return within.opened[key]

    return open_spec


def _make(
    document: dict[str, Any],
    origins: Origins,
    folder: Path,
    find: Find,
    *,
    file: str,
    stem: str,
    params: Mapping[str, Any] | None = None,
    edits: Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
    partial: bool = False,
    other_options: bool = True,
    within: Within | None = None,
) -> Spec:
    params = dict(params or {})
    within = within or Within((), {})
    faults = Faults(document, origins)
    written = edit(document, edits or {}, origins, "--set", faults.report)
    faults.document = written
    for name, value in params.items():
        origins.set(("params", name), f"param {name!r}")
        if search.holds_search(value):
            faults.report(("params", name), f"expected a value, got a search value; --set params.{name} takes one")
    work = _Making(written, faults, _opener(find, folder, within.of(file)))
    work.check_keys()
    work.replace_search(chosen or {})
    work.evaluate(params, partial)
    if other_options and not len(faults):
        work.check_other_options(params)
    if len(faults):
        raise SpecError(faults)
    holds = work.expect_holds(document)
    return Spec(
        name=work.text("name") or re.sub(r"\W+", "_", stem),
        about=work.text("about"),
        task=cast(Task, work.task()),
        params=work.params,
        nodes=work.nodes,
        blocks=work.blocks,
        features=work.features(),
        augment=tuple(work.augment),
        search=tuple(search.find(written)),
        file=file,
        folder=folder,
        document=written,
        resolved=work.resolved(holds),
        origins=origins,
        expect_holds=holds,
        find=find,
        given=params,
        chosen=dict(chosen or {}),
        within=within,
        **work.sections,
    )


class _Making:
    """The steps from a merged document to the parts of a spec."""

    def __init__(self, document: dict[str, Any], faults: Faults, open_spec: Any) -> None:
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
        self.work = TRIAL_WORK + size_of(document, MAX_WORK)

    def check_keys(self) -> None:
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
            self.report(("model",), "missing; a spec needs 'model', the list of its nodes")

    def replace_search(self, chosen: Mapping[str, Any]) -> None:
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

    def _declared_null(self, name: str) -> bool:
        return self.replaced["params"].get(name) is None

    def _section(self, name: str, section: type[Section]) -> Section:
        raw = self.replaced.get(name, {})
        value = evaluate_deep(raw, self.params, (name,), self.report)
        if size_of(value, MAX_VALUES) > MAX_VALUES:
            self.report((name,), f"more than {MAX_VALUES:,} values once evaluated")
            return section()
        made = validate(section, value, self.faults.below((name,)), unknown_paths(value))
        return made or section()

    def _check_nodes(self) -> None:
        self.blocks = parse_blocks(self.replaced.get("blocks", {}), ("blocks",), self.report)
        self.nodes = parse_nodes(self.replaced.get("model", []), ("model",), self.report)
        if self.replaced.get("model") == []:
            self.report(("model",), "expected at least one node")
        image = self.sections["image"]
        size = (*image.size, image.channels)
        if unknown_paths(evaluate_deep(self.replaced.get("image", {}), self.params, (), _unreported)):
            size = (UNKNOWN, UNKNOWN, UNKNOWN)
        augment = AugmentChecker(size, self.report, self.open_spec)
        nodes = parse_nodes(self.replaced.get("augment", []), ("augment",), self.report)
        for checker, body in ((Checker(size, self.report, self.open_spec), self.nodes), (augment, nodes)):
            expansion = Expansion(self.blocks, checker, self.report)
            with suppress(ExpansionLimit):
                expansion.run(body, self.params, "image")
            self.work += expansion.work
        self.augment = augment.layers
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
        trial = _Making(self.document, self.faults, self.open_spec)
        trial.replace_search(chosen)
        trial.evaluate(given, partial=True)
        return trial.work

    def text(self, key: str) -> str:
        return str(self.document.get(key) or "")

    def task(self) -> str:
        return str(self.replaced.get("task", "multiclass"))

    def features(self) -> Any:
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
        changed = {name for name, value in self.params.items() if params.get(name) != value}
        return changed <= named and all(as_written.get(key) == self.replaced.get(key) for key in STRUCTURE)


def _unreported(path: Any, message: str) -> None:
    """Faults that were reported before."""


def _filled(raw: Any, full: Any) -> Any:
    """What was written, with what was left out filled in from the validated section."""
    if isinstance(raw, dict) and isinstance(full, dict):
        return {**raw, **{key: _filled(raw.get(key, value), value) for key, value in full.items()}}
    if isinstance(raw, list) and isinstance(full, list) and len(raw) == len(full):
        return [_filled(item, value) for item, value in zip(raw, full, strict=True)]
    return raw
