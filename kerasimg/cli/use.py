"""Commands that use a trained classifier: evaluate, predict, explain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kerasimg.cli.options import (
    Bad,
    Images,
    Json,
    OnBadImage,
    RunArgument,
    RunData,
    Top,
    keras_loaded,
    out_option,
    part_option,
)
from kerasimg.cli.output import echo, print_result
from kerasimg.cli.progress import waiting
from kerasimg.errors import CallError, listed
from kerasimg.escaping import one_line

if TYPE_CHECKING:
    from kerasimg.evaluation.explain_methods import Method

commands = typer.Typer()

OUT_OF_RUN = "RUN/evaluation, without --data and --part; otherwise it is only printed"


@commands.command()
def evaluate(
    run: RunArgument,
    data: RunData = None,
    part: Annotated[str | None, part_option("test, where there is one, otherwise all")] = None,
    out: Annotated[Path | None, out_option("a folder with metrics.json and predictions.csv", OUT_OF_RUN)] = None,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Evaluate a trained classifier on labelled images. By default on the images that its run held out."""
    with keras_loaded():
        from kerasimg.evaluation.evaluate import evaluate
        from kerasimg.evaluation.score_table import print_scores
    with waiting("evaluating", as_json):
        scores = evaluate(run, data=data, part=part, out=out, on_bad_image=on_bad_image.value).to_dict()
    print_result("evaluate", scores, lambda: print_scores(scores), as_json, run=run)


@commands.command()
def predict(
    run: RunArgument,
    images: Images,
    top: Top = 3,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Classify images."""
    with keras_loaded():
        from kerasimg.evaluation.predict import Prediction, UnreadableImages, predict
    predictions: Sequence[Prediction]
    unreadable = None
    with waiting("classifying", as_json):
        try:
            predictions = predict(run, images)
        except UnreadableImages as error:  # the others are classified all the same
            predictions, unreadable = error.predictions, error
    if unreadable and predictions and on_bad_image is OnBadImage.skip:
        left_out = [fault.file for fault in unreadable.faults if fault.file]
        echo(f"left out {len(left_out):,} unreadable: {listed(left_out, 5)}", err=True)
        unreadable = None
    lines = []
    for prediction in predictions:
        likely = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])[:top]
        lines.append(
            f"{one_line(prediction.file)}: " + ", ".join(f"{one_line(name)} {value:.3f}" for name, value in likely)
        )
    if predictions:
        image = None if unreadable else predictions[0].file
        print_result("predict", [row.to_dict() for row in predictions], lines, as_json, run=run, image=image)
    if unreadable:
        raise unreadable  # lists them; exit code 3


@commands.command()
def explain(
    run: RunArgument,
    images: Images,
    method: Annotated[
        str,
        typer.Option(
            "--method", help="grad_cam, grad_cam_pp, hires_cam, integrated_gradients, smooth_grad or occlusion."
        ),
    ] = "grad_cam",
    target: Annotated[
        str | None, typer.Option("--target", metavar="CLASS", help="The class to explain. Default: the predicted one.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", metavar="NAME", help="The layer that a CAM reads. Default: the last one.")
    ] = None,
    option: Annotated[
        list[str],
        typer.Option("--option", metavar="NAME=N", help="Of the method: steps=64, window=24. Repeatable."),
    ] = [],  # noqa: B006
    out: Annotated[Path | None, out_option("a folder for the heat maps", "explained")] = None,
    as_json: Json = False,
) -> None:
    """Draw which parts of an image a prediction rests on. As heat maps over the images."""
    options = dict(map(_option, option))
    if layer is not None:
        options["layer"] = layer
    with keras_loaded():
        from kerasimg.evaluation.explain import explain, save
    with waiting("drawing heat maps", as_json):
        explained = explain(run, images, cast("Method", method), target, **options)
        written = save(explained, out or Path("explained"))
    pairs = list(zip(explained, written[::2], written[1::2], strict=True))
    rows = [
        {"file": map_.file, "target": map_.target, "probability": map_.probability, "peak": list(map_.peak())}
        | {"overlay": str(path), "seen": str(seen)}
        for map_, path, seen in pairs
    ]
    text = [f"{map_.file}: {map_.target} {map_.probability:.3f} -> {path}" for map_, path, _ in pairs]
    print_result("explain", rows, text, as_json, run=run)


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        raise CallError(f"--option: expected NAME=NUMBER, got '{text}'") from None
