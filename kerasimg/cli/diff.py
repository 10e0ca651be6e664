"""The command on two specs, or two runs: diff. It answers without Keras."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg.cli.options import Json, load
from kerasimg.errors import CallError

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

    runs = [(Path(side) / "spec.json").is_file() for side in (before, after)]
    specs = [_spec(side, is_run, as_written) for side, is_run in zip((before, after), runs, strict=True)]
    yield "spec", differences(specs[0], specs[1])
    if not all(runs):
        return
    data, surroundings, scores = (
        [_content(Path(side) / name) for side in (before, after)]
        for name in ("data.json", "environment.json", "evaluation/metrics.json")
    )
    yield "data", _of_data(data[0], data[1])
    told_apart = [
        {key: value for key, value in one.items() if key not in ("started", "command")} for one in surroundings
    ]
    yield "surroundings", differences(told_apart[0], told_apart[1])
    yield "figures", differences(_figures(scores[0]), _figures(scores[1]))


def _spec(side: str, is_run: bool, as_written: bool) -> dict[str, Any]:
    if is_run:
        return _content(Path(side) / "spec.json")
    if Path(side).is_dir():
        raise CallError(f"'{side}' is not the folder of a run: it holds no spec.json")
    spec = load(side, {}, {}, partial=True)
    return dict(spec.document if as_written else {"name": spec.name, **spec.resolved})


def _content(path: Path) -> dict[str, Any]:
    """What a file of a run says; nothing where the run did not get that far."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise CallError(f"'{path}': expected JSON: {error}") from None


def _of_data(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Difference]:
    """How the pictures of two runs differ: how many, and which, told apart by their content."""
    from kerasimg.spec.difference import MISSING, Difference, differences

    yield from differences(_summed(before), _summed(after))
    old, new = ({row["sha256"]: row for row in side.get("pictures", [])} for side in (before, after))
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


def _summed(data: dict[str, Any]) -> dict[str, Any]:
    rows = data.get("pictures", [])
    counted = {part: sum(row["part"] == part for row in rows) for part in ("train", "validation", "test")}
    return {**{key: data[key] for key in ("where", "task", "classes") if key in data}, "pictures": counted}


def _figures(scores: dict[str, Any]) -> dict[str, Any]:
    """The figures that are one number each."""
    return {key: value for key, value in scores.items() if isinstance(value, int | float | str)}


def _as_json(one: Difference) -> dict[str, Any]:
    from kerasimg.spec.difference import MISSING

    sides = {"before": one.before, "after": one.after}
    return {"path": one.path, **{key: value for key, value in sides.items() if value is not MISSING}}
