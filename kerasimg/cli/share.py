"""Commands that make one file of a classifier, and back: pack, unpack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kerasimg.cli.options import Json, RunRef, keras_loaded

commands = typer.Typer()


@commands.command()
def pack(
    run: RunRef,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Left out: NAME.kerasimg in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Make one file of a run, to send: spec, classes, weights, card. It cannot run code."""
    with keras_loaded():
        from kerasimg.deploy import sharing
    path = sharing.pack(run, out)
    _tell(path, path.stat().st_size, as_json)


@commands.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .kerasimg file.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Left out: the file's name without ending.")] = None,
    as_json: Json = False,
) -> None:
    """Make a run's folder of such a file: spec, classes, model.keras, card."""
    with keras_loaded():
        from kerasimg.deploy import sharing
    folder = sharing.unpack(file, out).folder
    _tell(folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), as_json)


def _tell(path: Path, size: int, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"path": str(path), "bytes": size}, ensure_ascii=False))
    else:
        typer.echo(f"{path} ({size / 1e6:.2f} MB)")
