import threading
import time

import pytest

from kerasimg.data.parallel import CHUNK, Tally, cores, each


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


def test_who_stops_asking_waits_for_no_more_than_what_is_in_work():
    done: list[int] = []

    def slow(thing: int) -> int:
        time.sleep(0.005)
        done.append(thing)
        return thing

    asked = each(slow, range(10 * CHUNK), threads=1)
    assert next(asked) == 0
    asked.close()
    assert len(done) < 3 * CHUNK


def test_progress_of_any_thread_is_reported_after_a_while():
    reports: list[tuple[int, int]] = []
    tally = Tally(3, lambda done, of: reports.append((done, of)), patience=0, interval=60)
    for _ in range(3):
        tally.add()
    tally.end()
    assert reports == [(1, 3), (3, 3)]
    quiet = Tally(3, lambda done, of: reports.append((done, of)), patience=60, interval=0)
    quiet.add()
    quiet.end()
    assert len(reports) == 2
