"""Difference between the fast decoder and the reference decoder on the photographs of scikit-image.

    python benchmarks/decode_bound.py [--quick] [--json OUT.json]

Each photograph is saved as JPEGs of several widths (Lanczos, quality 90). These are decoded to several sizes with three
resize policies, in colour and grey, by `decode_fast` and by `decode`. For each photograph the script prints the mean
absolute difference, the largest mean of one image and its setting, and the largest difference of a single value, in
1/255. Images that are not photographs (a page
of text, clip art) are listed below and do not count, since the bound is for photographs. Exit code 1 if a photograph
exceeds it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import PIL.Image
from skimage import data

from kerasimg.data.decode import decode
from kerasimg.data.fast_decode import LARGEST, MEAN_BOUND, decode_fast, version
from kerasimg.spec.document import Image, ResizePolicy

PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field"),
    *("ihc", "microaneurysms", "moon", "motorcycle_left", "retina", "rocket"),
)
OTHERS = ("page", "text", "logo", "horse", "color", "phantom")
WIDTHS = (300, 345, 375, 500, 1000)
SIZES = (64, 96, 128, 160, 224, 299)


def images(names: tuple[str, ...]) -> Iterator[tuple[str, PIL.Image.Image]]:
    """Returns the images that the installed package contains; others would be downloaded."""
    for name in names:
        path = Path(data.__file__).parent / f"{name}.png"
        found = [path, *(path.with_suffix(suffix) for suffix in (".jpg", ".jpeg", ".gif", ".tif", ".tiff"))]
        for one in found:
            if one.exists():
                yield name, PIL.Image.open(one).convert("RGB")
                break


def measured(img: PIL.Image.Image, widths: tuple[int, ...], sizes: tuple[int, ...]) -> dict[str, Any]:
    """Returns the differences for one photograph, at all widths and sizes at which it shrinks."""
    means, largest, at = [], 0, ""
    for width in widths:
        height = width * img.height // img.width
        file = io.BytesIO()
        img.resize((width, height), PIL.Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
        for size in sizes:
            for policy in get_args(ResizePolicy):
                for channels in (3, 1):
                    image = Image(size=[size, size], resize=policy, channels=channels)
                    exact = decode(file.getvalue(), image).astype(int)
                    apart = np.abs(decode_fast(file.getvalue(), image) - exact)
                    if not means or apart.mean() > max(means):
                        at = f"{width}x{height} to {size}, {policy}, {channels} channels"
                    means.append(float(apart.mean()))
                    largest = max(largest, int(apart.max()))
    return {"mean": float(np.mean(means)), "worst": max(means), "at": at, "largest": largest}


def table(names: tuple[str, ...], widths: tuple[int, ...], sizes: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    rows = {}
    for name, image in images(names):
        rows[name] = row = measured(image, widths, sizes)
        print(f"{name:22} {row['mean']:6.2f} {row['worst']:8.2f} {row['largest']:8}   {row['at']}", flush=True)
    return rows


def main() -> int:
    """Prints the tables; returns 1 if a photograph exceeds the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two widths and two sizes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    widths, sizes = ((345, 500), (128, 224)) if options.quick else (WIDTHS, SIZES)
    print(f"fast decoder {version()}\n{'photograph':22} {'mean':>6} {'at most':>8} {'a value':>8}")
    rows = table(PHOTOGRAPHS, widths, sizes)
    within_bound = all(row["worst"] < MEAN_BOUND and row["largest"] <= LARGEST for row in rows.values())
    print(
        f"{'all of them':22} {np.mean([row['mean'] for row in rows.values()]):6.2f} "
        f"{max(row['worst'] for row in rows.values()):8.2f} {max(row['largest'] for row in rows.values()):8}\n"
    )
    output = {"version": version(), "photographs": rows, "others": table(OTHERS, widths, sizes)}
    if options.json:
        options.json.write_text(json.dumps(output, indent=1) + "\n")
    return 0 if within_bound else 1


if __name__ == "__main__":
    sys.exit(main())
