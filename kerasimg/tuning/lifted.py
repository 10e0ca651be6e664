"""Values that a compiled graph takes as variables, so that trials which differ in nothing else can share it.

Learning rates are variables in Keras already. Here the rate of Dropout and the weight decay of an optimizer become
such. What is computed stays the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kerasimg.spec.load import Spec
from kerasimg.training.rates import written_rate

NUMBER = "a number"
"""What stands for a lifted value in a signature."""
LIFTED = ("learning_rate", "weight_decay")
"""Of an optimizer."""


class Rate:
    """The rate of a Dropout layer as two variables of TensorFlow."""

    def __init__(self) -> None:
        import tensorflow as tf

        self.rate = tf.Variable(0.5, trainable=False, dtype=tf.float32)
        self.scale = tf.Variable(2.0, trainable=False, dtype=tf.float32)

    def assign(self, rate: float) -> None:
        """Make it another rate, in (0, 1)."""
        self.rate.assign(rate)
        self.scale.assign(1 / (1 - rate))  # in double precision, as TensorFlow does where the rate is a number


class VariableDropout(keras.layers.Dropout):
    """Dropout whose rate is a variable; made of a Dropout by `lift_rates`, never by itself."""

    variable_rate: Rate

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The values of keras.layers.Dropout, in the order in which TensorFlow computes them."""
        if not training:
            return inputs
        import tensorflow as tf

        drawn = keras.random.uniform(tf.shape(inputs), dtype=inputs.dtype, seed=self.seed_generator)
        kept = inputs * self.variable_rate.scale
        return tf.where(drawn >= self.variable_rate.rate, kept, tf.zeros((), inputs.dtype))


def lift_rates(model: keras.Model, names: Mapping[str, float]) -> dict[str, Rate]:
    """Make the rates of these Dropout layers variables; to be called before the model is compiled."""
    rates = {}
    for layer in model.layers:
        name = layer.name
        if name not in names or type(layer) is not keras.layers.Dropout or layer.compute_dtype != "float32":
            continue
        rates[name] = Rate()
        layer.__class__ = VariableDropout
        # Past Keras' own setter: the variables are no weights of the layer.
        object.__setattr__(layer, "variable_rate", rates[name])
    return rates


def lift_decay(optimizer: Any) -> Any:
    """The variable that the optimizer's weight decay now is; None where it has none."""
    if optimizer.weight_decay is None:
        return None
    import tensorflow as tf

    decay = tf.Variable(float(optimizer.weight_decay), trainable=False, dtype=tf.float32)
    object.__setattr__(optimizer, "weight_decay", decay)
    return decay


def optimizer_signature(spec: Spec) -> list[Any]:
    """What the optimizer of each stage is, but for the numbers that are variables."""
    value = spec.compile.optimizer
    written = {"type": value} if isinstance(value, str) else dict(value)
    found = []
    for stage in spec.fit.stages:
        said = dict(written)
        rate = written_rate(spec, stage)
        said["learning_rate"] = NUMBER if rate is None or _is_number(rate) else rate
        if _is_number(said.get("weight_decay")):
            said["weight_decay"] = NUMBER
        found.append(said)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
