"""A training that is interrupted at any point and resumed gives the result of an uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy.serve.server import bundle_of
from kerasimg.errors import CallError, DataError, Interrupted, KerasimgError, WeightsError
from kerasimg.models.classifier import Classifier
from kerasimg.run_folder import RunFolder
from kerasimg.training import checkpoint, checkpoint_callbacks
from kerasimg.training import train as verbs

BODY = {
    "nodes": [
        {"layer": "Conv2D", "name": "conv", "filters": 4, "kernel_size": 3},
        {"layer": "BatchNormalization", "name": "normal"},
    ]
}
MODEL = [
    {"block": "body", "name": "body"},
    {"layer": "GlobalAveragePooling2D"},
    {"layer": "Dropout", "rate": 0.3},
    {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
]
PLATEAU = {"type": "ReduceLROnPlateau", "monitor": "val_loss", "patience": 1, "min_delta": 9, "factor": 0.5}
STAGES = [
    {"epochs": 3, "early_stopping": {"monitor": "loss", "patience": 1}, "freeze": ["body"]},
    {
        "epochs": 3,
        "unfreeze": {"body": 0},
        "learning_rate": 0.01,
        "warmup_epochs": 1,
        "decay": "cosine",
        "keep": "best",
    },
]
ONE_STAGE = [{"epochs": 3}]
"""Where a second stage would show no more: each is traced again."""


class Killed(BaseException):
    """An exception that no code catches."""


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Path:
    return images(tmp_path_factory.mktemp("data") / "noisy", {"red": 20, "grey": 20})


@pytest.fixture
def spec(tiny: Any) -> Callable[..., dict[str, Any]]:
    def make(**fit: Any) -> dict[str, Any]:
        sections = {"blocks": {"body": BODY}, "model": MODEL, "augment": [{"layer": "RandomFlip"}]}
        defaults = {"batch_size": 8, "features": "off", "stages": STAGES, "callbacks": [PLATEAU]}
        compile = {"optimizer": {"type": "Adam", "learning_rate": 0.02}, "steps_per_execution": 1}
        return tiny(**sections, compile=compile, fit={**defaults, **fit})

    return make


def end(run: Run) -> dict[str, Any]:
    """Returns the complete result of a run, except times."""
    result: dict[str, Any] = {
        "history": [{key: value for key, value in row.items() if key != "seconds"} for row in run.history],
        "scores": run.scores,
        "weights": [weight.tobytes() for weight in run.model.get_weights()],
    }
    for file in sorted((run.folder / "checkpoints").iterdir()):
        with h5py.File(file) as weights:
            names: list[str] = []
            weights.visit(names.append)
            result[file.name] = {
                name: weights[name][...].tobytes() for name in names if hasattr(weights[name], "shape")
            }
    return result


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """cut(after=3) kills the training after its third checkpoint; each epoch writes one, within=True: each step."""
    write = checkpoint.write
    monkeypatch.setattr(checkpoint_callbacks, "SHARE", float("inf"))

    def kill(after: int, within: bool = False) -> None:
        written = []
        monkeypatch.setattr(checkpoint_callbacks, "WITHIN_EPOCH_S", 0.0 if within else 1e9)

        def counted(*arguments: Any) -> None:
            write(*arguments)
            written.append(1)
            if len(written) == after:
                raise Killed

        monkeypatch.setattr(checkpoint, "write", counted)

    yield kill
    monkeypatch.setattr(checkpoint, "write", write)


def killed(work: Callable[[], Any]) -> None:
    with pytest.raises(Killed):
        work()


@pytest.fixture(scope="module")
def wholes(train: Any, noisy: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Any]:
    """Returns the result of an uninterrupted run on a spec."""
    known: dict[str, Any] = {}

    def whole(written: dict[str, Any]) -> Any:
        key = json.dumps(written)
        if key not in known:
            known[key] = end(train(written, data=noisy, out=tmp_path_factory.mktemp("whole")))
        return known[key]

    return whole


@pytest.mark.parametrize(("ema", "after", "within"), [(None, 1, False), (None, 9, True), (0.5, 5, False)])
def test_a_killed_run_is_resumed_to_the_same_result(
    train: Any, spec: Any, noisy: Path, tmp_path: Path, cut: Any, wholes: Any, ema: Any, after: int, within: bool
):
    cut(after, within)
    killed(lambda: train(spec(ema=ema), data=noisy, out=tmp_path))
    cut(-1)
    (tmp_path / "tiny-1" / "checkpoints" / ".partial-stage-1.weights.h5").write_bytes(b"half")
    assert not Run(tmp_path / "tiny-1").finished
    run = Run(verbs.resume(tmp_path / "tiny-1", verbose=0))
    assert end(run) == wholes(spec(ema=ema))
    assert not RunFolder.of(run).checkpoint_file.exists()


def test_a_killed_run_on_cached_features_is_resumed_to_the_same_result(
    train: Any, spec: Any, noisy: Path, tmp_path: Path, cut: Any
):
    written = spec(features="cached", views=2, stages=[{"epochs": 4, "freeze": ["body"]}])
    whole = end(train(written, data=noisy, out=tmp_path / "whole"))
    cut(2)
    killed(lambda: train(written, data=noisy, out=tmp_path))
    cut(-1)
    assert end(Run(verbs.resume(tmp_path / "tiny-1", verbose=0))) == whole


def test_stages_of_other_image_sizes_are_resumed(train: Any, spec: Any, noisy: Path, tmp_path: Path, cut: Any):
    small = {"epochs": 1, "size": [6, 6]}
    written = spec(stages=[small, {"epochs": 2}, small], callbacks=[], flips="on")
    # What a speedrun has: filters from the images, flips that depend on the epoch, an optimizer of our own.
    written["model"] = [{"layer": "PatchWhitening", "name": "white"}, *MODEL]
    written["augment"] = [{"layer": "AlternatingFlip"}]
    written["compile"]["optimizer"] = {"type": "ConvMuon", "learning_rate": 0.02}
    run = train(written, data=noisy, out=tmp_path / "whole")
    assert run.model.get_layer("white").adapted
    assert Classifier.open(run.folder).flips
    whole = end(run)
    cut(2)
    killed(lambda: train(written, data=noisy, out=tmp_path))
    cut(-1)
    assert end(Run(verbs.resume(tmp_path / "tiny-1", verbose=0))) == whole


def test_a_run_killed_before_its_first_checkpoint_starts_from_scratch(
    train: Any, spec: Any, noisy: Path, tmp_path: Path, wholes: Any, monkeypatch: pytest.MonkeyPatch
):
    epoch_end = checkpoint_callbacks.Watch.on_epoch_end

    def kill(self: Any, epoch: int, logs: Any = None) -> None:
        self.table.on_epoch_end(epoch, logs)
        raise Killed

    monkeypatch.setattr(checkpoint_callbacks.Watch, "on_epoch_end", kill)
    killed(lambda: train(spec(), data=noisy, out=tmp_path))
    assert len(Run(tmp_path / "tiny-1").history) == 1
    monkeypatch.setattr(checkpoint_callbacks.Watch, "on_epoch_end", epoch_end)
    assert end(Run(verbs.resume(tmp_path / "tiny-1", verbose=0))) == wholes(spec())


@pytest.mark.parametrize("step", ["save", "evaluate"])
def test_a_run_killed_after_its_last_epoch_is_only_finished(
    train: Any, spec: Any, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    from kerasimg.models.classifier import Classifier

    def kill(*arguments: Any, **others: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(*((Classifier, "save") if step == "save" else (verbs, "evaluate_images")), kill)
        killed(lambda: train(spec(stages=[{"epochs": 1, "keep": "best"}]), data=noisy, out=tmp_path))
    run = Run(tmp_path / "tiny-1")
    weights = (run.folder / "checkpoints" / "stage-1.weights.h5").read_bytes()
    rows = (run.folder / "history.csv").read_bytes()
    assert Run(verbs.resume(run, verbose=0)).scores["n"] == 6
    assert (run.folder / "checkpoints" / "stage-1.weights.h5").read_bytes() == weights
    assert (run.folder / "history.csv").read_bytes() == rows


def test_a_finished_run_is_not_changed(listen: Any, train: Any, spec: Any, noisy: Path, tmp_path: Path):
    run = train(spec(stages=[{"epochs": 1}]), data=noisy, out=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    messages: list[str] = []
    listen(messages.append)
    assert Run(verbs.resume(run.folder)) == run
    assert messages == [f"{run.folder} is finished; nothing is left to do"]
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


@pytest.fixture
def interrupted(train: Any, spec: Any, noisy: Path, tmp_path: Path, cut: Any) -> Run:
    """A run on its own image folder, interrupted after two epochs."""
    shutil.copytree(noisy, tmp_path / "data")
    cut(2)
    killed(lambda: train(spec(stages=ONE_STAGE), data=tmp_path / "data", out=tmp_path))
    cut(-1)
    return Run(tmp_path / "tiny-1")


def test_missing_or_changed_images_are_named(interrupted: Run, tmp_path: Path):
    (tmp_path / "data" / "red" / "03.png").write_bytes((tmp_path / "data" / "red" / "04.png").read_bytes())
    with pytest.raises(DataError, match=r"red/03\.png: is not the image that was trained with: it has changed"):
        verbs.resume(interrupted, verbose=0)
    (tmp_path / "data" / "red" / "03.png").unlink()
    with pytest.raises(DataError, match=r"red/03\.png: was trained with and is no longer there"):
        verbs.resume(interrupted, verbose=0)


def test_what_needs_a_trained_model_names_the_command_that_continues_an_interrupted_run(interrupted: Run):
    wanted = f"its training was interrupted; to continue it: kerasimg train --resume {interrupted.folder}"
    for needs_a_model in (
        lambda: kerasimg.predict(interrupted, interrupted.folder),
        lambda: kerasimg.compare(interrupted, interrupted),
        lambda: bundle_of(interrupted.folder),
    ):
        with pytest.raises(CallError) as caught:
            needs_a_model()
        assert str(caught.value).endswith(wanted)


def test_added_images_are_not_used_and_a_folder_may_have_moved(interrupted: Run, tmp_path: Path, noisy: Path):
    before = RunFolder.of(interrupted).required("data.json")
    shutil.copy(tmp_path / "data" / "red" / "00.png", tmp_path / "data" / "red" / "-first.png")
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="no such file or folder"):
        verbs.resume(interrupted, verbose=0)
    run = Run(verbs.resume(interrupted, data=tmp_path / "moved", verbose=0))
    assert RunFolder.of(run).required("data.json")["images"] == before["images"]
    assert run.finished


def test_an_image_that_vanishes_during_training_is_named_with_advice(
    spec: Any, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(noisy, tmp_path / "data")
    epoch_begin = checkpoint_callbacks.Watch.on_epoch_begin

    def vanish(self: Any, epoch: int, logs: Any = None) -> None:
        epoch_begin(self, epoch, logs)
        if epoch == 2:
            (tmp_path / "data" / "red").rename(tmp_path / "red")

    monkeypatch.setattr(checkpoint_callbacks.Watch, "on_epoch_begin", vanish)
    with pytest.raises(DataError) as caught:
        verbs.train(spec(stages=ONE_STAGE), data=tmp_path / "data", out=tmp_path, verbose=0, cache="off")
    first, last = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path / 'data'}: red/")
    assert last.endswith(f"to resume: kerasimg train --resume {tmp_path / 'tiny-1'}")
    (tmp_path / "red").rename(tmp_path / "data" / "red")
    monkeypatch.setattr(checkpoint_callbacks.Watch, "on_epoch_begin", epoch_begin)
    assert Run(verbs.resume(tmp_path / "tiny-1", verbose=0)).finished


def test_a_run_on_arrays_needs_them_again(train: Any, spec: Any, tmp_path: Path, cut: Any):
    labels = np.arange(24) % 2
    pixels = (np.random.default_rng(0).integers(0, 30, (24, 8, 8, 3)) + 200 * labels[:, None, None, None]).astype(
        "uint8"
    )
    whole = end(train(spec(stages=ONE_STAGE), data=(pixels, labels), out=tmp_path / "whole"))
    cut(2)
    killed(lambda: train(spec(stages=ONE_STAGE), data=(pixels, labels), out=tmp_path))
    cut(-1)
    with pytest.raises(CallError, match=r"kerasimg\.resume\(run, data=\.\.\.\)"):
        verbs.resume(tmp_path / "tiny-1", verbose=0)
    with pytest.raises(DataError, match="it has changed"):
        verbs.resume(tmp_path / "tiny-1", data=(255 - pixels, labels), verbose=0)
    run = Run(verbs.resume(tmp_path / "tiny-1", data=(pixels, labels), verbose=0))
    assert end(run) == whole


def test_initial_weights_are_needed_until_the_first_checkpoint(
    train: Any, tiny: Any, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "own.weights.h5"
    kerasimg.build(tiny(), num_classes=2).save_weights(file)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_callbacks.Watch, "on_epoch_begin", lambda *arguments: (_ for _ in ()).throw(Killed))
        killed(lambda: train(tiny(), data=noisy, out=tmp_path, weights=file))
    recorded = RunFolder.of(Run(tmp_path / "tiny-1")).required("training.json")["weights"]
    assert (recorded["file"], len(recorded["sha256"])) == (str(file), 64)
    content = file.read_bytes()
    file.write_bytes(b"")
    with pytest.raises(WeightsError, match="is not the one that the run began with"):
        verbs.resume(tmp_path / "tiny-1", verbose=0)
    file.unlink()
    with pytest.raises(WeightsError, match="is no longer there; put it back"):
        verbs.resume(tmp_path / "tiny-1", verbose=0)
    file.write_bytes(content)
    assert Run(verbs.resume(tmp_path / "tiny-1", verbose=0)).finished


def test_weights_next_to_the_spec_are_copied_into_the_run(train: Any, tiny: Any, noisy: Path, tmp_path: Path):
    inner = {"kerasimg": 1, "image": {"size": [8, 8]}, "blocks": {"body": BODY}, "model": MODEL[:2]}
    (tmp_path / "inner.json").write_text(json.dumps(inner))
    written = tiny(model=[{"backbone": "inner.json", "weights": "inner.weights.h5"}, *tiny()["model"]])
    (tmp_path / "outer.json").write_text(json.dumps(written))
    kerasimg.build(inner | {"model": inner["model"][:1]}).save_weights(tmp_path / "inner.weights.h5")
    run = train(tmp_path / "outer.json", data=noisy, out=tmp_path / "runs")
    (tmp_path / "inner.weights.h5").unlink()
    assert kerasimg.build(run.folder / "spec.json").count_params() == run.model.count_params()


def test_a_full_disk_leaves_the_previous_checkpoint_and_advice(
    train: Any,
    spec: Any,
    noisy: Path,
    tmp_path: Path,
    cut: Any,
    wholes: Any,
    on_a_full_disk: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    cut(-1)
    write = checkpoint.write

    def fill(path: Path, facts: Any, arrays: Any) -> None:
        with monkeypatch.context() as patch:
            if facts["epoch"] == 2:
                patch.setattr(checkpoint, "replacing", on_a_full_disk)
            write(path, facts, arrays)

    monkeypatch.setattr(checkpoint, "write", fill)
    with pytest.raises(KerasimgError) as caught:
        train(spec(), data=noisy, out=tmp_path)
    assert "no space is left to write" in str(caught.value)
    assert str(caught.value).endswith(
        f"saved up to the end of epoch 1; to resume: kerasimg train --resume {tmp_path / 'tiny-1'}"
    )
    assert [path.name for path in (tmp_path / "tiny-1" / "checkpoints").iterdir()] == ["resume.ckpt"]
    monkeypatch.setattr(checkpoint, "write", write)
    assert end(Run(verbs.resume(tmp_path / "tiny-1", verbose=0))) == wholes(spec())


def test_ctrl_c_finishes_the_step_saves_it_and_says_how_to_resume(
    listen: Any, spec: Any, noisy: Path, tmp_path: Path, wholes: Any, monkeypatch: pytest.MonkeyPatch
):
    batch_begin = checkpoint_callbacks.Watch.on_train_batch_begin

    def press(self: Any, batch: int, logs: Any = None) -> None:
        batch_begin(self, batch, logs)
        if (self.epoch, batch) == (1, 1):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint_callbacks.Watch, "on_train_batch_begin", press)
    messages: list[str] = []
    listen(messages.append)
    with pytest.raises(Interrupted) as caught:
        verbs.train(spec(), data=noisy, out=tmp_path, verbose=0)
    assert messages[-1] == "interrupted: this step is finished and saved (Ctrl-C again: stop at once)"
    assert str(caught.value) == (
        f"interrupted; saved up to step 2 of epoch 2; to resume: kerasimg train --resume {tmp_path / 'tiny-1'}"
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(checkpoint_callbacks.Watch, "on_train_batch_begin", batch_begin)
    assert end(Run(verbs.resume(tmp_path / "tiny-1", verbose=0))) == wholes(spec())


def test_ctrl_c_twice_ends_at_once(spec: Any, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def press(self: Any, batch: int, logs: Any = None) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint_callbacks.Watch, "on_train_batch_begin", press)
    with pytest.raises(
        Interrupted, match="interrupted; no checkpoint was written yet; to resume: kerasimg train --resume"
    ):
        verbs.train(spec(), data=noisy, out=tmp_path, verbose=0)


def test_ctrl_c_during_the_report_says_that_the_training_is_finished(
    spec: Any, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def press(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("kerasimg.reporting.report.write_report", press)
    with pytest.raises(Interrupted) as caught:
        kerasimg.train(spec(stages=[{"epochs": 1}]), data=noisy, out=tmp_path, verbose=0)
    folder = tmp_path / "tiny-1"
    assert str(caught.value) == (
        f"interrupted; the training is finished and saved in {folder}; for its report: kerasimg run report {folder}"
    )
    assert Run(folder).finished


@pytest.mark.parametrize("report", [True, False])
def test_a_resumed_run_writes_its_report_if_train_would_have(
    listen: Any, spec: Any, noisy: Path, tmp_path: Path, monkeypatch: Any, report: bool, capsys: Any
):
    with monkeypatch.context() as patched:
        press = lambda *_: signal.raise_signal(signal.SIGINT)  # noqa: E731
        patched.setattr(checkpoint_callbacks.Watch, "on_train_batch_begin", press)
        with pytest.raises(Interrupted):
            kerasimg.train(spec(stages=[{"epochs": 1}]), data=noisy, out=tmp_path, report=report, verbose=0)
    messages: list[str] = []
    listen(messages.append)
    run = kerasimg.resume(tmp_path / "tiny-1", verbose=1)
    printed = capsys.readouterr().out
    assert "Epoch 1/1 - " in printed
    assert not {"\b", "\x1b", "\r"} & set(printed)  # the output is no terminal, so that there is no bar
    pages = [name for name in ("report.html", "MODEL_CARD.md") if (run.folder / name).is_file()]
    assert pages == (["report.html", "MODEL_CARD.md"] if report else [])
    assert (messages[-1] == f"writing {run.folder / 'report.html'}") == report


def test_a_time_budget_applies_to_the_run_not_to_the_stage(train: Any, spec: Any, noisy: Path, tmp_path: Path):
    stages = [{"epochs": 1}, {"epochs": 500}, {"epochs": 500}]
    run = train(spec(stages=stages, callbacks=[{"type": "TimeBudget", "seconds": 1.5}]), data=noisy, out=tmp_path)
    assert {row["stage"] for row in run.history} <= {1, 2}
    assert len(run.history) < 501


class Counter(keras.callbacks.Callback):
    """A callback with a custom state."""

    seen: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.memory = {1}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.memory.add(len(self.memory) + 1)
        self.seen.append(len(self.memory))

    def get_state(self) -> dict[str, Any]:
        return {"memory": sorted(self.memory)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.memory = set(state["memory"])


def test_a_callback_defines_its_own_state(train: Any, spec: Any, noisy: Path, tmp_path: Path, cut: Any):
    kerasimg.register(Counter)
    written = spec(stages=[{"epochs": 4}], callbacks=["Counter"])
    cut(2)
    killed(lambda: train(written, data=noisy, out=tmp_path))
    cut(-1)
    verbs.resume(tmp_path / "tiny-1", verbose=0)
    assert Counter.seen == [2, 3, 4, 5]


def test_a_process_killed_at_any_moment_is_resumed(spec: Any, noisy: Path, tmp_path: Path):
    (tmp_path / "tiny.json").write_text(json.dumps(spec(stages=[{"epochs": 40}], callbacks=[])))
    # A report would take longer than the rest of the test.
    begin = f"import kerasimg; kerasimg.train('tiny.json', data={str(noisy)!r}, report=False, verbose=0)"
    options: dict[str, Any] = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", begin], **options)
    run = tmp_path / "runs" / "tiny-1"
    rows = -1
    while process.poll() is None and rows < 5:
        time.sleep(0.02)
        rows = len((run / "history.csv").read_bytes().splitlines()) if (run / "history.csv").exists() else -1
    assert process.poll() is None, process.communicate()[1]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    verbs.resume(run, verbose=0)
    epochs = [row["epoch"] for row in Run(run).history]
    assert epochs == list(range(1, 41))
    whole = Run(verbs.train(tmp_path / "tiny.json", data=noisy, out=tmp_path / "whole", verbose=0))
    assert end(whole) == end(Run(run))


def test_a_run_is_resumed_by_one_process_at_a_time(
    train: Any, spec: Any, noisy: Path, tmp_path: Path, cut: Any, listen: Any
):
    cut(1)
    killed(lambda: train(spec(stages=ONE_STAGE), data=noisy, out=tmp_path))
    cut(-1)
    refused = []

    def resume_again(line: str) -> None:
        if line.startswith("resuming "):
            with pytest.raises(CallError, match="another process is training in") as caught:
                verbs.resume(tmp_path / "tiny-1", verbose=0)
            refused.append(caught.value)

    listen(resume_again)
    run = Run(verbs.resume(tmp_path / "tiny-1", verbose=0))
    assert len(refused) == 1
    assert len(run.history) == len({(row["stage"], row["epoch"]) for row in run.history})
    assert not (run.folder / ".lock").exists()


def test_a_resume_on_another_backend_warns_of_other_random_numbers(
    train: Any, spec: Any, noisy: Path, tmp_path: Path, cut: Any, listen: Any
):
    cut(1)
    killed(lambda: train(spec(stages=ONE_STAGE), data=noisy, out=tmp_path))
    cut(-1)
    run = Run(tmp_path / "tiny-1")
    began = RunFolder.of(run).required("environment.json")
    RunFolder.of(run).write_environment({**began, "backend": "other"})
    messages: list[str] = []
    listen(messages.append)
    verbs.resume(run, verbose=0)
    (line,) = [line for line in messages if "backend was other" in line]
    assert line.startswith("another backend draws other random numbers")
