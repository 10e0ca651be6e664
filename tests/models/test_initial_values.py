from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.models import weights
from kerasimg.models.classifier import Classifier
from kerasimg.models.initial_values import cheap_values

INITIALIZERS = keras.initializers


@pytest.mark.parametrize(
    "initializer",
    [
        INITIALIZERS.HeNormal(seed=3),
        INITIALIZERS.GlorotUniform(seed=4),
        INITIALIZERS.RandomNormal(0.1, 0.3, seed=5),
        INITIALIZERS.TruncatedNormal(0.1, 0.3, seed=6),
        INITIALIZERS.Orthogonal(seed=7),
    ],
    ids=lambda initializer: type(initializer).__name__,
)
def test_the_first_values_are_those_of_keras_bit_for_bit(initializer: Any):
    for shape in ((3, 3, 8, 16), (7, 2)):
        expected = np.asarray(initializer(shape, dtype="float32"))
        with cheap_values(lambda variable: False):
            np.testing.assert_array_equal(np.asarray(initializer(shape, dtype="float32")), expected)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the random initial values that are drawn."""
    shapes: list[tuple[int, ...]] = []
    draw = INITIALIZERS.VarianceScaling.__call__

    def note(self: Any, shape: Any, dtype: Any = None, **others: Any) -> Any:
        shapes.append(tuple(shape))
        return draw(self, shape, dtype, **others)

    monkeypatch.setattr(INITIALIZERS.VarianceScaling, "__call__", note)
    return shapes


@pytest.fixture
def spec(tiny: Callable[..., dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """A spec with a frozen backbone whose weights are in a file."""
    conv = {"layer": "Conv2D", "name": "conv", "filters": 4, "kernel_size": 3}
    made = kerasimg.build(tiny(model=[conv, *tiny()["model"]], image={"size": [8, 8]}), num_classes=2)
    weights.save_weights(made, tmp_path / "all.weights.h5")
    return tiny(model=[conv, *tiny()["model"]])


def test_what_a_file_replaces_is_not_drawn(spec: dict[str, Any], drawn: list[Any], tmp_path: Path):
    model = kerasimg.build(spec, num_classes=2, weights=tmp_path / "all.weights.h5")
    # The head might be for other classes.
    assert drawn == [tuple(model.weights[-2].shape)]
    assert all(np.abs(array).max() > 0 for array in model.get_weights()[::2])


def test_opening_a_classifier_draws_nothing(spec: dict[str, Any], drawn: list[Any], tmp_path: Path):
    loaded = kerasimg.catalog.load(spec, num_classes=2)
    model = kerasimg.build(loaded)
    Classifier(model, loaded, ("a", "b")).save(tmp_path / "model.keras")
    drawn.clear()
    opened = Classifier.open(tmp_path / "model.keras")
    assert drawn == []
    for before, after in zip(model.get_weights(), opened.model.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)
