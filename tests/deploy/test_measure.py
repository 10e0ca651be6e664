import logging
from logging.handlers import BufferingHandler

import keras
import pytest

import kerasimg
from kerasimg import log
from kerasimg.api import Run
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.measure import Measurement, as_text, latency_ms, litert_bytes, macs
from kerasimg.errors import CallError
from kerasimg.models.classifier import Classifier


def test_multiply_adds_match_the_paper():
    # Sandler et al. 2018 (arXiv:1801.04381), table 4: MobileNetV2 at 224, 300 million.
    model = keras.applications.MobileNetV2(weights=None)
    assert macs(model) == pytest.approx(300e6, rel=0.01)


def count(*layers: keras.layers.Layer) -> int:
    inputs = keras.Input((8, 6, 4))
    x = inputs
    for layer in layers:
        x = layer(x)
    return macs(keras.Model(inputs, x))


def test_multiply_adds_of_each_kind_of_layer():
    layers = keras.layers
    assert count(layers.Conv2D(5, 3)) == 6 * 4 * 5 * 3 * 3 * 4
    assert count(layers.Conv2D(8, 3, strides=2, padding="same", groups=2)) == 4 * 3 * 8 * 3 * 3 * 2
    assert count(layers.DepthwiseConv2D(3, depth_multiplier=2)) == 6 * 4 * 8 * 3 * 3
    assert count(layers.DepthwiseConv2D(3, dilation_rate=2)) == 4 * 2 * 4 * 3 * 3
    assert count(layers.DepthwiseConv2D(3, dilation_rate=2, padding="same")) == 8 * 6 * 4 * 3 * 3
    assert count(layers.SeparableConv2D(5, 3)) == 6 * 4 * 4 * 9 + 6 * 4 * 4 * 5
    assert count(layers.Conv2DTranspose(5, 2, strides=2)) == 8 * 6 * 4 * 5 * 2 * 2
    volume = layers.Reshape((4, 4, 4, 3))
    assert count(volume, layers.Conv3D(5, 3)) == 2 * 2 * 2 * 5 * 3**3 * 3
    assert count(volume, layers.Conv3D(6, 3, groups=3)) == 2 * 2 * 2 * 6 * 3**3
    assert count(volume, layers.Conv3DTranspose(5, 2, strides=2)) == 4**3 * 3 * 5 * 2**3
    assert count(layers.Reshape((48, 4)), layers.Conv1D(6, 3, groups=2)) == 46 * 6 * 3 * 2
    assert count(layers.Reshape((48, 4)), layers.Conv1DTranspose(5, 2, strides=2)) == 48 * 4 * 5 * 2
    assert count(layers.Flatten(), layers.Dense(7)) == 8 * 6 * 4 * 7
    assert count(layers.EinsumDense("abcd,de->abce", (8, 6, 3))) == 8 * 6 * 4 * 3
    assert count(layers.BatchNormalization(), layers.MaxPooling2D(), layers.ReLU()) == 0


def test_multiply_adds_of_attention_include_matrix_products():
    inputs = keras.Input((10, 12))
    attended = keras.layers.MultiHeadAttention(2, 3, flash_attention=False)(inputs, inputs)
    projections = 4 * 10 * 12 * 6
    products = 2 * 2 * 10 * 10 * 3
    assert macs(keras.Model(inputs, attended)) == projections + products


@pytest.fixture(scope="module")
def warned() -> list[str]:
    return []


@pytest.fixture(scope="module")
def measured(run: Run, warned: list[str]) -> Measurement:
    """The LiteRT and ONNX exports of the run, measured without a trace in its folder; one target fails."""
    before = set(run.folder.rglob("*"))
    records = BufferingHandler(100)
    with log.attached(records, logging.WARNING):
        result = kerasimg.measure(run, ["litert", "savedmodel", "onnx"], precision=["float32", "int8"])
    warned += [record.getMessage() for record in records.buffer]
    assert set(run.folder.rglob("*")) == before
    return result


def test_measure_lists_keras_then_every_runtime(run: Run, measured: Measurement):
    result = measured
    assert result["parameters"] == run.model.count_params()
    assert result["macs"] == 6 * 6 * 8 * 27 + 8 * 3
    rows = [(row["target"], row["precision"]) for row in result["runtimes"]]
    exports = [(target, precision) for target in ("litert", "onnx") for precision in ("float32", "int8")]
    assert rows == [("(the run)", "float32"), *exports]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] and row["per_second"] > 0 for row in result["runtimes"])
    assert "parameters" in as_text(result)


def test_a_target_that_fails_does_not_keep_the_others_from_being_measured(
    run: Run, measured: Measurement, warned: list[str]
):
    # `savedmodel` is between the two others, and has no int8.
    assert [line for line in warned if "savedmodel" in line and "int8" in line]
    with pytest.raises(CallError, match="savedmodel"):
        kerasimg.measure(run, "savedmodel", precision="int8", verbose=0)


def test_on_another_backend_a_tensorflow_process_measures_the_exports(run: Run, measured: Measurement):
    from kerasimg.deploy.measure import _measure_in_tensorflow

    actual = _measure_in_tensorflow(run, None, {"to": ["litert"]})
    assert (actual.parameters, actual.macs, actual["input"]) == (measured.parameters, measured.macs, measured["input"])
    expected = [row["runtime"] for row in measured.runtimes if row["target"] != "onnx"]
    assert [row["runtime"] for row in actual.runtimes] == expected
    with pytest.raises(CallError, match="pass the run's folder"):
        _measure_in_tensorflow(Classifier.open(run), None, {"to": ["litert"]})


def test_int8_weights_are_a_quarter_of_the_size():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(200, activation="softmax")(keras.layers.Flatten()(inputs)))
    assert litert_bytes(model, "dynamic") < 0.35 * litert_bytes(model)


def test_size_and_latency_are_measured_without_a_run(run: Run, exported: dict[str, Bundle]):
    litert = exported["litert"]
    size = litert_bytes(run.model)
    assert size == pytest.approx(litert.model_bytes(litert.model("float32")), abs=2000)
    assert 0 < latency_ms(run.model) < 1000
    with pytest.raises(CallError, match="int8 needs images"):
        litert_bytes(run.model, "int8")
