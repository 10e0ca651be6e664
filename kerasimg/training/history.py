"""history.csv: one row per epoch, written when the epoch ends, over all stages."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import keras

from kerasimg.escaping import csv_row
from kerasimg.files import no_link, replacing


class History(keras.callbacks.Callback):
    """Appends a row per epoch: stage and epoch (from 1), seconds, learning_rate, then Keras' metrics.

    path: of the file; None: the rows are in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self.path = path
        self.stage = 0
        self.diverged = False
        self.rows: list[dict[str, Any]] = []
        """The content of the file."""
        self._columns: list[str] = []
        self._begun: float | None = None
        self._spent = 0.0

    def get_state(self) -> dict[str, Any]:
        """Return the rows, and the time of the current epoch so far."""
        return {"rows": self.rows, "columns": self._columns, "spent": self._seconds()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue after these rows. Later rows of the file were written after the checkpoint, and are removed."""
        self.rows, self._columns, self._spent = state["rows"], state["columns"], state["spent"]
        if self._begun is not None:
            self.on_epoch_begin(0)
        self.rewrite()

    def rewrite(self) -> None:
        """Write the file again with these rows only."""
        if self.path is None:
            return
        if not self.rows:
            self.path.unlink(missing_ok=True)
            return
        with replacing(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            file.write(self._text(self._header(), *self.rows))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._begun = time.perf_counter() - self._spent
        self._spent = 0.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the row of the epoch."""
        figures = {key: float(value) for key, value in (logs or {}).items()}
        self.diverged = self.diverged or not math.isfinite(figures.get("loss", 0.0))
        row = {
            "stage": self.stage + 1,
            "epoch": epoch + 1,
            "seconds": round(self._seconds(), 3),
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            **figures,
        }
        self._begun = None
        first = not self._columns
        self._columns = self._columns or list(row)
        self.rows.append(row)
        if self.path is None:
            return
        with open(self.path, "a", newline="", encoding="utf-8", opener=no_link) as file:
            file.write(self._text(self._header(), row) if first else self._text(row))

    def _seconds(self) -> float:
        """Return the time of the current epoch; 0 between two epochs."""
        return 0.0 if self._begun is None else time.perf_counter() - self._begun

    def _header(self) -> dict[str, Any]:
        return dict(zip(self._columns, self._columns, strict=True))

    def _text(self, *rows: dict[str, Any]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(csv_row(row.get(name, "") for name in self._columns) for row in rows)
        return text.getvalue()
