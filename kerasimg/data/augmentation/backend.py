"""What differs among TensorFlow, JAX and PyTorch in the augmentation, and nothing else: compiling, loops, lookups.

The functions that are augmented with see a single image. On a CPU a compiled loop calls them image by image, so
that what passes between two operations fits the CPU's cache; on a GPU they are vectorised over the batch.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import keras
from keras import ops, tree

from kerasimg import keras_internals
from kerasimg.escaping import one_line
from kerasimg.log import warning

STATEFUL: Final = ("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "RandomShuffle")
"""TensorFlow's random operations that take no seed tensor."""

SMALL: Final = 64 * 64
"""Pixels of an image up to which PyTorch vectorises on a CPU, too: an operation takes less than its call."""

Compute = Callable[[], Sequence[Any]]


class Backend:
    """The functions that Keras' backends have each in its own way."""

    word = "uint32"
    """The type in which random words are computed."""
    described = ""
    """How `Augmentation.describe` puts it."""

    def wrapped(self, words: Any) -> Any:
        """Words after an addition or a shift to the left, of 32 bits again."""
        return words

    def vectorises(self) -> bool:
        """Whether images are augmented all at once: on a GPU."""
        raise NotImplementedError

    def compiled(self, function: Callable[..., Any], by_xla: bool = True) -> Callable[..., Any]:
        """A function of arrays, compiled where that pays. by_xla: False if XLA may lack one of its operations."""
        raise NotImplementedError

    def padded(self, rows: Any, count: Any, full: Any) -> Any:
        """Rows with zeros at the end, so that `full` rows are compiled for; `count` is their number now."""
        if isinstance(count, int) and count >= full:
            return rows
        return ops.pad(rows, [(0, full - count)] + [(0, 0)] * (len(rows.shape) - 1))

    def each(
        self, function: Callable[..., Any], rows: Any, count: Any, shape: tuple[int, ...], vectorise: bool = True
    ) -> Any:
        """`function` of each image, (N, *shape) float32.

        Args:
            function: of the rows of one image.
            rows: nested lists and tuples of arrays with a row an image.
            count: the number of images that are wanted; what follows them may be anything.
            shape: of what the function returns.
            vectorise: False for a function that may not be vectorised: a layer of Keras or of a user.
        """
        raise NotImplementedError

    def settled(self, known: Any, compute: Compute) -> list[Any]:
        """What `compute` gives, in full before it is used.

        XLA otherwise computes a value again for each of its uses: lookups for each use of a pixel, a hue for each
        channel. It sees through conditions, but not through a loop that runs as often as only the data knows: once.

        Args:
            known: a bool that is true, but not to the compiler.
            compute: may be called more than once.
        """
        if self.vectorises():
            return list(compute())
        times = ops.cast(known, "int32")
        empty = tree.map_structure(ops.zeros_like, tuple(compute()))
        made = ops.while_loop(
            lambda turn, *_: turn < times, lambda turn, *_: (turn + 1, *compute()), (ops.zeros_like(times), *empty)
        )
        return list(made[1:])

    def switch(self, index: Any, branches: Sequence[Callable[[], Any]]) -> Any:
        """What one of several functions returns."""
        return ops.switch(index, list(branches))

    def lookup(self, table: Any, places: Any) -> Any:
        """Rows of a table, at places that are known to be in it."""
        raise NotImplementedError

    def unseeded(self, made: Any) -> str | None:
        """The random operation, if there is one, that led to a tensor without the seeds that Keras hands out."""
        return None

    def seeded(self, seeds: Any) -> contextlib.AbstractContextManager[None]:
        """While it is open, what a layer draws by the backend's own global generator comes of these seeds."""
        return contextlib.nullcontext()


class TensorFlow(Backend):
    """Functions compiled by XLA, on the CPU, where TensorFlow has it; within tf.data or without."""

    @property
    def described(self) -> str:  # type: ignore[override]
        """Whether by XLA."""
        return "compiled by XLA" if self.has_xla() else "compiled without XLA, which this TensorFlow lacks"

    def vectorises(self) -> bool:
        """Never: it runs on the CPU, ahead of the step."""
        return False

    def compiled(self, function: Callable[..., Any], by_xla: bool = True) -> Callable[..., Any]:
        """By `tf.function`, which compiles again for each shape, but not for each number: those become tensors."""
        import tensorflow as tf

        as_written = tf.autograph.experimental.do_not_convert(function)
        compiled = tf.function(as_written, jit_compile=by_xla and self.has_xla())
        compiled = keras_internals.without_retracing_warning(compiled)
        return lambda *given: compiled(*(tf.constant(value) if isinstance(value, int) else value for value in given))

    def padded(self, rows: Any, count: Any, full: Any) -> Any:
        """Rows with zeros at the end; the number of rows need not be known in the graph."""
        import tensorflow as tf

        if isinstance(count, int) and isinstance(full, int):
            return super().padded(rows, count, full)
        sides = [[0, tf.maximum(full - count, 0)]] + [[0, 0]] * (len(rows.shape) - 1)
        padded = tf.cond(count < full, lambda: tf.pad(rows, sides), lambda: rows)
        padded.set_shape((None, *rows.shape[1:]))
        return padded

    def each(
        self, function: Callable[..., Any], rows: Any, count: Any, shape: tuple[int, ...], vectorise: bool = True
    ) -> Any:
        """A loop that ends after `count` images."""
        import tensorflow as tf

        def step(number: Any, done: Any) -> tuple[Any, Any]:
            return number + 1, done.write(number, function(*tree.map_structure(lambda row: row[number], rows)))

        first = tree.flatten(rows)[0]
        done = tf.TensorArray(tf.float32, size=tf.shape(first)[0], element_shape=shape)
        _, done = tf.while_loop(lambda number, _: number < count, step, (tf.constant(0), done))
        return tf.ensure_shape(done.stack(), (first.shape[0], *shape))

    def lookup(self, table: Any, places: Any) -> Any:
        """A gather."""
        import tensorflow as tf

        return tf.gather(table, places)

    def unseeded(self, made: Any) -> str | None:
        """The first of the graph."""
        kinds = (operation.type for operation in made.graph.get_operations())
        return next((kind for kind in kinds if kind in STATEFUL), None)

    @functools.cache  # noqa: B019 - there is a single backend
    def has_xla(self) -> bool:
        """Whether this TensorFlow compiles for the CPU by XLA; else its graphs do the same, more slowly."""
        import tensorflow as tf

        try:
            with tf.device("CPU:0"):
                tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1.0))
        except (tf.errors.OpError, NotImplementedError):
            return False
        return True


