"""Checkpoints that a stranger may have written: each ends in one error, before anything of their size is allocated."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kerasimg
from kerasimg.errors import KerasimgError
from tests.checkpoints import seeded


def header(folder: Path) -> tuple[dict[str, Any], bytes]:
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(folder: Path, arrays: dict[str, Any], body: bytes) -> None:
    text = json.dumps(arrays).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def raw(content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def config(**changes: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def first_array(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        arrays, body = header(folder)
        arrays[next(iter(arrays))] |= changes
        write(folder, arrays, body)

    return change


def rename_array(folder: Path) -> None:
    arrays, body = header(folder)
    arrays = {"other." + name if name == "norm.weight" else name: value for name, value in arrays.items()}
    write(folder, arrays, body)


def drop_array(folder: Path) -> None:
    arrays, body = header(folder)
    del arrays[list(arrays)[3]]
    write(folder, arrays, body)


def add_array(folder: Path) -> None:
    arrays, body = header(folder)
    arrays["extra.weight"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    write(folder, arrays, body + b"0000")


def turn_array(folder: Path) -> None:
    arrays, body = header(folder)
    arrays["head.weight"]["shape"] = arrays["head.weight"]["shape"][::-1]
    write(folder, arrays, body)


def crop(share: float) -> Callable[[Path], Any]:
    cfg = json.loads((seeded.FOLDER / "vit.json").read_text())["config"]["pretrained_cfg"]
    return config(pretrained_cfg=cfg | {"crop_pct": share})


def make_a_million(folder: Path) -> None:
    row = '"a%d":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = f"{{{','.join(row % number for number in range(10**6))}}}".encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"0000")


CASES = {
    "a pickle": (raw(b"\x80\x04\x95" + b"0" * 500), "is a pickle, which can run any code"),
    "a pickle in a ZIP file": (raw(b"PK\x03\x04" + b"0" * 500), "is a pickle, which can run any code"),
    "a header longer than the file": (raw(struct.pack("<Q", 2**60) + b"{}"), "its header declares 1,152,921,504"),
    "a shape beyond the bytes": (first_array(shape=[10**9, 10**9]), r"does not take"),
    "bytes beyond the file": (first_array(data_offsets=[0, 10**15]), "its bytes are not in the file"),
    "an array under another name": (rename_array, "norm.weight"),
    "an array is missing": (drop_array, "its arrays overlap, or leave gaps"),
    "an array too many": (add_array, "extra.weight: the model has no place for it"),
    "an array of another shape": (turn_array, r"head.weight: shape \(48, 10\) does not fit"),
    "a crop of nothing": (crop(1e-9), "crop_pct: expected 0.1 to 1 of the resized image"),
    "a million arrays": (make_a_million, "its header declares"),
    "code of its own": (config(auto_map={"AutoModel": "x.py"}), "auto_map: the checkpoint asks for code of its own"),
    "a deep config": (lambda folder: (folder / "config.json").write_text("[" * 10**5), "nested deeper than"),
    "a huge model": (config(model_args={"depth": 10**9, "embed_dim": 10**9}), "expected an integer from 0 to 10,000"),
    "a negative number": (config(num_classes=-5), "num_classes: expected a whole number"),
}


@pytest.mark.parametrize(("change", "message"), CASES.values(), ids=CASES)
def test_a_hostile_checkpoint_is_refused(change: Callable[[Path], Any], message: str, tmp_path: Path):
    folder = seeded.write("vit", tmp_path / "vit")
    change(folder)
    with pytest.raises(KerasimgError, match=message):
        kerasimg.import_checkpoint(str(folder), tmp_path / "out")
    assert [*(tmp_path / "out").glob("*")] == []
