"""Every private name of Keras, TensorFlow, KerasTuner and uvicorn that kerasimg needs, each with the reason.

No other module reaches for one (`tests/test_source.py`), and each has a contract test in
`tests/contract/test_keras_internals.py` that fails when an upgrade changes what the name means. Where a class must
override a private method, a mixin here does it and calls a method with a public name.

Importing this module loads none of the four: each function imports what it needs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# --- Keras: classes that it does not export ---------------------------------------------------------------------------


def image_layer_class() -> Any:
    """The base of Keras' image layers. Its subclasses run inside tf.data on every backend; Keras does not export it."""
    from keras.src.layers.preprocessing.image_preprocessing.base_image_preprocessing_layer import (
        BaseImagePreprocessingLayer,
    )

    return BaseImagePreprocessingLayer


def merge_layer_class() -> Any:
    """The base of Keras' merging layers (Add, Concatenate), by which a table of layers knows that one takes a list."""
    from keras.src.layers.merging.base_merge import Merge

    return Merge


def names_known_to_get(group: str) -> dict[str, Any]:
    """The names that `keras.<group>.get` accepts, with the object of each; no public function lists them.

    Args:
        group: "losses", "metrics", "optimizers", "initializers", "regularizers" or "constraints".
    """
    return dict(importlib.import_module(f"keras.src.{group}").ALL_OBJECTS_DICT)


def applications_modules() -> tuple[Any, Any]:
    """The modules in which keras.applications asks for its input shape and fetches its files.

    The table of backbones stops a constructor there, to learn the sizes and the weight files without a download.

    Returns:
        The modules with `obtain_input_shape` and with `get_file`.
    """
    from keras.src.applications import imagenet_utils
    from keras.src.utils import file_utils

    return imagenet_utils, file_utils


def application_class(cls: type) -> str | None:
    """Name a layer that keras.applications defines for itself, as "convnext.LayerScale"; None for any other class."""
    _, found, module = cls.__module__.partition("keras.src.applications.")
    return f"{module}.{cls.__name__}" if found else None


def is_keras_operation(cls: type) -> bool:
    """Whether a class is an operation of keras.ops or keras.activations; these classes are not exported."""
    return cls.__module__.startswith(("keras.src.ops.", "keras.src.activations."))


# --- Keras: the graph of a functional model ---------------------------------------------------------------------------


def is_functional(model: Any) -> bool:
    """Whether a model is its graph, without a `call` of its own. The class Functional is not exported."""
    return hasattr(model, "_nodes_by_depth") and type(model).call.__module__ == "keras.src.models.functional"


def calls_of(model: Any) -> Iterator[Any]:
    """Keras' records of the calls inside a functional model, in their order.

    The public configuration says the same without the layers and tensors themselves.

    Yields:
        Nodes with `operation`, `arguments`, `input_tensors` and `outputs`.
    """
    by_depth = model._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if not node.is_input)


def call_behind(tensor: Any) -> Any:
    """Keras' record of the call that a symbolic tensor came from.

    For a layer that is called several times, nothing public says which call an output is of.
    """
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def output_position(tensor: Any) -> int:
    """Which output of its call a symbolic tensor is."""
    return int(tensor._keras_history.tensor_index)


def passes_training(layer: Any) -> bool:
    """Whether Keras gives a layer the argument `training`: its `call`, or that of a layer inside, takes one."""
    return bool(layer._call_has_training_arg)


