import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy.bundle import Bundle, list_files
from kerasimg.deploy.manifest import write
from kerasimg.errors import CallError, DataError, GateError, WeightsError
from kerasimg.models.classifier import Classifier


def seal(folder: Path) -> None:
    """Make the manifest tell what the files are now."""
    bundle = Bundle.open(folder, check=False)
    write(folder / "manifest.json", bundle.manifest.model_copy(update={"files": list_files(folder)}))


@pytest.mark.parametrize("name", ["litert", "onnx", "openvino"])
def test_a_bundle_is_verified_without_tensorflow_and_keras(exported: dict[str, Bundle], run: Run, name: str):
    where = json.loads((run.folder / "data.json").read_text())["where"]
    code = (
        "import sys, kerasimg\n"
        f"found = kerasimg.verify({str(exported[name].folder)!r}, data={where!r}, verbose=0)\n"
        "print(all(row.passed for row in found.vectors), found.pixels, len(found.vectors))\n"
        "print(sorted({'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"True 0 {len(exported[name].models)}", "[]"]


def test_other_images_are_compared_with_what_the_run_said_of_them(
    exported: dict[str, Bundle], run: Run, caplog: pytest.LogCaptureFixture
):
    kept = json.loads((run.folder / "data.json").read_text())
    test = [image for image in kept["images"] if image["part"] == "test"]
    manifest = run.folder / "test.jsonl"
    rows = [{"path": str(Path(kept["where"]) / one["id"]), "label": one["labels"][0]} for one in test]
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    found = kerasimg.verify(exported["onnx"], data=manifest)
    assert found.accuracy == {"model.onnx": 1.0}
    assert found.data == []
    assert caplog.messages[-1] == f"model.onnx: accuracy 1.0000 on 9 images of {manifest}"
    predictions = run.folder / "expected.csv"
    text = (run.folder / "evaluation" / "predictions.csv").read_text()
    for one, row in zip(test, rows, strict=True):
        text = text.replace(one["id"], row["path"])
    predictions.write_text(text)
    found = kerasimg.verify(exported["onnx"], data=manifest, expected=predictions)
    assert [row.images for row in found.data] == [9]
    assert found.data[0].greatest_difference < 1e-5


def test_a_wrong_model_in_a_sound_bundle_ends_with_4_and_names_the_images(
    exported: dict[str, Bundle], copy: Callable[[str], Path], run: Run
):
    wrong = Classifier.open(run)
    wrong.model.set_weights([weights[..., ::-1] for weights in wrong.model.get_weights()])
    folder = copy("litert")
    from kerasimg.deploy.export_context import Exporting, Options
    from kerasimg.deploy.targets import target

    target("litert").write(Exporting(wrong, None, None, Options(("float32",))), folder, "float32")
    with pytest.raises(WeightsError, match=r"model_float32.tflite' (was altered|has)"):
        kerasimg.verify(folder)
    seal(folder)
    with pytest.raises(GateError, match=r"model_float32.tflite: differs by") as caught:
        kerasimg.verify(folder)
    assert caught.value.exit_code == 4
    assert any(vector.name in str(caught.value) for vector in exported["litert"].vectors())
    assert "model_float16" not in str(caught.value)


def test_a_image_that_is_decoded_otherwise_is_told(copy: Callable[[str], Path]):
    folder = copy("onnx")
    pixels = np.load(folder / "vectors" / "0.input.npy")
    PIL.Image.fromarray(255 - pixels).save(folder / "vectors" / "0.png")
    seal(folder)
    with pytest.raises(GateError, match=r"0.png' is decoded otherwise here: a pixel differs by \d+/255"):
        kerasimg.verify(folder)


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("model.onnx", b"not a model", WeightsError, "model.onnx' cannot be opened"),
        ("model.onnx", b"", WeightsError, "model.onnx' cannot be opened"),
        ("vectors/expected.json", b"{}", CallError, "the test vectors cannot be read"),
        ("vectors/0.input.npy", b"\x93NUMPY", CallError, "the test vectors cannot be read"),
        ("vectors/0.png", b"GIF89a", DataError, "0.png"),
    ],
)
def test_hostile_files_are_told_in_one_error(
    copy: Callable[[str], Path], name: str, content: bytes, error: type[Exception], said: str
):
    folder = copy("onnx")
    (folder / name).write_bytes(content)
    seal(folder)
    with pytest.raises(error) as caught:
        kerasimg.verify(folder)
    assert said in str(caught.value)


def test_a_pickle_among_the_vectors_is_not_loaded(copy: Callable[[str], Path]):
    folder = copy("onnx")
    np.save(folder / "vectors" / "0.input.npy", np.array([print], dtype=object), allow_pickle=True)
    seal(folder)
    with pytest.raises(CallError, match="the test vectors cannot be read"):
        kerasimg.verify(folder)


def test_a_runtime_that_is_not_installed_is_named(exported: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CallError, match=r'onnxruntime is not installed .* pip install "kerasimg\[onnx\]"'):
        kerasimg.verify(exported["onnx"])


def test_a_bundle_may_be_moved(exported: dict[str, Bundle], tmp_path: Path):
    folder = shutil.copytree(exported["litert"].folder, tmp_path / "elsewhere")
    assert all(row.passed for row in kerasimg.verify(folder).vectors)
