"""Images and bytes in progress are limited."""

import asyncio
from concurrent.futures import Future

import pytest

from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.limits import Capacity


def test_a_request_beyond_the_capacity_is_refused_until_others_finish():
    capacity = Capacity(images=2, held_bytes=100)
    with capacity.reserve() as one:
        one.take(images=2)
        with pytest.raises(Refused) as caught, capacity.reserve():
            pass
        assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "1"})
    with capacity.reserve() as again:
        again.take(images=2)
    assert (capacity.images, capacity.bytes) == (0, 0)


def test_a_request_whose_body_is_incomplete_takes_no_place():
    capacity = Capacity(images=1, held_bytes=9)
    with capacity.reserve() as slow, capacity.reserve() as other:
        slow.check(size=9)
        other.take(images=1, size=9)
        with pytest.raises(Refused):
            slow.take(size=1)


def test_bytes_are_limited_too():
    capacity = Capacity(images=9, held_bytes=100)
    with capacity.reserve() as one, capacity.reserve() as other:
        one.take(size=60)
        with pytest.raises(Refused) as caught:
            other.take(size=41)
        other.take(size=40)
    assert caught.value.reason == "queue"
    assert (capacity.images, capacity.bytes) == (0, 0)


def test_a_reservation_is_kept_while_a_thread_still_works_for_an_ended_request():
    async def run() -> list[int]:
        capacity = Capacity(images=1, held_bytes=1)
        work: Future = Future()
        with capacity.reserve() as place:
            place.take(images=1)
            place.hold_until_done(work)
        taken = [capacity.images]
        work.set_result(None)
        await asyncio.sleep(0.01)
        return [*taken, capacity.images]

    assert asyncio.run(run()) == [1, 0]


def test_work_whose_result_is_set_keeps_no_reservation():
    capacity = Capacity(images=1, held_bytes=1)
    answer: Future = Future()
    with capacity.reserve() as place:
        place.take(images=1)
        place.hold_until_done(Future(), answer)
        answer.set_result(None)
    assert capacity.images == 0


def test_no_request_is_admitted_while_the_server_stops():
    capacity = Capacity(images=1, held_bytes=1)
    capacity.stopping = True
    with pytest.raises(Refused) as caught:
        capacity.reserve()
    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "5")
