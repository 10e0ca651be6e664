"""Every private name in kerasimg/keras_internals.py still has the meaning that kerasimg relies on."""

import contextlib
import inspect
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras.src.saving import saving_lib

from kerasimg import keras_internals as internals

tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's backend")


def tiny() -> Any:
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, name="hidden")
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden(hidden(inputs))))


def test_every_function_and_class_has_a_test_here():
    source = inspect.getsource(sys.modules[__name__])
    public = [
        name
        for name, value in vars(internals).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == internals.__name__
    ]
    assert len(public) > 30
    assert [name for name in [*public, "CALLBACK_ATTRIBUTES"] if f"internals.{name}" not in source] == []


def test_importing_it_loads_none_of_the_libraries():
    names = {"keras", "tensorflow", "keras_tuner", "uvicorn"}
    code = f"import sys, kerasimg.keras_internals; print({names} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_base_of_image_layers():
    base = internals.image_layer_class()
    assert issubclass(base, keras.layers.Layer)
    assert issubclass(keras.layers.RandomFlip, base)
    assert not issubclass(keras.layers.Conv2D, base)
    assert {"transform_images", "transform_labels", "compute_output_shape"} <= set(dir(base))


def test_the_base_of_merging_layers():
    assert issubclass(keras.layers.Concatenate, internals.merge_layer_class())
    assert not issubclass(keras.layers.Dense, internals.merge_layer_class())


@pytest.mark.parametrize("group", ["losses", "metrics", "optimizers", "initializers", "regularizers", "constraints"])
def test_the_names_that_get_accepts(group: str):
    names = internals.names_known_to_get(group)
    get = getattr(keras, group).get
    assert len(names) > 2
    for name, thing in names.items():
        assert callable(thing)
        # A class whose arguments have no defaults is found, and cannot be made.
        with contextlib.suppress(TypeError, KeyError):
            assert get(name) is not None
    with pytest.raises(ValueError, match="Could not interpret"):
        get("no_such_name")


def test_applications_get_their_shape_and_weights_file_from_these_modules():
    shapes, files = internals.applications_modules()
    assert list(inspect.signature(shapes.obtain_input_shape).parameters)[:4] == [
        "input_shape",
        "default_size",
        "min_size",
        "data_format",
    ]
    assert "file_hash" in inspect.signature(files.get_file).parameters


def test_the_layers_that_applications_define_are_recognised():
    from keras.src.applications.convnext import LayerScale, StochasticDepth
    from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

    assert internals.application_class(keras.layers.Dense) is None
    assert internals.application_class(LayerScale) == "convnext.LayerScale"
    assert internals.application_class(StochasticDepth) == "convnext.StochasticDepth"
    assert internals.application_class(CustomScaleLayer) == "inception_resnet_v2.CustomScaleLayer"


def test_operations_are_distinguished_from_layers():
    inputs = keras.Input((4,))
    operation = internals.call_behind(keras.ops.exp(inputs)).operation
    assert internals.is_keras_operation(type(operation))
    assert type(operation).__name__ == "Exp"
    assert not internals.is_keras_operation(keras.layers.Dense)


def test_a_model_is_functional_when_it_has_no_call_of_its_own():
    class Own(keras.Model):
        def call(self, inputs: Any) -> Any:
            return super().call(inputs)

    inputs = keras.Input((4,))
    assert internals.is_functional(keras.Model(inputs, inputs))
    assert not internals.is_functional(Own(inputs, inputs))
    assert not internals.is_functional(keras.layers.Dense(1))


def test_the_calls_of_a_model_are_in_order():
    model = tiny()
    names = [node.operation.name for node in internals.calls_of(model)]
    assert names[0] == names[-2] == "hidden"
    assert names[-1] == model.layers[-1].name
    node = next(iter(internals.calls_of(model)))
    assert node.input_tensors[0] is model.inputs[0] is node.arguments.keras_tensors[0]
    assert tuple(node.outputs[0].shape) == (None, 4)


def test_the_call_behind_an_output_is_the_right_one_of_several():
    inputs, other = keras.Input((4,)), keras.Input((4,))
    layer = keras.layers.Dense(4)
    first, second = layer(inputs), layer(other)
    assert internals.call_behind(first).operation is layer is internals.call_behind(second).operation
    assert internals.call_behind(first).input_tensors[0] is inputs
    assert internals.call_behind(second).input_tensors[0] is other


