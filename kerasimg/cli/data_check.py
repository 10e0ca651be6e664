"""`kerasimg data check`: what is wrong with pictures, before a run is wasted on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kerasimg.cli.options import Json, keras_loaded
from kerasimg.cli.waiting import waiting
from kerasimg.errors import CallError, DataError
from kerasimg.files import to_json

TASKS = ("multiclass", "binary", "multilabel")


def check(
    data: Annotated[
        str, typer.Argument(metavar="DIR", help='Folder with a folder per class, .csv, .jsonl, .npz, or "sample".')
    ],
    spec: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Split as it trains, and show what `image` does.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="multiclass, binary or multilabel. Left out: the spec's.")] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Also name labels that may be wrong, by a simple classifier.")
    ] = False,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with pictures.")] = None,
    fix_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a manifest without the bad pictures (.csv, .jsonl).")
    ] = None,
    near: Annotated[bool, typer.Option("--near", help="The fix list keeps one of near copies, too.")] = False,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw what the spec makes of pictures (.png).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Findings of each kind to print.")] = 5,
) -> None:
    """Look for what is wrong with pictures. Unreadable, twice there, in two parts, blank, blurred, rare classes."""
    from kerasimg.data.quality.data_check import check_data

    if task is not None and task not in TASKS:
        raise CallError(f"--task: expected one of {', '.join(TASKS)}, got '{task}'")
    if sheet is not None and spec is None:
        raise CallError("--sheet shows what a spec makes of the pictures; give --spec")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise CallError(f"--sheet: expected a name that ends in .png, got '{sheet}'")
    if near and fix_list is None:
        raise CallError("--near is about the fix list; give --fix-list")
    judge = None
    if labels:
        with keras_loaded():
            from kerasimg.evaluation import label_errors
        judge = label_errors.find_label_errors
    with waiting("looking at the pictures", as_json) as shown:
        checked = check_data(
            data,
            spec,
            task=task,  # type: ignore[arg-type]
            judge_labels=judge,
            progress=shown.progress,
        )
    typer.echo(to_json(checked.to_dict()) if as_json else checked.to_text(limit))
    written = []
    if html is not None:
        checked.write_html(html)
        written.append(f"page: {html}")
    if sheet is not None:
        checked.sheet().save(sheet)
        written.append(f"contact sheet: {sheet}")
    if fix_list is not None:
        count = checked.write_fix_list(fix_list, near)
        written.append(f"fix list: {fix_list}, {count:,} pictures, {len(checked.source) - count:,} left out")
    for row in written:
        typer.echo(row, err=as_json)
    if not checked.ok:
        raise typer.Exit(DataError.exit_code)
