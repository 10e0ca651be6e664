import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kerasimg.errors import CallError
from kerasimg.files import lock_folder
from kerasimg.run_folder import (
    EvaluationFolder,
    RunFolder,
    check_classifier,
    folder_of,
    not_a_folder_of,
    read_history,
)


def test_every_file_is_read_back_as_it_was_written(tmp_path: Path):
    files = RunFolder(tmp_path)
    record = {"where": "photos", "task": "binary", "classes": ["a", "b"], "skipped": [], "images": []}
    files.write_spec({"name": "photos", "fit": {"epochs": 3}})
    files.write_classes(("Käse", "猫"))
    files.write_data(record)
    files.write_environment({"cores": 2})
    files.write_training({"stages": [], "finished": None})
    files.evaluation.write_metrics({"accuracy": 0.5})
    files.evaluation.write_curves({"classes": {}})
    assert files.spec() == {"name": "photos", "fit": {"epochs": 3}}
    assert files.classes() == ["Käse", "猫"]
    assert files.data() == record
    assert files.environment() == {"cores": 2}
    assert files.training() == {"stages": [], "finished": None}
    assert files.evaluation.metrics() == {"accuracy": 0.5}
    assert files.evaluation.curves() == {"classes": {}}
    names = {path.relative_to(files.path).as_posix() for path in files.path.rglob("*.*")}
    assert names == {
        *("spec.json", "classes.json", "data.json", "environment.json", "training.json"),
        *("evaluation/metrics.json", "evaluation/curves.json"),
    }


def test_a_run_that_has_not_started_has_no_files(tmp_path: Path):
    files = RunFolder(tmp_path)
    values = [files.spec(), files.classes(), files.data(), files.environment(), files.training()]
    values += [files.evaluation.metrics(), files.evaluation.curves(), files.evaluation.speed()]
    assert values == [None] * 8
    assert files.history() == []
    assert not files.is_run


@pytest.mark.parametrize(
    ("name", "content", "read", "why"),
    [
        ("spec.json", "[]", RunFolder.spec, "a JSON object was expected"),
        ("classes.json", "{}", RunFolder.classes, "a JSON list was expected"),
        ("data.json", "{", RunFolder.data, "Expecting property name"),
        ("data.json", '{"where": "photos"}', RunFolder.data, "it does not say where the images are"),
        ("training.json", "[" * 100_000, RunFolder.training, "maximum recursion depth"),
        ("history.csv", "stage,epoch\n1,first\n", RunFolder.history, "could not convert string to float"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(tmp_path: Path, name: str, content: str, read, why: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(CallError) as caught:
        read(RunFolder(tmp_path))
    assert str(caught.value).startswith(f"'{tmp_path / name}' is damaged ({why}")
    assert str(caught.value).endswith("restore it from a copy, or train again")


def test_a_damaged_speed_is_measured_again(tmp_path: Path):
    files = EvaluationFolder(tmp_path)
    files.speed_file.write_text("{")
    assert files.speed() is None


def test_a_history_has_no_value_where_a_stage_did_not_measure_one(tmp_path: Path):
    (tmp_path / "history.csv").write_text("stage,epoch,val_loss\n1,1,0.5\n2,2,\n")
    assert read_history(tmp_path / "history.csv") == [
        {"stage": 1.0, "epoch": 1.0, "val_loss": 0.5},
        {"stage": 2.0, "epoch": 2.0},
    ]


def test_only_a_run_folder_can_be_opened(tmp_path: Path):
    with pytest.raises(CallError, match=r"is not the folder of a run: it holds no spec\.json"):
        RunFolder.open(tmp_path)
    (tmp_path / "spec.json").write_text("{}")
    assert RunFolder.open(tmp_path).is_run


def test_a_folder_of_another_kind_is_named_with_what_continues_it(tmp_path: Path):
    (tmp_path / "spec.json").write_text("{}")
    (tmp_path / "search.json").write_text("{}")
    assert not RunFolder(tmp_path).is_run
    with pytest.raises(CallError, match=r"is not the folder of a run: it is a search; to continue it: kerasimg tune"):
        RunFolder.open(tmp_path)
    (tmp_path / "search.json").unlink()
    (tmp_path / "training.json").write_text('{"finished": null}')
    assert str(not_a_folder_of("a search", tmp_path, "search.json")).endswith(f"kerasimg train --resume {tmp_path}")
    assert "its training was interrupted" in str(RunFolder(tmp_path).interrupted)
    with lock_folder(tmp_path, "training"):
        assert "another process is training it" in str(RunFolder(tmp_path).interrupted)


def test_a_run_is_suggested_by_its_name_without_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "runs" / "photos-1").mkdir(parents=True)
    (tmp_path / "runs" / "photos-1" / "model.keras").touch()
    with pytest.raises(CallError, match="did you mean 'runs/photos-1'"):
        check_classifier("photos-1")


def test_a_required_file_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(CallError, match=r"has no training\.json"):
        RunFolder(tmp_path).required("training.json")


def test_a_folder_comes_from_a_path_or_from_an_object_that_has_one():
    assert folder_of("runs/photos-1") == folder_of(Path("runs/photos-1")) == Path("runs/photos-1")
    assert folder_of(SimpleNamespace(folder=Path("runs/photos-1"))) == Path("runs/photos-1")
    with pytest.raises(CallError, match="the classifier belongs to no run folder"):
        folder_of(SimpleNamespace(folder=None))
    with pytest.raises(CallError, match="expected a run or the path of its folder, got int"):
        folder_of(3)  # type: ignore[arg-type]


def test_reading_a_run_needs_neither_keras_nor_numpy(tmp_path: Path):
    (tmp_path / "classes.json").write_text('["a"]')
    code = (
        "import sys; from pathlib import Path; from kerasimg.run_folder import RunFolder; "
        "print(RunFolder(Path('.')).classes(), {'keras', 'tensorflow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['a'] set()"
