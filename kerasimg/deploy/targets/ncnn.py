"""NCNN: a .param and a .bin file for phones and boards, written by pnnx from our ONNX file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasimg.data.parallel import cores
from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.runtimes import Runtime, readable
from kerasimg.deploy.targets import Images, Target
from kerasimg.deploy.targets.onnx import Onnx
from kerasimg.errors import needs

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Options

SECONDS = 600
"""Timeout for the converter."""


class NcnnRuntime(Runtime):
    """A .param and a .bin file in NCNN, on the CPU, one image after the other."""

    kind, package, in_batches = "ncnn", "ncnn", False

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        with needs("ncnn", "ncnn"):
            import ncnn
        self.name = f"ncnn {version('ncnn')}"
        self._matrix = ncnn.Mat
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads or cores()
        # By default values are rounded to 16 bits where the CPU computes with them.
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(self._net.opt, f"use_{name}", False)
        with readable(path):
            if self._net.load_param(str(path)) or self._net.load_model(str(path.with_suffix(".bin"))):
                raise RuntimeError("NCNN has no operation for one of its layers, or the file is damaged")

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`."""
        rows = []
        for image in pixels:
            with self._net.create_extractor() as extractor:
                extractor.input("in0", self._matrix(np.ascontiguousarray(image)).clone())
                failed, output = extractor.extract("out0")
                if failed:
                    raise RuntimeError(f"NCNN cannot compute '{self.path.name}' (code {failed})")
                rows.append(np.array(output))
        return np.stack(rows)

    def close(self) -> None:
        """Releases the model."""
        self._net.clear()


class Ncnn(Target):
    """NCNN, for phones and boards."""

    name, about = "ncnn", "a .param and a .bin file, for NCNN on phones and boards"
    runtime, file = NcnnRuntime, "model_{precision}.param"
    precisions: ClassVar[tuple[Precision, ...]] = ("float32", "float16")
    packages, extra = ("ncnn", "pnnx", "onnx", "tf2onnx", "onnxruntime"), "ncnn"
    snippets: ClassVar = {"Python": "ncnn.py.j2"}
    files: ClassVar = {"preprocess.py": "preprocess.py.j2"}

    def convert(
        self,
        model: keras.Model,
        signature: Sequence[Any],
        path: Path,
        precision: Precision,
        options: Options,
        images: Images,
    ) -> None:
        """As `Target.convert`; float16 applies to the weights."""
        with TemporaryDirectory() as scratch:
            source = Path(scratch) / "model.onnx"
            Onnx().convert(model, signature, source, "float32", options, images)
            shapes = ",".join(f"[{','.join(map(str, (1, *tensor.shape[1:])))}]f32" for tensor in model.inputs)
            command = [_converter(), source.name, f"inputshape={shapes}", f"fp16={int(precision == 'float16')}"]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=SECONDS, check=False)
            written = source.with_suffix(".ncnn.param")
            if done.returncode or not written.is_file():
                raise RuntimeError(f"pnnx ended with {done.returncode}: {done.stderr.strip()[-300:]}")
            path.write_bytes(written.read_bytes())
            path.with_suffix(".bin").write_bytes(written.with_suffix(".bin").read_bytes())
        file = ModelFile(path=path.name, runtime=self.runtime.kind, precision=precision, input_dtype="float32")
        _try(path, file, [tensor.shape[1:] for tensor in model.inputs])


def _try(path: Path, file: ModelFile, shapes: Sequence[tuple[int, ...]]) -> None:
    """Runs a model once in a process of its own, which NCNN ends at a layer that it cannot compute."""
    if len(shapes) > 1:
        raise RuntimeError("a model for NCNN has one input")
    program = (
        "import sys, pathlib, numpy\n"
        "from kerasimg.deploy.manifest import ModelFile\n"
        "from kerasimg.deploy.targets.ncnn import NcnnRuntime\n"
        "runtime = NcnnRuntime(pathlib.Path(sys.argv[1]), ModelFile.model_validate_json(sys.argv[2]), 1)\n"
        "runtime.run(numpy.zeros([1, *map(int, sys.argv[3:])], numpy.float32))"
    )
    command = [sys.executable, "-c", program, str(path), file.model_dump_json(), *map(str, shapes[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"NCNN ended its process with {done.returncode}"]
        raise RuntimeError(lines[-1].rpartition("Error: ")[2] if done.returncode > 0 else lines[0])


def _converter() -> str:
    """Returns the path of pnnx's program; its Python module would load PyTorch."""
    spec = find_spec("pnnx")
    folder = Path(str(spec.origin)).parent if spec is not None else Path()
    return str(next(folder.glob("pnnx*"), "pnnx"))
