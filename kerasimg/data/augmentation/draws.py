"""Random numbers as a pure function of an image's seeds: Threefry-4x32 (Salmon et al. 2011, 10.1145/2063384.2063405).

Each image has a key, made of its pair of seeds. What a key yields depends on nothing else: not on the other images
of the batch, not on their order, not on how many threads draw. Integers throughout, so that every device agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from keras import ops

from kerasimg.data.augmentation.backend import BACKEND

ROTATIONS: Final = ((10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20))
PARITY: Final = 0x1BD11BDA
"""Keeps a key of zeros from being a fixed point (from Skein, on which Threefry rests)."""


class Part(NamedTuple):
    """Random words that belong together."""

    numbers: int
    """How many."""
    stream: tuple[int, int]
    """Tells them from those of other parts."""
    alternating: bool = False
    """Whether they are coins that are tossed once for all epochs, and turned over from each epoch to the next."""


def threefry(key: Sequence[Any], counter: Sequence[Any], rounds: int = 20) -> list[Any]:
    """Four random words for a key and a counter of four words each; arrays of words of shapes that broadcast.

    rounds: 20 as published; from 12 on the tests of BigCrush are passed.
    """
    wrapped = BACKEND.wrapped
    parity = key[0] ^ key[1] ^ key[2] ^ key[3] ^ word(PARITY)
    keys = (*key, parity)
    x = [wrapped(count + word) for count, word in zip(counter, key, strict=True)]
    for turn in range(rounds):
        first, second = ROTATIONS[turn % 8]
        partners = (1, 3) if turn % 2 == 0 else (3, 1)
        for low, high, bits in ((0, partners[0], first), (2, partners[1], second)):
            x[low] = wrapped(x[low] + x[high])
            rotated = wrapped(ops.left_shift(x[high], bits)) | ops.right_shift(x[high], 32 - bits)
            x[high] = rotated ^ x[low]
        if turn % 4 == 3:
            step = turn // 4 + 1
            x = [wrapped(word + keys[(step + place) % 5]) for place, word in enumerate(x)]
            x[3] = wrapped(x[3] + step)
    return x


def word(number: int) -> Any:
    """A whole number as a word: the lower 32 bits."""
    return ops.convert_to_tensor(np.asarray(number % 2**32, np.uint32), BACKEND.word)


def keys(seeds: Any) -> list[Any]:
    """The key of each image, four times (N,) words, from its seeds, (N, 4): see `augment.image_seeds`."""
    return ops.unstack(ops.cast(seeds, BACKEND.word), axis=1)


def words(key: Sequence[Any], parts: Sequence[Part], run: Any) -> list[Any]:
    """Random words of each key, (N, numbers) for each part. run: a word; with it all of them change."""
    *of_image, epoch = key
    fresh = iter(_words(key, [part for part in parts if not part.alternating], run))
    coins = iter(_words([*of_image, epoch * 0], [part for part in parts if part.alternating], run))
    return [_turned(next(coins), epoch[:, None]) if part.alternating else next(fresh) for part in parts]


def _words(key: Sequence[Any], parts: Sequence[Part], run: Any) -> list[Any]:
    if not parts:
        return []
    blocks = [-(-part.numbers // 4) for part in parts]
    counters = np.array(
        [(block, *part.stream) for part, some in zip(parts, blocks, strict=True) for block in range(some)], np.int64
    )
    counter = [ops.convert_to_tensor(column, BACKEND.word) for column in counters.reshape(-1, 3).T % 2**32]
    key = [word[:, None] for word in key]
    drawn = BACKEND.settled(uniform(run) >= 0.0, lambda: threefry(key, (*counter, run)))
    flat = ops.reshape(ops.stack(drawn, axis=-1), (ops.shape(key[0])[0], 4 * sum(blocks)))
    ends = np.cumsum([0, *(4 * some for some in blocks)])
    return [flat[:, start : start + part.numbers] for start, part in zip(ends.tolist(), parts, strict=False)]


def _turned(words: Any, epoch: Any) -> Any:
    """Words of which only the highest bit is random, in every other epoch the opposite one."""
    highest, half = word(1 << 31), word(1 << 30)
    return ((words ^ BACKEND.wrapped(ops.left_shift(epoch, 31))) & highest) | half


def uniform(word: Any, low: float = 0.0, high: float = 1.0) -> Any:
    """Random words -> float32 evenly spread over [low, high), in steps of 2^-24 of its width."""
    return low + (high - low) * ops.cast(ops.right_shift(word, 8), "float32") * 2.0**-24


def below(word: Any, limit: int) -> Any:
    """Random words -> int32 in [0, limit); limit up to 2^20."""
    # Rounding may reach the end of the range.
    return ops.minimum(ops.cast(ops.floor(uniform(word) * limit), "int32"), limit - 1)


def chance(word: Any, range_: Sequence[float]) -> Any:
    """Random words (N, 2 or more) -> (N,) bool, true at a probability that is itself drawn from a range."""
    return uniform(word[:, 1]) < uniform(word[:, 0], *range_)


def beta(word: Any, alpha: Any) -> Any:
    """Random words (N, 3) -> (N,) of the distribution Beta(alpha, alpha), alpha > 0.

    Of Student's t by the polar method (Bailey 1994, 10.2307/2153537), which needs no rejection.
    """
    one = 1.0 - uniform(word[:, 0])
    power = ops.exp(ops.log(one) / alpha)
    cosine = ops.square(ops.cos(uniform(word[:, 1], high=6.283185307179586)))
    # 1 - r, r being the square of the distance of the result from 1/2, in units of 1/2.
    rest = power / ops.maximum(power + cosine * (1.0 - power), 1e-37)
    small = 0.5 * rest / (1.0 + ops.sqrt(1.0 - rest))
    return ops.where(uniform(word[:, 2]) < 0.5, small, 1.0 - small)
