"""Prints a comparison of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kerasimg.errors import counted
from kerasimg.escaping import deep, one_line
from kerasimg.evaluation.evaluate import SMALL
from kerasimg.evaluation.score_table import output
from kerasimg.results import figure_words

_FIGURE = 20
"""Characters of the column with the names of the metrics."""
_IMAGES = 10
"""Largest number of images that are listed, of each kind."""


def print_comparison(
    content: dict[str, Any], console: Console | None = None, path_of: Callable[[str], str] = str
) -> None:
    """Print the figures of each run, the differences from the first, and the images that changed.

    content: what `compare` returns.  console: standard output by default.  path_of: makes of an image's name what is
    printed.
    """
    content = deep(content)
    console = console or output()
    for note in _notes(content):
        console.print(Text(note), soft_wrap=True)
    runs = content["runs"]
    if _FIGURE + sum(len(run) + 2 for run in runs) > console.width:  # names too long for columns get numbers
        for number, run in enumerate(runs, 1):
            console.print(Text(f"run {number}: {run}"), soft_wrap=True)
        names = [f"run {number}" for number in range(1, len(runs) + 1)]
        others = zip(content["against_first"], names[1:], strict=True)
        content |= {"runs": names, "against_first": [{**other, "run": name} for other, name in others]}
    tables = [_figures(content)]
    for other in content["against_first"]:
        tables.append(_differences(content, other))
        tables += [_images(title, other[kind], path_of) for kind, title in _KINDS if other[kind]]
    for table in tables:
        table.box = box.SIMPLE_HEAD if console.is_terminal else None
        console.print(table.title or "", soft_wrap=True, style="italic", highlight=False)
        table.title = None  # a table breaks its title at its own width
        console.print(table)
        console.print()


_KINDS = (
    ("fixed", "Newly correct"),
    ("broken", "Newly wrong"),
    ("changed", "Wrong in both runs, with different predictions"),
)


def _notes(content: dict[str, Any]) -> Iterator[str]:
    differs = content["differs"]
    for run, n in differs["only_in"].items():
        if n:
            yield f"{counted(n, 'image')} of {run} not in all runs: left out"
    for run, n in differs["trained_on"].items():
        if n:
            yield f"{run} was trained or validated on {n:,} of these images, so its figures are too good"
    if n := len(differs["labelled_otherwise"]):
        yield f"{counted(n, 'image', 'have')} another label in one of the runs: left out"
    if content["n"] < SMALL:
        yield (
            f"all runs have only {counted(content['n'], 'image')}: differences, intervals and p values of so few say "
            "little; compare on more of the same images (--data)"
        )


def _figures(content: dict[str, Any]) -> Table:
    table = Table(title=f"{counted(content['n'], 'image')} that all runs have", title_justify="left")
    table.add_column("figure")
    for run in content["runs"]:
        table.add_column(Text(run), justify="right")
    for name, values in content["figures"].items():
        table.add_row(figure_words(name), *("-" if value is None else f"{value:.4f}" for value in values))
    return table


def _differences(content: dict[str, Any], other: dict[str, Any]) -> Table:
    test = other["mcnemar"]
    name = "sign-flip test over groups," if "groups" in content["intervals_by"] else "McNemar's exact"
    title = (
        f"{other['run']} compared with {content['runs'][0]}: {test['only_this']:,} newly correct, "
        f"{test['only_first']:,} newly wrong; {name} p = {test['p']:.3g}"
    )
    table = Table(title=Text(title), title_justify="left")
    table.add_column("figure")
    table.add_column("difference", justify="right")
    table.add_column(f"{content['intervals_by']['level']:.0%} interval", justify="right")
    for name, row in other["differences"].items():
        pair = row["interval"]
        between = "-" if pair is None else f"{pair[0]:+.4f} to {pair[1]:+.4f}"
        table.add_row(figure_words(name), f"{row['difference']:+.4f}", between)
    return table


def _images(title: str, rows: list[dict[str, Any]], path_of: Callable[[str], str]) -> Table:
    more = f", the {_IMAGES} most confident of {len(rows):,}" if len(rows) > _IMAGES else ""
    table = Table(title=title + more, title_justify="left")
    for name in ("file", "truth", "before", "after", "confidence"):
        table.add_column(name, justify="right" if name == "confidence" else "left", overflow="fold")
    for row in rows[:_IMAGES]:
        said = (row[key] if isinstance(row[key], str) else ", ".join(row[key]) for key in ("truth", "before", "after"))
        table.add_row(Text(one_line(path_of(row["file"]))), *map(Text, said), f"{row['confidence_after']:.3f}")
    return table
