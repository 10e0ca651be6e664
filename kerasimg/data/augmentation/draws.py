"""Random numbers as a pure function of an image's seeds: Threefry-4x32 (Salmon et al. 2011, 10.1145/2063384.2063405).

Each image has a key, made of its pair of seeds. What a key yields depends on nothing else: not on the other images
of the batch, not on their order, not on how many threads draw. Integers throughout, so that every device agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import tensorflow as tf

from kerasimg.data.augmentation.operations import settled

ROTATIONS: Final = ((10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20))
PARITY: Final = 0x1BD11BDA
"""Keeps a key of zeros from being a fixed point (from Skein, on which Threefry rests)."""


class Part(NamedTuple):
    """Random words that belong together."""

    numbers: int
    """How many."""
    stream: tuple[int, int]
    """Tells them from those of other parts."""


def threefry(key: tuple[Any, ...], counter: tuple[Any, ...], rounds: int = 20) -> tuple[Any, ...]:
    """Four random words for a key and a counter of four words each; uint32 tensors of shapes that broadcast.

    rounds: 20 as published; from 12 on the tests of BigCrush are passed.
    """
    parity = tf.constant(PARITY, tf.uint32)
    for word in key:
        parity = _xor(parity, word)
    keys = (*key, parity)
    x = [count + word for count, word in zip(counter, key, strict=True)]
    for turn in range(rounds):
        first, second = ROTATIONS[turn % 8]
        partners = (1, 3) if turn % 2 == 0 else (3, 1)
        for low, high, bits in ((0, partners[0], first), (2, partners[1], second)):
            x[low] += x[high]
            x[high] = _xor(_rotated(x[high], bits), x[low])
        if turn % 4 == 3:
            step = turn // 4 + 1
            x = [word + keys[(step + place) % 5] for place, word in enumerate(x)]
            x[3] += tf.constant(step, tf.uint32)
    return tuple(x)


def keys(seeds: Any) -> tuple[Any, ...]:
    """The key of each image, four times (N,) uint32, from its pair of seeds, (N, 2) int64."""
    low = tf.cast(tf.bitwise.bitwise_and(seeds, 0xFFFFFFFF), tf.uint32)
    high = tf.cast(tf.bitwise.bitwise_and(tf.bitwise.right_shift(seeds, 32), 0xFFFFFFFF), tf.uint32)
    return low[:, 0], high[:, 0], low[:, 1], high[:, 1]


def words(key: tuple[Any, ...], parts: Sequence[Part], run: Any) -> list[Any]:
    """Random words of each key, (N, numbers) uint32 for each part. run: uint32; with it all of them change."""
    blocks = [-(-part.numbers // 4) for part in parts]
    counters = np.array(
        [(block, *part.stream) for part, some in zip(parts, blocks, strict=True) for block in range(some)], np.int64
    )
    counter = [tf.constant(column) for column in (counters.reshape(-1, 3) % 2**32).astype(np.uint32).T]
    drawn = settled(uniform(run) >= 0.0, lambda: threefry(tuple(word[:, tf.newaxis] for word in key), (*counter, run)))
    flat = tf.reshape(tf.stack(drawn, axis=-1), (-1, 4 * sum(blocks)))
    split = tf.split(flat, [4 * some for some in blocks], axis=1)
    return [some[:, : part.numbers] for some, part in zip(split, parts, strict=True)]


def uniform(word: Any, low: float = 0.0, high: float = 1.0) -> Any:
    """Random words -> float32 evenly spread over [low, high), in steps of 2^-24 of its width."""
    return low + (high - low) * tf.cast(tf.bitwise.right_shift(word, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def below(word: Any, limit: int) -> Any:
    """Random words -> int32 in [0, limit); limit up to 2^20."""
    # Rounding may reach the end of the range.
    return tf.minimum(tf.cast(tf.floor(uniform(word) * limit), tf.int32), limit - 1)


def chance(word: Any, range_: Sequence[float]) -> Any:
    """Random words (N, 2 or more) -> (N,) bool, true at a probability that is itself drawn from a range."""
    return uniform(word[:, 1]) < uniform(word[:, 0], *range_)


def beta(word: Any, alpha: Any) -> Any:
    """Random words (N, 3) -> (N,) of the distribution Beta(alpha, alpha), alpha > 0.

    Of Student's t by the polar method (Bailey 1994, 10.2307/2153537), which needs no rejection.
    """
    one = 1.0 - uniform(word[:, 0])
    power = tf.exp(tf.math.log(one) / alpha)
    cosine = tf.square(tf.cos(uniform(word[:, 1], high=6.283185307179586)))
    # 1 - r, r being the square of the distance of the result from 1/2, in units of 1/2.
    rest = power / tf.maximum(power + cosine * (1.0 - power), 1e-37)
    small = 0.5 * rest / (1.0 + tf.sqrt(1.0 - rest))
    return tf.where(uniform(word[:, 2]) < 0.5, small, 1.0 - small)


def _xor(one: Any, other: Any) -> Any:
    return tf.bitwise.bitwise_xor(one, other)


def _rotated(word: Any, bits: int) -> Any:
    left = tf.bitwise.left_shift(word, tf.constant(bits, tf.uint32))
    return tf.bitwise.bitwise_or(left, tf.bitwise.right_shift(word, tf.constant(32 - bits, tf.uint32)))
