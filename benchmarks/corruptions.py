"""How much kerasimg's corruptions change images, beside those of the package imagecorruptions (Michaelis et al. 2019).

    pip install imagecorruptions scikit-image numba "setuptools<80"
    python benchmarks/corruptions.py IMAGES [--count 8]

IMAGES is a folder; each image is cut to a square and scaled to 224 pixels. Prints for each corruption and severity the
mean change of a pixel (0 to 255), theirs / ours. Exit code 1 if a pair differs by more than 15 %. The two draw
different random numbers, so pixels are not compared.
"""

from __future__ import annotations

import argparse
import sys
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import skimage.filters

from kerasimg.evaluation.corruptions import CORRUPTIONS, SEVERITIES, SIDE, corrupt

APART = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=8)
    options = parser.parse_args()
    theirs, images = package(), squares(options.images, options.count)
    worst = 0.0
    print("| | " + " | ".join(map(str, SEVERITIES)) + " |\n| --- |" + " ---: |" * len(SEVERITIES))
    for name in CORRUPTIONS:
        cells = []
        for severity in SEVERITIES:
            pairs = []
            for number, image in enumerate(images):
                np.random.seed(number)
                other = theirs(image, corruption_name=name, severity=severity)
                own = corrupt(image, name, severity, np.random.default_rng(number))
                pairs.append([np.abs(x.astype(float) - image).mean() for x in (other, own)])
            other_s, own_s = np.mean(pairs, axis=0)
            worst = max(worst, abs(own_s / other_s - 1))
            cells.append(f"{other_s:.1f} / {own_s:.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"largest difference: {worst:.1%}")
    sys.exit(worst > APART)


def package() -> Any:
    """Returns the other implementation, with the names that newer versions of its dependencies have changed."""
    gaussian = skimage.filters.gaussian

    @wraps(gaussian)
    def with_old_name(*arguments: Any, multichannel: bool = False, **options: Any) -> Any:
        return gaussian(*arguments, **options, **({"channel_axis": -1} if multichannel else {}))

    skimage.filters.gaussian = with_old_name
    np.float_ = np.float64  # type: ignore[attr-defined]
    import imagecorruptions

    return imagecorruptions.corrupt


def squares(folder: Path, count: int) -> list[np.ndarray]:
    """Returns the first images that are large enough, on white, SIDE pixels wide."""
    found = []
    for file in sorted(folder.rglob("*")):
        if len(found) < count and file.suffix.lower() in (".png", ".jpg", ".jpeg"):
            with PIL.Image.open(file) as opened:
                if min(opened.size) >= SIDE:
                    image = opened.convert("RGBA")
                    white = PIL.Image.new("RGBA", image.size, "white")
                    white.alpha_composite(image)
                    found.append(np.asarray(PIL.ImageOps.fit(white.convert("RGB"), (SIDE, SIDE))))
    return found


if __name__ == "__main__":
    main()
