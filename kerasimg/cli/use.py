"""Commands that use a trained classifier: evaluate, predict, explain."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from kerasimg.cli.options import (
    Bad,
    Images,
    Json,
    OnBadImage,
    RunArgument,
    RunData,
    export_step,
    keras_loaded,
    out_option,
    part_option,
    top_option,
)
from kerasimg.cli.output import echo, print_json, print_next, print_result
from kerasimg.cli.progress import waiting
from kerasimg.errors import CallError, Fault, counted, listed
from kerasimg.escaping import one_line
from kerasimg.evaluation import Method

if TYPE_CHECKING:
    from kerasimg.evaluation.predict import Prediction

commands = typer.Typer()

METHODS: tuple[str, ...] = get_args(Method)
SHOWN_IN_SET = 10
"""Classes of a prediction set that a line shows."""
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
    with keras_loaded(run):
        from kerasimg.evaluation.evaluate import evaluate
        from kerasimg.evaluation.score_table import print_scores
    with waiting("evaluating", as_json):
        scores = evaluate(run, data=data, part=part, out=out, on_bad_image=on_bad_image.value).to_dict()
    options, names = export_step(run, data)
    print_result("evaluate", scores, lambda: print_scores(scores, run=run), as_json, options, **names)


@commands.command()
def predict(
    run: RunArgument,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE...",
            help='Image files, folders of them, patterns ("photos/**/*.jpg"), videos, or https addresses (--download).',
            show_default=False,
        ),
    ] = None,
    camera: Annotated[
        int | None, typer.Option("--camera", metavar="N", min=0, help="Classify what this camera sees, until Ctrl-C.")
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option("--watch", metavar="DIR", help="Classify the images of a folder, and new ones, until Ctrl-C."),
    ] = None,
    every: Annotated[
        float, typer.Option("--every", metavar="S", min=0, help="Seconds between frames of a video or camera.")
    ] = 1.0,
    download: Annotated[bool, typer.Option("--download", help="Fetch images from https addresses.")] = False,
    out: Annotated[Path | None, out_option("a row per image, .csv or .jsonl", "it is only printed")] = None,
    sort_into: Annotated[
        Path | None,
        typer.Option("--sort-into", metavar="DIR", help="Copy each image into the folder of its class there."),
    ] = None,
    top: Annotated[int, top_option("classes to print for an image, the most likely")] = 3,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Classify images. By an export bundle of the run, if one is verified; else by Keras, which starts in seconds."""
    from kerasimg.data.frames import expand, is_stream, require_any
    from kerasimg.run_folder import check_classifier

    asked = expand(images or [])
    check_classifier(run)
    if sum((bool(asked), camera is not None, watch is not None)) != 1:
        raise CallError("predict needs images: kerasimg predict RUN IMAGE..., or --camera 0, or --watch DIR")
    require_any(asked)
    if camera is not None or watch is not None or out or sort_into or any(map(is_stream, asked)):
        _predict_stream(run, asked, camera, watch, every, download, out, sort_into, top, on_bad_image, as_json)
        return
    from kerasimg.deploy.predict import choose_bundle, predict
    from kerasimg.evaluation.predict import UnreadableImages

    if choose_bundle(run, asked) is None:
        with keras_loaded(run):
            import kerasimg.models.classifier  # noqa: F401
    predictions: Sequence[Prediction]
    unreadable = None
    with waiting("classifying", as_json, err=True):
        try:
            predictions = predict(run, asked)
        except UnreadableImages as error:  # the others are classified all the same
            predictions, unreadable = error.predictions, error
    if unreadable and predictions and on_bad_image is OnBadImage.skip:
        _echo_left_out([fault for fault in unreadable.faults if fault.file])
        unreadable = None
    if predictions:
        image = None if unreadable else predictions[0].file
        lines = [_line(prediction, top) for prediction in predictions]
        print_result("predict", [row.to_dict() for row in predictions], lines, as_json, run=run, image=image)
    if unreadable:
        raise unreadable  # lists them; exit code 3


