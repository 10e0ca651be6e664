"""Writes docs/export-support.md: every layer and activation that a spec may name, in every export and precision.

`python docs/make_export_support.py [--only Conv2D gelu ...] [--seconds 600]`. Each layer is built alone with random
weights, written for each target, run by the target's own runtime and compared with Keras. A layer that was not
reached within the seconds has no row, and the page names it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from kerasimg.deploy.quiet import silence
from kerasimg.deploy.targets import litert, onnx, openvino
from kerasimg.deploy.unsupported import cause, signature_of
from kerasimg.objects import make_layer
from kerasimg.spec import arguments

PAGE = Path(__file__).parent / "export-support.md"
IMAGE, TOKENS, VOLUME, VECTOR = (8, 8, 4), (8, 4), (6, 6, 6, 4), (6,)

SAMPLES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "ClassToken": ({}, TOKENS),
    "CosineHead": ({"units": 3}, VECTOR),
    "CutMix": ({}, IMAGE),
    "Dense": ({"units": 3}, VECTOR),
    "Dot": ({"axes": 2}, TOKENS),
    "EinsumDense": ({"equation": "abc,cd->abd", "output_shape": [None, 3]}, TOKENS),
    "Maxout": ({"pieces": 2}, TOKENS),
    "PositionEmbedding": ({}, TOKENS),
    "RepeatVector": ({"n": 2}, VECTOR),
    "SequencePooling": ({}, TOKENS),
    "TakeToken": ({}, TOKENS),
    "Attention": ({}, TOKENS),
    "AdditiveAttention": ({}, TOKENS),
    "GroupQueryAttention": ({"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1}, TOKENS),
    "MultiHeadAttention": ({"num_heads": 2, "key_dim": 2}, TOKENS),
    "Permute": ({"dims": [3, 1, 2]}, IMAGE),
    "Reshape": ({"target_shape": [16, 16]}, IMAGE),
    "Normalization": ({"mean": [0.1] * 4, "variance": [2.0] * 4}, IMAGE),
    "WindowAttention": ({"num_heads": 2, "window_size": 4}, IMAGE),
    "GroupNormalization": ({"groups": 2}, IMAGE),
    "RandomPosterization": ({"factor": 4}, (8, 8, 3)),
    "PatchEmbed": ({"units": 4, "patch_size": 4}, IMAGE),
}
"""Layer -> its arguments and the shape of its input; the others are made of USUAL and of their number of dimensions."""

USUAL = {
    "filters": 4,
    "kernel_size": 3,
    "pool_size": 2,
    "output_size": 2,
    "units": 3,
    "rate": 0.3,
    "stddev": 0.1,
    "height": 5,
    "width": 5,
    "groups": 2,
    "factor": 0.2,
    "height_factor": 0.2,
    "width_factor": 0.2,
    "scale": 0.5,
    "activation": "relu",
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "Conv1D": [{"groups": 2}],
    "Conv2D": [{"groups": 2}, {"dilation_rate": 2}, {"groups": 2, "dilation_rate": 2}],
    "Conv3D": [{"groups": 2}],
    "DepthwiseConv2D": [{"dilation_rate": 2}],
    "Resizing": [
        {"interpolation": "nearest"},
        {"interpolation": "bicubic"},
        {"interpolation": "lanczos3"},
        {"interpolation": "lanczos5"},
        {"antialias": True},
    ],
    "UpSampling2D": [{"interpolation": name} for name in ("bilinear", "bicubic", "lanczos3", "lanczos5")],
}
"""Layer -> arguments that change the operation that it computes with."""

INTEGERS = ("Embedding", "ReversibleEmbedding")
"""Layers of which no image model has a use: their input is indices."""

COLUMNS = (
    *(f"litert {precision}" for precision in ("float32", "float16", "dynamic", "int8")),
    *("onnx float32", "openvino float32", "openvino float16", "savedmodel float32"),
)
ALLOWED = {"float32": 1e-4, "float16": 0.02, "dynamic": 0.1, "int8": 0.1}
"""Greatest difference that counts as right, as a share of the greatest value of the output."""


def models(only: list[str] | None = None) -> Iterator[tuple[str, Callable[[], keras.Model]]]:
    """The name of each row, and what makes its model of one layer; augmentation comes last."""
    for name in arguments.known("activations"):
        if not only or name in only:
            yield f"activation {name}", partial(_of_layer, "Activation", {"activation": name})
    for name in sorted(arguments.known("layers"), key=_is_augmentation):
        if name in INTEGERS or (only and name not in only):
            continue
        for variant in ({}, *VARIANTS.get(name, [])):
            said = ", ".join(f"{key}={value}" for key, value in variant.items())
            yield f"{name}({said})" if said else name, partial(_of_layer, name, variant)


def _is_augmentation(name: str) -> bool:
    return bool((arguments.entry("layers", name) or {}).get("augment"))


def _of_layer(name: str, variant: dict[str, Any]) -> keras.Model:
    entry = arguments.entry("layers", name) or {"args": {}}
    rank = next((int(digit) for digit in "123" if f"{digit}D" in name), 2)
    given, shape = SAMPLES.get(name, ({}, {1: TOKENS, 2: IMAGE, 3: VOLUME}[rank]))
    if _is_augmentation(name):
        shape = (8, 8, 3)
    required = {key: USUAL[key] for key, takes in entry["args"].items() if takes.get("required") and key not in given}
    layer = make_layer(name, {**required, **given, **variant}, "layer")
    inputs = keras.Input(shape)
    if entry.get("merge"):
        outputs = layer([inputs, keras.layers.Rescaling(0.5)(inputs)])
    elif "query" in entry.get("inputs", ()):
        outputs = layer(inputs, inputs)
    else:
        outputs = layer(inputs)
    # Some augmentation gives its own input back.
    model = keras.Model(inputs, keras.layers.Identity()(outputs))
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(0.1, 0.6, weight.shape) for weight in model.weights])
    return model


def row(model: keras.Model, columns: Sequence[str] = COLUMNS) -> dict[str, tuple[float | None, str]]:
    """Column -> the greatest difference from Keras, or None and why there is none."""
    values = np.random.default_rng(1).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    expected = np.asarray(model(values, training=False))
    found: dict[str, tuple[float | None, str]] = {}
    for column in columns:
        target, precision = column.split()
        try:
            with silence(lambda error: True):
                given = RUNNERS[target](model, precision, values)
        except Exception as error:  # each converter has its own
            found[column] = None, cause(error)
            continue
        difference = float(np.abs(given - expected).max()) if given.shape == expected.shape else np.inf
        limit = ALLOWED[precision] * max(1.0, float(np.abs(expected).max()))
        found[column] = difference, "" if difference <= limit else f"differs by {difference:.2g}"
    return found


def _litert(model: keras.Model, precision: Any, values: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    settings = litert.settings_of(precision, lambda: iter(values[:, np.newaxis]))
    interpreter = Interpreter(model_content=litert.written(model, signature_of(model), settings))
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], values.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], values)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(given["index"]))


def _onnx(model: keras.Model, precision: Any, values: np.ndarray) -> np.ndarray:
    import onnxruntime

    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        onnx.convert(model, signature_of(model), path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {session.get_inputs()[0].name: values})[0])


def _openvino(model: keras.Model, precision: Any, values: np.ndarray) -> np.ndarray:
    import openvino as runtime

    with TemporaryDirectory() as scratch:
        converted = openvino.convert(model, signature_of(model), scratch)
        path = Path(scratch) / "model.xml"
        runtime.save_model(converted, path, compress_to_fp16=precision == "float16")
        compiled = runtime.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.array(compiled([values])[0])


def _savedmodel(model: keras.Model, precision: Any, values: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    with TemporaryDirectory() as scratch:
        model.export(scratch, format="tf_saved_model", input_signature=signature_of(model), verbose=False)
        loaded = tf.saved_model.load(scratch)  # by a name, or its variables are gone before it is called
        return np.asarray(loaded.serve(values))


RUNNERS = {"litert": _litert, "onnx": _onnx, "openvino": _openvino, "savedmodel": _savedmodel}


def page(rows: dict[str, dict[str, tuple[float | None, str]]], missing: list[str]) -> str:
    """The page, as Markdown."""
    notes: dict[str, list[str]] = {}
    lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, found in rows.items():
        cells = []
        for column, (difference, fault) in found.items():
            if fault:
                notes.setdefault(f"`{name}`: {fault}", []).append(column)
            cells.append("refused" if difference is None else f"{difference:.0e}" + (" (!)" if fault else ""))
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    reasons = [f"- {', '.join(columns)}: {sentence}." for sentence, columns in notes.items()]
    cells = [cell for found in rows.values() for cell in found.values()]
    refused = sum(difference is None for difference, _ in cells)
    wrong = sum(difference is not None and bool(fault) for difference, fault in cells)
    text = HEAD + f"{len(rows)} rows, {len(cells)} exports: {len(cells) - refused - wrong} right, {refused} refused, "
    text += f"{wrong} that differ by more than is allowed, marked (!).\n\n" + "\n".join(lines)
    text += "\n\n## Refused, or different\n\n" + ("\n".join(reasons) or "None.") + "\n"
    if missing:
        text += "\n## Not run\n\n" + ", ".join(f"`{name}`" for name in missing) + "\n"
    return text


HEAD = """# What each export can do

Written by `tox -e exports` (`docs/make_export_support.py`). Each layer and each activation that a spec may name, alone,
with random weights: the greatest difference from Keras on two inputs of normal values, in the target's own runtime; or
`refused`, with the reason below. Augmentation does nothing in an export. `keras` is the model itself, `web` and
`embedded` take the file of `litert`. Allowed is 1e-4 of the greatest value in float32, 2 % in float16, 10 % in dynamic
and int8.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="layers and activations; all are written otherwise")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no row after this time")
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    rows, missing = {}, []
    for name, make in models(given.only):
        if time.monotonic() > end:
            missing.append(name)
            continue
        rows[name] = row(make())
        print(
            name,
            *(f"{column}: {fault}" for column, (_, fault) in rows[name].items() if fault),
            sep="\n    ",
            flush=True,
        )
        keras.utils.clear_session()
        given.out.write_text(page(rows, []), encoding="utf-8")
    given.out.write_text(page(rows, missing), encoding="utf-8")


if __name__ == "__main__":
    main()
