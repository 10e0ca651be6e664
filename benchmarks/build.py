"""Cost of `kerasimg.build` relative to the same layers written by hand in Keras, for each zoo spec.

    python benchmarks/build.py [NAME ...] [--repeat 9] [--json OUT.json] [--source]

"By hand" is straight-line Python, one line per layer, `x7 = keras.layers.Conv2D(name="stem", filters=32, ...)(x6)`,
with the arguments that differ from Keras' defaults, and `keras.Model` at the end. It is generated from the model that
kerasimg builds, compiled once outside of the timing, and verified: equal layers, configurations and weight shapes,
and equal outputs for equal weights.

The script times `kerasimg.build(name, weights=None)`, which reads and validates the file and builds the model, and a
call of the compiled function. Both create and initialize all weights. They alternate in one process, with
`clear_session` and a garbage collection before each. Imports and the first call of each are not timed. The script
prints medians, the median ratio of the pairs with quartiles, and the time of reading and validation. Exit code 1 if a
median ratio exceeds 1.10.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasimg
import kerasimg.layers
from kerasimg.catalog import load, load_to_build, zoo_names

LIMIT = 1.10
NUM_CLASSES = 10
"""For specs that want it said."""


def source_of(model: keras.Model, applications: dict[str, str]) -> str:
    """Returns source code of a function `make` that builds the same model; `applications`: nested model -> its call."""
    lines = _lines(model, applications, "m")
    return "def make():\n" + "\n".join(f"    {line}" for line in [*lines, "return m"]) + "\n"


def _lines(model: keras.Model, applications: dict[str, str], name: str) -> list[str]:
    lines: list[str] = []
    tensors: dict[int, str] = {}
    layers: dict[int, str] = {}
    nodes = model._nodes_by_depth  # private; the public configuration says the same at far greater length
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            operation, output = node.operation, f"{name}x{len(tensors)}"
            if isinstance(operation, keras.layers.InputLayer):
                made = f"keras.Input(shape={operation.batch_shape[1:]!r}, name={operation.name!r})"
            else:
                if id(operation) not in layers:
                    layers[id(operation)] = f"{name}l{len(layers)}"
                    maker, before = _maker(operation, applications, layers[id(operation)])
                    lines += before
                    if len(operation._inbound_nodes) > 1 and not before:
                        lines.append(f"{layers[id(operation)]} = {maker}")
                        maker = layers[id(operation)]
                else:
                    maker = layers[id(operation)]
                made = _call(maker, node, tensors)
            (tensor,) = node.output_tensors
            tensors[id(tensor)] = output
            lines.append(f"{output} = {made}")
    first, last = tensors[id(model.inputs[0])], tensors[id(model.outputs[0])]
    return [*lines, f"{name} = keras.Model({first}, {last}, name={model.name!r})"]


def _call(maker: str, node: Any, tensors: dict[int, str]) -> str:
    values = [_tensors(value, tensors) for value in node.arguments.args]
    values += [
        f"{key}={_tensors(value, tensors)}"
        for key, value in node.arguments.kwargs.items()
        if value is not None and not (key == "training" and value is False)
    ]
    if isinstance(node.operation, keras.layers.Layer):
        return f"{maker}({', '.join(values)})"
    return maker.replace("(", f"({', '.join(values)}, ", 1)


def _tensors(value: Any, tensors: dict[int, str]) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_tensors(item, tensors) for item in value)}]"
    return tensors.get(id(value)) or repr(value)


def _maker(operation: Any, applications: dict[str, str], name: str) -> tuple[str, list[str]]:
    """Returns the expression for a layer, and the lines that must precede it."""
    if operation.name in applications:
        lines = [f"{name} = {applications[operation.name]}", f"{name}.name = {operation.name!r}"]
        return name, [*lines, f"{name}.trainable = {operation.trainable}"]
    if isinstance(operation, keras.Model):
        return name, [*_lines(operation, applications, name), f"{name}.trainable = {operation.trainable}"]
    if not isinstance(operation, keras.layers.Layer):
        if type(operation).__name__ != "Flip":
            raise NotImplementedError(f"the operation {type(operation).__name__}")
        return f"keras.ops.flip(axis={operation.axis!r})", []
    config = {key: value for key, value in operation.get_config().items() if key != "trainable"}
    return _object(type(operation), config), []


def _object(cls: type, config: dict[str, Any]) -> str:
    module = cls.__module__.split(".")
    group = {"initializers": "initializers", "regularizers": "regularizers", "constraints": "constraints"}
    where = next((group[part] for part in module if part in group), "layers")
    defaults = _defaults(cls, config)
    options = {key: value for key, value in config.items() if key == "name" or value != defaults.get(key, ...)}
    if "pool_size" in config:
        options["strides"] = config["strides"]  # whose default is the size
    arguments = ", ".join(f"{key}={_value(value)}" for key, value in options.items())
    return f"{module[0]}.{where}.{cls.__name__}({arguments})"


def _defaults(cls: type, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration of an object that got only its required arguments."""
    options: dict[str, Any] = {}
    for key in ("", *config):
        if key:
            options[key] = config[key]
        try:
            made = cls(**{key: options[key] for key in options if key not in ("name", "trainable", "dtype")})
        except (TypeError, ValueError):
            continue
        found = made.get_config()
        return {key: value for key, value in found.items() if key not in options or key in ("trainable", "dtype")}
    return {}


