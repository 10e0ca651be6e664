"""Settings that every spec takes under one name: `epochs`, `size`, `batch_size`, `lr`, `task`, `trials`, `minutes`.

A caller gives them as params: `kerasimg.train(..., epochs=3)`, `--epochs 3` or `--set epochs=3`. Where the spec
declares a param of that name, that is set; otherwise the place in the spec:

    epochs      fit.stages.*.epochs: the epochs in all. Several stages share them in the proportion in which the spec
                has them; each stage has at least one.
    size        image.size, as height and width. A stage with a `size` of its own keeps it.
    batch_size  fit.batch_size.
    lr          the learning rate of the first stage: fit.stages.0.learning_rate where it is written, otherwise
                compile.optimizer.learning_rate; of a schedule its initial_learning_rate. Later stages with a rate of
                their own keep it, unless the spec computes it from the param `lr`.
    task        task.
    trials      tune.max_trials.
    minutes     tune.minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from kerasimg.errors import listed, nearest
from kerasimg.spec import search
from kerasimg.spec.document import SECTIONS, EarlyStopping, Section, Stage
from kerasimg.spec.locations import Report
from kerasimg.spec.values import evaluate_deep, evaluate_params

INITIAL_RATE = "initial_learning_rate"
MAX_PATHS = 2000
"""Paths of a document among which a name that is unknown is looked for."""


Edits = Callable[[Mapping[str, Any], Any], dict[str, Any]]
"""The edits by path that a value of a setting means in a document."""


class Unsettable(ValueError):
    """The spec has no place for a setting, with the reason."""


def _epochs(document: Mapping[str, Any], value: Any) -> dict[str, Any]:
    fit = document.get("fit")
    stages = fit.get("stages", [{}]) if isinstance(fit, dict) else [{}]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise Unsettable("'fit.stages' is not a plain list; set fit.stages itself")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        return {"fit.stages.0.epochs": value}  # refused there, by its path
    shares = shared(value, [_number(document, stage.get("epochs", Stage().epochs)) for stage in stages])
    return {f"fit.stages.{index}.epochs": share for index, share in enumerate(shares)}


def shared(total: int, weights: list[float]) -> list[int]:
    """A total in whole shares in proportion to weights, at least 1 each: 5 by [3, 12] is [1, 4]."""
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [max(1, int(share)) for share in exact]
    while sum(shares) < total:
        missing = max(range(len(shares)), key=lambda index: exact[index] - shares[index])
        shares[missing] += 1
    while sum(shares) > max(total, len(shares)):
        larger = max((index for index in range(len(shares)) if shares[index] > 1), key=lambda i: shares[i] - exact[i])
        shares[larger] -= 1
    return shares


def _number(document: Mapping[str, Any], written: Any) -> float:
    """The number that a value of a document comes to, with every param at its default; 1 where it is none."""
    plain = search.replace({"params": document.get("params", {}), "value": written}, {}, _ignore).document
    params = evaluate_params(plain["params"], {}, _ignore, document.get("variants"))
    value = evaluate_deep(plain["value"], params, (), _ignore)
    return float(value) if isinstance(value, int | float) and value > 0 else 1.0


def _size(document: Mapping[str, Any], value: Any) -> dict[str, Any]:
    return {"image.size": list(value) if isinstance(value, list | tuple) else [value, value]}


def _at(path: str) -> Edits:
    return lambda document, value: {path: value}


def _lr(document: Mapping[str, Any], value: Any) -> dict[str, Any]:
    fit, compiled = document.get("fit"), document.get("compile")
    stages = fit.get("stages") if isinstance(fit, dict) else None
    first = stages[0] if isinstance(stages, list) and stages and isinstance(stages[0], dict) else {}
    if first.get("learning_rate") is not None:
        return {_rate("fit.stages.0.learning_rate", first["learning_rate"]): value}
    optimizer = compiled.get("optimizer", "Adam") if isinstance(compiled, dict) else "Adam"
    if isinstance(optimizer, str):
        return {"compile.optimizer": {"type": optimizer, "learning_rate": value}}
    if not isinstance(optimizer, dict) or "type" not in optimizer:
        raise Unsettable("'compile.optimizer' is chosen by a search; set the learning rate of each of its options")
    return {_rate("compile.optimizer.learning_rate", optimizer.get("learning_rate")): value}


def _rate(path: str, written: Any) -> str:
    if not isinstance(written, dict) or search.is_search(written):
        return path
    if INITIAL_RATE in written:
        return f"{path}.{INITIAL_RATE}"
    raise Unsettable(f"'{path}' is a schedule without {INITIAL_RATE}; set its arguments by path")


def _ignore(path: Any, message: str) -> None:
    """Faults that are reported elsewhere."""


PATHS: Mapping[str, str] = MappingProxyType(
    {
        "epochs": "fit.stages.0.epochs",
        "size": "image.size",
        "batch_size": "fit.batch_size",
        "lr": "compile.optimizer.learning_rate",
        "task": "task",
        "trials": "tune.max_trials",
        "minutes": "tune.minutes",
    }
)
"""Name of a setting -> its path."""
SETTINGS: Mapping[str, Edits] = MappingProxyType(
    {name: _at(path) for name, path in PATHS.items()} | {"epochs": _epochs, "size": _size, "lr": _lr}
)
"""Name of a setting -> what a value of it edits in a document without a param of that name."""


def settle(
    document: Mapping[str, Any],
    given: Mapping[str, Any],
    edits: Mapping[str, Any],
    report: Report,
    settings: bool = True,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a caller gave, as the spec's params and as edits by path; an unknown name is reported.

    given: values by name.
    edits: values by path, or by name where a param or a setting has it; they go before `given`.
    settings: False for a backbone, which takes its own params alone.
    """
    declared = document.get("params")
    declared = declared if isinstance(declared, dict) else {}
    named = {name: value for name, value in edits.items() if name in SETTINGS or name in declared}
    by_path = {path: value for path, value in edits.items() if path not in named}
    params: dict[str, Any] = {}
    edits = {}
    for name, value in {**given, **named}.items():
        if name in declared:
            params[name] = value
        elif settings and name in SETTINGS:
            try:
                edits |= SETTINGS[name](document, value)
            except Unsettable as error:
                report((), f"{name}: {error}")
        else:
            known = listed(key for key in declared if not key.startswith("//")) or "none"
            report((), f"no param '{name}'{meant(name, document)} (params: {known})")
    return params, {**edits, **by_path}


