"""Build the model to export (float32, without augmentation, temperature-scaled), and its variant with logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras

from kerasimg.deploy.manifest import Output
from kerasimg.keras_internals import call_behind
from kerasimg.models.flips import with_flips
from kerasimg.models.known import Known, with_outputs
from kerasimg.models.output_kind import OutputKind, output_kind
from kerasimg.models.temperature import model_at_temperature
from kerasimg.spec.document import Task

MIXED = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")


def inference_model(
    model: keras.Model,
    temperature: float,
    task: Task,
    known: Known | None = None,
    outputs: Sequence[Output] = ("probabilities",),
    flips: bool = False,
) -> keras.Model:
    """Returns a model from pixels (N, H, W, C) float32, 0-255, to the probabilities of `Classifier.probabilities`.

    With other outputs, too, they are a dict; "p_value" takes the rule `known`. The model shares the weights of `model`,
    except if that computes in less than float32.
    """
    plain = in_float32(model)
    kind = output_kind(plain)
    scaled = model_at_temperature(plain, temperature)
    inputs = keras.Input(plain.inputs[0].shape[1:], dtype="float32", name="pixels")
    # Augmentation and dropout default to training=True, also for nested layers.
    if len(outputs) == 1:
        values = {outputs[0]: scaled(inputs, training=False)}
    else:
        values = with_outputs(plain, outputs, known, scaled)(inputs, training=False)
    if kind == "logits":
        last = keras.layers.Activation(activation(kind, task), dtype="float32", name="probabilities")
        values["probabilities"] = last(values["probabilities"])
    whole = keras.Model(inputs, values if len(outputs) > 1 else values["probabilities"], name=model.name)
    return with_flips(whole, activation(kind, task)) if flips else whole


def logits_model(
    model: keras.Model, temperature: float, task: Task, flips: bool = False
) -> tuple[keras.Model, Literal["softmax", "sigmoid"]]:
    """Returns a model from pixels (N, H, W, C) float32, 0-255, to temperature-scaled logits (N, K), and its activation.

    The activation, "softmax" or "sigmoid", turns the logits into probabilities.
    """
    plain = in_float32(model)
    kind = output_kind(plain)
    logits, remaining = _before_activation(plain, kind, temperature)
    if remaining != 1:
        logits = keras.layers.Rescaling(1 / remaining, dtype="float32", name="temperature")(logits)
    cut = keras.Model(plain.inputs, logits, name=model.name)
    inputs = keras.Input(plain.inputs[0].shape[1:], dtype="float32", name="pixels")
    whole = keras.Model(inputs, cut(inputs, training=False), name=model.name)
    return with_flips(whole, "logits") if flips else whole, activation(kind, task)


def activation(kind: OutputKind, task: Task) -> Literal["softmax", "sigmoid"]:
    """Returns the activation that turns a model's logits into probabilities."""
    if kind != "logits":
        return kind
    return "softmax" if task == "multiclass" else "sigmoid"


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model, or a copy in float32 if some of its layers compute in less."""
    config = model.get_config()
    config_float32 = _config_in_float32(config)
    if config_float32 == config:
        return model
    copy = type(model).from_config(config_float32)
    copy.set_weights(model.get_weights())
    return copy


def _config_in_float32(config: Any) -> Any:
    """Returns a Keras config with every dtype policy replaced by float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy" and config.get("config", {}).get("name") in MIXED:
            return {**config, "config": {**config["config"], "name": "float32"}}
        return {
            key: "float32"
            if key == "dtype" and isinstance(value, str) and value in MIXED
            else _config_in_float32(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_config_in_float32(value) for value in config)
    return config


def _before_activation(model: keras.Model, kind: OutputKind, temperature: float) -> tuple[Any, float]:
    """Returns the logits as a symbolic tensor, and the temperature by which they still must be divided."""
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
        # Scaling the kernel adds no operation and no quantization error.
        linear.set_weights([weights / temperature for weights in layer.get_weights()])
        return logits, 1.0
    linear.set_weights(layer.get_weights())
    return logits, temperature
