import keras
import numpy as np
import pytest

from kerasimg import objects
from kerasimg.errors import CallError
from kerasimg.spec import arguments


def test_a_name_becomes_an_object_of_its_group():
    assert isinstance(objects.make("initializers", "HeNormal"), keras.initializers.HeNormal)
    assert isinstance(
        objects.make("losses", "sparse_categorical_crossentropy"), keras.losses.SparseCategoricalCrossentropy
    )
    assert isinstance(objects.make("metrics", "AUC"), keras.metrics.AUC)
    assert isinstance(objects.make("callbacks", "TerminateOnNaN"), keras.callbacks.TerminateOnNaN)
    assert objects.make("activations", "relu6") is keras.activations.relu6


def test_an_object_gets_its_arguments():
    regularizer = objects.make("regularizers", {"type": "L1L2", "l1": 0.1, "l2": 0.2})
    assert (regularizer.l1, regularizer.l2) == (pytest.approx(0.1), pytest.approx(0.2))


def test_a_number_or_null_is_itself():
    assert objects.make("schedules", 0.01) == 0.01
    assert objects.make("regularizers", None) is None


def test_an_optimizer_gets_its_schedule_as_an_object():
    schedule = {"type": "CosineDecay", "initial_learning_rate": 0.1, "decay_steps": 10}
    optimizer = objects.make("optimizers", {"type": "AdamW", "learning_rate": schedule, "weight_decay": 0.01})
    assert isinstance(optimizer._learning_rate, keras.optimizers.schedules.CosineDecay)
    assert optimizer.weight_decay == 0.01


def test_a_layer_never_gets_a_dict():
    given = {
        "units": 2,
        "activation": "gelu",
        "kernel_initializer": {"type": "Constant", "value": 0.5},
        "bias_initializer": "Ones",
        "kernel_regularizer": {"type": "L2", "l2": 0.1},
        "kernel_constraint": None,
    }
    layer = objects.make_layer("Dense", given, "hidden")
    assert layer.name == "hidden"
    assert layer.activation is keras.activations.gelu
    assert isinstance(layer.kernel_regularizer, keras.regularizers.L2)
    layer.build((None, 3))
    np.testing.assert_array_equal(layer.kernel, np.full((3, 2), 0.5))
    np.testing.assert_array_equal(layer.bias, np.ones(2))


def test_a_layer_without_a_name_is_named_by_keras():
    assert objects.make_layer("Flatten", {}).name.startswith("flatten")


def test_lists_of_a_spec_do_where_keras_documents_tuples():
    inputs = keras.Input((8, 6, 3))
    for name, given, shape in [
        ("ZeroPadding2D", {"padding": [[0, 1], [2, 3]]}, (None, 9, 11, 3)),
        ("Cropping2D", {"cropping": [1, 2]}, (None, 6, 2, 3)),
        ("Conv2D", {"filters": 4, "kernel_size": [3, 1], "strides": [2, 2]}, (None, 3, 3, 4)),
        ("AdaptiveAveragePooling2D", {"output_size": [2, 3]}, (None, 2, 3, 3)),
        ("Reshape", {"target_shape": [-1, 3]}, (None, 48, 3)),
        ("Permute", {"dims": [2, 1, 3]}, (None, 6, 8, 3)),
        ("LayerNormalization", {"axis": [1, 2]}, (None, 8, 6, 3)),
        ("Normalization", {"mean": [1.0, 2.0, 3.0], "variance": [1.0, 1.0, 1.0]}, (None, 8, 6, 3)),
        ("RandomTranslation", {"height_factor": [-0.2, 0.2], "width_factor": 0.1}, (None, 8, 6, 3)),
    ]:
        assert objects.make_layer(name, given)(inputs).shape == shape, name


def test_a_registered_class_is_found():
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    arguments.register_entry("layers", "Twice", {"args": {}, "object": Twice})
    try:
        assert isinstance(objects.make_layer("Twice", {}), Twice)
    finally:
        arguments._registered["layers"].pop("Twice")


def test_a_name_without_an_entry_is_an_error():
    with pytest.raises(CallError, match="layer 'Lambda' cannot stand in a spec"):
        objects.make_layer("Lambda", {})
