import io
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy import litert_file
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.targets import open_runtime
from kerasimg.errors import CallError
from kerasimg.models.classifier import Classifier


def content(bundle: Bundle, precision: str) -> bytes:
    return bundle.model_path(bundle.model(precision)).read_bytes()


def test_class_names_are_in_an_appended_zip_archive(exported: dict[str, Bundle]):
    whole = content(exported["litert"], "int8")
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt") == b"blue\ngreen\nred\n"
    assert set(litert_file.members(whole)) == {"labels.txt", "kerasimg.json"}


def test_int8_computes_in_integers_except_the_softmax(exported: dict[str, Bundle]):
    whole = content(exported["litert"], "int8")
    assert litert_file.float_operations(whole) == {"SOFTMAX": 1}
    operations = litert_file.operations(whole)
    assert (operations["CONV_2D"], operations["DEQUANTIZE"], operations["SOFTMAX"]) == (1, 1, 1)
    assert litert_file.float_operations(content(exported["litert"], "float32"))["CONV_2D"] == 1


def test_int8_probabilities_are_not_quantized(exported: dict[str, Bundle]):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    probabilities = open_runtime(exported["litert"], "int8")(pixels) * 256
    assert np.abs(probabilities - np.round(probabilities)).max() > 0.1
    assert np.allclose(probabilities.sum(axis=1), 256, atol=1e-3)


def test_weights_are_aligned(exported: dict[str, Bundle]):
    from tensorflow.lite.python import schema_py_generated as schema

    whole = content(exported["litert"], "int8")
    model = schema.Model.GetRootAs(whole, 0)
    places = []
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if buffer.DataLength():
            field = buffer._tab.Offset(4)
            places.append(buffer._tab.Vector(field))
    assert len(places) > 2
    assert [place % litert_file.ALIGNMENT for place in places] == [0] * len(places)


def test_tensorflow_operations_are_refused_unless_allowed(run: Run, tmp_path: Path):
    plain = Classifier.open(run)
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.erf(keras.layers.GlobalAveragePooling2D()(inputs) / 256)
    odd = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    classifier = Classifier(odd, plain.spec, plain.classes, plain.folder)
    with pytest.raises(
        CallError, match=r"litert float32: the layer 'erf' \(Erf\) cannot be written: .*Erf.*--allow-flex"
    ):
        kerasimg.export(classifier, "litert", out=tmp_path)
    (bundle,) = kerasimg.export(classifier, "litert", out=tmp_path, allow_flex=True, allow_uncompared=True)
    assert litert_file.operations(content(bundle, "float32"))["FlexErf"] == 1
    assert bundle.manifest.parity == []
    assert "the Flex delegate" in bundle.manifest.notes["not_compared"]["model_float32.tflite"]
    moved = shutil.copytree(bundle.folder, tmp_path / "far" / "away" / "litert")  # beside the run it would be stale
    with pytest.raises(CallError, match="contains operations of TensorFlow"):
        kerasimg.verify(moved)
