"""What a spec may make the builder allocate: nothing beyond the limits, and nothing before they are known to hold."""

import json
import resource

import keras
import pytest

from kerasimg import catalog
from kerasimg.errors import CallError, SpecError, WeightsError
from kerasimg.models.build import build, construct

MOST_BYTES = 300_000_000
FLAT = {"layer": "Flatten"}


def document(*nodes, size=32, **parts):
    return {"kerasimg": 1, "image": {"size": [size, size]}, "model": list(nodes), **parts}


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


HUGE = {
    "a dense layer of 10^12": [FLAT, {"layer": "Dense", "units": 10**12}],
    "a dense layer of 10^15": [FLAT, {"layer": "Dense", "units": 1e15}],
    "a kernel a million wide": [{"layer": "Conv2D", "filters": 8, "kernel_size": 10**6, "padding": "same"}],
    "a billion filters": [{"layer": "Conv2D", "filters": 10**9, "kernel_size": 1}],
    "a depth multiplier of a billion": [
        {"layer": "SeparableConv2D", "filters": 8, "kernel_size": 3, "depth_multiplier": 10**9}
    ],
    "a transposed convolution of huge stride": [
        {"layer": "Conv2DTranspose", "filters": 8, "kernel_size": 3, "strides": 10**6}
    ],
    "a resizing to a million": [{"layer": "Resizing", "height": 10**6, "width": 10**6}],
    "a padding of a million": [{"layer": "ZeroPadding2D", "padding": 10**6}],
    "an up-sampling by 10^5": [{"layer": "UpSampling2D", "size": 10**5, "interpolation": "bilinear"}],
    "a vector 10^12 times": [FLAT, {"layer": "RepeatVector", "n": 10**12}],
    "an embedding of 10^12": [{"layer": "Embedding", "input_dim": 10**12, "output_dim": 10}],
    "a pooling to a million": [{"layer": "AdaptiveAveragePooling2D", "output_size": 10**6}],
    "a crop to a million": [{"layer": "CenterCrop", "height": 10**6, "width": 10**6}],
    "attention with 10^12 values": [
        {"layer": "Reshape", "target_shape": [1024, 3], "name": "tokens"},
        {
            "layer": "MultiHeadAttention",
            "num_heads": 10**6,
            "key_dim": 10**6,
            "inputs": {"query": "tokens", "value": "tokens"},
        },
    ],
    "a doubling, sixty times": [{"block": "twice", "repeat": 60}],
}
TWICE = {"twice": {"nodes": [{"layer": "Concatenate", "inputs": ["in", "in"]}]}}


@pytest.mark.parametrize("nodes", HUGE.values(), ids=HUGE)
def test_a_model_beyond_the_limits_is_refused_and_nothing_of_it_allocated(nodes):
    before = peak_bytes()
    with pytest.raises(SpecError, match=r"and the limit is .*; if that is meant, raise it: limits="):
        build(document(*nodes, blocks=TWICE))
    assert peak_bytes() - before < MOST_BYTES


def test_a_image_beyond_the_limits_is_refused_whatever_the_model_makes_of_it():
    with pytest.raises(SpecError, match=r"^spec: image\.size: 3,000,000,000,000 values in one tensor"):
        build(document({"layer": "GlobalAveragePooling2D"}, size=10**6))


def test_a_backbone_counts_with_all_that_is_inside_it():
    spec = document({"backbone": "MobileNetV2"})
    with pytest.raises(SpecError, match=r"2,257,984 parameters, and the limit is 1,000,000"):
        build(spec, limits={"params": 1_000_000})
    with pytest.raises(SpecError, match=r"154 layers, and the limit is 100"):
        build(spec, limits={"layers": 100})
    assert build(spec, limits={"params": 3_000_000, "layers": 200}).count_params() == 2_257_984


def test_repeats_that_depend_on_the_shape_are_counted():
    loop = {"block": "loop", "repeat": 9}
    blocks = {"loop": {"nodes": [{"layer": "ReLU", "repeat": "=in_channels * in_height"}]}}
    with pytest.raises(SpecError, match="101 layers, and the limit is 100"):
        build(document(loop, blocks=blocks), limits={"layers": 100})


def test_more_layers_in_a_row_than_keras_can_follow_are_a_fault_of_the_spec():
    with pytest.raises(SpecError, match="more layers one after another than Keras can follow"):
        build(document({"layer": "Identity", "repeat": 1500}))


def test_a_limit_can_be_raised_by_the_caller_and_by_no_spec():
    spec = document(FLAT, {"layer": "Dense", "units": 3})
    with pytest.raises(SpecError, match="9,219 parameters, and the limit is 10"):
        build(spec, limits={"params": 10})
    assert build(spec, limits={"params": 9_219}).count_params() == 9_219
    with pytest.raises(SpecError, match="limits: no such key in a spec"):
        build({**spec, "limits": {"params": 10**12}})


