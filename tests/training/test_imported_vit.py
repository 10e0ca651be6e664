"""An imported vision transformer trains: a linear probe, low-rank adapters, fine-tuning, on every backend."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.keras_internals import sublayers
from kerasimg.layers import SelfAttention
from kerasimg.models.build import construct, leaves
from kerasimg.spec.document import Lora
from kerasimg.training import checkpoint, lora
from kerasimg.training import train as verbs
from tests.checkpoints import seeded

STAGES = [
    {"epochs": 2},
    {"epochs": 2, "lora": {"rank": 2}},
    {"epochs": 1, "unfreeze": {"base": 0}, "learning_rate": 1e-4},
]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec with an imported backbone of two blocks, 48 channels wide."""
    folder = tmp_path_factory.mktemp("vit")
    kerasimg.import_checkpoint(seeded.write("vit", folder / "vit"), folder)
    document = {
        "kerasimg": 1,
        "params": {"num_classes": 2, "trainable": False},
        "image": {"size": [64, 64], "scale": "symmetric"},
        "model": [
            {"backbone": "vit.json", "name": "base", "weights": "imagenet", "trainable": "=trainable"},
            {"layer": "Dense", "name": "head", "units": "=num_classes", "activation": "softmax"},
        ],
        "compile": {"optimizer": {"type": "Adam", "learning_rate": 0.01}, "jit_compile": False},
        "fit": {"batch_size": 12, "stages": STAGES, "validation_split": 0.0, "test_split": 0.0},
    }
    (folder / "probe.json").write_text(json.dumps(document))
    return folder / "probe.json"


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Images of noise, dark and bright."""
    labels = np.arange(24) % 2
    noise = np.random.default_rng(0).integers(0, 60, (24, 64, 64, 3))
    return (noise + 150 * labels[:, None, None, None]).astype("uint8"), labels


class Trained(NamedTuple):
    run: kerasimg.Run
    interrupted: Path
    """The folder of the run as it was after the first epoch with adapters."""


@pytest.fixture(scope="module")
def trained(spec: Path, data: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A linear probe, then adapters, then the whole model."""
    folder = tmp_path_factory.mktemp("runs")
    write = checkpoint.write

    def copy(path: Path, facts: dict[str, Any], arrays: Any) -> None:
        write(path, facts, arrays)
        if facts["stage"] == 1 and not (folder / "interrupted").exists():
            shutil.copytree(next(folder.glob("*-1")), folder / "interrupted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write", copy)
        run = kerasimg.Run(verbs.train(spec, data=data, out=folder, verbose=0))
    return Trained(run, folder / "interrupted")


@pytest.fixture
def run(trained: Trained) -> kerasimg.Run:
    return trained.run


def backbone_after(run: kerasimg.Run, stage: int) -> dict[str, np.ndarray]:
    """The weights of the backbone at the end of a stage, by their path."""
    model = construct(kerasimg.load(run.folder / "spec.json"), weights=None).model
    model.load_weights(sorted((run.folder / "checkpoints").iterdir())[stage])
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.get_layer("base").weights}


def test_a_linear_probe_of_an_imported_vit_learns_and_leaves_it_as_it_was(run: kerasimg.Run, spec: Path):
    assert run.history[1]["accuracy"] > 0.9
    imported = construct(kerasimg.load(spec)).model.get_layer("base")
    for weight, trained in zip(imported.weights, backbone_after(run, 0).values(), strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), trained)


def test_adapters_change_kernels_by_a_matrix_of_their_rank_and_nothing_else(run: kerasimg.Run):
    before, after = backbone_after(run, 0), backbone_after(run, 1)
    assert list(before) == list(after)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {path for path in before if "encoder" in path and path.endswith("kernel")}
    for path in changed:
        difference = (after[path] - before[path]).reshape(-1, after[path].shape[-1])
        values = np.linalg.svd(difference.astype("float64"), compute_uv=False)
        assert values[2] < 1e-3 * values[0], path


def test_fine_tuning_changes_every_weight_of_an_imported_vit(run: kerasimg.Run):
    before, after = backbone_after(run, 1), backbone_after(run, 2)
    equal = [path for path in before if np.array_equal(before[path], after[path])]
    # The softmax does not change when all keys shift.
    assert all(path.endswith("key/bias") for path in equal)
    assert run.history[-1]["accuracy"] > 0.9


def test_a_run_with_adapters_is_resumed_within_their_stage(trained: Trained, data: Any):
    resumed = kerasimg.Run(verbs.resume(trained.interrupted, data=data, verbose=0))
    expected, weights = backbone_after(trained.run, 1), backbone_after(resumed, 1)
    for path in expected:
        np.testing.assert_allclose(weights[path], expected[path], atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere exports need the images as files")
def test_exports_of_merged_adapters_agree_with_the_trained_model(run: kerasimg.Run, data: Any, tmp_path: Path):
    for bundle in kerasimg.export(run, to=["litert", "onnx"], out=tmp_path, data=data, tolerance=1e-5, verbose=0):
        (parity,) = bundle.manifest.parity
        assert (parity.images, parity.passed, parity.accuracy_after) == (24, True, parity.accuracy_before)


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: keras.layers.Dense(5)(x),
        lambda x: keras.layers.MultiHeadAttention(2, 4)(x, x),
        lambda x: SelfAttention(2, qk_norm=True)(x),
    ],
)
def test_merged_adapters_compute_the_same_and_are_gone(layer: Callable[[Any], Any]):
    image = keras.Input((3, 8))
    model = keras.Model(image, layer(image))
    (adapted,) = leaves(model.layers[1:])
    adapted.trainable = False
    count, x = len(model.weights), np.random.default_rng(1).normal(size=(2, 3, 8)).astype("float32")
    before = model(x)
    lora.add_adapters(model, Lora(rank=2, alpha=4), seed=0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), keras.ops.convert_to_numpy(before), atol=1e-6)
    assert all("lora" in weight.path for weight in model.trainable_weights)
    for weight in model.trainable_weights:
        weight.assign(np.random.default_rng(2).normal(size=weight.shape))
    learned = model(x)
    lora.merge_adapters(model)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model(x)), keras.ops.convert_to_numpy(learned), rtol=1e-3, atol=1e-4
    )
    assert len(model.weights) == count
    assert model.trainable_weights == []
    assert "lora" not in json.dumps([inner.get_config() for inner in (adapted, *sublayers(adapted))], default=str)


def test_adapters_need_a_frozen_layer(spec: Path, data: Any, tmp_path: Path):
    with pytest.raises(SpecError, match=r"fit.stages\[1\].lora: no dense or attention layer is frozen in this stage"):
        verbs.train(spec, data=data, out=tmp_path, verbose=0, params={"trainable": True})