def test_the_position_of_an_output_is_found():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [inputs * 1.0, inputs * 2.0])
    assert [internals.output_position(tensor) for tensor in model(keras.Input((4,)))] == [0, 1]


def test_layers_that_receive_the_training_argument_are_recognised():
    assert internals.passes_training(keras.layers.Dropout(0.5))
    assert not internals.passes_training(keras.layers.Flatten())


def test_a_replaced_method_is_called_by_the_model_and_restored_afterwards():
    inputs = keras.Input((2,))
    layer = keras.layers.Dense(2, kernel_initializer="identity")
    model = keras.Model(inputs, layer(inputs))
    x = np.ones((1, 2), "float32")
    with internals.replaced(layer, "call", lambda values: values * 5):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), 5 * x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), x)
    assert "call" not in vars(layer)


def test_pending_variables_are_dropped_when_the_list_is_reset():
    before = internals.pending_variables()
    with keras.StatelessScope(initialize_variables=False):
        variable = keras.Variable(keras.initializers.Ones(), shape=(2,))
        assert len(internals.pending_variables()) == len(before) + 1
        internals.set_pending_variables(before)
    with keras.StatelessScope():
        pass
    with pytest.raises(AttributeError):
        keras.ops.convert_to_numpy(variable._value.shape)


def test_a_variable_without_a_value_has_its_initializer():
    orthogonal, before = keras.initializers.Orthogonal(), internals.pending_variables()
    with keras.StatelessScope(initialize_variables=False):
        assert internals.initializer_of(keras.Variable(orthogonal, shape=(2, 2))) is orthogonal
    internals.set_pending_variables(before)
    assert internals.initializer_of(keras.Variable(np.ones(2))) is None


def test_the_open_scope_is_found_and_can_be_restored():
    before = internals.stateless_scope()
    with keras.StatelessScope() as scope:
        assert internals.stateless_scope() is scope
        internals.set_stateless_scope(before)
        assert keras.Variable(np.ones(2)).numpy().sum() == 2  # as outside of a scope
        internals.set_stateless_scope(scope)
    assert internals.stateless_scope() is before


def test_draws_without_a_seed_come_from_the_global_generator():
    with internals.global_seed_generator(keras.random.SeedGenerator(7)):
        first = keras.ops.convert_to_numpy(keras.random.uniform((3,)))
    with internals.global_seed_generator(keras.random.SeedGenerator(7)):
        again = keras.ops.convert_to_numpy(keras.random.uniform((3,)))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(
        first, keras.ops.convert_to_numpy(keras.random.uniform((3,), seed=keras.random.SeedGenerator(7)))
    )


@pytest.mark.parametrize(
    "make", [lambda: keras.layers.RandomFlip(), lambda: keras.layers.Dropout(0.5), lambda: keras.layers.AugMix((0, 1))]
)
def test_layers_draw_from_the_generator_they_are_given(make: Any):
    class Counting(keras.random.SeedGenerator):
        drawn = 0

        def next(self, ordered: bool = True) -> Any:
            Counting.drawn += 1
            return super().next(ordered)

    layer = make()
    internals.draw_from(layer, Counting(1))
    layer(keras.ops.ones((1, 8, 8, 3)) * 0.5, training=True)
    assert Counting.drawn > 0


def test_the_layers_within_a_wrapper_are_found():
    inner = keras.layers.Dense(2)
    assert inner in internals.layers_within(keras.layers.TimeDistributed(inner))
    assert internals.layers_within(inner) == [inner]
    added = keras.Input((2,)) + 1
    assert [type(part).__name__ for part in internals.layers_within(added._keras_history.operation)] == ["Add"]


def test_an_image_layer_has_a_generator_for_the_backend_that_runs_it():
    layer = keras.layers.RandomFlip(seed=3)
    assert isinstance(
        internals.seed_in_pipeline(layer), keras.random.SeedGenerator | layer.backend.random.SeedGenerator
    )


def test_saving_a_model_and_setting_the_seed_import_no_tensorflow(monkeypatch: pytest.MonkeyPatch):
    internals.spare_tensorflow()
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    keras.layers.serialize(keras.layers.Dense(2))
    keras.utils.set_random_seed(0)
    assert "tensorflow" not in sys.modules


