"""`kerasimg data`: check images and labels before training, and see how fast they load."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg.cli.options import (
    SPEC_HELP,
    Bad,
    Data,
    DataArgument,
    Json,
    OnBadImage,
    Set,
    SpecArgument,
    Task,
    TaskName,
    assignments,
    image_paths,
    keras_loaded,
    load,
    out_option,
    repeated,
    top_option,
)
from kerasimg.cli.output import echo, print_result, table
from kerasimg.cli.progress import messages, waiting
from kerasimg.cli.run import label_error_lines
from kerasimg.errors import CallError, DataError, counted
from kerasimg.files import write_json

if TYPE_CHECKING:
    from kerasimg.data.audit.data_check import DataCheck
    from kerasimg.data.bench import Bench
    from kerasimg.data.pipeline import Targets
    from kerasimg.spec.document import Task as TaskLiteral

commands = typer.Typer(help="Check images and labels before training.", no_args_is_help=True)

TARGETS: dict[TaskLiteral, Targets] = {"multiclass": "one_hot", "binary": "binary", "multilabel": "multi_hot"}
"""Labels in a form that every augmentation takes; how fast they are made does not matter."""

MEANING = {
    "read": "files into memory",
    "decode": "to pixels, at the smallest scale that suffices",
    "resize": "to the size of the spec",
    "augment": "a batch at a time",
    "copy": "batches to the model",
}


@commands.command()
def check(
    data: DataArgument,
    spec: Annotated[
        str | None,
        typer.Option("--spec", metavar="SPEC", help=f"{SPEC_HELP} Split as it does, and show what its `image` does."),
    ] = None,
    task: Task = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="List labels that may be wrong as well, by a simple classifier.")
    ] = False,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with images.")] = None,
    fix_list: Annotated[
        Path | None,
        typer.Option("--fix-list", metavar="FILE", help="Write a manifest without the bad images (.csv, .jsonl)."),
    ] = None,
    near: Annotated[bool, typer.Option("--near", help="In the fix list, keep only one of near copies.")] = False,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE", help="Draw images as the spec makes them (.png).")
    ] = None,
    top: Annotated[int, top_option("findings of a kind to list")] = 5,
) -> None:
    """Find problems in images and labels. Unreadable, duplicate, in two splits, blank, blurred; rare classes."""
    if sheet is not None and spec is None:
        raise CallError("--sheet shows what a spec makes of the images; give --spec")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise CallError(f"--sheet: expected a name that ends in .png, got '{sheet}'")
    if near and fix_list is None:
        raise CallError("--near is about the fix list; give --fix-list")
    if labels:
        with keras_loaded():
            from kerasimg.api import check_data
    else:
        from kerasimg.api import check_data
    with waiting("checking the images", as_json):
        checked = check_data(data, spec, task=None if task is None else task.value, labels=labels)
    written = []
    if html is not None:
        with waiting("writing the page", as_json):
            checked.write_html(html)
        written.append(f"page: {html}")
    if sheet is not None:
        with waiting("drawing the sheet", as_json):
            checked.sheet().save(sheet)
        written.append(f"contact sheet: {sheet}")
    if fix_list is not None:
        count = checked.write_fix_list(fix_list, near)
        written.append(f"fix list: {fix_list}, {counted(count, 'image')}, {len(checked.source) - count:,} left out")
    if as_json:
        for row in written:
            echo(row, err=True)
    text = [*checked.to_text(top).split("\n"), *written]
    options, names = _next(checked, data, spec, task, fix_list)
    print_result("data check", checked.to_dict(), text, as_json, options, **names)
    if not checked.ok:
        raise typer.Exit(DataError.exit_code)


def _next(
    checked: DataCheck, data: str, spec: str | None, task: TaskName | None, fix_list: Path | None
) -> tuple[list[str], dict[str, Any]]:
    """The options and the names of the next step: to train, or to write a list without the bad images."""
    from kerasimg.data.audit.fix_list import FIXED, lists_files
    from kerasimg.data.starter_spec import file_beside

    errors = {one.kind for one in checked.findings if one.severity == "error"}
    options = [] if spec is not None or task is None else ["--task", task.value]
    if fix_list is None and errors & FIXED and lists_files(checked.source):
        options += [] if spec is None else ["--spec", spec]
        beside = file_beside(data)
        return options, {"data": data, "fix_list": beside.with_name(f"{beside.stem}-good.csv")}
    if errors and not (errors <= FIXED if fix_list is not None else errors == {"unreadable"}):
        return [], {}
    chosen = str(fix_list or data)
    beside = file_beside(chosen)
    names = {"data": chosen, "spec": spec or (beside if beside.exists() else None)}
    if names["spec"] is not None:
        options = repeated(OnBadImage.skip if errors and fix_list is None else OnBadImage.fail)
    return options, names


@commands.command()
def bench(
    ref: SpecArgument,
    data: Data,
    assign: Set = [],  # noqa: B006
    images: Annotated[int, typer.Option("--images", min=1, help="Number of images to measure.")] = 512,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: one per core.")] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that decode. Default: one per core if there are more than 4."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast images become batches. Which step is the bottleneck, and what to change."""
    params, edits = assignments(assign)
    spec = load(ref, params, edits, partial=True)
    with keras_loaded():
        from kerasimg.data.bench import measure
        from kerasimg.data.sources import open_source
    with waiting("measuring", as_json):
        measured = measure(
            open_source(data, spec.task, positive=spec.positive_class),
            spec.image,
            spec.augment,
            batch_size=32 if spec.fit.batch_size == "auto" else spec.fit.batch_size,
            targets=TARGETS[spec.task],
            images=images,
            threads=threads,
            workers=workers,
        )
    print_result(
        "data bench", measured.as_dict(), _bench_lines(measured), as_json, repeated(assign=assign), spec=ref, data=data
    )


