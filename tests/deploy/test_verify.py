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


def update_hashes(folder: Path) -> None:
    """Updates the hashes in the manifest."""
    bundle = Bundle.open(folder, check=False)
    write(folder / "manifest.json", bundle.manifest.model_copy(update={"files": list_files(folder)}))


@pytest.mark.parametrize("name", ["litert", "onnx", "openvino"])
def test_verify_needs_neither_tensorflow_nor_keras(exported: dict[str, Bundle], run: Run, name: str):
    where = json.loads((run.folder / "data.json").read_text())["where"]
    code = (
        "import sys, kerasimg\n"
        f"result = kerasimg.verify({str(exported[name].folder)!r}, data={where!r}, verbose=0)\n"
        "print(all(row.passed for row in result.vectors), result.pixels, len(result.vectors))\n"
        "print(sorted({'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines() == [f"True 0 {len(exported[name].models)}", "[]"]


def test_other_images_are_compared_with_the_predictions_of_the_run(
    exported: dict[str, Bundle], run: Run, caplog: pytest.LogCaptureFixture
):
    record = json.loads((run.folder / "data.json").read_text())
    test = [image for image in record["images"] if image["part"] == "test"]
    manifest = run.folder / "test.jsonl"
    rows = [{"path": str(Path(record["where"]) / image["id"]), "label": image["labels"][0]} for image in test]
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    result = kerasimg.verify(exported["onnx"], data=manifest)
    assert result.accuracy == {"model.onnx": 1.0}
    assert result.data == []
    assert caplog.messages[-1] == f"model.onnx: accuracy 1.0000 on 9 images of {manifest}"
    assert not any("trained on" in message for message in caplog.messages)
    first = next(image for image in record["images"] if image["part"] == "train")
    trained = {"path": str(Path(record["where"]) / first["id"]), "label": first["labels"][0]}
    some = run.folder / "some.jsonl"
    some.write_text("\n".join(json.dumps(row) for row in [*rows, trained]))
    kerasimg.verify(exported["onnx"], data=some)
    assert any("warning: 1 of 10 images was trained on" in message for message in caplog.messages)
    predictions = run.folder / "expected.csv"
    text = (run.folder / "evaluation" / "predictions.csv").read_text()
    for image, row in zip(test, rows, strict=True):
        text = text.replace(image["id"], row["path"])
    predictions.write_text(text)
    result = kerasimg.verify(exported["onnx"], data=manifest, expected=predictions)
    assert [row.images for row in result.data] == [9]
    assert result.data[0].greatest_difference < 1e-5


def test_wrong_model_in_a_valid_bundle_exits_with_4_and_names_the_images(
    exported: dict[str, Bundle], copy: Callable[[str], Path], run: Run
):
    wrong = Classifier.open(run)
    wrong.model.set_weights([weights[..., ::-1] for weights in wrong.model.get_weights()])
    folder = copy("litert")
    from kerasimg.deploy.export_context import Exporting, Options
    from kerasimg.deploy.targets import target

    target("litert").write(Exporting(wrong, None, None, Options(("float32",))), folder, "float32")
    with pytest.raises(WeightsError, match=r"model_float32.tflite' has"):
        kerasimg.verify(folder)
    update_hashes(folder)
    with pytest.raises(GateError, match=r"model_float32.tflite: differs by") as caught:
        kerasimg.verify(folder)
    assert caught.value.exit_code == 4
    assert any(vector.name in str(caught.value) for vector in exported["litert"].vectors())
    assert "model_float16" not in str(caught.value)


def test_image_that_decodes_differently_is_reported(copy: Callable[[str], Path]):
    folder = copy("onnx")
    pixels = np.load(folder / "vectors" / "0.input.npy")
    PIL.Image.fromarray(255 - pixels).save(folder / "vectors" / "0.png")
    update_hashes(folder)
    with pytest.raises(GateError, match=r"0.png' decodes differently here: a pixel differs by \d+/255"):
        kerasimg.verify(folder)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("model.onnx", b"not a model", WeightsError, "model.onnx' cannot be opened"),
        ("model.onnx", b"", WeightsError, "model.onnx' cannot be opened"),
        ("vectors/expected.json", b"{}", CallError, "the test vectors cannot be read"),
        ("vectors/0.input.npy", b"\x93NUMPY", CallError, "the test vectors cannot be read"),
        ("vectors/0.png", b"GIF89a", DataError, "0.png"),
    ],
)
def test_invalid_files_are_reported_in_one_error(
    copy: Callable[[str], Path], name: str, content: bytes, error: type[Exception], message: str
):
    folder = copy("onnx")
    (folder / name).write_bytes(content)
    update_hashes(folder)
    with pytest.raises(error) as caught:
        kerasimg.verify(folder)
    assert message in str(caught.value)


def test_pickle_among_the_vectors_is_not_loaded(copy: Callable[[str], Path]):
    folder = copy("onnx")
    np.save(folder / "vectors" / "0.input.npy", np.array([print], dtype=object), allow_pickle=True)
    update_hashes(folder)
    with pytest.raises(CallError, match="the test vectors cannot be read"):
        kerasimg.verify(folder)


def test_error_names_a_runtime_that_is_not_installed(exported: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CallError, match=r'onnxruntime is not installed .* pip install "kerasimg\[onnx\]"'):
        kerasimg.verify(exported["onnx"])


def test_bundle_can_be_moved(exported: dict[str, Bundle], tmp_path: Path):
    folder = shutil.copytree(exported["litert"].folder, tmp_path / "elsewhere")
    assert all(row.passed for row in kerasimg.verify(folder).vectors)
