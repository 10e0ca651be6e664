"""Commands that lead to a trained classifier: init, check, import, train, tune."""

from __future__ import annotations

import gc
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg.cli.options import (
    DATA_HELP,
    QUIET_CLIENT,
    SPEC_HELP,
    Bad,
    BatchSize,
    CacheKind,
    CacheOption,
    DataArgument,
    DeviceName,
    Epochs,
    Json,
    LearningRate,
    Limit,
    OnBadImage,
    Quiet,
    Set,
    Size,
    Task,
    TaskName,
    TrainData,
    Weights,
    assignments,
    keras_loaded,
    limits_argument,
    load,
    out_option,
    repeated,
    weights_argument,
    without_none,
)
from kerasimg.cli.output import echo, print_json, print_next, print_result, table
from kerasimg.cli.progress import messages, waiting
from kerasimg.errors import CallError, Fault, SpecError, counted, printable
from kerasimg.escaping import one_line
from kerasimg.files import read_object, write_text
from kerasimg.run_folder import REPORT, RunFolder
from kerasimg.tuning.time_budget import minutes_from

if TYPE_CHECKING:
    from kerasimg.api import Search
    from kerasimg.data.starter_spec import Choices
    from kerasimg.data.summary import Summary
    from kerasimg.log import Verbose
    from kerasimg.spec.load import Spec

commands = typer.Typer()

SpecOrData = Annotated[
    str | None,
    typer.Argument(
        metavar="SPEC",
        help=f"{SPEC_HELP} Default: the one that init would write for the images, as in kerasimg train photos/.",
        show_default=False,
    ),
]


