"""Writes docs/export-support.md: every layer, activation and zoo spec, exported to every target.

`python docs/make_export_support.py [--only Conv2D gelu vit ...] [--targets litert onnx ...] [--workers 2] [--again]`.
Each layer is built alone with random weights, exported to each target, run by the target's runtime and compared with
Keras; so is each zoo spec, at the smallest size that it allows. Every row is saved in export-support.json at once, and
an interrupted run continues from there.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasimg
from kerasimg.deploy.export_context import Options
from kerasimg.deploy.logits import logits_model
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.runtimes import NotHere
from kerasimg.deploy.targets import target, targets
from kerasimg.deploy.unsupported import cause
from kerasimg.objects import make_layer
from kerasimg.spec import arguments

PAGE = Path(__file__).parent / "export-support.md"
ROWS = Path(__file__).parent / "export-support.json"
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
    "SelfAttention": ({"num_heads": 1, "grid": [2, 4]}, TOKENS),
    "AttentionPooling": ({"num_heads": 2}, TOKENS),
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
"""Layer -> arguments and input shape; other layers use USUAL and the shape for their number of dimensions."""

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
    "SelfAttention": [{"rope": "eva02"}, {"rope": "dinov3"}, {"position_bias": True}, {"qk_norm": True}],
    "UpSampling2D": [{"interpolation": name} for name in ("bilinear", "bicubic", "lanczos3", "lanczos5")],
}
"""Layer -> arguments that change the operations of an export."""

INTEGERS = ("Embedding", "ReversibleEmbedding")
"""Layers whose inputs are indices, which image models do not use."""

DISCONTINUOUS = ("activation hard_shrink",)
"""Discontinuous functions: an int8 value within one step of the threshold may be on its other side."""

SMALL: dict[str, dict[str, Any]] = runpy.run_path(str(Path(__file__).parents[1] / "tests/contract/test_zoo.py"))[
    "SMALL"
]
"""Zoo spec -> params for a small model, from the tests of the zoo."""

HIDDEN = ("embedded", "keras", "ncnn", "web")
"""Targets without a column: `keras` is the model itself; `web` and `embedded` use the file of `litert`; NCNN and its
converter fail at many layers."""

ALLOWED = {"float32": 1e-4, "float16": 0.02, "int16": 0.02, "dynamic": 0.1, "int8": 0.1, "int4": 0.2}
"""Largest difference that counts as correct, as a share of the largest output."""

ZOO = "zoo "
"""Prefix of the rows of zoo specs."""
ZOO_COLUMNS = ("litert float32", "litert int8", "onnx float32", "openvino float32")

Cell = tuple[float | None, str]
"""Largest difference from Keras, or None; and the fault, or an empty string."""


def columns() -> list[str]:
    """Target and precision of each column: every installed target except HIDDEN."""
    return [
        f"{each.name} {precision}"
        for each in targets()
        if each.name not in HIDDEN and not each.missing()
        for precision in each.precisions
    ]


def columns_of(row: str, only: list[str] | None = None) -> list[str]:
    """Returns the columns of a row, for all or some targets."""
    every = ZOO_COLUMNS if row.startswith(ZOO) else columns()
    return [column for column in every if not only or column.split()[0] in only]


def models(only: list[str] | None = None) -> Iterator[tuple[str, Callable[[], keras.Model]]]:
    """Yields the name of each row and the function that builds its model; augmentation comes last."""
    for name in arguments.known("activations"):
        if not only or name in only:
            yield f"activation {name}", partial(_of_layer, "Activation", {"activation": name})
    for name in sorted(arguments.known("layers"), key=_is_augmentation):
        if name in INTEGERS or (only and name not in only):
            continue
        for variant in ({}, *VARIANTS.get(name, [])):
            shown = ", ".join(f"{key}={value}" for key, value in variant.items())
            yield f"{name}({shown})" if shown else name, partial(_of_layer, name, variant)


def _is_augmentation(name: str) -> bool:
    return bool((arguments.entry("layers", name) or {}).get("augment"))


def _of_layer(name: str, variant: dict[str, Any]) -> keras.Model:
    entry = arguments.entry("layers", name) or {"args": {}}
    rank = next((int(digit) for digit in "123" if f"{digit}D" in name), 2)
    sample, shape = SAMPLES.get(name, ({}, {1: TOKENS, 2: IMAGE, 3: VOLUME}[rank]))
    if _is_augmentation(name):
        shape = (8, 8, 3)
    required = {key: USUAL[key] for key, takes in entry["args"].items() if takes.get("required") and key not in sample}
    layer = make_layer(name, {**required, **sample, **variant}, "layer")
    inputs = keras.Input(shape)
    if entry.get("merge"):
        outputs = layer([inputs, keras.layers.Rescaling(0.5)(inputs)])
    elif "query" in entry.get("inputs", ()):
        outputs = layer(inputs, inputs)
    else:
        outputs = layer(inputs)
    # Some augmentation layers return their own input.
    model = keras.Model(inputs, keras.layers.Identity()(outputs))
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(0.1, 0.6, weight.shape) for weight in model.weights])
    # As `inference_model` does: augmentation layers default to training=True.
    inputs = keras.Input(shape)
    return keras.Model(inputs, model(inputs, training=False))


def layer_row(name: str, make: Callable[[], keras.Model], chosen: list[str]) -> dict[str, Cell]:
    """Compares each column with Keras on two normally distributed inputs."""
    model = make()
    values = np.random.default_rng(1).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    exact = np.asarray(model(values, training=False))[np.newaxis]
    step = np.ptp(values) / 255 if name in DISCONTINUOUS else 0
    rounded = np.stack([np.asarray(model(values + shift, training=False)) for shift in (-step, 0, step)])
    return {column: compare(model, column, values, rounded if column.endswith("int8") else exact) for column in chosen}


def zoo_row(name: str, chosen: list[str]) -> dict[str, Cell]:
    """Compares each column with the logits of a zoo spec with random weights; int8 is calibrated on eight images."""
    model = kerasimg.build(name, weights=None, params={"num_classes": 3, **SMALL[name]})
    random = np.random.default_rng(0)
    # Some heads start at zero; logits of zero would hide differences.
    model.set_weights([value if value.any() else random.normal(0, 0.02, value.shape) for value in model.get_weights()])
    logits = logits_model(model, 1.0, kerasimg.load(name).task)[0]
    values = np.random.default_rng(1).uniform(0, 255, (8, *model.input_shape[1:])).astype(np.float32)
    expected = np.asarray(logits(values, training=False))[np.newaxis]
    return {column: compare(logits, column, values, expected) for column in chosen}


def compare(model: keras.Model, column: str, values: np.ndarray, expected: np.ndarray) -> Cell:
    """Compares the outputs of an exported model in the target's runtime with the nearest of the expected outputs."""
    name, precision = column.split()
    chosen = target(name)
    try:
        with silence(lambda error: True), TemporaryDirectory() as folder:
            path = Path(folder) / chosen.path_of(precision)
            chosen.convert_model(model, path, precision, Options(), [values])
            file = ModelFile(
                path=path.name,
                runtime=chosen.runtime.kind,
                precision=precision,
                input_dtype="float32",
                batch=len(values),
            )
            runtime = chosen.runtime(path, file)
            given = runtime.run(values)
            outputs = np.array(given[0] if isinstance(given, list | tuple) else given)
            runtime.close()
    except NotHere:
        return None, ""
    except Exception as error:  # each converter has its own exceptions
        return None, cause(error)
    if outputs.shape != expected.shape[1:]:
        return None, f"returns the shape {outputs.shape}, Keras {expected.shape[1:]}"
    difference = float(np.abs(outputs - expected).min(0).max())
    limit = ALLOWED[precision] * max(1.0, float(np.abs(expected).max()))
    return difference, "" if difference <= limit else f"differs by {difference:.2g}"


