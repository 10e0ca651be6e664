"""Which backend Keras would use, and whether it is installed; found out without importing either."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from kerasimg.errors import CallError, nearest

BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
"""Backend of Keras on which kerasimg runs -> what to install."""


def chosen_backend() -> tuple[str, str]:
    """Returns the name of the backend that Keras will load, and where it is set."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name, "KERAS_BACKEND"
    file = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser()) / "keras.json"
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("backend")
    except (OSError, ValueError, AttributeError):
        name = None
    return (name, f"'{file}'") if isinstance(name, str) else ("tensorflow", "the default")


def check_backend() -> None:
    """Checks that Keras can be loaded, before it is.

    Raises:
        CallError: if the chosen backend does not exist or is not installed; says how to install it.
    """
    if "keras" in sys.modules:
        return
    name, source = chosen_backend()
    if name not in BACKENDS:
        raise CallError(
            f"no backend '{name}' ({source}){nearest(name, BACKENDS)}; kerasimg runs on {', '.join(BACKENDS)}"
        )
    if installed(BACKENDS[name]):
        return
    others = [other for other, package in BACKENDS.items() if installed(package)]
    instead = f"; or use one that is: KERAS_BACKEND={others[0]}" if others else ""
    raise CallError(f"the backend '{name}' of Keras ({source}) is not installed: pip install {BACKENDS[name]}{instead}")


def versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of distributions, for a record; those that are not installed are left out.

    TensorFlow is installed under several names (tensorflow-cpu, tf-nightly, tensorflow-macos), which all bring a
    module `tensorflow`: its record then names the distribution.

    Example:
        >>> versions(["keras", "no-such"])
        {'keras': '3.15.0'}
    """
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            for other in packages_distributions().get(name, [])[:1]:
                found[name] = f"{version(other)} ({other})"
    return found


def installed(package: str) -> bool:
    """Whether a module can be imported; does not import it."""
    return importlib.util.find_spec(package) is not None
