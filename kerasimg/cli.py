"""The command line: one function per command, thin over the verbs of the package.

Nothing here imports Keras before a command needs it: `check`, `zoo`, `schema` and `--help` answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kerasimg import catalog
from kerasimg.errors import CallError, KerasimgError, SpecError
from kerasimg.spec.writing import dumps

if TYPE_CHECKING:
    from kerasimg.spec.load import Spec

app = typer.Typer(
    name="kerasimg",
    help="Image classification with Keras from one JSON file.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
zoo = typer.Typer(help="The specs that ship.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")

Ref = Annotated[str, typer.Argument(metavar="SPEC", help="A zoo name (mobilenet) or the path of a spec.")]
RunRef = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model.keras file.")]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="A param, or an edit by path: fit.stages.0.epochs=3. Repeatable."),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="none, imagenet, or a .weights.h5 file. Left out: what the spec says."),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for machines.")]
Data = Annotated[
    str, typer.Option(metavar="DIR", help='Folder with a folder per class, .csv, .jsonl, .npz, or "sample".')
]

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

OWN_ARGUMENTS = frozenset(
    {"ref", "set", "chosen", "partial", "data", "out", "weights", "limits", "on_bad_image", "verbose", "say"}
)
"""What the verbs take besides a spec's params."""


class OnBadImage(StrEnum):
    """What to do when a picture cannot be read."""

    fail = "fail"
    skip = "skip"


Bad = Annotated[OnBadImage, typer.Option(help="fail names every unreadable picture; skip leaves them out.")]


def main() -> NoReturn:
    """Run the command line; a user's mistake is told in a few lines, with its exit code, never as a traceback."""
    try:
        code = app(standalone_mode=False)  # of a typer.Exit, or of Ctrl-C
    except KerasimgError as error:
        _stop(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; nothing more to tell
        sys.exit(1)
    except (OSError, typer.Abort) as error:
        _stop(str(error) or "aborted", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # of click, which typer brings along or vendors
            raise
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)
    if code == INTERRUPTED:
        _stop("interrupted", INTERRUPTED)
    sys.exit(code or 0)


@app.command()
def check(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="Zoo names or paths of specs.")],
    assign: Set = [],  # noqa: B006 - typer copies it
    as_json: Json = False,
) -> None:
    """Check specs without building them; every fault of each is told."""
    params, edits = _assignments(assign)
    faults: list[dict[str, str]] = []
    for ref in specs:
        try:
            spec = _load(ref, params, edits, partial=True)
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
        typer.echo(json.dumps({"ok": not faults, "faults": faults}, ensure_ascii=False, indent=2))
    if faults:
        raise typer.Exit(SpecError.exit_code)


@app.command()
def show(
    ref: Ref,
    assign: Set = [],  # noqa: B006
    origins: Annotated[bool, typer.Option("--origins", help="Say of each value where it comes from.")] = False,
    as_json: Json = False,
) -> None:
    """Print a spec as it will be used: merged, defaults filled in, search values at their defaults."""
    spec = _load(ref, *_assignments(assign), partial=True)
    if not origins:
        typer.echo(dumps(spec.resolved), nl=False)
        return
    rows = list(_origins(spec))
    if as_json:
        keys = ("path", "value", "origin")
        typer.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], ensure_ascii=False, indent=2))
        return
    for path, value, origin in rows:
        typer.echo(f"{path} = {json.dumps(value, ensure_ascii=False)}  <- {origin}")


