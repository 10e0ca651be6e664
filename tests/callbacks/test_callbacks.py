import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json

import keras
import numpy as np
import pytest

from kerasimg import callbacks

JIT = False if keras.backend.backend() == "torch" else "auto"
IMAGES = np.random.default_rng(0).random((16, 3)).astype("float32")
LABELS = np.arange(16) % 2


class Rates(keras.callbacks.Callback):
    """Records the learning rate of each step."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


def model(optimizer="sgd", jit_compile=JIT):
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((3,)), *(keras.layers.Dense(3, name=name) for name in "abc")], name="backbone"
    )
    made = keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(2, activation="softmax", name="head")])
    made.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", jit_compile=jit_compile)
    return made


def fit(made, *given, **more):
    return made.fit(IMAGES, LABELS, batch_size=4, verbose=0, callbacks=list(given), **more)


def weights(made):
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in made.weights}


def changed(made, before):
    now = weights(made)
    return {path.split("/")[-2] for path in now if (now[path] != before[path]).any()}


def test_the_rate_rises_to_the_optimizers_and_falls_to_the_final_share():
    made, rates = model(keras.optimizers.SGD(0.8)), Rates()
    fit(made, callbacks.WarmupCosine(warmup_epochs=1, final=0.25), rates, epochs=3)
    expected = [0.2, 0.4, 0.6, 0.8, *(0.2 + 0.3 * (1 + np.cos(np.pi * n / 7)) for n in range(8))]
    np.testing.assert_allclose(rates.seen, expected, rtol=1e-5)
    assert float(keras.ops.convert_to_numpy(made.optimizer.learning_rate)) == pytest.approx(0.8)


def test_each_stage_has_a_cosine_of_its_own():
    made, rates = model(keras.optimizers.SGD(0.8)), Rates()
    cosine = callbacks.WarmupCosine(warmup_epochs=0.5)
    fit(made, cosine, rates, epochs=2)
    first = rates.seen
    fit(made, cosine, rates, initial_epoch=2, epochs=4)
    np.testing.assert_allclose(rates.seen, first, rtol=1e-5)
    assert first[0] == pytest.approx(0.4)
    assert first[-1] == pytest.approx(0, abs=1e-6)


def test_a_schedule_below_a_warm_up_is_refused():
    made = model(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)))
    with pytest.raises(ValueError, match="the optimizer has a schedule already; give it a number"):
        fit(made, callbacks.WarmupCosine())


def test_training_stops_after_the_step_in_which_the_budget_ends():
    rates = Rates()
    history = fit(model(), callbacks.TimeBudget(seconds=1e-9), rates, epochs=5, validation_data=(IMAGES, LABELS))
    assert len(rates.seen) == len(history.history["val_loss"]) == 1


def test_a_budget_applies_to_all_calls_of_fit(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("kerasimg.callbacks.time_budget.time.monotonic", lambda: clock[0])
    budget, made = callbacks.TimeBudget(seconds=10), model()
    assert len(fit(made, budget, epochs=2).epoch) == 2
    clock[0] = 9.0
    assert len(fit(made, budget, epochs=2).epoch) == 2
    clock[0] = 10.0
    assert len(fit(made, budget, epochs=2).epoch) == 1
    assert budget.spent == 10


def test_layers_are_unfrozen_from_the_last_to_the_first():
    made = model("adam")
    trained = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.before = weights(self.model)

        def on_epoch_end(self, epoch, logs=None):
            trained.append(changed(self.model, self.before))

    fit(made, callbacks.ProgressiveUnfreezing("backbone"), Watch(), epochs=1)
    assert trained == [{"head"}]
    trained.clear()
    fit(made, callbacks.ProgressiveUnfreezing("backbone", layers_per_step=1, epochs_per_step=2), Watch(), epochs=5)
    assert trained == [{"head"}, {"head"}, {"head", "c"}, {"head", "c"}, {"head", "b", "c"}]


def test_the_optimizer_keeps_its_state_when_layers_are_unfrozen():
    made = model(keras.optimizers.Adam(0.01))
    steps = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            moments = [variable for variable in self.model.optimizer.variables if "head" in variable.path]
            steps.append((int(self.model.optimizer.iterations), any(np.any(as_array(item)) for item in moments)))

    def as_array(tensor):
        return keras.ops.convert_to_numpy(tensor)

    fit(made, callbacks.ProgressiveUnfreezing("backbone"), Watch(), epochs=2)
    assert steps == [(0, False), (4, True)]


def test_a_missing_layer_is_named():
    with pytest.raises(ValueError, match="no layer 'backbon' in the model"):
        fit(model(), callbacks.ProgressiveUnfreezing("backbon"))


def test_json_lines_are_appended_once_per_epoch(tmp_path):
    log = callbacks.JsonLines(tmp_path / "log.jsonl")
    made = model()
    fit(made, log, epochs=2)
    fit(made, log, epochs=3, initial_epoch=2)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(0 < line["loss"] < 2 for line in lines)


def test_nan_is_written_as_null_and_several_numbers_as_a_list(tmp_path):
    callbacks.JsonLines(tmp_path / "log.jsonl").on_epoch_end(0, {"loss": float("nan"), "f1": np.array([0.5, 1.0])})
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert (line["loss"], line["f1"]) == (None, [0.5, 1.0])


def test_the_finder_tries_all_rates_and_restores_everything():
    made = model(keras.optimizers.SGD(0.3, momentum=0.9))
    fit(made)
    before, iterations = weights(made), int(made.optimizer.iterations)
    finder = callbacks.LearningRateFinder(low=1e-4, high=1.0, steps=5, divergence=1e9)
    fit(made, finder, epochs=10)
    np.testing.assert_allclose(finder.rates, [1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert finder.suggestion in finder.rates
    assert changed(made, before) == set()
    assert int(made.optimizer.iterations) == iterations
    assert float(keras.ops.convert_to_numpy(made.optimizer.learning_rate)) == pytest.approx(0.3)


def test_the_finder_records_the_loss_of_each_step_and_stops_when_it_diverges():
    finder = callbacks.LearningRateFinder(steps=50, smoothing=0.0)
    finder.set_model(made := model())
    finder.on_train_begin()
    for step, loss in enumerate([1.0, 0.8, 0.5, 0.4, 1.7]):
        finder.on_train_batch_begin(step)
        mean = np.mean([1.0, 0.8, 0.5, 0.4, 1.7][: step + 1])
        assert not made.stop_training
        finder.on_train_batch_end(step, {"loss": mean})
        assert finder.losses[-1] == pytest.approx(loss)
    assert made.stop_training
    assert finder.suggestion == finder.rates[1]


def test_the_matrix_and_the_mistakes_are_written_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    images = np.full((4, 2, 2, 3), 99.0, "float32")
    made = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    made.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=JIT)
    made.layers[-1].set_weights([np.zeros((12, 2)), np.array([1.0, 0.0])])
    callback = callbacks.ConfusionToTensorBoard([(images, np.array([0, 1, 1, 0]))], ["cat", "dog"], tmp_path, every=2)
    made.optimizer.learning_rate = 0.0
    made.fit(images, LABELS[:4], epochs=2, callbacks=[callback], verbose=0)
    (file,) = tmp_path.iterdir()
    values = [(event.step, value.tag) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    assert values == [(2, "confusion"), (2, "mistaken/0"), (2, "mistaken/1")]


def test_without_tensorboard_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary.writer.event_file_writer", None)
    with pytest.raises(ImportError, match=r'pip install "kerasimg\[tensorboard\]"'):
        callbacks.ConfusionToTensorBoard([], ["a", "b"], tmp_path).on_train_begin()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: callbacks.WarmupCosine(warmup_epochs=-1), "WarmupCosine: warmup_epochs must be 0 or more, got -1"),
        (lambda: callbacks.WarmupCosine(final=2), "WarmupCosine: final must be in"),
        (lambda: callbacks.TimeBudget(0), "TimeBudget: seconds must be above 0, got 0"),
        (lambda: callbacks.ProgressiveUnfreezing("a", 0), "layers_per_step must be 1 or more, got 0"),
        (lambda: callbacks.LearningRateFinder(low=1, high=0.1), "0 < low < high must hold, got 1 and 0.1"),
        (lambda: callbacks.ConfusionToTensorBoard([], ["a"], "."), "classes must be 2 or more"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
