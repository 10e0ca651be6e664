"""Generate the C and C++ files of an embedded bundle from the templates in `source/`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

import numpy as np

from kerasimg.deploy.bundle import Vector
from kerasimg.spec.document import Image, Task

GUARD = "/* Written by kerasimg. */\n#ifndef KERASIMG_{name}_H_\n#define KERASIMG_{name}_H_\n\n{body}\n#endif\n"
LINKED = '#ifdef __cplusplus\nextern "C" {{\n#endif\n\n{body}\n#ifdef __cplusplus\n}}\n#endif\n'

SPECIAL = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
"""Operations whose resolver method in TensorFlow Lite Micro does not follow the rule of `method`."""


def preprocess_h(name: str, image: Image) -> str:
    """Returns `preprocess.h` with the constants of the image section."""
    red, green, blue = image.background
    return _fill_template(
        "preprocess.h",
        name=_in_comment(name),
        height=image.size[0],
        width=image.size[1],
        channels=image.channels,
        resize=image.resize.upper(),
        resized_height=image.resized[0],
        resized_width=image.resized[1],
        filter=image.interpolation.upper(),
        red=red,
        green=green,
        blue=blue,
    )


def preprocess_c() -> str:
    """Returns `preprocess.c`, which is the same for every model."""
    return _source("preprocess.c")


def classes_h(classes: Sequence[str], task: Task, thresholds: Sequence[float] | None) -> str:
    """Returns `classes.h`: class names in the order of the outputs, and the decision thresholds if the task has any."""
    outputs = 1 if task == "binary" else len(classes)
    names = ",\n".join(f"    {_quote(name)}" for name in classes)
    body = (
        f"#define KERASIMG_CLASSES {len(classes)}\n"
        f"#define KERASIMG_OUTPUTS {outputs}\n\n"
        "/* UTF-8, in the order of the outputs"
        + ("; the one output is the probability of the second" if task == "binary" else "")
        + f". */\nstatic const char *const kerasimg_classes[KERASIMG_CLASSES] = {{\n{names},\n}};\n"
    )
    if task != "multiclass":
        limits = ", ".join(
            f"{value:.9g}f" if "." in f"{value:.9g}" else f"{value:.1f}f" for value in thresholds or [0.5] * outputs
        )
        body += (
            "\n/* Decision thresholds: a label is assigned if its output exceeds this. */\n"
            f"static const float kerasimg_thresholds[KERASIMG_OUTPUTS] = {{{limits}}};\n"
        )
    return GUARD.format(name="CLASSES", body=body)


def model_data_h(content: bytes, arena_bytes: int, measured_bytes: int) -> str:
    """Returns `model_data.h`: the sizes of the model and its arena."""
    declared = (
        "/* The .tflite file, aligned to 16 bytes. */\nextern const uint8_t kerasimg_model[KERASIMG_MODEL_BYTES];\n"
    )
    body = (
        "#include <stdint.h>\n\n"
        f"#define KERASIMG_MODEL_BYTES {len(content)}\n\n"
        f"/* Working memory: {measured_bytes} bytes with the reference kernels on a 64-bit machine, plus 10 %. */\n"
        f"#define KERASIMG_ARENA_BYTES {arena_bytes}\n\n"
    ) + LINKED.format(body=declared)
    return GUARD.format(name="MODEL_DATA", body=body)


def model_data_cc(content: bytes) -> str:
    """Returns `model_data.cc`: the model as a constant array."""
    return (
        "// Written by kerasimg.\n"
        '#include "model_data.h"\n\n'
        "alignas(16) extern const uint8_t kerasimg_model[KERASIMG_MODEL_BYTES] = {\n"
        f"{_numbers(content)}\n}};\n"
    )


def vectors_h(count: int) -> str:
    """Returns `test_vectors.h`."""
    body = (
        '#include "classes.h"\n#include "preprocess.h"\n\n'
        + f"#define KERASIMG_VECTORS {count}\n\n"
        + LINKED.format(
            body=(
                "/* Preprocessed pixels of the images, 0-255. */\n"
                "extern const uint8_t kerasimg_pixels[KERASIMG_VECTORS][KERASIMG_INPUT_BYTES];\n"
                "/* Outputs of this int8 model on the reference kernels. */\n"
                "extern const float kerasimg_probabilities[KERASIMG_VECTORS][KERASIMG_OUTPUTS];\n"
            )
        )
    )
    return GUARD.format(name="TEST_VECTORS", body=body)


def vectors_cc(vectors: Sequence[Vector], probabilities: np.ndarray) -> str:
    """Returns `test_vectors.cc`; `probabilities` are the outputs (N, K) of the simulated model."""
    pixels = ",\n".join(
        f"    // {_in_comment(vector.name)}\n    {{\n{_numbers(vector.pixels.tobytes())}\n    }}" for vector in vectors
    )
    outputs = ",\n".join("    {" + ", ".join(f"{value:.8e}f" for value in row) + "}" for row in probabilities)
    return (
        "// Written by kerasimg.\n"
        '#include "test_vectors.h"\n\n'
        f"extern const uint8_t kerasimg_pixels[KERASIMG_VECTORS][KERASIMG_INPUT_BYTES] = {{\n{pixels},\n}};\n\n"
        f"extern const float kerasimg_probabilities[KERASIMG_VECTORS][KERASIMG_OUTPUTS] = {{\n{outputs},\n}};\n"
    )


def main_cc(name: str, operations: Iterable[str]) -> str:
    """Returns `main.cc`, which registers the model's operations (names of TensorFlow Lite)."""
    methods = sorted({method(operation) for operation in operations})
    lines = "\n".join(f"  TF_LITE_ENSURE_STATUS(operations.{method}());" for method in methods)
    return _fill_template("main.cc", name=_in_comment(name), operation_count=len(methods), operations=lines)


def method(operation: str) -> str:
    """Returns the resolver's method for an operation: "MAX_POOL_2D" -> "AddMaxPool2D"."""
    words = "".join(word if word[0].isdigit() else word.capitalize() for word in operation.split("_"))
    return f"Add{SPECIAL.get(operation, words)}"


def _fill_template(source: str, **known: object) -> str:
    values: Mapping[str, object] = known
    return re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), _source(source))


def _source(name: str) -> str:
    return (files("kerasimg.deploy.embedded") / "source" / name).read_text(encoding="utf-8")


def _numbers(content: bytes) -> str:
    return "\n".join(
        "    " + " ".join(f"{byte}," for byte in content[start : start + 24]) for start in range(0, len(content), 24)
    )


def _quote(text: str) -> str:
    """Returns a C string literal in UTF-8; octal escapes have three digits, so a digit can follow."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _in_comment(text: str) -> str:
    """Replaces characters that could end a comment or a line."""
    return re.sub(r"[^\w .,:;()+=/-]", "_", text, flags=re.ASCII).replace("*/", "__").replace("/*", "__")
