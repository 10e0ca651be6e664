"""The command that begins: init. It looks at pictures without Keras and writes a spec for them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg.cli.options import Json
from kerasimg.cli.waiting import waiting
from kerasimg.errors import CallError
from kerasimg.files import to_json, write_text
from kerasimg.spec.writing import dumps

if TYPE_CHECKING:
    from kerasimg.data.first_spec import Wish
    from kerasimg.data.look import Look

commands = typer.Typer()


@commands.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DIR", help="Pictures, as for `train --data`.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The spec to write. Left out: beside the pictures, DIR.json.")
    ] = None,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Ask five questions first.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Look at your pictures and write a first spec for them. A reason stands beside each choice."""
    from kerasimg.data.first_spec import Wish, first_spec
    from kerasimg.data.look import look
    from kerasimg.data.sources import open_source

    path = _beside(data) if out is None else out
    if path.is_dir():
        raise CallError(f"'{path}' is a folder; name a file with --out")
    if path.exists() and not force:
        raise CallError(f"'{path}' is there already; name another file with --out, or write over it with --force")
    with waiting("looking at the pictures", as_json) as shown:
        seen = look(open_source(data), shown.progress)
    if not as_json:
        _tell(seen)
    wish = _asked(seen) if interactive else Wish()
    document = first_spec(path.stem, seen, wish)
    write_text(path, dumps(document))
    if as_json:
        typer.echo(to_json({"spec": str(path), "seen": seen._asdict()}))
        return
    typer.echo(f"wrote {path}: {document['about']}")
    typer.echo(f"next: kerasimg train {_quoted(path)} --data {_quoted(data)}")


def _beside(data: str) -> Path:
    """`photos/` -> photos.json in the same folder; what is no path, in this one."""
    path = Path(data)
    if path.is_dir():
        path = path.resolve() if path.name in ("", "..") else path
        return path.with_name(f"{path.name}.json")
    return Path(f"{path.stem.replace(':', '_') or 'first'}.json")


def _tell(seen: Look) -> None:
    classes = list(seen.classes.items())
    typer.echo(
        f"{seen.pictures:,} pictures of {len(classes)} classes, {classes[0][1]:,} of '{classes[0][0]}' "
        f"to {classes[-1][1]:,} of '{classes[-1][0]}'; {seen.width}x{seen.height} px in the median, "
        f"{'without colours' if seen.grey else 'in colour'}"
    )
    if seen.unreadable:
        typer.echo(
            f"{seen.unreadable} of the {seen.looked_at} looked at cannot be read; `kerasimg data check` names them"
        )


def _asked(seen: Look) -> Wish:
    """What a person answers; Enter takes what the program would choose."""
    from kerasimg.data.first_spec import ABOUT, RESIZES, Wish, first_spec

    for name, about in ABOUT.items():
        typer.echo(f"  {name}: {about}")
    recipe = _choice("Which recipe?", ABOUT, first_spec("x", seen)["extends"].removeprefix("recipes/"))
    chosen = first_spec("x", seen, Wish(recipe=recipe))
    size = typer.prompt("Height and width that the model sees, in px?", chosen["params"]["size"], type=int)
    if not 8 <= size <= 2048:
        raise CallError(f"size: expected 8 to 2048 px, got {size}")
    resize = _choice(f"Pictures of another shape: {', '.join(RESIZES)}?", RESIZES, chosen["image"]["resize"])
    mirror = typer.confirm("Is a mirrored picture still of its class (not so for letters and road signs)?", True)
    rare = typer.confirm("Do rare classes matter as much as frequent ones?", "fit" in chosen)
    return Wish(recipe, size, resize, mirror, rare)


def _choice(question: str, among: Iterable[str], default: str) -> Any:
    answer = str(typer.prompt(question, default))
    if answer not in among:
        raise CallError(f"expected one of {', '.join(among)}, got '{answer}'")
    return answer


def _quoted(path: str | Path) -> str:
    return shlex.quote(str(path))
