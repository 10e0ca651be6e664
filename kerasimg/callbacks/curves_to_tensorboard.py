"""Training curves in TensorBoard, on every backend; a resumed run shows no epoch twice."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import keras

from kerasimg.errors import CallError

NO_CURVES = ("stage", "epoch")
PARTS = ("train", "validation")


class CurvesToTensorBoard(keras.callbacks.Callback):
    """Shows in TensorBoard what a run's history.csv holds, epoch by epoch while it trains.

    Needs `pip install "kerasimg[tensorboard]"`, but no TensorFlow, unlike keras.callbacks.TensorBoard.
    history: the file to read. When the training begins, its rows replace earlier logs, so that a resumed run shows no
    epoch twice. It is read after every epoch, so the callback that writes it must come first.
    folder: of the logs, with `train` and `validation` in it; only a program can set it, not a spec.
    """

    in_specs: ClassVar[bool] = False

    def __init__(self, history: str | Path, folder: str | Path):
        super().__init__()
        self.history = Path(history)
        self.folder = Path(folder)
        self._board: _Board | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the logs, or continue those of an earlier stage."""
        if self._board is None:
            self._board = _Board(self.folder)
        self._board.add(_rows(self.history))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the epoch."""
        if self._board is not None:
            self._board.add(_rows(self.history))

    def on_train_end(self, logs: Any = None) -> None:
        """Flush the logs to the disk."""
        if self._board is not None:
            self._board.flush()


def write_curves(history: str | Path, folder: str | Path) -> None:
    """Write a complete history.csv for TensorBoard, in place of its earlier logs."""
    board = _Board(Path(folder))
    board.add(_rows(Path(history)))
    board.close()


class _Board:
    """Writes new logs in a folder, in place of the old ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}
        self._begin()

    def _begin(self) -> None:
        try:
            writers = import_module("tensorboard.summary.writer.event_file_writer")
        except ImportError:
            raise CallError('the curves need TensorBoard: pip install "kerasimg[tensorboard]"') from None
        self._logged = 0
        for part in PARTS:
            if part in self._writers:
                self._writers[part].close()
            for old in (self._folder / part).glob("events.out.tfevents.*"):
                old.unlink()
            self._writers[part] = writers.EventFileWriter(str(self._folder / part))

    def add(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Log the rows that are not logged yet; if rows were removed, log all of them again."""
        Event = import_module("tensorboard.compat.proto.event_pb2").Event
        Summary = import_module("tensorboard.compat.proto.summary_pb2").Summary
        if len(rows) < self._logged:
            self._begin()
        for row in rows[self._logged :]:
            for name, value in row.items():
                if name in NO_CURVES or not value:
                    continue
                part = "validation" if name.startswith("val_") else "train"
                scalar = Summary.Value(tag=name.removeprefix("val_"), simple_value=float(value))
                event = Event(step=int(row["epoch"]), wall_time=time.time(), summary=Summary(value=[scalar]))
                self._writers[part].add_event(event)
        self._logged = len(rows)

    def flush(self) -> None:
        """Flush the logs to the disk."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Close the logs."""
        for writer in self._writers.values():
            writer.close()


def _rows(path: Path) -> list[Mapping[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
