"""Prints scores: metrics, classes, and the classes that are confused most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kerasimg.errors import counted
from kerasimg.escaping import deep
from kerasimg.results import accuracy_key, figure_words

_SHOWN = 30
"""Largest number of classes that are all shown; of more, the `_EXTREMES` worst and best by F1 that have images."""
_EXTREMES = 10
_PAIRS = 5

WIDE = 1000
"""Characters of a line that is not printed to a terminal."""
_DETAILS = ("precision", "recall", "f1", "average_precision", "roc_auc")
_OF_A_CLASS = ("precision", "recall", "f1", "average_precision")


def output() -> Console:
    """Standard output; in a file or a pipe no line is too long, so that no name is broken."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    return console


def print_scores(scores: dict[str, Any], console: Console | None = None, run: object = "RUN") -> None:
    """Print the figures with their intervals, each class with its support, the pairs most confused, and the slices.

    scores: what `scores` or `evaluate` returns.
    console: standard output by default; plain text where it is no terminal.
    run: for commands that are advised.
    """
    scores = deep(scores)
    console = console or output()
    for table in filter(
        None, (_figures(scores), _classes(scores), _confused(scores), _known(scores), *_slices(scores))
    ):
        table.box = box.SIMPLE_HEAD if console.is_terminal else None
        console.print(table)
        console.print()
    if "expected" in (row := scores.get("known") or {}):  # not in a file of an earlier version
        from kerasimg.evaluation.shift import broken_promise

        if note := broken_promise(row, row["held"], run):
            console.print(Text(note), soft_wrap=True)
            console.print()


def _figures(scores: dict[str, Any]) -> Table:
    reach: dict[str, Any] = scores.get("intervals", {})
    columns = [f"{scores['intervals_by']['level']:.0%} interval"] if reach else []
    table = _table(
        f"{counted(scores['n'], 'image')}, {counted(len(scores['classes']), 'class')}", "figure", "value", *columns
    )
    for name, figure in scores.items():
        if name == "temperature" and figure == 1:
            continue
        if figure is None or isinstance(figure, float):
            # At the top level these are of the positive class of a binary task.
            of = f" of {scores['positive']}" if name in _OF_A_CLASS and "positive" in scores else ""
            between = [_between(reach.get(name))] if reach else []
            table.add_row(Text(figure_words(name) + of), _number(figure), *between)
    return table


def _known(scores: dict[str, Any]) -> Table | None:
    """How far the images are from the training images."""
    if (row := scores.get("known")) is None:
        return None
    table = _table("Compared with the training images", "figure", "value", "95% interval")
    table.add_row(
        f"flagged as unknown (asked for: {row['share']:.1%} on average)",
        _number(row["unknown"]),
        _between(row["interval"]),
    )
    table.add_row("distance of p-values (0: like them)", _number(row["distance"]))
    table.add_row("Kolmogorov-Smirnov test, p", _number(row["p_value"]))
    for name in ("accuracy_known", "accuracy_unknown"):
        if row[name] is not None:
            table.add_row(figure_words(name), _number(row[name]))
    if (parts := row.get("change")) is not None:
        table.add_row(f"accuracy, before {parts['accuracy_before']:.4f}", _number(parts["accuracy"]))
        table.add_row("of the change, by the shift", _number(parts["by_shift"]))
        table.add_row("of the change, the rest", _number(parts["rest"]))
    return table


def _slices(scores: dict[str, Any]) -> Iterator[Table]:
    """A table for each extra column of the manifest."""
    for sliced in scores.get("slices", []):
        names = [
            name for name in (accuracy_key(scores["task"]), "f1", "macro_f1") if name in sliced["rows"][0]["figures"]
        ]
        columns = [part for name in names for part in (figure_words(name), "interval")]
        table = _table(f"By {sliced['column']}", "class", "images", *columns)
        table.columns[0].header = Text(sliced["column"])
        for row in sliced["rows"]:
            figures = [
                part
                for name in names
                for part in (_number(row["figures"].get(name)), _between(row["intervals"].get(name)))
            ]
            mark = " (few)" if row["small"] else ""
            table.add_row(Text((row["value"] or "(none)") + mark), str(row["n"]), *figures)
        yield table


def _classes(scores: dict[str, Any]) -> Table:
    per_class: dict[str, dict[str, Any]] = scores["per_class"]
    columns = [name for name in _DETAILS if name in next(iter(per_class.values()))]
    table = _table("Each class", "class", *map(figure_words, columns), "support")

    def add(names: Iterable[str]) -> None:
        for name in names:
            row = per_class[name]
            # A class without images has no meaningful score.
            figures = [_number(row[column] if row["support"] else None) for column in columns]
            table.add_row(Text(name), *figures, str(row["support"]))

    shown = list(per_class)
    if len(shown) > _SHOWN:
        shown = [name for name in shown if per_class[name]["support"]]
        shown.sort(key=lambda name: per_class[name]["f1"])
        table.title = "Classes with images, worst first"
    if len(shown) <= _SHOWN:
        add(shown)
        return table
    table.title = f"Worst and best {_EXTREMES} of {counted(len(shown), 'class')}"
    add(shown[:_EXTREMES])
    table.add_row("...")
    add(shown[-_EXTREMES:])
    return table


def _confused(scores: dict[str, Any]) -> Table | None:
    if "most_confused" not in scores:
        return None
    table = _table("Most confused", "truth", "taken for", "images", "of the class")
    for row in scores["most_confused"][:_PAIRS]:
        table.add_row(Text(row["truth"]), Text(row["prediction"]), str(row["n"]), f"{row['share']:.0%}")
    return table if table.row_count else None


def _table(title: str, *columns: str) -> Table:
    """A table whose columns are numbers, except those of names."""
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        names = column in ("figure", "class", "truth", "taken for")
        table.add_column(column, justify="left" if names else "right", no_wrap=not names)
    return table


def _between(pair: list[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.4f} to {pair[1]:.4f}"


def _number(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4f}"
