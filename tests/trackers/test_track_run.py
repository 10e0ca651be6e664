"""Runs in the real trackers, without an account or a network: params, every epoch once, scores, files.

`tox -e trackers` installs the trackers; without them these tests are skipped.
"""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.callbacks.track_run import TrackRun, check_trackers
from kerasimg.errors import CallError, Interrupted
from kerasimg.run_folder import RunFolder
from tests.cli.test_escaping import HOSTILE, harmless

EPOCHS = 4
COLOURS = ("red", "blue", "green", "grey")


@pytest.fixture
def train_in_two_parts(tiny: Any, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Run]:
    """train_in_two_parts("mlflow") trains with a tracker, is interrupted in the third epoch, and resumed."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    data = images(tmp_path / "colours", {"red": 20, "green": 20, "blue": 20})

    def train(name: str) -> Run:
        logged = TrackRun.on_epoch_end
        epochs: list[int] = []

        def interrupt(self: TrackRun, epoch: int, logs: Any = None) -> None:
            logged(self, epoch, logs)
            epochs.append(epoch)
            if len(epochs) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(TrackRun, "on_epoch_end", interrupt)
        spec = tiny(fit={"batch_size": 8, "stages": [{"epochs": EPOCHS}]})
        with pytest.raises(Interrupted):
            kerasimg.train(spec, data=data, out=tmp_path / "runs", track=[name], verbose=0)
        run = kerasimg.resume(tmp_path / "runs/tiny-1", verbose=0)
        assert len(run.history) == EPOCHS
        assert kerasimg.resume(run, verbose=0).finished  # is finished already: nothing is logged again
        return run

    return train


def state(run: Run, name: str) -> dict[str, Any]:
    return dict((RunFolder(run.folder).tracking() or {})[name])


def test_mlflow_has_every_epoch_once_with_params_scores_and_the_model(train_in_two_parts: Callable[[str], Run]):
    mlflow = pytest.importorskip("mlflow")
    run = train_in_two_parts("mlflow")
    client = mlflow.MlflowClient((run.folder.parent / "mlruns").as_uri())
    logged = client.get_run(state(run, "mlflow")["run"])
    for name in ("loss", "val_accuracy", "learning_rate"):
        points = client.get_metric_history(logged.info.run_id, name)
        assert [(point.step, point.value) for point in points] == [
            (int(row["epoch"]), pytest.approx(row[name])) for row in run.history
        ]
    assert (logged.info.run_name, logged.info.status) == ("tiny-1", "FINISHED")
    assert logged.data.params["fit.batch_size"] == "8"
    assert logged.data.params["images.train"] == "42"
    assert logged.data.metrics["test accuracy"] == pytest.approx(run.scores.accuracy)
    files = {file.path for file in client.list_artifacts(logged.info.run_id)}
    assert files == {"report.html", "MODEL_CARD.md", "spec.json", "model.keras"}


def records_of(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: a log of LevelDB after a header of 7 bytes."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32_768 - place % 32_768 < 7:
            place += 32_768 - place % 32_768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_offline_has_every_epoch_once(train_in_two_parts: Callable[[str], Run]):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2 as records

    run = train_in_two_parts("wandb")
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    artifacts = []
    for file in sorted((run.folder / "wandb").glob("offline-run-*/*.wandb")):
        for content in records_of(file.read_bytes()):
            record = records.Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                history.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
            elif record.WhichOneof("record_type") == "summary":
                summary |= {item.key: item.value_json for item in record.summary.update}
            elif record.WhichOneof("record_type") == "artifact":
                artifacts.append({entry.path for entry in record.artifact.manifest.contents})
    assert [row["_step"] for row in history] == [int(row["epoch"]) for row in run.history]
    assert [row["loss"] for row in history] == [pytest.approx(row["loss"]) for row in run.history]
    assert "test accuracy" in summary
    assert {"report.html", "model.keras"} <= set().union(*artifacts)


def test_trackio_has_every_epoch_once_with_params(train_in_two_parts: Callable[[str], Run]):
    trackio = pytest.importorskip("trackio")
    run = train_in_two_parts("trackio")
    name = state(run, "trackio")["run"]
    rows = [row for row in trackio.SQLiteStorage.get_logs("kerasimg", name) if "loss" in row]
    assert [row["step"] for row in rows] == [int(row["epoch"]) for row in run.history]
    assert [row["loss"] for row in rows] == [pytest.approx(row["loss"]) for row in run.history]
    assert trackio.SQLiteStorage.get_run_config("kerasimg", name)["fit.batch_size"] == 8


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_hostile_names_reach_a_tracker_escaped_and_do_not_end_a_training(
    name: str,
    tiny: Any,
    images: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    pytest.importorskip(name)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    photos = images(tmp_path / "photos", dict.fromkeys(COLOURS, 6))
    for plain, hostile in zip(COLOURS, HOSTILE, strict=True):
        (photos / plain).rename(photos / hostile)
    metrics = [{"type": "SparseCategoricalAccuracy", "name": each} for each in (HOSTILE[3], "../x", "m" * 400)]
    spec = tiny(
        compile={"metrics": metrics}, fit={"batch_size": 8, "stages": [{"epochs": 1}]}, params={"num_classes": None}
    )
    spec["params"] |= {f"p{number}": number for number in range(120)}  # more than MLflow takes at once
    run = kerasimg.train(spec, data=photos, out=tmp_path / "runs", track=[name], verbose=0)
    assert run.finished
    assert state(run, name)["finished"]
    assert harmless("".join(capfd.readouterr()).replace("\x1b[1m\x1b[38;5;208m", "").replace("\x1b[0m", ""))


def test_an_unknown_tracker_is_refused_before_anything_is_trained():
    with pytest.raises(CallError, match="no tracker 'mlflo'; did you mean 'mlflow'"):
        check_trackers(["mlflo"])
