"""Commands that train a classifier and use it: train, evaluate, predict."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from kerasimg.cli.options import (
    Bad,
    CacheKind,
    CacheOption,
    Data,
    Json,
    Limit,
    OnBadImage,
    RunRef,
    Set,
    Weights,
    assignments,
    keras_loaded,
    limits_argument,
    load,
    weights_argument,
)
from kerasimg.cli.waiting import waiting
from kerasimg.errors import CallError, listed
from kerasimg.files import to_json

commands = typer.Typer()

LINE_PER_EPOCH = 2
"""The number that Keras has for it."""

DATA: Any = get_args(Data)[1]


@commands.command()
def train(
    ref: Annotated[str | None, typer.Argument(metavar="SPEC", help="A zoo name (mobilenet) or a spec's path.")] = None,
    data: Annotated[str | None, DATA] = None,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    limit: Limit = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder in which the run gets its own: runs.")
    ] = None,
    on_bad_image: Bad = OnBadImage.fail,
    cache: CacheOption = CacheKind.auto,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a run that was cut off; with --data where they have moved."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Show the curves in TensorBoard while it trains: RUN/tensorboard.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Json = False,
) -> None:
    """Train a classifier and keep all of it in a new folder. It is judged on held-out pictures."""
    from kerasimg.evaluation.report_epochs import print_stages, read_goals

    silent = quiet or as_json
    told: dict[str, Any] = {"verbose": 0 if silent else _bars(), "say": _nothing if silent else typer.echo}
    if resume is not None:
        if ref or assign or weights or limit or out or tensorboard:
            raise CallError(
                "--resume goes on with what the run was begun with; leave out SPEC, --set, --weights, --limit, --out "
                "and --tensorboard"
            )
        with keras_loaded():
            from kerasimg.training.train import resume as go_on
        run = go_on(resume, data=data, cache=None if cache is CacheKind.auto else cache.value, **told)
    else:
        if ref is None or data is None:
            raise CallError(f"train needs {'a SPEC' if ref is None else '--data'}, or --resume RUN")
        params, edits = assignments(assign)
        spec = load(ref, params, edits, partial=True)  # its faults are told before Keras is loaded
        with keras_loaded():
            from kerasimg.training.train import train as begin
        how: dict[str, Any] = {"out": out or Path("runs"), "on_bad_image": on_bad_image.value, "cache": cache.value}
        how |= {"tensorboard": tensorboard, "limits": limits_argument(limit) or None}
        run = begin(spec, data=data, **how, **weights_argument(weights), **told)
    if not silent:
        print_stages(run.history, read_goals(run.folder))
    has_scores = run.files.evaluation.metrics_file.is_file()
    if as_json:
        scores = run.scores if has_scores else None
        typer.echo(to_json({"run": str(run.folder), "scores": scores}))
        return
    if has_scores:
        _print_scores(run.scores)
    page = run.files.report_file
    typer.echo(f"kept in {run.folder}" + (f"; to look at: {page}" if page.is_file() else ""))


@commands.command()
def evaluate(
    run: RunRef,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Left out: the run's own held-out part.")] = None,
    part: Annotated[str | None, typer.Option(help="train, validation, test or all.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write metrics.json and predictions.csv here.")
    ] = None,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Judge a trained classifier on labelled pictures."""
    with keras_loaded():
        from kerasimg.evaluation.evaluate import evaluate as judge
    with waiting("judging", as_json):
        scores = judge(run, data=data, part=part, out=out, on_bad_image=on_bad_image.value)
    if as_json:
        typer.echo(to_json(scores))
    else:
        _print_scores(scores)


@commands.command()
def predict(
    run: RunRef,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to print for each picture.")] = 3,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Say what is on pictures."""
    with keras_loaded():
        from kerasimg.evaluation.predict import answer, require_all
    with waiting("looking at pictures", as_json) as shown:
        answers = answer(run, files, progress=shown.progress)
    predictions, skipped = answers.predictions, on_bad_image is OnBadImage.skip
    if skipped and predictions and answers.faults:
        left = [fault.file for fault in answers.faults]
        typer.echo(f"{len(left):,} unreadable left out: {listed(left, 5)}", err=True)
    if as_json and predictions:
        typer.echo(to_json([one.to_dict() for one in predictions]))
    for one in () if as_json else predictions:
        likely = sorted(one.probabilities.items(), key=lambda pair: -pair[1])[:top]
        typer.echo(f"{one.file}: " + ", ".join(f"{name} {value:.3f}" for name, value in likely))
    if not (skipped and predictions):
        require_all(answers)  # the images that can be read are answered; the others are named, with exit code 3


def _bars() -> str | int:
    """How Keras tells of its epochs: with bars on a terminal that has colours, elsewhere by a line for each."""
    plain = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return "auto" if sys.stdout.isatty() and not plain else LINE_PER_EPOCH


def _nothing(line: str) -> None:
    """Say nothing."""


def _print_scores(scores: dict[str, Any]) -> None:
    from kerasimg.evaluation.table import print_scores

    print_scores(scores)
