"""Cosine classification head with an angular margin."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
from keras import ops

from kerasimg.layers.images import check_features, l2_norm


@keras.saving.register_keras_serializable(package="kerasimg")
class CosineHead(keras.layers.Layer):
    """Logits from the angle between features and class (NormFace: Wang et al. 2017, arXiv:1704.06369).

    (N, D) -> (N, units): scale * cos(angle), so in [-scale, scale]; write the loss with logits, or leave it "auto".
    scale: 10 to 64 in the papers, more for more classes.  learn_scale: start there, and learn.
    margin: radians in [0, pi / 2) added to the angle of the true class in training, if the layer is called with
    `labels`, (N,) or (N, 1) integers: ArcFace (Deng et al. 2019, arXiv:1801.07698). A spec has no labels to call it
    with, and so trains without margin.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"units": "int>0", "scale": "float>0", "margin": "float[0,1.57]"}

    def __init__(
        self,
        units: int,
        scale: float = 16.0,
        learn_scale: bool = False,
        margin: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"CosineHead: units must be 1 or more, got {units}")
        if not scale > 0:
            raise ValueError(f"CosineHead: scale must be above 0, got {scale}")
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"CosineHead: margin must be in [0, pi / 2), got {margin}")
        self.units = units
        self.scale = scale
        self.learn_scale = learn_scale
        self.margin = margin
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Make the directions and, if it is learned, the scale."""
        check_features(self, input_shape)
        if len(input_shape) != 2:
            raise ValueError(f"CosineHead: expected features, (N, D), got shape {tuple(input_shape)}")
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        if self.learn_scale:
            start = keras.initializers.Constant(self.scale)
            self.factor = self.add_weight(shape=(), initializer=start, name="scale")
        self.built = True

    def call(self, inputs: Any, training: bool | None = None, labels: Any = None) -> Any:
        """Compare directions."""
        # The squares of features do not fit into float16.
        features = ops.cast(inputs, "float32")
        directions = _normalized(features, axis=-1)
        if training:  # of features that are all 0, the gradient of a direction is beyond float16
            silent = ops.sum(ops.square(features), axis=-1, keepdims=True) < 1e-12
            directions = ops.where(silent, ops.stop_gradient(directions), directions)
        cosines = ops.matmul(directions, _normalized(ops.cast(self.kernel, "float32"), axis=0))
        if training and self.margin and labels is not None:
            cosines = self._with_margin(cosines, labels)
        scale = ops.cast(self.factor, "float32") if self.learn_scale else self.scale
        return ops.cast(scale * cosines, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any, **_: Any) -> Any:
        """One logit a class."""
        return (input_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {
            "units": self.units,
            "scale": self.scale,
            "learn_scale": self.learn_scale,
            "margin": self.margin,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **own}

    def _with_margin(self, cosines: Any, labels: Any) -> Any:
        """cos(angle + margin) at the true class, without the angle, whose gradient is infinite at 0."""
        # Near 0 and pi the sine's gradient is infinite too.
        sines = ops.sqrt(ops.maximum(1 - ops.square(cosines), 1e-6))
        moved = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        # Past pi it would rise again: there the authors go on in a straight line.
        beyond = cosines < -math.cos(self.margin)
        moved = ops.where(beyond, cosines - math.sin(self.margin) * self.margin, moved)
        true = ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), self.units, dtype="bool")
        return ops.where(true, moved, cosines)


def _normalized(vectors: Any, axis: int) -> Any:
    return vectors / l2_norm(vectors, axis=axis, least=1e-6)
