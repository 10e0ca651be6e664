"""A run in a notebook: its metrics, a curve over the epochs for each, where it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from kerasimg.errors import counted
from kerasimg.results import figure_words
from kerasimg.run_folder import RunFolder

FIGURES = ("accuracy", "balanced_accuracy", "subset_accuracy", "macro_f1", "f1", "log_loss", "calibration_error", "n")
WIDTH, HEIGHT = 160, 36
"""Size of the curve of one metric, in px."""
CELL = "text-align:left;vertical-align:middle;padding:2px 14px 2px 0"


def as_html(run: RunFolder) -> str:
    """A table of metrics, with a curve over the epochs for each that was logged; nothing is loaded from elsewhere."""
    rows = "".join(
        f'<tr><th scope="row" style="{CELL}">{escape(name)}</th><td style="{CELL}">{value}</td></tr>'
        for name, value in _rows(run)
    )
    table = f'<table style="border-collapse:collapse;text-align:left">{rows}</table>'
    return f"<div><strong>{escape(str(run.path))}</strong>{table}</div>"


def _rows(run: RunFolder) -> Iterator[tuple[str, str]]:
    scores = run.evaluation.metrics() or {}
    for name in FIGURES:
        if isinstance(scores.get(name), int | float):
            yield figure_words(name), f"{scores[name]:,}" if name == "n" else f"{scores[name]:.4f}"
    history = run.history()
    watched = [name for name in history[-1] if name.startswith("val_") or name == "loss"] if history else []
    for name in watched:
        values = [row[name] for row in history if name in row]
        yield f"{name}, {counted(len(values), 'epoch')}", f"{_curve(values)} {values[-1]:.4f}"
    yield "classes", escape(", ".join(run.classes() or []))
    if run.report_file.is_file():
        yield "report", escape(str(run.report_file))


def _curve(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    across, up = WIDTH / max(1, len(values) - 1), HEIGHT / ((high - low) or 1)
    points = " ".join(f"{place * across:.1f},{HEIGHT - (value - low) * up:.1f}" for place, value in enumerate(values))
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}" role="img" '
        f'aria-label="from {values[0]:.4g} to {values[-1]:.4g}" style="vertical-align:middle">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
    )