def test_keras_sets_only_these_attributes_of_a_callback():
    assert set(vars(keras.callbacks.Callback())) <= {*internals.CALLBACK_ATTRIBUTES, "_model"}


def test_metrics_have_their_variables_before_the_first_step():
    model = tiny()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = np.zeros((2, 4), "float32"), np.zeros(2, "int32")
    before = len(model.metrics_variables)
    internals.build_metrics(model, (x, y))
    assert len(model.metrics_variables) > before
    assert [int(variable.shape == ()) for variable in model.metrics_variables]


def test_the_moving_averages_of_an_optimizer_belong_to_their_weights():
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    weights = [keras.Variable(np.zeros(2, "float32")), keras.Variable(np.zeros(3, "float32"))]
    optimizer.build(weights)
    for _ in range(3):
        optimizer.apply([keras.ops.full(weight.shape, -1.0) for weight in weights], weights)
    pairs = internals.weight_averages(optimizer)
    assert [id(weight) for weight, _ in pairs] == [id(weight) for weight in weights]
    for weight, average in pairs:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), 3)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(average), 2.25)  # of 1, 2 and 3
    assert internals.weight_averages(keras.optimizers.SGD(0.5)) == []


def test_averages_in_the_model_are_recognised():
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    assert internals.has_averages_in_place(swap) is False
    model = tiny()
    model.compile(keras.optimizers.SGD(0.5, use_ema=True), "sparse_categorical_crossentropy")
    model.fit(np.ones((2, 4), "float32"), np.array([0, 1]), epochs=1, verbose=0, callbacks=[swap])
    assert internals.has_averages_in_place(swap) is True
    assert internals.has_averages_in_place(keras.callbacks.Callback()) is False


def test_a_schedule_is_distinguished_from_a_number():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    assert internals.learning_rate_schedule(keras.optimizers.Adam(schedule)) is schedule
    optimizer = keras.optimizers.Adam(0.25)
    assert internals.learning_rate_schedule(optimizer) is None
    internals.learning_rate_variable(optimizer).assign(0.5)
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == 0.5


def test_an_optimizer_knows_its_variables_by_position_and_which_it_decays():
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    kernel, bias = keras.Variable(np.ones(2), name="kernel"), keras.Variable(np.ones(2), name="bias")
    optimizer.build([kernel, bias])
    assert [internals.position_of(optimizer, variable) for variable in (kernel, bias)] == [0, 1]
    assert [internals.decays(optimizer, variable) for variable in (kernel, bias)] == [True, False]


def test_nadam_has_a_momentum_for_all_variables():
    optimizer = keras.optimizers.Nadam()
    optimizer.build([keras.Variable(np.ones(2))])
    assert tuple(internals.shared_momentum(optimizer).shape) == ()
    assert internals.shared_momentum(keras.optimizers.SGD()) is None


@pytest.mark.parametrize("kind", [keras.optimizers.SGD, keras.optimizers.AdamW, keras.optimizers.Lion])
def test_rates_updates_and_decay_of_an_optimizer_go_through_the_hooks(kind: Any):
    class Hooked(internals.OptimizerHooks, kind):  # type: ignore[misc, valid-type]
        asked: tuple[str, ...] = ()

        def current_rate(self, rate: Any) -> Any:
            return rate * 0.5

        def update_many(self, update: Any, gradients: Any, variables: Any, rate: Any) -> None:
            self.asked += ("update",)
            super().update_many(update, gradients, variables, rate)

        def decay_many(self, decay: Any, variables: Any) -> None:
            self.asked += ("decay",)
            super().decay_many(decay, variables)

    def step(optimizer: Any) -> tuple[np.ndarray, tuple[str, ...]]:
        variable = keras.Variable(np.array([1.0, 2.0], "float32"))
        optimizer.build([variable])
        optimizer.apply([keras.ops.convert_to_tensor(np.array([1.0, -1.0], "float32"))], [variable])
        return keras.ops.convert_to_numpy(variable), getattr(optimizer, "asked", ())

    hooked, asked = step(Hooked(0.2, weight_decay=0.1))
    plain, _ = step(kind(0.1, weight_decay=0.1))
    np.testing.assert_allclose(hooked, plain, rtol=1e-6)
    assert "decay" in asked
    assert ("update" in asked) is (keras.backend.backend() == "torch")


