"""Checkpoints that a stranger may have written: each ends in one error, before anything of their size is allocated."""

import functools
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


def preprocessing(**changes: Any) -> Callable[[Path], Any]:
    cfg = json.loads((seeded.FOLDER / "vit.json").read_text())["config"]["pretrained_cfg"]
    return config(pretrained_cfg=cfg | changes)


def class_names(name: str) -> Callable[[Path], Any]:
    return preprocessing(label_names=[name, *map(str, range(9))])


def give_an_array_twice(folder: Path) -> None:
    arrays, body = header(folder)
    name = next(iter(arrays))
    text = f"{{{json.dumps(name)}:{json.dumps(arrays[name])},{json.dumps(arrays)[1:]}".encode()
    raw(struct.pack("<Q", len(text)) + text + body)(folder)


def leave_a_shard(folder: Path, *, of: int = 1) -> None:
    """The first half of the arrays, and an index that says that the others are elsewhere on the machine."""
    arrays, body = header(folder)
    half = dict(sorted(arrays.items(), key=lambda item: item[1]["data_offsets"])[: len(arrays) // 2])
    write(folder, half, body[: max(array["data_offsets"][1] for array in half.values())])
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    for number in range(of):
        (folder / f"model-{number}.safetensors").write_bytes(content)
    index = {"weight_map": dict.fromkeys(arrays.keys() - half.keys(), "../../../../etc/passwd")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_a_long_card(folder: Path) -> None:
    with (folder / "README.md").open("wb") as file:
        file.write(b"---\nlicense: ")
        file.truncate(10**8)


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
    "an array twice": (give_an_array_twice, "cls_token: given twice in the same object"),
    "a shard whose index leads elsewhere": (leave_a_shard, "blocks.1.norm1.weight: missing"),
    "two shards of the same arrays": (functools.partial(leave_a_shard, of=2), "has 2 .safetensors files"),
    "a class name with an escape sequence": (
        class_names("\x1b[31mred"),
        r"the name of class 0: expected 1 to 500 characters without control characters, got '\\x1b\[31mred'",
    ),
    "a class name that turns the line": (class_names("\u202efdp.exe"), r"got '\\u202efdp.exe'"),
    "a class without a name": (class_names(" "), "the name of class 0: expected 1 to 500 characters"),
    "a class name of 1,000 characters": (class_names("x" * 1000), "the name of class 0: expected 1 to 500 characters"),
    "a card of 100 MB": (write_a_long_card, "it is larger than 1,000,000 bytes"),
    "a standard deviation of almost 0": (preprocessing(std=[1e-300] * 3), r"scale.std\[0\]: expected a number > 0"),
    "a depth beyond every network": (config(model_args={"depth": 2000}), "more than 20,000 nodes once expanded"),
    "a crop of nothing": (preprocessing(crop_pct=1e-9), "crop_pct: expected 0.1 to 1 of the resized image"),
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


def test_what_is_shown_of_a_stranger_is_one_line(tmp_path: Path):
    folder = seeded.write("vit", tmp_path / "vit")
    preprocessing(label_names=["red\n panda", *map(str, range(9))], license="\x1b]0;title\x07mit")(folder)
    imported = kerasimg.import_checkpoint(str(folder), tmp_path / "out")
    assert imported.license is None
    assert json.loads((tmp_path / "out" / "vit.classes.json").read_text())[0] == "red panda"
