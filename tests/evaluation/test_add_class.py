"""One more class from a few images: recognised, the old classes as before, an ordinary run, undone."""

import shutil

import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy.predict import choose_bundle
from kerasimg.errors import CallError
from kerasimg.models.classifier import Classifier
from kerasimg.reporting.images import Example
from kerasimg.reporting.report import explain_all
from kerasimg.staleness import stale_bundle


def yellow(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        np.tile(np.clip(np.array([200, 200, 60]) + random.normal(0, 15, 3), 0, 255), (4, 4, 1)).astype("u1")
        for _ in range(count)
    ]


def test_a_class_is_added_from_five_images_and_removed_again(tmp_path, evaluated_once):
    run = Run(shutil.copytree(evaluated_once("multiclass", sure=0.02), tmp_path / "run"))
    kerasimg.known(run, 0.1, method="distance")
    probe = [np.full((4, 4, 3), (200, 205, 55), np.uint8), np.full((4, 4, 3), (200, 60, 60), np.uint8)]
    before = kerasimg.predict(run, probe, verbose=0)
    result = run.add_class("yellow", yellow(5))
    assert f"kerasimg run known {run.folder}" in " ".join(result.warnings)
    assert result.classes == ("blue", "green", "red", "yellow")
    assert result.left_out == 1.0
    assert result.old["n"] == 60
    assert result.old["interval"][0] <= result.old["difference"] <= result.old["interval"][1] <= 0
    new, red = kerasimg.predict(run, probe, verbose=0)
    assert (new.label, red.label) == ("yellow", "red")
    assert red.probabilities["red"] > 0.9 * before[1].probabilities["red"]
    assert new.p_value >= before[0].p_value
    # An ordinary run: it is evaluated, packed, and gets another class.
    assert kerasimg.evaluate(run, verbose=0).accuracy == pytest.approx(result.old["after"])
    [bundle] = kerasimg.export(run, "onnx", verbose=0)
    [row] = bundle.manifest.parity
    assert (bundle.classes, row.same_decision, row.same_known) == (result.classes, 1.0, 1.0)
    assert (stale_bundle(bundle.folder), choose_bundle(run.folder, probe) is None) == (None, False)
    kerasimg.pack(run, tmp_path / "four.kerasimg")
    assert kerasimg.predict(tmp_path / "four.kerasimg", probe, verbose=0)[0].label == "yellow"
    with pytest.raises(CallError, match="has a class 'yellow' already"):
        run.add_class("yellow", yellow(1))
    assert kerasimg.add_class(run, undo=True).classes == ("blue", "green", "red")
    assert stale_bundle(bundle.folder).why == "the model's weights have changed since"
    # The evaluation is still that of four classes: what it says of the fourth cannot be explained any more.
    examples = [Example("probe", "red", name, name, 0.9) for name in ("yellow", "red")]
    assert set(explain_all(Classifier.open(run), examples, {"probe": probe[1]})[0]) == {("probe", "red")}
    assert kerasimg.predict(run, probe, verbose=0)[0].p_value == before[0].p_value
    with pytest.raises(CallError, match="no class was added"):
        kerasimg.add_class(run, undo=True)
