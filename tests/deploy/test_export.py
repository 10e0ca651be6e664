import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.data.decode import decode
from kerasimg.deploy.bundle import Bundle, sha256
from kerasimg.deploy.export_context import Options
from kerasimg.deploy.manifest import Manifest
from kerasimg.deploy.targets import names, open_runtime, target, targets
from kerasimg.errors import CallError, GateError
from kerasimg.models.classifier import Classifier

PRECISIONS = ["float32", "float16", "int16", "dynamic", "int8"]


def test_every_model_is_compared_on_its_own_runtime_and_passes(exported: dict[str, Bundle]):
    rows = {(name, row.path): row for name, bundle in exported.items() for row in bundle.manifest.parity}
    assert [name for name, _ in rows] == ["litert"] * 5 + ["savedmodel", "onnx", "openvino", "keras"]
    assert all(row.passed and row.images == 9 for row in rows.values())
    assert {row.runtime.split()[0] for row in rows.values()} == {
        *("ai-edge-litert", "onnxruntime", "openvino", "tensorflow", "keras")
    }
    for (_, path), row in rows.items():
        allowed = {
            "model_float16.tflite": 0.01,
            "model_dynamic.tflite": 0.05,
            "model_int8.tflite": 0.05,
            "model_int16.tflite": 0.001,
        }
        assert row.greatest_difference <= allowed.get(path, 1e-5), path
        assert row.accuracy_after == row.accuracy_before == 1
        assert 0 < row.p50_ms <= row.p95_ms


def test_bundle_contains_classes_preprocessing_spec_and_hashes(exported: dict[str, Bundle], run: Run):
    bundle = exported["litert"]
    assert bundle.folder == run.folder / "export" / "litert"
    assert json.loads((bundle.folder / "classes.json").read_text()) == ["blue", "green", "red"]
    image = json.loads((bundle.folder / "preprocess.json").read_text())
    assert image == {
        "size": [8, 8],
        "channels": 3,
        "range": None,
        "resize": "stretch",
        "crop_fraction": 1.0,
        "interpolation": "bilinear",
        "background": [255, 255, 255],
        "scale": "auto",
    }
    assert bundle.manifest.spec == Classifier.open(run).spec.resolved
    assert {"kerasimg", "keras", "tensorflow", "ai-edge-litert"} <= set(bundle.manifest.versions)
    listed = {file.path: (file.bytes, file.sha256) for file in bundle.manifest.files}
    files = {path for path in bundle.folder.rglob("*") if path.is_file()} - {bundle.folder / "manifest.json"}
    assert listed == {path.relative_to(bundle.folder).as_posix(): (path.stat().st_size, sha256(path)) for path in files}


def test_vectors_are_images_with_the_probabilities_of_the_trained_model(exported: dict[str, Bundle], run: Run):
    vectors = exported["litert"].vectors()
    assert len(vectors) == 5
    assert len({vector.name.split("/")[0] for vector in vectors}) == 3
    classifier = Classifier.open(run)
    for vector in vectors:
        assert np.array_equal(decode(str(vector.file), classifier.spec.image), vector.pixels)
        expected = classifier.probabilities(vector.pixels[np.newaxis].astype("float32"))[0]
        assert np.allclose(expected, vector.probabilities, atol=1e-7)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_runtime_takes_any_number_of_images(exported: dict[str, Bundle], precision: str):
    bundle = exported["litert"]
    runtime = open_runtime(bundle, precision)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    whole = runtime(pixels)
    assert (whole.shape, whole.dtype) == ((7, 3), np.float32)
    assert np.allclose(np.concatenate([runtime(pixels[:2]), runtime(pixels[2:])]), whole, atol=1e-6)
    assert runtime(pixels[:0]).shape == (0, 3)


def test_fixed_batch_is_padded(run: Run, exported: dict[str, Bundle], tmp_path: Path):
    (bundle,) = kerasimg.export(run, "litert", batch=4, out=tmp_path)
    assert bundle.models[0].batch == 4
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    free = open_runtime(exported["litert"], "float32")(pixels)
    assert np.allclose(open_runtime(bundle)(pixels), free, atol=1e-6)


def test_int8_takes_raw_signed_or_unsigned_pixels(run: Run, exported: dict[str, Bundle], tmp_path: Path):
    from kerasimg.deploy.litert_file import quantized_input

    (signed,) = kerasimg.export(run, "litert", precision="int8", input_dtype="int8", out=tmp_path)
    bundles = {"uint8": (exported["litert"], (1.0, 0)), "int8": (signed, (1.0, -128))}
    pixels = np.arange(3 * 8 * 8 * 3).reshape(3, 8, 8, 3).astype(np.uint8)
    for dtype, (bundle, quantization) in bundles.items():
        model = bundle.model("int8")
        assert model.input_dtype == dtype
        assert quantized_input(bundle.model_path(model).read_bytes()) == quantization
    outputs = [open_runtime(bundle, "int8")(pixels) for bundle, _ in bundles.values()]
    assert np.allclose(*outputs, atol=1e-6)


