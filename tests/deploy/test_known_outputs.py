"""The rule for unknown images in exported models: the p-values of Keras on every target, or none."""

import base64
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.predict import choose_bundle
from kerasimg.deploy.targets import open_here
from kerasimg.deploy.web import browser
from kerasimg.errors import GateError
from kerasimg.models.classifier import Classifier, set_decisions
from kerasimg.spec.pack import SetRule
from kerasimg.staleness import stale_bundle, stale_files

TARGETS = ("onnx", "openvino", "savedmodel")


@pytest.fixture(scope="module")
def known_run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of `conftest.py`, with a rule for unknown images."""
    folder = tmp_path_factory.mktemp("known") / "run"
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("export"))
    where = json.loads((folder / "data.json").read_text())["where"]
    kerasimg.known(folder, 0.3, method="distance", data=where)
    return Run(folder)


@pytest.fixture(scope="module")
def bundles(known_run: Run) -> dict[str, Bundle]:
    [litert] = kerasimg.export(known_run, "litert", precision=["float32", "int8"], verbose=0)
    exported = [litert, *kerasimg.export(known_run, TARGETS, verbose=0)]
    return {bundle.manifest.target: bundle for bundle in exported}


def test_p_values_are_those_of_keras_on_every_target(known_run: Run, bundles: dict[str, Bundle]):
    rng = np.random.default_rng(0)
    colours = np.eye(3)[rng.integers(0, 3, 40)][:, None, None] * 200
    pixels = np.clip(colours + rng.normal(20, 20, (40, 8, 8, 3)), 0, 255).astype(np.uint8)
    expected = Classifier.open(known_run).answer(pixels.astype(np.float32))
    assert len(set(expected.p_values)) > 2
    for name, bundle in bundles.items():
        rule = bundle.manifest.known
        assert rule.rule.share == 0.3
        for model in bundle.models:
            if model.precision == "int8":
                continue
            answer = open_here(bundle, model).answer(pixels)
            assert model.outputs == ["probabilities", "p_value"], name
            assert np.abs(answer.probabilities - expected.probabilities).max() < 0.01
            assert np.abs(answer.p_values - expected.p_values).max() <= 2.001 * rule.step, (name, model.precision)
            [row] = [row for row in bundle.manifest.parity if row.path == model.path]
            assert row.passed
            assert row.p_value_difference <= row.tolerance.p_value


def test_predict_uses_a_bundle_with_the_rule_of_the_run(known_run: Run, bundles: dict[str, Bundle], tmp_path: Path):
    image = np.full((8, 8, 3), 200, np.uint8)
    bundled = choose_bundle(known_run.folder, image)
    assert bundled is not None
    [fast] = kerasimg.predict(known_run.folder, image, verbose=0)
    [slow] = kerasimg.predict(known_run.folder / "model.keras", image, verbose=0)
    assert (fast.known, fast.p_value) == (slow.known, slow.p_value)
    other = shutil.copytree(known_run.folder, tmp_path / "run")
    assert [each for each in stale_files(other) if each.path.name == "manifest.json"] == []
    kerasimg.known(other, undo=True)
    assert choose_bundle(other, image) is None  # its bundles have a rule that the run has not
    stale = stale_bundle(other / "export" / "litert")
    assert stale.why == "the run's rule for unknown images has been removed since"
    assert [each.why for each in stale_files(other) if each.path.name == "manifest.json"] == [stale.why] * 4


def test_verify_compares_p_values(bundles: dict[str, Bundle], tmp_path: Path):
    folder = Path(shutil.copytree(bundles["litert"].folder, tmp_path / "litert"))
    assert kerasimg.verify(folder, verbose=0).vectors[0].p_value_difference == 0
    expected = json.loads((folder / "vectors/expected.json").read_text())
    expected["vectors"][0]["p_value"] = 1 - expected["vectors"][0]["p_value"] / 2
    (folder / "vectors/expected.json").write_text(json.dumps(expected))
    with pytest.raises(GateError, match="a p-value differs by"):
        kerasimg.verify(Bundle.open(folder, check=False), verbose=0)


def test_a_precision_without_p_values_says_so(bundles: dict[str, Bundle]):
    bundle = bundles["litert"]
    float32, int8 = bundle.models
    assert (float32.outputs, int8.outputs) == (["probabilities", "p_value"], ["probabilities"])
    assert list(bundle.manifest.notes["no_p_values"]) == [int8.path]
    readme = (bundle.folder / "README.md").read_text()
    assert "Output 2, `p_value`" in readme
    assert f"`{int8.path}` gives no p-value" in readme


@pytest.mark.skipif(browser.available() is not None, reason=str(browser.available()))
def test_the_page_gives_the_p_value_and_the_prediction_set(known_run: Run, runtime: Path, tmp_path: Path):
    folder = Path(shutil.copytree(known_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("export")))
    classifier = Classifier.open(folder)
    set_decisions(folder / "model.keras", replace(classifier, sets=SetRule(method="raps", coverage=0.9, limits=[0.97])))
    [bundle] = kerasimg.export(folder, "web", images=2, verbose=0)
    assert bundle.manifest.parity[0].p_value_difference == 0
    with browser.Browser((bundle.folder / "demo.html").resolve().as_uri()) as page:
        for colour in ((200, 30, 30), (120, 110, 100)):
            image = np.full((8, 8, 3), colour, np.uint8)
            file = io.BytesIO()
            PIL.Image.fromarray(image).save(file, "PNG")
            answer = page.driver.execute_async_script(CLASSIFY, base64.b64encode(file.getvalue()).decode())
            [expected] = kerasimg.predict(folder / "model.keras", image, verbose=0)
            assert (answer["known"], tuple(answer["set"])) == (expected.known, expected.set)
            assert answer["pValue"] == pytest.approx(expected.p_value)


CLASSIFY = """
const bytes = Uint8Array.from(atob(arguments[0]), (character) => character.charCodeAt(0));
window.kerasimg.then((classifier) => classifier.classify(new Blob([bytes]))).then(arguments[1]);
"""
