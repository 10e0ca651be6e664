"""`kerasimg run`: what can be done with a trained classifier besides using and deploying it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kerasimg.cli.deploy import TARGETS, Batch, Drop, Precisions, Same, Tolerance
from kerasimg.cli.options import (
    DATA_HELP,
    QUIET_CLIENT,
    RUN_HELP,
    Bad,
    Images,
    Json,
    OnBadImage,
    RunArgument,
    RunData,
    best_run,
    export_step,
    image_paths,
    images_of,
    keras_loaded,
    out_option,
    part_option,
    to_export,
    top_option,
)
from kerasimg.cli.output import echo, print_result
from kerasimg.cli.progress import waiting
from kerasimg.errors import CallError, KerasimgError, counted
from kerasimg.escaping import command
from kerasimg.files import is_locked, require_free
from kerasimg.results import accuracy_key, figure_words
from kerasimg.run_folder import CARD, REPORT, RunFolder

commands = typer.Typer(help="Report on, compare, improve and share runs.", no_args_is_help=True)

Undo = Annotated[bool, typer.Option("--undo", help="Restore the model as it was.")]
BundleData = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help=f"{DATA_HELP} Default: only the test images in the bundle."),
]
Repo = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A model on the Hugging Face Hub.")]


@commands.command()
def report(
    run: RunArgument,
    out: Annotated[Path | None, out_option("the page, with MODEL_CARD.md beside it", f"RUN/{REPORT}")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's report.html and MODEL_CARD.md. From the files in its folder."""
    with keras_loaded(run):
        from kerasimg.reporting.report import report
    with waiting("writing the report", as_json):
        path = report(run, out=out)
    text = f"{path} ({path.stat().st_size / 1e6:.2f} MB), {CARD} beside it"
    result = {"report": str(path), "card": str(path.with_name(CARD))}
    options, names = export_step(run, None) if "run" in (state := _run_or_interrupted(run)) else ([], state)
    print_result("run report", result, text, as_json, options, **names)