def test_a_limit_that_does_not_exist_is_named():
    with pytest.raises(CallError, match="no limit 'parms'; did you mean 'params'"):
        build(document(FLAT), limits={"parms": 1})


def test_a_refused_model_leaves_nothing_behind_for_the_next():
    with pytest.raises(SpecError):
        build(document(FLAT, {"layer": "Dense", "units": 10**12}))
    began = peak_bytes()
    model = build(document(FLAT, {"layer": "Dense", "units": 3}))
    assert model.count_params() == 9_219
    assert peak_bytes() - began < MOST_BYTES


def initialized(**initializer):
    return document(FLAT, {"layer": "Dense", "units": 3, "kernel_initializer": initializer})


COSTLY = {
    "an orthogonal matrix of 6000x6000": [
        {"layer": "Reshape", "target_shape": [3072]},
        {"layer": "Dense", "units": 6000},
        {"layer": "Dense", "units": 6000, "kernel_initializer": {"type": "Orthogonal"}},
    ],
    "many smaller ones": [
        {"layer": "Reshape", "target_shape": [3072]},
        {"layer": "Dense", "units": 1500, "kernel_initializer": {"type": "Orthogonal"}, "repeat": 9},
    ],
    "an orthogonal regularizer of 10^5": [
        {"layer": "Reshape", "target_shape": [3072]},
        {"layer": "Dense", "units": 10**5, "kernel_regularizer": {"type": "OrthogonalRegularizer", "mode": "columns"}},
    ],
    "a dilation of 60,000": [
        {"layer": "Conv2D", "filters": 1, "kernel_size": 3, "dilation_rate": 60_000, "padding": "same"}
    ],
}


@pytest.mark.parametrize("nodes", COSTLY.values(), ids=COSTLY)
def test_costly_computations_are_limited(nodes):
    before = peak_bytes()
    with pytest.raises(SpecError, match=r"and the limit is .*; if that is meant, raise it: limits="):
        build(document(*nodes))
    assert peak_bytes() - before < MOST_BYTES


def test_an_initializer_that_does_not_fit_poisons_no_later_model():
    with pytest.raises(SpecError, match=r"the initial value of .*kernel cannot be made: "):
        build(document({"layer": "Conv2D", "filters": 3, "kernel_size": 3, "kernel_initializer": "identity"}, FLAT))
    assert build(document(FLAT, {"layer": "Dense", "units": 3})).count_params() == 9_219


class _Ends(keras.initializers.Initializer):
    """Ctrl-C while the initial values are made."""

    def __call__(self, shape, dtype=None):
        raise KeyboardInterrupt


def test_ctrl_c_while_initial_values_are_made_poisons_no_later_model(monkeypatch):
    spec = initialized(type="HeNormal")
    monkeypatch.setattr(keras.initializers.HeNormal, "__call__", _Ends.__call__)
    with pytest.raises(KeyboardInterrupt):
        build(spec)
    monkeypatch.undo()
    assert build(spec).count_params() == 9_219
    assert float(keras.layers.Dense(1)(keras.ops.ones((1, 1))).shape[0]) == 1


@pytest.fixture
def folder(tmp_path):
    """A folder with a spec's weights, beside one with a secret."""
    spec = document({"backbone": "MobileNetV2", "weights": "net.weights.h5"})
    (tmp_path / "secret.weights.h5").write_bytes(b"secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def test_weights_that_are_missing_are_an_error_not_random_ones(folder):
    with pytest.raises(WeightsError, match=r"no weights file '.*net\.weights\.h5'"):
        build(folder / "spec.json")


def test_weights_behind_a_link_out_of_the_folder_are_not_read(folder):
    (folder / "net.weights.h5").symlink_to(folder.parent / "secret.weights.h5")
    with pytest.raises(WeightsError, match="is a link out of the folder of the spec"):
        build(folder / "spec.json")


def test_weights_of_another_hash_are_not_loaded(folder):
    (folder / "net.weights.h5").write_bytes(b"something else")
    weights = {"file": "net.weights.h5", "sha256": "0" * 64}
    with pytest.raises(WeightsError, match="is not the file that the spec names: its sha256 is"):
        construct(catalog.load(folder / "spec.json", overrides={"model.0.weights": weights}))


def test_a_file_that_holds_no_weights_is_refused(folder):
    (folder / "net.weights.h5").write_bytes(b"not HDF5")
    with pytest.raises(WeightsError, match=r"net\.weights\.h5.* do not fit"):
        build(folder / "spec.json")


@pytest.mark.parametrize("name", ["../secret.weights.h5", "/etc/x.weights.h5", "https://x.org/a.weights.h5", "a.pkl"])
def test_weights_elsewhere_are_refused_before_anything_is_built(name):
    with pytest.raises(SpecError, match=r'expected null, "imagenet", a \.weights\.h5 file beside the spec'):
        build(document({"backbone": "MobileNetV2", "weights": name}))
