"""Commands on pictures and their labels: the group `data`."""

from __future__ import annotations

import typer

from kerasimg.cli import data_bench, data_check

commands = typer.Typer()
data = typer.Typer(help="Look at pictures before they are trained on.", no_args_is_help=True)
commands.add_typer(data, name="data")

data.command()(data_check.check)
data.command()(data_bench.bench)
data.command()(data_bench.preview)