@commands.command()
def history(
    run: RunArgument,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write the curves to this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the stages of a training, each with its best epoch. The training may still be running."""
    from kerasimg.reporting.epochs import print_stages, read_goals, read_task, stage_summaries

    if run.is_file():
        raise CallError(f"'{run}' is a file; name the folder of a run")
    rows, goals = RunFolder(run).history(), read_goals(run)
    files = RunFolder(run)
    if not rows and files.is_run and not files.finished:
        raise CallError(
            f"'{run}' has no finished epoch yet; try again later, or, if its training was stopped: {files.resume}"
        )
    if not rows:
        raise CallError(f"'{run}' holds no history.csv with an epoch in it; name the folder of a run")
    if tensorboard is not None:
        if tensorboard.exists() and not tensorboard.is_dir():
            raise CallError(f"--tensorboard: expected a folder, and '{tensorboard}' is none")
        with keras_loaded(run):
            from kerasimg.callbacks.curves_to_tensorboard import write_curves
        try:
            write_curves(RunFolder(run).history_file, tensorboard)
        except Exception as error:
            if not type(error).__module__.startswith("tensorflow"):
                raise
            raise KerasimgError(f"--tensorboard: '{tensorboard}' cannot be written: {error}") from None
    summaries: list[dict[str, Any]] = [summary._asdict() for summary in stage_summaries(rows, goals)]
    print_result(
        "run history",
        summaries,
        lambda: print_stages(rows, goals, task=read_task(run)),
        as_json,
        (),
        **_run_or_interrupted(run),
    )


def _run_or_interrupted(run: Path) -> dict[str, Path]:
    """The name under which a run goes into the next step: an interrupted training is continued first."""
    if is_locked(run):  # it is still being trained
        return {}
    return {"interrupted" if RunFolder(run).interrupted else "run": run}


@commands.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help=f"{RUN_HELP} Each is compared with the first.")
    ],
    data: RunData = None,
    part: Annotated[str | None, part_option("test")] = None,
    out: Annotated[Path | None, out_option("the comparison, as JSON", "only printed")] = None,
    as_json: Json = False,
) -> None:
    """Test whether one run is better than another. With intervals, and the images whose prediction changed."""
    runs = [best_run(run) for run in runs]
    if data is None:
        evaluated = [run for run in runs if RunFolder(run).evaluation.predictions_file.is_file() or not run.is_dir()]
        if len(evaluated) >= 2:  # of a pattern: runs/*-1
            for run in runs:
                if run not in evaluated:
                    echo(f"{run}: left out, since it holds no predictions of test images", err=True)
            runs = evaluated
    with keras_loaded(*runs):
        from kerasimg.evaluation.compare import compare
        from kerasimg.evaluation.comparison_table import print_comparison
    with waiting("comparing", as_json):
        comparison = compare(*runs, data=data, part=part, out=out).to_dict()
    print_result(
        "run compare",
        comparison,
        lambda: print_comparison(comparison, path_of=image_paths(runs[0], data)),
        as_json,
        first=runs[0],
        second=runs[-1],
    )


@commands.command()
def calibrate(
    run: RunArgument,
    data: RunData = None,
    part: Annotated[str | None, part_option("validation")] = None,
    undo: Undo = False,
    as_json: Json = False,
) -> None:
    """Calibrate probabilities (temperature scaling). Fitted on the validation split and saved in model.keras."""
    with keras_loaded(run):
        from kerasimg.evaluation.calibrate import calibrate
    with waiting("calibrating", as_json):
        result = calibrate(run, data=data, part=part, undo=undo).to_dict()
    text = [f"temperature {result['temperature']:.4f}"]
    sides = "{} -> {}"
    if "interval" in result:
        low, high = result["interval"]
        reach = f"(95 % interval {low:.4f} to {high:.4f})"
        if result["applied"]:
            text = [f"{text[0]} {reach}", f"saved in {RunFolder(run).model_file.name}; to undo it: "]
            text[1] += command("run", "calibrate", run, "--undo")
        else:
            text = [f"nothing was changed: the temperature stays {result['temperature']:.4f}"]
            text.append(f"tried: temperature {result['fitted']:.4f} {reach}; the figures without and with it:")
            sides = "{} without, {} with"
    for name, row in result.get("parts", {}).items():
        fitted = " (fitted on these)" if name == result["fitted_on"]["part"] else ""
        text.append(f"{name}, {counted(row['n'], 'image')}{fitted}:")
        for figure in ("log_loss", "calibration_error"):
            pair = (f"{row[when][figure]:.4f}{_interval(row[when], figure)}" for when in ("before", "after"))
            text.append(f"  {figure.replace('_', ' ')}: {sides.format(*pair)}")
    options, names = export_step(run, data)
    print_result("run calibrate", result, text, as_json, options, **names)


@commands.command()
def flips(
    run: RunArgument,
    data: RunData = None,
    part: Annotated[str | None, part_option("validation")] = None,
    undo: Undo = False,
    as_json: Json = False,
) -> None:
    """Average over each image and its mirror image, if that gains on the validation split. Takes twice the time."""
    with keras_loaded(run):
        from kerasimg.evaluation.flips import flips
    with waiting("comparing", as_json):
        result = flips(run, data=data, part=part, undo=undo).to_dict()
    text = ["test-time flip: on" if result["applied"] else "test-time flip: off"]
    if not undo:
        reach = result["interval"]
        between = (
            "no image is decided otherwise" if reach is None else f"95 % interval {reach[0]:+.4f} to {reach[1]:+.4f}"
        )
        figure = figure_words(result["figure"])
        text[0] += (
            f"; {figure} {result['before']:.4f} -> {result['after']:.4f} on {counted(result['n'], 'image')} ({between})"
        )
        if not result["applied"]:
            text.append("it is used only where the interval of its gain is above 0")
    if result["applied"]:
        text.append(f"saved in {RunFolder(run).model_file.name}; to undo it: {command('run', 'flips', run, '--undo')}")
        text.append(f"the temperature was fitted without it; to fit it again: {command('run', 'calibrate', run)}")
    options, names = export_step(run, data)
    print_result("run flips", result, text, as_json, options, **names)


@commands.command()
def thresholds(
    run: RunArgument,
    aim: Annotated[str, typer.Option("--aim", help='f1, "precision>=0.95", "recall>=0.9", youden or cost.')] = "f1",
    false_positive: Annotated[
        float, typer.Option("--false-positive", min=0, help="Cost of a false positive, for --aim cost.")
    ] = 1.0,
    false_negative: Annotated[
        float, typer.Option("--false-negative", min=0, help="Cost of a false negative, for --aim cost.")
    ] = 1.0,
    data: RunData = None,
    part: Annotated[str | None, part_option("validation")] = None,
    undo: Undo = False,
    as_json: Json = False,
) -> None:
    """Choose thresholds for a binary or multilabel model. On the validation split; saved in model.keras."""
    with keras_loaded(run):
        from kerasimg.evaluation.thresholds import choose_thresholds
    costs = {"false_positive": false_positive, "false_negative": false_negative}
    with waiting("choosing thresholds", as_json):
        result = choose_thresholds(run, aim, data=data, part=part, **costs, undo=undo).to_dict()
    text = []
    for label, threshold in result["thresholds"].items():
        line = f"{label}: {threshold:.4f}"
        if row := result.get("labels", {}).get(label):
            line += f"  precision {row['precision']:.3f}, recall {row['recall']:.3f}, F1 {row['f1']:.3f}"
            line += f", {counted(row['support'], 'image')}{'' if row['met'] else '  (aim not met)'}"
        text.append(line)
    options, names = export_step(run, data)
    print_result("run thresholds", result, text, as_json, options, **names)


@commands.command()
def sets(
    run: RunArgument,
    coverage: Annotated[
        float, typer.Option("--coverage", help="Share of sets that are to hold the true class, between 0 and 1.")
    ] = 0.95,
    method: Annotated[str, typer.Option("--method", help="lac, aps or raps.")] = "lac",
    per_class: Annotated[
        bool, typer.Option("--per-class", help="The share is to hold for each class by itself.")
    ] = False,
    data: RunData = None,
    part: Annotated[str | None, part_option("validation")] = None,
    undo: Undo = False,
    as_json: Json = False,
) -> None:
    """Choose a rule for prediction sets that hold the true class at a stated rate. Saved in model.keras."""
    with keras_loaded(run):
        from kerasimg.evaluation.prediction_sets import prediction_sets
    with waiting("choosing sets", as_json):
        result = prediction_sets(
            run, coverage, method=method, per_class=per_class, data=data, part=part, undo=undo
        ).to_dict()
    text = ["removed"] if result["rule"] is None else []
    if not text:
        low, _ = result["expected"]
        chosen = result["chosen_on"]
        text.append(f"{method}, coverage {coverage:g}, chosen on {counted(chosen['n'], 'image')} ({chosen['part']})")
        text.append(f"of later images like these, at least {low:.3f} get a set with the true class (97.5 % confidence)")
    for name, row in result.get("parts", {}).items():
        low, high = row["interval"]
        text.append(
            f"{name}, {counted(row['n'], 'image')}: {row['coverage']:.3f} ({low:.3f} to {high:.3f}) hold the true class"
        )
        text.append(f"  {row['mean_size']:.2f} classes in a set on average")
        too_few = [each for each in row["classes"] if each["below"]]
        text += [f"  {each['class']}: only {each['coverage']:.3f}" for each in too_few]
    print_result("run sets", result, text, as_json, run=run)


@commands.command()
def known(
    run: RunArgument,
    share: Annotated[
        float,
        typer.Option("--share", help="Largest share of images like the training images that is flagged as unknown."),
    ] = 0.05,
    method: Annotated[str, typer.Option("--method", help="auto, mahalanobis, distance or energy.")] = "auto",
    data: RunData = None,
    undo: Undo = False,
    as_json: Json = False,
) -> None:
    """Fit the rule that says "none of these" of images unlike the training images. Saved in model.keras."""
    with keras_loaded(run):
        from kerasimg.evaluation.known import known
        from kerasimg.evaluation.shift import broken_promise
    with waiting("fitting", as_json):
        result = known(run, share, method=method, data=data, undo=undo).to_dict()
    text = ["removed"] if result["rule"] is None else []
    if not text:
        low, high = result["expected"]
        used = result["chosen_on"]
        others = f"; {used['tried_on']} others chose the method" if result["methods"] else ""
        text.append(f"{result['rule']['method']}, limit set by {counted(used['n'], 'image')}{others}")
        text.append(
            f"of images like these at most {share:.1%} are flagged as unknown on average "
            f"({low:.1%} to {high:.1%} for 95 % of choices of these images)"
        )
    for name, row in result.get("parts", {}).items():
        low, high = row["interval"]
        unknown = f"{row['unknown']:.1%} ({low:.1%} to {high:.1%})"
        text.append(f"{name}, {counted(row['n'], 'image')}: {unknown} are flagged as unknown")
        text += [f"  {each['class']}: {each['unknown']:.1%}" for each in row["classes"] if each["interval"][0] > share]
        row = {**row, "share": share, "expected": result["expected"]}
        text += filter(None, [broken_promise(row, result["chosen_on"]["n"], run)])
    print_result("run known", result, text, as_json, run=run)


@commands.command()
def add(
    run: RunArgument,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the new class.")] = None,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGES...", help="Images of it: files, or a folder.")
    ] = None,
    undo: Undo = False,
    as_json: Json = False,
) -> None:
    """Add a class to a trained run from a few images. Its layers are not trained again."""
    with keras_loaded(run):
        from kerasimg.evaluation.add_class import add_class
    with waiting("adding", as_json):
        result = add_class(run, name, images, undo=undo)
    text = [f"{counted(len(result.classes), 'class')}: {', '.join(result.classes[-8:])}"]
    if result.left_out is not None:
        text.append(f"{result.left_out:.0%} of {result.images} images are recognised, each left out of the fit")
    if result.old is not None:
        low, high = result.old["interval"]
        text.append(
            f"old classes: accuracy {result.old['before']:.1%} before, {result.old['after']:.1%} after; difference "
            f"{result.old['difference'] * 100:+.1f} points (95 % interval {low * 100:+.1f} to {high * 100:+.1f}), on "
            f"{counted(result.old['n'], result.old['part'] + ' image')}"
        )
    print_result("run add", result.to_dict(), text, as_json, run=run)


@commands.command()
def robustness(
    run: RunArgument,
    corruptions: Annotated[
        list[str] | None, typer.Option("--corruption", help="Only this corruption; may be given several times.")
    ] = None,
    data: RunData = None,
    part: Annotated[str | None, part_option("test")] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Number of images, evenly spaced.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Of noise and the like.")] = 0,
    out: Annotated[
        Path | None, out_option("the table, as JSON", "RUN/evaluation/robustness.json; with --data only printed")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the accuracy on corrupted images: noise, blur, weather, digital, each at five severities."""
    with keras_loaded(run):
        from kerasimg.evaluation.robustness import robustness
    with waiting("corrupting", as_json):
        result = robustness(
            run, corruptions=corruptions or None, data=data, part=part, images=images, seed=seed, out=out
        ).to_dict()
    print_result(
        "run robustness", result, robustness_lines(result), as_json, run=run if RunFolder(run).is_run else None
    )


def robustness_lines(result: dict[str, Any]) -> list[str]:
    """The accuracy on corrupted images as a table."""
    low, high = result["clean"]["interval"]
    width = max(len(name) for name in [*result["rows"], "mean"])
    figure = figure_words(accuracy_key(result["task"]))
    lines = [
        f"{counted(result['n'], 'image')}, {figure} {result['clean']['accuracy']:.1%} "
        f"({low:.1%} to {high:.1%}) without corruption"
    ]
    lines.append(f"{'severity':<{width}}" + "".join(f"{severity:>8}" for severity in range(1, 6)))
    for name, rows in result["rows"].items():
        lines.append(f"{name:<{width}}" + "".join(f"{row['accuracy']:>8.1%}" for row in rows))
    lines.append(f"{'mean':<{width}}" + "".join(f"{value:>8.1%}" for value in result["by_severity"]))
    return lines


@commands.command()
def embed(
    run: RunArgument,
    images: Images,
    out: Annotated[Path | None, out_option("the features, .npz or .parquet", "features.npz")] = None,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Write the features of images: what the last layer of a classifier takes."""
    with keras_loaded(run):
        from kerasimg.evaluation.embed import embed
    path = out or Path("features.npz")
    with waiting("computing features", as_json):
        features = embed(run, images, out=path, on_bad_image=on_bad_image.value).features
    result = {"out": str(path), "images": features.shape[0], "features": features.shape[1]}
    text = f"{counted(features.shape[0], 'image')}, {counted(features.shape[1], 'feature')} -> {path}"
    print_result("run embed", result, text, as_json, images_of(run, None), run=run)


@commands.command()
def similar(
    run: RunArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    count: Annotated[int, typer.Option("--count", metavar="N", help="Number of images.")] = 5,
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Find the training images that are most similar to an image, by the features of a classifier."""
    with keras_loaded(run):
        from kerasimg.evaluation.embed import similar
    with waiting("comparing", as_json):
        rows = similar(run, image, count, data=data)
    path_of = image_paths(run, data)
    text = [
        f"{row.similarity:.3f}  {path_of(row.file)}  {row.label if isinstance(row.label, str) else '|'.join(row.label)}"
        for row in rows
    ]
    print_result("run similar", [row.to_dict() for row in rows], text, as_json, run=run, image=image)


@commands.command()
def learn(
    run: RunArgument,
    page: Annotated[
        Path, typer.Argument(metavar="PAGE.JSON", help="What the page saved that was exported with --trainable.")
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help=f"{DATA_HELP} Default: only the examples that the page saved."),
    ] = None,
    out: Annotated[Path | None, out_option("the model, a .keras file", "PAGE.keras")] = None,
    as_json: Json = False,
) -> None:
    """Make a classifier of the classes that an exported page has learned. It gives the page's probabilities."""
    with keras_loaded(run):
        from kerasimg.deploy.learning import learn
    with waiting("learning", as_json):
        learned = learn(run, page, out=out, data=data)
    images = ", ".join(f"{name} {count:,}" for name, count in learned.images.items())
    text = [f"{counted(len(learned.classes), 'class')} ({images}) -> {learned.file}"]
    if learned.left_out is not None:
        text.append(f"{learned.left_out:.1%} of the examples are right when each is left out of the fit")
    print_result("run learn", learned.to_dict(), text, as_json, model=learned.file)


@commands.command("label-errors")
def label_errors(
    run: RunArgument,
    data: RunData = None,
    part: Annotated[str | None, part_option("validation and test")] = None,
    top: Annotated[int, top_option("images to list")] = 30,
    out: Annotated[
        Path | None, out_option("the list, as JSON", "RUN/evaluation/label_errors.json; with --data only printed")
    ] = None,
    as_json: Json = False,
) -> None:
    """List likely label errors among the images that a run held out. Predicted by that run; nothing is trained."""
    with keras_loaded(run):
        from kerasimg.evaluation.label_errors import label_errors
    with waiting("predicting", as_json):
        result = label_errors(run, data=data, part=part, out=out).to_dict()
    path_of = image_paths(run, data)
    first = next((path for row in result["rows"] if Path(path := path_of(row["file"])).is_file()), None)
    lines = label_error_lines(result, top, path_of)
    options, names = export_step(run, data) if first is None else ([], {"run": run, "image": Path(first)})
    print_result("run label-errors", result, lines, as_json, options, **names)


def label_error_lines(result: dict[str, Any], top: int, path_of: Callable[[str], str]) -> list[str]:
    """The likely label errors as lines, at most `top` of them.  path_of: as `image_paths` returns it."""
    lines = [
        f"{result['found']:,} of {counted(result['n'], 'image')} {'is' if result['found'] == 1 else 'are'} suspect"
    ]
    for row in result["rows"][:top]:
        sure = f"{row['p_given']:.3f} against {row['p_suggested']:.3f}"
        lines.append(f"{path_of(row['file'])}: {row['given']}, more likely {row['suggested']} ({sure})")
    if result["found"] > top:
        lines.append(f"... and {result['found'] - top:,} more (--top, --json or --out)")
    return lines


@commands.command()
def measure(
    run: RunArgument,
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="TARGET", help=f"The target, repeatable: {TARGETS}. Default: those that are installed."
        ),
    ] = [],  # noqa: B006
    precision: Precisions = [],  # noqa: B006
    batch: Batch = None,
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Measure size and speed. Parameters, multiplications, bytes, and time on this machine by each runtime."""
    with keras_loaded(run):
        from kerasimg.deploy.measure import as_text, measure
    precisions: Any = [name.value for name in precision] or None
    with waiting("exporting and measuring", as_json):
        result = measure(run, to or None, precision=precisions, batch=batch, data=data).to_dict()
    print_result("run measure", result, lambda: echo(as_text(result)), as_json, to_export(run, data), run=run)


@commands.command()
def shrink(
    run: RunArgument,
    to_kb: Annotated[float | None, typer.Option("--to-kb", min=0, help="Largest size, in 1,000 bytes.")] = None,
    to_ms: Annotated[
        float | None, typer.Option("--to-ms", min=0, help="Largest median time of one image, on this machine.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0, max=1, help="Largest loss of accuracy on the test images.")
    ] = 0.01,
    to: Annotated[str, typer.Option("--to", metavar="TARGET", help=f"The target: {TARGETS}.")] = "litert",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of training after each pruning.")] = 5,
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Find the smallest export within limits. By precision, pruning and distillation, each measured in its runtime."""
    with keras_loaded(run):
        from kerasimg.deploy.shrink import as_lines, shrink
    with waiting("shrinking", as_json):
        found = shrink(run, to_kb=to_kb, to_ms=to_ms, max_drop=max_drop, to=to, epochs=epochs, data=data)
    text = [*as_lines(found.rungs), f"saved in {found.bundle.folder}: {found.chosen.precision} of {found.chosen.model}"]
    result = {"bundle": str(found.bundle.folder), "chosen": found.chosen.to_dict(), "rungs": found.rungs.to_dict()}
    print_result("run shrink", result, lambda: echo("\n".join(text)), as_json, bundle=found.bundle.folder)


