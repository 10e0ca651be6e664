"""A search within minutes: what is cut, what is left after a kill, and the training of the best spec."""

import json
import time

import pytest

import kerasimg
from kerasimg.errors import CallError, KerasimgError
from kerasimg.training.deadline import Deadline, OutOfTime
from kerasimg.tuning import search as searches
from kerasimg.tuning.pace import Costs, Pace, Parts
from kerasimg.tuning.time_budget import TimeBudget, minutes_from, search_began
from kerasimg.tuning.trials import Trials

PASSED = Deadline(0.0)


def test_the_minutes_of_a_command_begin_with_it_and_those_of_a_call_with_the_call():
    with minutes_from(5.0):
        assert search_began() == 5.0
    before = time.monotonic()
    assert before <= search_began() <= time.monotonic()


def test_smaller_images_take_less_time_to_compute_but_not_to_read():
    pace = Pace(size=224, load_s=0.01, frozen_s=0.04, keras_s=0.08, start_s=5.0)
    assert pace.rate == pytest.approx(20)
    assert (pace.features_s(100), pace.answers_s(100)) == (pytest.approx(5), pytest.approx(9))
    assert (pace.features_s(100, 112), pace.answers_s(100, 112)) == (pytest.approx(2), pytest.approx(3))


def test_the_end_takes_less_with_smaller_images_and_without_an_export():
    pace = Pace(size=224, load_s=0.01, frozen_s=0.04, keras_s=0.08, start_s=5.0)
    costs = Costs(pace, Parts(train=100, validation=20, test=20), classes=3)
    assert costs.recipe_s == pytest.approx(1.1 * 420 * 0.05 + 7.5)
    assert costs.plain_s(112) == pytest.approx(1.1 * 120 * 0.02 + 7.5)
    assert costs.export_s == pytest.approx(25 + 100 * 0.09)
    assert costs.end_s() - costs.end_s(export=False) == pytest.approx(costs.export_s)
    answered = (costs.end_s(export=False) - 10.5) / (1.1 * 0.09)  # validation, test, and those of the rule
    assert 40 <= answered <= 140
    assert costs.end_s(112, export=False) == pytest.approx(10.5 + answered * 1.1 * 0.03)


def test_a_trial_whose_deadline_passes_ends_after_a_step_with_its_validation(searched, few, tmp_path):
    spec = searched({}, augment=[{"layer": "RandomFlip"}])
    spec["fit"]["stages"] = [{"epochs": 5}, {"epochs": 5}]
    outcome = Trials(spec, few, folder=tmp_path).run({}, trial_id="0", deadline=PASSED)
    assert outcome.status == "stopped"
    assert [row["epoch"] for row in outcome.logs] == [1]
    assert outcome.best["val_accuracy"] >= 0
    assert outcome.weights is not None


def test_a_training_ends_at_its_deadline_and_is_a_finished_run(searched, few, tmp_path):
    from kerasimg.training.train import train

    spec = searched({})
    spec["fit"]["stages"] = [{"epochs": 50}]
    run = kerasimg.Run(train(spec, data=few, out=tmp_path, verbose=0, deadline=PASSED))
    assert len(run.history) == 1
    assert run.finished
    assert 0 <= run.scores.accuracy <= 1


def test_a_passed_deadline_says_what_was_being_done():
    with pytest.raises(OutOfTime, match="the time ran out while the images were checked"):
        PASSED.check("the images were checked")


def test_time_that_another_process_used_counts(tmp_path):
    with TimeBudget(tmp_path, 1.0, began=time.monotonic() - 45).counting():
        pass
    assert json.loads((tmp_path / "budget.json").read_text())["used_s"] >= 45
    assert TimeBudget(tmp_path, 1.0).left_s <= 15
    assert TimeBudget(tmp_path, None).left_s == float("inf")


def test_a_search_without_time_for_an_epoch_says_so(search, searched):
    with pytest.raises(KerasimgError, match="minutes of the search ended before an epoch of its first trial did"):
        search(searched({"minutes": 1e-6}))


def test_a_search_is_as_long_as_its_minutes_and_a_resumed_one_has_the_rest(search, searched, few):
    result = search(searched({"minutes": 0.06, "max_trials": None}))
    used = json.loads((result.folder / "budget.json").read_text())["used_s"]
    assert result.trials
    assert result.score == max(trial.score for trial in result.trials if trial.score is not None)
    (result.folder / "best.json").unlink()  # as if it had been killed before its end
    again = kerasimg.Search(searches.resume_search(result.folder, data=few))
    assert len(again.trials) == len(result.trials)
    assert json.loads((result.folder / "budget.json").read_text())["used_s"] >= used


def test_the_best_spec_is_trained_where_that_is_asked_for(search, searched):
    result = search(searched({"max_trials": 2, "train_best": True}))
    assert result.run.history[-1]["val_accuracy"] == result.score
    assert result.run.folder.parent == result.folder
    with pytest.raises(CallError, match=r"tune\.train_best is false"):
        search(searched({"max_trials": 1})).run  # noqa: B018


def test_a_warm_start_begins_with_the_best_values_of_earlier_searches(search, searched):
    earlier = search(searched({"max_trials": 4, "seed": 5}))
    wider = searched({"max_trials": 3})
    wider["compile"]["optimizer"]["learning_rate"]["$float"] = [0.001, 2.0]
    result = search(wider, warm_start=earlier)
    ranked = sorted(earlier.trials, key=lambda trial: -trial.score)
    expected = [trial.values for trial in ranked if trial.values != earlier.trials[0].values]
    assert [trial.values for trial in result.trials[1:3]] == expected[:2]
    assert result.trials[0].values == earlier.trials[0].values
    with pytest.raises(CallError, match="grid search tries its values in a fixed order"):
        search(searched({"tuner": "grid"}), warm_start=[earlier.folder])
    other = searched({})
    other["compile"]["optimizer"]["learning_rate"]["$float"] = [3.0, 4.0]
    other["compile"]["optimizer"]["learning_rate"]["default"] = 3.0
    with pytest.raises(CallError, match=r"has a value for compile\.optimizer\.learning_rate that this spec allows"):
        search(other, warm_start=earlier)
