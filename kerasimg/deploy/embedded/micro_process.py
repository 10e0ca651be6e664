"""`python -m kerasimg.deploy.embedded.micro_process MODEL ARENA_BYTES`: run a model on images from stdin.

Prints one line of JSON with the input shape and the number of outputs. Then, for the int8 values of each image on
stdin, writes the float32 outputs to stdout. At the end, prints the arena usage to stderr.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def main(model: str, arena_bytes: str) -> None:
    """Runs the model until the end of stdin."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(Path(model).read_bytes(), arena_size=int(arena_bytes))
    shape = [int(size) for size in interpreter.get_input_details(0)["shape"]]
    outputs = int(np.prod(interpreter.get_output_details(0)["shape"]))
    out = sys.stdout.buffer
    out.write(json.dumps({"input": shape, "outputs": outputs}).encode() + b"\n")
    out.flush()
    size = int(np.prod(shape))
    while len(content := sys.stdin.buffer.read(size)) == size:
        interpreter.set_input(np.frombuffer(content, dtype=np.int8).reshape(shape), 0)
        interpreter.invoke()
        out.write(np.ascontiguousarray(interpreter.get_output(0), dtype=np.float32).tobytes())
        out.flush()
    interpreter.print_allocations()


if __name__ == "__main__":
    main(*sys.argv[1:])
