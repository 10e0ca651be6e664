"""The command line: one function per command, thin over the verbs of the package.

Nothing here imports Keras before a command needs it: `check`, `zoo`, `schema` and `--help` answer at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kerasimg.cli import cache, data, deploy, diff, init, judge, lr_find, report, runs, serve, share, specs, tune
from kerasimg.errors import KerasimgError, printable

TRACEBACK = "KERASIMG_TRACEBACK"
"""The environment variable that asks for the whole of an unforeseen error."""
LONGEST_MESSAGE = 1000
"""Characters of an error of another library that are told."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    name="kerasimg",
    epilog="To begin: kerasimg init photos/ or kerasimg train simple_cnn --data sample",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (init, specs, diff, data, runs, judge, cache, report, lr_find, deploy, serve, share, tune):
    app.add_typer(module.commands)


def _version(asked: bool) -> None:
    if asked:
        import kerasimg

        typer.echo(f"kerasimg {kerasimg.__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Image classification with Keras from one JSON file."""


def main() -> NoReturn:
    """Run the command line; a user's mistake is told in a few lines, with its exit code, never as a traceback."""
    _require_streams()
    try:
        code = app(standalone_mode=False)  # of a typer.Exit, or of Ctrl-C
        if sys.stdout is not None:
            sys.stdout.flush()
    except KerasimgError as error:
        _stop(str(error), error.exit_code)
    except BrokenPipeError:
        _drop_output()  # the reader has gone; nothing more to tell
        sys.exit(1)
    except OSError as error:
        with contextlib.suppress(OSError):
            typer.echo(f"error: {printable(_of_system(error))}", err=True)
        _drop_output()
        sys.exit(1)
    except typer.Abort:
        _stop("aborted", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # of click, which typer brings along or vendors
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        if os.environ.get(TRACEBACK):
            raise
        _stop(_unforeseen(error), 1)
    if code == INTERRUPTED:
        _stop("interrupted", INTERRUPTED)
    sys.exit(code or 0)


def _require_streams() -> None:
    """Where a stream was closed from outside, what is written to it goes nowhere: libraries expect that it is there."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))


def _drop_output() -> None:
    """What could not be written is given up, or Python would try it again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_system(error: OSError) -> str:
    """What the system says of a file, with the file's name first."""
    if error.errno in NO_ROOM:
        named = f" to write '{os.fsdecode(error.filename)}'" if error.filename is not None else ""
        return f"no room is left on the disk{named}: make some, or write elsewhere (--out)"
    if error.filename is None or error.strerror is None:
        return str(error) or type(error).__name__
    return f"'{os.fsdecode(error.filename)}': {error.strerror[:1].lower()}{error.strerror[1:]}"


def _unforeseen(error: Exception) -> str:
    """What is told of an error that nobody thought of: where it came from, and how to see all of it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "kerasimg" in Path(frame.filename).parts]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    lines = [f"unforeseen{where}: {type(error).__name__}: {str(error)[:LONGEST_MESSAGE]}"]
    lines += getattr(error, "__notes__", [])
    return "\n".join([*lines, f"this is a fault of kerasimg; for a report, {TRACEBACK}=1 shows all of it"])


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {printable(message)}" if message else "error", err=True)
    sys.exit(code)