class Jax(Backend):
    """Functions compiled by XLA for the device that trains, also within a training step."""

    described = "compiled by XLA"

    @functools.cache  # noqa: B019 - there is a single backend
    def vectorises(self) -> bool:
        """Except on a CPU."""
        import jax

        return jax.default_backend() != "cpu"

    def compiled(self, function: Callable[..., Any], by_xla: bool = True) -> Callable[..., Any]:
        """By `jax.jit`; what JAX cannot trace, as Keras' RandomElasticTransform, runs step by step."""
        import jax

        compiled = jax.jit(function)
        if by_xla:
            return compiled
        traceable = True

        def run(*arrays: Any) -> Any:
            nonlocal traceable
            if traceable:
                try:
                    return compiled(*arrays)
                except Exception as error:
                    if not is_about_tracing(error):
                        raise
                    traceable = False
                    warning(f"augment: JAX cannot compile this, so it runs step by step and slowly ({_reason(error)})")
            with jax.disable_jit():
                return function(*arrays)

        return run

    def each(
        self, function: Callable[..., Any], rows: Any, count: Any, shape: tuple[int, ...], vectorise: bool = True
    ) -> Any:
        """A loop, or all at once."""
        import jax

        if vectorise and self.vectorises():
            return jax.vmap(function)(*rows)
        return jax.lax.map(lambda row: function(*row), tuple(rows))

    def lookup(self, table: Any, places: Any) -> Any:
        """A gather without a check of the places."""
        return table.at[places].get(mode="promise_in_bounds")


def is_about_tracing(error: BaseException | None) -> bool:
    """Whether JAX raised an error because a function needs values, or shapes made of them, while it is compiled.

    Keras replaces an error within a layer, often by one of another class; the error of JAX is its context.
    """
    import jax

    tracing = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)
    while error is not None and not isinstance(error, tracing):
        error = error.__cause__ or error.__context__
    return error is not None


def _reason(error: BaseException) -> str:
    """The first line of an error, cut to a line of a log."""
    return one_line(next(iter(str(error).strip().splitlines()), type(error).__name__))[:160]


class Torch(Backend):
    """Functions as they are written, one operation after the other."""

    word = "int64"
    described = "by PyTorch"

    def wrapped(self, words: Any) -> Any:
        """The lower 32 bits: PyTorch computes little with unsigned integers."""
        return words & 0xFFFFFFFF

    def vectorises(self) -> bool:
        """On a GPU; see also `each`."""
        return bool(ops.zeros(()).device.type != "cpu")

    def compiled(self, function: Callable[..., Any], by_xla: bool = True) -> Callable[..., Any]:
        """Without gradients."""
        import torch

        return torch.no_grad()(function)

    def padded(self, rows: Any, count: Any, full: Any) -> Any:
        """As they are: nothing is compiled."""
        return rows

    def each(
        self, function: Callable[..., Any], rows: Any, count: Any, shape: tuple[int, ...], vectorise: bool = True
    ) -> Any:
        """A loop over large images on a CPU, where a choice computes what was chosen alone; else all at once."""
        import torch

        if vectorise and (self.vectorises() or math.prod(shape[:2]) <= SMALL):
            return torch.vmap(function)(*rows)
        return ops.stack([function(*tree.map_structure(lambda row, k=k: row[k], rows)) for k in range(count)])

    def switch(self, index: Any, branches: Sequence[Callable[[], Any]]) -> Any:
        """The one alone in a loop; all of them where images are vectorised, as each needs another one."""
        try:
            number = int(index)
        except RuntimeError:
            return self.lookup(ops.stack([branch() for branch in branches]), ops.reshape(index, (1,)))[0]
        return branches[number]()

    @contextlib.contextmanager
    def seeded(self, seeds: Any) -> Iterator[None]:
        """Keras' RandomElasticTransform draws by PyTorch's global generator."""
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(int(seeds[0][0]))
            yield

    def settled(self, known: Any, compute: Compute) -> list[Any]:
        """At once, as everything is."""
        return list(compute())

    def lookup(self, table: Any, places: Any) -> Any:
        """An index."""
        return table[places]


BACKENDS: dict[str, type[Backend]] = {"tensorflow": TensorFlow, "jax": Jax, "torch": Torch}
BACKEND = BACKENDS[keras.backend.backend()]()
