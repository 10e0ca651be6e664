"""Commands on specs: check, show, build, zoo, schema. All but `build` answer without Keras."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg import catalog
from kerasimg.cli.options import (
    Json,
    Limit,
    Ref,
    Set,
    Weights,
    assignments,
    keras_loaded,
    limits_argument,
    load,
    weights_argument,
)
from kerasimg.errors import CallError, Fault, SpecError, printable
from kerasimg.files import to_json, write_text
from kerasimg.spec.writing import dumps

if TYPE_CHECKING:
    from kerasimg.spec.load import Spec

commands = typer.Typer()
zoo = typer.Typer(help="The specs that ship.", no_args_is_help=True)
commands.add_typer(zoo, name="zoo")


@commands.command()
def check(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="Zoo names or paths of specs.")],
    assign: Set = [],  # noqa: B006 - typer copies it
    as_json: Json = False,
) -> None:
    """Tell every fault of specs, without building them."""
    params, edits = assignments(assign)
    faults: list[dict[str, str]] = []
    for ref in specs:
        try:
            spec = load(ref, params, edits, partial=True)
        except CallError as error:  # of this one; the others are told all the same
            faults.append(Fault(ref, "", str(error))._asdict())
            if not as_json:
                typer.echo(f"error: {printable(str(error))}", err=True)
        except SpecError as error:
            faults += [fault._asdict() for fault in error.faults]
            if not as_json:
                typer.echo(str(error), err=True)
        else:
            if not as_json:
                missing = [name for name, value in spec.resolved.get("params", {}).items() if value is None]
                needed = f"; must be given: {', '.join(missing)}" if missing else ""
                typer.echo(f"ok: {spec.file} ({len(spec.nodes)} nodes, {len(spec.search)} search values{needed})")
    if as_json:
        typer.echo(to_json({"ok": not faults, "faults": faults}))
    if faults:
        raise typer.Exit(SpecError.exit_code)


@commands.command()
def show(
    ref: Ref,
    assign: Set = [],  # noqa: B006
    origins: Annotated[bool, typer.Option("--origins", help="Say of each value where it comes from.")] = False,
    graph: Annotated[bool, typer.Option("--graph", help="The model: its nodes with shapes and parameters.")] = False,
    flat: Annotated[bool, typer.Option("--flat", help="The same with blocks, tables and repeats expanded.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw that graph; - is the standard output.")] = None,
    as_json: Json = False,
) -> None:
    """Print a spec as it will be used, or draw its model. Merged, with defaults, search values at their defaults."""
    if graph or flat or svg is not None:
        if origins:
            raise CallError("--origins is of the spec, --graph, --flat and --svg of its model; choose one")
        _show_model(load(ref, *assignments(assign)), flat, svg, as_json)
        return
    spec = load(ref, *assignments(assign), partial=True)
    if not origins:
        typer.echo(dumps(spec.resolved), nl=False)
        return
    rows = list(_origins(spec))
    if as_json:
        keys = ("path", "value", "origin")
        typer.echo(to_json([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    for path, value, origin in rows:
        typer.echo(f"{path} = {json.dumps(value, ensure_ascii=False)}  <- {origin}")


def _show_model(spec: Spec, flat: bool, svg: Path | None, as_json: bool) -> None:
    """What `show` says of a spec's model. Keras tells the shapes; nothing is allocated."""
    with keras_loaded():
        from kerasimg.models import drawing
        from kerasimg.models.outline import outline
    seen = outline(spec)
    parts = seen.calls if flat else seen.nodes
    if as_json:
        told = {
            "name": spec.name,
            "image": seen.image,
            "params": seen.params,
            "nodes": [one._asdict() for one in parts],
        }
        typer.echo(json.dumps(told, indent=2))
    elif svg is None or str(svg) != "-":
        typer.echo(drawing.as_text(spec.name, seen, parts))
    if svg is not None:
        picture = drawing.as_svg(spec.name, seen, parts)
        if str(svg) == "-":
            typer.echo(picture, nl=False)
        else:
            write_text(svg, picture)


@commands.command()
def build(
    ref: Ref,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Save the model here (.keras).")] = None,
    limit: Limit = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Build the model of a spec and print its layers."""
    spec = load(ref, *assignments(assign))
    limits = limits_argument(limit)
    if out is not None and out.suffix != ".keras":
        raise CallError(f"--out: expected a name that ends in .keras, got '{out}'")
    with keras_loaded():
        from kerasimg.models.build import construct

        model = construct(spec, limits=limits, **weights_argument(weights)).model
    if as_json:
        facts = {
            "name": model.name,
            "params": model.count_params(),
            "input": list(model.input_shape),
            "output": list(model.output_shape),
        }
        typer.echo(json.dumps(facts, indent=2))
    else:
        model.summary()
    if out is not None:
        model.save(out)


@zoo.command("list")
def zoo_list(as_json: Json = False) -> None:
    """List the specs that ship."""
    described = []
    for name in catalog.zoo_names():
        document = catalog.read_zoo(name)
        described.append({"name": name, "about": str(document.get("about", ""))})
    if as_json:
        typer.echo(to_json(described))
        return
    width = max(len(row["name"]) for row in described)
    for row in described:
        typer.echo(f"{row['name']:{width}}  {row['about']}")


@zoo.command("show")
def zoo_show(name: Annotated[str, typer.Argument(help="As `zoo list` names it.")]) -> None:
    """Print a spec of the zoo as its author wrote it."""
    typer.echo(catalog.zoo_file(name).path.read_text(encoding="utf-8"), nl=False)


@commands.command()
def schema() -> None:
    """Print the JSON Schema of the format. Of 2020-12, for an editor."""
    typer.echo((catalog.ZOO / catalog.SCHEMA).read_text(encoding="utf-8"), nl=False)


def _origins(spec: Spec) -> Iterator[tuple[str, Any, str]]:
    """(path, value, where it comes from) of every value of a resolved spec."""
    from kerasimg.spec.places import show_path

    def visit(value: Any, written: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Any, str]]:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                below = written.get(key) if isinstance(written, dict) else None
                known = isinstance(written, dict) and key in written
                yield from visit(item, below if known else None, (*path, key)) if known else default(item, (*path, key))
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                below = written[index] if isinstance(written, list) and index < len(written) else None
                yield from visit(item, below, (*path, index))
        else:
            yield show_path(spec.resolved, path), value, spec.origins.of(path)

    def default(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Any, str]]:
        yield show_path(spec.resolved, path), value, "default"

    yield from visit(dict(spec.resolved), dict(spec.document), ())