def page(rows: dict[str, dict[str, Cell]], missing: list[str]) -> str:
    """Returns the page as Markdown."""
    layers = {name: cells for name, cells in rows.items() if not name.startswith(ZOO)}
    zoo = {name.removeprefix(ZOO): cells for name, cells in rows.items() if name.startswith(ZOO)}
    return (
        HEAD
        + _table(layers, "layers and activations")
        + "\n## Zoo specs\n\n"
        + ZOO_HEAD
        + "".join(map(partial(_count, zoo), ZOO_COLUMNS))
        + "\n"
        + _table(zoo, "zoo specs")
        + ("\n## Not run\n\n" + ", ".join(f"`{name}`" for name in missing) + "\n" if missing else "")
    )


def _count(zoo: dict[str, dict[str, Cell]], column: str) -> str:
    cells = [each[column] for each in zoo.values() if column in each]
    correct = sum(difference is not None and not fault for difference, fault in cells)
    return f"- {column}: {correct} of {len(cells)} specs are correct\n"


def _table(rows: dict[str, dict[str, Cell]], kind: str) -> str:
    if not rows:
        return "Not run yet.\n"
    notes: dict[tuple[str, str], list[str]] = {}
    names = [column for column in (*columns(), *ZOO_COLUMNS) if any(column in cells for cells in rows.values())]
    names = list(dict.fromkeys(names))
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for name, cells in rows.items():
        shown = []
        for column in names:
            if column not in cells:
                shown.append("not run")
                continue
            difference, fault = cells[column]
            if fault:
                notes.setdefault((name, fault), []).append(column)
            exact = "written" if not fault else "refused"
            shown.append(exact if difference is None else f"{difference:.0e}" + (" (!)" if fault else ""))
        lines.append(f"| `{name}` | " + " | ".join(shown) + " |")
    cells = [cell for each in rows.values() for cell in each.values()]
    written = sum(difference is None and not fault for difference, fault in cells)
    refused = sum(difference is None and bool(fault) for difference, fault in cells)
    wrong = sum(difference is not None and bool(fault) for difference, fault in cells)
    text = (
        f"{len(rows)} {kind}, {len(cells)} exports: {len(cells) - written - refused - wrong} correct, "
        f"{written} written and not run, {refused} refused, {wrong} that differ by more than the tolerance, marked "
        "(!).\n\n"
    )
    text += "\n".join(lines) + "\n\nRefused, or different:\n\n"
    listed = [f"- `{name}`, {', '.join(names)}: {fault}." for (name, fault), names in notes.items()]
    return text + ("\n".join(listed) or "None.") + "\n"


