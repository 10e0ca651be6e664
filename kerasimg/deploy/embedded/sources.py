"""The C and C++ files of an embedded bundle, from their patterns in `source/` and a model's figures."""

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
"""Operations whose method of TensorFlow Lite Micro's resolver is not named by the rule of `method`."""


def preprocess_h(name: str, image: Image) -> str:
    """`preprocess.h`, with the image section in it."""
    red, green, blue = image.background
    return _filled(
        "preprocess.h",
        name=_in_comment(name),
        height=image.size[0],
        width=image.size[1],
        channels=image.channels,
        resize=image.resize.upper(),
        filter=image.interpolation.upper(),
        red=red,
        green=green,
        blue=blue,
    )


def preprocess_c() -> str:
    """`preprocess.c`, the same for every model."""
    return _source("preprocess.c")


def classes_h(classes: Sequence[str], task: Task, thresholds: Sequence[float] | None) -> str:
    """`classes.h`: the names in the order of the outputs, and what a probability must exceed where that matters."""
    outputs = 1 if task == "binary" else len(classes)
    names = ",\n".join(f"    {_quoted(name)}" for name in classes)
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
            "\n/* An output must exceed this to be decided for. */\n"
            f"static const float kerasimg_thresholds[KERASIMG_OUTPUTS] = {{{limits}}};\n"
        )
    return GUARD.format(name="CLASSES", body=body)


def model_data_h(content: bytes, arena_bytes: int, measured_bytes: int) -> str:
    """`model_data.h`: the model's size, and the arena that it needs."""
    declared = (
        "/* The .tflite file, aligned to 16 bytes. */\nextern const uint8_t kerasimg_model[KERASIMG_MODEL_BYTES];\n"
    )
    body = (
        "#include <stdint.h>\n\n"
        f"#define KERASIMG_MODEL_BYTES {len(content)}\n\n"
        f"/* Working memory: {measured_bytes} bytes by the reference kernels on a 64-bit machine, and a tenth. */\n"
        f"#define KERASIMG_ARENA_BYTES {arena_bytes}\n\n"
    ) + LINKED.format(body=declared)
    return GUARD.format(name="MODEL_DATA", body=body)


def model_data_cc(content: bytes) -> str:
    """`model_data.cc`: the model as an array in read-only memory."""
    return (
        "// Written by kerasimg.\n"
        '#include "model_data.h"\n\n'
        "alignas(16) extern const uint8_t kerasimg_model[KERASIMG_MODEL_BYTES] = {\n"
        f"{_numbers(content)}\n}};\n"
    )


def vectors_h(count: int) -> str:
    """`test_vectors.h`."""
    body = (
        '#include "classes.h"\n#include "preprocess.h"\n\n'
        + f"#define KERASIMG_VECTORS {count}\n\n"
        + LINKED.format(
            body=(
                "/* What preprocessing makes of the images, 0-255. */\n"
                "extern const uint8_t kerasimg_pixels[KERASIMG_VECTORS][KERASIMG_INPUT_BYTES];\n"
                "/* What this int8 model says of them on the reference kernels. */\n"
                "extern const float kerasimg_probabilities[KERASIMG_VECTORS][KERASIMG_OUTPUTS];\n"
            )
        )
    )
    return GUARD.format(name="TEST_VECTORS", body=body)


def vectors_cc(vectors: Sequence[Vector], probabilities: np.ndarray) -> str:
    """`test_vectors.cc`.  probabilities: (N, K), of the simulated model."""
    pixels = ",\n".join(
        f"    // {_in_comment(one.name)}\n    {{\n{_numbers(one.pixels.tobytes())}\n    }}" for one in vectors
    )
    told = ",\n".join("    {" + ", ".join(f"{value:.8e}f" for value in row) + "}" for row in probabilities)
    return (
        "// Written by kerasimg.\n"
        '#include "test_vectors.h"\n\n'
        f"extern const uint8_t kerasimg_pixels[KERASIMG_VECTORS][KERASIMG_INPUT_BYTES] = {{\n{pixels},\n}};\n\n"
        f"extern const float kerasimg_probabilities[KERASIMG_VECTORS][KERASIMG_OUTPUTS] = {{\n{told},\n}};\n"
    )


def main_cc(name: str, operations: Iterable[str]) -> str:
    """`main.cc`.  operations: TensorFlow Lite's names of what the model computes with."""
    known = sorted({method(operation) for operation in operations})
    lines = "\n".join(f"  TF_LITE_ENSURE_STATUS(operations.{one}());" for one in known)
    return _filled("main.cc", name=_in_comment(name), operation_count=len(known), operations=lines)


def method(operation: str) -> str:
    """The resolver's method that adds an operation: "MAX_POOL_2D" -> "AddMaxPool2D"."""
    words = "".join(word if word[0].isdigit() else word.capitalize() for word in operation.split("_"))
    return f"Add{SPECIAL.get(operation, words)}"


def _filled(source: str, **known: object) -> str:
    values: Mapping[str, object] = known
    return re.sub(r"@(\w+)@", lambda found: str(values[found[1]]), _source(source))


def _source(name: str) -> str:
    return (files("kerasimg.deploy.embedded") / "source" / name).read_text(encoding="utf-8")


def _numbers(content: bytes) -> str:
    return "\n".join(
        "    " + " ".join(f"{byte}," for byte in content[start : start + 24]) for start in range(0, len(content), 24)
    )


def _quoted(text: str) -> str:
    """A C string of the text's UTF-8; octal takes three digits, so that no digit after it is taken for a part."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _in_comment(text: str) -> str:
    """Text that ends neither a comment nor a line."""
    return re.sub(r"[^\w .,:;()+=/-]", "_", text, flags=re.ASCII).replace("*/", "__").replace("/*", "__")
