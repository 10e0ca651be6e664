"""Features of images, computed once: read from disk, else computed by the engine and stored.

They are stored as float16, whose rounding (at most 1 part in 2,048) is below that of an engine in bfloat16; as float32
if a value does not fit. A row depends on its image alone: the engine always gets padded batches of one size, so that a
resumed run gets the same numbers.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal, TypeVar

import keras
import numpy as np

from kerasimg import log
from kerasimg.backend import BACKENDS, versions
from kerasimg.data.augment import Augmentation
from kerasimg.data.batches import Arrays, Signature, encode_labels, labels_for
from kerasimg.data.cache import about_pixels, open_cache
from kerasimg.data.loading import Loader
from kerasimg.data.pipeline import Targets, batches, own_errors
from kerasimg.data.readers.image_store import content_key
from kerasimg.data.shuffling import Order
from kerasimg.data.source import Source
from kerasimg.errors import counted
from kerasimg.models.compiled_predict import Run, final_outputs_of, has_gpu, images_at_once
from kerasimg.models.inference import Engine
from kerasimg.models.own_layers import own_layer_names
from kerasimg.models.split_model import Split
from kerasimg.spec.document import Image
from kerasimg.training.deadline import NEVER, Deadline
from kerasimg.training.feature_files import Found, Store, row_keys

Stored = Literal["float16", "float32"]

BATCH = 64
"""Batch size of the engine on a CPU."""
GPU_BATCH = 512
"""The same on a GPU, at most; `_batch_size` makes it smaller for large images."""
GPU_BATCH_BYTES = 2**30
"""Largest size of a batch of float32 images on a GPU; what a network holds at once is a multiple of it."""
AT_ONCE = 2
"""Batches that the engine computes in parallel."""
ROWS_PER_FILE = 8192
BYTES_PER_FILE = 64 * 1024**2
LARGEST: dict[Stored, float] = {"float16": 65504.0, "float32": math.inf}
"""The largest number that can be stored."""
SAFE = 4096.0
"""If the features of the first images are all below it, float16 (up to 65,504) is used."""
REPORT_S = 4.0
"""Seconds between two progress messages; what takes less has none."""

T = TypeVar("T")
R = TypeVar("R")


class DoesNotFit(Exception):
    """A feature is beyond float16."""


class Exact:
    """A frozen part in float32 for evaluation: the form of a trained model's pass."""

    def __init__(self, split: Split) -> None:
        self.split = split

    @property
    def name(self) -> str:
        """As of an engine; to the last digit the numbers are those of a backend and its version."""
        backend = keras.backend.backend()
        return f"exact, {backend} {', '.join(versions((BACKENDS[backend],)).values())}"

    @cached_property
    def at_once(self) -> int:
        """As of an engine."""
        return images_at_once(self.split.frozen) if keras.backend.backend() == "tensorflow" else 0

    @cached_property
    def run(self) -> Run:
        """Images -> the seam; compiled when it is used first."""
        return final_outputs_of(self.split.frozen)

    def compute(self, images: Any) -> list[np.ndarray]:
        """The seam as arrays, of a full batch."""
        return self.run(images, len(images))


@dataclass(frozen=True)
class Recipe:
    """All that features depend on, except the images."""

    engine: Engine | Exact
    image: Image
    stored: Stored
    augment: Sequence[Any] = ()
    """The layers of the spec; empty: no augmentation."""
    augmentation: Augmentation | None = None
    """The same, compiled."""
    seed: int = 0
    batch_size: int = BATCH
    targets: Targets = "sparse"

    @property
    def exact(self) -> bool:
        """Whether the images are decoded exactly, as for an evaluation."""
        return isinstance(self.engine, Exact)

    @property
    def blends(self) -> bool:
        """Whether a row depends on its batch, and has its own labels."""
        return self.augmentation is not None and self.augmentation.blends

    @property
    def form(self) -> dict[str, Any]:
        """What features depend on, except the images and how they are decoded and augmented."""
        split, engine = self.engine.split.digest, self.engine.name
        return {"kerasimg": version("kerasimg"), "frozen": split, "engine": engine, "stored": self.stored}

    def about(self, source: Source, indices: np.ndarray) -> dict[str, Any]:
        """Returns what identifies the folder of the rows."""
        about = {**self.form, "pixels": about_pixels(self.image, exact=self.exact)}
        if self.augmentation is not None:
            layers = [[name, dict(arguments)] for name, arguments in self.augment]
            about |= {"augment": layers, "seed": self.seed, "own": own_layer_names(self.augmentation.keras_layers)}
        if self.blends:
            labels = hashlib.sha256(labels_for(source, indices, self.targets).tobytes())
            labels.update(np.ascontiguousarray(source.keys(indices)).tobytes())
            about |= {"batch_size": self.batch_size, "targets": self.targets, "images": labels.hexdigest()}
            about["label_shape"] = self.label_shape(source)
        return about

    def label_shape(self, source: Source) -> tuple[int, ...]:
        """Returns the shape of the label of an image."""
        label = labels_for(source, np.arange(1), self.targets)
        return encode_labels(label, self.targets, len(source.classes)).shape[1:]