HEAD = """# What each export can do

```console
$ kerasimg export runs/simple_cnn-1 --to litert
...
saved in runs/simple_cnn-1/export/litert
Next: kerasimg run verify runs/simple_cnn-1/export/litert
```

An export of your model is compared with it each time, as above ([how](export.md)). This page does the same for each
layer.

Written by `tox -e exports` (`docs/make_export_support.py`). Each layer and activation is exported alone, with random
weights. A cell shows the largest difference from Keras on two normally distributed inputs, in the target's runtime; or
`refused`, with the reason below the table; or `written`, if the runtime only exists on another system. Augmentation
layers do nothing in an export. `keras` is the model itself; `web` and `embedded` use the file of `litert`. The
tolerance is 1e-4 of the largest output in float32, 2 % in float16 and int16, 10 % in dynamic and int8, 20 % in int4.
`hard_shrink` is discontinuous: in int8, a value within one step of its threshold may be on either side. `ncnn` has no
column: its converter and NCNN fail at many layers. What it computes for a model is compared as for every target.

"""
ZOO_HEAD = """Every zoo spec with random weights, at the smallest size that it allows: the largest difference of a
logit. int8 is calibrated on eight images of noise.

"""


def names(only: list[str] | None = None) -> list[str]:
    """Returns the names of all rows, in the order of the page."""
    zoo = [f"{ZOO}{name}" for name in SMALL if not only or name in only]
    return [name for name, _ in models(only)] + zoo


