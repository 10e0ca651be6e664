"""Commands that look closer at a trained classifier: calibrate, thresholds, compare, label-errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kerasimg.cli.options import Json, RunRef, Set, assignments, keras_loaded, load
from kerasimg.cli.waiting import waiting
from kerasimg.errors import CallError
from kerasimg.files import to_json, write_json

commands = typer.Typer()

Pictures = Annotated[
    str | None, typer.Option("--data", metavar="DIR", help="Other pictures. Left out: the run's own, as said above.")
]
Part = Annotated[str | None, typer.Option("--part", help="train, validation, test or all.")]
Undo = Annotated[bool, typer.Option("--undo", help="Take back what was chosen.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the result here, as JSON.")]


@commands.command()
def calibrate(run: RunRef, data: Pictures = None, part: Part = None, undo: Undo = False, as_json: Json = False) -> None:
    """Make a model as sure as it is right. A temperature is fitted on its validation part, and kept in model.keras."""
    with keras_loaded():
        from kerasimg.evaluation.calibrate import calibrate as fit
    with waiting("asking the model", as_json):
        told = fit(run, data=data, part=part, undo=undo)
    if as_json:
        _print_json(told)
        return
    typer.echo(f"temperature {told['temperature']:.4f}")
    for name, row in told.get("parts", {}).items():
        fitted = " (fitted on these)" if name == told["fitted_on"]["part"] else ""
        typer.echo(f"{name}, {row['n']:,} pictures{fitted}:")
        for figure in ("log_loss", "calibration_error"):
            sides = (f"{row[when][figure]:.4f}{_between(row[when], figure)}" for when in ("before", "after"))
            typer.echo(f"  {figure.replace('_', ' ')}: {' -> '.join(sides)}")


@commands.command()
def thresholds(
    run: RunRef,
    aim: Annotated[str, typer.Option(help='f1, "precision>=0.95", "recall>=0.9", youden or cost.')] = "f1",
    false_positive: Annotated[float, typer.Option(min=0, help="What a false alarm costs, for cost.")] = 1.0,
    false_negative: Annotated[float, typer.Option(min=0, help="What a miss costs, for cost.")] = 1.0,
    data: Pictures = None,
    part: Part = None,
    undo: Undo = False,
    as_json: Json = False,
) -> None:
    """Choose where a binary or multilabel model says yes. By its validation part; it is kept in model.keras."""
    with keras_loaded():
        from kerasimg.evaluation.thresholds import choose_thresholds
    costs = {"false_positive": false_positive, "false_negative": false_negative}
    with waiting("asking the model", as_json):
        told = choose_thresholds(run, aim, data=data, part=part, **costs, undo=undo)
    if as_json:
        _print_json(told)
        return
    for label, threshold in told["thresholds"].items():
        line = f"{label}: {threshold:.4f}"
        if row := told.get("labels", {}).get(label):
            line += f"  precision {row['precision']:.3f}, recall {row['recall']:.3f}, F1 {row['f1']:.3f}"
            line += f", {row['support']:,} pictures{'' if row['met'] else '  (aim not met)'}"
        typer.echo(line)


@commands.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of runs; each against the first.")],
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Ask all about these. Left out: what each kept of its test.")
    ] = None,
    part: Part = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Say whether one run is better than another. And which pictures changed."""
    with keras_loaded():
        from kerasimg.evaluation.compare import compare as against
    with waiting("comparing", as_json):
        told = against(*runs, data=data, part=part, out=out)
    if as_json:
        _print_json(told)
        return
    from kerasimg.evaluation.comparison_table import print_comparison

    print_comparison(told)


@commands.command("label-errors")
def label_errors(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run; with --folds, a spec to train.")],
    data: Pictures = None,
    part: Part = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Train so many times, to judge every picture of --data by another part.")
    ] = None,
    assign: Set = [],  # noqa: B006
    top: Annotated[int, typer.Option(min=1, help="How many to print.")] = 30,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """List pictures whose label is likely wrong. Of the run's validation and test parts, or of all with --folds."""
    if folds is None:
        if assign:
            raise CallError("--set: only with --folds, when a spec is trained")
        with keras_loaded():
            from kerasimg.evaluation.label_errors import label_errors as find
        with waiting("asking the model", as_json):
            told = find(run, data=data, part=part, out=out)
    else:
        told = _out_of_fold(run, data, part, folds, assign, out, as_json)
    if as_json:
        _print_json(told)
        return
    typer.echo(f"{told['found']:,} of {told['n']:,} pictures are suspect")
    for row in told["rows"][:top]:
        sure = f"{row['p_given']:.3f} against {row['p_suggested']:.3f}"
        typer.echo(f"{row['file']}: {row['given']}, more likely {row['suggested']} ({sure})")
    if told["found"] > top:
        typer.echo(f"... and {told['found'] - top:,} more (--top, --json or --out)")


def _out_of_fold(
    ref: str, data: str | None, part: str | None, folds: int, assign: list[str], out: Path | None, silent: bool
) -> dict[str, Any]:
    if data is None or part is not None:
        raise CallError("--folds: name the pictures with --data; parts do not count there")
    params, edits = assignments(assign)
    if "folds" in params:
        raise CallError("--set folds: the command has an option of that name; write --set params.folds=...")
    load(ref, params, edits, partial=True)  # its faults are told before Keras is loaded
    with keras_loaded():
        from kerasimg.evaluation.label_errors import find_label_errors
        from kerasimg.training.folds import cross_val_predict
    said = cross_val_predict(
        ref,
        data=data,
        folds=folds,
        set=edits,
        verbose=0,
        say=(lambda line: None) if silent else typer.echo,
        **params,
    )
    task = load(ref, params, edits, partial=True).task
    rows = find_label_errors(said.ids, said.truth, said.probabilities, said.classes, task)
    told = {"n": len(said.ids), "found": len(rows), "folds": folds, "rows": rows}
    if out is not None:
        write_json(out, told)
    return told


def _between(row: dict[str, Any], figure: str) -> str:
    pair = row["intervals"].get(figure)
    return "" if pair is None else f" ({pair[0]:.4f} to {pair[1]:.4f})"


def _print_json(told: dict[str, Any]) -> None:
    typer.echo(to_json(told))