@commands.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="An exported bundle: its folder.")],
    data: BundleData = None,
    expected: Annotated[
        Path | None,
        typer.Option("--expected", metavar="FILE", help="predictions.csv of the trained model on --data."),
    ] = None,
    tolerance: Tolerance = None,
    same: Same = None,
    accuracy_drop: Drop = None,
    as_json: Json = False,
) -> None:
    """Verify an exported bundle on this machine. Its files, and its predictions on its test images."""
    from kerasimg.deploy.bundle import PAGE, README
    from kerasimg.deploy.targets import served
    from kerasimg.deploy.verify import verify

    with waiting("verifying", as_json):
        verified = verify(
            bundle, data=data, expected=expected, tolerance=tolerance, same=same, accuracy_drop=accuracy_drop
        )
    rows = {"vectors": verified.vectors, "data": verified.data}
    result = {name: [row.model_dump(mode="json") for row in some] for name, some in rows.items()}
    manifest = verified.bundle.manifest
    text = [f"{bundle}: {counted(len(manifest.files), 'file')} as exported; every model predicts what it should"]
    if data is None and verified.vectors:
        images = counted(verified.vectors[0].images, "image")
        more = command("run", "verify", bundle, "--data", "DATA")
        text.append(
            f"compared on the {images} that the export stored with their outputs; its accuracy on other labelled "
            f"images: {more}"
        )
    print_result(
        "run verify",
        {"bundle": str(bundle), "pixels": verified.pixels, **result, "accuracy": verified.accuracy},
        text,
        as_json,
        bundle=bundle if manifest.target in served() else None,
        page=page if (page := bundle / PAGE).is_file() else None,
        readme=bundle / README,
    )


