"""Runs the commands that the pages show and writes what they print below them.

    python docs/examples.py             all pages
    python docs/examples.py report.md   one page

A `console` block has commands (`$ kerasimg ...`), each with its output below. A line `...` replaces lines that the
page leaves out. The commands of a page run in order, in a copy of one working folder with images and a trained run.
`tests/test_docs.py` runs the same commands and compares the outputs, except for numbers and class names.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw

from kerasimg import cli

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))
from tests.checkpoints import seeded  # noqa: E402 - checkpoints of timm, made small

SAMPLE = DOCS.parent / "kerasimg" / "data" / "sample"
TRAIN = "kerasimg train simple_cnn --data sample --size 28 --epochs 3 --lr 0.002"
"""The training whose run, runs/simple_cnn-1, all pages use."""
EXPORT = "kerasimg export runs/simple_cnn-1 --to litert"
SHARED = (TRAIN, EXPORT)
"""Commands that run once, before the pages are copied; a page that shows one shows its output."""
QUICKER = {
    "kerasimg train photos/": "--epochs 1 --size 32",
    "kerasimg train photos.json --data photos/": "--epochs 1",
    "kerasimg train photos.json --data photos/ --set fit.batch_size=16": "--epochs 1",
    "kerasimg train transfer --data photos/ --epochs 5": "--epochs 1 --size 32",
    "kerasimg export runs/simple_cnn-1 --to embedded --flash-bytes 500000 --arena-bytes 65536": "--images 40",
    "kerasimg export runs/simple_cnn-1 --to web": "--images 40",
    "kerasimg export runs/simple_cnn-1 --to litert --batch 1": "--images 40",
}
"""What the tests add to a command. It changes numbers only, which are not compared."""
LABELS = ("apple", "leaf", "stone", *(path.name for path in sorted((SAMPLE / "test").iterdir()) if path.is_dir()))


class Example(NamedTuple):
    """A command of a page, and the lines below it."""

    command: str
    output: list[str]


def blocks(text: str) -> list[list[Example]]:
    """The console blocks of a page."""
    return [_examples(body) for body in re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)]


def _examples(body: str) -> list[Example]:
    examples: list[Example] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            examples.append(Example(line[2:], []))
        else:
            examples[-1].output.append(line)
    return examples


def prepare(folder: Path, quick: bool = False) -> dict[str, list[str]]:
    """Make the working folder of the pages: images and a trained run. Returns the outputs of `SHARED`."""
    draw_photos(folder / "photos", count=20, size_px=40)
    shutil.copy(folder / "photos" / "leaf" / "00.jpg", folder / "photo.jpg")
    shutil.copy(next((SAMPLE / "test" / "sneaker").iterdir()), folder / "shoe.png")
    shutil.copytree(folder / "photos", folder / "messy")
    (folder / "messy" / "leaf" / "01.jpg").write_bytes((folder / "photos/leaf/01.jpg").read_bytes()[:900])
    shutil.copy(folder / "photos" / "apple" / "02.jpg", folder / "messy" / "stone" / "copy.jpg")
    shutil.copy(folder / "photos" / "leaf" / "03.jpg", folder / "messy" / "leaf" / "03 (1).jpg")
    for label, names in {"ok": range(12), "defect": range(12, 24)}.items():
        draw_photos(folder / "parts" / label, count=2, size_px=40, numbers=names, flat=True)
    with zipfile.ZipFile(folder / "strange.kerasimg", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pack.json", "{}" * 10_000)
    seeded.write("vit", folder / "vit_small")
    (folder / "pets.json").write_text(WRONG_SPEC, encoding="utf-8")
    with contextlib.chdir(folder):
        return {command: run(command, quick)[0] for command in SHARED}


WRONG_SPEC = """{
  "kerasimg": 1,
  "image": {"size": [64, 64]},
  "model": [
    {"layer": "Conv2D", "fliters": 32, "kernel_size": 3},
    {"layer": "GlobalAveragePooling2D"},
    {"layer": "Dense", "units": 2, "activation": "softmax"}
  ],
  "fit": {"batch_size": 0}
}
"""


def draw_photos(
    folder: Path, count: int, size_px: int, numbers: Sequence[int] | None = None, flat: bool = False
) -> None:
    """Draw apples, leaves and stones on backgrounds of any colour, as JPEG files.

    Args:
        folder: gets a folder per class, or the files themselves where `flat`.
        count: images per class; where `numbers` are given, images of each.
        size_px: about the height and width of an image.
        numbers: patients of a `flat` folder: p07_1.jpg, p07_2.jpg.
        flat: draw leaves only, into the folder itself.
    """
    rng = np.random.default_rng(len(folder.name) if flat else 7)
    names = [f"p{n:02}_{k}" for n in numbers for k in range(1, count + 1)] if numbers else range(count)
    for label in ("leaf",) if flat else ("apple", "leaf", "stone"):
        target = folder if flat else folder / label
        target.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(names):
            width, height = (size_px, size_px * 3 // 4) if index % 2 else (size_px * 3 // 4, size_px)
            image = PIL.Image.new("RGB", (width, height), tuple(int(value) for value in rng.integers(150, 235, 3)))
            _draw(PIL.ImageDraw.Draw(image), label, width / 2, height / 2, size_px * rng.uniform(0.15, 0.3), rng)
            noisy = np.asarray(image) + rng.normal(0, 7, (height, width, 3))
            file = f"{name}.jpg" if numbers else f"{name:02}.jpg"
            PIL.Image.fromarray(noisy.clip(0, 255).astype("uint8")).save(target / file, quality=88)


def _draw(
    draw: PIL.ImageDraw.ImageDraw, label: str, x: float, y: float, radius: float, rng: np.random.Generator
) -> None:
    shade = int(rng.integers(0, 60))
    match label:
        case "apple":
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(170 + shade, 45, 40))
            draw.line((x, y - radius, x + radius / 6, y - 1.4 * radius), fill=(90, 60, 30), width=2)
        case "leaf":
            corners = [(x - radius, y), (x, y - radius / 2), (x + radius, y), (x, y + radius / 2)]
            draw.polygon(corners, fill=(40, 120 + shade, 50))
            draw.line((x - radius, y, x + radius, y), fill=(20, 90, 30), width=2)
        case _:
            angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
            reach = radius * rng.uniform(0.7, 1, 8)
            corners = [(x + r * np.cos(a), y + r * np.sin(a)) for a, r in zip(angles, reach, strict=True)]
            draw.polygon(corners, fill=(90 + shade, 90 + shade, 96 + shade))


def run(command: str, quick: bool = False) -> tuple[list[str], int]:
    """Run a command, kerasimg in this process and others in a shell. Returns the lines and the exit code."""
    if quick:
        command = f"{command} {QUICKER.get(command, '')}".strip()
    if not command.startswith("kerasimg "):
        done = subprocess.run(command, shell=True, text=True, capture_output=True, timeout=120)
        return (done.stdout + done.stderr).splitlines(), done.returncode
    printed = io.StringIO()
    argv, columns = sys.argv, os.environ.get("COLUMNS")
    sys.argv, os.environ["COLUMNS"] = shlex.split(command, comments=True), "120"
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            cli.main()
        code: int = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = argv
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    cache = os.environ.get("KERASIMG_CACHE") or "~/.cache/kerasimg"
    lines = [line.rstrip().replace(cache, "~/.cache/kerasimg") for line in printed.getvalue().splitlines()]
    return [line for line in lines if not PROGRESS.search(line)], code


PROGRESS = re.compile(r"\b[\d,]+ of [\d,]+( images)?(, [\d,]+ images/s)?(, about [\d,]+ \w+ left)?$|\.\.\. [\d,]+ s$")
"""Lines that appear only when something takes long."""


def run_block(
    examples: Sequence[Example], shared: dict[str, list[str]], quick: bool = False, skip: Sequence[str] = ()
) -> Iterator[tuple[Example, list[str]]]:
    """Run the commands of a block in the current folder: each with what it prints now.

    A command that ends in `&` is a server: it runs until the block ends, on a free port instead of 8000. What is in
    `skip` does not run: its output is that of the page.
    """
    servers: list[subprocess.Popen[bytes]] = []
    port = _free_port()
    try:
        for example in examples:
            command = example.command.replace(":8000", f":{port}")
            if example.command.endswith(" &"):
                words = [*shlex.split(command.removesuffix(" &"))[1:], "--port", str(port)]
                servers.append(subprocess.Popen([sys.executable, "-m", "kerasimg", *words], stdout=subprocess.DEVNULL))
                _wait_for(port, servers[-1])
                yield example, example.output
            elif example.command in skip:
                yield example, example.output
            elif example.command in shared:
                yield example, shared[example.command]
            else:
                yield example, run(command, quick)[0]
    finally:
        for server in servers:
            server.terminate()
            server.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start on port {port}")


def normalise(lines: Sequence[str]) -> list[str]:
    """Lines without what differs from run to run: numbers, units of time and size, class names, spaces, blank lines."""
    text = "\n".join(lines)
    text = re.sub(r"\b[0-9a-f]{12,}\b", "HASH", text)
    text = re.sub(rf"\b({'|'.join(LABELS)})\b", "CLASS", text)
    text = re.sub(r"(?<![A-Za-z])[-+]?\d[\d.,]*(e[-+]?\d+)?%?", "N", text)
    text = re.sub(r"N (s|ms|min|h)\b|Ns\b", "TIME", text)
    text = re.sub(r"N (bytes|kB|MB|GB)\b", "SIZE", text)
    text = re.sub(r"[─━]+", "", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def matches(shown: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether a page shows what a command prints; `...` in it matches any lines."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + "\n" for line in normalise(shown))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in normalise(printed))) is not None


def updated(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """What a page shows of an output from now on: all of it, or as many lines before and after `...` as until now."""
    if "..." not in shown or (matches(shown, printed) and list(shown).count("...") > 1):
        return list(shown) if "..." in shown else list(printed)
    at = list(shown).index("...")
    after = len(shown) - at - 1
    return [*printed[:at], "...", *printed[len(printed) - after :]]


def main(names: Sequence[str]) -> None:
    pages = [DOCS / name for name in names] or [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
    pages = [page for page in pages if blocks(page.read_text(encoding="utf-8"))]
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(temporary) / "world"
        world.mkdir()
        shared = prepare(world)
        for page in pages:
            print(page.name, flush=True)
            copy = Path(shutil.copytree(world, Path(temporary) / page.stem))
            text = page.read_text(encoding="utf-8")
            with contextlib.chdir(copy):
                for examples in blocks(text):
                    old, new = "", ""
                    for example, printed in run_block(examples, shared):
                        lines = updated(example.output, printed)
                        old += "".join(f"{line}\n" for line in (f"$ {example.command}", *example.output))
                        new += "".join(f"{line}\n" for line in (f"$ {example.command}", *lines))
                    text = text.replace(f"```console\n{old}```", f"```console\n{new}```")
            page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
