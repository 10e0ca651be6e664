import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binomtest

import kerasimg
from kerasimg.errors import CallError
from kerasimg.evaluation.compare import mcnemar, sign_flips
from kerasimg.evaluation.comparison_table import print_comparison
from kerasimg.evaluation.predictions import read_predictions, write_predictions
from kerasimg.run_folder import RunFolder


def test_mcnemar_is_exact():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(30, 12) == binomtest(12, 42).pvalue


def test_sign_flips_are_mcnemars_test_where_each_group_is_one_image():
    assert sign_flips(np.array([1] * 9 + [-1] + [0] * 5)) == mcnemar(1, 9)
    assert sign_flips(np.zeros(4, int)) == 1.0
    assert sign_flips(np.array([1] * 30 + [-1] * 12)) == pytest.approx(mcnemar(12, 30), abs=2e-3)


def test_sign_flips_count_a_group_once():
    # Nine more images of one patient are one observation.
    assert sign_flips(np.array([9])) == 1.0
    assert sign_flips(np.array([4, 3, 2])) == 0.25


def test_images_of_one_group_are_no_independent_evidence(make_run):
    runs = make_run("multiclass"), make_run("multiclass", name="tilted", tilt=6.0)
    alone = kerasimg.compare(*runs)
    for run in runs:
        record = json.loads((run.folder / "data.json").read_text())
        for number, image in enumerate(record["images"]):
            image["group"] = f"patient {number % 4}"
        (run.folder / "data.json").write_text(json.dumps(record))
    grouped = kerasimg.compare(*runs)
    assert grouped["intervals_by"]["groups"] == 4
    assert "groups" not in alone["intervals_by"]
    (before,), (after,) = alone["against_first"], grouped["against_first"]
    assert before["mcnemar"]["p"] == mcnemar(before["mcnemar"]["only_first"], before["mcnemar"]["only_this"])
    # Up to four groups differ, so there are up to 16 ways to choose their signs.
    assert after["mcnemar"]["p"] * 16 in range(1, 17)
    assert after["differences"]["accuracy"]["difference"] == before["differences"]["accuracy"]["difference"]


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_a_run_compared_with_itself_differs_in_nothing(make_run, task):
    run = make_run(task)
    result = kerasimg.compare(run, run.folder)
    (against,) = result["against_first"]
    assert result["n"] == 60
    assert {row["difference"] for row in against["differences"].values()} == {0}
    assert against["mcnemar"] == {"only_first": 0, "only_this": 0, "p": 1.0}
    assert against["fixed"] == against["broken"] == against["changed"] == []
    assert result["figures"]["calibration_error"] == [run.scores["calibration_error"]] * 2


def test_changes_are_listed_image_by_image(make_run):
    first, second = make_run("multiclass"), make_run("multiclass", name="tilted", tilt=6.0)
    result = kerasimg.compare(first, second)
    (against,) = result["against_first"]
    said = [read_predictions(run.folder / "evaluation" / "predictions.csv", "multiclass") for run in (first, second)]
    was, now = (one.decision == one.truth for one in said)
    assert {row["file"] for row in against["fixed"]} == set(np.array(said[0].ids)[now & ~was])
    assert {row["file"] for row in against["broken"]} == set(np.array(said[0].ids)[was & ~now])
    assert against["mcnemar"]["only_first"] == len(against["broken"]) > 0
    assert all(row["after"] == row["truth"] != row["before"] for row in against["fixed"])
    difference = against["differences"]["accuracy"]
    assert difference["difference"] == pytest.approx(now.mean() - was.mean())
    low, high = difference["interval"]
    assert low < difference["difference"] < high
    # Paired: narrower than if the two runs had been evaluated on different images.
    alone = [run.scores["intervals"]["accuracy"] for run in (first, second)]
    assert high - low < sum(b - a for a, b in alone)


def test_images_are_known_by_their_content(make_run, tmp_path):
    first, second = make_run("binary"), make_run("binary", name="second", tilt=3.0)
    record = RunFolder.of(second).required("data.json")
    test = [one for one in record["images"] if one["part"] == "test"]
    test[0]["sha256"] = "0" * 64
    (second.folder / "data.json").write_text(json.dumps(record))
    renamed = (second.folder / "evaluation" / "predictions.csv").read_text().replace(test[0]["id"], test[0]["id"])
    (second.folder / "evaluation" / "predictions.csv").write_text(renamed)
    result = kerasimg.compare(first, second)
    assert result["n"] == 59
    assert result["differs"]["only_in"] == {str(first.folder): 1, str(second.folder): 1}


