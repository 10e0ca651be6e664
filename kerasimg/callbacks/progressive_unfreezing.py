"""Unfreeze layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import keras


@keras.saving.register_keras_serializable(package="kerasimg")
class ProgressiveUnfreezing(keras.callbacks.Callback):
    """Freeze a part, then let its layers join, the last ones first (Howard and Ruder 2018, arXiv:1801.06146).

    layer: the name of a layer or of a model in the model, such as a backbone.
    layers_per_step: number of its layers with weights to unfreeze per step.  epochs_per_step: number of epochs between
    two steps, and before the first.
    BatchNormalization layers stay frozen, so batch statistics do not change. The optimizer keeps its state. In a spec,
    `fit.stages` with `unfreeze` does the same in chosen steps, each with its own learning rate.
    """

    argument_kinds: ClassVar[dict[str, str]] = {"layer": "str", "layers_per_step": "int>0", "epochs_per_step": "int>0"}

    def __init__(self, layer: str, layers_per_step: int = 10, epochs_per_step: int = 1):
        super().__init__()
        if layers_per_step < 1:
            raise ValueError(f"ProgressiveUnfreezing: layers_per_step must be 1 or more, got {layers_per_step}")
        if epochs_per_step < 1:
            raise ValueError(f"ProgressiveUnfreezing: epochs_per_step must be 1 or more, got {epochs_per_step}")
        self.layer = layer
        self.layers_per_step = layers_per_step
        self.epochs_per_step = epochs_per_step
        self._first_epoch: int | None = None
        self._joined = 0

    def get_state(self) -> dict[str, Any]:
        """The first epoch, and the number of unfrozen layers."""
        return {"first_epoch": self._first_epoch, "joined": self._joined}

    def set_state(self, state: dict[str, Any]) -> None:
        """Unfreeze the same layers again; the caller restores the values of the optimizer."""
        self._first_epoch = state["first_epoch"]
        if state["joined"] != self._joined:
            self._train_last(state["joined"])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            "layer": self.layer,
            "layers_per_step": self.layers_per_step,
            "epochs_per_step": self.epochs_per_step,
        }

    def on_train_begin(self, logs: Any = None) -> None:
        """Freeze the whole part."""
        names = [layer.name for layer in self.model.layers]
        if self.layer not in names:
            raise ValueError(f"ProgressiveUnfreezing: no layer '{self.layer}' in the model (there are: {names})")
        self._first_epoch = None
        self._train_last(0)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Unfreeze the next layers if it is their turn."""
        self._first_epoch = epoch if self._first_epoch is None else self._first_epoch
        steps, rest = divmod(epoch - self._first_epoch, self.epochs_per_step)
        if steps and not rest:
            self._train_last(steps * self.layers_per_step)

    def _train_last(self, count: int) -> None:
        self._joined = count
        model = self.model
        part = model.get_layer(self.layer)
        leaves = list(_leaves(part))
        before = [leaf.trainable for leaf in leaves]
        part.trainable = True
        for position, leaf in enumerate(leaves):
            joins = position >= len(leaves) - count
            leaf.trainable = joins and not isinstance(leaf, keras.layers.BatchNormalization)
        if before != [leaf.trainable for leaf in leaves] or not count:
            _rebuild_optimizer(model)
            # The compiled step uses the former variables.
            model.make_train_function(force=True)


def _leaves(layer: Any) -> Iterator[Any]:
    """The layers with weights of a layer, or of a model in it, in order."""
    inner = getattr(layer, "layers", None)
    if inner is None:
        if layer.weights:
            yield layer
    else:
        for child in inner:
            yield from _leaves(child)


def _rebuild_optimizer(model: Any) -> None:
    """Replace the optimizer, whose list of variables is fixed, by one for the current variables, with the old state."""
    former = model.optimizer
    fresh = type(former).from_config(former.get_config())
    fresh.build(model.trainable_variables)
    state = {variable.path: variable for variable in former.variables}
    for variable in fresh.variables:
        known = state.get(variable.path)
        if known is not None and known.shape == variable.shape:
            variable.assign(known)
    model.optimizer = fresh
