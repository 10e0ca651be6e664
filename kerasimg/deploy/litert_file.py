"""A .tflite file from within: what it computes with, a last operation, the labels that travel in it."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np

ALIGNMENT = 16
"""Bytes at whose multiples the schema wants the weights to begin."""

IDENTIFIER = b"TFL3"
FLEX = "Flex"
"""How the names begin of operations that only TensorFlow has."""


class _Builder(flatbuffers.Builder):
    """Python's generated code forgets the schema's `force_align`."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
        return super().StartVector(elemSize, numElems, ALIGNMENT if elemSize == 1 else alignment)


def operations(content: bytes) -> Counter[str]:
    """How often a model does what: {"CONV_2D": 3}; operations of TensorFlow by their own names, "FlexErf"."""
    names = {number: name for name, number in vars(_schema().BuiltinOperator).items() if not name.startswith("_")}
    model = _read(content)
    found: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            found[code.customCode.decode() if code.customCode else names[code.builtinCode]] += 1
    return found


def in_floats(content: bytes) -> Counter[str]:
    """The operations of an int8 model that are done in float32 all the same, but for what turns one into the other."""
    schema = _schema()
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = _read(content)
    found: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
            types = {graph.tensors[place].type for place in operator.outputs}
            if schema.TensorType.FLOAT32 in types and name != "DEQUANTIZE":
                found[name] += 1
    return found


def quantized_input(content: bytes) -> tuple[float, int] | None:
    """(scale, zero point) of the input; None where it is not quantized."""
    graph = _read(content).subgraphs[0]
    told = graph.tensors[graph.inputs[0]].quantization
    if told is None or told.scale is None or not len(told.scale):
        return None
    return float(told.scale[0]), int(told.zeroPoint[0])


def with_activation(content: bytes, activation: str) -> bytes:
    """The model with softmax or sigmoid, in float32, after its float32 output.

    For quantized models: of their own softmax they give steps of 1/256, which over many classes is all there is.
    """
    schema = _schema()
    model = _read(content)
    graph = model.subgraphs[0]
    (last,) = (int(place) for place in graph.outputs)
    logits = graph.tensors[last]

    told = schema.TensorT()
    told.name, told.type, told.buffer, told.hasRank = b"probabilities", schema.TensorType.FLOAT32, 0, True
    told.shape, told.shapeSignature = logits.shape, logits.shapeSignature
    graph.tensors.append(told)

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


def with_members(content: bytes, members: Mapping[str, str]) -> bytes:
    """The model with a zip archive after it, as TensorFlow's metadata library appends it; both are found.

    members: name -> text.  Stored as they are, each at the same time, so that the same model is the same file.
    """
    # A flatbuffer is read from its beginning, an archive from its end.
    whole = io.BytesIO(content)
    whole.seek(0, io.SEEK_END)
    with zipfile.ZipFile(whole, "a") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text.encode())
    return whole.getvalue()


def members(content: bytes) -> dict[str, str]:
    """What `with_members` put there."""
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
    """The classes of the format, which TensorFlow brings along."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated
