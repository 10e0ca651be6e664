"""Compiles and runs the C code of an embedded bundle on this machine; the network runs on the package tflite-micro."""

import ctypes
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.data.decode import FILTERS, decode
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.embedded import sources
from kerasimg.deploy.embedded.simulator import Simulator
from kerasimg.deploy.readme import snippet
from kerasimg.deploy.targets import open_runtime, target
from kerasimg.deploy.targets.embedded import as_int8
from kerasimg.errors import CallError, GateError, KerasimgError
from kerasimg.spec.document import Image, ResizePolicy

pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

HERE = Path(__file__).parent
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1"]


@pytest.fixture(scope="module")
def bundle(run: Run) -> Bundle:
    (exported,) = kerasimg.export(run, "embedded")
    return exported


def test_embedded_bundle_is_compared_by_simulation(bundle: Bundle):
    (row,) = bundle.manifest.parity
    assert row.runtime.startswith("tflite-micro")
    assert row.passed
    assert row.greatest_difference < 0.05
    assert row.same_decision == row.accuracy_after == 1


def test_sizes_are_measured(bundle: Bundle):
    sizes = json.loads((bundle.folder / "sizes.json").read_text())
    content = (bundle.folder / "model.tflite").read_bytes()
    assert sizes["model_bytes"] == len(content) + len("blue\0green\0red\0")
    assert sizes["arena_measured_bytes"] * 1.1 <= sizes["arena_bytes"] < sizes["arena_measured_bytes"] * 1.1 + 1024
    assert sizes["in_floats"] == {"SOFTMAX": 1}
    assert f"#define KERASIMG_ARENA_BYTES {sizes['arena_bytes']}\n" in (bundle.folder / "model_data.h").read_text()


def test_model_runs_in_the_reported_arena_and_not_in_a_small_one(bundle: Bundle):
    content = (bundle.folder / "model.tflite").read_bytes()
    (vector, *_) = bundle.vectors()
    stated = json.loads((bundle.folder / "sizes.json").read_text())["arena_bytes"]
    runtime = open_runtime(bundle)
    try:
        with Simulator(content, stated) as simulator:
            np.testing.assert_array_equal(simulator(as_int8(vector.pixels)), runtime(vector.pixels[np.newaxis])[0])
    finally:
        runtime.close()
    with pytest.raises(KerasimgError, match="arena of 512 bytes is too small"):
        Simulator(content, 512)


def test_model_that_does_not_fit_is_refused_with_its_sizes(run: Run):
    with pytest.raises(GateError) as caught:
        kerasimg.export(run, "embedded", flash_bytes=1000, arena_bytes=500)
    flash, arena, advice = str(caught.value).splitlines()
    assert "flash: the model and its class names take" in flash
    assert flash.endswith("1,000 were allowed")
    assert "arena: it needs" in arena
    assert arena.endswith("500 were allowed")
    assert "251 parameters" in advice


def test_error_names_an_operation_without_a_kernel(bundle: Bundle):
    from kerasimg.deploy import litert_file

    schema = litert_file._schema()
    model = litert_file._read((bundle.folder / "model.tflite").read_bytes())
    softmax = next(code for code in model.operatorCodes if code.builtinCode == schema.BuiltinOperator.SOFTMAX)
    softmax.builtinCode = softmax.deprecatedBuiltinCode = schema.BuiltinOperator.SKIP_GRAM
    with pytest.raises(CallError, match="has no kernel for SKIP_GRAM"):
        Simulator(litert_file._write(model))


def test_unsupported_options_are_refused(run: Run):
    with pytest.raises(CallError, match="has batch size 1, got 2"):
        kerasimg.export(run, "embedded", batch=2)
    with pytest.raises(CallError, match="no precision float32"):
        kerasimg.export(run, "embedded", precision="float32")


