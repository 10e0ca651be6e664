import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.errors import CallError
from kerasimg.run_folder import RunFolder
from kerasimg.training.run import PACKAGES, create_folder, environment_changes, remove_partial_files, require_place


def test_a_run_folder_has_all_files_of_the_run(run: Run):
    files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert {file for file in files if not file.startswith("evaluation/")} == {
        "spec.json",
        "training.json",
        "classes.json",
        "environment.json",
        "data.json",
        "history.csv",
        "checkpoints/stage-1.weights.h5",
        "model.keras",
    }
    assert {"evaluation/metrics.json", "evaluation/predictions.csv", "evaluation/confusion.png"} < files


def test_classes_are_in_the_order_of_the_outputs(run: Run):
    assert run.classes == ["blue", "green", "red"]
    red = np.full((1, 8, 8, 3), (220, 30, 30), "float32")
    assert run.model.predict(red, verbose=0).argmax() == 2


def test_the_spec_of_a_run_loads_and_builds_the_same_model(run: Run):
    spec = kerasimg.load(run.folder / "spec.json")
    assert spec.params["num_classes"] == 3
    assert spec.resolved == kerasimg.load(spec.resolved).resolved
    built = kerasimg.build(run.folder / "spec.json")
    assert [layer.get_config() for layer in built.layers] == [layer.get_config() for layer in run.model.layers]
    built.load_weights(run.folder / "checkpoints" / "stage-1.weights.h5")
    for item, other in zip(built.get_weights(), run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(item, other)


def test_the_data_of_a_run_is_recorded_by_file_and_hash(run: Run, colours: Path):
    record = RunFolder.of(run).required("data.json")
    assert record["where"] == str(colours)
    assert {key: len(ids) for key, ids in _by_part(record).items()} == {"train": 26, "validation": 5, "test": 5}
    assert all(len(image["sha256"]) == 64 for image in record["images"])


def _by_part(record: dict[str, Any]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for image in record["images"]:
        parts.setdefault(image["part"], []).append(image["id"])
    return parts


def test_the_environment_of_a_run_names_what_results_depend_on(run: Run):
    environment = RunFolder.of(run).required("environment.json")
    assert set(environment["packages"]) == set(PACKAGES)
    assert environment["packages"]["keras"] == keras.__version__
    assert environment["backend"] == keras.backend.backend()


def test_the_model_of_a_run_opens_with_keras_alone(run: Run):
    model = keras.models.load_model(run.folder / "model.keras")
    assert model.output_shape == (None, 3)
    assert model.name == "tiny"


def test_a_run_prints_its_folder_and_its_scores(run: Run):
    assert str(kerasimg.Run(run.folder)) == f"{run.folder} (accuracy 1.000, macro F1 1.000, on 5 test images)"
    assert run.scores["accuracy"] == 1.0


def test_a_run_is_opened_by_its_folder(run: Run):
    assert Run(run.folder) == run
    assert Run(str(run.folder)).history == run.history


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(CallError, match=r"is not the folder of a run: it holds no spec\.json"):
        Run(tmp_path)


def test_a_run_takes_the_number_after_the_highest(tmp_path: Path):
    for name in ("pets-1", "pets-7", "pets-best", "pets-7.old", "other-9"):
        (tmp_path / name).mkdir()
    assert create_folder(tmp_path, "pets").path.name == "pets-8"
    assert create_folder(tmp_path, "pets").path.name == "pets-9"


def test_a_run_folder_taken_by_another_process_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pets-1").mkdir()
    (tmp_path / "pets-1" / "spec.json").write_text("{}")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    assert create_folder(tmp_path, "pets").path.name == "pets-2"
    assert (tmp_path / "pets-1" / "spec.json").read_text() == "{}"


def test_a_run_is_not_created_among_the_images(tmp_path: Path):
    for place in (tmp_path, tmp_path / "runs"):
        with pytest.raises(CallError, match=r"is among the images in .*, and would be read as a class"):
            require_place(place, tmp_path)
    require_place(tmp_path / ".kerasimg" / "runs", tmp_path)
    require_place(tmp_path.parent / "runs", str(tmp_path))


def test_a_killed_run_reports_its_missing_files(tmp_path: Path):
    folder = create_folder(tmp_path, "pets").path
    (folder / "spec.json").write_text("{}")
    run = Run(folder)
    assert str(run) == f"{run.folder} (not evaluated yet)"
    with pytest.raises(
        CallError, match=r"has no evaluation/metrics\.json; for metrics: kerasimg evaluate .* --data DATA"
    ):
        run.scores  # noqa: B018
    with pytest.raises(CallError, match="no trained model"):
        kerasimg.predict(run, [tmp_path])


def test_json_is_written_atomically(tmp_path: Path):
    run = create_folder(tmp_path, "pets")
    run.write_data({"names": ["Käse"]})
    with pytest.raises(TypeError):
        run.write_data({"names": [object()]})
    assert json.loads((run.path / "data.json").read_text(encoding="utf-8")) == {"names": ["Käse"]}
    assert [path.name for path in run.path.iterdir()] == ["data.json"]


def test_a_run_with_a_spec_beside_its_own_opens_from_anywhere(
    train: Callable[..., Run], tiny: Any, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    specs = tmp_path / "specs" / "parts"
    specs.mkdir(parents=True)
    inner = {"kerasimg": 1, "model": [{"layer": "ReLU"}, {"layer": "GlobalAveragePooling2D"}]}
    (specs / "inner.json").write_text(json.dumps(inner))
    outer = tiny(model=[{"backbone": "parts/inner.json"}, *tiny()["model"]])
    (specs.parent / "outer.json").write_text(json.dumps(outer))
    run = train(specs.parent / "outer.json", data=colours, out=tmp_path / "runs")
    (specs.parent / "outer.json").unlink()
    (specs / "inner.json").unlink()
    assert kerasimg.build(run.folder / "spec.json").output_shape == (None, 3)
    (run.folder / "model.keras").rename(tmp_path / "moved.keras")
    monkeypatch.chdir("/")
    (prediction,) = kerasimg.predict(tmp_path / "moved.keras", colours / "red" / "00.png")
    assert prediction.label == "red"


def test_a_run_reports_changes_of_its_environment(run: Run, monkeypatch: pytest.MonkeyPatch):
    assert environment_changes(RunFolder.of(run)) == []
    monkeypatch.setattr("os.cpu_count", lambda: 77)
    began = RunFolder.of(run).required("environment.json")["cores"]
    assert environment_changes(RunFolder.of(run)) == [f"cores was {began}, is 77"]


def test_partial_files_of_a_killed_process_are_removed(tmp_path: Path):
    run = create_folder(tmp_path, "pets")
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / ".partial-stage-1.weights.h5").touch()
    (run.path / "notes.txt").touch()
    remove_partial_files(run)
    assert [path.name for path in run.path.rglob("*") if path.is_file()] == ["notes.txt"]


def test_a_run_folder_is_created_atomically(tmp_path: Path):
    def fill(draft: RunFolder) -> None:
        (draft.path / "spec.json").write_text("{}")
        assert not (tmp_path / "pets-1").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_folder(tmp_path, "pets", fill)
    assert list(tmp_path.iterdir()) == []
