"""Every form of an engine agrees with the model, or is not used."""

from typing import Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasimg.errors import CallError
from kerasimg.models import compiled_predict, inference
from kerasimg.models.compiled_predict import final_outputs_of
from kerasimg.models.inference import MAKERS, NAMES, TOLERANCE, Form, agreement, agrees, engine, reference, settle
from kerasimg.models.split_model import Split, split_frozen

layers = keras.layers


@pytest.fixture(scope="module")
def cut() -> tuple[keras.Model, Split]:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    for filters in (8, 16, 16):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, trainable=False)(x)
        x = layers.ReLU(6)(layers.BatchNormalization(trainable=False)(x))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    split = split_frozen(model)
    assert split is not None
    return model, split


def images(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, 8, 8, 3)).astype("float32")


def test_every_form_has_a_maker_a_name_and_a_tolerance():
    assert set(MAKERS) == set(NAMES) == set(TOLERANCE) == set(get_args(Form))


TENSORFLOW = keras.backend.backend() == "tensorflow"
FORMS = [form for form in get_args(Form) if TENSORFLOW or form != "litert"]
"""Those that the backend has."""


@pytest.mark.parametrize("form", FORMS)
def test_every_form_agrees_with_the_unsplit_model_and_gives_float32(cut: Any, form: Form):
    model, split = cut
    made = engine(split, 2, form)
    assert agrees(form, agreement(model, made, images()))
    assert [(one.dtype, one.shape) for one in made.compute(images())] == [(np.dtype("float32"), (5, 16))]


@pytest.mark.parametrize("form", FORMS)
def test_an_engine_computes_few_images_at_once_where_their_values_are_large(cut: Any, form: Form, monkeypatch):
    whole = engine(cut[1], 2, form).compute(images())
    monkeypatch.setattr(compiled_predict, "LARGEST", 4 * 2 * 8 * 8 * 16)
    made = engine(cut[1], 2, form)
    assert made.at_once == (2 if TENSORFLOW and form != "litert" else 0)
    np.testing.assert_allclose(made.compute(images())[0], whole[0], rtol=0.02, atol=1e-3)


@pytest.mark.skipif(not TENSORFLOW, reason="elsewhere there is no tf.data")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_runs_inside_the_input_pipeline(cut: Any, form: Form):
    made = engine(cut[1], 2, form)
    assert made.form == form
    dataset = tf.data.Dataset.from_tensor_slices(images()).batch(2).map(made)
    assert dataset.element_spec[0].shape.as_list() == [None, 16]
    found = np.concatenate([features.numpy() for (features,) in dataset])
    np.testing.assert_allclose(found, made.compute(images())[0], rtol=0.02, atol=1e-3)


def test_by_rule_bfloat16_is_taken_where_the_processor_has_it(cut: Any, monkeypatch: pytest.MonkeyPatch):
    for there, form in ((True, "bfloat16"), (False, "folded")):
        monkeypatch.setattr(inference, "has_bfloat16", lambda there=there: there)
        made = engine(cut[1], 2)
        assert (made.form, made.rates) == (form, {})


def test_for_much_work_the_forms_are_timed_and_the_fastest_is_taken(cut: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inference, "has_bfloat16", lambda: True)
    made = engine(cut[1], 2, work=inference.TRIAL_FROM)
    assert set(made.rates) == {"bfloat16", "folded", "plain"}
    assert made.rates[made.form] == max(made.rates["bfloat16"], made.rates["folded"])
    assert f"{made.rates[made.form]:,.0f} images/s (Keras: {made.rates['plain']:,.0f})" in made.line


def test_a_form_that_does_not_agree_falls_back_with_a_message(cut: Any, monkeypatch: pytest.MonkeyPatch):
    model, split = cut
    monkeypatch.setattr(inference, "has_bfloat16", lambda: True)
    monkeypatch.setitem(TOLERANCE, "bfloat16", 1e-9)
    made = settle(model, split, images(), batch_size=2)
    assert made.form == "folded"
    assert "bfloat16 with folded batch norm differs by" in made.line
    assert made.figures["agreement"]["tolerance"] == TOLERANCE["folded"]
    monkeypatch.setitem(TOLERANCE, "folded", -1.0)
    assert settle(model, split, images(), batch_size=2).form == "plain"


def test_a_requested_form_is_used_with_a_warning_if_it_differs(cut: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TOLERANCE, "bfloat16", 1e-9)
    made = settle(*cut, images(), batch_size=2, precision="bfloat16")
    assert made.form == "bfloat16"
    assert "differ by" in made.line


def test_an_engine_with_other_weights_does_not_agree(cut: Any):
    model, split = cut
    made = engine(split, 2, "folded")
    kernel = model.layers[2].kernel
    before = kernel.numpy()
    kernel.assign(before * 1.5)
    assert not agrees("folded", agreement(model, made, images()))
    kernel.assign(before)


@pytest.mark.skipif(not TENSORFLOW, reason="elsewhere the unsplit model is compiled")
def test_the_exact_pass_of_a_frozen_part_is_taken_for_the_model_where_both_agree(cut: Any):
    model, split = cut
    run = final_outputs_of(split.frozen)
    whole = reference(model, split, run, images())
    np.testing.assert_allclose(whole(images()), model.predict(images(), verbose=0), atol=1e-6)
    made = settle(model, split, images(), batch_size=2, whole=whole)
    assert made.agreement.probabilities == pytest.approx(
        settle(model, split, images(), batch_size=2).agreement.probabilities, abs=1e-5
    )
    assert reference(model, split, lambda some: [2 * run(some)[0]], images()) is None
    assert reference(model, split, lambda some: [np.nan * run(some)[0]], images()) is None


def test_a_precision_that_there_is_not_is_refused(cut: Any):
    with pytest.raises(CallError, match="no precision 'half'"):
        engine(cut[1], 2, "half")  # type: ignore[arg-type]
