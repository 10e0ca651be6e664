"""A data check as text for a terminal: the summary first, then what was found, the gravest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerasimg.data.audit.findings import KINDS, SEVERITIES, Finding
from kerasimg.data.audit.framing import describe
from kerasimg.data.items import PART_NAMES
from kerasimg.escaping import one_line

if TYPE_CHECKING:
    from kerasimg.data.audit.data_check import DataCheck

OF_A_GROUP = 4
"""Images of a group that are named."""
ALSO = 6
"""Sizes, formats and classes that are listed."""


def text(checked: DataCheck, limit: int) -> str:
    """The check in lines of text; of each kind of finding the first `limit`."""
    told = checked.to_dict()
    lines = [checked.source.describe(), _verdict(checked), *_card(checked, told)]
    for severity in SEVERITIES:
        for kind, row in told["counts"].items():
            if row["severity"] != severity:
                continue
            ours = [one for one in checked.findings if one.kind == kind]
            lines += ["", f"{severity}: {KINDS[kind].title}: {_amount(row)}; {KINDS[kind].advice}"]
            lines += [f"  {line(checked, one)}" for one in ours[:limit]]
            if len(ours) > limit:
                lines.append(f"  ... and {len(ours) - limit:,} more")
    return "\n".join(map(one_line, lines))


def line(checked: DataCheck, one: Finding) -> str:
    """A finding in one line: its images, and what there is to say."""
    names = [checked.source.items[index].id for index in one.images[:OF_A_GROUP]]
    if len(one.images) > OF_A_GROUP:
        names.append(f"{len(one.images) - OF_A_GROUP:,} more")
    where = " = ".join(names) if one.kind in ("conflict", "leak", "leak_drawn", "duplicate") else " ~ ".join(names)
    return one_line(": ".join(filter(None, [where, one.detail])))


def amounts(checked: DataCheck) -> str:
    """How many findings of each severity: "2 errors, 1 note"."""
    counts = {severity: sum(one.severity == severity for one in checked.findings) for severity in SEVERITIES}
    told = [f"{count:,} {name}{'s' if count != 1 else ''}" for name, count in counts.items() if count]
    return ", ".join(told) or "nothing found"


def origin(told: dict) -> str:
    """Where the parts come from."""
    given, drawn = told["parts_given"], [part for part in PART_NAMES if told["parts"][part]]
    if not given:
        return "as training would draw it"
    rest = [part for part in drawn if part not in given]
    return "as the data says" + (f", {rest[0]} as training would draw it" if rest else "")


def _verdict(checked: DataCheck) -> str:
    verdict = "nothing must be mended" if checked.ok else "this must be mended before training"
    return f"{verdict}: {amounts(checked)}"


def _card(checked: DataCheck, told: dict) -> list[str]:
    split = ", ".join(f"{name} {told['parts'][name]:,}" for name in PART_NAMES if told["parts"][name])
    rows = sorted(told["classes"], key=lambda row: -row["images"])
    ends = rows if len(rows) <= ALSO else [*rows[: ALSO // 2], None, *rows[-ALSO // 2 :]]
    classes = ", ".join("..." if row is None else f"{row['name']} {row['images']:,}" for row in ends)
    lines = [
        f"split    {split} ({origin(told)})",
        f"classes  {classes}",
    ]
    if told["sizes"]:
        common = ", ".join(f"{width} x {height} ({count:,})" for width, height, count in told["sizes"]["common"][:3])
        (low_w, _, high_w), (low_h, _, high_h) = told["sizes"]["width"], told["sizes"]["height"]
        lines.append(f"sizes    {low_w} x {low_h} to {high_w} x {high_h}; most are {common}")
    kinds = list(told["kinds"].items())
    lines.append("formats  " + ", ".join(f"{kind} {count:,}" for kind, count in kinds[:ALSO]))
    if told["image"]:
        lines.append(f"image    {describe(told['image'])}")
    per_second = len(checked.source) / max(checked.seconds, 1e-9)
    lines.append(f"checked  in {checked.seconds:.1f} s, {per_second:,.0f} images a second")
    return lines


def _amount(row: dict) -> str:
    if row["images"] == row["findings"]:
        return f"{row['images']:,} image{'s' if row['images'] != 1 else ''}"
    if not row["images"]:
        return f"{row['findings']:,}"
    return f"{row['images']:,} images in {row['findings']:,} group{'s' if row['findings'] != 1 else ''}"
