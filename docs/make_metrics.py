"""The table of metrics of docs/metrics.md, from `METRICS`: `python docs/make_metrics.py` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kerasimg.spec.metrics import ALL_TASKS, METRICS

PAGE: Final = Path(__file__).with_name("metrics.md")
BEGIN: Final = "<!-- the table, written by python docs/make_metrics.py -->\n"
END: Final = "<!-- the end of the table -->\n"


def table() -> str:
    """The table in Markdown."""
    lines = [
        f"| metric | better | {' | '.join(ALL_TASKS)} | takes |",
        "| --- | --- | " + " --- |" * (len(ALL_TASKS) + 1),
    ]
    for name, metric in METRICS.items():
        tasks = ["yes" if task in metric.tasks else f"no: `{metric.instead}`" for task in ALL_TASKS]
        takes = "scores: a model without a last activation" if metric.takes_scores else "probabilities"
        better = {"min": "less", "max": "more"}[metric.direction]
        lines.append(f"| `{name}` | {better} | {' | '.join(tasks)} | {takes} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the current table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
