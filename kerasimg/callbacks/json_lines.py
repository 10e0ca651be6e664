"""A log for programs to read."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, ClassVar

import keras


class JsonLines(keras.callbacks.Callback):
    """Append a line of JSON to a file when an epoch ends.

    A line has `epoch` (from 1), `time` (seconds since 1970), then Keras' metrics.

    NaN and infinity are written as null. The file is closed after each line, so that it can be followed.
    path: of the file, which is created if it does not exist, in an existing folder; only a program can set it, not a
    spec.
    """

    in_specs: ClassVar[bool] = False

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"path": str(self.path)}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Append the line."""
        figures = {name: _plain(figure) for name, figure in (logs or {}).items()}
        line = json.dumps({"epoch": epoch + 1, "time": round(time.time(), 3), **figures}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _plain(figure: Any) -> Any:
    """Returns a number, or a list for a metric with several."""
    values = keras.ops.convert_to_numpy(figure).tolist()
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values if math.isfinite(values) else None
