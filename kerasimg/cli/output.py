"""Prints the results of commands: as JSON for programs, or as text that ends with the next step."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import typer

from kerasimg.escaping import json_text, lines, one_line
from kerasimg.files import to_json

NEXT: dict[str, str | tuple[str, ...] | None] = {
    "init": "train {spec} --data {data}",
    "check": "train {spec} --data DATA",
    "import": "train {spec} --data DATA",
    "train": "predict {run} IMAGE",
    "tune": "train {spec} --data {data}",
    "auto": ("export {unexported} --to {target}", "predict {run} IMAGE"),
    "evaluate": ("run verify {bundle}", "export {run} --to litert"),
    "predict": "explain {run} {image}",
    "explain": ("run verify {bundle}", "export {run} --to litert"),
    "export": "run verify {bundle}",
    "serve": None,  # it ends when the user ends it
    "studio": None,
    "spec show": "train {spec} --data DATA",
    "spec diff": "spec show {spec} --origins",
    "spec build": "train {spec} --data DATA",
    "spec schema": "check SPEC",
    "spec lr-find": "train {spec} --data {data} --lr {lr}",
    "run report": ("train --resume {interrupted}", "run verify {bundle}", "export {run} --to litert"),
    "run history": ("train --resume {interrupted}", "run report {run}"),
    "run compare": "spec diff {first} {second}",
    "run calibrate": ("run verify {bundle}", "export {run} --to litert"),
    "run flips": ("run verify {bundle}", "export {run} --to litert"),
    "run thresholds": ("run verify {bundle}", "export {run} --to litert"),
    "run sets": "predict {run} IMAGE",
    "run known": "predict {run} IMAGE",
    "run add": "evaluate {run}",
    "run robustness": "run report {run}",
    "run embed": "run similar {run} IMAGE",
    "run similar": "explain {run} {image}",
    "run learn": "predict {model} IMAGE",
    "run label-errors": ("explain {run} {image}", "run verify {bundle}", "export {run} --to litert"),
    "run pack": "predict {pack} IMAGE",
    "run unpack": "predict {run} IMAGE",
    "run push": "run pull {repo}",
    "run pull": "predict {pack} IMAGE",
    "run verify": ("serve {bundle}", "open {page} in a browser", "read {readme}, which has code that runs the model"),
    "run shrink": "run verify {bundle}",
    "run measure": "export {run} --to litert --precision int8",
    "data check": (
        "data check {data} --fix-list {fix_list}",  # it found errors
        "train {spec} --data {data}",
        "init {data}",
    ),
    "data bench": "train {spec} --data {data}",
    "data preview": "train {spec} --data {data}",
    "data label-errors": "data check {data}",
    "zoo list": "zoo show mobilenet",
    "zoo show": "train {spec} --data DATA",
    "cache list": "cache remove --older-than 30d",
    "cache remove": "cache list",
    "cache path": "cache list",
}
"""Command -> the command that usually follows, or several, of which the first is printed whose names are known. Names
in braces are filled in by the command; capitals are for the user to fill in."""

BY_HAND = ("open ", "read ")
"""Beginnings of next steps that are no command of kerasimg."""
PIPED = frozenset({"predict", "spec show", "spec schema", "zoo show", "cache path"})
"""Commands whose standard output is passed on to other programs: their next step goes to standard error."""


def echo(text: object = "", *, nl: bool = True, err: bool = False) -> None:
    """Print text that contains names from outside: control characters are escaped."""
    typer.echo(lines(text), nl=nl, err=err)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json_text(to_json(value)))


def print_result(
    command: str,
    result: Any,
    text: str | Iterable[str] | Callable[[], None],
    as_json: bool = False,
    options: Sequence[str] = (),
    **names: Any,
) -> None:
    """Print the result of a command: as JSON, or as text followed by the next step.

    command: as in `NEXT`.
    text: a text, or its lines, in each of which line breaks are escaped, or a function that prints.
    options, names: as for `print_next`.
    """
    if as_json:
        print_json(result)
        return
    if callable(text):
        text()
    else:
        echo(text if isinstance(text, str) else "\n".join(map(one_line, text)))
    print_next(command, options, **names)


def print_next(command: str, options: Sequence[str] = (), **names: Any) -> None:
    """Print the next step after a command; it must run as printed.

    options: words that end it: the options of this command without which the next one would fail.
    names: values of the names in it; where one is None or missing, no next step is printed.
    """
    templates = NEXT[command] or ()
    known = {name: shlex.quote(str(value)) for name, value in names.items() if value is not None}
    for template in (templates,) if isinstance(templates, str) else templates:
        if set(re.findall(r"\{(\w+)\}", template)) <= known.keys():
            break
    else:
        return
    line = template.format_map(known) if template.startswith(BY_HAND) else f"kerasimg {template.format_map(known)}"
    echo(f"Next: {' '.join([line, *map(shlex.quote, options)])}", err=command in PIPED)


def table(rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> list[str]:
    """Rows as lines of aligned columns.

    right: the columns whose values are aligned to the right, as numbers are.
    """
    cells = [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
