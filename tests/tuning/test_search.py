"""Complete searches with tiny trainings."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kerasimg
from kerasimg.errors import CallError, DataError, Interrupted, KerasimgError, SpecError
from kerasimg.training import train as verbs
from kerasimg.tuning import search as searches
from kerasimg.tuning.journal import Records

HEAD = {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"}
POOL = {"layer": "GlobalAveragePooling2D"}


def outcome(result, trial):
    return json.loads((result.folder / "trials" / trial / "outcome.json").read_text())


def table(result):
    return [trial.row for trial in result.trials]


@pytest.mark.parametrize("keep", [{}, {"keep": "best", "monitor": "val_loss"}, {"keep": "last"}])
def test_the_best_spec_trains_to_the_same_score(search, searched, few, tmp_path, keep):
    spec = searched({})
    spec["fit"]["stages"] = [{"epochs": 4, **keep}]
    best = search(spec)
    run = kerasimg.Run(verbs.train(best, data=few, out=tmp_path / "again", verbose=0))
    again = kerasimg.evaluate(run, part="validation", out=tmp_path / "validation")
    assert again.accuracy == pytest.approx(best.score)
    assert run.history[-1]["loss"] == Records(best.folder).history(best._winner["trial"])[-1]["loss"]
    assert kerasimg.build(best).output_shape == (None, 3)
    assert best.best.search == ()
    assert best.best.compile.optimizer["learning_rate"] == best.values["compile.optimizer.learning_rate"]


def test_the_best_spec_keeps_the_layout_of_its_author(search, tmp_path):
    written = """{
  "kerasimg": 1, "name": "mine",
  "// why": "three colours",
  "params": {"num_classes": null, "rate": {"$choice": [0.1, 0.3], "default": 0.3}},
  "image": {"size": [8,8]},
  "model": [
    {"layer": "GlobalAveragePooling2D"},
    {"layer": "Dense",   "units": "=num_classes", "activation": "softmax"}
  ],
  "compile": {"optimizer": {"type": "Adam", "learning_rate": "=rate"}},
  "fit": {"stages": [{"epochs": 1}]},
  "tune": {"tuner": "grid", "max_trials": 2}
}
"""
    (tmp_path / "mine.json").write_text(written)
    best = search(tmp_path / "mine.json")
    text = Path(best).read_text()
    origin = json.loads(text)["card"]["origin"]
    assert text == written.replace("null", "3").replace(
        '{"$choice": [0.1, 0.3], "default": 0.3}', str(best.values["rate"])
    ).replace('"max_trials": 2}\n', f'"max_trials": 2}},\n  "card": {json.dumps({"origin": origin})}\n')
    assert origin.startswith(f"kerasimg {kerasimg.__version__}, grid search with seed 0: trial ")
    assert f"val_accuracy {best.score:.6g} in epoch 1 of 1" in origin


def test_the_trials_of_a_pack_begin_with_its_weights(search, searched, few, tmp_path):
    run = kerasimg.Run(verbs.train(searched({}), data=few, out=tmp_path / "first", verbose=0))
    pack = kerasimg.pack(run, tmp_path / "mine.kerasimg")
    still = {"$float": [1e-9, 1e-8], "default": 1e-9}
    result = search(pack, overrides={"compile.optimizer.learning_rate": still, "tune.max_trials": 2})
    for trial in ("0001", "0002"):
        (row,) = Records(result.folder).history(trial)
        assert row["val_loss"] == pytest.approx(run.history[-1]["val_loss"], rel=1e-4)


def test_a_folder_holds_every_trial(search, searched):
    result = search(searched({}))
    assert {"best.json", "spec.json", "space.json", "journal.jsonl", "trials.csv"} <= {
        path.name for path in result.folder.iterdir()
    }
    with (result.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0001", "0002", "0003"]
    assert [float(row["val_accuracy"]) for row in rows] == [row["val_accuracy"] for row in table(result)]
    for row in rows:
        reported = outcome(result, row["trial"])
        assert (reported["status"], reported["epochs"], str(reported["score"])) == ("completed", 1, row["val_accuracy"])
        assert len(Records(result.folder).history(row["trial"])) == 1


def test_a_space_of_three_levels_is_searched(search, searched):
    dense = {"layer": "Dense", "name": "hidden", "units": {"$int": [2, 4], "default": 2}}
    deep = {"$choice": {"none": {"layer": "ReLU"}, "dense": dense}, "default": "none"}
    body = {"$choice": {"pool": POOL, "flat": {"layer": "Flatten"}}, "default": "pool"}
    spec = searched({"max_trials": 8}, model=[body, deep, HEAD])
    result = search(spec)
    assert {row["status"] for row in table(result)} == {"completed"}
    for row in table(result):
        assert (row.get("model.1.dense.hidden.units", None) is not None) is (row["model.1"] == "dense") or (
            "model.1.dense.units" in row
        )
    assert len({row["model.0"] for row in table(result)}) == 2


def test_a_space_over_structure_and_one_over_augmentation_are_searched(search, searched):
    repeated = {"layer": "Dense", "units": 4, "repeat": {"$int": [0, 2], "default": 0}}
    flip = {"layer": "RandomFlip", "mode": {"$choice": ["horizontal", "vertical"], "default": "horizontal"}}
    turned = {"$choice": {"flip": flip, "turn": {"layer": "RandomRotation", "factor": 0.1}}, "default": "flip"}
    result = search(searched({"max_trials": 6}, model=[POOL, repeated, HEAD], augment=[turned]))
    assert [row["status"] for row in table(result)] == ["completed"] * 6
    assert len({row["model.1.repeat"] for row in table(result)}) > 1
    assert {row["augment.0"] for row in table(result)} == {"flip", "turn"}
    assert sum(1 for name, _ in result.best.augment) == 1


def test_a_failed_trial_gives_its_reason_and_does_not_stop_the_search(search, searched):
    huge = {"$choice": [0.01, 1e38], "default": 0.01}
    spec = searched({"tuner": "grid"}, model=[{"layer": "Flatten"}, HEAD])
    spec["compile"] = {"optimizer": {"type": "SGD", "learning_rate": huge}}
    result = search(spec)
    assert [row["status"] for row in table(result)] == ["completed", "failed"]
    assert "the loss became NaN or infinite" in outcome(result, "0002")["reason"]
    assert result.score == table(result)[0]["val_accuracy"]


def test_a_model_that_is_too_large_is_infeasible_and_is_not_trained(search, searched):
    wide = {"layer": "Dense", "name": "wide", "units": {"$choice": [4, 4000], "default": 4}}
    spec = searched({"tuner": "grid", "limits": {"params": 1000}}, model=[POOL, wide, HEAD])
    spec["compile"] = {}
    result = search(spec)
    assert [row["status"] for row in table(result)] == ["completed", "infeasible"]
    assert "parameters, and the limit is 1,000" in outcome(result, "0002")["reason"]
    assert outcome(result, "0002")["seconds"] < 1


def test_a_search_whose_trials_all_fail_ends_with_the_first_reason(search, searched):
    spec = searched({"max_trials": 50}, model=[{"layer": "Flatten"}, HEAD])
    spec["compile"] = {"optimizer": {"type": "SGD", "learning_rate": {"$float": [1e37, 1e38], "default": 1e38}}}
    with pytest.raises(KerasimgError, match="none of 3 trials worked; the first one failed: the loss became NaN"):
        search(spec)


def test_executions_are_averaged_and_each_is_recorded(search, searched):
    result = search(searched({"max_trials": 1, "executions_per_trial": 2}))
    reported = outcome(result, "0001")
    assert len(reported["scores"]) == 2
    assert result.score == sum(reported["scores"]) / 2
    assert [row["execution"] for row in Records(result.folder).history("0001")] == [1, 2]


def test_no_trial_exceeds_max_epochs(search, searched):
    spec = searched({"max_trials": 1, "max_epochs": 2})
    spec["fit"]["stages"] = [{"epochs": 5}]
    assert table(search(spec))[0]["epochs"] == 2


def test_hyperband_continues_the_trials_that_it_promotes(search, searched):
    spec = searched({"tuner": "hyperband", "max_trials": 8})
    spec["fit"]["stages"] = [{"epochs": 3}]
    result = search(spec)
    promoted = [row for row in table(result) if row["goes_on_from"]]
    assert promoted
    for row in promoted:
        epochs = [line["epoch"] for line in Records(result.folder).history(row["trial"])]
        assert epochs == [2, 3]
    assert not list(result.folder.rglob("*.ckpt"))


def test_a_spec_without_search_values_is_refused(search, tiny):
    with pytest.raises(SpecError, match="nothing to search"):
        search(tiny())


def test_the_environment_variables_of_keras_tuner_are_refused(search, searched, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "10.0.0.1")
    with pytest.raises(CallError, match="KERASTUNER_ORACLE_IP is set"):
        search(searched({}))


def test_a_search_never_gets_the_folder_of_another(search, searched):
    assert [search(searched({"max_trials": 1})).folder.name for _ in range(2)] == ["tiny-tune-1", "tiny-tune-2"]


def test_an_interrupted_search_continues(listen, searched, few, tmp_path):
    messages = []

    def interrupt(line):
        messages.append(line)
        if line.startswith("trial 2 of") and sum(other.startswith("trial 2 of") for other in messages) == 1:
            raise KeyboardInterrupt

    listen(interrupt)
    options = {"data": few, "out": tmp_path / "runs"}
    with pytest.raises(Interrupted, match="2 trials are saved; to resume: kerasimg tune --resume"):
        searches.tune(searched({}), **options)
    result = kerasimg.Search(searches.resume_search(tmp_path / "runs" / "tiny-tune-1"))
    assert sum(line.startswith("trial ") for line in messages) == 3
    assert result.score == kerasimg.Search(searches.tune(searched({}), **options)).score
    searches.resume_search(result.folder)
    assert messages[-1].endswith("is finished; nothing is left to do")


def test_a_process_that_holds_much_memory_is_replaced_by_another(listen, search, searched, monkeypatch):
    alone = search(searched({"max_trials": 2}))
    monkeypatch.setattr("kerasimg.tuning.trials.GROWTH", -(10**12))
    messages = []
    listen(messages.append)
    result = search(searched({"max_trials": 2}))
    assert "the trials have taken much memory, which is not given back: another process goes on" in messages
    assert [row["val_accuracy"] for row in table(result)] == [row["val_accuracy"] for row in table(alone)]


def test_a_search_warns_of_the_same_image_with_different_labels(listen, searched, tmp_path, images):
    photos = images(tmp_path / "photos", {"red": 10, "blue": 10})
    (photos / "blue" / "copy.png").write_bytes((photos / "red" / "00.png").read_bytes())
    messages = []
    listen(messages.append)
    searches.tune(searched({"max_trials": 1}), data=photos, out=tmp_path)
    named = [line for line in messages if "the same image with different labels: blue/copy.png = red/00.png" in line]
    assert len(named) == 1


def test_a_search_is_resumed_only_with_the_same_images(listen, searched, few, tmp_path, images):
    def interrupt(line):
        if line.startswith("trial 1 of"):
            raise KeyboardInterrupt

    listen(interrupt)

    with pytest.raises(Interrupted):
        searches.tune(searched({}), data=few, out=tmp_path)
    other = images(tmp_path / "other", {"red": 9, "green": 9, "blue": 9})
    with pytest.raises(CallError, match="began with 30 images of 3 classes"):
        searches.resume_search(tmp_path / "tiny-tune-1", data=other)


def test_a_search_is_not_resumed_with_as_many_other_images(searched, tmp_path, images, listen):
    def interrupt(line):
        if line.startswith("trial 1 of"):
            raise KeyboardInterrupt

    folder = images(tmp_path / "data", {"red": 9, "green": 9, "blue": 9})
    listen(interrupt)
    with pytest.raises(Interrupted):
        searches.tune(searched({}), data=folder, out=tmp_path)

    def refused():
        with pytest.raises(DataError) as caught:
            searches.resume_search(tmp_path / "tiny-tune-1")
        assert "a search can only go on with the images that it began with" in str(caught.value)
        return str(caught.value)

    first = folder / "red" / "00.png"
    for other in (folder / "red" / "99.png", folder / "green" / "99.png"):
        first.rename(other)
        assert "red/00.png: was trained with and is no longer there" in refused()
        other.rename(first)
    first.write_bytes((folder / "blue" / "00.png").read_bytes())
    assert "red/00.png: is not the image that was trained with: it has changed" in refused()


def test_a_folder_that_is_not_a_search_is_refused(tmp_path):
    with pytest.raises(CallError, match=r"holds no search.json"):
        searches.resume_search(tmp_path)


def start(*arguments):
    return subprocess.Popen([sys.executable, "-m", "kerasimg", "tune", *map(str, arguments), "--quiet"])


def journal(folder):
    path = folder / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.is_file() else []


def wait_for(count, folder, process):
    end = time.monotonic() + 300
    while len(journal(folder)) < count:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(searched, few, tmp_path_factory):
    """A search of eight trials that is not killed."""
    return kerasimg.Search(searches.tune(searched({"max_trials": 8}), data=few, out=tmp_path_factory.mktemp("runs")))


@pytest.mark.parametrize("workers", [1, 2])
def test_no_trial_is_lost_or_run_twice_when_a_search_is_killed(workers, undisturbed, searched, few, tmp_path):
    spec = searched({"max_trials": 8})
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    folder = tmp_path / "killed" / "tiny-tune-1"
    process = start(tmp_path / "spec.json", "--data", few, "--out", tmp_path / "killed", "--workers", workers)
    wait_for(3, folder, process)
    if workers > 1:  # first a worker, which is replaced, then the chief
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        wait_for(6, folder, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    searches.resume_search(folder)
    events = journal(folder)
    for kind in ("begin", "end"):
        reported = [event["trial"] for event in events if event["event"] == kind]
        assert sorted(reported) == [f"{number:04d}" for number in range(1, 9)]
    assert kerasimg.Search(folder).values == undisturbed.values
    assert json.loads((folder / "best.json").read_text()) == json.loads(Path(undisturbed).read_text())
