"""history.csv: one row per epoch, written when the epoch ends, over all stages."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

import keras


class History(keras.callbacks.Callback):
    """Appends a row per epoch: stage and epoch (from 1), seconds, learning_rate, then Keras' figures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.stage = 0
        self.diverged = False
        self._columns: list[str] = []
        self._begun = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the row of the epoch."""
        figures = {key: float(value) for key, value in (logs or {}).items()}
        self.diverged = self.diverged or not math.isfinite(figures.get("loss", 0.0))
        row = {
            "stage": self.stage + 1,
            "epoch": epoch + 1,
            "seconds": round(time.perf_counter() - self._begun, 3),
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            **figures,
        }
        first = not self._columns
        self._columns = self._columns or list(row)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore", restval="")
            if first:
                writer.writeheader()
            writer.writerow(row)