@commands.command()
def pack(
    run: RunArgument,
    out: Annotated[Path | None, out_option("the pack, a .kerasimg file", "NAME.kerasimg in this folder")] = None,
    as_json: Json = False,
) -> None:
    """Pack a run into one file to send. Spec, classes, weights and model card; it cannot run code."""
    with keras_loaded(run):
        from kerasimg.deploy.sharing import pack
    with waiting("packing", as_json):
        path = pack(run, out)
    _print_path("run pack", path, path.stat().st_size, as_json, pack=path)


@commands.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .kerasimg file.")],
    out: Annotated[Path | None, out_option("the run's folder", "the file's name without its ending")] = None,
    as_json: Json = False,
) -> None:
    """Unpack a .kerasimg file into a run's folder. Spec, classes, model.keras and model card."""
    if (folder := out or file.with_suffix("")) != file:
        require_free(folder)
    with keras_loaded():
        from kerasimg.api import unpack
    with waiting("unpacking", as_json):
        folder = unpack(file, out).folder
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    _print_path("run unpack", folder, size, as_json, run=folder)


@commands.command()
def push(
    run: RunArgument,
    repo: Repo,
    private: Annotated[bool, typer.Option("--private", help="If the repository is new, make it private.")] = False,
    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="The commit message.")] = None,
    space: Annotated[
        bool, typer.Option("--space", help="Publish the page of the web export as a static Space, too.")
    ] = False,
    data_card: Annotated[
        bool, typer.Option("--data-card", help="Upload a Croissant card of the images, too: names, labels and hashes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload a run or a pack to the Hugging Face Hub. As a pack with its model card."""
    os.environ.setdefault(*QUIET_CLIENT)
    from kerasimg.deploy import hub
    from kerasimg.spec.pack import is_pack

    if not is_pack(run):
        with keras_loaded(run):  # quietly, before the hub's module imports it
            pass
    with waiting("uploading", as_json):
        address = hub.push(run, repo, private=private, message=message, space=space, data_card=data_card)
    print_result("run push", {"repo": repo, "url": address}, address, as_json, repo=repo)


@commands.command()
def pull(
    repo: Repo,
    out: Annotated[Path | None, out_option("the pack, a .kerasimg file", "NAME.kerasimg in this folder")] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit. Default: main.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a classifier from the Hugging Face Hub. As a .kerasimg file, which cannot run code."""
    os.environ.setdefault(*QUIET_CLIENT)
    from kerasimg.deploy import hub

    with waiting("downloading", as_json):
        path = hub.pull(repo, out, revision=revision)
    _print_path("run pull", path, path.stat().st_size, as_json, pack=path)


def _print_path(command: str, path: Path, size: int, as_json: bool, **names: Any) -> None:
    result = {"path": str(path), "bytes": size}
    print_result(command, result, f"{path} ({size / 1e6:.2f} MB)", as_json, **names)


def _interval(row: dict[str, Any], figure: str) -> str:
    pair = row["intervals"].get(figure)
    return "" if pair is None else f" ({pair[0]:.4f} to {pair[1]:.4f})"
