"""Run a model on TensorFlow Lite Micro in a separate process, because failing kernels end the process."""

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

ARENA_FACTOR = 64
"""Default arena: this factor times the model's size, plus one megabyte."""

SECONDS = 60
"""Timeout for the end of the process."""


class Simulator(AbstractContextManager["Simulator"]):
    """A .tflite file on the reference kernels of tflite-micro.

    Args:
        content: the .tflite file.
        arena_bytes: working memory. None: more than enough.

    Raises:
        CallError: if tflite-micro is not installed, or has no kernel for an operation.
        KerasimgError: if the arena is too small.
    """

    def __init__(self, content: bytes, arena_bytes: int | None = None) -> None:
        if find_spec("tflite_micro") is None:
            raise CallError('tflite-micro is not installed: pip install "kerasimg[embedded]" (Linux only)')
        self.name = f"tflite-micro {version('tflite-micro')}"
        self._folder = tempfile.TemporaryDirectory()
        model = Path(self._folder.name) / "model.tflite"
        model.write_bytes(content)
        self._stderr: IO[bytes] = (Path(self._folder.name) / "stderr").open("w+b")
        arena = arena_bytes or ARENA_FACTOR * len(content) + (1 << 20)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kerasimg.deploy.embedded.micro_process", str(model), str(arena)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        try:
            header = json.loads(self._out.readline() or b"null")
            if header is None:
                self._fail(arena)
            self.shape: tuple[int, ...] = tuple(header["input"])
            self.outputs: int = header["outputs"]
        except BaseException:
            self.close()
            raise

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the outputs (K,) float32 for the pixels of one image minus 128, (H, W, C) int8."""
        values = np.ascontiguousarray(pixels, dtype=np.int8)
        if values.shape != self.shape[1:]:
            raise CallError(f"expected pixels {self.shape[1:]}, got {values.shape}")
        if self._process.stdin is None or self._process.stdin.closed:
            raise CallError("the simulator is closed")
        try:
            self._process.stdin.write(values.tobytes())
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail(None)
        answer = self._out.read(4 * self.outputs)
        if len(answer) < 4 * self.outputs:
            self._fail(None)
        return np.frombuffer(answer, dtype=np.float32)

    def arena_bytes(self) -> int:
        """Ends the simulation and returns the bytes of the arena that were used."""
        output = self._end()
        match = re.search(r"Arena allocation total (\d+) bytes", output)
        if match is None:
            raise KerasimgError(f"{self.name} did not report its arena usage:\n{output[-1000:]}")
        return int(match[1])

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
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
        """Waits for the end of the process and returns its stderr."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait(SECONDS)
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _fail(self, arena: int | None) -> None:
        output = self._end()
        missing = re.search(r"Didn't find op for builtin opcode '(\w+)'", output)
        if missing:
            raise CallError(f"TensorFlow Lite Micro has no kernel for {missing[1]}, which this model uses")
        # In a very small arena the interpreter crashes before it reports the problem.
        crashed = self._process.returncode < 0
        if arena is not None and (crashed or re.search(r"Failed to (resize buffer|allocate)|missing: \d+", output)):
            raise KerasimgError(f"an arena of {arena:,} bytes is too small for the model")
        lines = [line for line in output.splitlines() if line.strip() and not line.startswith(("Traceback", "  "))]
        raise KerasimgError(f"{self.name} cannot run the model:\n" + "\n".join(lines[-8:]))
