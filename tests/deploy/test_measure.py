import keras
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.measure import as_text, latency_ms, litert_bytes, macs
from kerasimg.errors import CallError
from kerasimg.models.classifier import Classifier


def test_multiplications_are_those_of_the_paper():
    # Sandler et al. 2018 (arXiv:1801.04381), table 4: MobileNetV2 at 224, 300 million.
    model = keras.applications.MobileNetV2(weights=None)
    assert macs(model) == pytest.approx(300e6, rel=0.01)


def count(*layers: keras.layers.Layer) -> int:
    inputs = keras.Input((8, 6, 4))
    x = inputs
    for layer in layers:
        x = layer(x)
    return macs(keras.Model(inputs, x))


def test_each_kind_of_layer_is_counted_by_what_it_does():
    layers = keras.layers
    assert count(layers.Conv2D(5, 3)) == 6 * 4 * 5 * 3 * 3 * 4
    assert count(layers.Conv2D(8, 3, strides=2, padding="same", groups=2)) == 4 * 3 * 8 * 3 * 3 * 2
    assert count(layers.DepthwiseConv2D(3, depth_multiplier=2)) == 6 * 4 * 8 * 3 * 3
    assert count(layers.SeparableConv2D(5, 3)) == 6 * 4 * 4 * 9 + 6 * 4 * 4 * 5
    assert count(layers.Conv2DTranspose(5, 2, strides=2)) == 8 * 6 * 4 * 5 * 2 * 2
    assert count(layers.Flatten(), layers.Dense(7)) == 8 * 6 * 4 * 7
    assert count(layers.EinsumDense("abcd,de->abce", (8, 6, 3))) == 8 * 6 * 4 * 3
    assert count(layers.BatchNormalization(), layers.MaxPooling2D(), layers.ReLU()) == 0


def test_attention_counts_its_products_of_matrices():
    inputs = keras.Input((10, 12))
    attended = keras.layers.MultiHeadAttention(2, 3, flash_attention=False)(inputs, inputs)
    projections = 4 * 10 * 12 * 6
    products = 2 * 2 * 10 * 10 * 3
    assert macs(keras.Model(inputs, attended)) == projections + products


def test_measure_tells_every_runtime_after_keras(run: Run):
    before = set(run.folder.rglob("*"))
    found = kerasimg.measure(run, ["litert", "onnx"])
    assert found["parameters"] == run.model.count_params()
    assert found["macs"] == 6 * 6 * 8 * 27 + 8 * 3
    rows = [(row["target"], row["precision"]) for row in found["runtimes"]]
    assert rows == [("(the run)", "float32"), ("litert", "float32"), ("litert", "int8"), ("onnx", "float32")]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] and row["per_second"] > 0 for row in found["runtimes"])
    assert "parameters" in as_text(found)
    assert set(run.folder.rglob("*")) == before


def test_on_another_backend_a_process_with_tensorflow_measures_the_exports(run: Run):
    from kerasimg.deploy.measure import _with_tensorflow

    here, there = kerasimg.measure(run, "litert"), _with_tensorflow(run, None, {"to": ["litert"]})
    assert (there.parameters, there.macs, there["input"]) == (here.parameters, here.macs, here["input"])
    assert [row["runtime"] for row in there.runtimes] == [row["runtime"] for row in here.runtimes]
    with pytest.raises(CallError, match="name the run's folder"):
        _with_tensorflow(Classifier.open(run), None, {"to": ["litert"]})


def test_int8_weights_take_a_quarter():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(200, activation="softmax")(keras.layers.Flatten()(inputs)))
    assert litert_bytes(model, "dynamic") < 0.35 * litert_bytes(model)


def test_the_limits_of_a_search_are_measured_without_a_run(run: Run, exported: dict[str, Bundle]):
    litert = exported["litert"]
    size = litert_bytes(run.model)
    assert size == pytest.approx(litert.model_bytes(litert.model("float32")), abs=2000)
    assert 0 < latency_ms(run.model) < 1000
    with pytest.raises(CallError, match="int8 needs images"):
        litert_bytes(run.model, "int8")
