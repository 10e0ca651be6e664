"""`kerasimg serve`: an exported model over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kerasimg.errors import CallError

commands = typer.Typer()


@commands.command()
def serve(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_BUNDLE", help="A run's folder, a bundle's as `export` writes it, or a pack."),
    ],
    host: Annotated[str, typer.Option(help="Listen at this address; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8000,
    workers: Annotated[int, typer.Option(help="Processes, each with the model of its own.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Of each process. Left out: cores / workers.")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Path or precision of a model in the bundle. Left out: the first."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in requests. Left out: the bundle's.")] = None,
    top: Annotated[int, typer.Option(help="Classes that an answer lists.")] = 5,
    max_mb: Annotated[float, typer.Option(help="MiB of a request.")] = 16.0,
    max_megapixels: Annotated[float, typer.Option(help="Million pixels of a picture.")] = 50.0,
    max_pictures: Annotated[int, typer.Option(help="Pictures of a request.")] = 32,
    timeout: Annotated[float, typer.Option(metavar="S", help="Seconds for a request.")] = 30.0,
    max_batch: Annotated[int, typer.Option(help="Pictures that the model is asked for at once.")] = 8,
    max_wait_ms: Annotated[float, typer.Option(help="That a picture waits for others which are being decoded.")] = 2.0,
    queue: Annotated[int, typer.Option(help="Pictures in work; more are refused with 429.")] = 128,
    connections: Annotated[int, typer.Option(help="That are open at a time.")] = 1000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Requests must bring the key in this file, or in $KERASIMG_API_KEY."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Whether a request may ask for a map.")
    ] = True,
    log: Annotated[bool, typer.Option("--log/--no-log", help="A line of JSON for each request.")] = True,
) -> None:
    """Answer over HTTP what is on pictures. From an exported model, without TensorFlow."""
    from kerasimg.deploy.serve.server import serve as run
    from kerasimg.deploy.serve.settings import MEBIBYTE

    run(
        source,
        api_key=None if api_key_file is None else _key(api_key_file),
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        model=model,
        name=name,
        top=top,
        max_bytes=int(max_mb * MEBIBYTE),
        max_pixels=int(max_megapixels * 1e6),
        max_pictures=max_pictures,
        timeout_s=timeout,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        queue=queue,
        connections=connections,
        explain=explain,
        log=log,
    )


def _key(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise CallError(f"--api-key-file: '{file}' cannot be read: {getattr(error, 'strerror', error)}") from None