def test_a_list_of_callbacks_has_its_bar_and_ends_fit():
    class Ends(keras.callbacks.CallbackList):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            super().on_train_batch_end(batch, logs)
            internals.finish_batch_ends(self)
            internals.stop_training(self)
            assert internals.is_stopping(self)

    model = tiny()
    model.compile("sgd", "sparse_categorical_crossentropy")
    callbacks = Ends([], add_history=True, add_progbar=True, verbose=0, epochs=3, steps=2, model=model)
    bar = internals.progress_bar(callbacks)
    assert isinstance(bar, keras.callbacks.ProgbarLogger)
    assert any(one is bar for one in callbacks.callbacks)
    assert internals.progress_bar(keras.callbacks.CallbackList([], add_progbar=False)) is None
    history = model.fit(
        np.ones((4, 4), "float32"), np.zeros(4, "int32"), batch_size=2, epochs=3, callbacks=callbacks, verbose=0
    )
    assert len(history.epoch) == 1


@tensorflow_only
def test_tensorflow_registers_the_gradient_of_a_traced_function_under_a_removable_name():
    import tensorflow as tf

    @tf.custom_gradient
    def doubled(x: Any) -> Any:
        return x * 2, lambda upstream: upstream * 2

    before = set(internals.gradient_registry())
    tf.function(lambda x: tf.gradients(doubled(x), x)).get_concrete_function(tf.TensorSpec((), tf.float32))
    new = set(internals.gradient_registry()) - before
    assert new
    assert all(name.startswith("CustomGradient-") for name in new)
    for name in new:
        del internals.gradient_registry()[name]
    assert set(internals.gradient_registry()) == before


def test_there_is_no_registry_without_tensorflow():
    code = "from kerasimg import keras_internals; print(keras_internals.gradient_registry())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "{}\n"


@tensorflow_only
def test_an_exempted_function_does_not_warn_about_retracing(caplog: pytest.LogCaptureFixture):
    import tensorflow as tf

    def trace(excused: bool) -> str:
        caplog.clear()
        for number in range(8):
            function = tf.function(lambda x, number=number: x + number)
            function = internals.without_retracing_warning(function) if excused else function
            function(tf.zeros(()))
        return caplog.text

    assert "retracing" not in trace(True)
    assert "retracing" in trace(False)


def space() -> Any:
    import keras_tuner

    values = keras_tuner.HyperParameters()
    values.Choice("a", [1, 2, 3])
    values.Choice("b", [1, 2])
    return values


def oracle(*hooks: type, kind: str, **arguments: Any) -> Any:
    import keras_tuner

    made = type("Hooked", (*hooks, getattr(keras_tuner.oracles, kind)), {"hooked": []})
    objective = keras_tuner.Objective("val_loss", "min")
    return made(objective=objective, hyperparameters=space(), allow_new_entries=False, seed=1, **arguments)


def test_an_oracle_draws_by_its_seed_and_tries_nothing_twice():
    class Draws(internals.OracleHooks):
        def random_values(self, draw: Any) -> Any:
            self.hooked.append("random")  # type: ignore[attr-defined]
            return draw()

        def save_trial(self, trial: Any) -> None:
            self.hooked.append("save")  # type: ignore[attr-defined]

    one = oracle(Draws, kind="RandomSearchOracle", max_trials=9)
    one.set_most_collisions(50)
    drawn = []
    for number in range(3):
        one.seed_draws(number)
        values = one.populate_space(str(number))["values"]
        one.remember(values)
        drawn.append(tuple(values.values()))
    assert len(set(drawn)) == 3
    one.seed_draws(5)
    assert 0 <= one.random_state.uniform() == np.random.RandomState(5).uniform()
    for a in (1, 2, 3):
        for b in (1, 2):
            one.remember({"a": a, "b": b})
    assert one.populate_space("9")["status"] == "STOPPED"
    assert set(one.hooked) == {"random"}
    one.retries = ["0001"]
    assert one._retry_queue == one.retries == ["0001"]
    one._save_trial(None)
    assert one.hooked[-1] == "save"