def meant(name: str, document: Mapping[str, Any]) -> str:
    """Say which param, setting or path was probably meant by a name or path that a spec does not have.

    "; did you mean 'x'?", or nothing when none is near. A name of the last step of a path comes first ("seed" for
    'fit.seed'), then one that is spelled alike.
    """
    declared = document.get("params")
    params = [key for key in declared if not key.startswith("//")] if isinstance(declared, dict) else []
    names = [*params, *SETTINGS]
    name = name.removeprefix("params.")
    paths = list(_paths(document))
    steps = name.split(".")
    for setting, path in PATHS.items():
        if path.rpartition(".")[2] == name or (len(steps) > 1 and setting == steps[-1]):
            return f"; did you mean '{setting}'?"
    same = [path for path in paths if path.split(".")[-1] == steps[-1] and path != name]
    below = [path for path in same if path.startswith(steps[0] + ".") or path.endswith("." + name)]
    if found := (below or same):
        return f"; did you mean '{min(found, key=lambda path: (path.count('.'), paths.index(path)))}'?"
    words = name.split("_")
    if found := [known for known in names if known == words[-1] or (len(words) == 1 and name in known.split("_"))]:
        return f"; did you mean '{found[0]}'?"
    if near := nearest(name, names):
        return near
    ends = {path.rpartition(".")[2]: path for path in reversed(paths)}
    if near := nearest(steps[-1], ends):
        return f"; did you mean '{ends[near.split(chr(39))[1]]}'?"
    return nearest(name, paths)


def _paths(document: Mapping[str, Any]) -> Iterator[str]:
    """The paths that an edit may name: those of the language, then those of the model."""
    for section, model in SECTIONS.items():
        if section not in ("card", "pretrained", "expect"):
            yield from _fields(section, model)
    yield from _fields("fit.stages.0", Stage)
    yield from _fields("fit.stages.0.early_stopping", EarlyStopping)
    optimizer = document.get("compile", {})
    optimizer = optimizer.get("optimizer") if isinstance(optimizer, dict) else None
    for key in optimizer if isinstance(optimizer, dict) else ():
        yield f"compile.optimizer.{key}"
    nodes = document.get("model")
    for node in (nodes if isinstance(nodes, list) else [])[:MAX_PATHS]:
        if isinstance(node, dict) and isinstance(node.get("name"), str):
            yield from (f"model.{node['name']}.{key}" for key in node if key != "name" and not key.startswith("//"))


def _fields(path: str, model: type[Section]) -> Iterator[str]:
    yield from (f"{path}.{name}" for name in model.model_fields)
