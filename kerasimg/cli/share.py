"""Commands that pass a classifier on: pack, unpack, push, pull."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from kerasimg.cli.options import Json, RunRef, keras_loaded
from kerasimg.cli.waiting import waiting

commands = typer.Typer()

QUIET_CLIENT = ("HF_HUB_VERBOSITY", "error")
"""The Hub's client need not tell of each try: what comes of the last is told."""


@commands.command()
def pack(
    run: RunRef,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Left out: NAME.kerasimg in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Make one file of a run, to send. Spec, classes, weights, card; it cannot run code."""
    with keras_loaded():
        from kerasimg.deploy import sharing
    with waiting("packing", as_json):
        path = sharing.pack(run, out)
    _tell(path, path.stat().st_size, as_json)


@commands.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .kerasimg file.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Left out: the file's name without ending.")] = None,
    as_json: Json = False,
) -> None:
    """Make a run's folder of a .kerasimg file. Spec, classes, model.keras, card."""
    with keras_loaded():
        from kerasimg.deploy import sharing
    with waiting("unpacking", as_json):
        folder = sharing.unpack(file, out).folder
    _tell(folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), as_json)


Repo = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Of a model on the Hugging Face Hub.")]


@commands.command()
def push(
    run: RunRef,
    repo: Repo,
    private: Annotated[bool, typer.Option("--private", help="Only you see it, when it is made now.")] = False,
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the commit.")] = None,
    as_json: Json = False,
) -> None:
    """Put a run or a pack on the Hugging Face Hub. As a pack with its model card."""
    os.environ.setdefault(*QUIET_CLIENT)
    from kerasimg.deploy import hub
    from kerasimg.spec.pack import is_pack

    if not is_pack(run):
        with keras_loaded():  # before the hub's module asks for it, and with its chatter
            pass
    with waiting("sending", as_json):
        address = hub.push(run, repo, private=private, message=message)
    typer.echo(json.dumps({"repo": repo, "url": address}) if as_json else address)


@commands.command()
def pull(
    repo: Repo,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Left out: NAME.kerasimg in this folder.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit. Left out: main.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a classifier from the Hugging Face Hub. As a .kerasimg file, which cannot run code."""
    os.environ.setdefault(*QUIET_CLIENT)
    from kerasimg.deploy import hub

    with waiting("fetching", as_json):
        path = hub.pull(repo, out, revision=revision)
    _tell(path, path.stat().st_size, as_json)


def _tell(path: Path, size: int, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"path": str(path), "bytes": size}, ensure_ascii=False))
    else:
        typer.echo(f"{path} ({size / 1e6:.2f} MB)")
