"""The weights of the best trials, and of no others: each in the folder of its trial.

Several processes may do this in one folder: each looks at what is there. Where two write at the same moment, one trial
more may stay than was asked for, until the next is kept.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kerasimg.files import replacing

WEIGHTS = "trained.weights.h5"
SCORE = "trained.json"


def keep_best(
    folder: Path, trial_id: str, score: float, direction: str, most: int, save: Callable[[Path], None]
) -> Path | None:
    """Keep the weights of a trial that is among the best so far, and no longer those that it drives out.

    save: writes them to a path.  The path where they are kept; None where they are not.
    """
    sign = -1.0 if direction == "min" else 1.0
    place = folder / trial_id
    there = {path.parent: sign * known for path in folder.rglob(SCORE) if (known := _score(path)) is not None}
    there.pop(place, None)
    better = [one for one in there.values() if one >= sign * score]
    if len(better) >= most:
        return None
    place.mkdir(parents=True, exist_ok=True)
    with replacing(place / WEIGHTS) as partial:
        save(partial)
    (place / SCORE).write_text(json.dumps({"score": score}) + "\n", encoding="utf-8")
    for other in sorted(there, key=lambda one: there[one], reverse=True)[most - 1 :]:
        forget(other)
    return place / WEIGHTS


def forget(place: Path) -> None:
    """Remove what was kept in the folder of a trial."""
    for name in (SCORE, WEIGHTS):
        with contextlib.suppress(OSError):
            (place / name).unlink()


def save_weights(model: Any, path: Path) -> None:
    """Write the weights of a model, without an optimizer, as `build` takes them."""
    keras.Model(model.input, model.output, name=model.name).save_weights(path)


def _score(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
