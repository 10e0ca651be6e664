"""`kerasimg zoo`: the specs and recipes that ship."""

from __future__ import annotations

from typing import Annotated

import typer

from kerasimg.cli.options import Json
from kerasimg.cli.output import print_next, print_result, table

commands = typer.Typer(help="List and print the specs and recipes that ship.", no_args_is_help=True)


@commands.command("list")
def list_specs(as_json: Json = False) -> None:
    """List the specs and recipes that ship."""
    from kerasimg import catalog

    rows = [{"name": name, "about": str(catalog.read_zoo(name).get("about", ""))} for name in catalog.zoo_names()]
    print_result("zoo list", rows, table([list(row.values()) for row in rows]), as_json)


@commands.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `zoo list` prints.")]) -> None:
    """Print the file of a zoo spec as written. `spec show` prints what any spec comes to, with parents and defaults."""
    from kerasimg import catalog

    typer.echo(catalog.zoo_file(name).path.read_text(encoding="utf-8"), nl=False)
    print_next("zoo show", spec=name)
