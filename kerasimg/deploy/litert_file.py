"""Read and edit .tflite files: operations, quantization, a final activation, appended metadata."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
    names = _operation_names()
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
    names = _operation_names()
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


def order_outputs(content: bytes, names: Sequence[str]) -> bytes:
    """Returns the model with its outputs in the order of these names, by which its signature knows them.

    The converter sorts them.
    """
    model = _read(content)
    graph = model.subgraphs[0]
    for signature in model.signatureDefs or ():
        places = {output.name.decode(): output for output in signature.outputs}
        signature.outputs = [places[name] for name in names]
        graph.outputs = np.array([output.tensorIndex for output in signature.outputs], "i4")
        for output in signature.outputs:
            graph.tensors[output.tensorIndex].name = output.name
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
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for graph in model.subgraphs:
        graph.operators = graph.operators or []  # None in a model that only hands on its input
    model.operatorCodes = model.operatorCodes or []
    return model


def _write(model: Any) -> bytes:
    builder = _Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _schema() -> Any:
    """Returns the generated schema classes from TensorFlow."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


class FloatGraph:
    """The graph of a float32 model with ranges, to be quantized: its layers with weights, and the ranges of its values.

    Args:
        content: a .tflite file in which each value has a minimum and a maximum.
    """

    def __init__(self, content: bytes) -> None:
        self._model = _read(content)
        self._graph = self._model.subgraphs[0]
        names = _operation_names()
        self._kinds = [names[self._model.operatorCodes[each.opcodeIndex].builtinCode] for each in self._graph.operators]
        self.count = len(self._kinds)
        """Number of operations."""
        self.outputs = [int(place) for place in self._graph.outputs]
        """Indices of the output values."""
        self.layers = [place for place, kind in enumerate(self._kinds) if kind in WEIGHTED and self._is_plain(place)]
        """Places of the operations with constant float32 weights."""

    def _is_plain(self, place: int) -> bool:
        """Whether the weights are constant and of this operation alone."""
        index = self._graph.operators[place].inputs[1]
        tensor = self._graph.tensors[index]
        used = sum(index in (each.inputs if each.inputs is not None else ()) for each in self._graph.operators)
        data = self._model.buffers[tensor.buffer].data
        shared = sum(each.buffer == tensor.buffer for each in self._graph.tensors)
        kind = self._kinds[place]
        # A grouped convolution has fewer input channels in its weights than in its input.
        grouped = kind == "CONV_2D" and self._graph.tensors[self.input(place)].shape[-1] != tensor.shape[-1]
        return (
            data is not None
            and len(data) > 0
            and tensor.type == _schema().TensorType.FLOAT32
            and used == shared == 1
            and not grouped
            and (kind != "DEPTHWISE_CONV_2D" or self._graph.tensors[self.input(place)].shape[-1] == tensor.shape[-1])
        )

    def name(self, place: int) -> str:
        """Returns the name of an operation's output, by which the converter knows the operation."""
        name: bytes = self._graph.tensors[self._graph.operators[place].outputs[0]].name
        return name.decode()

    def places(self, kinds: Collection[str]) -> list[int]:
        """Returns the places of all operations of some kinds."""
        return [place for place, kind in enumerate(self._kinds) if kind in kinds]

    def input(self, place: int) -> int:
        """Returns the index of an operation's first input."""
        return int(self._graph.operators[place].inputs[0])

    def weights_per_output(self, place: int) -> int:
        """Returns the number of weights of one output."""
        return int(self.weights(place).shape[-1])

    def weights(self, place: int) -> np.ndarray:
        """Returns the weights as (groups, outputs, K): one group, or one per channel of a depthwise convolution."""
        tensor = self._graph.tensors[self._graph.operators[place].inputs[1]]
        values = np.frombuffer(bytes(self._model.buffers[tensor.buffer].data), "<f4").reshape(tensor.shape)
        if self._kinds[place] == "DEPTHWISE_CONV_2D":
            return values.reshape(-1, values.shape[-1]).T[:, None]
        return values.reshape(1, len(values), -1)

    def patches(self, place: int, values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
        """Returns the inputs of some outputs, (groups, K, positions), as `weights` orders them.

        Args:
            place: of the operation.
            values: its first input.
            count: maximum number of positions.
            random: chooses the positions.
        """
        if self._kinds[place] == "FULLY_CONNECTED":
            return values.reshape(-1, values.shape[-1]).T[None]
        operator = self._graph.operators[place]
        options = operator.builtinOptions
        _, *kernel, _ = self._graph.tensors[operator.inputs[1]].shape
        strides = options.strideH, options.strideW
        dilations = options.dilationHFactor, options.dilationWFactor
        pads, sizes = [], []
        for size, taps, stride, dilation in zip(values.shape[1:3], kernel, strides, dilations, strict=True):
            reach = (int(taps) - 1) * dilation
            same = options.padding == _schema().Padding.SAME
            outputs = -(-size // stride) if same else (size - reach - 1) // stride + 1
            total = max(0, (outputs - 1) * stride + reach + 1 - size) if same else 0
            pads.append((total // 2, total - total // 2))
            sizes.append(outputs)
        padded = np.pad(values, ((0, 0), *pads, (0, 0)))
        every = len(values) * sizes[0] * sizes[1]
        chosen = np.arange(every) if every <= count else random.choice(every, count, replace=False)
        images, rows, columns = np.unravel_index(chosen, (len(values), *sizes))
        taps_ = [
            padded[images, rows * strides[0] + y * dilations[0], columns * strides[1] + x * dilations[1]]
            for y in range(int(kernel[0]))
            for x in range(int(kernel[1]))
        ]
        stacked = np.stack(taps_)  # (taps, positions, channels)
        if self._kinds[place] == "DEPTHWISE_CONV_2D":
            return stacked.transpose(2, 0, 1)
        return stacked.transpose(0, 2, 1).reshape(1, -1, len(chosen))

    def set_ranges(self, ranges: Mapping[int, tuple[float, float]]) -> None:
        """Replaces the ranges of values that have one."""
        for index, tensor in enumerate(self._graph.tensors):
            quantization = tensor.quantization
            if (
                index in ranges
                and quantization is not None
                and np.size(quantization.min if quantization.min is not None else ())
            ):
                quantization.min, quantization.max = ([value] for value in ranges[index])

    def with_weights(self, weights: Mapping[int, np.ndarray]) -> bytes:
        """Returns the file with other weights, given as `weights` returns them."""
        before = {}
        for place, values in weights.items():
            tensor = self._graph.tensors[self._graph.operators[place].inputs[1]]
            if self._kinds[place] == "DEPTHWISE_CONV_2D":
                values = values[:, 0].T
            buffer = self._model.buffers[tensor.buffer]
            before[tensor.buffer] = buffer.data
            buffer.data = np.frombuffer(np.ascontiguousarray(values, "<f4").tobytes(), np.uint8)
        content = _write(self._model)
        for number, data in before.items():
            self._model.buffers[number].data = data
        return content


WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operations whose second input is weights."""

COPYING = (
    *("BATCH_TO_SPACE_ND", "BROADCAST_TO", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER", "GATHER_ND", "MIRROR_PAD"),
    *("PAD", "RESHAPE", "REVERSE_V2", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQUEEZE"),
    *("STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK"),
)
"""Operations that copy bytes, so that input and output must have the same scale and zero point."""


def match_scales(content: bytes) -> bytes:
    """Returns an int8 model in which each copying operation gets its input in the scale of its output.

    The converter gives the two different scales if the range of one of them comes from another operation. LiteRT then
    computes with the wrong scale.
    """
    schema = _schema()
    model = _read(content)
    names = _operation_names()
    changed = False
    for graph in model.subgraphs:
        operators = []
        for operator in graph.operators:
            kind = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
            place = 1 if kind == "SPLIT" else 0
            if kind in COPYING:
                source, target = (graph.tensors[index] for index in (operator.inputs[place], operator.outputs[0]))
                if source.type == target.type and (scale := _scale(target)) is not None and _scale(source) != scale:
                    changed = True
                    tensor = schema.TensorT()
                    for name in ("shape", "shapeSignature", "type", "hasRank"):
                        setattr(tensor, name, getattr(source, name))
                    tensor.name, tensor.buffer, tensor.quantization = source.name + b"_scaled", 0, target.quantization
                    graph.tensors.append(tensor)
                    code = schema.OperatorCodeT()
                    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
                    code.version = 2
                    model.operatorCodes.append(code)
                    requantize = schema.OperatorT()
                    requantize.opcodeIndex = len(model.operatorCodes) - 1
                    requantize.inputs = np.array([operator.inputs[place]], "i4")
                    requantize.outputs = np.array([len(graph.tensors) - 1], "i4")
                    operators.append(requantize)
                    operator.inputs = operator.inputs.copy()
                    operator.inputs[place] = len(graph.tensors) - 1
            operators.append(operator)
        graph.operators = operators
    return _write(model) if changed else content


def _scale(tensor: Any) -> tuple[float, int] | None:
    """Returns the scale and zero point of a value; None if it is not quantized, or per channel."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return None
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def _operation_names() -> dict[int, str]:
    return {number: name for name, number in vars(_schema().BuiltinOperator).items() if not name.startswith("_")}