def test_a_grid_continues_from_the_trials_that_have_ended():
    from keras_tuner.engine import trial

    one = oracle(internals.GridHooks, kind="GridSearchOracle", max_trials=9)
    found = []
    for number in range(6):
        name = f"{number:04}"
        values = one.populate_space(name)["values"]
        hyperparameters = one.hyperparameters.copy()
        hyperparameters.values = values
        one.trials[name] = trial.Trial(hyperparameters, trial_id=name, status="COMPLETED")
        one.start_order.append(name)
        one.end_order.append(name)
        one._tried_so_far.add(one._compute_values_hash(values))
        one.note_ended(name)
        found.append(tuple(values.values()))
    assert len(set(found)) == 6
    assert one.populate_space("0006")["status"] == "STOPPED"


def test_the_bayesian_oracle_turns_trials_into_points_and_back():
    from keras_tuner.engine import trial

    class Process(internals.BayesianHooks):
        def make_process(self, made: Any) -> Any:
            self.hooked.append(made)  # type: ignore[attr-defined]
            return made

    one = oracle(Process, kind="BayesianOptimizationOracle", max_trials=9)
    assert one.hooked == [one.gpr]
    assert {"fit", "predict", "kernel", "n_restarts_optimizer"} <= set(dir(one.gpr))
    first = one.first_values()
    assert first["status"] == "RUNNING"
    for number, (a, b) in enumerate([(1, 1), (3, 2)]):
        hyperparameters = one.hyperparameters.copy()
        hyperparameters.values = {"a": a, "b": b}
        made = trial.Trial(hyperparameters, trial_id=str(number), status="COMPLETED")
        made.score = float(number)
        one.trials[str(number)] = made
        one._tried_so_far.add(one._compute_values_hash(hyperparameters.values))
    x, y = one.vectors()
    assert x.shape == (2, 2)
    assert y.tolist() == [0.0, 1.0]
    assert [one.values_at(point) for point in x] == [{"a": 1, "b": 1}, {"a": 3, "b": 2}]
    assert one.was_tried({"a": 3, "b": 2})
    assert not one.was_tried({"a": 1, "b": 2})


def test_the_brackets_of_hyperband():
    class Brackets(internals.HyperbandHooks):
        def round_size(self, size: int, round_number: int) -> int:
            return min(size, 4)

        def after_bracket(self) -> None:
            self.hooked.append(self.bracket)  # type: ignore[attr-defined]

        def is_duplicate(self, values: Any) -> bool:
            return False

    one = oracle(Brackets, kind="HyperbandOracle", max_epochs=9, factor=3, hyperband_iterations=None)
    one.max_trials = None
    one.bracket = 2
    one.begin_brackets()
    assert one.bracket == 2
    assert one.sizes(2) == [4, 3, 1]
    assert one.sizes(0) == [3]
    assert one.first_round() == set()
    values = one.populate_space("0001")["values"]
    assert values["tuner/bracket"] == 2
    assert one.first_round() == {"0001"}
    one._increment_bracket_num()
    assert one.hooked[-1] == one.bracket == 1
    assert one._duplicate(values) is False


def test_a_tuner_calls_the_replacement_of_its_tensorboard_step():
    import keras_tuner

    kind = keras_tuner.engine.tuner.Tuner
    tuner = kind.__new__(kind)
    asked = []
    internals.skip_tensorboard(tuner, lambda *given: asked.append(given))
    tuner._configure_tensorboard_dir([], None, 0)
    assert asked == [([], None, 0)]
    assert "self._configure_tensorboard_dir(" in inspect.getsource(kind)


def test_weights_written_in_memory_equal_those_that_keras_writes(tmp_path: Path):
    model = tiny()
    model.save_weights(tmp_path / "keras.weights.h5")
    (tmp_path / "ours.weights.h5").write_bytes(internals.weights_as_hdf5(model))
    found: list[dict[str, Any]] = []
    for name in ("keras", "ours"):
        arrays: dict[str, Any] = {}
        with h5py.File(tmp_path / f"{name}.weights.h5") as file:
            file.visititems(
                lambda place, item, into=arrays: (
                    into.update({place: item[()].tolist()}) if hasattr(item, "shape") else None
                )
            )
        found.append(arrays)
    assert found[0] == found[1]
    assert len(found[0]) == 4
    model.load_weights(tmp_path / "ours.weights.h5")


