"""The test images of a bundle: as files, as pixels, and what the trained model says of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from kerasimg.data.decode import decode
from kerasimg.deploy.bundle import EXPECTED, VECTORS
from kerasimg.deploy.export_context import Exporting
from kerasimg.deploy.gate import as_file
from kerasimg.files import write_json
from kerasimg.models.pack_io import drawn

COUNT = 5

EXTENSIONS = {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2", "tiff": "tif"}
"""Pillow's name of a format -> the extension, where it is another."""


def write_vectors(exporting: Exporting, folder: Path) -> None:
    """`vectors/`: five of the test images at even distances; where there are none, five that are drawn."""
    (folder / VECTORS).mkdir()
    rows, pixels = [], []
    for number, (name, image) in enumerate(_chosen(exporting)):
        file = _write_image(folder / VECTORS, str(number), image)
        pixels.append(decode(str(file), exporting.image))
        np.save(folder / VECTORS / f"{number}.input.npy", pixels[-1])
        rows.append({"name": name, "file": file.name, "pixels": f"{number}.input.npy"})
    told = exporting.classifier.probabilities(np.stack(pixels).astype(np.float32))
    for row, probabilities in zip(rows, told, strict=True):
        row["probabilities"] = probabilities.astype(float).tolist()
    content = {"classes": list(exporting.classes), "vectors": rows}
    write_json(folder / EXPECTED, content)


def _chosen(exporting: Exporting) -> list[tuple[str, Any]]:
    if exporting.test is None:
        return [(f"drawn {number}", _drawn(number, exporting.shape)) for number in range(COUNT)]
    chosen = exporting.test.evenly(COUNT)
    return [
        (name, chosen.source.columns.image(int(index)))
        for name, index in zip(chosen.names, chosen.indices, strict=True)
    ]


def _drawn(number: int, shape: tuple[int, int, int]) -> np.ndarray:
    """An image of smooth colours, of another size than the model's."""
    height, width = shape[0] * 5 // 4 + number, shape[1] * 3 // 2
    return np.asarray(drawn(number, height, width))


def _write_image(folder: Path, stem: str, image: Any) -> Path:
    """The image's own file; of pixels a PNG."""
    content = as_file(image)
    with PIL.Image.open(io.BytesIO(content)) as opened:
        kind = (opened.format or "bin").lower()
    file = folder / f"{stem}.{EXTENSIONS.get(kind, kind)}"
    file.write_bytes(content)
    return file
