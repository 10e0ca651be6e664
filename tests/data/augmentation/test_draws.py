import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from kerasimg.data.augment import image_seeds
from kerasimg.data.augmentation import draws

# Of Random123's tests/kat_vectors: rounds, counter, key, words.
ANSWERS = [
    (13, "00000000" * 4, "00000000" * 4, "531c7e4f39491ee52c855a923d6abf9a"),
    (13, "ffffffff" * 4, "ffffffff" * 4, "c41893581c9cc83ad5881c676a0a89e0"),
    (
        13,
        "243f6a8885a308d313198a2e03707344",
        "a4093822299f31d0082efa98ec4e6c89",
        "4aa71d8f734738c2431fc6a8ae6debf1",
    ),
    (20, "00000000" * 4, "00000000" * 4, "9c6ca96ae17eae66fc10ecd45256a7d8"),
    (20, "ffffffff" * 4, "ffffffff" * 4, "2a88169657012287f6c7446ea16a6732"),
    (
        20,
        "243f6a8885a308d313198a2e03707344",
        "a4093822299f31d0082efa98ec4e6c89",
        "59cd1dbbb887957986b5d00cac8b6d84",
    ),
]


def split(text: str) -> tuple[tf.Tensor, ...]:
    return tuple(tf.constant([int(text[8 * k : 8 * k + 8], 16)], tf.uint32) for k in range(4))


@pytest.mark.parametrize(("rounds", "counter", "key", "words"), ANSWERS)
def test_threefry_gives_the_published_words(rounds: int, counter: str, key: str, words: str):
    found = draws.threefry(split(key), split(counter), rounds)
    assert "".join(f"{int(word[0]):08x}" for word in found) == words


def seeds(count: int, run: int = 3, epoch: int = 0) -> np.ndarray:
    return image_seeds(run, epoch, np.arange(count))


RUN = tf.constant(0, tf.uint32)


def drawn(given: np.ndarray, *parts: tuple[int, tuple[int, int]], run: tf.Tensor = RUN) -> list[np.ndarray]:
    made = draws.words(draws.keys(given), [draws.Part(*part) for part in parts], run)
    return [draws.uniform(words).numpy() for words in made]


def test_a_image_draws_the_same_in_any_company():
    whole, other = drawn(seeds(20), (5, (0, 1)), (3, (7, 1)))
    for start in (0, 7, 19):
        some, others = drawn(seeds(20)[start : start + 6], (5, (0, 1)), (3, (7, 1)))
        assert np.array_equal(some, whole[start : start + 6])
        assert np.array_equal(others, other[start : start + 6])
    (alone,) = drawn(seeds(20), (3, (7, 1)))
    assert np.array_equal(alone, other)


def test_seeds_epochs_positions_and_streams_all_tell_draws_apart():
    kinds = [
        drawn(seeds(50, seed, epoch), (4, stream), run=tf.constant(run, tf.uint32))[0]
        for seed, epoch, stream, run in (
            (3, 0, (0, 0), 0),
            (4, 0, (0, 0), 0),
            (3, 1, (0, 0), 0),
            (3, 0, (1, 0), 0),
            (3, 0, (0, 1), 0),
            (3, 0, (0, 0), 1),
            (3 + 2**32, 0, (0, 0), 0),
        )
    ]
    every = np.concatenate([kind.ravel() for kind in kinds])
    # 1,400 numbers of 24 bits: 0.06 pairs are alike by chance.
    assert len(np.unique(every)) >= len(every) - 1


def test_numbers_are_even_and_independent():
    (numbers,) = drawn(seeds(20000), (8, (2, 0)))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in range(8):
        assert stats.kstest(numbers[:, column], "uniform").pvalue > 0.001
    correlation = np.corrcoef(numbers.T) - np.eye(8)
    assert np.abs(correlation).max() < 4 / np.sqrt(20000)
    neighbours = np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(20000)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 3.0])
def test_beta_is_the_distribution_of_that_name(alpha: float):
    words = draws.words(draws.keys(seeds(20000)), [draws.Part(3, (0, 0))], RUN)[0]
    found = draws.beta(words, alpha).numpy()
    assert ((found >= 0) & (found <= 1)).all()
    # Near the ends float32 has steps, where most of a small alpha's weight lies.
    for quantile in (1e-4, 0.01, 0.1, 0.3, 0.5, 0.8, 0.99, 0.9999):
        at = stats.beta.cdf(quantile, alpha, alpha)
        assert np.mean(found <= quantile) == pytest.approx(at, abs=4 * np.sqrt(at * (1 - at) / 20000) + 1e-4)


def test_a_beta_of_almost_nothing_takes_one_or_the_other():
    words = draws.words(draws.keys(seeds(1000)), [draws.Part(3, (0, 0))], RUN)[0]
    found = draws.beta(words, tf.fill([1000], 1e-6)).numpy()
    assert set(found.tolist()) == {0.0, 1.0}
    assert 400 < found.sum() < 600


def test_numbers_below_a_limit_reach_all_of_them_alike():
    (words,) = draws.words(draws.keys(seeds(11000)), [draws.Part(1, (0, 0))], RUN)
    counts = np.bincount(draws.below(words[:, 0], 11).numpy(), minlength=11)
    assert stats.chisquare(counts).pvalue > 0.001
