"""The registry of export targets: targets of other packages, Core ML, and single failing precisions."""

import json
import re
import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy import targets
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.export_context import Options
from kerasimg.deploy.runtimes import Runtime
from kerasimg.deploy.targets import Target, names, open_runtime, target
from kerasimg.deploy.targets.litert import LiteRT
from kerasimg.errors import CallError, KerasimgError
from kerasimg.layers import CoordChannels
from kerasimg.models.classifier import Classifier


class WeightsRuntime(Runtime):
    """One convolution, a mean and a dense layer, from NumPy's arrays."""

    kind = "numpy"

    def __init__(self, path: Path, model: Any, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        self.name = f"numpy {np.__version__}"
        with np.load(path) as arrays:
            self._arrays = [arrays[f"arr_{number}"] for number in range(len(arrays.files))]

    def run(self, pixels: np.ndarray) -> np.ndarray:
        kernel, bias, dense, offset = self._arrays
        windows = np.lib.stride_tricks.sliding_window_view(pixels / np.float32(255), (3, 3), axis=(1, 2))
        features = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias, 0).mean((1, 2))
        logits = np.exp(features @ dense + offset)
        return logits / logits.sum(-1, keepdims=True)


class Weights(Target):
    """The arrays of a model, for this test's runtime."""

    name, about, runtime, file = "weights", "a .npz file", WeightsRuntime, "model.npz"
    snippets = {"Python": "weights.py.j2"}  # noqa: RUF012

    def convert(self, model, signature, path, precision, options, images):
        np.savez(path, *model.get_weights())


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates an installed package with an entry point for the target of this module."""
    point = EntryPoint("weights", f"{__name__}:Weights", targets.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Weights)
    original = targets.entry_points
    monkeypatch.setattr(
        targets,
        "entry_points",
        lambda **of: [*original(**of), *([point] if of.get("name") in (None, "weights") else [])],
    )


def test_target_of_another_package_is_exported_compared_verified_and_measured(
    installed: None, run: Run, tmp_path: Path
):
    assert "weights" in names()
    (bundle,) = kerasimg.export(run, "weights", out=tmp_path)
    (row,) = bundle.manifest.parity
    assert (row.passed, row.runtime, row.path) == (True, f"numpy {np.__version__}", "model.npz")
    assert row.greatest_difference < 1e-5
    assert '```python\nprint("model.npz", (8, 8, 3))\n```' in (bundle.folder / "README.md").read_text()
    assert kerasimg.verify(bundle).vectors[0].passed
    rows = kerasimg.measure(run, "weights", verbose=0).runtimes
    assert [each["target"] for each in rows] == ["(the run)", "weights"]


def test_registered_target_is_available_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(targets, "REGISTERED", {})
    targets.register(Weights)
    assert isinstance(target("weights"), Weights)
    with pytest.raises(CallError, match="no target 'weigths'; did you mean 'weights'"):
        target("weigths")


def test_error_names_an_entry_point_that_is_not_a_target(installed: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(EntryPoint, "load", lambda self: dict)
    with pytest.raises(CallError, match=r"target 'weights': .*:Weights is not a subclass of .*Target"):
        target("weights")


def test_bundle_of_a_target_that_is_not_installed_is_refused(exported: dict[str, Bundle]):
    bundle = exported["keras"]
    with pytest.raises(CallError, match=r"'model\.keras' runs in 'abacus', which no installed export target provides"):
        open_runtime(bundle, bundle.models[0].model_copy(update={"runtime": "abacus"}))


def test_core_ml_is_written_with_the_input_of_the_spec_and_not_run_on_linux(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if find_spec("coremltools") is None:
        pytest.skip("coremltools is not installed")
    monkeypatch.setattr("sys.platform", "linux")
    before = sys.getrecursionlimit()
    (bundle,) = kerasimg.export(run, "coreml", precision=["float32", "float16"], out=tmp_path)
    assert [model.path for model in bundle.models] == ["model_float32.mlpackage", "model_float16.mlpackage"]
    assert sys.getrecursionlimit() == before  # coremltools raises it when it is imported
    import coremltools

    assert bundle.manifest.parity == []
    assert "Core ML only runs on macOS" in bundle.manifest.notes["not_compared"]["model_float32.mlpackage"]
    for model in bundle.models:
        assert model.batch == 1
        spec = coremltools.models.MLModel(str(bundle.model_path(model)), skip_model_load=True).get_spec()
        assert spec.WhichOneof("Type") == "mlProgram"
        (taken,) = spec.description.input
        assert (taken.name, list(taken.type.multiArrayType.shape)) == ("pixels", [1, 8, 8, 3])
        assert spec.description.metadata.shortDescription == f"{bundle.manifest.name}: blue, green, red"
        metadata = spec.description.metadata.userDefined
        assert json.loads(metadata["classes"]) == ["blue", "green", "red"]
        assert json.loads(metadata["kerasimg"])["image"] == json.loads((bundle.folder / "preprocess.json").read_text())
        # The weights of the convolution and of the head, and the operations in between.
        operations = [
            each.type for each in spec.mlProgram.functions["main"].block_specializations["CoreML7"].operations
        ]
        operations = operations or [
            each.type
            for block in spec.mlProgram.functions["main"].block_specializations.values()
            for each in block.operations
        ]
        assert {"conv", "reduce_mean", "softmax"} <= {*operations}
        assert bundle.model_bytes(model) > 4 * 100
    assert "private let model: MLModel" in (bundle.folder / "README.md").read_text()


MISSING = {
    "coreml": 'coremltools: pip install "kerasimg[coreml]"',
    "embedded": 'tflite_micro, ai_edge_litert: pip install "kerasimg[embedded]"',
    "litert": 'ai_edge_litert: pip install "kerasimg[litert]"',
    "onnx": 'onnx, tf2onnx, onnxruntime: pip install "kerasimg[onnx]"',
    "ncnn": 'ncnn, pnnx, onnx, tf2onnx, onnxruntime: pip install "kerasimg[ncnn]"',
    "openvino": 'openvino: pip install "kerasimg[openvino]"',
    "web": 'ai_edge_litert: pip install "kerasimg[litert]"',
}


@pytest.mark.parametrize("name", [each.name for each in targets.targets() if each.packages])
def test_missing_packages_are_named_with_the_extra_that_installs_them(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for package in target(name).packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CallError) as caught:
        kerasimg.export(run, name, out=tmp_path)
    assert str(caught.value) == f"{name} needs {MISSING[name]}"
    assert list(tmp_path.iterdir()) == []


def test_precision_that_cannot_be_written_does_not_affect_the_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    without_run = Classifier.open(run.folder / "model.keras")  # without its training images there is no int8
    folder = tmp_path / "model"
    without_run.save(tmp_path / "model.keras")
    with pytest.raises(CallError) as caught:
        kerasimg.export(
            tmp_path / "model.keras", "litert", precision=["int8", "float32"], out=folder, allow_uncompared=True
        )
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("litert int8: int8 needs calibration images")
    assert lines[1:] == ["written anyway: litert (float32)"]
    assert [model.precision for model in Bundle.open(folder / "litert").models] == ["float32"]


def test_precision_whose_runtime_fails_is_removed_and_does_not_affect_the_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = LiteRT.runtime.run

    def run_all_but_dynamic(self: Any, pixels: np.ndarray) -> np.ndarray:
        if self.model.precision == "dynamic":
            raise KerasimgError("Node number 3 (CONV_2D) failed to invoke")
        return plain(self, pixels)

    monkeypatch.setattr(LiteRT.runtime, "run", run_all_but_dynamic)
    with pytest.raises(KerasimgError, match=r"^litert dynamic: Node number 3 .*\nwritten anyway: litert \(float"):
        kerasimg.export(run, "litert", precision=["float32", "dynamic"], out=tmp_path)
    bundle = Bundle.open(tmp_path / "litert")
    assert [(row.path, row.passed) for row in bundle.manifest.parity] == [("model_float32.tflite", True)]
    assert not (bundle.folder / "model_dynamic.tflite").exists()
    assert "dynamic" not in json.dumps(bundle.manifest.model_dump(mode="json")["models"])
    assert not re.search("dynamic", (bundle.folder / "README.md").read_text())


def test_table_in_the_docs_has_every_target():
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    rows = {cells[1].strip(" `"): cells for line in text.splitlines() if len(cells := line.split("|")) == 6}
    for name in names():
        chosen = target(name)
        assert name in rows, f"add a row for {name} to the table of docs/export.md"
        assert rows[name][3].strip() == ", ".join(chosen.precisions)
        assert rows[name][4].strip() == (f"`kerasimg[{chosen.extra}]`" if chosen.extra else "")


@pytest.mark.skipif(bool(target("ncnn").missing()), reason="needs NCNN and its converter")
def test_a_layer_at_which_ncnn_ends_its_process_is_an_error(tmp_path: Path):
    image = keras.Input((8, 8, 4))
    model = keras.Model(image, CoordChannels()(image))
    with pytest.raises(RuntimeError, match="NCNN ended its process with"):
        target("ncnn").convert_model(model, tmp_path / "model_float32.param", "float32", Options())


@pytest.mark.skipif(bool(target("ncnn").missing()), reason="needs NCNN and its converter")
def test_ncnn_gives_the_probabilities_of_the_trained_model(run: Run, tmp_path: Path):
    (bundle,) = kerasimg.export(run, "ncnn", precision=["float32", "float16"], out=tmp_path)
    exact, half = bundle.manifest.parity
    assert exact.greatest_difference < 1e-5
    assert 1e-6 < half.greatest_difference < 0.01
    assert 0 < exact.bytes - half.bytes < exact.bytes / 2
    assert [file.path for file in bundle.manifest.files if file.path.endswith(".bin")] == [
        "model_float16.bin",
        "model_float32.bin",
    ]
