"""Checks that every image can be read, before the first epoch.

Each image is read once: to hash its bytes, to decode it, and to fill the cache, if there is one. Readable images are
recorded in the ledger and not read again until the file changes.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal, NamedTuple, get_args

import numpy as np

from kerasimg import log
from kerasimg.data.cache import Cache
from kerasimg.data.decode_worker import Task, decode_and_hash, section_text
from kerasimg.data.image_files import NO_HEIC, BadImage
from kerasimg.data.items import Bad, ManyFaults
from kerasimg.data.ledger import Ledger
from kerasimg.data.loading import in_memory
from kerasimg.data.parallel import Progress as Progress
from kerasimg.data.parallel import Tally, each
from kerasimg.data.source import Source
from kerasimg.data.sources import is_in_memory
from kerasimg.data.worker_pool import IMAGES_PER_TASK, Memories, worker_count, worker_pool
from kerasimg.errors import Fault, check_choice, counted, listed
from kerasimg.spec.document import Image

OnBadImage = Literal["fail", "skip"]
LEAVE_OUT = 'repair or remove them, or leave them out: --on-bad-image skip (in Python: on_bad_image="skip")'
PATIENCE_S = 2.0
"""A scan reports progress after this time."""
INTERVAL_S = 2.0
"""Time between two progress reports."""
NOTED = 20_000
"""Images after which the ledger is written, so that an interrupted scan does not start again from the beginning."""


class Result(NamedTuple):
    """The result of scanning one image."""

    sha256: bytes
    """The raw digest of its bytes; empty if it cannot be read."""
    reason: str
    """Why it cannot be read; "" if it can."""


def scan(
    source: Source,
    image: Image | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cache: Cache | None = None,
    ledger: Ledger | None = None,
    workers: int | None = None,
) -> list[Bad]:
    """Decodes every image and returns those that cannot be read, with the reason, in the order of the source.

    Args:
        source: the images.
        image: also resize the images, as training will.
        threads: None: one per core.
        progress: called at intervals, after the first two seconds, and at the end of such a scan.
        cache: stores the pixels, for `image`.
        ledger: images that it knows are not read; the others are added.
        workers: worker processes that decode; 0: threads; None: see `worker_count`.
    """
    if image is not None:
        source.require_channels(image)
    keys = None if cache is None and ledger is None else source.keys()
    known = None if keys is None or ledger is None else ledger.find(keys)
    asked = np.arange(len(source)) if known is None else np.flatnonzero(~known.known)
    rows = None
    if cache is not None and keys is not None and image is not None and len(asked):
        rows = cache.rows(keys, image, exact=False)

    def look(index: int) -> Result:
        try:
            pixels, digest = decode_and_hash(source.columns.image(index), image)
        except BadImage as error:
            return Result(b"", error.reason)
        finally:
            tally.add()
        if rows is not None and pixels is not None:
            rows.write(index, pixels)
        return Result(digest, "")

    count = 0 if in_memory(source.columns.images) else worker_count(workers, len(asked))
    memories = Memories(2 * count)

    def look_by_worker(indices: Sequence[int]) -> list[Result]:
        """Look at some images in a worker process; at those that are not files in this thread."""
        images: dict[int, str | bytes] = {}
        results: dict[int, Result] = {}
        for place, index in enumerate(indices):
            try:
                img = source.columns.image(index)
            except BadImage as error:
                results[place] = Result(b"", error.reason)
                continue
            if isinstance(img, np.ndarray):
                results[place] = look(index)
            else:
                images[place] = img
        pixels, memory = None, None
        if rows is not None and image is not None:
            pixels, memory = memories.take((len(indices), *image.size, image.channels))
        number = -1 if memory is None else memory.number
        task = Task(section, False, list(images.values()), number, list(images), digest=True)
        for place, digest in zip(images, worker_pool(count).run(task, memory) if images else (), strict=True):
            if isinstance(digest, BadImage):
                results[place] = Result(b"", digest.reason)
            elif isinstance(digest, Exception):
                raise digest
            else:
                results[place] = Result(digest, "")
                if rows is not None and pixels is not None:
                    rows.write(indices[place], pixels[place])
            tally.add()
        return [results[place] for place in range(len(indices))]

    def look_at_all(indices: list[int]) -> Iterator[Result]:
        if not count:
            return each(look, indices, threads)
        parts = [indices[start : start + IMAGES_PER_TASK] for start in range(0, len(indices), IMAGES_PER_TASK)]
        return chain.from_iterable(each(look_by_worker, parts, count, chunk=1))

    section = "" if image is None else section_text(image)
    tally = Tally(len(asked), progress, PATIENCE_S, INTERVAL_S)
    reasons = {} if known is None else {int(index): known.reasons[index] for index in np.flatnonzero(known.reasons)}
    readable: list[tuple[int, bytes]] = []
    for done, (index, result) in enumerate(zip(asked.tolist(), look_at_all(asked.tolist()), strict=True), 1):
        if result.reason:
            reasons[index] = result.reason
        else:
            readable.append((index, result.sha256))
        if ledger is not None and keys is not None and (len(readable) >= NOTED or (done == len(asked) and readable)):
            # Unreadable images are not recorded: the cause may be outside of the file.
            ledger.add(keys[[row for row, _ in readable]], [digest for _, digest in readable], [""] * len(readable))
            readable = []
    tally.end()
    return [Bad(source.columns.id(index), reasons[index]) for index in sorted(reasons)]


def _unreadable_class(source: Source, name: str, bad: Sequence[Bad]) -> Fault:
    reasons = {image.id: image.reason for image in bad}
    first = next(reasons[item.id] for item in source.items if name in item.labels)
    advice = "repair them, or remove the class"
    return Fault(source.where, f"class '{name}'", f"none of its images can be read (the first: {first}); {advice}")


def unreadable(bad: int, images: int, advice: str = LEAVE_OUT) -> str:
    """The first line of an error, above the images that cannot be read."""
    return f"{bad:,} of {counted(images, 'image')} cannot be read (below); {advice}"


def list_others(where: str) -> str:
    """Advice where a command has no `--on-bad-image`.  where: the images, as in `Source.where`."""
    data = "DATA" if is_in_memory(where) else where
    command = shlex.join(["kerasimg", "data", "check", data, "--fix-list", "good.csv"])
    return f"repair or remove them, or name a list without them: {command}"


def leave_out(faults: Sequence[Fault], images: int, on_bad_image: OnBadImage) -> None:
    """Reports that images were left out; ManyFaults if that was not asked for, or none is left.

    images: their number, with those that cannot be read.
    """
    if not faults:
        return
    if len(faults) == images:
        raise ManyFaults(faults)
    if on_bad_image == "fail":
        raise ManyFaults([Fault("", "", unreadable(len(faults), images)), *faults])
    log.info(f"left out {len(faults):,} unreadable: {listed([fault.file for fault in faults], 5)}")


def require_readable(
    source: Source,
    on_bad_image: OnBadImage = "fail",
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    image: Image | None = None,
    cache: Cache | None = None,
    advice: str = LEAVE_OUT,
) -> Source:
    """Returns the source if every image can be read; each is read once, and again only after it changes.

    Args:
        source: the images.
        on_bad_image: "fail": a DataError lists the unreadable images. "skip": they are left out and listed in
        `skipped`.
        threads: as for `scan`.
        progress: as for `scan`.
        image: cache the decoded images for this section, so that the first epoch need not decode them again.
        cache: where to store them.
        advice: ends the error.
    """
    check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
    bad = scan(source, image, threads, progress, cache, Ledger.open())
    if not bad:
        return source
    if on_bad_image == "fail":
        first = Fault(source.where, "", unreadable(len(bad), len(source), advice))
        heic = [image_.id for image_ in bad if image_.reason == NO_HEIC]  # one cause, perhaps of thousands of images
        faults = [Fault(source.where, listed(heic, 3), NO_HEIC)] if heic else []
        faults += [Fault(source.where, image_.id, image_.reason) for image_ in bad if image_.reason != NO_HEIC]
        raise ManyFaults([first, *faults])
    readable = source.without(bad)
    classes_left = {label for item in readable.items for label in item.labels}
    lost = sorted({label for item in source.items for label in item.labels} - classes_left)
    if lost or not readable.items:
        raise ManyFaults(_unreadable_class(source, name, bad) for name in lost)
    return readable
