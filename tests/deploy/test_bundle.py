import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kerasimg.api import Run
from kerasimg.deploy.bundle import Bundle
from kerasimg.errors import CallError, WeightsError


def edit(folder: Path, **fields: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_error_names_every_missing_or_changed_file(copy: Callable[[str], Path]):
    folder = copy("onnx")
    (folder / "classes.json").unlink()
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with (folder / "README.md").open("a") as file:
        file.write("more")
    with pytest.raises(WeightsError) as caught:
        Bundle.open(folder)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "README.md' has" in lines[0]
    assert "classes.json' is missing" in lines[1]
    assert "model.onnx' has changed: its SHA-256 is not the one in the manifest" in lines[2]


def test_model_is_selected_by_path_or_precision(exported: dict[str, Bundle]):
    bundle = exported["litert"]
    assert bundle.model() is bundle.models[0]
    assert bundle.model("int8") is bundle.model("model_int8.tflite")
    with pytest.raises(CallError, match=r"has no model 'model_int8.tflit'; did you mean 'model_int8.tflite'"):
        bundle.model("model_int8.tflit")


def test_size_of_a_model_includes_all_its_files(exported: dict[str, Bundle]):
    for name, other_file in (("openvino", "model_float32.bin"), ("savedmodel", "saved_model/saved_model.pb")):
        bundle = exported[name]
        total = bundle.model_bytes(bundle.model())
        assert (bundle.folder / other_file).stat().st_size < total
    litert = exported["litert"]
    assert litert.model_bytes(litert.model("int8")) == (litert.folder / "model_int8.tflite").stat().st_size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kerasimg_bundle": 2}, "kerasimg_bundle: expected 1, found 2"),
        ({"models": []}, "models: "),
        ({"task": "multi"}, "task: "),
        ({"surprise": 1}, "surprise: "),
        ({"files": [{"path": "../../etc/passwd", "bytes": 1, "sha256": "0" * 64}]}, "below the bundle's folder"),
        ({"files": [{"path": "/etc/passwd", "bytes": 1, "sha256": "0" * 64}]}, "below the bundle's folder"),
        ({"files": [{"path": "a\\..\\b", "bytes": 1, "sha256": "0" * 64}]}, "below the bundle's folder"),
        ({"classes": 4}, "expected 4 names, found 3"),
    ],
)
def test_invalid_manifest_is_refused(copy: Callable[[str], Path], fields: dict[str, Any], message: str):
    folder = copy("keras")
    edit(folder, **fields)
    with pytest.raises(CallError) as caught:
        Bundle.open(folder, check=False)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", b"[1, 2", "is not JSON"),
        ("manifest.json", b"[" * 100_000, "is not JSON"),
        ("manifest.json", b"\xff\xfe", "cannot be read"),
        ("manifest.json", b"[]", "kerasimg_bundle: expected 1"),
        ("classes.json", b'{"a": 1}', "expected a list of names"),
        ("preprocess.json", b'{"size": [8, 0]}', "size.1"),
        ("preprocess.json", b'{"sizes": [8, 8]}', "sizes"),
    ],
)
def test_error_names_an_invalid_file(copy: Callable[[str], Path], name: str, content: bytes, message: str):
    folder = copy("keras")
    (folder / name).write_bytes(content)
    with pytest.raises(CallError) as caught:
        Bundle.open(folder, check=False)
    assert name in str(caught.value)
    assert message in str(caught.value)


def test_link_out_of_the_bundle_is_refused(copy: Callable[[str], Path], tmp_path: Path):
    folder = copy("keras")
    outside = tmp_path / "outside.json"
    (folder / "classes.json").rename(outside)
    (folder / "classes.json").symlink_to(outside)
    with pytest.raises(WeightsError, match="is a link to a place outside the bundle"):
        Bundle.open(folder)


def test_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path):
    with pytest.raises(CallError, match="is not a bundle"):
        Bundle.open(tmp_path / "gone")


def test_the_bundles_of_a_run_are_named_where_the_run_is_given(exported: dict[str, Bundle], run: Run):
    with pytest.raises(CallError, match=r"is not a bundle: .*; these are: '.*export/\w+', "):
        Bundle.open(run.folder)
