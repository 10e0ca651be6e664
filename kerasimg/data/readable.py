"""Checks that every image can be read, before the first epoch.

Each image is read once: to hash its bytes, to decode it, and to fill the cache, if there is one. Readable images are
recorded in the ledger and not read again until the file changes.
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
"""A scan reports progress after this time."""
INTERVAL_S = 2.0
"""Time between two progress reports."""
LARGEST_READ = 256 * 1024**2
"""Bytes of the largest file that is read as a whole."""
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
) -> list[Bad]:
    """Decodes every image and returns those that cannot be read, with the reason, in the order of the source.

    Args:
        source: the images.
        image: also resize the images, as training will.
        threads: None: one per core.
        progress: called at intervals, after the first two seconds, and at the end of such a scan.
        cache: stores the pixels, for `image`.
        ledger: images that it knows are not read; the others are added.
    """
    keys = None if cache is None and ledger is None else source.keys()
    known = None if keys is None or ledger is None else ledger.find(keys)
    asked = np.arange(len(source)) if known is None else np.flatnonzero(~known.known)
    rows = None
    if cache is not None and keys is not None and image is not None and len(asked):
        rows = cache.rows(keys, image, exact=False)

    def look(index: int) -> Result:
        try:
            content, digest = _read(source.columns.image(index))
            if image is None:
                read_image(content)
            else:
                pixels = decode_fast(content, image)
                if rows is not None:
                    rows.write(index, pixels)
        except BadImage as error:
            return Result(b"", error.reason)
        finally:
            tally.add()
        return Result(digest, "")

    tally = Tally(len(asked), progress, PATIENCE_S, INTERVAL_S)
    reasons = {} if known is None else {int(index): known.reasons[index] for index in np.flatnonzero(known.reasons)}
    readable: list[tuple[int, bytes]] = []
    for done, (index, result) in enumerate(zip(asked.tolist(), each(look, asked.tolist(), threads), strict=True), 1):
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


def require_readable(
    source: Source,
    on_bad_image: OnBadImage = "fail",
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    image: Image | None = None,
    cache: Cache | None = None,
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
        raise ManyFaults([advice, *(Fault(source.where, image_.id, image_.reason) for image_ in bad)])
    readable = source.without(bad)
    classes_left = {label for item in readable.items for label in item.labels}
    lost = sorted({label for item in source.items for label in item.labels} - classes_left)
    if lost or not readable.items:
        raise ManyFaults(Fault(source.where, f"class '{name}'", "none of its images can be read") for name in lost)
    return readable


def _read(image: ImageInput) -> tuple[ImageInput, bytes]:
    """The image, read from its file unless that is huge, and the SHA-256 of its bytes."""
    if isinstance(image, np.ndarray):
        return image, hashlib.sha256(np.ascontiguousarray(image).data).digest()
    if isinstance(image, bytes):
        return image, hashlib.sha256(image).digest()
    with open_image(image) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_READ:
            return image, hashlib.file_digest(cast(BufferedReader, file), "sha256").digest()
        content = file.read()
    return content, hashlib.sha256(content).digest()