def _value(value: Any) -> str:
    if isinstance(value, dict) and "class_name" in value:
        made = keras.saving.deserialize_keras_object(value)
        return (
            repr(value["config"]["name"])
            if value["class_name"] == "DTypePolicy"
            else _object(type(made), value["config"])
        )
    return repr(value)


def applications_of(spec: Any) -> dict[str, str]:
    """Maps nodes to the calls of keras.applications that they represent."""
    height, width = spec.image.size
    made = {}
    for node in spec.nodes:
        if node.kind == "backbone" and not node.target.endswith(".json"):
            options = {key: value for key, value in node.arguments.items() if key not in ("weights", "trainable")}
            options |= {"include_top": False, "weights": None, "input_shape": (height, width, spec.image.channels)}
            arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
            made[str(node.name)] = f"keras.applications.{node.target}({arguments})"
    return made


def check_same(ours: keras.Model, theirs: keras.Model) -> None:
    """Raises ValueError if two models differ."""
    one, other = ([(type(layer), layer.get_config()) for layer in _flat(model)] for model in (ours, theirs))
    for (kind, config), (their_kind, their_config) in zip(one, other, strict=True):
        if kind is not their_kind or config != their_config:
            raise ValueError(f"not the same layer: {kind} {config}, {their_kind} {their_config}")
    if [weight.shape for weight in ours.weights] != [weight.shape for weight in theirs.weights]:
        raise ValueError("not the same weights")
    theirs.set_weights(ours.get_weights())
    pixels = np.random.default_rng(0).uniform(0, 255, (1, *ours.input_shape[1:])).astype("float32")
    found, expected = (keras.ops.convert_to_numpy(model(pixels, training=False)) for model in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def _flat(model: keras.Model) -> list[Any]:
    return [inner for layer in model.layers for inner in (_flat(layer) if isinstance(layer, keras.Model) else [layer])]


def seconds(make: Callable[[], Any]) -> float:
    """Times one call after clearing the Keras session."""
    keras.utils.clear_session()
    gc.collect()
    start = time.perf_counter()
    made = make()
    end = time.perf_counter()
    del made
    return end - start


def measure(name: str, repeat: int, show_source: bool) -> dict[str, Any]:
    """Measures one spec."""
    draft = load(name, partial=True)
    params = {"num_classes": NUM_CLASSES} if not isinstance(draft.params.get("num_classes", 0), int) else {}
    ours = kerasimg.build(name, weights=None, **params)
    source = source_of(ours, applications_of(load_to_build(name, params=params)))
    if show_source:
        print(source)
    names: dict[str, Any] = {"keras": keras, "kerasimg": kerasimg}
    exec(compile(source, f"<{name} by hand>", "exec"), names)
    by_hand = names["make"]
    keras.utils.clear_session()  # else Keras numbers the layers that hand leaves without a name on from ours
    check_same(ours, by_hand())
    figures = {"layers": len(_flat(ours)), "params": ours.count_params()}
    del ours
    pairs = []
    for turn in range(repeat):
        both = {"ours": lambda: kerasimg.build(name, weights=None, **params), "hand": by_hand}
        order = ("ours", "hand") if turn % 2 else ("hand", "ours")
        taken = {who: seconds(both[who]) for who in order}
        pairs.append((taken["ours"], taken["hand"]))
    loads = [seconds(lambda: load_to_build(name, params=params)) for _ in range(5)]
    ratios = [mine / hand for mine, hand in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "name": name,
        **figures,
        "kerasimg_ms": 1000 * statistics.median(mine for mine, _ in pairs),
        "by_hand_ms": 1000 * statistics.median(hand for _, hand in pairs),
        "ratio": middle,
        "quartiles": [low, high],
        "load_ms": 1000 * statistics.median(loads),
    }


def main() -> int:
    """Prints the table; returns 1 if a spec exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="specs of the zoo; default: all")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--source", action="store_true", help="print the generated code")
    options = parser.parse_args()
    if options.repeat < 2:
        parser.error("--repeat: expected 2 or more, for quartiles")
    kerasimg.build("simple_cnn", num_classes=2)
    print(f"{'spec':20}{'layers':>7}{'kerasimg ms':>13}{'by hand ms':>12}{'ratio':>8}{'quartiles':>15}{'load ms':>9}")
    rows = []
    for name in options.names or zoo_names():
        rows.append(row := measure(name, options.repeat, options.source))
        low, high = row["quartiles"]
        print(
            f"{name:20}{row['layers']:7}{row['kerasimg_ms']:13.0f}{row['by_hand_ms']:12.0f}{row['ratio']:8.3f}"
            f"{low:8.3f}-{high:.3f}{row['load_ms']:9.1f}",
            flush=True,
        )
    over = [row["name"] for row in rows if row["ratio"] > LIMIT]
    median = statistics.median(row["ratio"] for row in rows)
    print(f"median ratio {median:.3f}; above {LIMIT:.2f}: {', '.join(over) or 'none'}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