@commands.command()
def studio(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A folder of images: a folder per class, or without labels. Or a new one."),
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 127.0.0.1 is this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any free port.")] = 8765,
    out: Annotated[Path | None, out_option("a new folder in it for each run", "runs")] = None,
    open_browser: Annotated[
        bool, typer.Option("--open-browser/--no-open-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Label, clean, train, try and export on a page in your browser. Nothing leaves this machine."""
    from kerasimg.studio.server import open_studio

    with messages(err=True):
        open_studio(folder, host=host, port=port, open_browser=open_browser, **without_none(out=out))


@commands.command()
def init(
    data: DataArgument,
    out: Annotated[Path | None, out_option("the spec", "DATA.json beside the images")] = None,
    task: Task = None,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Ask five questions first.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Look at your images and write a first spec for them. Comments give the reason for each choice."""
    from kerasimg.data.starter_spec import describe, file_beside, make_spec, summarize_data
    from kerasimg.data.summary import unreadable_note
    from kerasimg.spec.formatting import dumps

    path = file_beside(data) if out is None else out
    if path.is_dir():
        raise CallError(f"'{path}' is a folder; name a file with --out")
    if path.exists() and not force:
        raise CallError(f"'{path}' exists already; name another file with --out, or overwrite it with --force")
    kind: Any = _text(task)
    with waiting("looking at the images", as_json) as shown:
        seen = summarize_data(data, kind, shown.progress)
    if not as_json:
        echo(describe(seen))
        if seen.unreadable:
            command = shlex.join(["kerasimg", "data", "check", data])
            noun = "image" if seen.sampled == seen.images else "sampled image"
            echo(f"{unreadable_note(seen.unreadable, seen.sampled, noun)}; to list all: {command}")
    wish = _ask(seen, kind or seen.task) if interactive else _default_wish(kind)
    document = make_spec(path.stem, seen, wish)
    write_text(path, dumps(document))
    result = {"spec": str(path), "seen": seen._asdict()}
    again = repeated(OnBadImage.skip if seen.unreadable else OnBadImage.fail)
    print_result("init", result, f"wrote {path}: {document['about']}", as_json, again, spec=path, data=data)


@commands.command()
def check(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="Zoo names, recipes or paths of specs.")],
    assign: Set = [],  # noqa: B006 - typer copies it
    as_json: Json = False,
) -> None:
    """Validate specs and list every error."""
    params, edits = assignments(assign)
    faults: list[dict[str, str]] = []
    warnings: list[dict[str, str]] = []
    for ref in specs:
        try:
            spec = load(ref, params, edits, partial=True)
        except CallError as error:  # of this spec; the others are checked all the same
            faults.append(Fault(ref, "", str(error))._asdict())
            if not as_json:
                echo(f"error: {printable(str(error))}", err=True)
        except SpecError as error:
            faults += [fault._asdict() for fault in error.faults]
            if not as_json:
                echo(str(error), err=True)
        else:
            warnings += [warning._asdict() for warning in spec.warnings]
            if not as_json:
                for warning in spec.warnings:
                    echo(f"warning: {one_line(warning)}", err=True)
                missing = [name for name, value in spec.resolved.get("params", {}).items() if value is None]
                needed = f"; must be given: {', '.join(missing)}" if missing else ""
                parts = f"{counted(len(spec.nodes), 'node')}, {counted(len(spec.search), 'search value')}"
                echo(f"ok: {spec.file} ({parts}{needed})")
    if as_json:
        print_json({"ok": not faults, "faults": faults, "warnings": warnings})
    if faults:
        raise typer.Exit(SpecError.exit_code)
    if not as_json:
        print_next("check", repeated(assign=assign), spec=specs[0])


@commands.command("import")
def import_checkpoint(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A .safetensors file with config.json beside it, a folder, or hf://OWNER/NAME."
        ),
    ],
    out: Annotated[Path | None, out_option("a folder with the spec and its weights", "NAME in this folder")] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit on the Hub. Default: main.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import a checkpoint of timm or Hugging Face. As a spec with weights; nothing of it is executed."""
    os.environ.setdefault(*QUIET_CLIENT)
    with keras_loaded():
        from kerasimg.models.import_checkpoint import import_checkpoint
    with waiting("importing", as_json):
        imported = import_checkpoint(source, out, revision=revision)
    classes = f"{counted(imported.classes, 'class')}" if imported.classes else "no head"
    text = [
        f"{imported.architecture}: {counted(imported.params, 'parameter')}, {classes}, "
        f"licence {imported.license or 'unknown'}",
        f"wrote {imported.spec} and {imported.weights.name} beside it",
    ]
    print_result("import", imported.to_dict(), text, as_json, spec=imported.spec)


@commands.command()
def train(
    ref: SpecOrData = None,
    data: TrainData = None,
    epochs: Epochs = None,
    size: Size = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    task: Task = None,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    limit: Limit = [],  # noqa: B006
    out: Annotated[Path | None, out_option("a new folder in it for the run", "runs")] = None,
    on_bad_image: Bad = OnBadImage.fail,
    cache: CacheOption = CacheKind.auto,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", metavar="RUN", help="Resume an interrupted run; with --data if the images have moved."
        ),
    ] = None,
    track: Annotated[
        list[str],
        typer.Option(
            "--track", metavar="NAME", help="Log the run to mlflow, wandb, trackio or tensorboard. Repeatable."
        ),
    ] = [],  # noqa: B006
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the curves to RUN/tensorboard while it trains.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a classifier and evaluate it on held-out images. Everything is saved in a new folder."""
    from kerasimg.reporting.epochs import print_stages, read_goals, read_task

    silent = quiet or as_json
    verbose: Verbose = 0 if silent else 1
    params, edits = assignments(assign, epochs=epochs, size=size, batch_size=batch_size, lr=lr, task=_text(task))
    if resume is not None:
        if ref or params or edits or weights or limit or out or tensorboard or track:
            raise CallError(
                "--resume continues with what the run was started with; it goes with --data, --cache, --quiet and "
                "--json"
            )
        with keras_loaded():
            from kerasimg.api import resume as resume_training
        cached: Any = None if cache is CacheKind.auto else cache.value
        with messages(silent):
            run = resume_training(resume, data=data, cache=cached, verbose=verbose)
    else:
        ref, data = _spec_and_data(ref, data, "train", "RUN")
        spec = None if ref is None else load(ref, params, edits, partial=True)  # its errors come before Keras is loaded
        options: dict[str, Any] = {"params": params, "overrides": edits} if spec is None else {}
        options |= without_none(out=out, limits=limits_argument(limit) or None) | weights_argument(weights)
        options |= {
            "on_bad_image": on_bad_image.value,
            "cache": cache.value,
            "tensorboard": tensorboard,
            "track": track,
        }
        with keras_loaded():
            from kerasimg.api import train
        with messages(silent):
            run = train(spec, data=data, **options, verbose=verbose)
    files = RunFolder(run.folder)
    if not silent:
        print_stages(run.history, read_goals(run.folder), task=read_task(run.folder))
    scores = files.evaluation.metrics()

    def as_text() -> None:
        if scores is not None:
            from kerasimg.evaluation.score_table import print_scores

            print_scores(scores, run=run.folder)
        page = files.report_file
        echo(f"saved in {run.folder}" + (f"; report: {page}" if page.is_file() else ""))

    result = {"run": str(run.folder), "scores": scores}
    print_result("train", result, as_text, as_json, run=run.folder)


@commands.command()
def tune(
    ref: SpecOrData = None,
    data: TrainData = None,
    epochs: Epochs = None,
    size: Size = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    task: Task = None,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    out: Annotated[Path | None, out_option("a new folder in it for the search", "runs")] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", min=1, help="Most trials. Default: 20.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Wall time of the whole search.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=0, help="Processes on this machine that train trials at the same time. Default: 1."
        ),
    ] = None,
    chief: Annotated[
        str | None,
        typer.Option("--chief", metavar="HOST:PORT", help="Listen here for workers on other machines as well."),
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option("--worker", metavar="HOST:PORT", help="Train trials for the chief that listens there."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="KERASIMG_TOKEN",
            help="What chief and workers must have in common. Default: the chief makes one and prints it.",
            show_default=False,
        ),
    ] = None,
    warm_start: Annotated[
        list[Path],
        typer.Option("--warm-start", metavar="SEARCH", help="An earlier search, whose best values are tried first."),
    ] = [],  # noqa: B006
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="SEARCH", help="Resume an interrupted search: its folder.")
    ] = None,
    space: Annotated[bool, typer.Option("--space", help="Print the search space and its size, and stop.")] = False,
    on_bad_image: Bad = OnBadImage.fail,
    cache: CacheOption = CacheKind.auto,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search the hyperparameters that a spec leaves open. The result is the best spec."""
    from kerasimg import catalog

    began = time.monotonic()
    silent = quiet or as_json
    named = {"epochs": epochs, "size": size, "batch_size": batch_size, "lr": lr, "trials": trials, "minutes": minutes}
    params, edits = assignments(assign, **named, task=_text(task))
    if resume is not None:
        if ref or params or edits or weights or out or worker or space or warm_start:
            raise CallError(
                "--resume continues with what the search was started with; it goes with --data, --workers, --chief and "
                "--cache"
            )
        with keras_loaded():
            from kerasimg.api import resume_search
        cached: Any = None if cache is CacheKind.auto else cache.value
        with waiting("searching", silent), _frozen(), minutes_from(began):
            search = resume_search(resume, data=data, workers=workers, chief=chief, token=token, cache=cached)
        _print_search(search, data, as_json)
        return
    if space and ref is not None and not catalog.is_data(ref):
        _print_space(load(ref, params, edits, partial=True), as_json)
        return
    ref, data = _spec_and_data(ref, data, "tune", "SEARCH")
    options: dict[str, Any] = {"data": data, "on_bad_image": on_bad_image.value, "cache": cache.value}
    if ref is None and worker is not None:
        raise CallError("--worker needs the SPEC that the chief searches")
    spec = ref if ref is not None else _first_spec(data, task, silent)
    loaded = load(spec, params, edits, partial=True)  # reports its errors before Keras is loaded
    if space:
        _print_space(loaded, as_json)
        return
    options |= {"overrides": edits, **params, **weights_argument(weights)}
    if worker is not None:
        if out is not None or workers is not None or chief is not None or warm_start:
            names = "--out, --workers, --chief and --warm-start"
            raise CallError(f"--worker trains the trials of a chief; {names} are for the chief")
        with keras_loaded():
            from kerasimg.tuning.worker import UsedUp, work
        try:
            with waiting("training trials", silent), _frozen():
                trained = work(spec, chief=worker, token=token, **options)
            echo(f"{counted(trained, 'trial')} trained here")
        except UsedUp:  # memory that TensorFlow does not give back: the same command continues in a new process
            os.execv(sys.executable, [sys.executable, "-m", "kerasimg", *sys.argv[1:]])
        return
    with keras_loaded():
        from kerasimg.api import tune
    options |= without_none(out=out, workers=workers, warm_start=warm_start or None)
    with waiting("searching", silent), _frozen(), minutes_from(began):
        search = tune(spec, chief=chief, token=token, **options)
    _print_search(search, data, as_json)


@commands.command()
def auto(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Wall time for everything. Default: 10.", show_default=False)
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option("--max-ms", help="Milliseconds for an image that the exported model may take.")
    ] = None,
    max_mb: Annotated[float | None, typer.Option("--max-mb", help="MB that the exported model may take.")] = None,
    device: Annotated[
        DeviceName | None,
        typer.Option("--device", help="What the model is exported for. Default: phone.", show_default=False),
    ] = None,
    task: Task = None,
    out: Annotated[Path | None, out_option("a new folder in it", "runs")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="AUTO", help="Resume an interrupted auto: its folder.")
    ] = None,
    on_bad_image: Bad = OnBadImage.fail,
    cache: CacheOption = CacheKind.auto,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find and export the best classifier in some minutes."""
    began = time.monotonic()
    silent = quiet or as_json
    given = without_none(minutes=minutes, max_ms=max_ms, max_mb=max_mb, out=out, task=_text(task))
    given |= {} if device is None else {"device": device.value}
    if resume is not None:
        if given:
            raise CallError("--resume continues with what it was started with; it goes with DATA only")
        with keras_loaded():
            from kerasimg.api import resume_auto
        with waiting("searching", silent), _frozen(), minutes_from(began):
            found = resume_auto(resume, data=data)
    elif data is None:
        raise CallError("auto needs images: kerasimg auto photos/ --minutes 10, or --resume AUTO")
    else:
        with keras_loaded():
            from kerasimg.api import auto as search
        with waiting("searching", silent), _frozen(), minutes_from(began):
            found = search(data, on_bad_image=on_bad_image.value, cache=cache.value, **given)
    from kerasimg.tuning.auto_specs import TARGET

    places = {"folder": str(found.folder), "run": str(found.run.folder), "spec": os.fspath(found)}
    result = {**found.result, **places}
    text = [str(found), f"saved in {found.folder}; report: {found.report}"]
    text += [f"export: {found.folder / row['folder']} ({row['precision']})" for row in result["exports"]]
    if not result["exports"]:
        text.append(f"nothing was exported: {result['notes'].get('export', 'there was no time')}")
    following = {"run": found.run.folder} if result["exports"] else {"unexported": found.run.folder}
    print_result("auto", result, text, as_json, (), target=TARGET[result["limits"]["device"]], **following)


@contextmanager
def _frozen() -> Iterator[None]:
    """Keep the garbage collector from going through all loaded modules in every trial."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _text(task: TaskName | None) -> str | None:
    return None if task is None else task.value


def _spec_and_data(ref: str | None, data: str | None, verb: str, resumed: str) -> tuple[str | None, str]:
    """The spec, if one is given, and the data. A first argument that is data is taken as that."""
    from kerasimg import catalog

    if data is not None:
        return ref, data
    if ref is None:
        raise CallError(
            f"{verb} needs images: kerasimg {verb} photos/, or {verb} SPEC --data photos/, or --resume {resumed}"
        )
    if not catalog.is_data(ref):
        catalog.locate(ref)  # a name that is neither is reported as that
        raise CallError(f"{verb} needs --data: kerasimg {verb} {ref} --data photos/")
    return None, ref


def _first_spec(data: str, task: TaskName | None, silent: bool) -> dict[str, Any]:
    """The spec that `init` would write for these images."""
    from kerasimg.data.starter_spec import starter_spec

    kind: Any = _text(task)
    with waiting("looking at the images", silent) as shown:
        return starter_spec(data, kind, shown.progress)


def _default_wish(task: str | None) -> Choices:
    from kerasimg.data.starter_spec import Choices

    return Choices(task=task)  # type: ignore[arg-type]


def _ask(seen: Summary, task: str) -> Choices:
    """The answers of a person; Enter takes what the program would choose."""
    from kerasimg.data.starter_spec import ABOUT, RESIZES, make_spec

    wish = _default_wish(task)
    for name, about in ABOUT.items():
        echo(f"  {name}: {about}")
    recipe = _choice("Which recipe?", ABOUT, make_spec("x", seen, wish)["extends"].removeprefix("recipes/"))
    chosen = make_spec("x", seen, wish._replace(recipe=recipe))
    size = typer.prompt("Height and width that the model sees, in px?", chosen["params"]["size"], type=int)
    if not 8 <= size <= 2048:
        raise CallError(f"size: expected 8 to 2048 px, got {size}")
    resize = _choice(f"Images of another shape: {', '.join(RESIZES)}?", RESIZES, chosen["image"]["resize"])
    mirror = typer.confirm("Does a mirrored image keep its class (letters and road signs do not)?", True)
    rare = typer.confirm("Do rare classes matter as much as frequent ones?", "fit" in chosen)
    return wish._replace(recipe=recipe, size_px=size, resize=resize, mirror=mirror, rare_matter=rare)


def _choice(question: str, among: Iterable[str], default: str) -> Any:
    answer = str(typer.prompt(question, default))
    if answer not in among:
        raise CallError(f"expected one of {', '.join(among)}, got '{answer}'")
    return answer


def _print_search(search: Search, data: str | None, as_json: bool) -> None:
    from kerasimg.tuning.journal import CALL

    page = search.folder / REPORT
    result = {
        "folder": str(search.folder),
        "score": search.score,
        "values": search.values,
        "trials": len(search.trials),
    }
    text = [str(search), f"saved in {search.folder}" + (f"; report: {page}" if page.is_file() else "")]
    call = read_object(search.folder / CALL)  # of the whole search, also where it is resumed
    weights = call["weights"]
    chosen = (
        {None: "none", "imagenet": "imagenet"}.get(weights) if not isinstance(weights, dict) else weights.get("file")
    )
    again = repeated(OnBadImage(call["on_bad_image"]), weights=chosen)
    print_result("tune", result, text, as_json, again, spec=os.fspath(search), data=data or call["data"] or "DATA")


def _print_space(spec: Spec, as_json: bool) -> None:
    from kerasimg.tuning.space import space_of

    space = space_of(spec)
    rows = []
    for dimension in space.dimensions:
        when = " and ".join(f"{name} is {option}" for name, option in dimension.within)
        rows.append(
            (dimension.name, f"{dimension} (default {json.dumps(dimension.default)}){'; when ' * bool(when)}{when}")
        )
    ranges = sum(dimension.count is None for dimension in space.dimensions)
    if not rows:
        size = "nothing to search: the spec has no search values"
    elif ranges:
        size = f"{counted(space.points, 'combination')}, and {counted(ranges, 'continuous range')}"
    else:
        size = counted(space.points, "combination")
    if as_json:
        print_json(space.describe())
        return
    for line in [*table(rows), size]:
        echo(line)
