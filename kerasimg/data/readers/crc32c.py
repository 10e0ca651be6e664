"""CRC-32C (Castagnoli 1993, doi:10.1109/26.231911; RFC 3720), which TFRecord files are checked by.

A CRC is linear: what a byte adds to it depends on the byte and on how many follow, and on nothing else. So 256 bytes
at a time are looked up in a table by place and value and joined by exclusive or, and so are then the four bytes of
each of 64 such results, and of 64 of those: five steps of NumPy cover a gigabyte.
"""

from __future__ import annotations

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78
WIDTH = 256
"""Bytes that one look-up joins."""
SHORT = 64
"""Fewer bytes are looked up one by one."""
ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC-32C of some bytes."""
    if len(data) < SHORT:
        return _one_by_one(data)
    level = 0
    values = np.frombuffer(data, np.uint8).copy()
    values[:4] ^= 0xFF  # to begin with ones
    while True:
        # Zeros before the first byte leave the sum as it is.
        filled = np.zeros(-(-len(values) // WIDTH) * WIDTH, np.uint8)
        filled[len(filled) - len(values) :] = values
        places = filled.reshape(-1, WIDTH) + PLACES
        sums = np.bitwise_xor.reduce(np.take(_table(level).reshape(-1), places), axis=1)
        if len(sums) == 1:
            return int(sums[0]) ^ ONES
        values = sums.astype("<u4").view(np.uint8)
        level += 1


def masked(crc: int) -> int:
    """A CRC as TFRecord files store it: turned by 15 bits, and a constant added."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & ONES


PLACES = np.arange(0, WIDTH * 256, 256, dtype=np.int32)
"""Where each place's row begins in a table."""


@functools.cache
def _bytes_table() -> np.ndarray:
    """(256,) uint32: what each byte adds, when none follows."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ POLYNOMIAL, table >> 1).astype(np.uint32)
    return table


@functools.cache
def _table(level: int) -> np.ndarray:
    """(256, 256) uint32: what each byte at each place adds; above level 0, the bytes of 64 sums of the level below."""
    if level == 0:
        last = _bytes_table()[np.newaxis]
        count = WIDTH
    else:
        last = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, np.newaxis]
        count = WIDTH // 4
    blocks = [last]
    for _ in range(count - 1):
        blocks.append(_moved(blocks[-1], level))
    return np.concatenate(blocks[::-1])


def _moved(values: np.ndarray, level: int) -> np.ndarray:
    """Sums after as many zero bytes as a place of this level stands for: 1, then 256, then 64 times as many each."""
    if level == 0:
        return _bytes_table()[values & 0xFF] ^ values >> np.uint32(8)
    table = _table(level - 1)
    first = [table[place][values >> np.uint32(8 * place) & 0xFF] for place in range(4)]
    found = first[0] ^ first[1] ^ first[2] ^ first[3]
    return found if level == 1 else _moved(found, level - 1)


def _one_by_one(data: bytes) -> int:
    table, state = _bytes_list(), ONES
    for byte in data:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    return state ^ ONES


@functools.cache
def _bytes_list() -> list[int]:
    return _bytes_table().tolist()
