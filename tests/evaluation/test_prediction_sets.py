import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import kerasimg
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.serve.answers import predictions
from kerasimg.errors import CallError
from kerasimg.evaluation.calibrate import decide_by
from kerasimg.evaluation.conformal import SCORES, choose_rule, name_sets, set_members
from kerasimg.evaluation.prediction_sets import errors_among, measure_sets, risk_coverage
from kerasimg.models.classifier import Classifier, set_decisions
from kerasimg.models.keras_file import Answer
from kerasimg.spec.pack import SetRule


def draw(n, k, seed=0, rng=None):
    """Probabilities, and classes drawn by them."""
    rng = rng or np.random.default_rng(seed)
    z = rng.normal(size=(n, k)) * 2
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return p, np.array([rng.choice(k, p=row) for row in p])


@pytest.mark.parametrize(
    ("method", "limit", "members"),
    [("lac", 0.9093070008402919, 537), ("aps", 0.9526679588004362, 685), ("raps", 0.9526679588004362, 684)],
)
def test_limits_and_sets_are_those_of_torchcp(method, limit, members):
    """Made with torchcp 1.2.1 (randomized=False, penalty=0.01, kreg=5); its RAPS keeps the penalty in float32."""
    rng = np.random.default_rng(0)
    (p, truth), (other, _) = draw(300, 8, rng=rng), draw(200, 8, rng=rng)
    rule = choose_rule(truth, p, 0.9, method)
    assert rule.limits == pytest.approx([limit], abs=1e-9)
    with_best = set_members(other, rule)
    best = np.zeros_like(with_best)
    best[np.arange(200), other.argmax(axis=1)] = True
    assert members <= with_best.sum() <= members + 200  # torchcp's sets may lack the best class
    lower = SetRule(method=method, coverage=0.9, limits=[limit + 1e-8])
    assert np.array_equal(set_members(other, lower), with_best)


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_coverage_follows_its_beta_law_over_1000_splits(method):
    p, truth = draw(4000, 6, seed=3)
    rng, n, coverage = np.random.default_rng(1), 100, 0.9
    scores = SCORES[method](p)[np.arange(len(p)), truth]
    held, in_sets = [], []
    for _ in range(1000):
        order = rng.permutation(len(p))
        rule = choose_rule(truth[order[:n]], p[order[:n]], coverage, method)
        rest = order[n:]
        held.append((scores[rest] <= rule.limits[0]).mean())
        in_sets.append(set_members(p[rest[:50]], rule)[np.arange(50), truth[rest[:50]]].mean())
    k = int(np.ceil((n + 1) * coverage))
    law = stats.beta(k, n + 1 - k)
    assert np.mean(held) == pytest.approx(law.mean(), abs=0.004)
    assert np.quantile(held, [0.05, 0.5, 0.95]) == pytest.approx(law.ppf([0.05, 0.5, 0.95]), abs=0.012)
    assert np.mean(in_sets) >= law.mean() - 0.004  # the best class is in every set, which only adds


def test_each_class_is_covered_when_asked_for_even_one_that_the_model_never_sees():
    p, truth = draw(6000, 3, seed=5)
    p = p * [1, 1, 0.05]
    p /= p.sum(axis=1, keepdims=True)
    half = len(p) // 2
    shares = {}
    for per_class in (False, True):
        rule = choose_rule(truth[:half], p[:half], 0.9, per_class=per_class)
        rows = measure_sets(truth[half:], p[half:], rule, ("a", "b", "c"))["classes"]
        shares[per_class] = {row["class"]: (row["coverage"], row["below"]) for row in rows}
    assert shares[False]["c"][1]
    assert all(share > 0.87 and not below for share, below in shares[True].values())


def test_too_few_images_give_sets_of_every_class():
    p, truth = draw(8, 4)
    rule = choose_rule(truth, p, 0.9)
    assert set_members(p, rule).all()
    assert set_members(p, choose_rule(truth, p, 0.8)).all(axis=1).mean() < 1


def test_the_best_class_comes_first_and_is_never_missing():
    rule = SetRule(method="lac", coverage=0.5, limits=[0.0])
    assert name_sets(np.array([[0.2, 0.5, 0.3]]), rule, "abc") == [("b",)]
    wide = SetRule(method="lac", coverage=0.5, limits=[0.75])
    assert name_sets(np.array([[0.2, 0.5, 0.3]]), wide, "abc") == [("b", "c")]
    assert name_sets(np.array([[0.4]]), wide, "ab") == [("a", "b")]


