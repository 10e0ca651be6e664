"""File or dict -> `Spec`: read, extend, set, replace search values, evaluate, check. All faults at once.

Order of precedence, last wins: defaults, parent, file, the file's `set`, the caller's params and edits, a
trial's values. Expressions are evaluated last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from kerasimg.errors import Fault, SpecError
from kerasimg.spec import display, heads, search
from kerasimg.spec.assembly import Making
from kerasimg.spec.document import Card, Compile, Expect, Fit, Image, Pretrained, Task, Tune
from kerasimg.spec.expand import Expansion, Handle, Visitor
from kerasimg.spec.inheritance import MAX_PARENTS, Find, Found, extended, with_parents
from kerasimg.spec.lint import factors, unused_names
from kerasimg.spec.locations import Faults, Origins, Report, show_path
from kerasimg.spec.merge import edit
from kerasimg.spec.nodes import NAME, Block, Node
from kerasimg.spec.reader import as_read
from kerasimg.spec.settings import settle

MAX_BACKBONES = 64


class Within(NamedTuple):
    """The specs that one is a backbone of, and the backbones opened so far for the outermost."""

    chain: tuple[str, ...]
    opened: dict[str, Spec]
    """The key: file and params."""

    def of(self, label: str) -> Within:
        """What is within a spec that is itself within these."""
        return self if self.chain[-1:] == (label,) else Within((*self.chain, label), self.opened)


@dataclass(frozen=True, repr=False)
class Spec:
    """A checked spec with every value resolved. Made by `kerasimg.load`."""

    name: str
    about: str
    task: Task
    positive_class: str | None
    """The class that a binary model's output is the probability of; None: the second by name."""
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
    """Name of the top-level node at which the head begins, if the spec gives it."""
    augment: tuple[tuple[str, Mapping[str, Any]], ...]
    """The augmentation layers in order: (class, arguments)."""
    search: tuple[search.SearchValue, ...]
    """The search values, each replaced by one value in all the rest."""
    file: str
    """Its name in errors."""
    folder: Path
    """The folder of the files that it names."""
    document: Mapping[str, Any] = field(repr=False)
    """As written, merged with its parents and edits."""
    resolved: Mapping[str, Any] = field(repr=False)
    """As `document`, search values replaced, params final, defaults filled in; loads as this same spec."""
    origins: Origins = field(repr=False)
    warnings: tuple[Fault, ...]
    """What is probably a mistake of this file, and does not stop anything: names that nothing uses, factors of
    augmentation layers that mean something else than they seem to."""
    expect_holds: bool
    """False when a param that `expect` does not name, or the model, is not as the file has it."""
    find: Find = field(repr=False)
    given: Mapping[str, Any] = field(repr=False)
    """The params that the caller gave."""
    chosen: Mapping[str, Any] = field(repr=False)
    """The search values that the caller gave."""
    within: Within = field(repr=False)

    def __repr__(self) -> str:
        return display.as_line(self)

    def _repr_html_(self) -> str:
        """The HTML form for notebooks."""
        return display.as_html(self)

    def walk(self, visitor: Visitor, report: Report, entered: Handle) -> Handle:
        """Send every call of the model to `visitor`, in order; the output of the last."""
        return Expansion(self.blocks, visitor, report).run(self.nodes, heads.names(self.task, self.params), entered)

    def open(self, reference: str, params: Mapping[str, Any]) -> Spec:
        """The spec that this one names as a backbone; SpecError when there is none."""
        return _opener(self.find, self.folder, self.within.of(self.file))(reference, params)


def load_file(found: Found, find: Find, **options: Any) -> Spec:
    """The spec in a file; `how` is as for `load_document`."""
    document, origins = with_parents(found, find, ())
    return _make(document, origins, found.path.parent, find, file=found.label, stem=found.path.stem, **options)


def load_document(document: Mapping[str, Any], find: Find, folder: Path, **options: Any) -> Spec:
    """The spec that a dict is.

    params: values of its params.  edits: values by path.  chosen: search values by name.
    partial: params that must be given may be missing; what depends on them is not checked.
    other_options: check what a search could choose too, besides what is chosen.
    """
    name = document.get("name")
    label = name if isinstance(name, str) and NAME.fullmatch(name) else "spec"
    merged, origins = extended(as_read(document, label), Found(folder / label, label), find, ())
    return _make(merged, origins, folder, find, file=label, stem=label, **options)


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
            options: dict[str, Any] = {"params": params, "partial": True, "within": within.of(found.label)}
            # What a search could choose in it is its own affair: no search of the spec around it does.
            within.opened[key] = load_file(found, find, other_options=False, **options)
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
    within = within or Within((), {})
    faults = Faults(document, origins, file)
    params, edits = settle(document, params or {}, edits or {}, faults.report, settings=not within.chain)
    written = edit(document, edits, origins, "--set", faults.report)
    faults.document = written
    for name, value in params.items():
        origins.set(("params", name), f"param {name!r}")
        if search.holds_search(value):
            faults.report(("params", name), f"expected a value, got a search value; --set params.{name} takes one")
    work = Making(written, faults, _opener(find, folder, within.of(file)), is_backbone=bool(within.chain))
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
        positive_class=work.positive_class(),
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
        warnings=tuple(
            Fault(file, show_path(written, path), message)
            for path, message in (*unused_names(written), *factors(work.replaced))
            if origins.of(path) == file
        ),
        expect_holds=holds,
        find=find,
        given=params,
        chosen=dict(chosen or {}),
        within=within,
        **work.sections,
    )
