"""Every activation that a spec may name runs, alone and in a layer, on this backend."""

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
