"""The command on two specs, or two runs: diff. It answers without Keras."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg.cli.options import Json, load
from kerasimg.run_folder import DataRecord, RunFolder

if TYPE_CHECKING:
    from kerasimg.spec.difference import Difference

commands = typer.Typer()

Side = Annotated[str, typer.Argument(help="A zoo name, the path of a spec, or a run's folder.")]
LISTED = 10
"""Pictures that are named, of those that stand in another part."""


@commands.command()
def diff(
    before: Side,
    after: Side,
    as_written: Annotated[
        bool, typer.Option("--as-written", help="The files as they stand, not what they come to with their defaults.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say how two specs, or two runs, differ. In the spec's words: spec, data, surroundings, figures."""
    told = {title: list(found) for title, found in _sections(before, after, as_written)}
    if as_json:
        typer.echo(json.dumps({title: [_as_json(one) for one in found] for title, found in told.items()}, indent=2))
        return
    for title, found in told.items():
        typer.echo(f"{title}: {len(found) or 'no'} difference{'' if len(found) == 1 else 's'}")
        for one in found:
            typer.echo(f"  {one}")


def _sections(before: str, after: str, as_written: bool) -> Iterator[tuple[str, Iterator[Difference]]]:
    from kerasimg.spec.difference import differences

    old, new = RunFolder(Path(before)), RunFolder(Path(after))
    yield "spec", differences(_spec(before, as_written), _spec(after, as_written))
    if not (old.is_run and new.is_run):
        return
    yield "data", _of_data(old.data(), new.data())
    yield "surroundings", differences(_surroundings(old), _surroundings(new))
    yield "figures", differences(_figures(old), _figures(new))


def _spec(side: str, as_written: bool) -> dict[str, Any]:
    if os.path.isdir(side):
        return RunFolder.open(side).spec() or {}
    spec = load(side, {}, {}, partial=True)
    return dict(spec.document if as_written else {"name": spec.name, **spec.resolved})


def _of_data(before: DataRecord | None, after: DataRecord | None) -> Iterator[Difference]:
    """How the pictures of two runs differ: how many, and which, told apart by their content."""
    from kerasimg.spec.difference import MISSING, Difference, differences

    yield from differences(_summed(before), _summed(after))
    old, new = ({row["sha256"]: row for row in (side["pictures"] if side else [])} for side in (before, after))
    moved = [digest for digest in old.keys() & new.keys() if old[digest]["part"] != new[digest]["part"]]
    for digest in sorted(moved, key=lambda digest: old[digest]["id"])[:LISTED]:
        yield Difference(f"part of {old[digest]['id']}", old[digest]["part"], new[digest]["part"])
    if len(moved) > LISTED:
        yield Difference("pictures in another part, in all", MISSING, len(moved))
    for path, left in (("only in the first", old.keys() - new.keys()), ("only in the second", new.keys() - old.keys())):
        if left:
            names = sorted((old | new)[digest]["id"] for digest in left)[:LISTED]
            told = {"pictures": len(left), "as": names}
            yield Difference(path, told, MISSING) if left <= old.keys() else Difference(path, MISSING, told)


def _summed(data: DataRecord | None) -> dict[str, Any]:
    if data is None:
        return {}
    rows = data["pictures"]
    counted = {part: sum(row["part"] == part for row in rows) for part in ("train", "validation", "test")}
    return {**{key: value for key, value in data.items() if key in ("where", "task", "classes")}, "pictures": counted}


def _surroundings(run: RunFolder) -> dict[str, Any]:
    """Versions, backend and machine of a run."""
    return {key: value for key, value in (run.environment() or {}).items() if key not in ("started", "command")}


def _figures(run: RunFolder) -> dict[str, Any]:
    """The figures that are one number each."""
    scores = run.evaluation.metrics() or {}
    return {key: value for key, value in scores.items() if isinstance(value, int | float | str)}


def _as_json(one: Difference) -> dict[str, Any]:
    from kerasimg.spec.difference import MISSING

    sides = {"before": one.before, "after": one.after}
    return {"path": one.path, **{key: value for key, value in sides.items() if value is not MISSING}}
