"""The one family of errors: each says where, what was expected, what was found, and what to do."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final, NamedTuple


class Fault(NamedTuple):
    """One thing that is wrong: in which file, at which place in it, and what."""

    file: str
    path: str
    message: str

    def __str__(self) -> str:
        return printable(": ".join(part for part in self if part))


class KerasimgError(Exception):
    """Base of every error that kerasimg raises for its user; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class CallError(KerasimgError, ValueError):
    """A call or a command asks for something that does not exist or does not fit."""

    exit_code = 2


class FaultsError(KerasimgError, ValueError):
    """An error that lists every fault found, one a line, in `faults`."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[FaultsError], tuple[tuple[Fault, ...]]]:
        # Exceptions pickle by their message; this one is made from its faults.
        return type(self), (self.faults,)


class SpecError(FaultsError):
    """A spec is wrong; nothing was built."""

    exit_code = 2


class DataError(FaultsError):
    """The images or their labels are wrong; nothing was changed on disk."""

    exit_code = 3


class WeightsError(KerasimgError):
    """Weights that a spec names are missing, altered, or belong to another model."""


class GateError(KerasimgError):
    """A result falls short of what was asked of it (quality, parity)."""

    exit_code = 4


class Interrupted(KerasimgError):
    """The user interrupted the work; what was reached is saved."""

    exit_code = 130


@contextmanager
def needs(extra: str, package: str) -> Iterator[None]:
    """Turns the ImportError of a missing package into a CallError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise CallError(f'{package} is not installed ({error}): pip install "kerasimg[{extra}]"') from None


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion: "; did you mean 'x'?", or nothing if no known name is similar."""
    # Comparing is slow in the length of both and in their number, and a spec can bring any of them.
    if len(str(name)) > _LONGEST_NAME:
        return ""
    close = _closest(str(name), tuple(sorted(islice((other for other in known if len(other) <= _LONGEST_NAME), 200))))
    return f"; did you mean '{close}'?" if close else ""


def nearest_path(text: str) -> str:
    """A suggestion where a file or folder of a similar name is beside the missing one, or nothing."""
    path = Path(text)
    try:
        with os.scandir(path.parent) as entries:
            hint = nearest(path.name, (entry.name for entry in entries if not entry.name.startswith(".")))
    except (OSError, ValueError):
        return ""
    return hint if path.parent == Path(".") else hint.replace("'", f"'{path.parent.as_posix()}/", 1)


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """CallError if an argument is none of the known values."""
    if value not in known:
        expected = " or ".join(f'"{each}"' for each in known)
        raise CallError(f"{name}: expected {expected}, got {value!r}{nearest(str(value), known)}")


def counted(count: float, noun: str, verb: str = "") -> str:
    """A number with its noun, and a verb if the sentence goes on with one: "1 image", "0.5 minutes", "3 classes are".

    verb: in the plural: a key of SINGULAR.
    """
    if count == 1:
        return f"1 {noun}" + (verb and f" {SINGULAR[verb]}")
    number = f"{count:.3g}" if isinstance(count, float) else f"{count:,}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}" + (verb and f" {verb}")


def sized(count: int) -> str:
    """A number of bytes in the unit that suits it: "512 bytes", "4.2 kB", "37 MB", "2.1 GB"."""
    for unit, of in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= of:
            return f"{count / of:,.0f} {unit}" if count >= 10 * of else f"{count / of:.1f} {unit}"
    return counted(count, "byte")


SINGULAR: Final = {"are": "is", "were": "was", "have": "has", "do": "does", "make": "makes", "take": "takes"}
"""A verb in the plural -> in the singular."""


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Names in one line, cut after `limit`: "a, b, c and 5 more"."""
    every = list(names)
    if len(every) <= limit:
        return ", ".join(every)
    return ", ".join(every[:limit]) + f" and {len(every) - limit} more"


_LONGEST_NAME = 34
_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@lru_cache(maxsize=256)
def _closest(name: str, known: tuple[str, ...]) -> str:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.6)), "")


def printable(text: str) -> str:
    """The text with what a terminal would obey, or could not show, escaped."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
