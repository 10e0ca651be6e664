"""The command line: twelve verbs at the top and groups of further commands, each thin over a function of the package.

Nothing here imports Keras before a command needs it: `check`, `zoo`, `spec show` and `--help` answer at once.

Exit codes: 0 done; 1 the run failed; 2 the call or the spec is wrong; 3 the data is wrong; 4 a gate (quality, parity)
failed; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from kerasimg.cli import cache, data, deploy, run, spec, train, use, zoo
from kerasimg.cli.groups import Group
from kerasimg.errors import CallError, KerasimgError, listed, printable

TRACEBACK = "KERASIMG_TRACEBACK"
"""The environment variable that asks for the whole traceback of an unexpected error."""
MAX_MESSAGE = 1000
"""Characters of another library's message that are printed."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    name="kerasimg",
    cls=Group,
    epilog="To begin: kerasimg train photos/, or kerasimg train simple_cnn --data sample",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich takes a third of the time of `kerasimg --help`; `Group` prints the panels
)
for panel, verbs in (("Train", train), ("Use", use), ("Deploy", deploy)):
    for verb in verbs.commands.registered_commands:
        verb.rich_help_panel = panel
    app.add_typer(verbs.commands)
for group in (spec, run, data, zoo, cache):
    name = group.__name__.rpartition(".")[2]
    app.add_typer(group.commands, name=name, cls=Group, rich_help_panel="Command groups")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"kerasimg {version('kerasimg')}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Image classification with Keras from one JSON file."""


def main() -> NoReturn:
    """Runs the command line. An error is printed in a few lines, with its exit code, never as a traceback."""
    _require_streams()
    try:
        code = app(standalone_mode=False)  # of a typer.Exit, or of Ctrl-C
        if sys.stdout is not None:
            sys.stdout.flush()
    except KerasimgError as error:
        _stop(str(error), error.exit_code)
    except BrokenPipeError:
        _drop_output()  # the reader is gone
        sys.exit(1)
    except OSError as error:
        with contextlib.suppress(OSError):
            typer.echo(f"error: {printable(_of_system(error))}", err=True)
        _drop_output()
        sys.exit(1)
    except typer.Abort as error:  # of a question
        if isinstance(error.__context__, KeyboardInterrupt):
            _stop("interrupted", INTERRUPTED)
        _stop("the standard input ended before every question was answered", CallError.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # of click, which typer brings along or vendors
            error.show()  # type: ignore[attr-defined]
            if hint := _hint(error):
                typer.echo(hint, err=True)
            sys.exit(2)
        if os.environ.get(TRACEBACK):
            raise
        _stop(_unexpected(error), 1)
    if code == INTERRUPTED:
        _stop("interrupted", INTERRUPTED)
    sys.exit(code or 0)


def _hint(error: Any) -> str:
    """What was probably meant by an option that a command does not have, or by one argument more than it takes."""
    context = getattr(error, "ctx", None)
    if context is None:
        return ""
    if (option := getattr(error, "option_name", None)) is not None and not getattr(error, "possibilities", None):
        owners = [name for name, command in _commands(context.find_root().command) if option in _options(command)]
        return f"{option} is an option of: {listed(owners, 5)}" if owners else ""
    if "extra argument" not in error.format_message():
        return ""
    ways = {"--data": "images are given by --data DIR", "--to": "the target is given by --to litert"}
    return "; ".join(text for name, text in ways.items() if name in _options(context.command))


def _commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} ")
        else:
            yield f"{above}{name}", command


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


def _require_streams() -> None:
    """Opens a stream that was closed from outside on the null device: libraries expect that it exists."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))


def _drop_output() -> None:
    """Drops what could not be written, or Python would try it again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_system(error: OSError) -> str:
    """The system's message about a file, with the file's name first."""
    if error.errno in NO_ROOM:
        named = f" to write '{os.fsdecode(error.filename)}'" if error.filename is not None else ""
        return f"no room is left on the disk{named}: make some, or write elsewhere (--out)"
    if error.filename is None or error.strerror is None:
        return str(error) or type(error).__name__
    return f"'{os.fsdecode(error.filename)}': {error.strerror[:1].lower()}{error.strerror[1:]}"


def _unexpected(error: Exception) -> str:
    """An error that kerasimg does not know: where it came from, and how to see all of it."""
    if isinstance(error, MemoryError):
        return f"out of memory{': ' * bool(str(error))}{error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "kerasimg" in Path(frame.filename).parts]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    lines = [f"unexpected error{where}: {type(error).__name__}: {str(error)[:MAX_MESSAGE]}"]
    lines += getattr(error, "__notes__", [])
    hint = f"{TRACEBACK}=1 shows the whole traceback; please report it if the spec, the data and the call are right"
    return "\n".join([*lines, hint])


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {printable(message)}" if message else "error", err=True)
    sys.exit(code)
