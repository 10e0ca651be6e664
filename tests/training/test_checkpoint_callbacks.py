import signal
import threading
from collections.abc import Callable

import pytest

from kerasimg.training.checkpoint_callbacks import EpochLines, record_interrupt


def test_the_first_ctrl_c_is_recorded_and_the_second_raises(listen: Callable[..., None]):
    messages: list[str] = []
    listen(messages.append)
    # Without a handler of Python's, as after a library that took it away, the signal would end this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with record_interrupt() as interruption:
        assert not interruption.asked
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        assert len(messages) == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_custom_signal_handler_is_not_replaced():
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with record_interrupt() as interruption:
            signal.raise_signal(signal.SIGINT)
        assert (heard, interruption.asked) == ([signal.SIGINT], False)
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_changes_nothing():
    result = []

    def work() -> None:
        with record_interrupt():
            result.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result == [signal.default_int_handler]


@pytest.mark.parametrize(
    ("epochs", "shown"), [(3, [1, 2, 3]), (75, [1, *range(5, 76, 5)]), (301, [1, *range(20, 301, 20), 301])]
)
def test_many_short_epochs_have_a_line_for_some(epochs: int, shown: list[int], capsys: pytest.CaptureFixture[str]):
    printer = EpochLines(0, epochs, 2)
    for epoch in range(epochs):
        printer.on_epoch_begin(epoch)
        printer.on_epoch_end(epoch, {"loss": 0.25, "lr": 1e-5})
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.removeprefix("Epoch ").partition("/")[0]) for line in lines] == shown
    assert lines[0].endswith("ms/step - loss: 0.2500 - lr: 1.0000e-05")
