"""The command that looks for a learning rate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kerasimg.cli.options import Bad, Data, Json, OnBadImage, Ref, Set, Weights, assignments, keras_loaded, load
from kerasimg.cli.options import weights_argument as given_weights
from kerasimg.cli.waiting import waiting
from kerasimg.errors import CallError

commands = typer.Typer()

PLOTS = (".png", ".svg", ".pdf")


@commands.command("lr-find")
def lr_find(
    ref: Ref,
    data: Data,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw loss over rate here (.png, .svg, .pdf).")
    ] = None,
    stage: Annotated[int, typer.Option(help="Which stage of the training, from 1.")] = 1,
    low: Annotated[float, typer.Option(help="The first rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="The last rate.")] = 10.0,
    steps: Annotated[int, typer.Option(help="How many rates, a step at each.")] = 100,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Suggest a learning rate. All are tried for a step each, to see where the loss falls fastest."""
    if out is not None and out.suffix.lower() not in PLOTS:
        raise CallError(f"--out: expected a name that ends in {', '.join(PLOTS)}, got '{out}'")
    params, edits = assignments(assign)
    spec = load(ref, params, edits, partial=True)  # its faults are told before Keras is loaded
    with keras_loaded():
        from kerasimg.training.lr_find import find_learning_rate
    with waiting("trying rates", as_json) as shown:
        sweep = find_learning_rate(
            spec,
            data=data,
            stage=stage,
            low=low,
            high=high,
            steps=steps,
            out=out,
            on_bad_image=on_bad_image.value,
            say=shown.say,
            **given_weights(weights),
        )
    if as_json:
        typer.echo(json.dumps(sweep.as_json(), indent=2))
        return
    typer.echo(str(sweep))
    if out is not None:
        typer.echo(f"drawn in {out}")
