"""`kerasimg spec`: print, compare, build and tune specs. All but `build` and `lr-find` run without Keras."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasimg.cli.options import (
    Bad,
    Data,
    Json,
    Limit,
    OnBadImage,
    Set,
    SpecArgument,
    Weights,
    assignments,
    keras_loaded,
    limits_argument,
    load,
    out_option,
    repeated,
    weights_argument,
)
from kerasimg.cli.output import echo, print_json, print_next, print_result
from kerasimg.cli.progress import waiting
from kerasimg.errors import CallError, counted
from kerasimg.escaping import json_text
from kerasimg.files import replacing, write_text
from kerasimg.run_folder import DataRecord, RunFolder

if TYPE_CHECKING:
    from kerasimg.spec.diff import Difference
    from kerasimg.spec.load import Spec

commands = typer.Typer(help="Print, compare and build specs.", no_args_is_help=True)

Side = Annotated[str, typer.Argument(help="A zoo name, a recipe, the path of a spec, or a run's folder.")]
MAX_LISTED = 10
"""Images that are listed by name, of those that are in another split."""
PLOTS = (".png", ".svg", ".pdf")


@commands.command()
def show(
    ref: SpecArgument,
    assign: Set = [],  # noqa: B006
    origins: Annotated[bool, typer.Option("--origins", help="Print where each value comes from.")] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Print the model: its nodes with shapes and parameters.")
    ] = False,
    flat: Annotated[bool, typer.Option("--flat", help="The same with blocks, tables and repeats expanded.")] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw that graph; - is standard output.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print any spec as it will be used, merged and with defaults; or draw its model. `zoo show` prints the file."""
    if graph or flat or svg is not None:
        if origins:
            raise CallError("--origins is about the spec, --graph, --flat and --svg about its model; choose one")
        _show_model(load(ref, *assignments(assign)), flat, svg, as_json)
    else:
        spec = load(ref, *assignments(assign), partial=True)
        if not origins:
            from kerasimg.spec.formatting import dumps

            echo(json_text(dumps(spec.resolved)), nl=False)
        else:
            rows = list(_origins(spec))
            if as_json:
                keys = ("path", "value", "origin")
                print_json([dict(zip(keys, row, strict=True)) for row in rows])
            else:
                for path, value, origin in rows:
                    echo(f"{path} = {json.dumps(value, ensure_ascii=False)}  <- {origin}")
    if not as_json:
        print_next("spec show", repeated(assign=assign), spec=ref)


def _show_model(spec: Spec, flat: bool, svg: Path | None, as_json: bool) -> None:
    """Print or draw a spec's model. Keras computes the shapes; nothing is allocated."""
    with keras_loaded():
        from kerasimg.models import drawing
        from kerasimg.models.outline import outline
    with waiting("building the model", as_json):
        model = outline(spec)
    parts = model.calls if flat else model.nodes
    if as_json:
        nodes = [part._asdict() for part in parts]
        facts = {"name": spec.name, "image": model.image, "params": model.params, "weights": _own_weights(spec)}
        print_json({**facts, "nodes": nodes})
    elif svg is None or str(svg) != "-":
        echo(drawing.as_text(spec.name, model, parts))
        if own := _own_weights(spec):
            echo(f"weights: {own}, from which build, train and predict start (--weights none: random)")
    if svg is not None:
        drawn = drawing.as_svg(spec.name, model, parts)
        if str(svg) == "-":
            echo(drawn, nl=False)
        else:
            write_text(svg, drawn)
            echo(f"wrote {svg}", err=True)


def _own_weights(spec: Spec) -> str | None:
    """The file with the weights of the whole model that a spec brings."""
    own = spec.pretrained.imagenet
    return None if own is None else own.file


