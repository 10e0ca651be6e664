"""Bundles, packs and pages of a run whose model has changed since they were written."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import kerasimg
from kerasimg import cli
from kerasimg.deploy.serve import server
from kerasimg.errors import GateError
from kerasimg.escaping import path_from_here
from kerasimg.models.classifier import Classifier, set_decisions
from kerasimg.spec.pack import Pack
from kerasimg.staleness import stale_files
from kerasimg.training.distillation import check_same_teacher, locate_teacher

WHY = "the model's temperature was 1 and is 2 now"


@pytest.fixture
def recalibrated(run, tmp_path) -> Path:
    """A run with figures, a page and a bundle, whose temperature was changed afterwards."""
    folder = Path(shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("export")))
    kerasimg.report(folder)
    kerasimg.export(folder, "keras")
    assert stale_files(folder) == []
    set_decisions(folder / "model.keras", replace(Classifier.open(folder), temperature=2.0))
    return folder


def test_verify_fails_on_a_stale_bundle_until_it_is_exported_again(recalibrated, monkeypatch, capfd):
    bundle = recalibrated / "export" / "keras"
    with pytest.raises(
        GateError, match=f"{WHY}; to renew it: kerasimg export {path_from_here(recalibrated)} --to keras"
    ):
        kerasimg.verify(bundle)
    monkeypatch.setattr("sys.argv", ["kerasimg", "run", "verify", str(bundle)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, WHY in capfd.readouterr().err) == (4, True)
    kerasimg.export(recalibrated, "keras")
    kerasimg.verify(bundle)


def test_moved_bundle_and_bundle_without_identity_are_not_stale(recalibrated, tmp_path):
    bundle = recalibrated / "export" / "keras"
    kerasimg.verify(shutil.copytree(bundle, tmp_path / "elsewhere"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["model"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    kerasimg.verify(bundle)


def test_bundle_outside_its_run_is_stale_if_the_run_exists(run, tmp_path, monkeypatch, caplog):
    folder = Path(shutil.copytree(run.folder, tmp_path / "runs" / "photos-1"))
    (bundle,) = kerasimg.export(folder, "litert", out=tmp_path / "phone")
    assert bundle.manifest.run == "../../runs/photos-1"
    kerasimg.verify(bundle.folder)
    set_decisions(folder / "model.keras", replace(Classifier.open(folder), temperature=2.0))
    monkeypatch.chdir(tmp_path)
    renew = f"{WHY}; to renew it: kerasimg export runs/photos-1 --to litert --out phone"
    with pytest.raises(GateError, match=renew):
        kerasimg.verify(bundle.folder)
    monkeypatch.setattr(server, "_serve_here", lambda *given: None)  # would block
    with caplog.at_level(logging.WARNING, "kerasimg"):
        server.serve(bundle.folder, port=0)
    assert renew in caplog.text
    folder.rename(tmp_path / "runs" / "gone")
    kerasimg.verify(bundle.folder)


def test_export_lists_files_that_are_still_stale(recalibrated, caplog):
    with caplog.at_level(logging.WARNING, "kerasimg"):
        kerasimg.export(recalibrated, "keras")
    named = [line.split("'")[1].rsplit("/", 1)[1] for line in caplog.messages if WHY in line]
    assert named == ["metrics.json", "report.html", "MODEL_CARD.md"]


def test_report_marks_stale_scores_until_they_are_evaluated_again(recalibrated, caplog):
    with caplog.at_level(logging.WARNING, "kerasimg"):
        page = kerasimg.report(recalibrated)
    assert f"is stale: {WHY}; to renew it: kerasimg evaluate {recalibrated}" in caplog.text
    for file in (page, recalibrated / "MODEL_CARD.md"):
        assert WHY.replace("'", "&#39;") in file.read_text() or WHY in file.read_text()
    assert {each.path.name for each in stale_files(recalibrated)} >= {"report.html", "MODEL_CARD.md"}
    kerasimg.evaluate(recalibrated)
    kerasimg.report(recalibrated)
    assert "Stale figures" not in page.read_text()
    assert [each.path.parent.name for each in stale_files(recalibrated)] == ["keras"]


def test_pack_omits_stale_scores_and_a_stale_card(recalibrated, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "kerasimg"):
        pack = Pack(kerasimg.pack(recalibrated, tmp_path / "stale.kerasimg"))
    assert (pack.manifest.figures, pack.read("MODEL_CARD.md")) == ({}, b"")
    assert f"kerasimg evaluate {recalibrated}" in caplog.text
    kerasimg.evaluate(recalibrated)
    kerasimg.report(recalibrated)
    pack = Pack(kerasimg.pack(recalibrated, tmp_path / "fresh.kerasimg"))
    assert "accuracy" in pack.manifest.figures
    assert pack.read("MODEL_CARD.md")
    assert pack.manifest.weights == Classifier.open(recalibrated).identity()["weights"]
    # The weights of a pack are the run's.
    assert Classifier.open(pack.path).identity() == Classifier.open(recalibrated).identity()


def test_serve_warns_about_a_stale_bundle(recalibrated, monkeypatch, caplog):
    monkeypatch.setattr(server, "_serve_here", lambda *given: None)  # would block
    with caplog.at_level(logging.WARNING, "kerasimg"):
        server.serve(recalibrated / "export" / "keras", port=0)
    assert caplog.messages == [
        f"warning: '{recalibrated}/export/keras' is stale: {WHY}; to renew it: "
        f"kerasimg export {path_from_here(recalibrated)} --to keras"
    ]


def test_calibration_does_not_change_a_teacher_but_other_weights_do(run, tmp_path, tiny):
    folder = Path(shutil.copytree(run.folder, tmp_path / "teacher", ignore=shutil.ignore_patterns("export")))
    spec, noted = locate_teacher(kerasimg.load(tiny(fit={"teacher": {"run": str(folder)}}), num_classes=3))
    set_decisions(folder / "model.keras", replace(Classifier.open(folder), temperature=2.0))
    check_same_teacher(spec, noted)
    classifier = Classifier.open(folder)
    classifier.model.set_weights([array + 1 for array in classifier.model.get_weights()])
    classifier.save(folder / "model.keras")
    with pytest.raises(kerasimg.errors.WeightsError, match="it has changed"):
        check_same_teacher(spec, noted)
