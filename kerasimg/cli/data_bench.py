"""`kerasimg data bench` and `data preview`: how fast pictures come, and what the network sees of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg.cli.options import Data, Json, Ref, Set, assignments, keras_loaded, load
from kerasimg.cli.waiting import waiting
from kerasimg.files import to_json

if TYPE_CHECKING:
    from kerasimg.data.bench import Bench
    from kerasimg.data.pipeline import Targets
    from kerasimg.spec.document import Task

TARGETS: dict[Task, Targets] = {"multiclass": "one_hot", "binary": "binary", "multilabel": "multi_hot"}
"""Labels in a form that every augmentation takes; how fast they are made is no matter."""

MEANING = {
    "read": "files into memory",
    "decode": "to pixels, at the scale that suffices",
    "resize": "to the size of the spec",
    "augment": "a batch at a time",
    "copy": "batches to the model",
}


def bench(
    ref: Ref,
    data: Data,
    assign: Set = [],  # noqa: B006
    pictures: Annotated[int, typer.Option(min=1, help="How many to measure.")] = 512,
    threads: Annotated[int | None, typer.Option(min=1, help="Left out: one per core.")] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast pictures become batches. Which part bounds it, and what to change."""
    params, edits = assignments(assign)
    spec = load(ref, params, edits, partial=True)
    with keras_loaded():
        from kerasimg.data.bench import measure
        from kerasimg.data.sources import open_source
    with waiting("measuring", as_json):
        found = measure(
            open_source(data, spec.task),
            spec.image,
            spec.augment,
            batch_size=32 if spec.fit.batch_size == "auto" else spec.fit.batch_size,
            targets=TARGETS[spec.task],
            pictures=pictures,
            threads=threads,
        )
    typer.echo(to_json(found.as_dict()) if as_json else _text(found))


def preview(
    ref: Ref,
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The sheet (.png).")],
    assign: Set = [],  # noqa: B006
    rows: Annotated[int, typer.Option(min=1, help="Pictures, of as many classes as there are.")] = 8,
    draws: Annotated[int, typer.Option(min=0, help="Augmented versions of each.")] = 6,
) -> None:
    """Draw pictures as the network sees them. Before and after augmentation."""
    params, edits = assignments(assign)
    spec = load(ref, params, edits, partial=True)
    with keras_loaded():
        from kerasimg.data.preview import contact_sheet, write_sheet
        from kerasimg.data.sources import open_source
    with waiting("drawing"):
        sheet = contact_sheet(
            open_source(data, spec.task),
            spec.image,
            spec.augment,
            rows=rows,
            draws=draws,
            seed=spec.fit.seed,
            targets=TARGETS[spec.task],
        )
    write_sheet(out, sheet)
    typer.echo(f"{out}: {sheet.width} x {sheet.height}; at the left as decoded, then as augmented")


def _text(found: Bench) -> str:
    lines = [
        f"{found.pictures:,} of {found.of:,} pictures to {found.size[0]}x{found.size[1]}, {found.threads} threads, "
        f"batches of {found.batch_size}",
        "",
        f"{'':16}{'pictures/s':>12}  {'share':>5}",
    ]
    for name, rate in found.parts.items():
        shown: Any = "-" if math.isinf(rate) else f"{rate:,.0f}"
        lines.append(f"{name:16}{shown:>12}  {found.share(name):5.0%}  {MEANING[name]}")
    lines += [
        "",
        f"{'first epoch':16}{found.first_epoch:12,.0f}         all of it, at once",
        f"{'from the cache':16}{found.from_cache:12,.0f}         later epochs (--cache auto: {found.cache})",
        "",
        f"bounded by: {found.bound}, {found.share(found.bound):.0%} of the first epoch; {found.bound_cached} later",
    ]
    lines += [f"augmentation: {found.augmentation}"] if found.augmentation else []
    return "\n".join(lines + [f"- {one}" for one in found.advice])
