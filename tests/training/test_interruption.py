import signal
import threading

import pytest

from kerasimg.training.watch import patient


def test_the_first_ctrl_c_is_noted_and_the_second_raises():
    said: list[str] = []
    with patient(said.append) as interruption:
        assert not interruption.asked
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_with_a_way_of_its_own_keeps_it():
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with patient(heard.append) as interruption:  # type: ignore[arg-type]
            signal.raise_signal(signal.SIGINT)
        assert (heard, interruption.asked) == ([signal.SIGINT], False)
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_changes_nothing():
    found = []

    def work() -> None:
        with patient(lambda line: None):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
