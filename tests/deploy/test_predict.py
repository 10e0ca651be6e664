"""`predict` by a bundle of the run: when it is used, and that its results are those of the trained model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.predict import MOST, SAME, choose_bundle
from kerasimg.escaping import path_from_here
from kerasimg.models.classifier import Classifier, set_decisions
from kerasimg.spec.pack import SetRule

PIXELS = np.random.default_rng(0).integers(0, 256, (MOST, 8, 8, 3), "uint8")


@pytest.fixture
def copied(run: Run, exported: dict[str, Bundle], tmp_path: Path) -> Path:
    """The run's folder with its bundles, which a test may change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def edit_manifests(folder: Path, edit: Callable[[dict], None]) -> None:
    for path in folder.glob("export/*/manifest.json"):
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))


def test_a_bundle_predicts_what_the_trained_model_does_and_is_named(copied: Path, caplog: pytest.LogCaptureFixture):
    rule = SetRule(method="lac", coverage=0.9, limits=[0.7])
    set_decisions(copied / "model.keras", replace(Classifier.open(copied), sets=rule))
    with caplog.at_level("INFO", logger="kerasimg"):
        bundled = Run(copied).predict(PIXELS)
    by_keras = kerasimg.predict(copied / "model.keras", PIXELS)
    assert [message.split(" (")[0] for message in caplog.messages] == [
        f"predicting with {choose_bundle(copied, PIXELS[0]).bundle.folder}/{choose_bundle(copied, PIXELS).model.path}"
    ]
    for ours, theirs in zip(bundled, by_keras, strict=True):
        assert (ours.file, ours.label, ours.set) == (theirs.file, theirs.label, theirs.set)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=SAME)


def test_images_from_a_generator_are_predicted(copied: Path):
    assert len(kerasimg.predict(copied, (image for image in PIXELS[:3]))) == 3


def test_the_fastest_verified_model_is_chosen(copied: Path):
    def only_onnx_is_fast(content: dict) -> None:
        for row in content["parity"]:
            row["p50_ms"] = 0.001 if content["target"] == "onnx" else 5.0

    edit_manifests(copied, only_onnx_is_fast)
    assert choose_bundle(copied, PIXELS).runtime.name.startswith("onnxruntime")


UNFIT: dict[str, Callable[[Path], None]] = {
    "it failed the comparison": lambda folder: edit_manifests(
        folder, lambda content: [row.update(passed=False) for row in content["parity"]]
    ),
    "it differs by more than the tolerance": lambda folder: edit_manifests(
        folder, lambda content: [row.update(greatest_difference=2 * SAME) for row in content["parity"]]
    ),
    "it was not compared": lambda folder: edit_manifests(folder, lambda content: content.update(parity=[])),
    "it does not say which model it is of": lambda folder: edit_manifests(
        folder, lambda content: content.update(model=None)
    ),
    "the model has another temperature now": lambda folder: set_decisions(
        folder / "model.keras", replace(Classifier.open(folder), temperature=2.0)
    ),
    "its files have changed": lambda folder: [
        path.write_bytes(path.read_bytes() + b"x")
        for path in folder.glob("export/*/*")
        if path.suffix in (".tflite", ".onnx", ".bin")
    ],
    "its manifest is damaged": lambda folder: [path.write_text("{") for path in folder.glob("export/*/manifest.json")],
    "there is none": lambda folder: shutil.rmtree(folder / "export"),
}


@pytest.mark.parametrize("reason", UNFIT)
def test_keras_predicts_where_no_bundle_is_verified_and_says_so_if_they_are_stale(
    copied: Path, reason: str, caplog: pytest.LogCaptureFixture
):
    UNFIT[reason](copied)
    caplog.clear()
    assert choose_bundle(copied, PIXELS) is None
    with caplog.at_level("INFO", logger="kerasimg"):
        assert kerasimg.predict(copied, PIXELS[0])[0].label in Run(copied).classes
    told = [message for message in caplog.messages if "stale" in message]
    assert len(told) == ("another temperature" in reason)
    assert not told or (
        "with Keras" in told[0] and f"to renew it: kerasimg export {path_from_here(copied)} --to " in told[0]
    )


def test_keras_predicts_many_images_and_a_named_model_file(copied: Path):
    assert choose_bundle(copied, np.concatenate([PIXELS, PIXELS[:1]])) is None
    assert choose_bundle(copied / "model.keras", PIXELS) is None
    assert choose_bundle(Classifier.open(copied), PIXELS) is None


def test_the_command_starts_without_keras_and_prints_what_it_prints_with_it(copied: Path):
    image = sorted((copied / "export").glob("litert/vectors/*.png"))[0]
    slow = {
        "fastapi",
        "jax",
        "keras",
        "matplotlib",
        "onnx",
        "pandas",
        "pyarrow",
        "scipy",
        "sklearn",
        "tensorflow",
        "torch",
    }
    code = (
        "import sys; from kerasimg.__main__ import main\n"
        "try: main()\n"
        f"finally: print(sorted({slow} & set(sys.modules)), file=sys.stderr)"
    )

    def predict(run: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "predict", str(run), str(image)]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    bundled = predict(copied)
    assert "predicting with" in bundled.stderr
    assert bundled.stderr.endswith("[]\n")
    assert bundled.stdout == predict(copied / "model.keras").stdout
