"""Free memory."""

from __future__ import annotations

import os
from pathlib import Path

from kerasimg.errors import CallError, counted
from kerasimg.spec.document import Image

ASSUMED = 2 * 1024**3
"""Bytes assumed to be free if the system does not report them."""


def free_bytes() -> int:
    """Free memory of this process in bytes: available in the system, and within the limit of its control group."""
    free = [_available(), _control_group("memory.max", "memory.current")]
    free.append(_control_group("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    limits = [amount for amount in free if amount is not None]
    return max(0, min(limits)) if limits else ASSUMED


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        # Without the kernel's estimate (macOS): half of the physical memory.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _control_group(limit: str, used: str) -> int | None:
    root = Path("/sys/fs/cgroup")
    try:
        return int((root / limit).read_text()) - int((root / used).read_text())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None


def require_room(image: Image, images: int, otherwise: str) -> None:
    """Raises a CallError if this many images do not fit into memory.  otherwise: advice for the message."""
    height, width = image.size
    need, room = images * height * width * image.channels, free_bytes()
    if need > room:
        raise CallError(
            f"image.size: {counted(images, 'image')} of {height} x {width} take {need / 1e9:,.1f} GB of memory, and "
            f"{room / 1e9:,.1f} are free; make them smaller (--set image.size=[224,224]), or {otherwise}"
        )
