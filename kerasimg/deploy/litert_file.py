"""Read and edit .tflite files: operations, quantization, a final activation, appended metadata."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np

ALIGNMENT = 16
"""Alignment of the weights in bytes, as the schema requires."""

IDENTIFIER = b"TFL3"
FLEX = "Flex"
"""Prefix of the names of TensorFlow operations."""


class _Builder(flatbuffers.Builder):
    """A builder that applies the schema's `force_align`, which the generated Python code ignores."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
        return super().StartVector(elemSize, numElems, ALIGNMENT if elemSize == 1 else alignment)


def operations(content: bytes) -> Counter[str]:
    """Counts the operations of a model: {"CONV_2D": 3}; TensorFlow operations have names like "FlexErf"."""
    names = {number: name for name, number in vars(_schema().BuiltinOperator).items() if not name.startswith("_")}
    model = _read(content)
    counts: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            counts[code.customCode.decode() if code.customCode else names[code.builtinCode]] += 1
    return counts


def float_operations(content: bytes) -> Counter[str]:
    """Counts the operations of an int8 model that compute in float32, except DEQUANTIZE."""
    schema = _schema()
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = _read(content)
    counts: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
            types = {graph.tensors[place].type for place in operator.outputs}
            if schema.TensorType.FLOAT32 in types and name != "DEQUANTIZE":
                counts[name] += 1
    return counts


def quantized_input(content: bytes) -> tuple[float, int] | None:
    """Returns the scale and zero point of the input; None if it is not quantized."""
    graph = _read(content).subgraphs[0]
    quantization = graph.tensors[graph.inputs[0]].quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return None
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def add_activation(content: bytes, activation: str) -> bytes:
    """Returns the model with a float32 softmax or sigmoid after its float32 output.

    The softmax of a quantized model outputs multiples of 1/256, which is too coarse for many classes.
    """
    schema = _schema()
    model = _read(content)
    graph = model.subgraphs[0]
    (last,) = (int(place) for place in graph.outputs)
    logits = graph.tensors[last]

    probabilities = schema.TensorT()
    probabilities.name, probabilities.type, probabilities.buffer, probabilities.hasRank = (
        b"probabilities",
        schema.TensorType.FLOAT32,
        0,
        True,
    )
    probabilities.shape, probabilities.shapeSignature = logits.shape, logits.shapeSignature
    graph.tensors.append(probabilities)

    code = schema.OperatorCodeT()
    operator = schema.OperatorT()
    if activation == "softmax":
        code.builtinCode = schema.BuiltinOperator.SOFTMAX
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.SoftmaxOptions, _softmax(schema)
    else:
        code.builtinCode = schema.BuiltinOperator.LOGISTIC
    code.deprecatedBuiltinCode, code.version = code.builtinCode, 1
    model.operatorCodes.append(code)
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = np.array([last], "i4"), np.array([len(graph.tensors) - 1], "i4")
    graph.operators.append(operator)

    graph.outputs = operator.outputs
    for signature in model.signatureDefs or ():
        for output in signature.outputs:
            output.tensorIndex = len(graph.tensors) - 1
    return _write(model)


def append_members(content: bytes, members: Mapping[str, str]) -> bytes:
    """Returns the model with a zip archive appended, as TensorFlow's metadata library does.

    The archive is uncompressed and has fixed timestamps, so that the same model gives the same file.

    Args:
        content: the .tflite file.
        members: file name -> text.
    """
    # A flatbuffer is read from its beginning, an archive from its end.
    whole = io.BytesIO(content)
    whole.seek(0, io.SEEK_END)
    with zipfile.ZipFile(whole, "a") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text.encode())
    return whole.getvalue()


def members(content: bytes) -> dict[str, str]:
    """Returns the files that `append_members` appended."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def _softmax(schema: Any) -> Any:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return options


def _read(content: bytes) -> Any:
    schema = _schema()
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def _write(model: Any) -> bytes:
    builder = _Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _schema() -> Any:
    """Returns the generated schema classes from TensorFlow."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated
