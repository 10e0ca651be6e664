"""Dynamic batching: images that arrive together share a model call, and a single image does not wait."""

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest

from kerasimg.deploy.serve.session import Batcher


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 1), value, np.uint8)


def mean(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean(axis=(1, 2, 3))[:, np.newaxis]


def test_each_image_gets_its_own_row():
    batcher = Batcher(mean, max_batch=4, max_wait_s=0)
    answers = [batcher.submit(image(value)) for value in range(50)]
    assert [float(answer.result(5)[0]) for answer in answers] == list(range(50))
    batcher.close()


def test_images_that_arrive_while_the_model_runs_form_the_next_batch_up_to_the_limit():
    asked, free = threading.Event(), threading.Event()
    sizes: list[int] = []

    def slow(pixels: np.ndarray) -> np.ndarray:
        asked.set()
        free.wait(5)
        return mean(pixels)

    batcher = Batcher(slow, max_batch=4, max_wait_s=0, on_batch=lambda size, seconds: sizes.append(size))
    first = batcher.submit(image(0))
    assert asked.wait(5)
    rest = [batcher.submit(image(value)) for value in range(10)]
    free.set()
    assert [float(answer.result(5)[0]) for answer in [first, *rest]] == [0, *range(10)]
    batcher.close()
    assert sizes == [1, 4, 4, 2]


def test_an_image_waits_for_others_only_while_some_are_being_decoded():
    for decoding, expected_sizes in ((0, [1, 1]), (1, [2])):
        sizes: list[int] = []
        batcher = Batcher(
            mean,
            max_batch=2,
            max_wait_s=5,
            arriving=lambda decoding=decoding: decoding,
            on_batch=lambda size, seconds, sizes=sizes: sizes.append(size),
        )
        first = batcher.submit(image(1))
        if not decoding:
            first.result(5)
        batcher.submit(image(2)).result(5)
        first.result(5)
        batcher.close()
        assert sizes == expected_sizes


def test_an_image_waits_at_most_max_wait():
    batcher = Batcher(mean, max_batch=8, max_wait_s=0.05, arriving=lambda: 1)
    begun = time.monotonic()
    batcher.submit(image(1)).result(5)
    assert time.monotonic() - begun > 0.04
    batcher.close()


def test_an_error_of_the_model_reaches_the_requests_of_its_batch_only():
    def odd(pixels: np.ndarray) -> np.ndarray:
        if pixels.max() > 100:
            raise ValueError("too bright")
        return mean(pixels)

    batcher = Batcher(odd, max_batch=1, max_wait_s=0)
    bad, good = batcher.submit(image(200)), batcher.submit(image(7))
    with pytest.raises(ValueError, match="too bright"):
        bad.result(5)
    assert good.result(5)[0] == 7
    batcher.close()


def test_a_cancelled_image_is_not_predicted():
    asked: list[int] = []

    def note(pixels: np.ndarray) -> np.ndarray:
        asked.extend(int(one.max()) for one in pixels)
        return mean(pixels)

    batcher = Batcher(note, max_batch=4, max_wait_s=0)
    gone: Future = Future()
    gone.cancel()
    batcher.submit(image(1), gone)
    batcher.submit(image(2)).result(5)
    batcher.close()
    assert asked == [2]


def test_closing_completes_the_queued_images():
    batcher = Batcher(mean, max_batch=3, max_wait_s=1, arriving=lambda: 1)
    answers = [batcher.submit(image(value)) for value in range(5)]
    batcher.close()
    assert all(answer.done() for answer in answers)
