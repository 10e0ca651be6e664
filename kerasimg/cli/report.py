"""Commands that show people what a run is worth: explain, report, history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from kerasimg.cli.options import Json, RunRef, keras_loaded
from kerasimg.cli.waiting import waiting
from kerasimg.errors import CallError, KerasimgError
from kerasimg.files import to_json
from kerasimg.run_folder import RunFolder

commands = typer.Typer()


@commands.command()
def explain(
    run: RunRef,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures, or folders of them.")],
    method: Annotated[
        str, typer.Option(help="grad_cam, grad_cam_pp, hires_cam, integrated_gradients, smooth_grad or occlusion.")
    ] = "grad_cam",
    target: Annotated[str | None, typer.Option(metavar="CLASS", help="Left out: the predicted one.")] = None,
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="Of a CAM. Left out: the last one.")] = None,
    option: Annotated[
        list[str], typer.Option("--option", metavar="NAME=N", help="Of the method: steps=64, window=24. Repeatable.")
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the maps are written.")] = Path("explained"),
    as_json: Json = False,
) -> None:
    """Draw where in pictures a class is seen. As heat maps over them."""
    options = dict(map(_option, option))
    if layer is not None:
        options["layer"] = layer
    with keras_loaded():
        from kerasimg.evaluation.explain import explain as ask
        from kerasimg.evaluation.explain import save
    with waiting("drawing maps", as_json):
        explained = ask(run, files, method, target, **options)
        written = save(explained, out)
    if as_json:
        rows = [
            {"file": one.file, "target": one.target, "probability": one.probability, "peak": list(one.peak())}
            | {"overlay": str(path), "seen": str(seen)}
            for one, path, seen in zip(explained, written[::2], written[1::2], strict=True)
        ]
        typer.echo(to_json(rows))
        return
    for one, path in zip(explained, written[::2], strict=True):
        typer.echo(f"{one.file}: {one.target} {one.probability:.3f} -> {path}")


@commands.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Left out: report.html in the run's folder.")] = None,
) -> None:
    """Write a run's report.html and MODEL_CARD.md. From what the run kept."""
    with keras_loaded():
        from kerasimg.evaluation.report import report as write
    with waiting("writing the report"):
        path = write(run, out=out)
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.2f} MB), MODEL_CARD.md beside it")


@commands.command()
def history(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder; its training may still go on.")],
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the curves there, for TensorBoard.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the stages of a training, each with its best epoch. Or write its curves for TensorBoard."""
    from kerasimg.evaluation.report_epochs import print_stages, read_goals, stage_summaries

    rows, goals = RunFolder(run).history(), read_goals(run)
    if not rows:
        raise CallError(f"'{run}' holds no history.csv with an epoch in it; name the folder of a run")
    if tensorboard is not None:
        if tensorboard.exists() and not tensorboard.is_dir():
            raise CallError(f"--tensorboard: expected a folder, and '{tensorboard}' is none")
        with keras_loaded():
            from kerasimg.callbacks.curves_to_tensorboard import write_curves
        try:
            write_curves(RunFolder(run).history_file, tensorboard)
        except Exception as error:
            if not type(error).__module__.startswith("tensorflow"):
                raise
            raise KerasimgError(f"--tensorboard: '{tensorboard}' cannot be written: {error}") from None
    if as_json:
        summaries: list[dict[str, Any]] = [one._asdict() for one in stage_summaries(rows, goals)]
        typer.echo(to_json(summaries))
        return
    print_stages(rows, goals)


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        raise CallError(f"--option: expected NAME=NUMBER, got '{text}'") from None
