import keras
import numpy as np
import pytest

from kerasimg.models.output_kind import as_probabilities, output_kind
from kerasimg.models.temperature import at_temperature, logits, model_at_temperature


def small(activation, units):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, activation=activation)])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_probabilities_at_a_temperature_are_those_of_divided_logits(task):
    z = np.random.default_rng(0).normal(0, 4, (50, 5))
    kind = "logits"
    scaled = at_temperature(as_probabilities(z, kind, task), 2.5, task)
    np.testing.assert_allclose(scaled, as_probabilities(z / 2.5, kind, task), atol=1e-3)
    assert scaled.dtype == np.float32


def test_temperature_1_changes_no_digit_and_the_way_back_is_the_inverse():
    p = np.random.default_rng(0).dirichlet(np.ones(4), 20).astype("float32")
    np.testing.assert_array_equal(at_temperature(p, 1, "multiclass"), p)
    back = at_temperature(at_temperature(p, 3, "multiclass"), 1 / 3, "multiclass")
    np.testing.assert_allclose(back, p, atol=1e-6)


def test_no_decision_changes():
    p = np.random.default_rng(0).random((1000, 3)).astype("float32")
    p[0] = 0.5
    assert ((at_temperature(p, 4, "multilabel") > 0.5) == (p > 0.5)).all()
    assert (at_temperature(p, 4, "multiclass").argmax(axis=1) == p.argmax(axis=1)).all()


def test_certainty_stays_finite():
    sure = np.array([[0.0, 1.0]], "float32")
    assert np.isfinite(logits(sure, "multiclass")).all()
    assert np.isfinite(logits(sure, "multilabel")).all()
    assert at_temperature(sure, 2, "multiclass").sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("activation", "task"),
    [("softmax", "multiclass"), ("sigmoid", "multilabel"), (None, "multiclass"), (None, "multilabel")],
)
def test_a_model_for_an_export_gives_the_probabilities_of_the_classifier(activation, task, tmp_path):
    model = small(activation, 4)
    x = 3 * np.random.default_rng(0).normal(size=(30, 3)).astype("float32")
    kind = output_kind(model)
    expected = at_temperature(as_probabilities(model.predict(x, verbose=0), kind, task), 1.7, task)
    exported = model_at_temperature(model, 1.7)
    assert output_kind(exported) == kind
    exported.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(as_probabilities(again.predict(x, verbose=0), kind, task), expected, atol=1e-5)


def test_temperature_1_needs_no_other_model():
    model = small("softmax", 2)
    assert model_at_temperature(model, 1) is model
