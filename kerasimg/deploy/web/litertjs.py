"""The files of LiteRT.js that a page needs, from the npm package, kept in the cache folder.

They come, in this order, from the folder that `$KERASIMG_LITERTJS` names (a `node_modules`, one that holds the
packages' tarballs, or another machine's cached files), from the cache, or from npm by `npm pack`, which asks the
registry that npm is configured for.
Every file is compared with its hash, wherever it came from.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from kerasimg.data.cache_folder import cache_folder
from kerasimg.errors import CallError, WeightsError

VERSION = "2.5.3"
VARIABLE = "KERASIMG_LITERTJS"
"""The environment variable that names a folder with the packages."""

CORE = "@litertjs/core"
WASM_UTILS = "@litertjs/wasm-utils"

LOADER = "litert_wasm_compat_internal.js"
"""What starts the WebAssembly that every browser of today can run."""
WASM = "litert_wasm_compat_internal.wasm"

FILES: dict[str, tuple[str, str, str]] = {
    "index.js": (CORE, "dist/index.js", "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3"),
    "wasm-utils.js": (WASM_UTILS, "dist/index.js", "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2"),
    LOADER: (CORE, f"wasm/{LOADER}", "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5"),
    WASM: (CORE, f"wasm/{WASM}", "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c"),
    "litert_wasm_internal.js": (
        CORE,
        "wasm/litert_wasm_internal.js",
        "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    ),
    "litert_wasm_internal.wasm": (
        CORE,
        "wasm/litert_wasm_internal.wasm",
        "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    ),
}
"""Name of a file here -> npm package, place in it, SHA-256."""

SECONDS = 300
"""That npm may take."""
QUIETLY = ("--loglevel=error", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
"""A second try, at once: who has no network need not wait for a minute to hear of it."""


def runtime_files() -> Path:
    """A folder with every file of `FILES`, each as its hash says.

    CallError where they can be had from nowhere; WeightsError where a file is not the expected one.
    """
    if named := os.environ.get(VARIABLE):
        return _kept(Path(named))
    if not _cached().is_dir():
        with tempfile.TemporaryDirectory() as folder:
            _pack(Path(folder))
            return _kept(Path(folder))
    _check(_cached())
    return _cached()


def _cached() -> Path:
    """By version and content: another choice of files is another folder."""
    key = hashlib.sha256("".join(digest for _, _, digest in FILES.values()).encode()).hexdigest()[:16]
    return cache_folder() / "litertjs" / f"{VERSION}-{key}"


def _kept(given: Path) -> Path:
    """The files of a folder with the packages, copied into the cache."""
    place = _cached()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        partial = Path(folder) / place.name
        partial.mkdir()
        for name, (package, member, _) in FILES.items():
            (partial / name).write_bytes(_content(given, name, package, member))
        _check(partial)
        if place.is_dir():
            shutil.rmtree(place)
        partial.rename(place)
    return place


def _content(given: Path, name: str, package: str, member: str) -> bytes:
    """A file of an npm package: as it is kept here, unpacked below a folder, or in a tarball there."""
    for path in (given / name, given / package / member):
        if path.is_file():
            return path.read_bytes()
    tarball = given / f"{package[1:].replace('/', '-')}-{VERSION}.tgz"
    try:
        with tarfile.open(tarball) as archive:
            found = archive.extractfile(f"package/{member}")
            if found is not None:
                return found.read()
    except (OSError, tarfile.TarError, KeyError):
        pass
    raise CallError(
        f"'{given}' holds neither {package}/{member} nor {tarball.name}; expected a node_modules with "
        f"{CORE} {VERSION}, or a folder into which `npm pack {CORE}@{VERSION} {WASM_UTILS}@{VERSION}` was run"
    )


def _check(folder: Path) -> None:
    for name, (package, member, digest) in FILES.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise WeightsError(
                f"'{path}' is not {member} of {package} {VERSION}: its SHA-256 is another; remove '{folder}', or name "
                f"a folder with that version by ${VARIABLE}"
            )


def _pack(folder: Path) -> None:
    """Let npm fetch the tarballs into a folder."""
    npm = shutil.which("npm")
    packages = [f"{CORE}@{VERSION}", f"{WASM_UTILS}@{VERSION}"]
    by_hand = (
        f"where npm is, run `npm pack {' '.join(packages)}`, and name the folder that holds the two tarballs by "
        f"${VARIABLE}; once found, the files are kept in '{_cached().parent}'"
    )
    if npm is None:
        raise CallError(f"a page needs LiteRT.js {VERSION}, and npm, which fetches it, is not installed: {by_hand}")
    try:
        subprocess.run(
            [npm, "pack", *packages, "--pack-destination", str(folder), *QUIETLY],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
            timeout=SECONDS,
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise CallError(
            f"a page needs LiteRT.js {VERSION}, and npm could not fetch it ({_why(error)}); it needs a network once: "
            f"{by_hand}"
        ) from None


def _why(error: Exception) -> str:
    """What npm says in its first lines, without its own name before each."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {SECONDS} s"
    said = str(getattr(error, "stderr", None) or error).strip().splitlines()
    lines = [re.sub(r"^npm (?:ERR!|error)\s*", "", line) for line in said]
    told = [line for line in lines if "reason:" in line] or [line for line in lines if line] or ["it failed"]
    return told[0]
