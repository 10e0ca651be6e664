"""`kerasimg cache`: what is kept on disk: decoded pictures, features of frozen layers, and notes on the data."""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Any

import typer

from kerasimg.cli.options import Json
from kerasimg.errors import CallError

commands = typer.Typer()
cache = typer.Typer(
    help="See and empty what is kept on disk. Decoded pictures, features, and notes on the data.", no_args_is_help=True
)
commands.add_typer(cache, name="cache")

UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
"""Of an age, in seconds."""


@cache.command("list")
def list_files(as_json: Json = False) -> None:
    """List what is kept. For which pixels, how many pictures, how large, when last used; features; notes."""
    from kerasimg.data import cache_files
    from kerasimg.training import feature_files

    root = cache_files.folder()
    rows = [_row(file) for file in reversed(cache_files.files(root))]
    limit = cache_files.limit(root)
    total = sum(row["bytes"] for row in rows)
    features: dict[str, Any] = {
        "folder": str(feature_files.folder()),
        "bytes": sum(file.bytes for file in feature_files.files()),
    }
    notes: dict[str, dict[str, Any]] = {}
    for name in cache_files.NOTES:
        mine = [file for file in cache_files.notes() if file.path.parent.name == name]
        notes[name] = {"files": len(mine), "bytes": sum(file.bytes for file in mine)}
    if as_json:
        about = {"folder": str(root), "bytes": total, "limit": limit, "files": rows, "features": features}
        typer.echo(json.dumps(about | {"notes": notes}, indent=2))
        return
    for row in rows:
        image = row["about"].get("image", {})
        size = "x".join(map(str, image.get("size", ["?"])))
        what = f"{size} {image.get('resize', '?')}, {row['about'].get('decoder', '?')}"
        age = _age(time.time() - row["used"])
        typer.echo(
            f"{row['file']}  {row['bytes'] / 1e6:9,.0f} MB  {row['pictures']:>9,} of {row['places']:,} pictures  "
            f"used {age} ago  {what}"
        )
    typer.echo(f"{total / 1e9:,.1f} of {limit / 1e9:,.1f} GB in {root}")
    if features["bytes"]:
        typer.echo(f"{features['bytes'] / 1e9:,.1f} GB of features in {features['folder']}")
    for name, one in notes.items():
        if one["files"]:
            typer.echo(f"{one['bytes'] / 1e6:,.1f} MB in {one['files']} files of the {name}, in {root.parent / name}")


@cache.command()
def remove(
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only what was not used for so long: 12h, 30d, 4w.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove what is kept. A run that needs it lists, reads and decodes its pictures, or computes features, again."""
    from kerasimg.data import cache_files
    from kerasimg.training import feature_files

    age_s = _seconds(older_than)
    removed = [
        *cache_files.remove_older(cache_files.folder(), age_s),
        *feature_files.remove_older(age_s),
        *cache_files.remove_notes(age_s),
    ]
    total = sum(file.bytes for file in removed)
    if as_json:
        typer.echo(json.dumps({"removed": len(removed), "bytes": total}))
    else:
        typer.echo(f"removed {len(removed)} files, {total / 1e6:,.0f} MB")


@cache.command()
def path() -> None:
    """Print the folder."""
    from kerasimg.data import cache_files

    typer.echo(cache_files.folder())


def _row(file: Any) -> dict[str, Any]:
    from kerasimg.data import cache_files

    pictures, places = cache_files.pictures_in(file.path)
    return {
        "file": f"{file.path.parent.name}/{file.path.name}",
        "bytes": file.bytes,
        "pictures": pictures,
        "places": places,
        "used": file.used,
        "about": cache_files.about_of(file.path.parent),
    }


def _seconds(age: str | None) -> float:
    if age is None:
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", age)
    if not found:
        raise CallError(f"--older-than: expected an age like 12h, 30d or 4w, got '{age}'")
    return float(found[1]) * UNITS[found[2]]


def _age(seconds: float) -> str:
    unit = next((unit for unit in "dhm" if seconds >= UNITS[unit]), "m")
    return f"{seconds / UNITS[unit]:.0f} {unit}"
