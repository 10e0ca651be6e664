"""Checkpoints made from a seed: names and shapes become the file that timm or Hugging Face would store."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "fixtures"


def names() -> list[str]:
    """The fixtures, by name."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """A fixture: the config of a checkpoint, the shapes of its arrays, and the logits that the original computes."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def array(name: str, shape: list[int], variance: float = 1.0) -> np.ndarray:
    """The numbers of one array, which depend on its name alone; `RandomState` never changes its stream.

    variance: about which those of batch normalizations lie.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return (variance * random.uniform(0.5, 1.5, shape)).astype(np.float32)
    values = random.standard_normal(shape)
    if sum(side > 1 for side in shape) <= 1:
        is_scale = leaf in ("weight", "gamma") or leaf.endswith("gamma")
        return (is_scale + 0.1 * values).astype(np.float32)
    return (values / np.sqrt(np.prod(shape[1:])) if leaf == "weight" else 0.3 * values).astype(np.float32)


def image(size: int) -> np.ndarray:
    """One image of whole numbers in 0-255, (size, size, 3): smooth, so that it has structure at every scale."""
    rows, columns = np.mgrid[:size, :size] / size
    waves = [np.sin(3 * rows + 5 * columns), np.cos(7 * rows * columns), np.sin(9 * columns - rows)]
    noise = np.random.RandomState(0).uniform(-20, 20, (size, size, 3))
    return np.clip(np.stack(waves, -1) * 100 + 128 + noise, 0, 255).round().astype(np.uint8)


def arrays(shapes: dict[str, list[int]], variance: float = 1.0) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint."""
    return {name: array(name, shape, variance) for name, shape in shapes.items()}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes the format by its definition: the length of the header, the header, the bytes."""
    kinds = {"float32": "F32", "float16": "F16", "int64": "I64"}
    header, place = {}, 0
    for name, values in tensors.items():
        offsets = [place, place + values.nbytes]
        header[name] = {"dtype": kinds[values.dtype.name], "shape": list(values.shape), "data_offsets": offsets}
        place = offsets[1]
    text = json.dumps(header).encode()
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *(values.tobytes() for values in tensors.values())]))


def write(name: str, folder: Path) -> Path:
    """Writes the checkpoint of a fixture as a folder with `config.json` and `model.safetensors`."""
    fixture = read(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fixture["config"]))
    write_safetensors(folder / "model.safetensors", arrays(fixture["tensors"], fixture["variance"]))
    return folder