@pytest.mark.parametrize("kind", ["Operation", "Layer", "Functional", "Sequential"])
def test_keras_looks_for_the_attributes_of_a_plain_layer_where_they_are_put(kind: str):
    keras.utils.clear_session()
    first = saving_lib.get_attr_skipset(kind)
    assert saving_lib.get_attr_skipset(kind) is not first, "Keras remembers them: save_and_load_quickly can go"
    internals.save_and_load_quickly()
    assert saving_lib.get_attr_skipset(kind) == first
    assert saving_lib.get_attr_skipset(kind) is saving_lib.get_attr_skipset(kind)


def test_the_http_protocol_of_uvicorn_has_what_a_guard_overrides():
    pytest.importorskip("uvicorn")
    pytest.importorskip("httptools")
    protocol = internals.http_protocol_class()
    overridden = {"connection_made", "connection_lost", "data_received", "on_headers_complete", "on_message_complete"}
    assert overridden <= set(dir(protocol))
    source = inspect.getsource(protocol)
    assert all(f"self.{name}" in source for name in ("cycle", "transport", "loop"))
    module = sys.modules[protocol.__module__]
    assert "response_complete" in inspect.getsource(module)
    cycle = inspect.getsource(module.RequestResponseCycle)
    assert "self.response_started = True" in cycle
    used = set(re.findall(r"self\.transport\.(\w+)", cycle))
    assert used == {"write", "close", "is_closing"}  # what `WholeWrites` has
    assert "await self.message_event.wait()" in cycle
    receive = types.SimpleNamespace(__self__=types.SimpleNamespace(message_event=threading.Event()))
    assert not internals.body_has_arrived(receive)
    receive.__self__.message_event.set()
    assert internals.body_has_arrived(receive)
    assert not internals.body_has_arrived(print)


