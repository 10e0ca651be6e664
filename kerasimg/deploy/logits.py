"""The model that is exported: float32, without augmentation, at its temperature; and the same up to its logits."""

from __future__ import annotations

from typing import Any

import keras

from kerasimg.keras_internals import call_behind
from kerasimg.models.output_kind import OutputKind, output_kind
from kerasimg.models.temperature import model_at_temperature
from kerasimg.spec.document import Task

MIXED = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")


def inference_model(model: keras.Model, temperature: float, task: Task) -> keras.Model:
    """Pixels (N, H, W, C) float32, 0-255 -> probabilities (N, K) float32, as `Classifier.probabilities` tells them.

    It shares the weights of the given model, but where that computes in less than float32.
    """
    plain = in_float32(model)
    kind = output_kind(plain)
    told = model_at_temperature(plain, temperature)
    inputs = keras.Input(plain.inputs[0].shape[1:], dtype="float32", name="pixels")
    # Augmentation and dropout take training=True for granted, and hand it on to what they hold.
    outputs = told(inputs, training=False)
    if kind == "logits":
        outputs = keras.layers.Activation(activation(kind, task), dtype="float32", name="probabilities")(outputs)
    return keras.Model(inputs, outputs, name=model.name)


def logits_model(model: keras.Model, temperature: float, task: Task) -> tuple[keras.Model, str]:
    """The model up to its logits, already divided by the temperature, and what makes probabilities of them.

    Pixels (N, H, W, C) float32, 0-255 -> (N, K) float32; "softmax" or "sigmoid".
    """
    plain = in_float32(model)
    kind = output_kind(plain)
    logits, left = _before_activation(plain, kind, temperature)
    if left != 1:
        logits = keras.layers.Rescaling(1 / left, dtype="float32", name="temperature")(logits)
    cut = keras.Model(plain.inputs, logits, name=model.name)
    inputs = keras.Input(plain.inputs[0].shape[1:], dtype="float32", name="pixels")
    return keras.Model(inputs, cut(inputs, training=False), name=model.name), activation(kind, task)


def activation(kind: OutputKind, task: Task) -> str:
    """What makes probabilities of a model's logits."""
    if kind != "logits":
        return kind
    return "softmax" if task == "multiclass" else "sigmoid"


def in_float32(model: keras.Model) -> keras.Model:
    """The model itself, or, where some of its layers compute in less than float32, one with the same weights."""
    config = model.get_config()
    exact = _exact(config)
    if exact == config:
        return model
    remade = type(model).from_config(exact)
    remade.set_weights(model.get_weights())
    return remade


def _exact(config: Any) -> Any:
    """A Keras config in which every policy is float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy" and config.get("config", {}).get("name") in MIXED:
            return {**config, "config": {**config["config"], "name": "float32"}}
        return {
            key: "float32" if key == "dtype" and isinstance(value, str) and value in MIXED else _exact(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_exact(value) for value in config)
    return config


def _before_activation(model: keras.Model, kind: OutputKind, temperature: float) -> tuple[Any, float]:
    """The logits as a symbolic tensor, and the temperature that they are still to be divided by."""
    output = model.outputs[0]
    if kind == "logits":
        return output, temperature
    node = call_behind(output)
    layer = node.operation
    if isinstance(layer, keras.layers.Activation | keras.layers.Softmax):
        return node.input_tensors[0], temperature
    linear = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    logits = linear(*node.arguments.args, **node.arguments.kwargs)
    if isinstance(layer, keras.layers.Dense):
        # In the kernel the temperature costs nothing, neither time nor steps of a quantized value.
        linear.set_weights([weights / temperature for weights in layer.get_weights()])
        return logits, 1.0
    linear.set_weights(layer.get_weights())
    return logits, temperature
