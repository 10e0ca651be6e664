import threading

import pytest

from kerasimg.data.parallel import CHUNK, cores, each


def test_results_come_in_order():
    assert list(each(lambda number: number * 2, range(1000), threads=4)) == list(range(0, 2000, 2))


def test_the_work_is_shared_among_threads():
    both = threading.Barrier(2, timeout=10)  # passed only when two threads are there at once

    def work(number: int) -> int:
        return both.wait() if number % CHUNK == 0 else 0

    assert sorted(each(work, range(2 * CHUNK), threads=2))[-1] == 1


def test_an_error_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(each(lambda number: 1 // number, [1, 0]))


def test_nothing_to_do_is_done():
    assert list(each(str, [])) == []
    assert cores() >= 1
