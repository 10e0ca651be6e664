"""What the CPU is, and what it can do."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively; False if the system does not report it."""
    return bool({"amx_bf16", "avx512_bf16"}.intersection(_reported().split()))


def processor_name() -> str:
    """Returns the name of the CPU."""
    if not (reported := _reported()):
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in reported.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def _reported() -> str:
    """Returns what Linux says of the CPU; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
