"""Which backend Keras would use, and whether it is installed, found out without importing either; how Keras is loaded.

Keras imports scikit-learn, pandas and Matplotlib for three conveniences (its scikit-learn wrappers, data frames in
`fit`, image galleries) that kerasimg does not use, and works without them. Importing them is a third of its start. So a
process of kerasimg's own (a command, a worker of a search, the model of the studio) marks them as not installed while
Keras is imported, in the way Python has for it (`sys.modules[name] = None`); afterwards they can be imported as usual.
A program that uses kerasimg as a library imports Keras as it is.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any, cast

from kerasimg.errors import CallError, nearest

BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
"""Backend of Keras on which kerasimg runs -> what to install."""
OPTIONAL = ("sklearn", "pandas", "matplotlib")
"""Modules that Keras imports and works without."""


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


def quiet_libraries() -> None:
    """Stops TensorFlow and gRPC from printing what they find or miss on this machine; what the environment says stays.

    What gRPC cannot do is raised as an error, too.
    """
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        if "tensorflow" not in sys.modules:
            sys.meta_path.insert(0, _QuietStart())
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class _QuietStart:
    """Finds TensorFlow, whose import prints to standard error whatever TF_CPP_MIN_LOG_LEVEL is (2.21).

    Only its own lines are left out; what else was printed meanwhile is printed after it.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As other finders do."""
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = cast(Any, _QuietLoader(spec.loader, self))
        return spec


class _QuietLoader:
    """Executes a module without what it says about the machine."""

    def __init__(self, loader: Any, finder: _QuietStart) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        """Execute the module; print the lines that are not of its start."""
        module.__spec__.loader = module.__loader__ = self._loader
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        try:
            stderr = os.dup(2)
        except OSError:  # there is none
            self._loader.exec_module(module)
            return
        with tempfile.TemporaryFile() as printed:
            os.dup2(printed.fileno(), 2)
            try:
                self._loader.exec_module(module)
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
                printed.seek(0)
                for line in printed:
                    if not START.match(line):
                        os.write(2, line)


START = re.compile(rb"[IW]\d{4} \d\d:\d\d:|WARNING: All log messages before absl|To enable the following instructions")
"""Matches a line that TensorFlow prints while it starts."""


def check_backend() -> None:
    """Checks that Keras can be loaded, before it is.

    Raises:
        CallError: if the chosen backend does not exist or is not installed; says how to install it.
    """
    if "keras" in sys.modules:
        return
    quiet_libraries()
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


def load_keras() -> None:
    """Imports Keras without `OPTIONAL`, in a process of kerasimg's own."""
    if "keras" in sys.modules:
        return
    quiet_libraries()
    collecting = gc.isenabled()
    gc.disable()  # nearly all that an import makes stays; looking through it would take a fifth of the time
    try:
        with not_installed(OPTIONAL):
            importlib.import_module("keras").ops.zeros(1)
    finally:
        if collecting:
            gc.enable()
    gc.freeze()
    atexit.register(gc.freeze)  # or the end of the process would look for garbage in all of it, for two seconds


@contextmanager
def not_installed(names: Iterable[str]) -> Iterator[None]:
    """Make imports of these modules fail while the block runs; modules that are loaded already stay."""
    modules: dict[str, Any] = sys.modules
    absent = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del modules[name]


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
