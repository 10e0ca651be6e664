import numpy as np
import pytest

from kerasimg.data.shuffling import Order, permutation, steps


def test_an_epoch_is_a_full_permutation_and_a_pure_function_of_seed_and_epoch():
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (-5, 3), (2**70, 0)]:
        order = permutation(1000, seed, epoch)
        assert sorted(order.tolist()) == list(range(1000))
        assert np.array_equal(order, permutation(1000, seed, epoch))
    first = [tuple(permutation(1000, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(first)) == 9


def test_the_permutation_stays_what_it_is():
    assert permutation(10, 0, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]


def test_every_image_is_as_likely_in_every_place():
    places = np.array([np.argsort(permutation(8, 0, epoch)) for epoch in range(4000)])
    counts = np.array([[np.sum(places[:, image] == place) for place in range(8)] for image in range(8)])
    # 4,000 draws of 1 in 8: 500, standard deviation 21; 64 of them.
    assert np.abs(counts - 500).max() < 85
    neighbours = np.mean(np.abs(np.diff(places[:, :2], axis=1)) == 1)
    assert neighbours == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("drop", "shard", "expected"), [(False, (0, 1), 4), (True, (0, 1), 3), (False, (2, 3), 4)])
def test_the_steps_of_an_epoch_are_the_same_for_every_worker(drop: bool, shard: tuple[int, int], expected: int):
    assert steps(33, 10, drop, shard) == expected


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("drop", [True, False])
def test_workers_have_every_image_once(workers: int, drop: bool):
    orders = [Order(97, 30, True, 1, drop, (worker, workers)) for worker in range(workers)]
    seen = [position for order in orders for step in range(order.steps) for position in order.batch(step)[1].tolist()]
    assert len(seen) == len(set(seen)) == (90 if drop else 97)
    whole = Order(97, 30, True, 1, drop)
    for step in range(whole.steps):
        joined = np.concatenate([order.batch(step)[1] for order in orders])
        assert np.array_equal(joined, whole.batch(step)[1])


def test_a_million_images_take_eight_bytes_each_for_an_epoch():
    order = Order(1_000_000, 32, True)
    epoch, positions = order.batch(order.steps + 5)
    assert epoch == 1
    assert len(positions) == 32
    order.batch(2 * order.steps)
    order.batch(7 * order.steps)
    assert sum(permutation.nbytes for permutation in order._epochs.values()) <= 16_000_000
