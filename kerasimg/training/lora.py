"""LoRA: frozen dense and attention layers learn by low-rank adapters (Hu et al. 2021, arXiv:2106.09685).

A stage with `lora` adds two small matrices to every kernel of the frozen Dense and EinsumDense layers, also to those
inside of attention layers, and trains them with whatever else trains. Keras has the adapters (`Dense.enable_lora`). At
the end of the stage they are merged into the kernels and removed, so that a saved or exported model has no trace of
them, and the next stage begins with the layers that the spec has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from kerasimg.keras_internals import remove_adapter, sublayers
from kerasimg.models.build import leaves
from kerasimg.spec.document import Lora

ADAPTABLE = (keras.layers.Dense, keras.layers.EinsumDense)


def add_adapters(model: keras.Model, lora: Lora, seed: int) -> None:
    """Adds adapters to the frozen layers of a model, and makes nothing else of these layers trainable.

    Adapters that exist are left as they are, so that a resumed stage can call it again.

    Args:
        model: with `trainable` set for the stage.
        lora: rank and scale.
        seed: of the initial values.
    """
    for leaf in list(_frozen(model)):
        kernels = list(_kernels(leaf))
        leaf.trainable = True
        for weight in leaf.weights:
            weight.trainable = False
        for layer in kernels:
            if not layer.lora_enabled:
                seed += 1
                start = keras.initializers.HeUniform(seed=seed)
                layer.enable_lora(lora.rank, a_initializer=start, lora_alpha=lora.alpha)
            for adapter in (layer.lora_kernel_a, layer.lora_kernel_b):
                adapter.trainable = True


def merge_adapters(model: keras.Model) -> None:
    """Adds the adapters of a model to its kernels, and removes them. The layers are frozen again."""
    for leaf in leaves(model.layers):
        adapted = [layer for layer in _kernels(leaf) if layer.lora_enabled]
        for layer in adapted:
            # `kernel` has the adapters added, `_kernel` is the variable.
            merged = keras.ops.convert_to_numpy(layer.kernel)
            remove_adapter(layer)
            layer.kernel.assign(merged)
        if adapted:
            leaf.trainable = False


def can_adapt(model: keras.Model) -> bool:
    """Whether a model has a frozen layer that can have adapters."""
    return any(True for _ in _frozen(model))


def _frozen(model: keras.Model) -> Iterator[Any]:
    """The frozen layers that have kernels, and those whose adapters train."""
    for leaf in leaves(model.layers):
        if any(layer.lora_enabled or not leaf.trainable for layer in _kernels(leaf)):
            yield leaf


def _kernels(layer: Any) -> Iterator[Any]:
    """The dense layers within a layer, or itself."""
    if isinstance(layer, ADAPTABLE):
        if layer.built and layer.kernel_constraint is None:
            yield layer
        return
    for inner in sublayers(layer):
        yield from _kernels(inner)