def _predict_stream(
    run: Path,
    asked: list[str],
    camera: int | None,
    watch: Path | None,
    every: float,
    download: bool,
    out: Path | None,
    sort_into: Path | None,
    top: int,
    on_bad_image: OnBadImage,
    as_json: bool,
) -> None:
    """Classify images as they come: each is printed, written and sorted before the next one."""
    from kerasimg.data.frames import camera_frames, frames_of
    from kerasimg.data.frames import watch as watch_folder
    from kerasimg.data.items import ManyFaults
    from kerasimg.deploy.predict import choose_bundle, open_predictor
    from kerasimg.deploy.predict_stream import PredictionFile, SortedFolder, predict_frames

    endless = camera is not None or watch is not None
    if endless and as_json:
        raise CallError("--json prints when all images are classified; for a stream without an end: --out FILE.jsonl")
    frames: Any = frames_of(asked, every_s=every, download=download)
    if camera is not None:
        frames = camera_frames(camera, every)
    elif watch is not None:
        frames = watch_folder(str(watch))
    if choose_bundle(run, []) is None:
        with keras_loaded(run):
            import kerasimg.models.classifier  # noqa: F401
    predictions, faults = [], []
    count = 0
    with ExitStack() as stack:
        shown = stack.enter_context(waiting("classifying", as_json, err=True))
        predictor = open_predictor(run, [])
        file = stack.enter_context(PredictionFile(out, predictor.classes)) if out else None
        folder = SortedFolder(sort_into, predictor.classes) if sort_into else None
        try:
            for frame, result in predict_frames(predictor, frames, batch=1 if camera is not None else 64):
                if isinstance(result, Fault):
                    faults.append(result)
                    continue
                count += 1
                if file is not None:
                    file.write(result)
                if folder is not None:
                    folder.add(frame, result)
                if as_json:
                    predictions.append(result.to_dict())
                elif endless or out is None:
                    shown.say(_line(result, top), err=False)
        except KeyboardInterrupt:
            if not endless:
                raise
    if as_json:
        print_json(predictions)
    else:
        places = [str(place) for place in (out, sort_into) if place]
        echo(
            f"{counted(count, 'image')} classified" + (f"; saved in {' and '.join(places)}" if places else ""), err=True
        )
        if count and not endless:
            print_next("predict", run=run, image=next(filter(os.path.isfile, asked), None))
    if faults and (on_bad_image is OnBadImage.skip or endless) and (count or endless):
        _echo_left_out(faults)
    elif faults:
        raise ManyFaults(faults)


def _echo_left_out(faults: Sequence[Fault]) -> None:
    echo(f"left out {len(faults):,} unreadable: {listed([fault.file for fault in faults], 5)}", err=True)


def _line(prediction: Prediction, top: int) -> str:
    likely = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])[:top]
    shown = ", ".join(f"{one_line(name)} {value:.3f}" for name, value in likely)
    if prediction.label != likely[0][0]:  # several labels, or a threshold that decides for the less likely class
        labels = [prediction.label] if isinstance(prediction.label, str) else prediction.label
        shown = f"{', '.join(map(one_line, labels)) or 'no label'} ({shown})"
    names = "" if prediction.set is None else f"; set: {listed(list(map(one_line, prediction.set)), SHOWN_IN_SET)}"
    unknown = f"; unlike the training images (p {prediction.p_value:.3f})" if prediction.known is False else ""
    return f"{one_line(prediction.file)}: {shown}{names}{unknown}"


@commands.command()
def explain(
    run: RunArgument,
    images: Images,
    method: Annotated[
        str,
        typer.Option("--method", help=f"{', '.join(METHODS)}. attention_rollout: of attention among all tokens (ViT)."),
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
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Draw which parts of an image a prediction rests on. As heat maps over the images."""
    from kerasimg.data.frames import require_any
    from kerasimg.run_folder import check_classifier

    options = dict(map(_option, option))
    if layer is not None:
        options["layer"] = layer
    check_classifier(run)
    require_any([str(path) for path in images])
    with keras_loaded(run):
        from kerasimg.evaluation.explain import explain, save
    with waiting("drawing heat maps", as_json):
        explained = explain(run, images, cast("Method", method), target, on_bad_image=on_bad_image.value, **options)
        written = save(explained, out or Path("explained"))
    pairs = list(zip(explained, written[::2], written[1::2], strict=True))
    rows = [
        {"file": map_.file, "target": map_.target, "probability": map_.probability, "peak": list(map_.peak())}
        | {"overlay": str(path), "seen": str(seen)}
        for map_, path, seen in pairs
    ]
    text = [f"{map_.file}: {map_.target} {map_.probability:.3f} -> {path}" for map_, path, _ in pairs]
    following, names = export_step(run, None)
    print_result("explain", rows, text, as_json, following, **names)


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        raise CallError(f"--option: expected NAME=NUMBER, got '{text}'") from None
