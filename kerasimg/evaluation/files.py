"""Writes metrics.json, curves.json, confusion.png, calibration.png and curves.png."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from kerasimg.evaluation.scores import drawn_confusion
from kerasimg.figures import confusion_figure, curves_figure, reliability_figure, save_figure
from kerasimg.run_folder import EvaluationFolder


def write_scores(folder: str | PathLike[str], scores: dict[str, Any], curves: dict[str, Any] | None = None) -> None:
    """Write metrics.json and curves.json, and as figures what they hold.

    folder: created if it does not exist.  scores, curves: what the functions of these names return.
    """
    files = EvaluationFolder(Path(folder))
    files.write_metrics(scores)
    if (confusion := drawn_confusion(scores)) is not None:
        save_figure(confusion_figure(confusion, scores["classes"]), files.confusion_figure, fit=True)
    save_figure(reliability_figure(scores["calibration"], scores["calibration_error"]), files.calibration_figure)
    if curves is None:
        return
    files.write_curves(curves)
    if curves["classes"]:
        save_figure(curves_figure(curves), files.curves_figure)
