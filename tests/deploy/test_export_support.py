"""A sample of the table that `tox -e exports` writes; that runs every row."""

import runpy
from pathlib import Path

import keras
import pytest

from kerasimg.spec import arguments

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "make_export_support.py"))
MODELS = dict(SCRIPT["models"]())


def test_every_layer_and_activation_that_a_spec_may_name_has_a_row():
    named = {name.partition("(")[0] for name in MODELS}
    assert {*arguments.known("layers")} - named == set(SCRIPT["INTEGERS"])
    assert {f"activation {name}" for name in arguments.known("activations")} <= named


def test_every_row_has_a_model():
    assert [name for name, make in MODELS.items() if not isinstance(make(), keras.Model)] == []


@pytest.mark.parametrize("name", ["activation gelu", "activation celu", "Conv2D(groups=2, dilation_rate=2)"])
def test_what_once_could_not_be_exported_is_right_for_every_target(name: str):
    columns = [column for column in SCRIPT["COLUMNS"] if column.endswith("float32")]
    exact = SCRIPT["row"](MODELS[name](), columns)
    assert list(exact) == columns
    assert {column: fault for column, (_, fault) in exact.items() if fault} == {}
    assert max(difference for difference, _ in exact.values()) < 1e-5


def test_what_is_refused_has_its_operation_named():
    found = SCRIPT["row"](MODELS["Resizing(interpolation=lanczos3)"]())
    reason = "there is no operation for ScaleAndTranslate"
    assert {column: fault for column, (_, fault) in found.items() if fault} == {
        column: reason for column in SCRIPT["COLUMNS"] if not column.startswith("savedmodel")
    }
    page = SCRIPT["page"]({"Resizing(interpolation=lanczos3)": found}, ["Conv2D"])
    assert f"`Resizing(interpolation=lanczos3)`: {reason}." in page
    assert page.endswith("## Not run\n\n`Conv2D`\n")
    assert "1 rows, 8 exports: 1 right, 7 refused, 0 that differ" in page
