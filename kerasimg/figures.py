"""Every figure that is an image file, drawn by Matplotlib without a display.

Those of HTML pages are SVG, which takes the colours of the page: `kerasimg.reporting.charts`.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from kerasimg.errors import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COUNTED = 30
"""Largest number of classes whose cells have room for a count."""
_LABELLED = 250
"""Largest number of classes that are all named on the axes; of more, every second, third, ... is."""
_NAME_LENGTH = 32
_CURVES = 10
"""Largest number of curves that can be distinguished."""


def confusion_figure(confusion: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix, rows the truth, each cell coloured by its share of the row.

    confusion: (K, K) counts.  The figure grows with K, so that names stay legible: 4 to 36 inches.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k = len(classes)
    side = min(max(4, 0.5 * k), 12) if k <= _COUNTED else min(max(5, 0.14 * k), 36)
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    # The square root of the share: a confusion of a few per cent must be seen beside a diagonal near 1.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    _name_axes(axes, classes)
    if k <= _COUNTED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            ink = "white" if shares[row, column] > 0.4 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=ink, fontsize=8)
    beside = axes.inset_axes((1 + 0.2 / side, 1 - 4 / side, 0.2 / side, 4 / side))
    figure.colorbar(image, cax=beside, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1], label="share of the true class")
    return figure


def reliability_figure(bins: Sequence[dict[str, Any]], error: float) -> Figure:
    """Draws accuracy over confidence, and below it the number of images in each bin.

    bins, error: as `reliability` returns them.
    """
    from matplotlib.figure import Figure

    low = [each["low"] for each in bins]
    width = [each["high"] - each["low"] for each in bins]
    filled = [each for each in bins if each["n"]]
    figure = Figure(figsize=(5, 6.5))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    # By hand: to find the margins, a figure would be drawn twice more.
    figure.subplots_adjust(left=0.15, right=0.97, top=0.95, bottom=0.08, hspace=0.08)
    upper.bar(low, [each["accuracy"] or 0 for each in bins], width, align="edge", edgecolor="white")
    upper.plot([0, 1], [0, 1], "--", color="grey", label="perfectly calibrated")
    upper.plot([b["confidence"] for b in filled], [b["accuracy"] for b in filled], "ko", ms=3, clip_on=False)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"Expected calibration error {error:.3f}")
    upper.legend(loc="upper left")
    lower.bar(low, [each["n"] for each in bins], width, align="edge", color="grey", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="images")
    return figure


def curves_figure(found: Mapping[str, Any]) -> Figure:
    """Draw the precision-recall and the ROC curves, with their areas; of many classes those of the lowest areas.

    found: what `curves` returns, for one class or more.
    """
    from matplotlib.figure import Figure

    classes = sorted(found["classes"].items(), key=lambda pair: pair[1]["average_precision"])
    figure = Figure(figsize=(11, 5.2))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.93, bottom=0.1, wspace=0.16)
    for name, row in classes[:_CURVES]:
        recall, precision = row["precision_recall"]["recall"], row["precision_recall"]["precision"]
        left.step(recall, precision, where="post", label=f"{row['average_precision']:.3f} {_plain(name)}", lw=1.2)
        right.plot(row["roc"]["fpr"], row["roc"]["tpr"], label=f"{row['roc_auc']:.3f} {_plain(name)}", lw=1.2)
    right.plot([0, 1], [0, 1], "--", color="grey", lw=0.8)
    of = "" if len(classes) <= _CURVES else f" (lowest {_CURVES} of {counted(len(classes), 'class')})"
    left.set(xlabel="recall", ylabel="precision", title=f"Precision and recall{of}")
    right.set(xlabel="false positive rate", ylabel="true positive rate", title=f"ROC{of}")
    for axes, place, title in ((left, "lower left", "average precision"), (right, "lower right", "area")):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(loc=place, fontsize=8, title=title, title_fontsize=8)
    return figure


def rate_figure(rates: Sequence[float], losses: Sequence[float], suggestion: float, lowest: float) -> Figure:
    """Draws the loss over the learning rate, with the suggested rate and that of the lowest loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses)
    axes.axvline(suggestion, color="tab:green", label=f"falls fastest: {suggestion:.2g}")
    axes.axvline(lowest, color="tab:red", linestyle=":", label=f"lowest: {lowest:.2g}")
    finite = np.array([loss for loss in losses if np.isfinite(loss)])
    low, first = finite.min(), finite[0]
    axes.set_ylim(low - 0.1 * (first - low), first + 0.5 * (first - low))
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss, smoothed")
    axes.legend()
    return figure


def robustness_figure(found: Mapping[str, Any]) -> Figure:
    """Draws the accuracy over the severity, one curve per corruption.

    found: as `Robustness` has it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    styles = ("-", "--", ":", "-.")
    for place, (name, rows) in enumerate(found["rows"].items()):
        points = [found["clean"]["accuracy"], *(row["accuracy"] for row in rows)]
        axes.plot(range(6), points, styles[place // 4 % 4], label=name.replace("_", " "))
    axes.plot(range(6), [found["clean"]["accuracy"], *found["by_severity"]], color="black", linewidth=3, label="mean")
    axes.set(xlabel="severity (0: no corruption)", ylabel="accuracy", ylim=(0, 1), xticks=range(6))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def image_figure(image: np.ndarray, title: str) -> Figure:
    """Draws an image, (H, W, C) of 0-255, under a title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 3.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.clip(image, 0, 255).astype("uint8").squeeze(), cmap="gray")
    axes.set_title(_plain(title), fontsize="small")
    axes.set_axis_off()
    return figure


def save_figure(figure: Figure, file: str | os.PathLike[str] | IO[bytes], *, dpi: int = 100, fit: bool = False) -> None:
    """Writes a figure as PNG, or in the format that the file's name says.

    fit: enlarge the image to all that is drawn, such as long names beyond the axes.
    """
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; a warning per character says no more.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(file, dpi=dpi, bbox_inches="tight" if fit else None)


def _plain(name: str) -> str:
    """A name for a legend, where "$" would begin a formula."""
    return _short(name).replace("$", r"\$")


def _name_axes(axes: Axes, classes: Sequence[str]) -> None:
    """Write the names of the classes along both axes, legible and not too many."""
    step = math.ceil(len(classes) / _LABELLED)
    places = range(0, len(classes), step)
    names = [_short(classes[place]) for place in places]
    size = 9 if len(classes) <= _COUNTED else 7
    # A "$" in a name is no formula.
    axes.set_xticks(places, names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    axes.set(xlabel="prediction", ylabel="truth")


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= _NAME_LENGTH else line[: _NAME_LENGTH - 1] + "…"
