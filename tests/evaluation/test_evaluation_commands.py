import json
import re
import shutil
import sys

import PIL.Image
import pytest

import kerasimg
from kerasimg import cli
from kerasimg.cli.options import image_paths
from kerasimg.errors import counted, sized
from kerasimg.run_folder import RunFolder


@pytest.fixture
def say(capfd, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kerasimg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        return caught.value.code, out, err

    return run


def test_calibrate_tells_before_and_after_and_can_be_undone(make_run, say):
    run = make_run("binary")
    code, out, _ = say("run", "calibrate", run.folder)
    assert code == 0
    assert out.startswith("temperature ")
    assert "test, 60 images:\n  log loss: " in out
    assert json.loads(say("run", "calibrate", run.folder, "--undo", "--json")[1]) == {"temperature": 1.0}


def test_calibrate_tells_what_was_tried_where_it_changes_nothing(make_run, say, monkeypatch):
    run = make_run("multiclass", sure=0.02)
    monkeypatch.setattr("kerasimg.evaluation.calibrate.fit_temperature", lambda *_: 5.0)
    lines = say("run", "calibrate", run.folder)[1].splitlines()
    assert lines[1].startswith("nothing was changed: the temperature stays 1.0000")
    assert lines[2].startswith("tried: temperature 5.0000 (95 % interval ")
    assert sum(" without, " in line and line.split()[-1] != "->" for line in lines) == 4


def test_thresholds_tells_each_label_and_ends_with_4_where_the_aim_is_out_of_reach(make_run, say):
    run = make_run("multilabel", tilt=-4.0)
    code, out, _ = say("run", "thresholds", run.folder, "--aim", "recall>=0.8")
    assert (code, len(out.splitlines()) - 1) == (0, 3)  # the last line is the next step
    assert out.startswith("blue: 0.")
    code, _, err = say("run", "thresholds", run.folder, "--aim", "f3")
    assert (code, "aims: f1" in err) == (2, True)
    assert say("run", "thresholds", make_run("multiclass", name="other").folder)[0] == 2


@pytest.mark.parametrize(
    ("task", "aim", "line"),
    [("binary", "recall>=0.9", "photo.png: red (ok 0."), ("multilabel", "recall>=0.8", "photo.png: blue")],
)
def test_predict_names_what_is_decided_where_it_is_not_the_most_likely_class(make_run, say, tmp_path, task, aim, line):
    run = make_run(task, tilt=-6.0)
    kerasimg.choose_thresholds(run, aim)
    PIL.Image.new("RGB", (4, 4), (113, 113, 113)).save(tmp_path / "photo.png")
    out = say("predict", run.folder, tmp_path / "photo.png")[1]
    assert line in out
    [told] = json.loads(say("predict", run.folder, tmp_path / "photo.png", "--json")[1])
    labels = [told["label"]] if task == "binary" else told["label"]
    assert f"photo.png: {', '.join(labels) or 'no label'} (" in out


def test_after_a_rule_for_sets_predict_is_the_next_step_and_shows_the_set(make_run, say, tmp_path):
    run, photo = make_run("multiclass"), tmp_path / "photo.png"
    PIL.Image.new("RGB", (4, 4), (113, 113, 113)).save(photo)
    out = say("run", "sets", run.folder, "--coverage", "0.99")[1]
    assert out.splitlines()[-1] == f"Next: kerasimg predict {run.folder} IMAGE"
    [told] = json.loads(say("predict", run.folder, photo, "--json")[1])
    line = say("predict", run.folder, photo)[1].strip()
    assert line.endswith(f"; set: {', '.join(told['set'])}")


@pytest.mark.parametrize(
    ("count", "noun", "text"), [(1, "image", "1 image"), (0, "class", "0 classes"), (2500, "image", "2,500 images")]
)
def test_a_number_has_its_noun_in_the_singular_or_the_plural(count, noun, text):
    assert counted(count, noun) == text
    assert counted(count, noun, "are") == f"{text} {'is' if count == 1 else 'are'}"


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 byte"), (999, "999 bytes"), (1500, "1.5 kB"), (37_000_000, "37 MB"), (2.1e9, "2.1 GB")]
)
def test_a_number_of_bytes_has_the_unit_that_suits_it(count, text):
    assert sized(int(count)) == text


def test_compare_prints_tables_or_json(make_run, say, tmp_path):
    folders = [make_run("binary").folder, make_run("binary", name="other", tilt=3.0).folder]
    code, out, _ = say("run", "compare", *folders)
    assert (code, "McNemar" in out) == (0, True)
    result = json.loads(say("run", "compare", *folders, "--json", "--out", tmp_path / "result.json")[1])
    assert result == kerasimg.compare(*folders).to_dict() == json.loads((tmp_path / "result.json").read_text())
    assert say("run", "compare", folders[0])[0] == 2


