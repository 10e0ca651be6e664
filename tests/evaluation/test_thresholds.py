import json

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

import kerasimg
from kerasimg.errors import CallError, GateError
from kerasimg.evaluation.thresholds import _aim, choose
from kerasimg.run_folder import RunFolder

SCORES = np.linspace(0, 1, 11)


def best(name, truth, p, **costs):
    return choose(truth, p, _aim(name, costs.get("false_positive", 1), costs.get("false_negative", 1)))


def test_the_threshold_is_halfway_between_two_probabilities():
    chosen = best("f1", [0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9])
    assert chosen == (pytest.approx(0.4), True, 1.0, 1.0, 1.0, 2)


def test_of_equally_good_ones_it_is_the_nearest_to_one_half():
    assert best("youden", [1, 0, 1, 0, 1, 0], [0.05, 0.1, 0.4, 0.45, 0.8, 0.85]).threshold == pytest.approx(0.625)


def test_each_aim_worked_by_hand():
    truth, p = [0, 1, 0, 0, 1, 1], [0.1, 0.3, 0.4, 0.5, 0.7, 0.8]
    assert best("precision>=0.9", truth, p).threshold == pytest.approx(0.6)
    assert best("recall>=0.9", truth, p).threshold == pytest.approx(0.2)
    assert best("recall>=0.6", truth, p).threshold == pytest.approx(0.6)
    assert best("cost", truth, p, false_negative=3).threshold == pytest.approx(0.2)
    assert best("cost", truth, p, false_positive=3).threshold == pytest.approx(0.6)


def test_an_aim_that_cannot_be_met_gets_the_nearest_and_says_so():
    chosen = best("precision>=0.9", [1, 0, 1, 0], [0.2, 0.9, 0.8, 0.1])
    assert (chosen.met, chosen.precision, chosen.recall) == (False, pytest.approx(2 / 3), 1)


def test_a_label_without_images_keeps_one_half():
    assert best("f1", [0, 0], [0.2, 0.9]) == (0.5, False, 0, 0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=25).filter(
        lambda r: any(y for y, _ in r)
    ),
    st.sampled_from(["f1", "youden", "precision>=0.6", "recall>=0.7"]),
)
def test_no_other_threshold_is_better(rows, aim):
    truth, p = np.array([y for y, _ in rows]).astype(int), np.array([s / 20 for _, s in rows], "float32")
    chosen = best(aim, truth, p)

    def value(threshold):
        said = p > threshold
        hits = (said & (truth == 1)).sum()
        precision, recall = hits / max(said.sum(), 1), hits / truth.sum()
        if aim == "f1":
            return sk.f1_score(truth, said, zero_division=0)
        if aim == "youden":
            return recall - (said & (truth == 0)).sum() / max((truth == 0).sum(), 1)
        if aim.startswith("precision"):
            return recall if precision >= 0.6 else -1
        return precision if recall >= 0.7 else -1

    others = [value(threshold) for threshold in np.arange(-1, 41) / 40 if threshold >= 0]
    if chosen.met:
        assert value(chosen.threshold) >= max(others) - 1e-7
        assert chosen.f1 == pytest.approx(sk.f1_score(truth, p > chosen.threshold, zero_division=0))
    else:
        assert max(others) <= 0


def test_an_aim_is_named_rightly():
    for name, message in [
        ("youdn", "did you mean 'youden'"),
        ("precision>=95", "above 0 and up to 1"),
        ("recall", "aims: f1, youden"),
    ]:
        with pytest.raises(CallError, match=message):
            _aim(name, 1, 1)
    with pytest.raises(CallError, match="two costs"):
        _aim("cost", 0, 0)


def test_a_binary_run_decides_by_its_threshold_from_then_on(make_run):
    run = make_run("binary", tilt=-6.0)
    before = run.scores
    result = kerasimg.choose_thresholds(run, "recall>=0.9")
    assert result.to_dict() == RunFolder.of(run).required("thresholds.json")
    threshold = result["thresholds"]["red"]
    assert threshold < 0.5
    assert result["labels"]["red"]["recall"] >= 0.9
    after = run.scores
    assert after["thresholds"] == {"red": threshold}
    assert after["recall"] > before["recall"]
    assert (after["roc_auc"], after["log_loss"]) == (before["roc_auc"], before["log_loss"])
    assert kerasimg.evaluate(run) == after
    pixels = np.full((1, 4, 4, 3), 113, "uint8")
    (said,) = kerasimg.predict(run, pixels)
    assert threshold < said.probabilities["red"] < 0.5
    assert (said.label, said.confidence) == ("red", pytest.approx(said.probabilities["red"]))
    assert kerasimg.explain(run, pixels, "occlusion", window=2)[0].target == "red"


def test_calibrating_afterwards_moves_the_threshold_so_that_no_decision_changes(make_run):
    run = make_run("multilabel", tilt=-4.0)
    thresholds = kerasimg.choose_thresholds(run)["thresholds"]
    before = run.scores
    kerasimg.calibrate(run)
    after = run.scores
    assert after["thresholds"] != thresholds
    for figure in ("subset_accuracy", "macro_f1", "micro_f1"):
        assert after[figure] == before[figure]
    kerasimg.calibrate(run, undo=True)
    assert run.scores["thresholds"] == pytest.approx(thresholds, rel=1e-5)
    assert kerasimg.choose_thresholds(run, undo=True)["thresholds"] == {"blue": 0.5, "green": 0.5, "red": 0.5}
    assert not (run.folder / "thresholds.json").exists()


def test_f1_on_the_images_chosen_by_is_no_lower_than_at_one_half(make_run):
    run = make_run("multilabel", tilt=-4.0)
    plain = kerasimg.evaluate(run, part="validation")["per_class"]
    result = kerasimg.choose_thresholds(run)
    chosen = kerasimg.evaluate(run, part="validation")["per_class"]
    for label, row in result["labels"].items():
        assert chosen[label]["f1"] == pytest.approx(row["f1"])
        assert chosen[label]["f1"] >= plain[label]["f1"]


def test_an_aim_out_of_reach_changes_nothing(make_run):
    run = make_run("binary")
    before = (run.folder / "model.keras").read_bytes()
    record = RunFolder.of(run).required("data.json")
    record["images"] = [one for one in record["images"] if one["part"] != "validation" or one["labels"] != ["red"]]
    (run.folder / "data.json").write_text(json.dumps(record))
    with pytest.raises(GateError, match=r"'precision>=0.99' cannot be met on the 30 images .*Nothing was changed"):
        kerasimg.choose_thresholds(run, "precision>=0.99")
    assert (run.folder / "model.keras").read_bytes() == before


def test_a_run_of_many_classes_has_no_threshold(make_run):
    with pytest.raises(CallError, match="the most likely class is predicted"):
        kerasimg.choose_thresholds(make_run("multiclass"))
