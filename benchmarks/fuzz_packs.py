"""Fuzzer for packs: opens and builds mutated packs with valid hashes; only a KerasimgError may result.

    python benchmarks/fuzz_packs.py --minutes 10 [--seed 0]

Prints the number of cases, the time, every foreign exception (with the seed that reproduces it), the slowest case, and
the growth of memory. The test suite runs a sample (tests/deploy/test_hostile_packs.py).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import struct
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

MANIFEST, SPEC, BESIDE, WEIGHTS = "pack.json", "spec.json", "beside.json", "weights.safetensors"

DOCUMENT = {
    "kerasimg": 1,
    "name": "tiny",
    "params": {"width": 4},
    "image": {"size": [8, 8]},
    "model": [
        {"layer": "Conv2D", "filters": "=width", "kernel_size": 3, "activation": "relu"},
        {"layer": "BatchNormalization"},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "units": 3, "activation": "softmax"},
    ],
    "fit": {"stages": [{"epochs": 1}]},
}

HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 1e300, -1e300, 1e38, 1e15, 1e-300, 2**53, 10**17, 0.5),
    *(
        "",
        "a",
        "a" * 300,
        "a" * 5000,
        "\x00",
        "\x1b[31m",
        "\u202e",
        "../../x",
        "/etc/passwd",
        "=1/0",
        "=9**9**9",
        "=width",
    ),
    *("Lambda", "Dense", "softmax", "os.system", "model.weights.h5", "C64", "BF16", "F64", "I64", "ü" * 90, "\ud800"),
    *([], [None], [[]], [1, 2, 3], [-1, -1], {}, {"": 1}, {"type": "Constant", "value": 1e300}, {"type": "Orthogonal"}),
    *({"$choice": [1, 2]}, {"type": "RandomNormal", "seed": 0.5}, {"class_name": "Lambda"}, ["a", "a", "a"]),
]

NESTED = b"[" * 500_000
BOMB = b"0" * 20_000_000


def members_of(classes: int = 3) -> dict[str, bytes]:
    """Returns the members of a small valid pack except its manifest, with weights for its own spec."""
    import keras
    from safetensors.numpy import save

    import kerasimg

    keras.utils.set_random_seed(0)
    model = kerasimg.build(DOCUMENT)
    arrays = {f"{k:05d} {weight.path}": keras.ops.convert_to_numpy(weight) for k, weight in enumerate(model.weights)}
    return {SPEC: json.dumps(DOCUMENT).encode(), BESIDE: b"{}", WEIGHTS: save(arrays), "MODEL_CARD.md": b"# tiny\n"}


def manifest_of(members: dict[str, bytes], **facts: Any) -> dict[str, Any]:
    """Returns a manifest with valid hashes."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    return {
        "kerasimg_pack": 1,
        "name": "tiny",
        "task": "multiclass",
        "classes": ["a", "b", "c"],
        "files": files,
        **facts,
    }


def write_pack(
    path: Path,
    members: dict[str, bytes],
    manifest: Any = None,
    compression: int = zipfile.ZIP_STORED,
    more: tuple[tuple[str, bytes], ...] = (),
) -> Path:
    """Writes a pack. manifest: None for a valid one, or bytes; more: further entries."""
    manifest = manifest_of(members) if manifest is None else manifest
    head = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode("utf-8", "surrogatepass")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in ((MANIFEST, head), *members.items(), *more):
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return path


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the paths of all values in a document."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def changed_document(document: Any, draw: random.Random) -> bytes:
    """Replaces, removes, renames or duplicates one to three values of a document; returns JSON."""
    document = json.loads(json.dumps(document))
    for _ in range(draw.randint(1, 3)):
        if not (known := places(document)):
            break
        *way, last = draw.choice(known)
        inner = document
        for step in way:
            inner = inner[step]
        match draw.randrange(5):
            case 0:
                del inner[last]
            case 1 if isinstance(inner, dict):
                inner[str(draw.choice(HOSTILE))[:400]] = inner.pop(last)
            case 2 if isinstance(inner, list):
                inner.insert(last, inner[last])
            case _:
                inner[last] = deepcopy(draw.choice(HOSTILE))
    text = json.dumps(document)
    if draw.random() < 0.03:
        text = text.replace("{", '{"name": 1, "name": 2, ', 1)
    return text.encode()