def test_compare_takes_the_best_run_of_an_auto_or_a_search_and_leaves_out_what_has_no_predictions(
    make_run, say, tmp_path
):
    folders = [make_run("binary").folder, make_run("binary", name="other", tilt=3.0).folder]
    for name, mark, result in (("auto", "auto.json", "result.json"), ("tune", "search.json", "winner.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / mark).write_text("{}")
        (tmp_path / name / result).write_text(json.dumps({"run": str(folders[1])}))
    (tmp_path / "unfinished").mkdir()
    code, out, err = say("run", "compare", folders[0], tmp_path / "auto", tmp_path / "unfinished", tmp_path / "tune")
    assert (code, err) == (0, f"{tmp_path / 'unfinished'}: left out, since it holds no predictions of test images\n")
    assert out.splitlines()[-1] == f"Next: kerasimg spec diff {folders[0]} {folders[1]}"
    assert say("evaluate", tmp_path / "auto", "--json")[0] == 0
    assert say("run", "compare", folders[0], tmp_path / "unfinished")[0] == 2


def test_the_next_step_of_a_model_without_a_run_names_its_data_and_a_folder(make_run, lists, say, tmp_path):
    run, data, model = make_run("multiclass"), lists("multiclass"), tmp_path / "model.keras"
    shutil.copy(run.folder / "model.keras", model)
    assert say("evaluate", model, "--data", data)[1].splitlines()[-1].endswith(f" --data {data} --out export")
    assert say("evaluate", run.folder, "--data", data)[1].splitlines()[-1].endswith(f" {run.folder} --to litert")


def test_an_added_class_tells_the_accuracy_of_the_old_ones_before_and_after(make_run, say, tmp_path):
    for number in range(2):
        PIL.Image.new("RGB", (4, 4), (200, 200 + number, 60)).save(tmp_path / f"{number}.png")
    run = make_run("multiclass")
    out = say("run", "add", run.folder, "yellow", tmp_path / "0.png", tmp_path / "1.png")[1]
    share, points = r"\d+\.\d%", r"[+-]\d+\.\d"
    assert re.search(
        rf"old classes: accuracy {share} before, {share} after; difference {points} points "
        rf"\(95 % interval {points} to {points}\), on 60 test images\n",
        out,
    )


def test_label_errors_lists_the_most_likely(make_run, say):
    run = make_run("multiclass")
    code, out, _ = say("run", "label-errors", run.folder, "--top", "1")
    found = len(RunFolder.of(run).required("evaluation/label_errors.json")["rows"])
    assert code == 0
    assert out.splitlines()[0] == f"{found} of 120 images are suspect"
    assert len(out.splitlines()) == 4
    assert say("run", "label-errors", run.folder, "--set", "lr=1")[0] == 2
    assert say("data", "label-errors", "simple_cnn", "--folds", "3")[0] == 2


def test_images_are_printed_as_paths_that_work_from_this_folder(make_run, lists, say, tmp_path, monkeypatch):
    run, other, folder = make_run("multiclass"), make_run("multiclass", name="other", tilt=3.0), lists("multiclass")
    monkeypatch.chdir(folder.parents[1])
    lines = say("run", "label-errors", run.folder, "--top", "1")[1].splitlines()
    suspect = lines[1].split(": ")[0]
    assert suspect.startswith("images/")
    assert lines[-1] == f"Next: kerasimg explain {run.folder} {suspect}"
    lines = say("run", "similar", run.folder, suspect)[1].splitlines()
    assert lines[0].split()[1].startswith("images/train-")
    assert lines[-1] == f"Next: kerasimg explain {run.folder} {suspect}"
    assert " images/test-" in say("run", "compare", run.folder, other.folder)[1].replace("\n", " ")
    record = json.loads((run.folder / "evaluation" / "label_errors.json").read_text())
    assert record["rows"][0]["file"] == suspect.removeprefix("images/")
    assert image_paths(run.folder, "tfds:any")("3") == "3"


def test_label_errors_with_folds_trains_a_spec(say, tiny, images, tmp_path):
    data = images(tmp_path / "data", {"red": 6, "blue": 6})
    (tmp_path / "tiny.json").write_text(json.dumps(tiny()))
    out = tmp_path / "found.json"
    code, said, _ = say(
        "data", "label-errors", tmp_path / "tiny.json", "--data", data, "--folds", "2", "--json", "--out", out
    )
    assert code == 0
    assert json.loads(said) == json.loads(out.read_text()) == {"n": 12, "found": 0, "folds": 2, "rows": []}
