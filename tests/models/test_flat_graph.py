"""Nested models are opened, and every call can be made again."""

import keras
import numpy as np

from kerasimg.keras_internals import is_functional
from kerasimg.models.flat_graph import flatten, functional_of


def nested() -> keras.Model:
    inner_in = keras.Input((4,), name="x")
    inner = keras.Model(inner_in, keras.layers.Dense(4, name="inner_dense")(inner_in), name="inner")
    image = keras.Input((4,), name="image")
    shared = inner(inner(image))
    tail = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="tail_dense")], name="tail")
    return keras.Model(image, tail(shared) * 2.0)


def test_a_nested_model_that_is_called_twice_gives_its_calls_twice():
    graph = flatten(nested())
    names = [getattr(call.operation, "name", "") for call in graph.calls]
    assert names[:3] == ["inner_dense", "inner_dense", "tail_dense"]
    assert len(names) == 4


def test_the_calls_made_again_give_what_the_model_gives():
    model = nested()
    graph = flatten(model)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    values = {graph.inputs[0]: keras.ops.convert_to_tensor(x)}
    for call in graph.calls:
        values.update(zip(call.outputs, call.run(values), strict=True))
    found = keras.ops.convert_to_numpy(values[graph.outputs[0]])
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(x)), rtol=1e-6)


def test_a_model_with_a_call_of_its_own_stays_one_call():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    image = keras.Input((4,))
    assert len(flatten(keras.Model(image, Own()(image))).calls) == 1


def test_a_sequential_model_becomes_a_functional_one_once_it_is_built():
    model = keras.Sequential([keras.layers.Dense(1)])
    assert functional_of(model) is None
    model.build((None, 4))
    graph = functional_of(model)
    assert is_functional(graph)
    assert [call.operation for call in flatten(graph).calls] == model.layers
