import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import pytest

from kerasimg.cache_folder import cache_folder
from kerasimg.data import ledger as module
from kerasimg.data.ledger import Ledger, hexadecimal


def keys_of(*numbers: int) -> np.ndarray:
    return np.array([hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in numbers], "S16")


def digests_of(*numbers: int) -> np.ndarray:
    return np.array([hashlib.sha256(str(number).encode()).digest() for number in numbers], "S32")


def add(ledger: Ledger, *numbers: int, reason: str = "") -> None:
    ledger.add(keys_of(*numbers), digests_of(*numbers), [reason] * len(numbers))


def test_what_was_added_is_found_again_by_another_process(tmp_path: Path):
    first = Ledger(tmp_path)
    first.add(keys_of(*range(1000)), digests_of(*range(1000)), ["is empty" if k == 7 else "" for k in range(1000)])
    for ledger in (first, Ledger(tmp_path)):
        found = ledger.find(keys_of(5, 2000, 7, 999))
        assert found.known.tolist() == [True, False, True, True]
        assert hexadecimal(found.sha256)[0] == hashlib.sha256(b"5").hexdigest()
        assert found.reasons.tolist() == ["", "", "is empty", ""]


def test_the_users_ledger_is_in_the_cache_folder():
    assert Ledger.open().folder == cache_folder() / "ledger"


def test_an_empty_ledger_knows_nothing(tmp_path: Path):
    found = Ledger(tmp_path / "none").find(keys_of(1, 2))
    assert found.known.tolist() == [False, False]
    assert Ledger(tmp_path / "none").find(keys_of()).known.tolist() == []
    Ledger(tmp_path / "none").add(keys_of(), [], [])
    assert not (tmp_path / "none").exists()


def test_the_latest_line_of_a_image_counts(tmp_path: Path):
    ledger = Ledger(tmp_path)
    add(ledger, 1, 2, reason="is truncated")
    add(ledger, 1)
    for one in (ledger, Ledger(tmp_path)):
        assert one.find(keys_of(1, 2)).reasons.tolist() == ["", "is truncated"]


def test_a_digest_that_ends_in_zeros_is_whole_in_hexadecimal():
    digests = np.array([b"\1" * 30 + b"\0\0", b"\2" * 32], "S32")
    assert hexadecimal(digests) == ["01" * 30 + "0000", "02" * 32]


@pytest.mark.parametrize("damage", [b"", b"rubbish", None, "cut", "flipped"])
def test_a_damaged_file_is_dropped_and_the_others_are_read(tmp_path: Path, damage: bytes | str | None):
    ledger = Ledger(tmp_path)
    add(ledger, 1, 2, 3)
    path = next(iter(ledger.files))
    add(ledger, 4)
    whole = bytearray(path.read_bytes())
    if damage is None:
        whole = bytearray(whole.replace(b'"ledger"', b'"legder"'))
    elif damage == "cut":
        del whole[-5:]
    elif damage == "flipped":
        whole[-60] ^= 1
    else:
        whole = bytearray(damage)
    path.write_bytes(whole)
    again = Ledger(tmp_path)
    assert again.find(keys_of(1, 4)).known.tolist() == [False, True]
    assert not path.exists()


def test_many_files_are_joined_to_one_and_nothing_is_lost(tmp_path: Path):
    ledger = Ledger(tmp_path)
    for number in range(40):
        add(ledger, number, 1000 + number, reason="is empty" if number % 3 == 0 else "")
    assert len(list(tmp_path.iterdir())) < module.FILES
    for one in (ledger, Ledger(tmp_path)):
        found = one.find(keys_of(*range(40), *range(1000, 1040)))
        assert found.known.all()
        assert (found.sha256 == digests_of(*range(40), *range(1000, 1040))).all()
        assert [reason != "" for reason in found.reasons] == [number % 3 == 0 for number in range(40)] * 2


def test_processes_that_join_at_the_same_time_lose_nothing(tmp_path: Path):
    def work(worker: int) -> None:
        ledger = Ledger(tmp_path)
        for number in range(50):
            add(ledger, worker * 1000 + number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    every = [worker * 1000 + number for worker in range(4) for number in range(50)]
    assert Ledger(tmp_path).find(keys_of(*every)).known.all()


def test_the_oldest_are_forgotten_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LIMIT", 10)
    day = [0]
    monkeypatch.setattr(module.time, "time", lambda: day[0] * 86_400.0)
    ledger = Ledger(tmp_path)
    for number in range(0, 32, 2):
        day[0] += 1
        add(ledger, number, number + 1)
    found = Ledger(tmp_path).find(keys_of(*range(32))).known
    assert found[-10:].all()
    assert not found[:2].any()
    assert found.sum() < 32


def test_that_a_image_is_bad_counts_only_for_the_pillow_that_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    add(Ledger(tmp_path), 1, reason="is not an image of a known format")
    add(Ledger(tmp_path), 2)
    monkeypatch.setattr(PIL, "__version__", "999")
    assert Ledger(tmp_path).find(keys_of(1, 2)).known.tolist() == [False, True]


def test_a_folder_that_cannot_be_written_to_keeps_nothing_and_fails_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "ledger")
    add(ledger, 1)
    assert ledger.find(keys_of(1)).known.tolist() == [True]
    assert (tmp_path / "file").read_text() == ""
