import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError, SpecError
from kerasimg.models.classifier import MEMBER, Classifier, check_outputs

SPEC = {
    "kerasimg": 1,
    "name": "tiny",
    "params": {"units": 3},
    "image": {"size": [4, 4], "channels": 1, "resize": "pad"},
    "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": "=units", "activation": "softmax"}],
}
PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 1)).astype("float32")


@pytest.fixture
def classifier() -> Classifier:
    spec = kerasimg.load(SPEC, units=2)
    return Classifier(kerasimg.build(spec), spec, ("Käse", "wine"))


def test_a_classifier_comes_back_as_it_was(classifier: Classifier, tmp_path: Path):
    classifier.save(tmp_path / "model.keras")
    again = Classifier.open(tmp_path)
    assert again.classes == ("Käse", "wine")
    assert again.folder == tmp_path
    assert again.spec.image == classifier.spec.image
    assert again.spec.params == {"units": 2}
    np.testing.assert_array_equal(again.probabilities(PIXELS), classifier.probabilities(PIXELS))


def test_a_saved_classifier_is_a_model_of_keras(classifier: Classifier, tmp_path: Path):
    classifier.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(PIXELS), classifier.model(PIXELS))


def test_a_compiled_model_is_saved_without_its_optimizer(classifier: Classifier, tmp_path: Path):
    classifier.model.compile("adam", "sparse_categorical_crossentropy")
    classifier.model.fit(PIXELS, np.array([0, 1]), verbose=0)
    classifier.save(tmp_path / "model.keras")
    assert not keras.models.load_model(tmp_path / "model.keras").compiled
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_a_file_alone_is_a_classifier_without_a_folder(classifier: Classifier, tmp_path: Path):
    classifier.save(tmp_path / "wine.keras")
    assert Classifier.open(tmp_path / "wine.keras").folder is None
    assert Classifier.open(str(tmp_path / "wine.keras")).classes == ("Käse", "wine")


def test_a_classifier_is_itself(classifier: Classifier):
    assert Classifier.open(classifier) is classifier


@pytest.mark.parametrize("name", ["../out.json", "/tmp/out.json", "a/../../out.json"])
def test_a_file_that_wants_to_write_outside_of_its_folder_is_refused(classifier: Classifier, tmp_path: Path, name: str):
    classifier.save(tmp_path / "model.keras")
    content: dict[str, Any] = {"classes": ["a", "b"], "spec": dict(classifier.spec.resolved), "beside": {name: {}}}
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        members = {member: archive.read(member) for member in archive.namelist() if member != MEMBER}
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(MEMBER, json.dumps(content))
    with pytest.raises(CallError, match="outside of its folder"):
        Classifier.open(tmp_path)


@pytest.mark.parametrize(
    ("task", "units", "classes", "message"),
    [
        ("multiclass", 3, 2, "an output of 2, one for each class; the last node gives 3"),
        ("multilabel", 1, 2, "an output of 2, one for each class; the last node gives 1"),
    ],
)
def test_an_output_that_cannot_stand_for_the_classes_is_refused(task: str, units: int, classes: int, message: str):
    model = [{"layer": "Flatten"}, {"layer": "Dense", "units": "=units", "activation": "=head_activation"}]
    spec = kerasimg.load({**SPEC, "model": model, "task": task}, units=units)
    with pytest.raises(SpecError, match=f"tiny: model: the task '{task}' and the data want {message}"):
        check_outputs(kerasimg.build(spec), spec, tuple("abc"[:classes]))
