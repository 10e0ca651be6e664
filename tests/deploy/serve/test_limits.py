"""What is in work is bounded, and what leaves makes room again."""

import asyncio
from concurrent.futures import Future

import pytest

from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.limits import Room


def test_what_does_not_fit_is_refused_at_once_and_fits_later():
    room = Room(images=2, held_bytes=100)
    with room.enter() as one:
        one.take(images=2)
        with pytest.raises(Refused) as caught, room.enter():
            pass
        assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "1"})
    with room.enter() as again:
        again.take(images=2)
    assert (room.images, room.bytes) == (0, 0)


def test_bytes_are_bounded_too():
    room = Room(images=9, held_bytes=100)
    with room.enter() as one, room.enter() as other:
        one.take(size=60)
        with pytest.raises(Refused) as caught:
            other.take(size=41)
        other.take(size=40)
    assert caught.value.reason == "queue"
    assert (room.images, room.bytes) == (0, 0)


def test_a_place_stays_taken_while_a_thread_still_works_for_a_request_that_has_ended():
    async def run() -> list[int]:
        room = Room(images=1, held_bytes=1)
        work: Future = Future()
        with room.enter() as place:
            place.until(work)
        taken = [room.images]
        work.set_result(None)
        await asyncio.sleep(0.01)
        return [*taken, room.images]

    assert asyncio.run(run()) == [1, 0]


def test_an_answered_work_holds_no_place_though_its_thread_has_not_yet_said_so():
    room = Room(images=1, held_bytes=1)
    answer: Future = Future()
    with room.enter() as place:
        place.until(Future(), answer)
        answer.set_result(None)
    assert room.images == 0


def test_nobody_enters_while_the_server_stops():
    room = Room(images=1, held_bytes=1)
    room.stopping = True
    with pytest.raises(Refused) as caught:
        room.enter()
    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "5")
