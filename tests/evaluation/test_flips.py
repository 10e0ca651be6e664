"""A test-time flip is used where the paired interval of its gain is above zero."""

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.models.classifier import Classifier
from kerasimg.staleness import change, identity_of_file


def looks_left() -> Classifier:
    """A classifier that sees a spot in the left half of an image only."""
    layers = [{"layer": "Flatten"}, {"layer": "Dense", "units": 1, "activation": "sigmoid"}]
    document = {"kerasimg": 1, "name": "left", "task": "binary", "image": {"size": [4, 4]}, "model": layers}
    spec = kerasimg.load(document)
    model = kerasimg.build(spec)
    kernel = np.zeros((4, 4, 3, 1))
    kernel[:, :2] = 10.0
    model.set_weights([kernel.reshape(48, 1), np.array([-8.0])])
    return Classifier(model, spec, ("none", "spot"))


@pytest.mark.parametrize("sides", [2, 1])
def test_a_flip_is_used_where_it_gains(sides, tmp_path):
    for number in range(40):
        pixels = np.zeros((4, 4, 3), "uint8")
        if number % 2:
            pixels[1, 3 * (number // 2 % sides)] = 255  # a spot on the left, or on either side
        file = tmp_path / "photos" / ("spot" if number % 2 else "none") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(file)
    model = tmp_path / "model.keras"
    looks_left().save(model)
    before = identity_of_file(model)
    result = kerasimg.flips(model, data=tmp_path / "photos", part="all")
    if sides == 1:
        assert (result.applied, result.gain, result.interval) == (False, 0.0, None)
        assert not Classifier.open(model).flips
        return
    assert (result.applied, result["before"], result["after"]) == (True, 0.75, 1.0)
    assert 0 < result.interval[0] < 0.25 < result.interval[1]
    assert Classifier.open(model).flips
    assert kerasimg.evaluate(model, data=tmp_path / "photos", part="all", verbose=0).accuracy == 1.0
    assert change(before, identity_of_file(model)) == "the model's test-time flip was turned on since"
    assert not kerasimg.flips(model, undo=True).applied
    assert not Classifier.open(model).flips
