import numpy as np
import pytest

from kerasimg.evaluation.evaluate import scores_with_intervals
from kerasimg.evaluation.intervals import _draws, interval, intervals, resampled, wilson
from kerasimg.evaluation.scores import scores

TASKS = ["multiclass", "binary", "multilabel"]


def drawn(task, n=120, k=4, seed=0):
    random = np.random.default_rng(seed)
    if task == "multilabel":
        p = random.random((n, k)).astype("float32").round(2)  # ties
        return (random.random((n, k)) < p).astype(int), p
    if task == "binary":
        p = random.random((n, 1)).astype("float32").round(2)
        return (random.random(n) < p[:, 0]).astype(int), p
    p = random.dirichlet(np.full(k, 0.5), n).astype("float32")
    return (p.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1), p


def names(task, k=4):
    return ["no", "yes"] if task == "binary" else [str(number) for number in range(k)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("thresholds", [None, [0.3]])
def test_each_resample_has_the_figures_of_the_images_that_were_drawn(task, thresholds):
    truth, p = drawn(task)
    if thresholds and task != "binary":
        thresholds = None if task == "multiclass" else [0.3, 0.5, 0.2, 0.9]
    draws = resampled(truth, p, task, thresholds, resamples=7)
    (counts,) = _draws(truth, task, 7, 0)
    for column in range(7):
        chosen = np.repeat(np.arange(len(truth)), counts[:, column].astype(int))
        found = scores(truth[chosen], p[chosen], names(task), task, thresholds)
        for name, values in draws.items():
            assert values[column] == pytest.approx(found[name], rel=1e-5), name


def test_as_many_images_of_each_class_are_drawn_as_there_are():
    truth, _ = drawn("multiclass")
    (counts,) = _draws(truth, "multiclass", 50, 0)
    for label in range(4):
        assert set(counts[truth == label].sum(axis=0)) == {float((truth == label).sum())}


@pytest.mark.parametrize("task", TASKS)
def test_an_interval_holds_its_figure_and_shrinks_with_the_images(task):
    widths = []
    for n in (200, 3200):
        truth, p = drawn(task, n)
        found = scores(truth, p, names(task), task)
        reach = intervals(found, truth, p, task)
        assert all(low <= found[name] <= high for name, (low, high) in reach.items() if name != "calibration_error")
        widths.append({name: high - low for name, (low, high) in reach.items() if name != "calibration_error"})
    for name, wide in widths[0].items():
        assert wide / widths[1][name] == pytest.approx(4, rel=0.35), name


def test_the_interval_of_accuracy_is_wilsons():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert wilson(0, 20) == pytest.approx([0, 0.1611], abs=5e-5)
    assert wilson(1.0, 5)[1] == 1.0


def test_where_all_is_right_resampling_tells_nothing_and_wilson_does():
    found = scores([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]], ["a", "b"], "multiclass")
    reach = intervals(found, [0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]], "multiclass")
    assert reach["macro_f1"] is None
    assert reach["accuracy"] == pytest.approx([0.438, 1.0], abs=1e-3)


def test_percentiles_and_their_reflection():
    draws = np.append(np.arange(101) / 100, np.nan)
    assert interval(draws, 0.4, level=0.9) == pytest.approx([0.05, 0.95])
    assert interval(draws, 0.4, level=0.9, method="basic") == pytest.approx([0, 0.75])


def test_intervals_of_accuracy_hold_the_truth_as_often_as_they_say():
    hits = dict.fromkeys(["accuracy", "balanced_accuracy", "log_loss"], 0)
    truth, p = drawn("multiclass", 200_000)
    true = scores(truth, p, names("multiclass"), "multiclass")
    for seed in range(100):
        y, q = drawn("multiclass", 300, seed=seed + 1)
        reach = intervals(scores(y, q, names("multiclass"), "multiclass"), y, q, "multiclass", resamples=300)
        for name in hits:
            low, high = reach[name]
            hits[name] += low <= true[name] <= high
    assert all(88 <= count <= 100 for count in hits.values()), hits


def test_the_same_seed_gives_the_same_draws_and_models_of_one_truth_share_them():
    truth, p = drawn("multiclass")
    once, again = (resampled(truth, p, "multiclass", resamples=20) for _ in range(2))
    other = resampled(truth, p, "multiclass", resamples=20, seed=1)
    better = resampled(truth, np.eye(4)[truth] * 0.1 + p, "multiclass", resamples=20)
    for name, values in once.items():
        np.testing.assert_array_equal(values, again[name])
    assert (once["accuracy"] != other["accuracy"]).any()
    assert (better["accuracy"] >= once["accuracy"]).all()  # image by image, as the draws are the same


def test_figures_come_with_how_their_intervals_were_found():
    truth, p = drawn("binary")
    result = scores_with_intervals(truth, p, ["no", "yes"], "binary")
    assert set(result["intervals"]) == set(result["intervals_by"]["method"])
    assert result["intervals_by"] == {
        "level": 0.95,
        "resamples": 1000,
        "seed": 0,
        "strata": "true class",
        "method": {
            name: {"accuracy": "wilson", "calibration_error": "basic"}.get(name, "percentile")
            for name in result["intervals"]
        },
    }