@commands.command()
def preview(
    ref: SpecArgument,
    data: Data,
    out: Annotated[Path | None, out_option("the contact sheet, a .png", "preview.png")] = None,
    assign: Set = [],  # noqa: B006
    rows: Annotated[int, typer.Option("--rows", min=1, help="Number of images, of as many classes as there are.")] = 8,
    draws: Annotated[int, typer.Option("--draws", min=0, help="Augmented versions of each.")] = 6,
    as_json: Json = False,
) -> None:
    """Draw images as the network sees them. Before and after augmentation."""
    params, edits = assignments(assign)
    spec = load(ref, params, edits, partial=True)
    path = out or Path("preview.png")
    with keras_loaded():
        from kerasimg.data.preview import contact_sheet, write_sheet
        from kerasimg.data.sources import open_source
    with waiting("drawing", as_json):
        sheet = contact_sheet(
            open_source(data, spec.task, positive=spec.positive_class),
            spec.image,
            spec.augment,
            rows=rows,
            draws=draws,
            seed=spec.fit.seed,
            targets=TARGETS[spec.task],
        )
    write_sheet(path, sheet)
    text = f"{path}: {sheet.width} x {sheet.height}; on the left as decoded, then as augmented"
    result = {"sheet": str(path), "width": sheet.width, "height": sheet.height}
    print_result("data preview", result, text, as_json, repeated(assign=assign), spec=ref, data=data)


@commands.command("label-errors")
def label_errors(
    ref: SpecArgument,
    data: Data,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Number of trainings.")] = 5,
    assign: Set = [],  # noqa: B006
    top: Annotated[int, top_option("images to list")] = 30,
    out: Annotated[Path | None, out_option("the list, as JSON", "only printed")] = None,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """List likely label errors in a whole data set. Each image is predicted by a model trained on others."""
    params, edits = assignments(assign)
    spec = load(ref, params, edits, partial=True)  # reports its errors before Keras is loaded
    with keras_loaded():
        from kerasimg.evaluation.label_errors import find_label_errors
        from kerasimg.training.folds import cross_val_predict

    with messages(as_json):
        predicted = cross_val_predict(spec, data=data, folds=folds, on_bad_image=on_bad_image.value, verbose=0)
    rows = find_label_errors(predicted.ids, predicted.truth, predicted.probabilities, predicted.classes, spec.task)
    result = {"n": len(predicted.ids), "found": len(rows), "folds": folds, "rows": rows}
    if out is not None:
        write_json(out, result)
    again = [] if spec.task == "multilabel" else ["--labels"]
    lines = label_error_lines(result, top, image_paths(None, data))
    print_result("data label-errors", result, lines, as_json, again, data=data)


def _bench_lines(measured: Bench) -> list[str]:
    rows: list[tuple[Any, ...]] = [("", "images/s", "share", "")]
    for name, rate in measured.parts.items():
        shown = "-" if math.isinf(rate) else f"{rate:,.0f}"
        rows.append((name, shown, f"{measured.share(name):.0%}", MEANING[name]))
    rows.append(("first epoch", f"{measured.first_epoch:,.0f}", "", "all of it, at once"))
    rows.append(("from the cache", f"{measured.from_cache:,.0f}", "", f"later epochs (--cache auto: {measured.cache})"))
    decoders = (
        f"{counted(measured.workers, 'worker process')}"
        if measured.workers
        else f"{counted(measured.threads, 'thread')}"
    )
    lines = [
        f"{measured.images:,} of {counted(measured.of, 'image')} to {measured.size[0]}x{measured.size[1]}, "
        f"{decoders}, batches of {measured.batch_size}",
        "",
        *table(rows, right=(1, 2)),
        "",
        f"bounded by: {measured.bound}, {measured.share(measured.bound):.0%} of the first epoch; "
        f"{measured.bound_cached} later",
    ]
    lines += [f"augmentation: {measured.augmentation}"] if measured.augmentation else []
    return lines + [f"- {advice}" for advice in measured.advice]