def changed_bytes(content: bytes, draw: random.Random) -> bytes:
    """Flips, removes, duplicates or truncates bytes."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(len(data) or 1)
        match draw.randrange(4):
            case 0:
                data[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del data[place : place + draw.choice((1, 4, 64))]
            case 2:
                data[place:place] = data[place : place + draw.choice((1, 16, 256))]
            case _:
                data = data[:place] if draw.random() < 0.2 else data
    return bytes(data)


def changed_header(content: bytes, draw: random.Random) -> bytes:
    """Returns a safetensors file with an invalid header."""
    (length,) = struct.unpack_from("<Q", content)
    header, data = content[8 : 8 + length], content[8 + length :]
    if draw.random() < 0.3:
        return struct.pack("<Q", draw.choice((0, 1, length - 1, length + 1, 2**31, 2**62, 2**64 - 1))) + header + data
    header = changed_document(json.loads(header), draw)
    return struct.pack("<Q", len(header)) + header + data


def hostile_pack(path: Path, members: dict[str, bytes], seed: int) -> Path:
    """Writes the pack of a seed."""
    draw = random.Random(seed)
    members = dict(members)
    kind = draw.randrange(10)
    if kind < 3:
        members[SPEC] = changed_document(json.loads(members[SPEC]), draw)
    elif kind == 3:
        members[WEIGHTS] = changed_header(members[WEIGHTS], draw)
    elif kind == 4:
        name = draw.choice(list(members))
        members[name] = changed_bytes(members[name], draw)
    elif kind == 5:
        beside = {str(draw.choice(HOSTILE))[:400]: draw.choice((DOCUMENT, *HOSTILE)) for _ in range(draw.randint(1, 3))}
        with contextlib.suppress(ValueError):
            members[BESIDE] = json.dumps(beside).encode()
    elif kind == 6:
        members[draw.choice((SPEC, BESIDE, WEIGHTS, "MODEL_CARD.md"))] = draw.choice(
            (b"", b"\xff\xfe", NESTED, BOMB, b"null")
        )
    manifest: Any = None
    if kind == 7:
        manifest = changed_document(manifest_of(members), draw)
    compression = (
        draw.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)) if kind == 8 else zipfile.ZIP_STORED
    )
    more = (
        ((draw.choice((SPEC, "x.pkl", "a" * 65_000 if draw.random() < 0.1 else "y")), b""),)
        if draw.random() < 0.02
        else ()
    )
    write_pack(path, members, manifest, compression, more)
    if kind == 9 or (kind == 8 and draw.random() < 0.5):
        path.write_bytes(changed_bytes(path.read_bytes(), draw))
    return path


def open_fully(path: Path) -> None:
    """Does what `predict` does with a pack and an image, and reads what `push` reads."""
    import numpy as np

    import kerasimg
    from kerasimg.models.classifier import Classifier
    from kerasimg.spec.pack import Pack

    spec = kerasimg.load(path)
    classifier = Classifier.open(path)
    if spec.image.size[0] * spec.image.size[1] <= 10_000:
        rows = classifier.probabilities(np.zeros((1, *spec.image.size, spec.image.channels), np.float32))
        if rows.shape != (1, 1 if spec.task == "binary" else len(classifier.classes)):
            raise RuntimeError(f"probabilities of shape {rows.shape}")
    Pack(path).text("MODEL_CARD.md")


def rss_mb() -> float:
    """Returns the memory of this process."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(seconds: float, first: int = 0, most: int = 10**9, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Opens hostile packs for a number of seconds; returns the outcomes."""
    import keras

    from kerasimg.errors import KerasimgError

    members = members_of()
    ends: Counter[str] = Counter()
    foreign: list[str] = []
    slowest, base = (0.0, -1), 0.0
    began, case = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.kerasimg"
        while case < most and time.monotonic() - began < seconds:
            seed = first + case
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile warns about duplicate names
                hostile_pack(path, members, seed)
            cpu = time.process_time()
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    open_fully(path)
                ends["valid"] += 1
            except KerasimgError as error:
                ends[type(error).__name__] += 1
                if not str(error).isprintable() and any(ord(letter) < 32 and letter != "\n" for letter in str(error)):
                    ends["unprintable message"] += 1
            except Exception as error:
                foreign.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
                say(foreign[-1])
            slowest = max(slowest, (time.process_time() - cpu, seed))
            case += 1
            if case % 200 == 0:
                keras.backend.clear_session()
            if case == 200:
                base = rss_mb()
    return {
        "cases": case,
        "seconds": round(time.monotonic() - began, 1),
        "ends": dict(ends),
        "foreign": foreign,
        "slowest": {"cpu_s": round(slowest[0], 2), "seed": slowest[1]},
        "rss_mb": {"after 200": round(base), "at the end": round(rss_mb())},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=10**9)
    options = parser.parse_args()
    print(json.dumps(run(options.minutes * 60, options.seed, options.cases), indent=1))