def test_errors_fall_as_fewer_images_are_answered_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    rows = {row["answered"]: row for row in risk_coverage(np.array([0, 0, 0, 1]), p)}
    assert rows[1.0]["error"] == 0.25
    assert rows[0.5] == {"answered": 0.5, "error": 0.0, "confidence": 0.8}


def test_the_order_of_images_of_equal_confidence_plays_no_part():
    # A model that is equally sure of everything, as a quantized one may be, of images that are sorted by class.
    p, truth = np.full((6, 3), 1 / 3), np.array([0, 0, 1, 1, 2, 2])
    for labels in (truth, truth[::-1]):
        assert [row["error"] for row in risk_coverage(labels, p)] == pytest.approx([2 / 3] * 6)
    assert errors_among(np.array([1, 0, 1, 0, 0]), np.array([0.5, 0.5, 0.9, 0.5, 0.2])).tolist() == pytest.approx(
        [1, 4 / 3, 5 / 3, 2, 2]
    )


def test_a_run_keeps_its_rule_and_gives_sets_until_it_is_calibrated_otherwise(make_run, tmp_path):
    run = make_run("multiclass", sure=0.02)
    result = kerasimg.prediction_sets(run, 0.8, method="aps")
    assert result.rule["method"] == "aps"
    assert 0 <= result.expected[0] <= result.expected[1] <= 1
    assert result.parts["test"]["n"] == sum(result.parts["test"]["sizes"].values())
    record = json.loads((run.folder / "sets.json").read_text())
    assert record["model"] == Classifier.open(run.folder).identity()
    image = np.zeros((4, 4, 3), np.uint8)
    [prediction] = kerasimg.predict(run, image, verbose=0)
    assert prediction.set is not None
    assert prediction.set[0] == prediction.label
    kerasimg.pack(run, tmp_path / "a.kerasimg")
    [again] = kerasimg.predict(tmp_path / "a.kerasimg", image, verbose=0)
    assert again.set == prediction.set
    kerasimg.prediction_sets(run, undo=True)
    assert not (run.folder / "sets.json").exists()
    assert kerasimg.predict(run, image, verbose=0)[0].set is None


@pytest.mark.parametrize("change", [{"temperature": 2.0}, {"flips": True}])
def test_other_probabilities_remove_the_sets_with_a_warning(make_run, caplog, change):
    run = make_run("multiclass", sure=0.02)
    kerasimg.prediction_sets(run, 0.8)
    classifier = Classifier.open(run.folder)
    decide_by(classifier, classifier, run.folder / "model.keras")
    assert classifier.sets is not None
    assert Classifier.open(run.folder).sets == classifier.sets
    decide_by(classifier, replace(classifier, **change), run.folder / "model.keras")
    assert Classifier.open(run.folder).sets is None
    assert "run sets" in caplog.text


def test_a_served_bundle_gives_the_sets_of_its_run(make_run):
    run = make_run("multiclass", sure=0.02)
    kerasimg.prediction_sets(run, 0.8)
    kerasimg.export(run, "litert", verbose=0)
    bundle = Bundle.open(run.folder / "export" / "litert")
    assert bundle.manifest.sets == Classifier.open(run.folder).sets
    p = np.array([[0.5, 0.3, 0.2]], np.float32)
    [answer] = predictions(bundle, ["a"], Answer(p), 2)
    assert tuple(answer["set"]) == name_sets(p, bundle.manifest.sets, bundle.classes)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coverage": 1.0}, "coverage: expected a share between 0 and 1, got 1"),
        ({"method": "apt"}, "no method 'apt'; did you mean 'aps'"),
    ],
)
def test_wrong_arguments_are_named(make_run, arguments, message):
    with pytest.raises(CallError, match=message):
        kerasimg.prediction_sets(make_run("multiclass"), **arguments)


def test_multilabel_classifiers_have_no_sets(make_run):
    with pytest.raises(CallError, match="its answer is a set of labels already"):
        kerasimg.prediction_sets(make_run("multilabel"))


def test_limits_in_a_file_that_do_not_fit_the_classes_are_refused(make_run):
    run = make_run("multiclass", sure=0.02)
    classifier = Classifier.open(run.folder)
    wrong = SetRule(method="lac", coverage=0.9, limits=[0.5, 0.5])
    set_decisions(run.folder / "model.keras", replace(classifier, sets=wrong))
    with pytest.raises(CallError, match="sets: 2 limits do not fit 3 classes"):
        Classifier.open(run.folder)
