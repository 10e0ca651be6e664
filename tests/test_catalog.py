import json
import subprocess
import sys
from pathlib import Path

import pytest

from kerasimg import catalog
from kerasimg.errors import CallError, SpecError
from kerasimg.run_folder import check_classifier

FLAT = {"kerasimg": 1, "model": [{"layer": "Flatten"}]}


@pytest.mark.parametrize("name", catalog.zoo_names())
def test_every_spec_of_the_zoo_loads_under_its_own_name(name):
    spec = catalog.load(name, partial=True)
    assert spec.name == name.rsplit("/", 1)[-1]
    assert spec.about
    assert spec.card.license
    assert spec.file == f"zoo/{name}.json"


@pytest.mark.parametrize("ref", ["mobilenet", "zoo/mobilenet", "mobilenet.json", "zoo/mobilenet.json"])
def test_a_zoo_spec_is_found_by_each_form_of_its_name(monkeypatch, tmp_path, ref):
    monkeypatch.chdir(tmp_path)
    assert catalog.locate(ref).path == catalog.ZOO / "mobilenet.json"
    assert catalog.locate(ref).label == "zoo/mobilenet.json"


def test_a_file_is_preferred_to_a_zoo_spec_of_the_same_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("mobilenet.json").write_text(json.dumps({**FLAT, "name": "mine"}))
    assert catalog.load("mobilenet.json").name == "mine"
    assert catalog.load("mobilenet").name == "mobilenet"


def test_a_spec_is_a_name_a_path_a_dict_or_a_loaded_one(tmp_path):
    path = tmp_path / "flat.json"
    path.write_text(json.dumps(FLAT))
    by_path, by_text, by_dict = catalog.load(path), catalog.load(str(path)), catalog.load(FLAT)
    assert by_path.nodes == by_text.nodes == by_dict.nodes
    assert (by_path.name, by_dict.name) == ("flat", "spec")
    assert catalog.load(by_path) is by_path


def test_an_unknown_name_suggests_the_nearest_and_how_to_list_all():
    with pytest.raises(CallError) as caught:
        catalog.load("mobilnet")
    assert str(caught.value).startswith(
        'no file or folder "mobilnet" and no zoo spec "mobilnet"; did you mean \'mobilenet\'? (kerasimg zoo list '
        "shows all "
    )


def test_a_folder_of_a_similar_name_beside_a_missing_one_is_suggested(tmp_path: Path):
    (tmp_path / "photos-1").mkdir()
    with pytest.raises(CallError, match=f"did you mean '{tmp_path.as_posix()}/photos-1'"):
        catalog.load(tmp_path / "photo-1")


def test_a_parent_is_looked_up_beside_the_spec_then_in_the_zoo(tmp_path):
    (tmp_path / "base.json").write_text(json.dumps(FLAT))
    (tmp_path / "child.json").write_text(json.dumps({"kerasimg": 1, "extends": "base.json"}))
    (tmp_path / "other.json").write_text(json.dumps({"kerasimg": 1, "extends": "simple_cnn"}))
    assert len(catalog.load(tmp_path / "child.json").nodes) == 1
    assert len(catalog.load(tmp_path / "other.json").nodes) == 7


def test_a_child_is_identified_by_its_own_file_not_its_parents(tmp_path):
    path = tmp_path / "child.json"
    path.write_text(json.dumps({"kerasimg": 1, "extends": "simple_cnn"}))
    assert catalog.load(path).file == str(path)
    path.write_text(json.dumps({"kerasimg": 1, "extends": "simple_cnn", "model": [{"backbone": "child.json"}]}))
    with pytest.raises(SpecError, match="a backbone within itself"):
        catalog.load(path)


def test_an_error_names_a_file_as_the_user_wrote_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("sub/base.json").write_text("{")
    Path("sub/child.json").write_text(json.dumps({"kerasimg": 1, "extends": "base.json"}))
    with pytest.raises(SpecError, match=r"^base\.json: line 1, column 2: not JSON: "):
        catalog.load("sub/child.json")
    with pytest.raises(SpecError, match=r"^sub/base\.json: line 1"):
        catalog.load("sub/base.json")


@pytest.mark.parametrize(
    ("text", "place"),
    [('{"kerasimg": 1,\n "name": "mine",\n\n}', "line 2, column 16"), ('{"model": [1, 2, ]}', "line 1, column 16")],
)
def test_a_comma_too_many_is_named_where_it_is(tmp_path, text, place):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(SpecError, match=rf"{place}: not JSON: a comma too many, after the last value; remove it"):
        catalog.load(tmp_path / "mine.json")


def test_loading_a_spec_imports_neither_keras_nor_tensorflow_nor_numpy():
    code = (
        "import sys, kerasimg; assert kerasimg.load('mobilenet', num_classes=5).params['num_classes'] == 5;"
        "print([name for name in ('keras', 'tensorflow', 'numpy', 'PIL', 'jax', 'torch') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_missing_run_names_those_that_exist(tmp_path, monkeypatch):
    (tmp_path / "runs" / "pets-1").mkdir(parents=True)
    (tmp_path / "runs" / "pets-1" / "model.keras").write_bytes(b"")
    (tmp_path / "runs" / "pets-tune-1").mkdir()
    (tmp_path / "runs" / "pets-tune-1" / "spec.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    check_classifier("runs/pets-1")
    check_classifier("efficientnet_lite0")
    with pytest.raises(CallError, match=r'no spec "qqq"; runs here: runs/pets-1$'):
        check_classifier("qqq")
    (tmp_path / "cat.JPG").write_bytes(b"")
    with pytest.raises(CallError, match=r'"cat\.JPG" is an image; the run comes first'):
        check_classifier("cat.JPG")
    with pytest.raises(CallError, match="did you mean 'runs/pets-1'"):
        check_classifier("runs/pets-2")