def test_an_export_says_which_models_of_an_earlier_one_it_replaces(run: Run, tmp_path: Path, listen: Any):
    messages: list[str] = []
    listen(messages.append)
    for precision in ("float32", "float16", ("float16", "float32")):
        kerasimg.export(run, "litert", precision=precision, out=tmp_path)
    lines = [line for line in messages if "replaced" in line]
    where = tmp_path / "litert"
    gone = "no longer there: model_float32.tflite (--out keeps both)"
    assert lines == [f"  the export that was in {where} is replaced; {gone}"]


def test_model_beyond_its_tolerance_exits_with_4_and_is_marked(run: Run, tmp_path: Path):
    with pytest.raises(GateError, match=r"model_int8.tflite: differs by .* at most \(allowed 0.0001\)") as caught:
        kerasimg.export(run, ["litert"], precision=["float32", "int8"], out=tmp_path, tolerance=1e-4)
    assert caught.value.exit_code == 4
    rows = Bundle.open(tmp_path / "litert").manifest.parity
    assert [row.passed for row in rows] == [True, False]
    assert rows[1].worst[0].image in str(caught.value)
    assert rows[1].worst[0].difference == pytest.approx(rows[1].greatest_difference)


def test_export_includes_the_temperature(run: Run, tmp_path: Path):
    plain = Classifier.open(run)
    warm = Classifier(plain.model, plain.spec, plain.classes, plain.folder, 2.5, None)
    for precision, close in (("float32", 1e-5), ("int8", 0.03)):
        (bundle,) = kerasimg.export(warm, "litert", precision=precision, out=tmp_path)
        assert bundle.manifest.temperature == 2.5
        vectors = bundle.vectors()
        pixels = np.stack([vector.pixels for vector in vectors])
        expected = warm.probabilities(pixels.astype("float32"))
        assert np.abs(expected - plain.probabilities(pixels.astype("float32"))).max() > 0.05
        assert np.allclose(open_runtime(bundle)(pixels), expected, atol=close)


