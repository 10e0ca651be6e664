"""`kerasimg cache`: decoded images, features of frozen layers, compiled functions and notes on the data, on disk."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import typer

from kerasimg.cli.options import Json
from kerasimg.cli.output import echo, print_next, print_result, table
from kerasimg.errors import CallError, counted, sized

commands = typer.Typer(help="List and empty the caches on disk.", no_args_is_help=True)

UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
"""Units of an age, in seconds."""


@commands.command("list")
def list_files(as_json: Json = False) -> None:
    """List what is cached: decoded images (number, bytes, last use), features, compiled functions, notes on data."""
    from kerasimg import compile_cache
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
    sizes = [path.stat().st_size for path in compile_cache.files()]
    compiled: dict[str, Any] = {
        "folder": str(compile_cache.folder()),
        "files": len(sizes),
        "bytes": sum(sizes),
        "limit": compile_cache.LIMIT,
    }
    notes: dict[str, dict[str, Any]] = {}
    for name in cache_files.NOTES:
        mine = [file for file in cache_files.notes() if file.path.parent.name == name]
        notes[name] = {"files": len(mine), "bytes": sum(file.bytes for file in mine)}
    text = table([_cells(row) for row in rows], right=(1, 3)) if rows else []
    text.append(f"{sized(total)} of at most {sized(limit)} in {root}")
    if features["bytes"]:
        text.append(f"{sized(features['bytes'])} of features in {features['folder']}")
    if sizes:
        text.append(f"{sized(sum(sizes))} of functions that JAX compiled, in {compiled['folder']}")
    for name, summary in notes.items():
        if summary["files"]:
            size = f"{sized(summary['bytes'])} in {counted(summary['files'], 'file')}"
            text.append(f"{size} of the {name}, in {root.parent / name}")
    result = {"folder": str(root), "bytes": total, "limit": limit, "files": rows}
    result |= {"features": features, "compiled": compiled, "notes": notes}
    print_result("cache list", result, text, as_json)


@commands.command()
def remove(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Only what was not used for this long: 12h, 30d, 4w."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove what is cached. A run that needs it decodes its images, computes features, or compiles, again."""
    from kerasimg import compile_cache, remembered
    from kerasimg.data import cache_files
    from kerasimg.training import feature_files

    age_s = _seconds(older_than)
    removed = [
        *(file.bytes for file in cache_files.remove_older(cache_files.folder(), age_s)),
        *(file.bytes for file in feature_files.remove_older(age_s)),
        *(file.bytes for file in cache_files.remove_notes(age_s)),
        *compile_cache.remove_older(age_s),
        *remembered.remove_older(age_s),
    ]
    total = sum(removed)
    text = f"removed {counted(len(removed), 'file')}, {sized(total)}"
    print_result("cache remove", {"removed": len(removed), "bytes": total}, text, as_json)


@commands.command()
def path() -> None:
    """Print the folder."""
    from kerasimg.data import cache_files

    echo(cache_files.folder())
    print_next("cache path")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the list as the cells of a table."""
    image = row["about"].get("image", {})
    size = "x".join(map(str, image.get("size", ["?"])))
    return (
        row["file"],
        sized(row["bytes"]),
        f"{row['images']:,} of {counted(row['places'], 'image')}",
        f"used {_age(time.time() - row['used'])} ago",
        f"{size} {image.get('resize', '?')}, {row['about'].get('decoder', '?')}",
    )


def _row(file: Any) -> dict[str, Any]:
    from kerasimg.data import cache_files

    images, places = cache_files.images_in(file.path)
    return {
        "file": f"{file.path.parent.name}/{file.path.name}",
        "bytes": file.bytes,
        "images": images,
        "places": places,
        "used": file.used,
        "about": cache_files.about_of(file.path.parent),
    }


def _seconds(age: str | None) -> float:
    if age is None:
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", age)
    if not match:
        raise CallError(f"--older-than: expected an age like 12h, 30d or 4w, got '{age}'")
    return float(match[1]) * UNITS[match[2]]


def _age(seconds: float) -> str:
    unit = next((unit for unit in "dhm" if seconds >= UNITS[unit]), "m")
    return f"{seconds / UNITS[unit]:.0f} {unit}"
