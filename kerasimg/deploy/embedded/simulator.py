"""A model on the microcontroller's interpreter, in a process of its own: where its kernels fail, it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np

from kerasimg.errors import CallError, KerasimgError

ROOMY = 64
"""The arena where none is given: so many times the model's size, and a megabyte."""

SECONDS = 60
"""That the process may take to end."""


class Simulator(AbstractContextManager["Simulator"]):
    """A .tflite file on tflite-micro's reference kernels.

    CallError where tflite-micro is not installed, or has no kernel for what the model computes; KerasimgError where the
    arena is too small.
    """

    def __init__(self, content: bytes, arena_bytes: int | None = None) -> None:
        if find_spec("tflite_micro") is None:
            raise CallError('tflite-micro is not installed: pip install "kerasimg[embedded]" (Linux only)')
        self.name = f"tflite-micro {version('tflite-micro')}"
        self._folder = tempfile.TemporaryDirectory()
        model = Path(self._folder.name) / "model.tflite"
        model.write_bytes(content)
        self._said: IO[bytes] = (Path(self._folder.name) / "said").open("w+b")
        arena = arena_bytes or ROOMY * len(content) + (1 << 20)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kerasimg.deploy.embedded.micro_process", str(model), str(arena)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        try:
            told = json.loads(self._out.readline() or b"null")
            if told is None:
                self._fail(arena)
            self.shape: tuple[int, ...] = tuple(told["input"])
            self.outputs: int = told["outputs"]
        except BaseException:
            self.close()
            raise

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Outputs (K,) float32 of one image's pixels less 128: (H, W, C) int8."""
        given = np.ascontiguousarray(pixels, dtype=np.int8)
        if given.shape != self.shape[1:]:
            raise CallError(f"expected pixels {self.shape[1:]}, got {given.shape}")
        if self._process.stdin is None or self._process.stdin.closed:
            raise CallError("the simulator is closed")
        try:
            self._process.stdin.write(given.tobytes())
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail(None)
        answer = self._out.read(4 * self.outputs)
        if len(answer) < 4 * self.outputs:
            self._fail(None)
        return np.frombuffer(answer, dtype=np.float32)

    def arena_bytes(self) -> int:
        """What of the arena was used, in bytes; it ends the simulation."""
        said = self._end()
        found = re.search(r"Arena allocation total (\d+) bytes", said)
        if found is None:
            raise KerasimgError(f"{self.name} does not tell its arena:\n{said[-1000:]}")
        return int(found[1])

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                stream.close()
        self._folder.cleanup()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _out(self) -> IO[bytes]:
        if self._process.stdout is None:  # it was opened as a pipe
            raise KerasimgError("the simulator has no output")
        return self._process.stdout

    def _end(self) -> str:
        """Let the process end, and return what it said."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait(SECONDS)
        self._said.seek(0)
        return self._said.read().decode(errors="replace")

    def _fail(self, arena: int | None) -> None:
        said = self._end()
        missing = re.search(r"Didn't find op for builtin opcode '(\w+)'", said)
        if missing:
            raise CallError(f"TensorFlow Lite Micro has no kernel for {missing[1]}, which this model computes with")
        # In a very small arena the interpreter does not even get as far as to say so, and a signal ends it.
        crashed = self._process.returncode < 0
        if arena is not None and (crashed or re.search(r"Failed to (resize buffer|allocate)|missing: \d+", said)):
            raise KerasimgError(f"an arena of {arena:,} bytes is too small for the model")
        lines = [line for line in said.splitlines() if line.strip() and not line.startswith(("Traceback", "  "))]
        raise KerasimgError(f"{self.name} cannot run the model:\n" + "\n".join(lines[-8:]))
