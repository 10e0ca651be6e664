"""Checks some rows of the table that `tox -e exports` writes."""

import json
import runpy
from pathlib import Path

import keras
import pytest

from kerasimg.spec import arguments

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "make_export_support.py"))
MODELS = dict(SCRIPT["models"]())
TARGETS = ["litert", "onnx", "openvino", "savedmodel"]


def row(name: str) -> dict[str, tuple[float | None, str]]:
    return SCRIPT["layer_row"](name, MODELS[name], SCRIPT["columns_of"](name, TARGETS))


def test_every_layer_and_activation_of_a_spec_has_a_row():
    named = {name.partition("(")[0] for name in MODELS}
    assert {*arguments.known("layers")} - named == set(SCRIPT["INTEGERS"])
    assert {f"activation {name}" for name in arguments.known("activations")} <= named


def test_every_row_has_a_model():
    assert [name for name, make in MODELS.items() if not isinstance(make(), keras.Model)] == []


@pytest.mark.parametrize(
    "name", ["activation gelu", "activation celu", "activation selu", "Conv2D(groups=2, dilation_rate=2)"]
)
def test_fixed_layer_is_correct_in_every_target_and_precision(name: str):
    cells = row(name)
    assert {column.split()[0] for column in cells} == {*TARGETS}
    # LiteRT has no comparison of values in int16, which celu and selu need.
    faults = {column: fault for column, (_, fault) in cells.items() if fault}
    assert faults in ({}, {"litert int16": "there is no operation for GREATER"})
    assert max(difference for column, (difference, _) in cells.items() if column.endswith("float32")) < 1e-5
    assert cells["litert int8"][0] < 0.07


def test_int8_of_a_discontinuous_function_is_correct_except_near_its_threshold():
    assert row("activation hard_shrink")["litert int8"] == (pytest.approx(0, abs=0.02), "")


def test_int8_of_a_layer_that_hands_on_its_input_is_written():
    assert SCRIPT["layer_row"]("Dropout", MODELS["Dropout"], ["litert int8"])["litert int8"][1] == ""


@pytest.mark.parametrize("name", ["Maximum", "Minimum", "AdaptiveAveragePooling2D", "CBAM", "activation celu"])
def test_int8_does_not_clip_values_that_several_operations_use(name: str):
    cells = SCRIPT["layer_row"](name, MODELS[name], ["litert int8"])
    assert cells["litert int8"][0] < 0.07


@pytest.mark.parametrize(
    ("name", "operation"),
    [("activation sparsemax", "sparsemax"), ("ContrastLimitedAdaptiveHistogramEqualization", "CastToInteger")],
)
def test_int8_of_a_layer_whose_outputs_jump_is_refused(name: str, operation: str):
    cells = SCRIPT["layer_row"](name, MODELS[name], ["litert float32", "litert int8"])
    assert cells["litert float32"] == (pytest.approx(0, abs=1e-4), "")
    assert cells["litert int8"] == (None, f"there is no operation for {operation}")


def test_normalization_has_one_onnx_input():
    cells = SCRIPT["layer_row"]("Normalization", MODELS["Normalization"], ["onnx float32"])
    assert cells["onnx float32"] == (pytest.approx(0, abs=1e-5), "")


def test_refusal_names_the_operation():
    cells = row("Resizing(interpolation=lanczos3)")
    reason = "there is no operation for ScaleAndTranslate"
    assert {column: fault for column, (_, fault) in cells.items() if fault} == {
        column: reason for column in cells if not column.startswith("savedmodel")
    }
    page = SCRIPT["page"]({"Resizing(interpolation=lanczos3)": cells}, ["Conv2D"])
    assert f"openvino float32, openvino float16, openvino int8, openvino int4: {reason}." in page
    assert page.endswith("## Not run\n\n`Conv2D`\n")
    assert f"{len(cells)} exports: 1 correct, 0 written and not run, {len(cells) - 1} refused, 0 that differ" in page


def test_zoo_spec_is_compared_by_its_logits():
    cells = SCRIPT["zoo_row"]("simple_cnn", list(SCRIPT["ZOO_COLUMNS"]))
    assert {column: fault for column, (_, fault) in cells.items() if fault} == {}
    assert 0 < cells["litert int8"][0] < 0.1


def test_page_matches_the_saved_rows():
    saved = json.loads((DOCS / "export-support.json").read_text())
    names = SCRIPT["names"]()
    assert {*saved} <= {*names}
    rows = {name: saved[name] for name in names if name in saved}
    page = SCRIPT["page"](rows, [name for name in names if name not in saved])
    assert (DOCS / "export-support.md").read_text() == page
