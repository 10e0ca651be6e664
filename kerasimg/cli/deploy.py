"""Commands that take a classifier to where it runs: export, verify, measure."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kerasimg.cli.options import Json, RunRef, keras_loaded
from kerasimg.cli.waiting import waiting
from kerasimg.files import to_json

commands = typer.Typer()


class TargetName(StrEnum):
    """What a run can be exported for."""

    savedmodel = "savedmodel"
    litert = "litert"
    onnx = "onnx"
    openvino = "openvino"
    keras = "keras"
    web = "web"
    embedded = "embedded"


class PrecisionName(StrEnum):
    """Of the numbers in an exported model."""

    float32 = "float32"
    float16 = "float16"
    dynamic = "dynamic"
    int8 = "int8"


class InputName(StrEnum):
    """What an int8 model takes."""

    uint8 = "uint8"
    int8 = "int8"


Precisions = Annotated[
    list[PrecisionName],
    typer.Option(
        "--precision", help="dynamic: int8 weights; int8: all of it. Repeatable. Left out: float32 as a rule."
    ),
]
Batch = Annotated[int | None, typer.Option(min=1, help="Pictures that a model takes at a time. Left out: any number.")]
Pictures = Annotated[str | None, typer.Option("--data", metavar="DIR", help="Other pictures than the run's.")]
Tolerance = Annotated[
    float | None, typer.Option(min=0, max=1, help="Greatest difference of a probability. Left out: by precision.")
]
Same = Annotated[
    float | None, typer.Option(min=0, max=1, help="Share of pictures to be decided alike. Left out: by precision.")
]
Drop = Annotated[
    float | None, typer.Option(min=0, max=1, help="How much less accurate it may be. Left out: by precision.")
]


@commands.command()
def export(
    run: RunRef,
    to: Annotated[list[TargetName], typer.Option("--to", help="Repeatable.")] = [TargetName.litert],  # noqa: B006
    precision: Precisions = [],  # noqa: B006
    batch: Batch = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Each target gets its own folder in it: RUN/export.")
    ] = None,
    data: Pictures = None,
    tolerance: Tolerance = None,
    same: Same = None,
    accuracy_drop: Drop = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="How many to compare on. Left out: all.")] = None,
    input_dtype: Annotated[InputName, typer.Option(help="What an int8 model takes.")] = InputName.uint8,
    allow_flex: Annotated[
        bool, typer.Option("--allow-flex", help="Let a .tflite hold operations that only TensorFlow has.")
    ] = False,
    flash_bytes: Annotated[int | None, typer.Option(min=1, help="Embedded: what it may take of flash.")] = None,
    arena_bytes: Annotated[int | None, typer.Option(min=1, help="Embedded: what it may take of memory.")] = None,
    as_json: Json = False,
) -> None:
    """Write a trained classifier for where it runs. It is compared with the trained one on its own runtime."""
    with keras_loaded():
        from kerasimg.deploy.export import export as write
    with waiting("exporting", as_json) as shown:
        bundles = write(
            run,
            [one.value for one in to],
            precision=[one.value for one in precision] or None,
            batch=batch,
            out=out,
            data=data,
            tolerance=tolerance,
            same=same,
            accuracy_drop=accuracy_drop,
            pictures=pictures,
            input_dtype=input_dtype.value,
            allow_flex=allow_flex,
            flash_bytes=flash_bytes,
            arena_bytes=arena_bytes,
            say=shown.say,
        )
    if as_json:
        _print_json([{"bundle": str(one.folder), **one.manifest.model_dump(mode="json")} for one in bundles])
        return
    for one in bundles:
        page = one.folder / "demo.html"
        typer.echo(f"kept in {one.folder}" + (f"; to look at: {page}" if page.is_file() else ""))


@commands.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder of an export.")],
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="Labelled pictures to try it on besides its own.")
    ] = None,
    expected: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The trained model's predictions.csv on them.")
    ] = None,
    tolerance: Tolerance = None,
    same: Same = None,
    accuracy_drop: Drop = None,
    as_json: Json = False,
) -> None:
    """Check an exported bundle on this machine. Its files, and its answers on its test pictures, without TensorFlow."""
    from kerasimg.deploy.verify import verify as check

    asks = {"tolerance": tolerance, "same": same, "accuracy_drop": accuracy_drop}
    with waiting("asking the models", as_json) as shown:
        found = check(bundle, data=data, expected=expected, **asks, say=shown.say)
    if as_json:
        rows = {"vectors": found.vectors, "data": found.data}
        told = {name: [row.model_dump(mode="json") for row in some] for name, some in rows.items()}
        _print_json({"bundle": str(bundle), "pixels": found.pixels, **told, "accuracy": found.accuracy})
        return
    typer.echo(f"{bundle}: {len(found.bundle.manifest.files)} files as exported; every model answers as it should")


@commands.command()
def measure(
    run: RunRef,
    to: Annotated[list[TargetName], typer.Option("--to", help="Repeatable. Left out: what is installed.")] = [],  # noqa: B006
    precision: Precisions = [],  # noqa: B006
    batch: Batch = None,
    data: Pictures = None,
    as_json: Json = False,
) -> None:
    """Say what a classifier costs. Parameters, multiplications, size, and time on this machine by each runtime."""
    with keras_loaded():
        from kerasimg.deploy.measure import as_text
        from kerasimg.deploy.measure import measure as find
    targets = [one.value for one in to] or None
    precisions: Any = [one.value for one in precision] or None
    with waiting("exporting and measuring", as_json):
        found = find(run, targets, precision=precisions, batch=batch, data=data)
    if as_json:
        _print_json(found)
    else:
        typer.echo(as_text(found))


def _print_json(told: Any) -> None:
    typer.echo(to_json(told))
