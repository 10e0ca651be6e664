"""Measures how fast images become batches on this machine, which step is slowest, and what to change.

Each step runs alone on a sample of the images, on all threads; then the whole pipeline runs as in training. The steps
share the cores, so the time per image in the first epoch is about the sum of theirs. Where worker processes decode,
reading, decoding and resizing are measured on one thread, and the rate is multiplied by the number of workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kerasimg.data.augment import Augmentation, compile_augment
from kerasimg.data.bands import read_bands
from kerasimg.data.cache import Cache, memory_room
from kerasimg.data.fast_decode import decode_fast, only_decode
from kerasimg.data.image_files import BadImage, open_image, read_pixels
from kerasimg.data.items import ImageInput, fault
from kerasimg.data.loading import in_memory
from kerasimg.data.memory import require_room
from kerasimg.data.parallel import cores, each
from kerasimg.data.pipeline import Targets, batches, own_errors
from kerasimg.data.shuffling import permutation
from kerasimg.data.source import Source
from kerasimg.data.worker_pool import worker_count
from kerasimg.spec.document import Image

SAMPLE = 512
"""Images that are measured."""
LEAST_S = 0.5
"""Shortest duration of a measurement, in seconds."""
WARM = 3
"""Warm-up batches."""
LARGE = 6.0
"""From this ratio of image size to input size, each way, it pays to resize the files once."""

BATCHES_IN_WORK = 16
"""Batches of bytes that must fit into memory besides the sample; four of them are one batch of floats."""


@dataclass(frozen=True)
class Bench:
    """Images per second, for each step and for the whole pipeline."""

    images: int
    """Images measured."""
    of: int
    threads: int
    batch_size: int
    size: tuple[int, int]
    parts: dict[str, float]
    """read, decode, resize, augment, copy -> images per second; math.inf if it takes no time."""
    first_epoch: float
    from_cache: float
    bound: str
    """The slowest step of the first epoch."""
    bound_cached: str
    """The slowest step of later epochs: augment or copy."""
    workers: int = 0
    """Processes that decode; 0: threads."""
    advice: list[str] = field(default_factory=list)
    augmentation: str = ""
    cache: str = ""
    """Where `--cache auto` would store decoded images: memory or disk."""

    def share(self, part: str) -> float:
        """The step's share of the time per image in the first epoch, in [0, 1]."""
        return (1 / self.parts[part]) / sum(1 / rate for rate in self.parts.values())

    def summary(self) -> str:
        """One line, printed when training starts."""
        return (
            f"images: {self.first_epoch:,.0f} a second in the first epoch ({self.bound} takes "
            f"{self.share(self.bound):.0%}), {self.from_cache:,.0f} from the cache ({self.cache}; {self.bound_cached})"
        )

    def as_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON; null if a step takes no time."""
        values = asdict(self)
        values["parts"] = {name: None if math.isinf(rate) else rate for name, rate in self.parts.items()}
        return values | {"shares": {name: self.share(name) for name in self.parts}}


@own_errors()
def measure(
    source: Source,
    image: Image,
    augment: Sequence[Any] = (),
    *,
    batch_size: int = 32,
    targets: Targets = "sparse",
    images: int = SAMPLE,
    threads: int | None = None,
    workers: int | None = None,
) -> Bench:
    """Measures the pipeline on a sample of the images.

    Args:
        source: the images.
        image: the spec's `image` section.
        augment: the layers of a spec, as (name, arguments).
        batch_size: images per batch.
        targets: the form of the labels.
        images: size of the sample.
        threads: threads that decode; None: one per core.
        workers: processes that decode; 0: threads; None: see `worker_pool.worker_count`.

    Raises:
        DataError: if an image of the sample cannot be read.
    """
    threads = threads or cores()
    indices = np.sort(permutation(len(source), 0, 0)[:images])
    batch_size = min(batch_size, len(indices))
    require_room(image, len(indices) + BATCHES_IN_WORK * batch_size, "measure fewer (--images)")
    augmentation = compile_augment(augment, image, 0)
    workers = 0 if in_memory(source.columns.images) else worker_count(workers, len(source))
    common: dict[str, Any] = {"batch_size": batch_size, "targets": targets, "threads": threads, "workers": workers}
    cache = Cache("memory")
    parts = _parts(source, indices, image, 1 if workers else threads)
    parts = {name: rate * max(1, workers) for name, rate in parts.items()}
    copying = _whole(source, indices, image, None, cache, **common)
    cached = _whole(source, indices, image, augmentation, cache, **common) if augmentation else copying
    parts |= {"augment": _difference(cached, copying), "copy": copying}
    first = _whole(source, indices, image, augmentation, **common)
    fits = len(source) * image.size[0] * image.size[1] * image.channels <= memory_room()
    bound = max(parts, key=lambda name: 1 / parts[name])
    later = max(("augment", "copy"), key=lambda name: 1 / parts[name])
    return Bench(
        images=len(indices),
        of=len(source),
        threads=threads,
        workers=workers,
        batch_size=batch_size,
        size=(image.size[0], image.size[1]),
        parts=parts,
        first_epoch=first,
        from_cache=cached,
        bound=bound,
        bound_cached=later,
        advice=_advice(source, indices, image, bound, parts, fits),
        augmentation="" if augmentation is None else augmentation.describe(),
        cache="memory" if fits else "disk",
    )


def _parts(source: Source, indices: np.ndarray, image: Image, threads: int) -> dict[str, float]:
    """Images per second of reading, decoding and resizing."""

    def read(index: int) -> ImageInput:
        img = source.columns.image(index)
        if isinstance(img, str):
            with open_image(img) as file:
                return file.read()
        return img

    def decode(content: ImageInput) -> None:
        if image.channels > 3:
            read_bands(content, image.channels, image.range)
            return
        if not isinstance(content, bytes) or not only_decode(content, image):
            read_pixels(content)

    numbers = indices.tolist()
    try:
        contents = list(each(read, numbers, threads))
        list(each(lambda content: decode_fast(content, image), contents, threads))
    except BadImage as error:
        _name(source, numbers, image)
        raise fault(source.where, "", error.reason) from error
    reading = _rate(lambda: _run(read, numbers, threads), len(numbers))
    decoding = _rate(lambda: _run(decode, contents, threads), len(numbers))
    both = _rate(lambda: _run(lambda content: decode_fast(content, image), contents, threads), len(numbers))
    return {"read": reading, "decode": decoding, "resize": _difference(both, decoding)}


def _whole(
    source: Source,
    indices: np.ndarray,
    image: Image,
    augmentation: Augmentation | None,
    cache: Cache | None = None,
    **common: Any,
) -> float:
    """Images per second of batches; from the cache, which is filled first, if there is one."""
    options: dict[str, Any] = {"shuffle": True, "exact": False, "cache": cache or "off", **common}
    for _ in batches(source, indices, image, **options) if cache else ():
        pass
    endless = iter(batches(source, indices, image, augment=augmentation, epochs=None, **options))
    for _ in range(WARM):  # compilation happens once and does not count
        next(endless)
    start = time.perf_counter()
    done = 0
    while (taken := time.perf_counter() - start) < LEAST_S or done < len(indices):
        done += len(next(endless)[0])
    return done / taken


def _run(function: Callable[[Any], Any], things: Sequence[Any], threads: int) -> None:
    for _ in each(function, things, threads):
        pass


def _rate(work: Callable[[], None], count: int) -> float:
    """Images per second: the best of at least three runs, repeated for `LEAST_S`."""
    best, began, turns = math.inf, time.perf_counter(), 0
    while turns < 3 or time.perf_counter() - began < LEAST_S:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        turns += 1
    return count / best


def _difference(together: float, alone: float) -> float:
    """The rate of the step that `together` has and `alone` lacks."""
    rest = 1 / together - 1 / alone
    return 1 / rest if rest > 0 else math.inf


def _name(source: Source, numbers: Iterable[int], image: Image) -> None:
    """Raise the error for the first image that cannot be read."""
    for index in numbers:
        try:
            decode_fast(source.columns.image(index), image)
        except BadImage as error:
            raise fault(source.where, source.columns.id(index), error.reason) from error


def _advice(
    source: Source, indices: np.ndarray, image: Image, bound: str, parts: dict[str, float], fits: bool
) -> list[str]:
    advice = []
    if bound in ("decode", "resize"):
        if (ratio := _ratio(source, indices, image)) > LARGE:
            advice.append(
                f"the images are {ratio:.0f} times larger than {image.size[0]}x{image.size[1]}, each way; "
                "resize the files once, and every run decodes faster"
            )
        keeping = "in memory" if fits else "on disk (--cache auto)"
        advice.append(f"decoded once: from the second epoch on they come from the cache, {keeping}")
    elif bound == "read":
        advice.append("keep the images on a faster disk, or as shards; --cache disk keeps what was decoded")
    elif bound == "augment":
        advice.append("fewer augmentation layers, or those that are fused (docs/augmentation.md)")
    if parts["augment"] < parts["copy"] / 20:
        advice.append("the augmentation bounds later epochs, too")
    return advice


def _ratio(source: Source, indices: np.ndarray, image: Image) -> float:
    """Median ratio of image size to input size, each way."""
    if image.channels > 3:
        return 1.0
    ratios: list[float] = []
    for index in indices[:64].tolist():
        pixels = read_pixels(source.columns.image(index))
        height, width = pixels.height, pixels.width
        ratios.append(math.sqrt(height * width / (image.size[0] * image.size[1])))
    return float(np.median(ratios))
