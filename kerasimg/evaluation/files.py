"""Writes metrics.json, curves.json, confusion.png, calibration.png and curves.png."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasimg.evaluation.figures import confusion_figure, curves_figure, reliability_figure
from kerasimg.evaluation.scores import drawn_confusion
from kerasimg.run_folder import EvaluationFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_scores(folder: str | PathLike[str], scores: dict[str, Any], curves: dict[str, Any] | None = None) -> None:
    """Write metrics.json and curves.json, and as figures what they hold.

    folder: created if it does not exist.  scores, curves: what the functions of these names return.
    """
    files = EvaluationFolder(Path(folder))
    files.write_metrics(scores)
    if (confusion := drawn_confusion(scores)) is not None:
        # Long names reach beyond the axes.
        _save(confusion_figure(confusion, scores["classes"]), files.confusion_figure, bbox_inches="tight")
    _save(reliability_figure(scores["calibration"], scores["calibration_error"]), files.calibration_figure)
    if curves is None:
        return
    files.write_curves(curves)
    if curves["classes"]:
        _save(curves_figure(curves), files.curves_figure)


def _save(figure: Figure, path: Path, **how: Any) -> None:
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; a warning per character says no more.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(path, dpi=100, **how)