def compile_preprocess(folder: Path, image: Image) -> Any:
    """Compiles `preprocess.c` for an image section and loads it."""
    (folder / "preprocess.h").write_text(sources.preprocess_h("a*/ name", image))
    (folder / "preprocess.c").write_text(sources.preprocess_c())
    flags = ["-std=c99", *STRICT, "-fsanitize=undefined", "-fno-sanitize-recover", "-shared", "-fPIC"]
    library = folder / "preprocess.so"
    subprocess.run(["gcc", *flags, "-o", library, folder / "preprocess.c", "-lm"], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.kerasimg_scratch_bytes.restype = ctypes.c_size_t
    return loaded


def run_preprocess(library: Any, img: np.ndarray, image: Image) -> np.ndarray:
    """Preprocesses an image by the C code, with padded rows; returns uint8."""
    height, width, _ = img.shape
    padded = np.zeros((height, width * 3 + 5), np.uint8)
    padded[:, : width * 3] = img.reshape(height, -1)
    size = library.kerasimg_scratch_bytes(width, height)
    scratch = np.full(size // 4 + 8, 0x55555555, np.uint32)
    made = np.zeros((*image.size, image.channels), np.int8)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (padded, made, scratch)]
    call = (
        pointers[0],
        width,
        height,
        ctypes.c_size_t(padded.shape[1]),
        pointers[1],
        pointers[2],
        ctypes.c_size_t(size),
    )
    assert library.kerasimg_preprocess(*call) == 0
    assert (scratch.view(np.uint8)[size:] == 0x55).all()  # nothing was written beyond the requested scratch memory
    return (made.astype(np.int16) + 128).astype(np.uint8)


@compiles
@pytest.mark.parametrize("resize", get_args(ResizePolicy))
@pytest.mark.parametrize("interpolation", FILTERS)
def test_c_preprocessing_matches_the_reference_decoder(resize: Any, interpolation: Any, tmp_path: Path):
    channels: Any = 1 if interpolation == "area" else 3
    image = Image(
        size=[24, 40],
        channels=channels,
        resize=resize,
        interpolation=interpolation,
        crop_fraction=0.8 if interpolation == "bicubic" else 1,
        background=[10, 200, 77],
    )
    library = compile_preprocess(tmp_path, image)
    random = np.random.default_rng(0)
    for width, height in [(37, 23), (40, 24), (160, 120), (7, 90), (97, 61), (1, 5), (60, 300)]:
        img = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        np.testing.assert_array_equal(run_preprocess(library, img, image), decode(img, image))


@compiles
def test_c_preprocessing_returns_error_codes_for_invalid_calls(tmp_path: Path):
    library = compile_preprocess(tmp_path, Image(size=[8, 8]))
    room = (ctypes.c_int32 * 4096)()
    size = library.kerasimg_scratch_bytes(20, 10)
    assert library.kerasimg_preprocess(room, 20, 10, ctypes.c_size_t(60), room, room, ctypes.c_size_t(size - 1)) == 2
    assert library.kerasimg_preprocess(room, 20, 10, ctypes.c_size_t(59), room, room, ctypes.c_size_t(size)) == 1
    assert library.kerasimg_preprocess(room, 0, 10, ctypes.c_size_t(60), room, room, ctypes.c_size_t(size)) == 1
    assert library.kerasimg_scratch_bytes(0, 10) == 0


@compiles
def test_main_program_runs_the_test_vectors(bundle: Bundle, tmp_path: Path):
    program = tmp_path / "main"
    own = [bundle.folder / name for name in ("main.cc", "model_data.cc", "test_vectors.cc")]
    subprocess.run(
        ["g++", "-std=c++17", *STRICT, f"-I{HERE / 'tflm'}", f"-I{bundle.folder}", "-o", program, *own], check=True
    )
    root = Path(kerasimg.__file__).parents[1]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(root)}
    done = subprocess.run([program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "5 of 5 passed", done.stdout + (tmp_path / "said").read_text()
    assert (tmp_path / "array.tflite").read_bytes() == (bundle.folder / "model.tflite").read_bytes()


@compiles
@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_readme_code_for_microcontrollers_compiles(bundle: Bundle, task: Any, tmp_path: Path):
    names = ("red", 'says "\\"', "né??/1")
    classes = names[:2] if task == "binary" else names
    (tmp_path / "classes.h").write_text(sources.classes_h(classes, task, None))
    manifest = bundle.manifest.model_copy(update={"task": task, "classes": len(classes)})
    printing = "\n#include <cstdio>\nint main() { for (auto name : kerasimg_classes) std::puts(name); }\n"
    code = snippet(target("embedded"), "embedded.cpp.j2", manifest, bundle.image, bundle.models[0]) + printing
    (tmp_path / "snippet.cc").write_text(code)
    includes = [f"-I{tmp_path}", f"-I{HERE / 'tflm'}", f"-I{bundle.folder}"]
    program = tmp_path / "snippet"
    made = ["g++", "-std=c++17", *STRICT, "-Wno-unused-variable", *includes, tmp_path / "snippet.cc", "-c", "-o"]
    subprocess.run([*made, tmp_path / "snippet.o"], check=True)
    preprocess = bundle.folder / "preprocess.c"
    model = bundle.folder / "model_data.cc"
    linked = ["g++", "-std=c++17", *includes[2:], tmp_path / "snippet.o", "-x", "c++", preprocess, model, "-o", program]
    subprocess.run(linked, check=True)
    assert subprocess.run([program], capture_output=True, check=True).stdout.decode().splitlines() == list(classes)


def test_resolver_methods_have_the_names_of_the_library():
    methods = {
        "CONV_2D": "AddConv2D",
        "FULLY_CONNECTED": "AddFullyConnected",
        "L2_POOL_2D": "AddL2Pool2D",
        "HARD_SWISH": "AddHardSwish",
        "RELU6": "AddRelu6",
        "PADV2": "AddPadV2",
        "CUMSUM": "AddCumSum",
        "BATCH_MATMUL": "AddBatchMatMul",
        "SPACE_TO_BATCH_ND": "AddSpaceToBatchNd",
        "RESIZE_NEAREST_NEIGHBOR": "AddResizeNearestNeighbor",
    }
    assert {operation: sources.method(operation) for operation in methods} == methods


def test_c_code_supports_every_resize_policy_and_filter():
    header = sources.preprocess_h("x", Image())
    for name in itertools.chain(get_args(ResizePolicy), FILTERS):
        assert f"#define KERASIMG_{name.upper()} " in header