@dataclass
class Rows:
    """Features of n images, in each of their views: row view * n + position."""

    parts: list[np.ndarray]
    """One array per tensor of the seam, (views * n, ...), in memory."""
    labels: np.ndarray | None
    """Labels of blended images, (views * n, K)."""
    count: int
    reused: int
    """Number of rows that were on disk."""
    computed: int
    seconds: float
    """Time of the computation."""
    on_disk: bool
    """Whether all rows are on disk now."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(part.nbytes for part in self.parts)


class FeatureBatches:
    """Batches of features: float32, one array per tensor of the seam, then labels and, if there are any, weights.

    Epoch e uses view e modulo the number of views.
    """

    def __init__(
        self, rows: Rows, labels: np.ndarray, classes: int, order: Order, targets: Targets, weights: np.ndarray | None
    ) -> None:
        """labels: from `labels_for`."""
        self.rows, self.labels, self.classes, self.order = rows, labels, classes, order
        self.targets, self.weights = targets, weights
        self.views = len(rows.parts[0]) // rows.count
        label = self._encode(np.arange(1), np.arange(1))
        self.at_once = 2
        self.signature: Signature = [
            *((part.shape[1:], np.dtype(np.float32)) for part in rows.parts),
            (label.shape[1:], label.dtype),
            *([] if weights is None else [((), np.dtype(np.float32))]),
        ]

    def _encode(self, positions: np.ndarray, places: np.ndarray) -> np.ndarray:
        if self.rows.labels is not None:
            return self.rows.labels[places]
        return encode_labels(self.labels[positions], self.targets, self.classes)

    def load(self, number: int) -> Arrays:
        """Features, labels, and weights if there are any."""
        epoch, positions = self.order.batch(number)
        places = epoch % self.views * self.rows.count + positions
        features = (part[places].astype(np.float32) for part in self.rows.parts)
        arrays = *features, self._encode(positions, places)
        return arrays if self.weights is None else (*arrays, self.weights[positions])

    def finish(self, *tensors: Any) -> tuple[Any, ...]:
        """(x, y) or (x, y, w); x is a tuple if the seam has several tensors."""
        count = len(self.rows.parts)
        return (tensors[:count] if count > 1 else tensors[0], *tensors[count:])


def stored_as(features: Sequence[np.ndarray]) -> Stored:
    """Returns the type in which features like these are stored."""
    return "float16" if max(float(np.abs(array).max(initial=0)) for array in features) < SAFE else "float32"


@own_errors()
def rows_of(
    recipe: Recipe,
    source: Source,
    indices: np.ndarray,
    views: int,
    cache: Any,
    what: str,
    deadline: Deadline = NEVER,
) -> Rows:
    """Returns the features of images, in `views` views if the recipe augments, else in one.

    If one of them does not fit the type in which they were to be stored, all are float32.

    what: names the images in the messages.  deadline: when it passes, or the user asks to stop, the features so far are
    stored and OutOfTime or Interrupted is raised.
    """
    try:
        return _rows(recipe, source, indices, views, cache, what, deadline)
    except DoesNotFit:
        return _rows(replace(recipe, stored="float32"), source, indices, views, cache, what, deadline)


def _rows(
    recipe: Recipe, source: Source, indices: np.ndarray, views: int, cache: Any, what: str, deadline: Deadline
) -> Rows:
    """As `rows_of`; DoesNotFit if a feature is beyond what can be stored."""
    store = Store(recipe.about(source, indices))
    shapes = recipe.engine.split.shapes
    count = len(indices)
    total = count * (views if recipe.augmentation else 1)
    rows = Rows([np.empty((total, *shape), recipe.stored) for shape in shapes], None, count, 0, 0, 0.0, True)
    if recipe.blends:
        rows.labels = np.empty((total, *recipe.label_shape(source)), np.float32)
    content = source.keys(indices)
    for view in range(total // count):
        numbers = view * 2**32 + np.arange(count) if recipe.augmentation else None
        _fill_view(recipe, store, source, indices, row_keys(content, numbers), view, rows, cache, what, deadline)
    return rows


def _fill_view(
    recipe: Recipe,
    store: Store,
    source: Source,
    indices: np.ndarray,
    keys: np.ndarray,
    view: int,
    rows: Rows,
    cache: Any,
    what: str,
    deadline: Deadline,
) -> None:
    """Fills one view of all images: reads what is on disk, computes and stores the rest."""
    first = view * len(indices)
    locations = store.find(keys)
    stored = locations.files >= 0
    if recipe.blends and not stored.all():
        stored[:] = False  # a blended row depends on its batch
    named = {str(part): array for part, array in enumerate(rows.parts)}
    _copy_found(locations, stored, named if rows.labels is None else {**named, "labels": rows.labels}, first)
    rows.reused += int(stored.sum())
    missing = np.flatnonzero(~stored)
    if not len(missing):
        return
    started, reported, fresh = time.perf_counter(), time.perf_counter(), []
    views = len(rows.parts[0]) // rows.count
    warm, warm_done = started, 0
    if view == 0:
        log.info(
            f"computing features of {len(missing):,} {what}"
            + (f", {counted(views, 'view')} of each" if views > 1 else "")
        )
    each = max(1, min(ROWS_PER_FILE, BYTES_PER_FILE // max(1, rows.nbytes // len(rows.parts[0]))))
    done = 0
    computed = _computed(recipe, source, indices, missing, view, cache)
    for batch, (places, features, labels) in enumerate(computed, 1):
        for array, values in zip(rows.parts, features, strict=True):
            with np.errstate(over="ignore"):
                array[first + places] = values
            if recipe.stored == "float16" and not np.isfinite(array[first + places]).all():
                raise DoesNotFit
        if rows.labels is not None and labels is not None:
            rows.labels[first + places] = labels
        fresh.append(places)
        done += len(places)
        late = deadline.interrupted or deadline.left_s <= 0
        if late or sum(map(len, fresh)) >= each:
            rows.on_disk &= _keep(store, keys, rows, first, np.concatenate(fresh))
            fresh = []
        if late:
            deadline.check(f"the features of the {what} were computed")
        now = time.perf_counter()
        if batch == AT_ONCE:
            warm, warm_done = now, done  # the first batches also compile the engine: no estimate includes them
        first_estimate = view == 0 and batch == 2 * AT_ONCE
        if first_estimate or now - reported > REPORT_S:
            which = f"{what}, view {view + 1} of {views}" if views > 1 else what
            line = f"features of {which}: {done:,} of {len(missing):,}"
            left_s = math.inf
            if batch >= 2 * AT_ONCE:
                rate = (done - warm_done) / max(now - warm, 1e-9)
                left_s = (len(missing) - done + (views - 1 - view) * rows.count) / rate
                left = f"{left_s:,.0f} s" if left_s < 100 else f"{left_s / 60:,.0f} minutes"
                line += f", {rate:,.{0 if rate >= 10 else 1}f} images/s, about {left} left"
            if left_s > REPORT_S and done < len(missing):
                reported = now
                log.info(line)
    if fresh:
        rows.on_disk &= _keep(store, keys, rows, first, np.concatenate(fresh))
    rows.computed += done
    rows.seconds += time.perf_counter() - started


def _keep(store: Store, keys: np.ndarray, rows: Rows, first: int, places: np.ndarray) -> bool:
    arrays = {str(part): array[first + places] for part, array in enumerate(rows.parts)}
    if rows.labels is not None:
        arrays["labels"] = rows.labels[first + places]
    return store.add(keys[places], arrays)


def _computed(
    recipe: Recipe, source: Source, indices: np.ndarray, missing: np.ndarray, view: int, cache: Any
) -> Iterator[tuple[np.ndarray, list[np.ndarray], np.ndarray | None]]:
    """Yields positions of images, their features and, for blended images, their labels."""
    if recipe.augmentation is None:
        loader = Loader(source, indices, recipe.image, open_cache(cache), exact=recipe.exact)
        for places, features in _of_pixels(recipe, loader.load, missing):
            yield places, features, None
        return
    size = recipe.batch_size if recipe.blends else _batch_size(recipe.image)
    # Augmentation depends on the position among all images, so that view e equals epoch e.
    images = batches(
        source,
        indices,
        recipe.image,
        batch_size=size,
        shuffle=recipe.blends,  # or partners would mostly be of one class
        seed=recipe.seed,
        augment=recipe.augmentation,
        first_epoch=view,
        sample_weight=np.arange(len(indices)),  # to find each image again
        blend_weights=False,
        cache=cache,
        exact=False,
        targets=recipe.targets,
    )
    wanted = np.zeros(len(indices), bool)
    wanted[missing] = True
    as_array = keras.ops.convert_to_numpy

    def run(batch: Any) -> list[np.ndarray]:
        return _in_full_batches(recipe.engine, as_array(batch[0]), size)

    for (_, labels, numbers), features in _side_by_side(run, images):
        places = np.rint(as_array(numbers)).astype(np.int64)
        chosen = wanted[places]
        if chosen.any():
            yield places[chosen], [array[chosen] for array in features], as_array(labels)[chosen]


def _of_pixels(
    recipe: Recipe, load: Callable[[np.ndarray], np.ndarray], wanted: np.ndarray
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yields some of the wanted places, and the features of the images that are loaded for them, (N, H, W, C) uint8."""
    size = _batch_size(recipe.image)
    as_floats = keras.backend.backend() == "tensorflow"

    def read(places: np.ndarray) -> list[np.ndarray]:
        pixels = load(places)
        return _in_full_batches(recipe.engine, pixels.astype(np.float32) if as_floats else pixels, size)

    return _side_by_side(read, [wanted[start : start + size] for start in range(0, len(wanted), size)])


