"""The command that searches for better values of a spec."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from kerasimg.cli.options import Bad, CacheKind, CacheOption, Data, Json, OnBadImage, Set, Weights, keras_loaded, load
from kerasimg.cli.options import assignments as assigned
from kerasimg.cli.options import weights_argument as given_weights
from kerasimg.cli.waiting import waiting
from kerasimg.errors import CallError
from kerasimg.files import to_json
from kerasimg.run_folder import REPORT

commands = typer.Typer()

DATA: Any = get_args(Data)[1]


@commands.command()
def tune(
    ref: Annotated[str | None, typer.Argument(metavar="SPEC", help="A zoo name (mobilenet) or a spec's path.")] = None,
    data: Annotated[str | None, DATA] = None,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder in which the search gets its own: runs.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes on this machine that train trials at the same time: 1.")
    ] = None,
    chief: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Listen here for workers on other machines, too.")
    ] = None,
    worker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Train trials for the chief that listens there.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with a search that was cut off, by its folder.")
    ] = None,
    space: Annotated[bool, typer.Option("--space", help="Print what would be searched, and how large it is.")] = False,
    on_bad_image: Bad = OnBadImage.fail,
    cache: CacheOption = CacheKind.auto,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line per trial.")] = False,
    as_json: Json = False,
) -> None:
    """Search between the search values of a spec. What comes out is the best of what it can be, as a spec again."""
    silent = quiet or as_json
    if resume is not None:
        if ref or assign or weights or out or worker or space:
            raise CallError(
                "--resume goes on with what the search was begun with; it goes with --data, --workers, "
                "--chief and --cache only"
            )
        with keras_loaded():
            from kerasimg.tuning.search import resume_search
        kept = None if cache is CacheKind.auto else cache.value
        with waiting("searching", silent) as shown:
            found = resume_search(resume, data=data, workers=workers, chief=chief, cache=kept, say=shown.say)
        _tell(found, as_json)
        return
    if ref is None:
        raise CallError("tune needs a SPEC, or --resume DIR")
    params, edits = assigned(assign)
    spec = load(ref, params, edits, partial=True)  # its faults are told before Keras is loaded
    if space:
        _print_space(spec, as_json)
        return
    if data is None:
        raise CallError("tune needs --data DIR; --space shows what would be searched without it")
    how: dict[str, Any] = {"data": data, "on_bad_image": on_bad_image.value, "cache": cache.value}
    how |= {"set": edits, **given_weights(weights), **params}
    if worker is not None:
        if out is not None or workers is not None or chief is not None:
            raise CallError("--worker trains what a chief hands out; --out, --workers and --chief are for the chief")
        with keras_loaded():
            from kerasimg.tuning.tuner import UsedUp
            from kerasimg.tuning.worker import work
        try:
            with waiting("training trials", silent) as shown:
                trained = work(ref, chief=worker, **how, say=shown.say)
            typer.echo(f"{trained} trials were trained here")
        except UsedUp:  # memory that TensorFlow does not give back: the same command goes on in a fresh process
            os.execv(sys.executable, [sys.executable, "-m", "kerasimg", *sys.argv[1:]])
        return
    with keras_loaded():
        from kerasimg.tuning.search import tune as search
    how |= {"out": out or Path("runs"), "chief": chief, "workers": 1 if workers is None else workers}
    with waiting("searching", silent) as shown:
        found = search(ref, **how, say=shown.say)
    _tell(found, as_json)


def _tell(found: Any, as_json: bool) -> None:
    if as_json:
        told = {"folder": str(found.folder), "score": found.score, "values": found.values, "trials": len(found.trials)}
        typer.echo(to_json(told))
        return
    typer.echo(str(found))
    page = found.folder / REPORT
    typer.echo(f"kept in {found.folder}" + (f"; to look at: {page}" if page.is_file() else ""))


def _print_space(spec: Any, as_json: bool) -> None:
    from kerasimg.tuning.space import space_of

    space = space_of(spec)
    if as_json:
        typer.echo(to_json(space.describe()))
        return
    width = max((len(one.name) for one in space.dimensions), default=0)
    for one in space.dimensions:
        when = f"; when {' and '.join(f'{name} is {option}' for name, option in one.within)}" if one.within else ""
        typer.echo(f"{one.name:<{width}}  {one} (default {json.dumps(one.default)}){when}")
    ranges = sum(one.count is None for one in space.dimensions)
    if not space.dimensions:
        typer.echo("nothing to search: no search value stands in the spec")
    elif ranges:
        typer.echo(
            f"{space.points:,} combinations, each with {ranges} value{'s' * (ranges > 1)} from a range without end"
        )
    else:
        typer.echo(f"{space.points:,} combinations")
