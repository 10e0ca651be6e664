"""Shrinks images in class folders to JPEGs of a maximum size, for benchmarks on data of large scans.

    python benchmarks/smaller.py FOLDER OUT [--per-class 200] [--longest 500]

Selects the same images each time: every k-th of a class in path order. Transparent pixels become white; unreadable
images and those above 50 million pixels are skipped.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
QUALITY = 90
LARGEST = 50_000_000


def write(path: Path, out: Path, longest: int) -> bool:
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST:
                return False
            rgba = image.convert("RGBA")
            rgba.thumbnail((longest, longest), Image.Resampling.BOX)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return False
    white = Image.new("RGBA", rgba.size, "white")
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.alpha_composite(white, rgba).convert("RGB").save(out, quality=QUALITY)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, default=200)
    parser.add_argument("--longest", type=int, default=500)
    chosen = parser.parse_args()
    for folder in sorted(path for path in chosen.folder.iterdir() if path.is_dir()):
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        paths = paths[:: max(1, len(paths) // chosen.per_class)][: chosen.per_class]
        targets = [chosen.out / folder.name / f"{number:04}.jpg" for number in range(len(paths))]
        with ThreadPoolExecutor() as pool:
            written = sum(pool.map(lambda pair: write(*pair, chosen.longest), zip(paths, targets, strict=True)))
        print(f"{folder.name}: {written} of {len(paths)}")


if __name__ == "__main__":
    main()