def test_model_without_its_run_is_exported_with_drawn_images_and_without_a_comparison(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(GateError, match=r"but not compared .*pass some \(--data\), or accept it \(--allow-uncomp"):
        kerasimg.export(run.folder / "model.keras", "litert", out=tmp_path)
    model = run.folder / "model.keras"
    (bundle,) = kerasimg.export(model, "litert", allow_uncompared=True, out=tmp_path)
    assert bundle.manifest.parity == []
    assert caplog.messages[-1] == "  model_float32.tflite: not compared: there are no test images; pass some (--data)"
    assert kerasimg.verify(bundle).vectors[0].passed
    with pytest.raises(CallError, match="int8 needs calibration images"):
        kerasimg.export(run.folder / "model.keras", "litert", precision="int8", out=tmp_path)


def test_onnx_and_openvino_are_written_in_every_precision(run: Run, tmp_path: Path):
    bundles = kerasimg.export(run, ["onnx", "openvino"], precision=["float32", "float16", "int8", "int4"], out=tmp_path)
    named = [[model.path for model in bundle.models] for bundle in bundles]
    assert named[0] == ["model.onnx", "model_float16.onnx", "model_int8.onnx", "model_int4.onnx"]
    assert named[1] == ["model_float32.xml", "model_float16.xml", "model_int8.xml", "model_int4.xml"]
    for bundle in bundles:
        exact, *rest, int4 = bundle.manifest.parity
        assert exact.greatest_difference < 1e-5
        assert int4.greatest_difference < 0.05  # too few weights for int4 in ONNX
        assert all(1e-7 < row.greatest_difference < 0.05 and row.same_decision == 1 for row in rest)
    arrays = map(onnx.numpy_helper.to_array, onnx.load(bundles[0].folder / "model_int8.onnx").graph.initializer)
    constants = openvino.Core().read_model(bundles[1].folder / "model_int8.xml").get_ordered_ops()
    stored = [node.data for node in constants if node.get_type_name() == "Constant"]
    for every in (list(arrays), stored):
        weights = [array.astype(int) for array in every if array.dtype == np.int8]
        assert weights
        assert max(np.abs(array).max() for array in weights) <= 64  # of 7 bits: right on CPUs without VNNI, too


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_weights_in_int4_take_an_eighth_of_the_bytes_and_hardly_change_the_outputs(name: str, tmp_path: Path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((256,))
    model = keras.Model(inputs, keras.layers.Dense(256, activation="relu")(inputs))
    pixels = np.random.default_rng(0).normal(size=(9, 256)).astype("float32")
    path = tmp_path / target(name).file.format(precision="int4")
    target(name).convert_model(model, path, "int4", Options(), [pixels])
    weights = path if name == "onnx" else path.with_suffix(".bin")
    assert 256 * 256 / 2 < weights.stat().st_size < 256 * 256
    if name == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    else:
        outputs = openvino.Core().compile_model(path, "CPU")(pixels)[0]
    expected = np.asarray(model(pixels))
    assert 0 < np.square(outputs - expected).mean() < 0.03 * expected.var()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"to": "litertt"}, "no target 'litertt'; did you mean 'litert'"),
        ({"to": []}, "no target to export to"),
        ({"to": "savedmodel", "precision": "int8"}, "savedmodel: no precision int8 (available: float32)"),
        ({"to": "litert", "batch": 0}, "batch: expected 1 or more, got 0"),
        ({"to": "keras", "batch": 2}, "model.keras takes any batch size"),
        ({"to": "litert", "input_dtype": "uint16"}, "input_dtype: expected uint8 or int8, got uint16"),
        ({"to": "litert", "tolerance": 2}, "tolerance: expected a number from 0 to 1, got 2"),
    ],
)
def test_invalid_call_is_refused_and_writes_nothing(run: Run, tmp_path: Path, call: dict, message: str):
    with pytest.raises(CallError) as caught:
        kerasimg.export(run, out=tmp_path, **call)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_a_bundle_is_not_replaced(run: Run, tmp_path: Path):
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "thesis.txt").write_text("mine")
    with pytest.raises(CallError, match="exists but is not an export bundle"):
        kerasimg.export(run, "keras", out=tmp_path)
    assert (tmp_path / "keras" / "thesis.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["keras"]


def test_every_target_defines_its_attributes():
    kinds = [each.runtime.kind for each in targets()]
    assert len({*kinds}) == len(kinds) == len(names())
    for each in targets():
        assert each.name in names()
        assert each.about
        assert each.precisions
        assert each.file
        assert bool(each.packages) == bool(each.extra)


@pytest.mark.parametrize("name", ["litert", "onnx", "openvino", "savedmodel", "keras"])
def test_python_code_of_the_readme_predicts_like_the_trained_model(
    exported: dict[str, Bundle],
    copy: Callable[[str], Path],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    folder = copy(name)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "preprocess", raising=False)
    vector = exported[name].vectors()[0]
    Path("photo.jpg").write_bytes(vector.file.read_bytes())
    exec(Path("README.md").read_text().split("```python\n")[1].split("```")[0], {})
    order = np.argsort(-vector.probabilities)
    expected = [f"{exported[name].classes[k]} {vector.probabilities[k]:.3f}" for k in order]
    assert capsys.readouterr().out.splitlines() == expected


def test_manifest_round_trips(exported: dict[str, Bundle]):
    for bundle in exported.values():
        text = (bundle.folder / "manifest.json").read_text()
        assert Manifest.model_validate_json(text) == bundle.manifest


def test_another_process_exports_if_keras_runs_on_another_backend(
    listen: Callable[..., None], run: Run, tmp_path: Path
):
    from kerasimg.deploy.export import _in_tensorflow
    from kerasimg.deploy.export_context import Options

    messages: list[str] = []
    listen(messages.append)
    settings = {"tolerance": 1e-9, "same": None, "accuracy_drop": None, "images": 3}
    with pytest.raises(GateError, match=r"model_int8.tflite: differs by .* of 3 images"):
        _in_tensorflow(run, ["litert"], Options(("int8",)), tmp_path, None, settings)
    assert messages[1:2] == ["litert: writing int8"]
    assert Bundle.open(tmp_path / "litert").models[0].precision == "int8"
    with pytest.raises(CallError, match="pass the run's folder"):
        _in_tensorflow(Classifier.open(run), ["litert"], Options(), tmp_path, None, settings)


def test_drafts_of_killed_exports_are_removed(run: Run, tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, other = f".keras-{os.getpid()}", ".keras-another.host-1"
    for name in (f".keras-{dead.pid}", f".keras-{platform.node()}-{dead.pid}", mine, other, ".keras-notes"):
        (tmp_path / name).mkdir()
    kerasimg.export(run, "keras", out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine, other, ".keras-notes", "keras"])