@app.command()
def build(
    ref: Ref,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Save the model here (.keras).")] = None,
    limit: Annotated[list[str], typer.Option(metavar="NAME=N", help="Raise a limit: params=N, tensor=N.")] = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Build the model of a spec and print its layers."""
    spec = _load(ref, *_assignments(assign))
    limits = {name: _count(name, value) for name, value in map(_assignment, limit)}
    if out is not None and out.suffix != ".keras":
        raise CallError(f"--out: expected a name that ends in .keras, got '{out}'")
    with _keras():
        from kerasimg.models.build import construct

        model = construct(spec, limits=limits, **_weights(weights)).model
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
        typer.echo(json.dumps(described, ensure_ascii=False, indent=2))
        return
    width = max(len(row["name"]) for row in described)
    for row in described:
        typer.echo(f"{row['name']:{width}}  {row['about']}")


@zoo.command("show")
def zoo_show(name: Annotated[str, typer.Argument(help="As `zoo list` names it.")]) -> None:
    """Print a spec of the zoo as its author wrote it."""
    typer.echo(catalog.zoo_file(name).path.read_text(encoding="utf-8"), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema (2020-12) of the format, for an editor."""
    typer.echo((catalog.ZOO / catalog.SCHEMA).read_text(encoding="utf-8"), nl=False)


@app.command()
def train(
    ref: Ref,
    data: Data,
    assign: Set = [],  # noqa: B006
    weights: Weights = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder in which the run gets its own.")] = Path("runs"),
    on_bad_image: Bad = OnBadImage.fail,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Json = False,
) -> None:
    """Train a classifier, judge it on held-out pictures, and keep all of it in a new folder."""
    params, edits = _assignments(assign)
    _load(ref, params, edits, partial=True)  # its faults are told before Keras is loaded
    with _keras():
        from kerasimg.training.train import train as run_training
    silent = quiet or as_json
    run = run_training(
        ref,
        data=data,
        out=out,
        on_bad_image=on_bad_image.value,
        set=edits,
        verbose=0 if silent else "auto",
        say=(lambda line: None) if silent else typer.echo,
        **_weights(weights),
        **params,
    )
    has_scores = (run.folder / "evaluation" / "metrics.json").is_file()
    if as_json:
        scores = run.scores if has_scores else None
        typer.echo(json.dumps({"run": str(run.folder), "scores": scores}, ensure_ascii=False, indent=2))
        return
    if has_scores:
        _print_scores(run.scores)
    typer.echo(f"kept in {run.folder}")


@app.command()
def evaluate(
    run: RunRef,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Left out: the run's own held-out part.")] = None,
    part: Annotated[str | None, typer.Option(help="train, validation, test or all.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write metrics.json and predictions.csv here.")
    ] = None,
    on_bad_image: Bad = OnBadImage.fail,
    as_json: Json = False,
) -> None:
    """Judge a trained classifier on labelled pictures."""
    with _keras():
        from kerasimg.evaluation.evaluate import evaluate as judge
    scores = judge(run, data=data, part=part, out=out, on_bad_image=on_bad_image.value)
    if as_json:
        typer.echo(json.dumps(scores, ensure_ascii=False, indent=2))
    else:
        _print_scores(scores)


@app.command()
def predict(
    run: RunRef,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to print for each picture.")] = 3,
    as_json: Json = False,
) -> None:
    """Say what is on pictures."""
    with _keras():
        from kerasimg.evaluation.predict import predict as ask
    predictions = ask(run, files)
    if as_json:
        typer.echo(json.dumps([one._asdict() for one in predictions], ensure_ascii=False, indent=2))
        return
    for one in predictions:
        likely = sorted(one.probabilities.items(), key=lambda pair: -pair[1])[:top]
        typer.echo(f"{one.file}: " + ", ".join(f"{name} {value:.3f}" for name, value in likely))


def _load(ref: str, params: dict[str, Any], edits: dict[str, Any], partial: bool = False) -> Spec:
    return catalog.load(ref, set=edits, partial=partial, **params)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CallError(f"expected NAME=VALUE, got '{text}'")
    return name, value


def _count(name: str, text: str) -> int:
    if not text.isdecimal():
        raise CallError(f"--limit {name}: expected a whole number, got '{text}'")
    return int(text)


def _assignments(texts: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`--set` values: the params (a bare name) and the edits (a dotted path). A value is JSON, else a string."""
    params: dict[str, Any] = {}
    edits: dict[str, Any] = {}
    for name, text in map(_assignment, texts):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        if name in OWN_ARGUMENTS:
            raise CallError(f"--set {name}: the verbs have an argument of that name; write --set params.{name}={text}")
        (edits if "." in name else params)[name] = value
    return params, edits


def _weights(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    return {"weights": None if text.lower() == "none" else text}


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


def _print_scores(scores: dict[str, Any]) -> None:
    from kerasimg.evaluation.table import print_scores

    print_scores(scores)


@contextmanager
def _keras() -> Iterator[None]:
    """Load Keras with its backend's start-up chatter held back; it is told when the start fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import keras

            keras.ops.zeros(1)
        except BaseException:
            chatter.seek(0)
            os.write(kept, chatter.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    yield


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}" if message else "error", err=True)
    sys.exit(code)