def test_uvicorn_runs_processes_on_sockets_that_listen(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("uvicorn")
    from uvicorn.supervisors import multiprocess

    assert list(inspect.signature(multiprocess.Multiprocess.__init__).parameters)[1:] in (
        ["config", "sockets"],
        ["config", "target", "sockets"],
    )
    assert callable(internals.serve_in_processes)


@tensorflow_only
def test_exportable_operations_give_the_same_numbers_without_erfc_and_without_compiled_functions():
    import tensorflow as tf

    inputs = keras.Input((9, 9, 8))
    x = keras.layers.Conv2D(8, 3, groups=4, dilation_rate=2, activation="gelu")(inputs)
    model = keras.Model(inputs, keras.layers.Activation("gelu")(x))
    values = np.random.default_rng(0).normal(size=(2, 9, 9, 8)).astype("float32")
    expected = model(values)
    with internals.exportable_operations():
        graph = tf.function(model).get_concrete_function(tf.TensorSpec((2, 9, 9, 8)))
    kinds = {operation.type for operation in graph.graph.get_operations()}
    assert {"Erf", "Conv2D"} <= kinds
    assert not {"Erfc", "PartitionedCall", "StatefulPartitionedCall"} & kinds
    np.testing.assert_allclose(graph(tf.constant(values)), expected, atol=1e-5)
    np.testing.assert_array_equal(model(values), expected)


@tensorflow_only
def test_tensors_of_a_layer_are_constants_of_an_exported_graph():
    import tensorflow as tf

    inputs = keras.Input((2, 3))
    model = keras.Model(inputs, keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(inputs))
    values = np.random.default_rng(0).normal(size=(1, 2, 3)).astype("float32")
    with internals.exportable_operations():
        graph = tf.function(model).get_concrete_function(tf.TensorSpec((1, 2, 3)))
    assert len(graph.inputs) == 1
    np.testing.assert_allclose(graph(tf.constant(values)), model(values), atol=1e-6)


@tensorflow_only
def test_separate_int8_ranges_insert_a_multiplication_only_where_values_can_be_clipped():
    import tensorflow as tf

    def multiplications(make: Callable[[Any], Any]) -> int:
        inputs = keras.Input((4, 4, 2))
        model = keras.Model(inputs, make(inputs))
        with internals.separate_int8_ranges():
            graph = tf.function(model).get_concrete_function(tf.TensorSpec((1, 4, 4, 2)))
        values = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype("float32")
        np.testing.assert_allclose(graph(tf.constant(values)), model(values), atol=1e-6)
        return sum(operation.type == "Mul" for operation in graph.graph.get_operations())

    layers, ops = keras.layers, keras.ops
    assert multiplications(lambda x: layers.Maximum()([x, ops.abs(x)])) == 2
    assert multiplications(lambda x: ops.clip(x, -1, 1)) == 1
    assert multiplications(lambda x: layers.Concatenate()([x, ops.abs(x)])) == 0
    pooled = layers.AveragePooling2D(1)
    assert multiplications(lambda x: layers.Concatenate()([x, layers.Reshape((4, 4, 2))(pooled(x))])) == 1


# TensorFlow warns of inputs that stay float32.
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs:UserWarning")
@tensorflow_only
def test_int8_quantizer_edits_the_model_and_leaves_named_operations_in_float32():
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(3, 3, activation="relu", name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(keras.layers.Flatten()(x)))
    calls = []

    def quantize(content: bytes, convert: Callable[..., bytes]) -> bytes:
        calls.append(content)
        interpreter = Interpreter(model_content=content)
        last = interpreter.get_output_details()[0]["name"]
        return convert(content, [last])

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([np.ones((1, 4, 4, 2), np.float32) * k] for k in range(4))
    with internals.int8_quantizer(quantize):
        content = converter.convert()
    assert len(calls) == 1
    types = {str(each["dtype"].__name__) for each in Interpreter(model_content=content).get_tensor_details()}
    assert {"int8", "float32"} <= types


def test_initial_values_replaces_what_initializers_give():
    def value_of(variable: Any, initializer: Any) -> Any:
        return np.full(variable.shape, 7, "float32") if type(initializer) is keras.initializers.Zeros else None

    with internals.initial_values(value_of):
        layer = keras.layers.Dense(2)
        layer.build((None, 3))
    np.testing.assert_array_equal(layer.bias, [7, 7])
    assert 0 < np.abs(layer.kernel).max() < 2


def test_random_functions_draw_for_initializers():
    shapes = []

    def uniform(shape: Any, *args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(shape))
        return keras.ops.ones(shape)

    with internals.random_functions(uniform=uniform):
        assert np.asarray(keras.initializers.GlorotUniform()((2, 3))).min() == 1
    assert shapes == [(2, 3)]
    assert np.asarray(keras.initializers.GlorotUniform(seed=1)((2, 3))).min() < 1


def test_seed_words_are_those_of_a_draw():
    generator = keras.random.SeedGenerator(3)
    words = [np.asarray(internals.seed_words(seed)).tolist() for seed in (3, generator, generator)]
    assert words == [[3, 0], [3, 0], [3, 1]]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX alone")
def test_the_state_of_a_model_on_jax():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    model.optimizer.build(model.trainable_variables)
    internals.build_metrics(model, (np.ones((1, 2)), np.ones((1, 1))))
    assert internals.has_keras_steps(model)
    before = model.get_weights()
    state = internals.jax_state(model, optimizer=True)
    assert internals.jax_state(model, optimizer=True, since=state) is state
    _, state = model.train_step(state, (np.ones((1, 2), "float32"), np.full((1, 1), 9, "float32")))
    internals.keep_jax_state(model, state)
    internals.restore_jax_state(model)
    assert int(model.optimizer.iterations.value) == 1
    assert (model.get_weights()[0] != before[0]).all()

    class Own(keras.Sequential):  # type: ignore[misc]
        def train_step(self, state: Any, data: Any) -> Any:
            return {}, state

    assert not internals.has_keras_steps(Own())


def test_an_adapter_of_a_dense_layer_can_be_removed_and_added_again():
    layer = keras.layers.Dense(3)
    layer.build((None, 4))
    assert internals.sublayers(keras.Sequential([layer])) == [layer]
    for _ in range(2):
        layer.enable_lora(2)
        assert len(layer.weights) == 4
        internals.remove_adapter(layer)
        assert [weight.name for weight in layer.weights] == ["kernel", "bias"]
        assert "lora_rank" not in layer.get_config()


def test_names_of_tf2onnx_are_numbered_from_the_start():
    utils = pytest.importorskip("tf2onnx.utils")
    internals.number_names_from_the_start()
    names = [utils.make_name("a") for _ in range(3)]
    internals.number_names_from_the_start()
    assert [utils.make_name("a") for _ in range(3)] == names
