"""The part of the JSON Schema that says what nodes, layers and the objects named in sections are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kerasimg.spec import arguments
from kerasimg.spec.expand import MAX_REPEAT
from kerasimg.spec.locations import NODE_KINDS
from kerasimg.spec.nodes import CONTROL_KEYS, NAME, RESERVED_NAMES
from kerasimg.spec.schema_forms import (
    COMMENTS,
    Schema,
    dynamic,
    list_of,
    loosened,
    named_values,
    or_search,
    unless_search,
    whole,
)

GROUPS = ("activations", "initializers", "regularizers", "constraints", "schedules", "optimizers", "losses", "metrics")
WEIGHTS_PATTERN = r"^(?!/)(?!(.*/)?\.\.(/|$))[^\\:]+\.weights\.h5$"
_NODE_KEYS = {*NODE_KINDS, *CONTROL_KEYS}


def node_schemas() -> Schema:
    """What nodes, the nodes of `augment`, and blocks are."""
    kinds: list[Schema] = [{"required": [kind]} for kind in NODE_KINDS]
    pairs: list[Schema] = [
        {"required": [one, other]} for index, one in enumerate(NODE_KINDS) for other in NODE_KINDS[:index]
    ]
    node: Schema = {
        "type": "object",
        # The kinds stand here, too, for an editor to offer in a node that is still empty.
        "properties": {
            **{kind: {"$ref": f"#/$defs/{kind}_node/properties/{kind}"} for kind in NODE_KINDS},
            **_control_keys(),
        },
        "patternProperties": COMMENTS,
        "allOf": [
            {"not": {"anyOf": pairs}},
            *(_when_given(kind, {"$ref": f"#/$defs/{kind}_node"}) for kind in NODE_KINDS),
            {
                "if": {"required": ["table"]},
                "then": {"if": {"not": {"anyOf": kinds}}, "then": {"additionalProperties": {"$ref": "#/$defs/value"}}},
                "else": {"anyOf": kinds},
            },
        ],
        "unevaluatedProperties": False,
    }
    return {
        "node": unless_search(node),
        "augmentation": {
            "allOf": [{"$ref": "#/$defs/node"}],
            "properties": {
                "layer": or_search({"enum": arguments.augmentations()}),
                "backbone": False,
                "reuse": False,
            },
        },
        "block_node": _open_node("block", "A block of this spec, with its arguments."),
        "reuse_node": {"properties": {"reuse": or_search(_name("An earlier layer node, called again."))}},
        "blocks": {
            "type": "object",
            "patternProperties": {**COMMENTS, whole(NAME.pattern): unless_search({"$ref": "#/$defs/block"})},
            "additionalProperties": False,
            "description": "Macros by name.",
        },
        "block": {
            "type": "object",
            "properties": {
                "args": unless_search(named_values("Arguments with defaults; null: must be given.", _NODE_KEYS)),
                "let": unless_search(named_values("Local names, in order.", _NODE_KEYS)),
                "nodes": unless_search(list_of("node", "The body; its last node is the output.", minItems=1)),
            },
            "patternProperties": COMMENTS,
            "additionalProperties": False,
            "required": ["nodes"],
        },
    }


def _control_keys() -> Schema:
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    named = {"type": "object", "patternProperties": COMMENTS, "additionalProperties": {"type": "string"}}
    own = {"type": ["string", "null"], "pattern": whole(NAME.pattern), "not": {"enum": list(RESERVED_NAMES)}}
    header = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
    rows = {"type": "array", "items": {"$ref": "#/$defs/value"}}
    return {
        "name": or_search({**own, "description": "By which later nodes, edits and the search know it."}),
        "inputs": unless_search(
            {
                "description": "The nodes that it takes; left out, the node before. 'in': what entered the block.",
                "anyOf": [{"type": ["string", "null"]}, names, {**named, "minProperties": 1}],
            }
        ),
        "when": dynamic({"type": "boolean", "description": "false skips the node."}),
        "repeat": dynamic(
            {
                "type": ["integer", "null"],
                "minimum": 0,
                "maximum": MAX_REPEAT,
                "description": "How often; inside, i counts from 0 to n - 1.",
            }
        ),
        "table": unless_search(
            {
                "description": "A header row of argument names and rows of values: the node runs once per row.",
                "type": "array",
                "minItems": 2,
                "prefixItems": [header],
                "items": rows,
            }
        ),
    }


def _open_node(kind: str, description: str) -> Schema:
    """A node whose arguments only the spec itself defines."""
    return {
        "properties": {kind: or_search(_name(description))},
        "additionalProperties": {"$ref": "#/$defs/value"},
    }


def layer_schemas() -> Schema:
    """`layer_node` and `backbone_node`, and one definition with the arguments of each class."""
    weights = {
        "description": 'null, "imagenet", or a .weights.h5 file beside the spec.',
        "anyOf": [
            {"enum": [None, "imagenet"]},
            {"type": "string", "pattern": WEIGHTS_PATTERN},
            {
                "type": "object",
                "properties": {
                    "file": dynamic({"type": "string", "pattern": WEIGHTS_PATTERN}),
                    "sha256": dynamic({"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}),
                },
                "patternProperties": COMMENTS,
                "additionalProperties": False,
                "required": ["file"],
            },
        ],
    }
    trained = {"weights": dynamic(weights), "trainable": dynamic({"type": "boolean"})}
    layers, backbones = arguments.known("layers"), arguments.known("backbones")
    file: Schema = {"type": "string", "pattern": "\\.json$"}
    of_file = {"additionalProperties": {"$ref": "#/$defs/value"}, "properties": trained}
    return {
        "layer_node": _by_name("layer", layers, "A class of keras.layers or kerasimg.layers."),
        **{f"layer.{name}": _arguments("layers", name) for name in layers},
        "backbone_node": {
            **_by_name("backbone", backbones, "A constructor of keras.applications, or a spec file.", file),
            "if": {"properties": {"backbone": file}},
            "then": of_file,
        },
        **{f"backbone.{name}": _arguments("backbones", name, trained) for name in backbones},
    }


def _by_name(key: str, names: Iterable[str], description: str, other: Schema | None = None) -> Schema:
    """An object whose other keys depend on the name at `key`."""
    known: Schema = {"enum": list(names)}
    cases = [
        {"if": {"properties": {key: {"const": name}}}, "then": {"$ref": f"#/$defs/{key}.{name}"}}
        for name in known["enum"]
    ]
    chosen = {"if": {"properties": {key: {"type": "object"}}}, "then": {"additionalProperties": True}}
    takes = {"anyOf": [known, other]} if other else known
    return {"properties": {key: or_search({**takes, "description": description})}, "allOf": [*cases, chosen]}


def _arguments(group: str, name: str, also: Schema | None = None) -> Schema:
    """What the arguments of a layer or a backbone are; a table may bring those that are required."""
    found = arguments.entry(group, name) or {"args": {}}
    made: Schema = {"description": found.get("doc", ""), "properties": _argument_schemas(found) | (also or {})}
    if required := _required(found):
        made |= {"if": {"not": {"required": ["table"]}}, "then": {"required": required}}
    return made


def _argument_schemas(entry: Mapping[str, Any]) -> Schema:
    made = {}
    for key, argument in entry["args"].items():
        made[key] = {"$ref": f"#/$defs/{_kind_name(argument['kind'])}"}
        if "default" in argument:
            made[key]["default"] = argument["default"]
    return made


def kind_schemas() -> Schema:
    """One definition for each kind of argument."""
    entries = (arguments.entry(group, name) for group in arguments.MODULES for name in arguments.known(group))
    kinds = {argument["kind"] for entry in entries if entry for argument in entry["args"].values()}
    return {_kind_name(kind): dynamic(loosened(arguments.schema(kind))) for kind in sorted(kinds)}


def _kind_name(kind: str) -> str:
    """A kind as a part of a URI: "int>0|[2 int>0]" -> "kind.int_gt0_or_list_2_int_gt0"."""
    kind = re.sub(r"\[(?=[^,\]]*[a-z])", "list ", kind)
    for sign, word in ((">=", "_ge"), (">", "_gt"), ("|", "_or_"), ("(", "_above_"), (")", "_below")):
        kind = kind.replace(sign, word)
    return "kind." + re.sub(r"[^\w.-]+", "_", kind).strip("_")


def _required(entry: Mapping[str, Any]) -> list[str]:
    return [key for key, argument in entry["args"].items() if argument.get("required")]


def group_schemas() -> Schema:
    """For each group, `<group>`: a name or an object with its `type`; and `<group>_object`, without need of it."""
    made: Schema = {}
    for group in (*GROUPS, "callbacks"):
        names = [*arguments.known(group), *arguments.synonyms(group)]
        entries = {name: arguments.entry(group, name) or {"args": {}} for name in names}
        bare = [name for name, entry in entries.items() if not _required(entry)]
        cases = [
            {
                "if": {"required": ["type"], "properties": {"type": {"const": name}}},
                "then": {"properties": _argument_schemas(entry), "required": _required(entry)},
            }
            for name, entry in entries.items()
            if entry["args"]
        ]
        untyped = {"if": {"not": {"required": ["type"]}}, "then": {"additionalProperties": True}}
        made[f"{group}_object"] = {
            "type": "object",
            "properties": {"type": dynamic({"enum": names})},
            "patternProperties": COMMENTS,
            "allOf": [*cases, untyped, _when_type_is_dynamic()],
            "unevaluatedProperties": False,
        }
        whole = {"$ref": f"#/$defs/{group}_object", "required": ["type"]}
        made[group] = {"anyOf": [{"enum": bare}, whole]}
    return made


def _when_type_is_dynamic() -> Schema:
    dynamic = {"required": ["type"], "properties": {"type": {"$ref": "#/$defs/dynamic"}}}
    return {"if": dynamic, "then": {"additionalProperties": True}}


def _when_given(key: str, schema: Schema) -> Schema:
    return {"if": {"required": [key]}, "then": schema}


def _name(description: str) -> Schema:
    return {"type": "string", "minLength": 1, "description": description}