def test_images_that_a_run_was_trained_on_are_counted(make_run, lists):
    first, second = make_run("binary"), make_run("binary", name="second", tilt=3.0)
    result = kerasimg.compare(first, second, data=lists("binary"), part="train")
    assert result["n"] == 60
    assert result["differs"]["trained_on"] == {str(first.folder): 60, str(second.folder): 60}


def test_three_runs_are_each_compared_with_the_first(make_run, tmp_path):
    runs = [make_run("binary", name=f"run-{k}", tilt=float(k)) for k in range(3)]
    result = kerasimg.compare(*runs, out=tmp_path / "result.json", resamples=50)
    assert [one["run"] for one in result["against_first"]] == [str(run.folder) for run in runs[1:]]
    assert [len(values) for values in result["figures"].values()] == [3] * len(result["figures"])
    assert json.loads((tmp_path / "result.json").read_text()) == result.to_dict()


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_a_tie_is_decided_as_the_run_decides_it_whatever_the_order_of_classes(make_run, tmp_path, task):
    first = make_run(task)
    other = tmp_path / "other"
    shutil.copytree(first.folder, other)
    for folder, turn in ((first.folder, 1), (other, -1)):
        file = RunFolder(folder).evaluation.predictions_file
        said = read_predictions(file, task)
        classes = said.classes[::turn]
        p = np.full_like(said.probabilities, 1 / len(classes))
        truth = np.array([classes.index(said.classes[label]) for label in said.truth])
        write_predictions(file, said.ids, truth, p, classes, task)
    result = kerasimg.compare(first, other)
    # Each says its own first class of every image, so they agree on none.
    (against,) = result["against_first"]
    assert sum(len(against[name]) for name in ("fixed", "broken", "changed")) == 60
    assert sum(result["figures"]["accuracy"]) == pytest.approx(
        np.isin(said.truth, [0, len(classes) - 1]).mean(), abs=1e-12
    )


def test_thresholds_of_a_run_count(make_run):
    run = make_run("binary", tilt=-4.0)
    other = run.folder.parent / "other"
    shutil.copytree(run.folder, other)
    kerasimg.choose_thresholds(other)
    (against,) = kerasimg.compare(run, other)["against_first"]
    assert against["differences"]["f1"]["difference"] > 0
    assert against["differences"]["roc_auc"]["difference"] == 0


def test_what_cannot_be_compared_is_a_wrong_call(make_run, tmp_path):
    run = make_run("binary")
    with pytest.raises(CallError, match="two runs or more"):
        kerasimg.compare(run)
    with pytest.raises(CallError, match="answer different questions"):
        kerasimg.compare(run, make_run("multiclass", name="other"))
    with pytest.raises(CallError, match=r"holds no evaluation/predictions\.csv"):
        kerasimg.compare(run, tmp_path)


def test_the_terminal_gets_figures_differences_and_images(make_run, capsys):
    result = kerasimg.compare(make_run("multiclass"), make_run("multiclass", name="tilted", tilt=6.0))
    print_comparison(result)
    out = capsys.readouterr().out
    assert "60 images that all runs have" in out
    assert "say little" not in out
    assert "McNemar's exact p = " in " ".join(out.split()) + " "
    assert "Newly wrong" in out
    assert result["against_first"][0]["broken"][0]["file"] in out


def test_the_terminal_warns_where_the_runs_share_only_a_few_images(make_run, capsys):
    result = kerasimg.compare(make_run("multiclass"), make_run("multiclass", name="tilted", tilt=6.0)).to_dict()
    print_comparison({**result, "n": 1, "differs": {**result["differs"], "only_in": {"first": 1, "other": 59}}})
    assert capsys.readouterr().out.splitlines()[:3] == [
        "1 image of first not in all runs: left out",
        "59 images of other not in all runs: left out",
        "all runs have only 1 image: differences, intervals and p values of so few say little; compare on more of the "
        "same images (--data)",
    ]


def test_names_that_are_too_long_for_a_terminal_become_numbers(make_run):
    result = kerasimg.compare(make_run("multiclass"), make_run("multiclass", name="tilted", tilt=6.0)).to_dict()
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    print_comparison(result, console)
    out = console.file.getvalue()
    assert f"run 2: {result['runs'][1]}" in out.splitlines()
    assert "run 2 compared with run 1: " in out
