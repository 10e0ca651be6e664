"""Models with layers that converters once could not write, and errors for those that they cannot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerasimg
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.targets import open_runtime
from kerasimg.errors import CallError, GateError

HEAD = [
    {"layer": "GlobalAveragePooling2D"},
    {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
]


@pytest.fixture
def trained(tiny: Any, images: Any, tmp_path: Path) -> Any:
    """trained(layers) trains a model with these layers before the head for one epoch."""
    data = images(tmp_path / "colours", {"red": 10, "green": 10, "blue": 10})

    def train(layers: list[dict[str, Any]]) -> Any:
        return kerasimg.train(
            tiny(model=[*layers, *HEAD]),
            data=data,
            out=tmp_path / "runs",
            report=False,
            verbose=0,
        )

    return train


GELU_AND_GROUPS = [
    {"layer": "Conv2D", "filters": 8, "kernel_size": 3, "activation": "gelu"},
    {"layer": "Conv2D", "filters": 8, "kernel_size": 3, "padding": "same", "groups": 4, "strides": 2},
    {"layer": "Conv2D", "filters": 8, "kernel_size": 3, "padding": "same", "groups": 2, "dilation_rate": 2},
    {"layer": "Activation", "activation": "gelu"},
    {"layer": "Flatten"},
    {"layer": "Reshape", "target_shape": [-1, 4]},
    {"layer": "Conv1D", "filters": 4, "kernel_size": 3, "groups": 2},
    {"layer": "Reshape", "target_shape": [-1, 2, 2]},
]


def test_exact_gelu_and_grouped_dilated_convolutions_are_exported_to_every_target(trained: Any):
    run = trained(GELU_AND_GROUPS)
    bundles = kerasimg.export(run, ["onnx", "openvino", "savedmodel", "litert"])
    assert [bundle.manifest.parity[0].passed for bundle in bundles] == [True] * 4
    assert max(bundle.manifest.parity[0].greatest_difference for bundle in bundles) < 1e-5
    (fixed,) = kerasimg.export(run, "litert", precision="int8", batch=8, out=run.folder / "fixed")
    pixels = np.stack([vector.pixels for vector in fixed.vectors()])
    assert np.allclose(open_runtime(fixed)(pixels), open_runtime(bundles[0])(pixels), atol=0.1)


def test_failing_target_names_layer_and_operation_and_does_not_affect_the_others(trained: Any, tmp_path: Path):
    lanczos = {"layer": "Resizing", "name": "smaller", "height": 8, "width": 8, "interpolation": "lanczos3"}
    run = trained([lanczos])
    with pytest.raises(CallError) as caught:
        kerasimg.export(run, ["onnx", "litert", "openvino", "savedmodel"], out=tmp_path)
    lines = str(caught.value).splitlines()
    refused = r"the layer 'smaller' (Resizing) cannot be written: there is no operation for ScaleAndTranslate"
    assert lines[0] == f"onnx float32: {refused}; use another target"
    assert lines[1].startswith(f"litert float32: {refused}; allow TensorFlow operations (--allow-flex)")
    assert lines[2] == f"openvino float32: {refused}; use another target"
    assert lines[3] == "written anyway: savedmodel (float32)"
    assert Bundle.open(tmp_path / "savedmodel").manifest.parity[0].passed
    assert [path.name for path in tmp_path.iterdir() if path.name in ("onnx", "litert", "openvino")] == []


def test_exit_code_is_the_highest_of_a_failed_comparison_and_a_refused_target(trained: Any, tmp_path: Path):
    run = trained([{"layer": "Conv2D", "filters": 4, "kernel_size": 3, "activation": "gelu"}])
    with pytest.raises(GateError) as caught:
        kerasimg.export(run, ["litert", "keras"], precision=None, batch=2, tolerance=0.0, out=tmp_path)
    assert caught.value.exit_code == 4
    assert "keras: model.keras takes any batch size" in str(caught.value)
    assert "failed: a probability differs by" in str(caught.value)
