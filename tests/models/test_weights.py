import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

# The published files of ImageNet weights are in a format that Keras reads, and no longer writes in public.
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

import kerasimg
from kerasimg.errors import CallError, SpecError, WeightsError
from kerasimg.models import weights as module

CLOSED = "http://127.0.0.1:9/"
"""Nothing listens on the discard port."""

BASE = {"backbone": "MobileNet", "name": "base", "alpha": 0.25}
FILE = "mobilenet_2_5_224_tf_no_top.h5"
DENSE = [{"layer": "Flatten"}, {"layer": "Dense", "name": "classes", "units": 2}]


def spec(*nodes: dict[str, Any], size: int = 32, channels: int = 3, **sections: Any) -> dict[str, Any]:
    image = {"size": [size, size], "channels": channels}
    return {"kerasimg": 1, "name": "tiny", "image": image, "model": list(nodes), **sections}


def backbone(seed: int = 1, **arguments: Any) -> keras.Model:
    keras.utils.set_random_seed(seed)
    arguments = {"alpha": 0.25, "input_shape": (32, 32, 3)} | arguments
    return keras.applications.MobileNet(include_top=False, weights=None, **arguments)


def publish(model: keras.Model, path: Path) -> Path:
    """Write weights in the format of the published files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return path


def assert_equal(one: keras.Model, other: keras.Model) -> None:
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(module, "entry", _unreachable(module.entry))
    return tmp_path / "keras"


def _unreachable(entry: Callable[..., Any]) -> Callable[..., Any]:
    def changed(group: str, name: str) -> Any:
        found = dict(entry(group, name) or {})
        for key in found.keys() & {"imagenet", "imagenet_top"}:
            found[key] = [{**file, "url": CLOSED + file["file"]} for file in found[key]]
        return found or None

    return changed


def test_a_file_that_the_caller_names_fills_the_backbone(tmp_path: Path):
    wanted = backbone()
    wanted.save_weights(tmp_path / "mine.weights.h5")
    model = kerasimg.build(spec(BASE, *DENSE), weights=tmp_path / "mine.weights.h5")
    assert_equal(model.get_layer("base"), wanted)


def test_a_file_beside_the_spec_fills_the_backbone_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wanted = backbone()
    wanted.save_weights(tmp_path / "mine.weights.h5")
    (tmp_path / "tiny.json").write_text(json.dumps(spec({**BASE, "weights": "mine.weights.h5"})))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_equal(kerasimg.build(tmp_path / "tiny.json").get_layer("base"), wanted)


def test_a_file_is_known_by_its_sha256(tmp_path: Path):
    wanted = backbone()
    wanted.save_weights(tmp_path / "mine.weights.h5")
    digest = hashlib.sha256((tmp_path / "mine.weights.h5").read_bytes()).hexdigest()
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(spec({**BASE, "weights": {"file": "mine.weights.h5", "sha256": digest}})))
    assert_equal(kerasimg.build(path).get_layer("base"), wanted)
    path.write_text(json.dumps(spec({**BASE, "weights": {"file": "mine.weights.h5", "sha256": "0" * 64}})))
    with pytest.raises(WeightsError, match=f"is not the file that the spec names: its sha256 is {digest}"):
        kerasimg.build(path)


def test_a_file_that_is_not_there_is_named_with_the_way_out(tmp_path: Path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(spec({**BASE, "weights": "mine.weights.h5"})))
    with pytest.raises(WeightsError) as caught:
        kerasimg.build(path)
    assert str(caught.value).startswith(f"{path}: base.weights: no weights file '{tmp_path / 'mine.weights.h5'}'; ")
    assert "weights=None (--weights none)" in str(caught.value)


def test_a_link_out_of_the_specs_folder_is_not_followed(tmp_path: Path):
    (tmp_path / "specs").mkdir()
    backbone().save_weights(tmp_path / "mine.weights.h5")
    (tmp_path / "specs" / "mine.weights.h5").symlink_to(tmp_path / "mine.weights.h5")
    path = tmp_path / "specs" / "tiny.json"
    path.write_text(json.dumps(spec({**BASE, "weights": "mine.weights.h5"})))
    with pytest.raises(WeightsError, match="is a link out of the folder of the spec"):
        kerasimg.build(path)


def test_weights_of_another_model_are_refused(tmp_path: Path):
    backbone(alpha=0.5).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(WeightsError, match=r"the weights in '.*other\.weights\.h5' do not fit base: "):
        kerasimg.build(spec(BASE), weights=tmp_path / "other.weights.h5")


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path):
    (tmp_path / "page.weights.h5").write_text("<html>not found</html>")
    with pytest.raises(WeightsError, match=r"the weights in '.*page\.weights\.h5' do not fit base: "):
        kerasimg.build(spec(BASE), weights=tmp_path / "page.weights.h5")


def test_several_backbones_are_given_weights_by_name(tmp_path: Path):
    nodes = (BASE, {**BASE, "name": "twin", "inputs": "in"}, {"layer": "Add", "inputs": ["base", "twin"]})
    wanted = backbone()
    wanted.save_weights(tmp_path / "mine.weights.h5")
    model = kerasimg.build(spec(*nodes), weights={"twin": tmp_path / "mine.weights.h5"})
    assert_equal(model.get_layer("twin"), wanted)
    assert (model.get_layer("base").get_weights()[0] != wanted.get_weights()[0]).any()
    with pytest.raises(CallError, match=r"the spec has several backbones; say which: \{'base': \.\.\.\}"):
        kerasimg.build(spec(*nodes), weights=tmp_path / "mine.weights.h5")
    with pytest.raises(CallError, match=r"weights: no backbone \['bass'\] \(backbones: base, twin\)"):
        kerasimg.build(spec(*nodes), weights={"bass": None})


def test_a_spec_without_a_backbone_is_given_all_its_weights(tmp_path: Path):
    document = spec(*DENSE, size=4)
    wanted = kerasimg.build(document)
    wanted.save_weights(tmp_path / "all.weights.h5")
    assert_equal(kerasimg.build(document, weights=tmp_path / "all.weights.h5"), wanted)
    with pytest.raises(WeightsError, match="do not fit tiny"):
        kerasimg.build(spec(*DENSE, size=5), weights=tmp_path / "all.weights.h5")


def test_imagenet_weights_come_from_keras_cache(keras_home: Path):
    wanted = backbone()
    publish(wanted, keras_home / "models" / FILE)
    assert_equal(kerasimg.build(spec({**BASE, "weights": "imagenet"})).get_layer("base"), wanted)
    assert_equal(kerasimg.build(spec(BASE), weights="imagenet").get_layer("base"), wanted)


def test_imagenet_weights_that_cannot_be_had_are_an_error_with_three_ways_out(keras_home: Path):
    with pytest.raises(WeightsError) as caught:
        kerasimg.build(spec({**BASE, "weights": "imagenet"}))
    message = str(caught.value)
    assert message.startswith("tiny: base.weights: the ImageNet weights of MobileNet are not in Keras' cache")
    assert f"sought: {keras_home / 'models' / FILE}\n" in message
    assert f"from:   {CLOSED}{FILE}\n" in message
    assert "Put the file there" in message
    assert 'weights="FILE.weights.h5" (--weights FILE)' in message
    assert "weights=None (--weights none)" in message


def test_a_spec_with_imagenet_weights_builds_without_them_on_request(keras_home: Path):
    assert kerasimg.build(spec({**BASE, "weights": "imagenet"}), weights=None).count_params() == 218_544
    assert not keras_home.exists()


def test_a_file_in_the_cache_that_is_not_the_published_one_is_not_used(keras_home: Path):
    file = keras_home / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file.parent.mkdir(parents=True)
    file.write_text("half a download")
    with pytest.raises(WeightsError, match="the ImageNet weights of VGG16 are not in Keras' cache"):
        kerasimg.build(spec({"backbone": "VGG16", "weights": "imagenet"}))


def test_imagenet_weights_of_arguments_without_any_are_an_error_that_lists_them():
    with pytest.raises(WeightsError) as caught:
        kerasimg.build(spec({**BASE, "alpha": 0.6, "weights": "imagenet"}))
    assert "no ImageNet weights of MobileNet with {'alpha': 0.6}" in str(caught.value)
    assert "{'alpha': 0.25}, {'alpha': 0.5}" in str(caught.value)


def test_imagenet_weights_take_three_channels():
    with pytest.raises(WeightsError, match="take 3 channels, and what enters has 1: for grayscale"):
        kerasimg.build(spec({**BASE, "weights": "imagenet"}, channels=1))


def test_imagenet_weights_are_chosen_by_the_size_of_the_image(keras_home: Path):
    with pytest.raises(WeightsError, match=r"mobilenet_2_5_128_tf_no_top\.h5"):
        kerasimg.build(spec({**BASE, "weights": "imagenet"}, size=128))


def test_weights_none_holds_for_the_backbones_of_a_backbone(tmp_path: Path, keras_home: Path):
    inner = {"kerasimg": 1, "model": [{**BASE, "weights": "imagenet"}, {"layer": "GlobalAveragePooling2D"}]}
    (tmp_path / "inner.json").write_text(json.dumps(inner))
    path = tmp_path / "outer.json"
    path.write_text(json.dumps(spec({"backbone": "inner.json", "name": "outer"})))
    with pytest.raises(WeightsError, match="sought: "):
        kerasimg.build(path)
    model = kerasimg.build(path, weights=None)
    model.get_layer("outer").save_weights(tmp_path / "outer.weights.h5")
    again = kerasimg.build(path, weights=tmp_path / "outer.weights.h5")
    assert_equal(again, model)


def test_a_backbone_of_a_backbone_has_the_weights_that_its_spec_names(tmp_path: Path):
    wanted = backbone()
    wanted.save_weights(tmp_path / "mine.weights.h5")
    inner = {"kerasimg": 1, "model": [{**BASE, "weights": "mine.weights.h5"}, {"layer": "GlobalAveragePooling2D"}]}
    (tmp_path / "inner.json").write_text(json.dumps(inner))
    path = tmp_path / "outer.json"
    path.write_text(json.dumps(spec({"backbone": "inner.json", "name": "outer"})))
    assert_equal(kerasimg.build(path).get_layer("outer"), wanted)


def test_published_efficientnet_weights_give_what_keras_gives_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keras.utils.set_random_seed(1)
    shape = {"include_top": False, "input_shape": (32, 32, 3)}
    published = keras.applications.EfficientNetB0(weights=None, **shape)
    scaling = next(layer for layer in published.layers if isinstance(layer, keras.layers.Normalization))
    scaling.adapt_mean.assign([0.485, 0.456, 0.406])
    scaling.adapt_variance.assign([0.229, 0.224, 0.225])  # the published files hold no variance, but its root
    file = publish(published, tmp_path / "efficientnetb0_notop.h5")
    monkeypatch.setattr(file_utils, "get_file", lambda *given, **named: str(file))
    wanted = keras.applications.EfficientNetB0(weights="imagenet", **shape)
    model = kerasimg.build(spec({"backbone": "EfficientNetB0", "name": "base"}), weights=file)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    outputs = np.asarray(wanted(pixels))
    np.testing.assert_allclose(model(pixels), outputs, atol=1e-4 * np.abs(outputs).max())


def test_weights_of_a_spec_are_never_an_address():
    with pytest.raises(SpecError, match=r"weights: expected null, \"imagenet\", a \.weights\.h5 file"):
        kerasimg.build(spec({**BASE, "weights": "https://example.org/mine.weights.h5"}))


def test_a_backbone_of_the_zoo_takes_the_file_of_the_keras_application_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    published = publish(backbone(), tmp_path / "models" / FILE)
    node = {"backbone": "zoo/mobilenet_v1.json", "name": "base", "alpha": 0.25, "weights": "imagenet"}
    ours = kerasimg.build(spec(node, *DENSE))
    assert published.is_file()
    assert_equal(ours.get_layer("base"), backbone())


def test_a_zoo_spec_says_when_keras_has_no_weights_of_its_variant():
    with pytest.raises(WeightsError, match=r"keras\.applications has no ResNet18"):
        kerasimg.build("resnet", variant=18, weights="imagenet")


def test_a_file_of_another_keras_application_is_refused(tmp_path: Path):
    path = publish(backbone(), tmp_path / "other.h5")
    with pytest.raises(WeightsError, match="do not fit small_resnet: the file has"):
        kerasimg.build("small_resnet", weights=path)


def test_weights_of_another_shape_are_reported_with_both_shapes(tmp_path: Path):
    model = [{"layer": "Flatten"}, {"layer": "Dense", "units": "=units"}]
    spec = {"kerasimg": 1, "name": "tiny", "params": {"units": 3}, "image": {"size": [2, 2]}, "model": model}
    kerasimg.build(spec).save_weights(tmp_path / "three.weights.h5")
    kerasimg.build(spec).save(tmp_path / "three.keras")
    for name in ("three.weights.h5", "three.keras"):
        with pytest.raises(WeightsError, match=r"do not fit tiny: .*\(12, 4\).*\(12, 3\)"):
            kerasimg.build(spec, units=4, weights=tmp_path / name)


def test_the_weights_of_a_whole_model_are_loaded(tmp_path: Path):
    spec = {
        "kerasimg": 1,
        "name": "tiny",
        "image": {"size": [2, 2]},
        "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 3}],
    }
    saved = kerasimg.build(spec)
    saved.save(tmp_path / "m.keras")
    found = kerasimg.build(spec, weights=str(tmp_path / "m.keras"))
    for one, other in zip(found.get_weights(), saved.get_weights(), strict=True):
        assert np.array_equal(one, other)


FULL_DISK = """
import resource, sys
from pathlib import Path
import kerasimg
from kerasimg.models.weights import save_weights

model = kerasimg.build({"kerasimg": 1, "name": "x", "image": {"size": [8, 8]}, "params": {"num_classes": 2},
    "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 100}, {"layer": "Dense", "units": 2}]})
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_weights(model, path)
except OSError as error:
    print(error.strerror)
"""


def test_weights_on_a_full_disk_are_an_error_and_leave_the_old_file(tmp_path: Path):
    (tmp_path / "old.weights.h5").write_text("old")
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "old.weights.h5")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "File too large\n"), ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old.weights.h5"]
    assert (tmp_path / "old.weights.h5").read_text() == "old"
