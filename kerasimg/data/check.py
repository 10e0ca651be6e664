"""Is every picture readable? Asked before the first epoch, so that nothing breaks in the middle of one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from kerasimg.data.decode import decode
from kerasimg.data.items import Bad, Item, ManyFaults
from kerasimg.data.parallel import each
from kerasimg.data.picture import BadImage, read_picture
from kerasimg.data.sources import Source
from kerasimg.errors import Fault
from kerasimg.spec.document import Image

OnBadImage = Literal["fail", "skip"]
Progress = Callable[[int, int], None]
"""Called with how many pictures are done, and of how many."""

PATIENCE_S = 2.0
"""A scan that takes no longer reports no progress."""
INTERVAL_S = 0.25
"""Time between two reports."""


def scan(
    source: Source,
    image: Image | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Bad]:
    """Every picture that cannot be read, and why, in the order of the source; each is decoded in full.

    image: bring the pictures to its size as well, as training will.  threads: None is one per core.
    progress: called now and then once the scan has lasted two seconds, and when such a scan is done.
    """

    def reason(item: Item) -> str | None:
        try:
            read_picture(item.picture) if image is None else decode(item.picture, image)
        except BadImage as error:
            return error.reason
        return None

    report_at = time.monotonic() + PATIENCE_S
    bad = []
    for done, (item, why) in enumerate(zip(source.items, each(reason, source.items, threads), strict=True), 1):
        if why is not None:
            bad.append(Bad(item.id, why))
        if progress and (now := time.monotonic()) >= report_at:
            progress(done, len(source))
            report_at = now + INTERVAL_S
    return bad


def require_sound(
    source: Source,
    on_bad_image: OnBadImage = "fail",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Source:
    """The source, when every picture is readable.

    on_bad_image: fail: a DataError names all that are not. skip: they are left out, and stand in `skipped`.
    """
    bad = scan(source, threads=threads, progress=progress)
    if not bad:
        return source
    if on_bad_image == "fail":
        advice = Fault(
            source.where,
            "",
            f"{len(bad):,} of {len(source):,} pictures cannot be read (below); repair or remove them, or go on "
            "without them: --on-bad-image skip",
        )
        raise ManyFaults([advice, *(Fault(source.where, one.id, one.reason) for one in bad)])
    sound = source.without(bad)
    left = {label for item in sound.items for label in item.labels}
    lost = sorted({label for item in source.items for label in item.labels} - left)
    if lost or not sound.items:
        raise ManyFaults(Fault(source.where, f"class '{name}'", "none of its pictures can be read") for name in lost)
    return sound
