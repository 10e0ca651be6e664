"""A spec in a notebook and in a terminal: its main values at a glance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from kerasimg.errors import counted
from kerasimg.spec.formatting import dumps
from kerasimg.spec.nodes import Node

if TYPE_CHECKING:
    from kerasimg.spec.load import Spec

STYLE = "border-collapse:collapse;text-align:left"
CELL = "text-align:left;vertical-align:top;padding:2px 14px 2px 0"


def as_line(spec: Spec) -> str:
    """`Spec mobilenet: 4 nodes, 3 search values (zoo/mobilenet.json)`."""
    sizes = [counted(len(spec.nodes), "node"), counted(len(spec.search), "search value")]
    return f"Spec {spec.name}: {', '.join(sizes)} ({spec.file})"


def as_html(spec: Spec) -> str:
    """A table of the main values, and the whole spec to unfold. Everything is escaped, nothing is loaded."""
    rows = "".join(
        f'<tr><th scope="row" style="{CELL}">{escape(name)}</th><td style="{CELL}">{escape(value)}</td></tr>'
        for name, value in _facts(spec)
    )
    about = f"<div>{escape(spec.about)}</div>" if spec.about else ""
    whole = f"<details><summary>the whole spec</summary><pre>{escape(dumps(spec.resolved))}</pre></details>"
    return f'<div><strong>{escape(spec.name)}</strong>{about}<table style="{STYLE}">{rows}</table>{whole}</div>'


def _facts(spec: Spec) -> Iterator[tuple[str, str]]:
    height, width = spec.image.size
    yield "file", spec.file
    yield "task", spec.task
    yield "image", f"{height}x{width}x{spec.image.channels}, {spec.image.resize}, scale {_short(spec.image.scale)}"
    yield "params", ", ".join(f"{name} {_short(value)}" for name, value in spec.params.items()) or "none"
    yield "augment", " → ".join(name for name, _ in spec.augment) or "none"
    yield "model", " → ".join(_named(node) for node in spec.nodes)
    yield "compile", f"{_called(spec.compile.optimizer)}, loss {_called(spec.compile.loss)}"
    each = [stage.epochs for stage in spec.fit.stages]
    epochs = counted(each[0], "epoch") if len(each) == 1 else f"{' + '.join(map(str, each))} epochs"
    yield "fit", f"{epochs}, batches of {spec.fit.batch_size}"
    if spec.search:
        yield "search", ", ".join(value.name for value in spec.search)


def _named(node: Node) -> str:
    one = node.rows[0] if node.rows else node
    times = f" x{len(node.rows)}" if node.rows and len(node.rows) > 1 else ""
    return (f"{one.name} ({one.target})" if one.name else one.target) + times


def _called(value: Any) -> str:
    return str(value.get("type")) if isinstance(value, dict) else str(value)


def _short(value: Any) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text.strip('"') if len(text) <= 40 else f"{text[:37]}..."
