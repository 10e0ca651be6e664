"""Scores on disk: metrics.json, curves.json, and the figures confusion.png, calibration.png and curves.png."""

from __future__ import annotations

import json
import re
import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasimg.evaluation.figures import confusion_figure, curves_figure, reliability_figure
from kerasimg.spec.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_scores(folder: str | PathLike[str], scores: dict[str, Any], curves: dict[str, Any] | None = None) -> None:
    """Write metrics.json and curves.json, and as figures what they hold.

    folder: made if it is not there.  scores, curves: what the functions of these names return.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "metrics.json", scores_as_json(scores))
    if "confusion" in scores:
        # Its names reach out of it, how far they are long.
        _save(confusion_figure(scores["confusion"], scores["classes"]), folder / "confusion.png", bbox_inches="tight")
    _save(reliability_figure(scores["calibration"], scores["calibration_error"]), folder / "calibration.png")
    if curves is None:
        return
    (folder / "curves.json").write_text(json.dumps(curves, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    if curves["classes"]:
        _save(curves_figure(curves), folder / "curves.png")


def scores_as_json(scores: dict[str, Any]) -> str:
    """Lay out scores as JSON for a reader: indented by 2, a row of the confusion matrix on one line."""
    text = json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False)
    # A string of JSON holds no line break, so this meets rows of counts only.
    return re.sub(r"\[\n[\d,\s]+\]", lambda row: re.sub(r"\n\s*", " ", row[0]), text) + "\n"


def _save(figure: Figure, path: Path, **how: Any) -> None:
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; a warning per character says no more.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(path, dpi=100, **how)
