"""Makes the generated pages of the site: the keys of a spec, the layers, the verbs, the gallery.

`conf.py` writes them to docs/generated/ whenever the site is built, so that they cannot fall behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import kerasimg
from kerasimg import catalog
from kerasimg.errors import KerasimgError
from kerasimg.models import drawing
from kerasimg.models.outline import outline

SCHEMA = catalog.ZOO / catalog.SCHEMA
PARITY = Path(__file__).parent / "parity.json"
GROUPS = {
    "layers": "Layers",
    "backbones": "Backbones",
    "optimizers": "Optimizers",
    "losses": "Losses",
    "metrics": "Metrics",
    "callbacks": "Callbacks",
}
"""Groups of the table of what a spec may name, and their titles."""
ERRORS = ("KerasimgError", "CallError", "SpecError", "DataError", "WeightsError", "GateError", "Interrupted")


def pages() -> dict[str, str]:
    """File name in docs/generated -> content."""
    made = {"keys.md": keys(), "names.md": names(), "verbs.md": verbs(), "gallery.md": ""}
    shown = []
    for name in catalog.zoo_names():
        page, image = _spec_page(name)
        made[f"zoo/{_file(name)}.md"], made[f"zoo/{_file(name)}.svg"] = page, image
        shown.append(name)
    made["gallery.md"] = gallery(shown)
    return made


def keys() -> str:
    """Every key of a spec with its type, default and meaning, from the models that check it."""
    from kerasimg.spec.document import SECTIONS

    parts = [
        "# Every key of a spec",
        "From the models that check a spec; an editor shows the same from the JSON Schema (`kerasimg spec schema`). "
        "[The spec language](../spec-language.md) explains the sections, nodes, expressions and search values.",
    ]
    for name, model in SECTIONS.items():
        schema = model.model_json_schema()
        parts += [f"## `{name}`", *_section(schema, schema)]
        for inner, definition in schema.get("$defs", {}).items():
            if "properties" in definition and not _is_section(inner, SECTIONS):
                parts += [f"### {inner} (in `{name}`)", *_section(definition, schema)]
    return "\n\n".join(parts) + "\n"


def _is_section(name: str, sections: Any) -> bool:
    return any(model.__name__ == name for model in sections.values())


def _section(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[str]:
    if about := schema.get("description"):
        yield _one_line(about)
    rows = ["| key | takes | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in schema.get("properties", {}).items():
        default = json.dumps(field["default"], ensure_ascii=False) if "default" in field else ""
        shown = f"`{_cell(default)}`" if default else ("required" if key in schema.get("required", ()) else "")
        rows.append(f"| `{key}` | {_cell(_type(field))} | {shown} | {_cell(_one_line(field.get('description', '')))} |")
    yield "\n".join(rows)


def _type(field: dict[str, Any]) -> str:
    """What a key takes, in words."""
    if "$ref" in field:
        return field["$ref"].rsplit("/", 1)[-1]
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(option) for option in field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "named" in field:
        return f"a name of {field['named']['group']}"
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    bounds = [
        f"{sign} {field[bound]}"
        for bound, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
        if bound in field
    ]
    return f"{kind} {' and '.join(bounds)}".strip()


def names() -> str:
    """Every layer, backbone, optimizer, loss, metric and callback that a spec may name, with its arguments."""
    table = json.loads((files("kerasimg.spec") / "keras_table.json").read_text(encoding="utf-8"))
    parts = [
        "# Every name that a spec may use",
        "The closed list: names of Keras, and kerasimg's own. `register` adds to it in a "
        "program: see [extending](../extending.md). An argument without a default must be given.",
    ]
    for group, title in GROUPS.items():
        rows = ["| name | arguments |", "| --- | --- |"]
        for name, entry in sorted(table.get(group, {}).items()):
            rows.append(f"| `{name}` | {_cell(', '.join(_argument(*item) for item in entry['args'].items())) or ''} |")
        parts += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _argument(name: str, described: dict[str, Any]) -> str:
    if "default" not in described:
        return f"`{name}`"
    return f"`{name}={json.dumps(described['default'], ensure_ascii=False)}`"


def verbs() -> str:
    """The public functions and classes, from their docstrings."""
    where = {name: module for name, module in kerasimg._WHERE.items() if name not in ERRORS}
    parts = ["# The verbs", "`import kerasimg` loads none of them; each is loaded when it is first used."]
    for name, module in where.items():
        thing = getattr(kerasimg, name)
        members = "\n   :members:" if module == "kerasimg.api" and isinstance(thing, type) else ""
        directive = f".. auto{_kind(thing)}:: {module}.{thing.__name__}{members}"
        parts.append(f"## `kerasimg.{name}`\n\n```{{eval-rst}}\n{directive}\n```")
    parts.append("## Errors\n\nOne family; `exit_code` is what the command line ends with.")
    rows = ["| error | exit code | when |", "| --- | ---: | --- |"]
    for name in ERRORS:
        error: type[KerasimgError] = getattr(kerasimg, name)
        rows.append(f"| `kerasimg.{name}` | {error.exit_code} | {_cell(_one_line(error.__doc__ or ''))} |")
    parts.append("\n".join(rows))
    directives = "\n\n".join(f".. autoexception:: {getattr(kerasimg, name).__module__}.{name}" for name in ERRORS)
    parts.append(f"```{{eval-rst}}\n{directives}\n```")
    return "\n\n".join(parts) + "\n"


def _kind(thing: Any) -> str:
    return "class" if isinstance(thing, type) else "function"


def gallery(shown: list[str]) -> str:
    """The specs that ship, each with a page of its own."""
    rows = ["| spec | what it is | parameters | year |", "| --- | --- | ---: | ---: |"]
    for name in shown:
        spec = catalog.load(name, partial=True)
        params = f"{spec.expect.params:,}" if spec.expect.params else ""
        rows.append(f"| [{name}](zoo/{_file(name)}.md) | {_cell(spec.about)} | {params} | {spec.card.year or ''} |")
    toc = "\n".join(f"zoo/{_file(name)}" for name in shown)
    about = (
        "Each is written from the paper that its card names. A drawing shows the top-level nodes; a block says how "
        "many layers it has. Blue nodes have at least a quarter of the parameters; dashed ones are frozen."
    )
    return "\n\n".join(["# The zoo gallery", about, "\n".join(rows), f"```{{toctree}}\n:hidden:\n\n{toc}\n```"]) + "\n"


def _spec_page(name: str) -> tuple[str, str]:
    """The page of a spec of the zoo, and its image."""
    spec = catalog.load(name)
    seen = outline(spec)
    facts = {
        "source": spec.card.source,
        "year": spec.card.year,
        "licence": spec.card.license,
        "notes": spec.card.notes,
        "input": drawing.size(seen.image),
        "parameters": f"{seen.params:,}, {len(seen.calls)} layers and backbones",
        "variants": ", ".join(variant for variant in spec.document.get("variants", {}) if not variant.startswith("//")),
        "parity": _parity(name),
        **{f"published: {what}": figure for what, figure in spec.card.figures.items()},
    }
    rows = [f"| {key} | {_cell(str(value))} |" for key, value in facts.items() if value]
    text = catalog.zoo_file(name).path.read_text(encoding="utf-8").strip()
    parts = [
        f"# {name}",
        spec.about,
        "\n".join(["| | |", "| --- | --- |", *rows]),
        f"`kerasimg spec show {name} --graph` prints the model, `--flat` layer by layer.",
        f"```{{image}} {_file(name)}.svg\n:alt: the model of {name}, node by node\n```",
        f"```json\n{text}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n", drawing.as_svg(name, seen, seen.nodes)


def _parity(name: str) -> str:
    compared = json.loads(PARITY.read_text(encoding="utf-8")).get(name, {})
    return ", ".join(f"{figure:.0e} to keras.applications.{model}" for model, figure in compared.items())


def _file(name: str) -> str:
    return name.replace("/", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _one_line(text: str) -> str:
    return " ".join(text.split())
