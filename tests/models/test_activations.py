"""Every activation that a spec may name runs, alone and in a layer, on this backend."""

from functools import partial

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.spec.arguments import known, synonyms

NAMES = sorted([*known("activations"), *synonyms("activations")])


def test_every_activation_runs_and_keeps_the_shape():
    nodes = [{"layer": "Dense", "name": "in_", "units": 4}]
    for name in NAMES:
        nodes += [
            {"layer": "Activation", "name": f"alone_{name}", "inputs": "in_", "activation": name},
            {"layer": "Dense", "name": f"dense_{name}", "units": 4, "activation": {"type": name}},
        ]
    nodes.append({"layer": "Concatenate", "inputs": [f"dense_{name}" for name in NAMES]})
    model = kerasimg.build({"kerasimg": 1, "image": {"size": [2, 2]}, "model": nodes})
    found = keras.ops.convert_to_numpy(model(np.full((1, 2, 2, 3), 9.0, "float32")))
    assert found.shape == (1, *model.output_shape[1:]) == (1, 2, 2, 4 * len(NAMES))
    for name, values in zip(NAMES, found[0, 0, 0].reshape(-1, 4), strict=True):
        assert np.isfinite(values).all(), name


@pytest.mark.parametrize(("name", "way_out"), [("glu", "TakeChannels"), ("threshold", "ReLU with its 'threshold'")])
def test_an_activation_that_could_not_run_is_an_error_of_check_with_a_way_out(name: str, way_out: str):
    nodes = [{"layer": "Activation", "activation": name}]
    with pytest.raises(kerasimg.SpecError, match=f"activation '{name}' cannot stand in a spec: .*{way_out}"):
        kerasimg.load({"kerasimg": 1, "model": nodes})


@keras.saving.register_keras_serializable("test_activations")
def halved(inputs):
    return keras.ops.relu(inputs) * 0.5


ACTIVATIONS = keras.activations
FORMS = (
    *("gelu", ACTIVATIONS.gelu, keras.ops.gelu, keras.ops.relu, keras.saving.serialize_keras_object(ACTIVATIONS.selu)),
    *(partial(ACTIVATIONS.gelu, approximate=True), partial(partial(ACTIVATIONS.leaky_relu), negative_slope=0.3)),
    *(partial(ACTIVATIONS.relu, max_value=0.2), partial(ACTIVATIONS.elu, alpha=0.5), partial(ACTIVATIONS.tanh)),
    *(partial(ACTIVATIONS.celu, alpha=2.0), partial(ACTIVATIONS.hard_shrink, threshold=0.3), ACTIVATIONS.squareplus),
    *(partial(ACTIVATIONS.softmax, axis=1), partial(ACTIVATIONS.threshold, threshold=0.1, default_value=0.0)),
    *(keras.layers.LeakyReLU(0.3), keras.layers.PReLU(), keras.layers.Activation("silu"), halved),
    lambda inputs: keras.ops.tanh(inputs) + 1.0,
)


def test_every_form_of_an_activation_becomes_the_same_function_in_a_spec():
    image = keras.Input((4, 4, 3))
    parts = [keras.layers.Conv2D(4, 1, activation=form)(image) for form in FORMS]
    parts += [keras.layers.Activation(form)(parts[0]) for form in (FORMS[2], FORMS[5], FORMS[15])]
    functions = (keras.ops.gelu, lambda x: keras.ops.elu(x, alpha=0.5), lambda x: keras.ops.softmax(x, axis=1))
    functions += (keras.ops.glu, lambda x: keras.ops.soft_shrink(x, 0.1), lambda x: keras.ops.squareplus(x, 2))
    parts += [function(parts[0]) for function in functions]
    model = keras.Model(image, keras.layers.Concatenate()(parts))
    model.layers[1].set_weights([values + 0.1 for values in model.layers[1].get_weights()])
    built = kerasimg.to_spec(model).build()
    kerasimg.copy_weights(model, built)
    pixels = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    given, made = (keras.ops.convert_to_numpy(side(pixels)) for side in (model, built))
    np.testing.assert_allclose(made, given, atol=1e-5)
