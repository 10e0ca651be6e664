"""report.html of `auto`: the result, the front of accuracy, milliseconds and bytes, what was tried, what next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kerasimg import log
from kerasimg.escaping import command
from kerasimg.files import write_text
from kerasimg.reporting.report import render
from kerasimg.reporting.search_page import front_chart
from kerasimg.reporting.wording import headline
from kerasimg.results import figure_words
from kerasimg.run_folder import REPORT
from kerasimg.spec.metrics import Goal

LEFT_OUT = {
    "finetune": "fine-tuning all layers",
    "smaller": "smaller images",
    "heads": "other heads",
    "scratch": "a network from scratch",
    "export": "the export",
    "report": "the report of the run",
    "flips": "a test-time flip",
}
"""Step that did not fit in the time -> its name on the page."""


def write_auto_page(folder: Path, result: Mapping[str, Any]) -> None:
    """Writes the page of an `auto` into its folder. A failure is logged and does not cost the result."""
    try:
        write_text(folder / REPORT, render("auto.html.j2", _content(folder, result)))
    except Exception as error:
        log.info(f"the report could not be written ({type(error).__name__}: {error})")


def _content(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    rows = [row for row in result["front"] if "bytes" in row]
    soup = result["notes"].get("soups", {}).get(result["step"])
    return {
        "name": folder.resolve().name,
        "result": result,
        "figure": figure_words(result["figure"]),
        "test": [] if result["test"] is None else headline(result["test"])[:3],
        "test_images": 0 if result["test"] is None else result["test"]["n"],
        "charts": [_chart(rows, "latency_ms", 1.0), _chart(rows, "bytes", 1e-6)] if len(rows) > 1 else [],
        "front": sorted(rows, key=lambda row: -row["score"]),
        "unmeasured": len(result["front"]) - len(rows),
        "soup": soup,
        "left_out": [LEFT_OUT.get(name, name) for name in dict.fromkeys(result["notes"]["left_out"])],
        "advice": advice(result),
        "commands": [
            command("predict", f"{folder}/{result['run']}", "IMAGE"),
            command("run", "label-errors", f"{folder}/{result['run']}"),
            command("train", f"{folder}/{result['spec']}", "--data", "DATA"),
        ],
        "version": version("kerasimg"),
    }


def _chart(rows: Sequence[Mapping[str, Any]], against: str, factor: float) -> Markup:
    """The score of each model against its latency, or its size in MB."""
    axis = "MB in float32" if against == "bytes" else "ms for an image"
    points = [{"score": row["score"], axis: row[against] * factor} for row in rows]
    names = [str(place) for place in range(len(rows))]
    chosen = [name for name, row in zip(names, rows, strict=True) if row["front"]]
    return front_chart(Goal("score", "max"), Goal(axis, "min"), points, names, chosen)


def advice(result: Mapping[str, Any]) -> list[str]:
    """Returns what would make the result better, the most useful first."""
    lines, parts = [], result["parts"]
    left_out = result["notes"]["left_out"]
    if result["recipe"] is None and {"heads", "late"} & {step["name"] for step in result["steps"]}:
        lines.append(f"More minutes: the recipe transfer as it is did not fit in {result['minutes']:g}.")
    if cut := result["notes"].get("cut"):
        lines.append(f"More minutes: the best model was trained for {cut['epochs']} of its {cut['of']} epochs.")
    if "finetune" in left_out:
        epoch_s = result["notes"].get("epoch_s")
        per = f" An epoch of it takes about {epoch_s:.0f} s." if epoch_s else ""
        lines.append(f"More minutes, or a GPU: there was no time to train all layers.{per}")
    elif result["step"] == "finetune":
        lines.append("More minutes: fine-tuning was the best step, and gains from more epochs.")
    if result["per_class"] < FEW_IMAGES:
        lines.append(f"More images: {result['per_class']:.0f} of a class in the median are few.")
    if parts["validation"] < FEW_VALIDATION:
        lines.append(
            f"More validation images: {parts['validation']:,} tell models apart only roughly (fit.validation_split)."
        )
    lines.append("Labels: kerasimg run label-errors lists images whose label is probably wrong.")
    if any(not row["within"] for row in result["exports"]):
        lines.append("The limits: raise them, or use smaller images; the front shows what that costs.")
    return lines


FEW_IMAGES, FEW_VALIDATION = 100, 300
"""Below these numbers of images of a class, and of validation images, the page advises more."""
