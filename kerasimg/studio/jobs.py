"""Commands of kerasimg that run beside the studio: training, checks, exports.

Each is a process of its own (`command.py`), whose output goes to files: it survives if the studio is killed, and what
it writes (a run, an export) is what the command line writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerasimg.errors import CallError, DataError

LINES = 200
"""Lines of output that the page gets."""
TAIL_BYTES = 65_536
PATIENCE_S = 20
"""After Ctrl-C, a process that has not ended by then is stopped."""


@dataclass
class Job:
    """One command."""

    number: int
    kind: str
    arguments: tuple[str, ...]
    output: Path
    """Its standard output; beside it the messages, in `.log`, and the run that it trains, in `.run`."""
    process: subprocess.Popen[bytes] = field(repr=False)
    about: Path | None = None
    """The folder of the run that it was given."""
    started: float = field(default_factory=time.time)
    ended: float | None = None
    cancelled: float | None = None

    @property
    def run(self) -> Path | None:
        """The folder of the run that it is about; None if it trains one that does not exist yet."""
        if self.about is None:
            with contextlib.suppress(FileNotFoundError):
                self.about = Path(self.output.with_suffix(".run").read_text(encoding="utf-8"))
        return self.about

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        code = self.process.poll()
        if code is not None and self.ended is None:
            self.ended = time.time()
        return code

    def lines(self) -> list[str]:
        """The last lines of its messages and its output."""
        texts = [_tail(path) for path in (self.output.with_suffix(".log"), self.output)]
        if "--json" in self.arguments:
            texts = texts[:1]
        return [line for text in texts for line in text.splitlines() if line.strip()][-LINES:]

    def result(self) -> Any:
        """What the command printed as JSON.

        Raises:
            CallError: if it failed, with its message.
        """
        code = self.code
        if code in (0, DataError.exit_code):  # `data check` ends with 3 where something must be fixed
            with contextlib.suppress(ValueError):
                return json.loads(self.output.read_text(encoding="utf-8"))
        raise CallError(self.failure() or "the command has not ended")

    def failure(self) -> str | None:
        """Why it failed, as it printed; None if it did not."""
        code = self.code
        if code in (0, None):
            return None
        lines = [line for line in _tail(self.output.with_suffix(".log")).splitlines() if line.strip()]
        begin = next((place for place, line in enumerate(lines) if line.startswith("error")), len(lines) - 1)
        return "\n".join(lines[max(0, begin) :]) or f"ended with code {code}"

    def to_dict(self) -> dict[str, Any]:
        """The state for the page."""
        code = self.code
        state = "running" if code is None else "done" if code == 0 else "cancelled" if self.cancelled else "failed"
        end = self.ended or time.time()
        return {
            "number": self.number,
            "kind": self.kind,
            "command": "kerasimg " + " ".join(self.arguments),
            "state": state,
            "seconds": end - self.started,
            "run": self.run.name if self.run else None,
            "lines": self.lines()[-12:],
            "failure": self.failure() if state == "failed" else None,
        }


class Jobs(AbstractContextManager["Jobs"]):
    """The commands of this studio; one of a kind at a time.

    Args:
        folder: where their output is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._jobs: list[Job] = []

    def __exit__(self, *_: object) -> None:
        running = [job for job in self._jobs if job.code is None]
        for job in running:
            self._interrupt(job)
        for job in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(PATIENCE_S)
            if job.code is None:
                job.process.kill()

    def start(self, kind: str, arguments: Sequence[str], run: Path | None = None) -> Job:
        """Start a command.

        Args:
            kind: what it does, for the page.
            arguments: those of `kerasimg`.
            run: the folder of the run that it is about.

        Raises:
            CallError: if one of that kind is running.
        """
        if any(job.kind == kind and job.code is None for job in self._jobs):
            raise CallError(f"{kind}: is running already; wait until it ends, or cancel it")
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(self._jobs) + 1
        output = self.folder / f"{os.getpid()}-{number}.out"
        with output.open("wb") as stdout, output.with_suffix(".log").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "kerasimg.studio.command", str(output.with_suffix(".run")), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C for the studio is passed on by `__exit__`, with time to end
            )
        job = Job(number, kind, tuple(arguments), output, process, run)
        self._jobs.append(job)
        return job

    def all(self) -> list[Job]:
        """The commands, the last first."""
        return self._jobs[::-1]

    def last(self, kind: str, done: Callable[[Job], bool] = lambda job: True) -> Job | None:
        """The last command of a kind for which `done` holds."""
        return next((job for job in self.all() if job.kind == kind and done(job)), None)

    def get(self, number: int) -> Job:
        """A command by its number; IndexError if there is none."""
        if not 1 <= number <= len(self._jobs):
            raise IndexError(number)
        return self._jobs[number - 1]

    def cancel(self, number: int) -> None:
        """Interrupt a command as Ctrl-C does; a training saves its state and can be resumed."""
        job = self.get(number)
        if job.code is None:
            self._interrupt(job)

    def _interrupt(self, job: Job) -> None:
        if job.cancelled and time.time() - job.cancelled > PATIENCE_S:
            job.process.kill()
            return
        job.cancelled = job.cancelled or time.time()
        job.process.send_signal(signal.SIGINT)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # A progress bar goes back to the beginning of its line; its last state is what counts.
    return "\n".join(line.rsplit("\r", 1)[-1].replace("\x08", "") for line in text.replace("\r\n", "\n").split("\n"))