@contextlib.contextmanager
def replaced(thing: Any, method: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one object while the block runs, as `layer.call` to look into a model while it runs.

    A model that is cut in two would lose what leads past the layer; Keras has no hooks. Not for two threads at once.

    Args:
        thing: the object; its class stays as it is.
        method: the method's name, or that of an attribute.
        function: the replacement, without `self`.
    """
    before = vars(thing).get(method)
    setattr(thing, method, function)
    try:
        yield
    finally:
        if before is None:
            delattr(thing, method)
        else:
            setattr(thing, method, before)


@contextlib.contextmanager
def exportable_operations() -> Iterator[None]:
    """In the block, TensorFlow graphs consist of operations that every converter supports.

    Keras calls these functions of its backend module for every layer and for `keras.ops`: the exact GELU uses Erf and
    CELU uses Exp (ONNX has neither Erfc nor Expm1), and grouped convolutions are not wrapped in a compiled function.
    With groups and dilation, or groups in one or three dimensions, each group is a separate convolution. Tensors that a
    layer holds, such as the mean of `Normalization`, are constants and not inputs of the graph. Not thread-safe.
    """
    import keras
    import tensorflow as tf
    from keras.src.backend.tensorflow import nn
    from tensorflow.core.function.capture.capture_container import FunctionCaptures

    ungrouped, approximate_gelu, capture = nn.conv, nn.gelu, FunctionCaptures.capture_by_value

    def capture_as_constant(captures: Any, graph: Any, tensor: Any, name: str | None = None) -> Any:
        if tf.is_symbolic_tensor(tensor) or tensor.dtype in (tf.resource, tf.variant):
            return capture(captures, graph, tensor, name)
        with graph.as_default():
            return tf.constant(tensor.numpy(), tensor.dtype)

    def gelu(x: Any, approximate: bool = True) -> Any:
        x = tf.convert_to_tensor(x)
        return approximate_gelu(x) if approximate else 0.5 * x * (1 + tf.math.erf(x / tf.cast(2, x.dtype) ** 0.5))

    def conv(
        inputs: Any,
        kernel: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: Any = None,
        dilation_rate: Any = 1,
    ) -> Any:
        inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
        format_of = data_format or keras.config.image_data_format()
        channels = inputs.shape[-1 if format_of == "channels_last" else 1]
        if format_of != "channels_last" or channels == kernel.shape[-2]:
            return ungrouped(inputs, kernel, strides, padding, data_format, dilation_rate)
        if len(inputs.shape) == 4 and set(tf.nest.flatten(dilation_rate)) == {1}:
            return tf.nn.convolution(inputs, kernel, strides, padding.upper())
        groups = channels // kernel.shape[-2]
        parts = zip(tf.split(inputs, groups, -1), tf.split(kernel, groups, -1), strict=True)
        return tf.concat(
            [ungrouped(part, own, strides, padding, data_format, dilation_rate) for part, own in parts], -1
        )

    def celu(x: Any, alpha: float = 1.0) -> Any:
        x = tf.convert_to_tensor(x)
        return tf.nn.relu(x) + alpha * (tf.exp(-tf.nn.relu(-x / alpha)) - 1)

    with (
        replaced(nn, "celu", celu),
        replaced(nn, "conv", conv),
        replaced(nn, "gelu", gelu),
        replaced(FunctionCaptures, "capture_by_value", capture_as_constant),
    ):
        yield


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805

SELECTING = {
    *("AvgPool", "AvgPool3D", "GatherNd", "GatherV2", "Max", "MaxPool", "MaxPool3D", "Min", "ResizeBilinear"),
    *("ResizeNearestNeighbor", "Slice", "Split", "SplitV", "StridedSlice", "TopKV2", "Unpack"),
}
"""Operations whose outputs are some of the input's values, or between them."""
REARRANGING = {"BroadcastTo", "ExpandDims", "Identity", "Pad", "PadV2", "Reshape", "Squeeze", "Tile", "Transpose"}
"""Operations whose output has all values of the input."""

EPSILON = 2**-23
"""Distance of 1 from the next float32."""


@contextlib.contextmanager
def separate_int8_ranges() -> Iterator[None]:
    """In the block, TensorFlow graphs keep LiteRT's int8 converter from clipping values.

    For concatenation, stacking, selection, minimum and maximum, the converter gives the inputs the range of the output,
    and propagates it backwards through operations that require one range for input and output. Input values outside of
    that range are clipped, also for other operations that use the same input. A multiplication by almost 1 gives an
    input a range of its own; each factor is different, because converters merge equal multiplications. Not thread-safe.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow import nn

    numbers = itertools.count(1)

    def separate(x: Any) -> Any:
        if not tf.is_symbolic_tensor(x) or x.dtype != tf.float32 or x.op.type == "Const":
            return x
        return x * (1 + next(numbers) * EPSILON)

    def separate_if_selected(x: Any) -> Any:
        source = x
        while tf.is_symbolic_tensor(source) and source.op.type in REARRANGING:
            source = source.op.inputs[0]
        return separate(x) if tf.is_symbolic_tensor(source) and source.op.type in SELECTING else x

    def with_separate(function: Callable[..., Any], count: int) -> Callable[..., Any]:
        return lambda *args, **kwargs: function(*map(separate, args[:count]), *args[count:], **kwargs)

    def of_list(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(values: Any, *args: Any, **kwargs: Any) -> Any:
            values = [separate_if_selected(x) for x in values] if isinstance(values, list | tuple) else values
            return function(values, *args, **kwargs)

        return call

    def selu(x: Any) -> Any:
        # TensorFlow computes exp(x) for all x and then selects; its large values would make the int8 steps large.
        x = tf.convert_to_tensor(x)
        return SELU_SCALE * (tf.nn.relu(x) + SELU_ALPHA * (tf.exp(-tf.nn.relu(-x)) - 1))

    def sparsemax(x: Any, axis: int = -1) -> Any:
        # In Keras the outputs jump where the number of nonzero outputs changes: rounding would change them.
        raise NotImplementedError("int8 has no operation for sparsemax")

    def is_computed(x: Any) -> bool:
        """Returns whether a tensor depends on values of the input, and not just on its shape."""
        operations, seen = [x.op], set()
        while operations:
            operation = operations.pop()
            if operation.type == "Placeholder" and operation.outputs[0].dtype == tf.float32:
                return True
            if operation.name not in seen and operation.type not in ("Shape", "ShapeN", "Size", "Rank"):
                operations += [tensor.op for tensor in operation.inputs]
            seen.add(operation.name)
        return False

    convert = tf.cast

    def cast(x: Any, dtype: Any, name: str | None = None) -> Any:
        # Indices, or levels of a histogram: with 8 bits they would be others.
        if tf.is_symbolic_tensor(x) and x.dtype.is_floating and tf.as_dtype(dtype).is_integer and is_computed(x):
            raise NotImplementedError("int8 has no operation for CastToInteger")
        return convert(x, dtype, name)

    with (
        replaced(nn, "selu", selu),
        replaced(tf, "cast", cast),
        replaced(nn, "sparsemax", sparsemax),
        replaced(tf, "concat", of_list(tf.concat)),
        replaced(tf, "stack", of_list(tf.stack)),
        replaced(tf, "maximum", with_separate(tf.maximum, 2)),
        replaced(tf, "minimum", with_separate(tf.minimum, 2)),
        replaced(tf, "where", with_separate(tf.where, 3)),
        replaced(tf, "clip_by_value", with_separate(tf.clip_by_value, 1)),
    ):
        yield


@contextlib.contextmanager
def int8_quantizer(quantize: Callable[[bytes, Callable[..., bytes]], bytes]) -> Iterator[None]:
    """In the block, LiteRT's converter quantizes to int8 by `quantize(content, convert)`.

    `content` is a float32 .tflite file with ranges. `convert(content, names)` is the converter's own quantizer; it
    leaves the operations whose outputs have these names in float32. Not thread-safe.
    """
    from tensorflow.lite.python import lite

    original = lite._mlir_quantize

    def call(content: bytes, *args: Any, **kwargs: Any) -> bytes:
        def convert(edited: bytes, names: Sequence[str] = ()) -> bytes:
            return bytes(original(edited, *args, denylisted_nodes=list(names) or None, **kwargs))

        return quantize(content, convert)

    with replaced(lite, "_mlir_quantize", call):
        yield


# --- Keras: variables and random numbers ------------------------------------------------------------------------------

_PENDING = "uninitialized_variables"
_SCOPE = "stateless_scope"


def pending_variables() -> list[Any]:
    """The variables that the end of the next plain StatelessScope allocates. There is no public way to forget them."""
    from keras.src.backend.common import global_state

    return list(global_state.get_global_attribute(_PENDING) or [])


def set_pending_variables(variables: list[Any]) -> None:
    """Replace the variables that wait to be allocated."""
    from keras.src.backend.common import global_state

    global_state.set_global_attribute(_PENDING, variables)


def initializer_of(variable: Any) -> Any:
    """The initializer of a variable that has no value yet, by which its cost is known before; None for one that has."""
    return getattr(variable, "_initializer", None)


@contextlib.contextmanager
def initial_values(value_of: Callable[[Any, Any], Any]) -> Iterator[None]:
    """While the block runs, this thread's variables get their first values from a function.

    Keras calls the initializer of each variable, whether or not the values of a file follow.

    Args:
        value_of: (variable, initializer) -> an array of its shape and type; None: what the initializer gives.
    """
    from keras.src.backend import Variable

    thread, original = threading.get_ident(), Variable._initialize_with_initializer

    def initialize(variable: Any, initializer: Any) -> None:
        value = value_of(variable, initializer) if threading.get_ident() == thread else None
        if value is None:
            original(variable, initializer)
        else:
            variable._initialize(variable._convert_to_tensor(value, dtype=variable._dtype))

    with replaced(Variable, "_initialize_with_initializer", initialize):
        yield


@contextlib.contextmanager
def random_functions(**functions: Callable[..., Any]) -> Iterator[None]:
    """While the block runs, this thread's initializers draw by these functions, with the arguments of Keras' own.

    Args:
        functions: "normal", "uniform", "truncated_normal": of the backend's module.
    """
    from keras.src.backend import random

    thread = threading.get_ident()

    def chosen(own: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (own if threading.get_ident() == thread else original)(*args, **kwargs)

    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(replaced(random, name, chosen(function, getattr(random, name))))
        yield


def seed_words(seed: Any) -> Any:
    """The key that Keras draws with for a seed: a number, or a `keras.random.SeedGenerator`, which goes on by one."""
    from keras.src.random.seed_generator import draw_seed

    return draw_seed(seed)


def stateless_scope() -> Any:
    """The StatelessScope that is open; None without one. A Ctrl-C at the wrong moment leaves one open."""
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute(_SCOPE)


def set_stateless_scope(scope: Any) -> None:
    """Put back the scope that was open."""
    from keras.src.backend.common import global_state

    global_state.set_global_attribute(_SCOPE, scope)


@contextlib.contextmanager
def global_seed_generator(generator: Any) -> Iterator[None]:
    """While the block runs, what this thread draws without a seed draws from this generator, not Keras' global one.

    Keras refuses its global one within `jax.jit`, where what it draws would be a constant; what this one draws is not.
    """
    from keras.src.random import seed_generator

    thread, before = threading.get_ident(), seed_generator.global_seed_generator
    with replaced(
        seed_generator, "global_seed_generator", lambda: generator if threading.get_ident() == thread else before()
    ):
        yield


def draw_from(layer: Any, generator: Any) -> None:
    """Have a layer and those inside it draw from one generator, a `keras.random.SeedGenerator`.

    Keras makes a generator per layer and, for image layers, one per backend; none of them can be set from outside.
    """
    for part in layer._flatten_layers():
        if hasattr(part, "_get_seed_generator"):
            part._get_seed_generator = lambda backend=None: generator
        for value in list(vars(part).values()):
            import keras

            if isinstance(value, keras.random.SeedGenerator):
                value.next = generator.next


def layers_within(layer: Any) -> list[Any]:
    """A layer and those inside it, as a wrapper has them; of an operation that is no layer, itself."""
    return list(layer._flatten_layers()) if hasattr(layer, "_flatten_layers") else [layer]


def seed_in_pipeline(layer: Any) -> Any:
    """The seed generator of an image layer for the backend that runs it: TensorFlow inside of tf.data."""
    return layer._get_seed_generator(layer.backend._backend)


# --- Keras: TensorFlow beside another backend -------------------------------------------------------------------------


def spare_tensorflow() -> None:
    """Have Keras import no TensorFlow to save or copy a model, or to set the random seed, on another backend.

    There Keras asks whether TensorFlow is installed, by importing it: to ask each value of a configuration whether it
    is a shape or a type of TensorFlow, and to set TensorFlow's seed. Neither matters before TensorFlow is imported.
    """
    from keras.src.legacy.saving import json_utils
    from keras.src.saving import serialization_lib
    from keras.src.utils import rng_utils
    from keras.src.utils.module_utils import LazyModule

    class OnceImported(LazyModule):
        @property
        def available(self) -> bool:
            return self.name in sys.modules

    for module in (serialization_lib, rng_utils, json_utils):
        module.tf = OnceImported("tensorflow")


# --- Keras: training --------------------------------------------------------------------------------------------------

CALLBACK_ATTRIBUTES = ("_model", "params", "validation_data")
"""Attributes that Keras gives every callback; they are no state of the callback's own."""


def build_metrics(model: Any, batch: Any) -> None:
    """Make the variables of a compiled model's metrics, which Keras makes with the first step only.

    An epoch that is resumed gives them their values before that step.
    """
    model._symbolic_build(data_batch=batch)


def has_keras_steps(model: Any) -> bool:
    """Whether a model trains and is validated by Keras' own steps on JAX, as functions of its state."""
    from keras.src.backend.jax.trainer import JAXTrainer

    kind = type(model)
    names = ("train_step", "test_step", "compute_loss_and_updates")
    return all(getattr(kind, name, None) is getattr(JAXTrainer, name) for name in names)


def jax_state(model: Any, *, optimizer: bool, since: Any = None, keep: bool = False) -> Any:
    """The values of a model's variables on JAX, as `train_step` (`optimizer`) or `test_step` takes them.

    Args:
        model: compiled, with metrics.
        optimizer: whether the state of the optimizer belongs to it.
        since: the state after the last step, which is returned unless a callback has brought the variables up to date.
        keep: whether the variables keep their values; else they are released, so that a step can reuse their memory.
    """
    if since is not None and not model._jax_state_synced:
        return since
    kinds = {"trainable_variables": True, "non_trainable_variables": True, "metrics_variables": True}
    state = model._get_jax_state(**kinds, optimizer_variables=optimizer, purge_model_variables=not keep)
    if not keep:
        model._jax_state_synced = False
    return state


def keep_jax_state(model: Any, state: Any) -> None:
    """Note the state after a step, so that callbacks find it when they read the model."""
    names = ["trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables"]
    if len(state) == 3:
        names.remove("optimizer_variables")
    model._jax_state = dict(zip(names, state, strict=True))


def restore_jax_state(model: Any) -> None:
    """Give the variables of a model the values after the last step."""
    model.jax_state_sync()
    model._jax_state = None


def sublayers(layer: Any) -> list[Any]:
    """The layers that a layer consists of."""
    return list(layer._layers)


def remove_adapter(layer: Any) -> None:
    """Remove the low-rank adapter of a Dense or EinsumDense; its kernel stays as it was before the adapter.

    Keras adds adapters and has no way to remove them.
    """
    for name in ("lora_kernel_a", "lora_kernel_b"):
        layer._untrack_variable(getattr(layer, name))
        setattr(layer, name, None)
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None


def weight_averages(optimizer: Any) -> list[tuple[Any, Any]]:
    """(weight, its moving average) for each weight of which an optimizer with `use_ema` keeps one.

    Only `SwapEMAWeights` reads them otherwise, and it swaps them in place.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "use_ema", False):
        return []
    pairs = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
    return [pair for pair in pairs if pair[1] is not None]


def has_averages_in_place(callback: Any) -> bool:
    """Whether a `SwapEMAWeights` has the moving averages in the model at the moment."""
    return bool(getattr(callback, "_ema_weights_in_model", False))


def learning_rate_schedule(optimizer: Any) -> Any:
    """The schedule of an optimizer; None if its rate is a number. `learning_rate` gives the current value of either."""
    import keras

    rate = getattr(optimizer, "_learning_rate", None)
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def learning_rate_variable(optimizer: Any) -> Any:
    """The variable that holds the rate of an optimizer without a schedule, to assign to it within a graph."""
    return optimizer._learning_rate


def position_of(optimizer: Any, variable: Any) -> int:
    """The position of a variable in the optimizer's list."""
    return int(optimizer._get_variable_index(variable))


def decays(optimizer: Any, variable: Any) -> bool:
    """Whether the optimizer decays a variable; `exclude_from_weight_decay` can be written, but not asked."""
    return bool(optimizer._use_weight_decay(variable))


def shared_momentum(optimizer: Any) -> Any:
    """The variable that Nadam's parallel update on PyTorch changes once for all variables; None for others."""
    return getattr(optimizer, "_u_product", None)


class OptimizerHooks:
    """Mixin before a Keras optimizer: the learning rate and the updates of several variables, to be overridden.

    Keras scales rates by a schedule for all variables alike, outside of which a public subclass reaches only
    `update_step`, of one variable; PyTorch's optimizers do not call that.
    """

    def current_rate(self, rate: Any) -> Any:
        """The learning rate of the next step.  rate: what Keras has for it."""
        return rate

    def update_many(self, update: Callable[..., None], gradients: Any, variables: Any, rate: Any) -> None:
        """Update several variables at once, on PyTorch.  update: Keras' own."""
        update(gradients, variables, rate)

    def decay_many(self, decay: Callable[..., None], variables: Any) -> None:
        """Decay the weights of several variables.  decay: Keras' own."""
        decay(variables)

    def _get_current_learning_rate(self) -> Any:
        return self.current_rate(super()._get_current_learning_rate())  # type: ignore[misc]

    def _parallel_update_step(self, grads: Any, variables: Any, learning_rate: Any) -> None:
        update = super()._parallel_update_step  # type: ignore[misc]
        self.update_many(update, grads, variables, learning_rate)

    def _apply_weight_decay(self, variables: Any) -> None:
        self.decay_many(super()._apply_weight_decay, variables)  # type: ignore[misc]


def save_and_load_quickly() -> None:
    """Have Keras find out once which attributes a plain layer has, instead of for each layer that it saves or loads.

    It remembers them under one name and looks for them under another (3.15), which is a third of the time.
    """
    from keras.src.backend.common import global_state
    from keras.src.saving import saving_lib

    for kind in ("Operation", "Layer", "Functional", "Sequential"):
        name = f"saving_attr_skiplist_{kind}"
        if global_state.get_global_attribute(name) is None:
            global_state.set_global_attribute(name, saving_lib.get_attr_skipset(kind))


def weights_as_hdf5(model: Any) -> bytes:
    """The content of the `.weights.h5` file of a model, made in memory.

    `save_weights` has HDF5 write to the disk, and HDF5 ends the process with a segmentation fault if the disk is full.
    """
    from keras.src.saving import saving_lib

    save_and_load_quickly()
    content = io.BytesIO()
    store = saving_lib.H5IOStore(content, mode="w")
    try:
        saving_lib._save_state(model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set())
    finally:
        store.close()
    return content.getvalue()


def progress_bar(callbacks: Any) -> Any:
    """The progress bar that a CallbackList made; None without one. It has no state to save."""
    return callbacks._progbar


def stop_training(callbacks: Any) -> None:
    """End `fit` from within a CallbackList. Its `model` would first copy all variables back on JAX."""
    callbacks._model.stop_training = True


def is_stopping(callbacks: Any) -> bool:
    """Whether `fit` is about to end, without copying variables."""
    return bool(callbacks._model.stop_training)


def finish_batch_ends(callbacks: Any) -> None:
    """Wait for the calls of `on_train_batch_end` that a CallbackList runs in other threads."""
    callbacks._flush_futures()


# --- TensorFlow -------------------------------------------------------------------------------------------------------


def gradient_registry() -> dict[str, Any]:
    """The gradients that TensorFlow has noted, by name; each keeps the graph of its function for ever.

    There is no public way to forget one, and a search traces one per trial. Empty if TensorFlow is not loaded.
    """
    if "tensorflow" not in sys.modules:
        return {}
    from tensorflow.python.framework import ops

    return getattr(ops.gradient_registry, "_registry", {})


def without_retracing_warning(function: Any) -> Any:
    """A `tf.function` that does not count to the warning of functions traced too often.

    TensorFlow warns of every fifth one that comes from the same line, whatever they are of.
    """
    function._omit_frequent_tracing_warning = True
    return function


# --- KerasTuner -------------------------------------------------------------------------------------------------------


class OracleHooks:
    """Mixin before an oracle of KerasTuner: its random draws and its memory of what was tried.

    A search that is resumed must draw what it drew before, so the seed follows the trial, and nothing is tried twice.
    """

    _max_collisions: int
    _random_state: Any
    _seed_state: int
    _tried_so_far: set[str]

    @property
    def retries(self) -> list[str]:
        """The trials that are to be handed out again, before any new one."""
        return self._retry_queue

    @retries.setter
    def retries(self, trials: list[str]) -> None:
        self._retry_queue = trials

    def set_most_collisions(self, count: int) -> None:
        """How often values may be drawn that were tried already, before the space counts as used up."""
        self._max_collisions = count

    def seed_draws(self, seed: int) -> None:
        """Begin all draws from a seed."""
        import numpy as np

        self._seed_state, self._random_state = seed, np.random.RandomState(seed % 2**32)

    @property
    def random_state(self) -> Any:
        """The generator of the draws."""
        return self._random_state

    def remember(self, values: Mapping[str, Any]) -> None:
        """Note that values were tried."""
        self._tried_so_far.add(self._compute_values_hash(values))  # type: ignore[attr-defined]

    def random_values(self, draw: Callable[[], Any]) -> Any:
        """Values at random, not tried before; None if there are none.  draw: KerasTuner's own."""
        return draw()

    def _random_values(self) -> Any:
        return self.random_values(super()._random_values)  # type: ignore[misc]

    def save_trial(self, trial: Any) -> None:
        """Called when a trial changes; KerasTuner would write a file."""

    def _save_trial(self, trial: Any) -> None:
        self.save_trial(trial)


class GridHooks:
    """Mixin before GridSearchOracle, which orders its combinations by the trials that have ended."""

    def note_ended(self, trial: str) -> None:
        """Let what follows a trial come next. KerasTuner does so in `end_trial`, which a resumed search replays."""
        self._populate_next.append(trial)  # type: ignore[attr-defined]


class BayesianHooks:
    """Mixin before BayesianOptimizationOracle: its Gaussian process, and the way between values and vectors."""

    def make_process(self, made: Any) -> Any:
        """The Gaussian process.  made: KerasTuner's own, all of whose length scales are one."""
        return made

    def _make_gpr(self) -> Any:
        return self.make_process(super()._make_gpr())  # type: ignore[misc]

    def first_values(self) -> dict[str, Any]:
        """The next trial, drawn at random."""
        return dict(self._random_populate_space())  # type: ignore[attr-defined]

    def vectors(self) -> tuple[Any, Any]:
        """The trials so far as points (N, D) in [0, 1], and their scores (N,), the lower the better."""
        return self._vectorize_trials()  # type: ignore[attr-defined]

    def values_at(self, point: Any) -> dict[str, Any]:
        """The values at a point."""
        return dict(self._vector_to_values(point))  # type: ignore[attr-defined]

    def was_tried(self, values: Mapping[str, Any]) -> bool:
        """Whether a trial had these values."""
        return bool(self._duplicate(values))  # type: ignore[attr-defined]


class HyperbandHooks:
    """Mixin before HyperbandOracle: the sizes of its brackets, which `max_trials` does not bound."""

    _current_bracket: int

    def begin_brackets(self) -> None:
        """Begin again with the largest bracket."""
        self._brackets: list[dict[str, Any]] = []
        self._start_new_bracket()  # type: ignore[attr-defined]

    @property
    def bracket(self) -> int:
        """The bracket that begins next, or goes on."""
        return self._current_bracket

    @bracket.setter
    def bracket(self, number: int) -> None:
        self._current_bracket = number

    def first_round(self) -> set[str]:
        """The trials of the first round of the bracket that goes on."""
        return {info["id"] for info in self._brackets[-1]["rounds"][0]}

    def sizes(self, bracket: int) -> list[int]:
        """Trials in each round of a bracket."""
        rounds = self._get_num_rounds(bracket)  # type: ignore[attr-defined]
        return [self._get_size(bracket, number) for number in range(rounds)]

    def round_size(self, size: int, round_number: int) -> int:
        """Trials in a round.  size: KerasTuner's own."""
        return size

    def after_bracket(self) -> None:
        """Called when the next bracket was chosen."""

    def is_duplicate(self, values: Mapping[str, Any]) -> bool:
        """Whether values are not to be tried again."""
        return False

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        return self.round_size(super()._get_size(bracket_num, round_num), round_num)  # type: ignore[misc]

    def _increment_bracket_num(self) -> None:
        super()._increment_bracket_num()  # type: ignore[misc]
        self.after_bracket()

    def _duplicate(self, values: Mapping[str, Any]) -> bool:
        return self.is_duplicate(values)


def skip_tensorboard(tuner: Any, function: Callable[..., None]) -> None:
    """Replace what one tuner does for TensorBoard before each trial.

    KerasTuner 1.4.8 imports tensorboard there, whether or not a callback needs it, and there is no setting for it.
    """
    tuner._configure_tensorboard_dir = function


# --- tf2onnx ----------------------------------------------------------------------------------------------------------


def number_names_from_the_start() -> None:
    """Have tf2onnx number the names in the next model from 1, so that a model gives the same file each time.

    Its counter runs on through the process, and nothing starts it again.
    """
    from tf2onnx import utils

    utils.INTERNAL_NAME = 1


# --- uvicorn ----------------------------------------------------------------------------------------------------------


def http_protocol_class() -> Any:
    """Uvicorn's HTTP protocol, of which `http=` takes a subclass; its methods and attributes are not documented."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    return HttpToolsProtocol


def body_has_arrived(receive: Any) -> bool:
    """Whether uvicorn's `receive` of a request returns at once; False if it may wait, or if it is not uvicorn's."""
    event = getattr(getattr(receive, "__self__", None), "message_event", None)
    return event is not None and bool(event.is_set())


def serve_in_processes(config: Any, sockets: list[Any]) -> None:
    """Run worker processes on sockets that listen already. `uvicorn.run(workers=...)` opens its own."""
    from uvicorn.supervisors.multiprocess import Multiprocess

    Multiprocess(config, sockets).run()