def work(rows: list[str], only: list[str] | None, saved: dict[str, dict[str, Cell]]) -> None:
    """Prints the cells of each row that are not saved as a line of JSON."""
    builders = dict(models())
    for name in rows:
        chosen = [column for column in columns_of(name, only) if column not in saved.get(name, {})]
        zoo = name.startswith(ZOO)
        cells = zoo_row(name.removeprefix(ZOO), chosen) if zoo else layer_row(name, builders[name], chosen)
        print(json.dumps([name, cells]), flush=True)
        keras.utils.clear_session()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="layers, activations and zoo specs; default: all")
    parser.add_argument("--targets", nargs="+", help="only the columns of these targets; default: all installed ones")
    parser.add_argument("--workers", type=int, default=2, help="processes; default: %(default)s")
    parser.add_argument("--again", action="store_true", help="compute saved rows again")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where rows are saved; default: %(default)s")
    parser.add_argument("--out", type=Path, default=PAGE, help="default: %(default)s")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    saved: dict[str, dict[str, Cell]] = json.loads(options.rows.read_text()) if options.rows.is_file() else {}
    if options.work:
        work(options.work, options.targets, {} if options.again else saved)
        return
    chosen = names(options.only)
    todo: SimpleQueue[str] = SimpleQueue()
    for name in chosen:
        if options.again or not {*columns_of(name, options.targets)} <= {*saved.get(name, ())}:
            todo.put(name)
    lock = Lock()

    def run_rows() -> None:
        while not todo.empty():
            _run_some(todo, saved, lock, options)

    with ThreadPoolExecutor(options.workers) as pool:
        for done in [pool.submit(run_rows) for _ in range(options.workers)]:
            done.result()
    options.out.write_text(
        page({name: saved[name] for name in names() if name in saved}, [name for name in names() if name not in saved]),
        encoding="utf-8",
    )


CHUNK = 20
"""Rows per process: TensorFlow is loaded once for all of them, and its leaked graphs are freed with the process."""


def _run_some(
    todo: SimpleQueue[str], saved: dict[str, dict[str, Cell]], lock: Lock, options: argparse.Namespace
) -> None:
    """Computes some rows in a process; if it crashes, that row is saved as refused and the others are queued again."""
    rows = []
    with suppress(Empty):
        while len(rows) < CHUNK:
            rows.append(todo.get_nowait())
    if not rows:
        return
    file, only = options.rows, options.targets
    chosen = [*(["--targets", *only] if only else []), *(["--again"] if options.again else []), "--rows", str(file)]
    process = subprocess.Popen(
        [sys.executable, __file__, *chosen, "--work", *rows],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors: list[str] = []
    reader = Thread(target=lambda: errors.extend(process.stderr or ()))
    reader.start()
    for line in process.stdout or ():
        if not line.startswith('["'):
            continue
        name, cells = json.loads(line)
        with lock:
            saved[name] = {**saved.get(name, {}), **cells}
            rows.remove(name)
            file.write_text(json.dumps(saved, indent=1))
            print(
                name, *(f"{column}: {fault}" for column, (_, fault) in cells.items() if fault), sep="\n    ", flush=True
            )
    process.wait()
    reader.join()
    if not rows:
        return
    crashed, *others = rows
    for name in others:
        todo.put(name)
    with lock:
        print(f"{crashed}: the process ended with {process.returncode}\n{''.join(errors[-15:])}", flush=True)
        reason = f"the process ended with {process.returncode}"
        saved[crashed] = dict.fromkeys(columns_of(crashed, only), (None, reason)) | saved.get(crashed, {})
        file.write_text(json.dumps(saved, indent=1))


if __name__ == "__main__":
    main()
