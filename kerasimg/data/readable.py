"""Is every image readable? Asked before the first epoch, so that nothing breaks in the middle of one.

An image is read once: for the hash of its bytes, which a run keeps, for its soundness, and, where there is a cache,
for its pixels. What was found sound stands in the ledger, and is not read again until its file changes.
"""

from __future__ import annotations

import hashlib
import os
from io import BufferedReader
from typing import Literal, NamedTuple, cast

import numpy as np

from kerasimg.data.cache import Cache
from kerasimg.data.fast_decode import decode_fast
from kerasimg.data.image_files import BadImage, open_image, read_image
from kerasimg.data.items import Bad, ImageInput, ManyFaults
from kerasimg.data.ledger import Ledger
from kerasimg.data.parallel import Progress as Progress
from kerasimg.data.parallel import Tally, each
from kerasimg.data.source import Source
from kerasimg.errors import Fault
from kerasimg.spec.document import Image

OnBadImage = Literal["fail", "skip"]
PATIENCE_S = 2.0
"""A scan that takes no longer reports no progress."""
INTERVAL_S = 2.0
"""Time between two reports."""
LARGEST_READ = 256 * 1024**2
"""Bytes of the largest file that is read as a whole."""
NOTED = 20_000
"""Images after which the ledger is written: a scan that is broken off need not begin again."""


class Found(NamedTuple):
    """What a scan found of one image."""

    sha256: bytes
    """The raw digest of its bytes; empty where it cannot be read."""
    reason: str
    """Why it cannot be read; "" where it can."""


def scan(
    source: Source,
    image: Image | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cache: Cache | None = None,
    ledger: Ledger | None = None,
) -> list[Bad]:
    """Every image that cannot be read, and why, in the order of the source; each is decoded in full.

    image: bring the images to its size as well, as training will.  threads: None is one per core.
    progress: called now and then once the scan has lasted two seconds, and when such a scan is done.
    cache: keeps the pixels, for `image`.  ledger: images that it knows are not read; it learns the others.
    """
    keys = None if cache is None and ledger is None else source.keys()
    known = None if keys is None or ledger is None else ledger.find(keys)
    asked = np.arange(len(source)) if known is None else np.flatnonzero(~known.known)
    rows = None
    if cache is not None and keys is not None and image is not None and len(asked):
        rows = cache.rows(keys, image, exact=False)

    def look(index: int) -> Found:
        try:
            content, digest = _read(source.columns.image(index))
            if image is None:
                read_image(content)
            else:
                pixels = decode_fast(content, image)
                if rows is not None:
                    rows.write(index, pixels)
        except BadImage as error:
            return Found(b"", error.reason)
        finally:
            tally.add()
        return Found(digest, "")

    tally = Tally(len(asked), progress, PATIENCE_S, INTERVAL_S)
    reasons = {} if known is None else {int(index): known.reasons[index] for index in np.flatnonzero(known.reasons)}
    sound: list[tuple[int, bytes]] = []
    for done, (index, found) in enumerate(zip(asked.tolist(), each(look, asked.tolist(), threads), strict=True), 1):
        if found.reason:
            reasons[index] = found.reason
        else:
            sound.append((index, found.sha256))
        if ledger is not None and keys is not None and (len(sound) >= NOTED or (done == len(asked) and sound)):
            # Of what cannot be read nothing is noted: the fault may lie outside of the file.
            ledger.add(keys[[row for row, _ in sound]], [digest for _, digest in sound], [""] * len(sound))
            sound = []
    tally.end()
    return [Bad(source.columns.id(index), reasons[index]) for index in sorted(reasons)]


def require_sound(
    source: Source,
    on_bad_image: OnBadImage = "fail",
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    image: Image | None = None,
    cache: Cache | None = None,
) -> Source:
    """The source, when every image is readable; each is read once, and not again before it changes.

    on_bad_image: fail: a DataError names all that are not. skip: they are left out, and stand in `skipped`.
    image, cache: keep the decoded images for these, so that the first epoch need not decode them again.
    threads, progress: as for `scan`.
    """
    bad = scan(source, image, threads, progress, cache, Ledger.open())
    if not bad:
        return source
    if on_bad_image == "fail":
        advice = Fault(
            source.where,
            "",
            f"{len(bad):,} of {len(source):,} images cannot be read (below); repair or remove them, or go on "
            "without them: --on-bad-image skip",
        )
        raise ManyFaults([advice, *(Fault(source.where, one.id, one.reason) for one in bad)])
    sound = source.without(bad)
    left = {label for item in sound.items for label in item.labels}
    lost = sorted({label for item in source.items for label in item.labels} - left)
    if lost or not sound.items:
        raise ManyFaults(Fault(source.where, f"class '{name}'", "none of its images can be read") for name in lost)
    return sound


def _read(image: ImageInput) -> tuple[ImageInput, bytes]:
    """The image, its file read if that is not huge, and the SHA-256 of its bytes."""
    if isinstance(image, np.ndarray):
        return image, hashlib.sha256(np.ascontiguousarray(image).data).digest()
    if isinstance(image, bytes):
        return image, hashlib.sha256(image).digest()
    with open_image(image) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_READ:
            return image, hashlib.file_digest(cast(BufferedReader, file), "sha256").digest()
        content = file.read()
    return content, hashlib.sha256(content).digest()
