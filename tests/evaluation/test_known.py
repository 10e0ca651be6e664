"""Unknown images: false alarms at the stated rate, foreign images found, the rule kept and checked."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from scipy import stats
from scipy.stats import beta, kstest, kstwobign

import kerasimg
from kerasimg.errors import CallError
from kerasimg.evaluation.evaluate import choose_images
from kerasimg.evaluation.known import METHODS, false_alarms, fit_known, known_by_default, least_images, main_directions
from kerasimg.evaluation.measures import roc_auc
from kerasimg.evaluation.shift import broken_promise, measure_shift, promise
from kerasimg.models.classifier import Classifier, set_decisions
from kerasimg.models.known import Known, find_head, outputs_and_features, with_outputs
from kerasimg.spec.pack import KnownRule

FOREIGN = np.zeros((4, 4, 3), np.uint8)
FOREIGN[..., 0], FOREIGN[..., 1] = 255, 255


def test_false_alarms_follow_their_beta_law_over_1000_splits():
    scores = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    rng, n, share = np.random.default_rng(1), 199, 0.05
    shares = []
    for _ in range(1000):
        order = rng.permutation(len(scores))
        held, rest = scores[order[:n]], scores[order[n : n + 1000]]
        p = ((held[None] >= rest[:, None]).sum(axis=1) + 1) / (n + 1)
        shares.append(false_alarms(None, p.astype(np.float32), share, ())["unknown"])
    law = stats.beta(10, 190)
    assert np.mean(shares) == pytest.approx(law.mean(), abs=0.002)
    assert promise(n, share) == pytest.approx(law.ppf([0.025, 0.975]))
    assert np.quantile(shares, [0.025, 0.975]) == pytest.approx(law.ppf([0.025, 0.975]), abs=0.012)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_the_main_directions_are_those_of_the_singular_values(shape, rank):
    random = np.random.default_rng(0)
    values = random.normal(size=(shape[0], rank)) @ random.normal(size=(rank, shape[1]))
    _, singular, rows = np.linalg.svd(values, full_matrices=False)
    spectrum, directions = main_directions(values, 8)
    np.testing.assert_allclose(spectrum, singular**2 / len(values), atol=1e-12)
    np.testing.assert_allclose(directions.T @ directions, np.eye(8), atol=1e-9)
    used = min(8, rank)
    np.testing.assert_allclose(np.abs(np.sum(directions[:, :used] * rows[:used].T, axis=0)), 1, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_finds_foreign_images_and_is_kept_in_the_model_and_in_packs(make_run, tmp_path, method):
    run = make_run("multiclass", sure=0.02)
    result = kerasimg.known(run, 0.1, method=method)
    assert result.rule["method"] == method
    assert result.parts["test"]["n"] == 60
    assert result.parts["test"]["unknown"] < 0.3
    assert json.loads((run.folder / "known.json").read_text())["model"].keys() == {"weights"}
    [answer] = kerasimg.predict(run, FOREIGN, verbose=0)
    assert answer.known is (answer.p_value > 0.1)
    kerasimg.pack(run, tmp_path / "a.kerasimg")
    [again] = kerasimg.predict(tmp_path / "a.kerasimg", FOREIGN, verbose=0)
    assert (again.known, again.p_value) == (answer.known, answer.p_value)
    assert kerasimg.known(run, undo=True).rule is None
    assert kerasimg.predict(run, FOREIGN, verbose=0)[0].known is None


def test_probabilities_do_not_change_and_p_values_are_those_of_the_scores(make_run):
    run = make_run("binary")
    before = Classifier.open(run.folder)
    kerasimg.known(run, 0.1)
    after = Classifier.open(run.folder)
    images = np.random.default_rng(0).uniform(0, 255, (9, 4, 4, 3)).astype(np.float32)
    answer = after.answer(images)
    assert np.allclose(answer.probabilities, before.probabilities(images), atol=1e-6)
    n = len(after.known.arrays["scores"])
    assert np.allclose(answer.p_values * (n + 1), np.round(answer.p_values * (n + 1)), atol=1e-3)
    assert before.answer(images).p_values is None


def test_train_fits_a_rule_from_100_validation_images_on(make_run):
    assert (least_images(0.05), least_images(0.01), least_images(0.1)) == (100, 500, 50)
    run = make_run("multiclass", sure=0.02)
    classifier = Classifier.open(run.folder)
    held = choose_images(classifier, None, "validation")
    few = {"train": held.indices, "validation": held.indices[:50]}
    assert known_by_default(classifier, held.source, few) is None
    every = np.arange(len(held.source))
    rule, record = known_by_default(classifier, held.source, {"train": every, "validation": every[:100]})
    assert len(rule.arrays["scores"]) == 80  # a fifth chose the score
    assert record["methods"].keys() == set(METHODS)
    best = max(record["methods"], key=lambda name: np.mean(list(record["methods"][name].values())))
    assert rule.rule.method == best


def test_the_mahalanobis_distance_is_that_of_numpy_where_no_direction_is_left_out(make_run):
    run = make_run("multiclass", sure=0.02)
    classifier = Classifier.open(run.folder)
    train, held = (choose_images(classifier, None, part) for part in ("train", "validation"))
    fitted, _ = fit_known(classifier, train, held, 0.1, "mahalanobis")
    assert classifier.head.width == 3
    images = np.random.default_rng(0).uniform(0, 255, (5, 4, 4, 3)).astype(np.float32)
    features = keras.ops.convert_to_numpy(outputs_and_features(classifier.model)(images)[1])
    np.testing.assert_allclose(classifier.values(images).features, features, rtol=1e-5)
    centres = fitted.arrays["centres"] @ np.linalg.inv(fitted.arrays["directions"]) + fitted.arrays["mean"]
    scaled = fitted.arrays["directions"]
    wanted = np.sqrt((((features[:, None] - centres) @ scaled) ** 2).sum(-1)).min(axis=1)
    scores = fitted.arrays["scores"]
    p = ((scores[None] >= wanted[:, None] * (1 + 1e-5)).sum(1) + 1) / (len(scores) + 1)
    model = with_outputs(classifier.model, ("probabilities", "p_value"), fitted)
    found = keras.ops.convert_to_numpy(model(images)["p_value"])[:, 0]
    assert found == pytest.approx(p, abs=2 / (len(scores) + 1))
    answer = replace(classifier, known=fitted).answer(images, kept=[1, 3])
    assert answer.p_values == pytest.approx(found, abs=2 / (len(scores) + 1))
    np.testing.assert_allclose(answer.features, features[[1, 3]], rtol=1e-5)


def test_the_head_is_found_behind_activations_and_within_a_nested_model():
    inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(5, 1), keras.layers.GlobalAveragePooling2D()])
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras.layers.Softmax()(inner(image)))
    head = find_head(model)
    assert head.width == 3
    assert not head.has_logits
    probe = outputs_and_features(model)
    assert probe.output_shape == [(None, 5), (None, 3)]
    two = keras.layers.Average()([keras.layers.Dense(2)(keras.layers.Flatten()(image)) for _ in range(2)])
    assert find_head(keras.Model(image, two)) is None


def test_the_area_counts_ties_as_halves():
    assert roc_auc(np.array([0, 0, 1, 1]), np.array([0.0, 1.0, 1.0, 2.0])) == 0.875


def test_shift_divides_a_change_of_accuracy():
    rng = np.random.default_rng(0)
    p = np.arange(1, 1001) / 1000
    easy = rng.random(1000) < 0.5 + 0.5 * p
    own = measure_shift(p, easy, 0.05, 999)
    assert own["distance"] < 0.01
    drawn = rng.random(77).astype(np.float32)
    found = measure_shift(drawn, drawn > 0.1, 0.05, 99)
    assert found["distance"] == pytest.approx(kstest(drawn, "uniform").statistic, abs=1e-7)
    assert found["p_value"] == pytest.approx(kstwobign.sf(np.sqrt(77 * 99 / (77 + 99)) * found["distance"]))
    assert found["expected"] == pytest.approx(beta.ppf([0.025, 0.975], 5, 95))
    assert own["p_value"] > 0.9
    low = p * 0.5
    moved = measure_shift(low, rng.random(1000) < 0.5 + 0.5 * low, 0.05, 999, own)
    assert moved["distance"] == pytest.approx(0.5, abs=0.01)
    assert moved["p_value"] < 1e-6
    change = moved["change"]
    assert change["by_shift"] + change["rest"] == pytest.approx(change["accuracy"] - change["accuracy_before"])
    assert change["by_shift"] == pytest.approx(-0.125, abs=0.04)
    assert change["rest"] == pytest.approx(0, abs=0.08)


def test_evaluation_of_other_images_says_how_far_they_are(make_run, lists, tmp_path):
    run = make_run("multiclass", sure=0.02)
    kerasimg.known(run, 0.1)
    kerasimg.evaluate(run, verbose=0)
    stored = json.loads((run.folder / "evaluation" / "metrics.json").read_text())["known"]
    assert stored["n"] == 60
    assert "change" not in stored
    images = np.random.default_rng(0).integers(0, 40, (60, 4, 4, 3)).astype(np.uint8)
    other = kerasimg.evaluate(run, data=(images, np.array(["blue", "green", "red"] * 20)), verbose=0)
    assert other["known"]["p_value"] < 0.05
    assert other["known"]["change"]["accuracy_before"] == pytest.approx(
        json.loads((run.folder / "evaluation" / "metrics.json").read_text())["accuracy"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.6}, "share: expected a share above 0 and at most 0.5, got 0.6"),
        ({"method": "energi"}, "no method 'energi'; did you mean 'energy'"),
        (
            {"share": 0.05},
            "a share of 0.05 needs 100 held-out images, and there are 60; ask for a larger share .--share 0.09.",
        ),
    ],
)
def test_wrong_arguments_are_named(make_run, arguments, message):
    with pytest.raises(CallError, match=message):
        kerasimg.known(make_run("multiclass"), **arguments)


def test_a_rule_in_a_file_that_does_not_fit_the_model_is_refused(make_run):
    run = make_run("multiclass", sure=0.02)
    kerasimg.known(run, 0.1, method="mahalanobis")
    classifier = Classifier.open(run.folder)
    own = classifier.known
    arrays = {
        **own.arrays,
        "mean": np.zeros(7, np.float32),
        "directions": np.zeros((7, len(own.arrays["variances"])), np.float32),
    }
    set_decisions(run.folder / "model.keras", replace(classifier, known=Known(own.rule, arrays)))
    with pytest.raises(CallError, match="known: its rule is for 7 features, and the model has 3"):
        Classifier.open(run.folder)
    for name, array, message in (
        ("scores", np.array([2.0, 1.0]), "ascending"),
        ("mean", np.array([np.nan] * 3), "finite"),
        ("rest", np.zeros(2), "rest: expected an array of shape"),
    ):
        content = Known(own.rule, {**own.arrays, name: array.astype(np.float32)}).to_bytes()
        with pytest.raises(ValueError, match=message):
            Known.of(own.rule, content)
    with pytest.raises(ValueError, match="expected the arrays scores"):
        Known.of(KnownRule(method="energy", share=0.1), own.to_bytes())


def flagged(unknown, low, high):
    return {"n": 500, "share": 0.05, "unknown": unknown, "interval": [low, high], "expected": promise(240, 0.05)}


def test_more_unknown_images_than_promised_come_with_what_to_do():
    assert broken_promise(flagged(0.066, 0.047, 0.091), 240, "a run") == ""
    chance = broken_promise(flagged(0.084, 0.063, 0.112), 240, "a run")
    assert "allow 2.6% to 8.1%; more of them" in chance
    assert chance.endswith(
        "To flag about 5.0% of such images: kerasimg run known 'a run' --share 0.029 (its promise is then 2.9%)"
    )
    other = broken_promise(flagged(0.3, 0.262, 0.341), 240, "a run")
    assert "allow at most 8.1%: these images differ from them" in other
    assert "--share" not in other  # 240 images are too few for a share of 0.8 %