def _batch_size(image: Image) -> int:
    """The batch size of the engine."""
    if not has_gpu():
        return BATCH
    return max(1, min(GPU_BATCH, GPU_BATCH_BYTES // (4 * math.prod((*image.size, image.channels)))))


def _in_full_batches(engine: Engine | Exact, images: np.ndarray, size: int) -> list[np.ndarray]:
    """Runs the engine on images, and on black ones that fill what it computes at once."""
    short = -len(images) % (engine.at_once or size)
    filled = np.concatenate([images, np.zeros((short, *images.shape[1:]), images.dtype)]) if short else images
    return [array[: len(images)] for array in engine.compute(filled)]


def rows_of_pixels(recipe: Recipe, pixels: np.ndarray) -> list[np.ndarray]:
    """As the parts of `rows_of`, of images as the network takes them, (N, H, W, C) uint8, that no source has."""
    store = Store({**recipe.form, "pixels": "as they are"})
    keys = row_keys(np.array([content_key(image) for image in pixels]))
    found = store.find(keys)
    rows = [np.empty((len(pixels), *shape), recipe.stored) for shape in recipe.engine.split.shapes]
    named = {str(part): array for part, array in enumerate(rows)}
    _copy_found(found, found.files >= 0, named)
    missing = np.flatnonzero(found.files < 0)
    for places, features in _of_pixels(recipe, pixels.__getitem__, missing):
        for array, values in zip(rows, features, strict=True):
            array[places] = np.clip(values, -LARGEST[recipe.stored], LARGEST[recipe.stored])
    if len(missing):
        store.add(keys[missing], {part: array[missing] for part, array in named.items()})
    return rows


def _copy_found(found: Found, wanted: np.ndarray, rows: Mapping[str, np.ndarray], first: int = 0) -> None:
    """Copies the rows on disk that are wanted, (N,) bool, to their places in these arrays, from `first` on."""
    for number, arrays in enumerate(found.arrays):
        places = np.flatnonzero(wanted & (found.files == number))
        for name, array in rows.items():
            array[first + places] = arrays[name][found.rows[places]]


def _side_by_side(function: Callable[[T], R], things: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Yields each thing with function(thing), in order.

    Two run in parallel: while one is in a step that uses a single core, the other uses the rest.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting: deque[tuple[T, Future[R]]] = deque()
        for thing in things:
            waiting.append((thing, pool.submit(function, thing)))
            if len(waiting) > AT_ONCE:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
