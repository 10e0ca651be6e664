"""The rules that say what may be wrong with images."""

from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

from kerasimg.data.audit.data_check import DataCheck, check_data
from kerasimg.data.audit.findings import KINDS

SIDE = 48


def photo(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> PIL.Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return PIL.Image.fromarray(coarse).resize(size, PIL.Image.Resampling.BICUBIC)


def write(root: Path, name: str, image: PIL.Image.Image | bytes, **options) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path, **options)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """24 photos of each of two classes, in which nothing is wrong."""
    for number in range(48):
        write(tmp_path, f"{'cat' if number < 24 else 'dog'}/{number:02}.png", photo(number))
    return tmp_path


def kinds_of(checked: DataCheck) -> dict[str, list[list[str]]]:
    """Kind -> the names of the images of each finding."""
    rows: dict[str, list[list[str]]] = {}
    for one in checked.findings:
        rows.setdefault(one.kind, []).append([checked.source.items[index].id for index in one.images])
    return rows


def test_nothing_is_said_of_a_clean_folder(clean: Path):
    assert kinds_of(check_data(clean)) == {}


def test_one_image_in_two_classes_is_an_error(clean: Path):
    write(clean, "dog/same.png", photo(3))
    checked = check_data(clean)
    assert kinds_of(checked) == {"conflict": [["cat/03.png", "dog/same.png"]]}
    assert not checked.ok
    assert checked.findings[0].detail.startswith("cat / dog")


def test_one_image_in_two_parts_is_an_error_where_the_data_gives_the_parts(clean: Path):
    for part in ("train", "test"):
        for number in range(40):
            label = "cat" if number < 20 else "dog"
            write(clean, f"parted/{part}/{label}/{number:02}.png", photo(number + (100 if part == "test" else 0)))
    write(clean, "parted/test/cat/again.png", photo(5))
    write(clean, "parted/test/cat/smaller.png", photo(6).resize((40, 40)))
    write(clean, "parted/train/cat/twice.png", photo(7))
    checked = check_data(clean / "parted", {**SPEC, "fit": {"validation_split": 0}})
    assert kinds_of(checked) == {
        "leak": [["test/cat/again.png", "train/cat/05.png"]],
        "near_leak": [["test/cat/smaller.png", "train/cat/06.png"]],
        "duplicate": [["train/cat/07.png", "train/cat/twice.png"]],
    }
    assert [one.severity for one in checked.findings] == ["error", "warning", "warning"]


def test_one_image_that_the_split_would_put_in_two_parts_is_a_warning(clean: Path):
    for number in range(24):
        write(clean, f"cat/again{number:02}.png", photo(number))
    counts = Counter(one.kind for one in check_data(clean).findings)
    assert counts["leak_drawn"] > 0
    assert counts["duplicate"] > 0
    assert counts["leak_drawn"] + counts["duplicate"] == 24
    alone = check_data(clean, {**SPEC, "fit": {"validation_split": 0, "test_split": 0}})
    assert Counter(one.kind for one in alone.findings) == {"duplicate": 24}


def test_copies_in_two_classes_are_a_warning(clean: Path):
    write(clean, "dog/copy.jpg", photo(3), quality=60)
    checked = check_data(clean)
    assert kinds_of(checked) == {"near_conflict": [["cat/03.png", "dog/copy.jpg"]]}
    assert checked.ok
    assert checked.findings[0].detail.startswith("cat / dog; recompressed or retouched (correlation 0.98")


@pytest.mark.parametrize(
    ("kind", "name", "image"),
    [
        ("unreadable", "cat/bad.png", b"\x89PNG but no more"),
        ("blank", "cat/bad.png", PIL.Image.new("RGB", (SIDE, SIDE), (90, 90, 95))),
        ("tiny", "cat/bad.png", photo(99, (12, 14))),
        ("dark", "cat/bad.png", photo(99).point([value // 8 for value in range(256)] * 3)),
        ("overexposed", "cat/bad.png", photo(99).point([min(255, 205 + value) for value in range(256)] * 3)),
        ("blurred", "cat/bad.png", photo(99, (200, 200)).filter(PIL.ImageFilter.GaussianBlur(20))),
        ("aspect", "cat/bad.png", photo(99, (300, 60))),
        ("extension", "cat/bad.jpg", photo(99)),
        ("cmyk", "cat/bad.jpg", photo(99).convert("CMYK")),
    ],
)
def test_a_bad_image_is_named(kind: str, name: str, image: PIL.Image.Image | bytes, clean: Path):
    write(clean, name, image, **({"format": "PNG"} if kind == "extension" else {}))
    checked = check_data(clean)
    assert kinds_of(checked) == {kind: [[name]]}
    assert checked.ok == (kind != "unreadable")


def test_what_the_whole_data_set_is_is_held_against_none_of_its_images(tmp_path: Path):
    for number in range(48):
        small = photo(number, (10, 40)).filter(PIL.ImageFilter.GaussianBlur(1))
        write(tmp_path, f"{'cat' if number < 24 else 'dog'}/{number:02}.png", small)
    assert kinds_of(check_data(tmp_path)) == {}


def test_small_and_unequal_classes_are_warned_of(clean: Path):
    for number in range(260):
        write(clean, f"cow/{number:03}.png", photo(1000 + number))
    write(clean, "eel/0.png", photo(2000))
    write(clean, "eel/1.png", photo(2001))
    write(clean, "eel/2.png", photo(2002))
    checked = check_data(clean)
    assert [(one.kind, one.detail) for one in checked.findings] == [
        ("few", "class 'eel': 3"),
        ("imbalance", "'cow' has 87 times as many images as 'eel'"),
    ]


def test_a_class_that_cannot_be_read_at_all_is_an_error(clean: Path):
    write(clean, "eel/0.png", b"nothing")
    rows = [(one.kind, one.label) for one in check_data(clean).findings]
    assert rows == [("unreadable", ""), ("class_unreadable", "eel")]


def test_data_that_cannot_be_split_is_an_error(clean: Path):
    write(clean, "test/eel/0.png", photo(99))
    write(clean, "train/cat/0.png", photo(98))
    checked = check_data(_parts_only(clean))
    assert "no_split" in kinds_of(checked)
    assert not checked.ok


def test_every_kind_has_a_title_and_says_what_to_do():
    for name, kind in KINDS.items():
        assert kind.severity in ("error", "warning", "note"), name
        assert kind.title, name
        assert kind.advice, name


SPEC = {
    "kerasimg": 1,
    "name": "small",
    "params": {"num_classes": None},
    "image": {"size": [32, 32]},
    "model": [
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "units": "=num_classes", "activation": "softmax"},
    ],
}


def _parts_only(root: Path) -> Path:
    for name in ("cat", "dog"):
        for path in (root / name).iterdir():
            path.unlink()
        (root / name).rmdir()
    return root