@commands.command()
def diff(
    before: Side,
    after: Side,
    as_written: Annotated[
        bool, typer.Option("--as-written", help="Compare the files as written, without defaults.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the differences between two specs, or two runs. Of runs: spec, data, environment and scores."""
    sections = {title: list(rows) for title, rows in _sections(before, after, as_written)}
    text = []
    for title, rows in sections.items():
        text.append(f"{title}: {counted(len(rows), 'difference') if rows else 'no differences'}")
        text += [f"  {row}" for row in rows]
    result = {title: [_as_json(row) for row in rows] for title, rows in sections.items()}
    run = RunFolder(Path(after))
    print_result("spec diff", result, text, as_json, spec=run.spec_file if run.is_run else after)


def _sections(before: str, after: str, as_written: bool) -> Iterator[tuple[str, Iterator[Difference]]]:
    from kerasimg.spec.diff import differences

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
    """Differences between the images of two runs: their number, and which, identified by content."""
    from kerasimg.spec.diff import MISSING, Difference, differences

    yield from differences(_summed(before), _summed(after))
    old, new = ({row["sha256"]: row for row in (side["images"] if side else [])} for side in (before, after))
    moved = [digest for digest in old.keys() & new.keys() if old[digest]["part"] != new[digest]["part"]]
    for digest in sorted(moved, key=lambda digest: old[digest]["id"])[:MAX_LISTED]:
        yield Difference(f"part of {old[digest]['id']}", old[digest]["part"], new[digest]["part"])
    if len(moved) > MAX_LISTED:
        yield Difference("images in another part, in all", MISSING, len(moved))
    for path, left in (("only in the first", old.keys() - new.keys()), ("only in the second", new.keys() - old.keys())):
        if left:
            names = sorted((old | new)[digest]["id"] for digest in left)[:MAX_LISTED]
            facts = {"images": len(left), "as": names}
            yield Difference(path, facts, MISSING) if left <= old.keys() else Difference(path, MISSING, facts)


def _summed(data: DataRecord | None) -> dict[str, Any]:
    if data is None:
        return {}
    rows = data["images"]
    by_part = {part: sum(row["part"] == part for row in rows) for part in ("train", "validation", "test")}
    return {**{key: value for key, value in data.items() if key in ("where", "task", "classes")}, "images": by_part}


def _surroundings(run: RunFolder) -> dict[str, Any]:
    """Versions, backend and machine of a run."""
    return {key: value for key, value in (run.environment() or {}).items() if key not in ("started", "command")}


def _figures(run: RunFolder) -> dict[str, Any]:
    """The scores that are one number each, and the part on which they were computed."""
    scores = run.evaluation.metrics() or {}
    return {key: value for key, value in scores.items() if isinstance(value, int | float) or key == "part"}


def _as_json(difference: Difference) -> dict[str, Any]:
    from kerasimg.spec.diff import MISSING

    sides = {"before": difference.before, "after": difference.after}
    return {"path": difference.path, **{key: value for key, value in sides.items() if value is not MISSING}}


@commands.command()
def build(
    ref: SpecArgument,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    out: Annotated[Path | None, out_option("the model, a .keras file", "only printed")] = None,
    limit: Limit = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Build the model of a spec and print its layers."""
    spec = load(ref, *assignments(assign))
    limits = limits_argument(limit)
    if out is not None and out.suffix != ".keras":
        raise CallError(f"--out: expected a name that ends in .keras, got '{out}'")
    with keras_loaded():
        from kerasimg.models.build import build as build_model

        model = build_model(spec, limits=limits, **weights_argument(weights))
    facts = {
        "name": model.name,
        "params": model.count_params(),
        "input": list(model.input_shape),
        "output": list(model.output_shape),
    }
    again = repeated(assign=assign, weights=weights, limit=limit)
    print_result("spec build", facts, model.summary, as_json, again, spec=ref)
    if out is not None:
        with replacing(out) as partial:
            model.save(partial)


@commands.command()
def schema() -> None:
    """Print the JSON Schema of specs. For an editor (JSON Schema 2020-12)."""
    from kerasimg import catalog

    echo((catalog.ZOO / catalog.SCHEMA).read_text(encoding="utf-8"), nl=False)
    print_next("spec schema")


@commands.command("lr-find")
def lr_find(
    ref: SpecArgument,
    data: Data,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    out: Annotated[
        Path | None, out_option("a plot of loss over learning rate, .png, .svg or .pdf", "only printed")
    ] = None,
    stage: Annotated[int, typer.Option("--stage", help="The stage of the training, from 1.")] = 1,
    low: Annotated[float, typer.Option("--low", help="The first learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--high", help="The last learning rate.")] = 10.0,
    steps: Annotated[int, typer.Option("--steps", help="Number of learning rates, one training step each.")] = 100,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Suggest a learning rate. It is raised step by step, to see where the loss falls fastest."""
    if out is not None and out.suffix.lower() not in PLOTS:
        raise CallError(f"--out: expected a name that ends in {', '.join(PLOTS)}, got '{out}'")
    params, edits = assignments(assign)
    spec = load(ref, params, edits, partial=True)  # reports its errors before Keras is loaded
    with keras_loaded():
        from kerasimg.training.lr_find import find_learning_rate
    with waiting("trying learning rates", as_json):
        sweep = find_learning_rate(
            spec,
            data=data,
            stage=stage,
            low=low,
            high=high,
            steps=steps,
            out=out,
            on_bad_image=on_bad_image.value,
            **weights_argument(weights),
        )
    text = [str(sweep), *([] if out is None else [f"plot: {out}"])]
    rate = f"{sweep.suggestion:.2g}"
    again = repeated(on_bad_image, assign, weights)
    print_result("spec lr-find", sweep.to_dict(), text, as_json, again, spec=ref, data=data, lr=rate)


def _origin(spec: Spec, path: tuple[str | int, ...]) -> str:
    """The file or the call that a value comes from; of a param that a variant gives, that of the variant."""
    variant = spec.params.get("variant")
    variants = spec.document.get("variants")
    if len(path) > 1 and path[0] == "params" and isinstance(variants, dict) and variant in variants:
        name = path[1]
        if spec.document["params"].get(name) is None and name not in spec.given and name in variants[variant]:
            return f"{spec.origins.of(('variants', str(variant), name))}, variant '{variant}'"
    return spec.origins.of(path)


def _origins(spec: Spec) -> Iterator[tuple[str, Any, str]]:
    """(path, value, where it comes from) of every value of a resolved spec."""
    from kerasimg.spec.locations import show_path

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
            yield show_path(spec.resolved, path), value, _origin(spec, path)

    def default(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Any, str]]:
        yield show_path(spec.resolved, path), value, "default"

    yield from visit(dict(spec.resolved), dict(spec.document), ())
