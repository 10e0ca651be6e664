"""The command line: one function per command, thin over the verbs of the package.

Nothing here imports Keras before a command needs it: `check`, `zoo`, `schema` and `--help` answer at once.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from kerasimg.cli import cache, data, deploy, diff, init, judge, lr_find, report, runs, serve, share, specs, tune
from kerasimg.errors import KerasimgError

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    name="kerasimg",
    help="Image classification with Keras from one JSON file.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (init, specs, diff, data, runs, judge, cache, report, lr_find, deploy, serve, share, tune):
    app.add_typer(module.commands)


def main() -> NoReturn:
    """Run the command line; a user's mistake is told in a few lines, with its exit code, never as a traceback."""
    try:
        code = app(standalone_mode=False)  # of a typer.Exit, or of Ctrl-C
    except KerasimgError as error:
        _stop(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; nothing more to tell
        sys.exit(1)
    except (OSError, typer.Abort) as error:
        _stop(str(error) or "aborted", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # of click, which typer brings along or vendors
            raise
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)
    if code == INTERRUPTED:
        _stop("interrupted", INTERRUPTED)
    sys.exit(code or 0)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}" if message else "error", err=True)
    sys.exit(code)
