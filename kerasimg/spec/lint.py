"""Warnings about a valid spec: names that nothing uses, and unexpected factors of Keras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kerasimg.errors import nearest
from kerasimg.spec.expressions import is_expression
from kerasimg.spec.locations import Path
from kerasimg.spec.reader import is_comment
from kerasimg.spec.values import names_in

GIVEN = ("variant", "num_classes")
"""Params that have a meaning without an expression: which variant, and how many classes the data has."""


FACTORS = {
    (
        "CutMix",
        "factor",
    ): "a number f draws alpha from (0, f), so most boxes are small; the paper's alpha = 1 is [1, 1]",
    ("RandomContrast", "factor"): "a number f only raises the contrast, by up to f; [f, f] lowers it, too",
    ("RandomColorJitter", "contrast_factor"): "a number f only raises the contrast, by up to f; [f, f] lowers it, too",
    ("RandomSaturation", "factor"): "0.5 changes nothing and less makes gray: a number f below 1 grays most images; "
    "to change it both ways write a pair around 0.5, such as [0.4, 0.6]",
    (
        "RandomColorJitter",
        "saturation_factor",
    ): "0.5 changes nothing and less makes gray: a number f below 1 grays most "
    "images; to change it both ways write a pair around 0.5, such as [0.4, 0.6]",
}
"""(Augmentation layer, argument) -> what Keras makes of a single number, where papers and other libraries differ."""


def factors(document: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yields the path of each factor of an augmentation layer that is one number and would better be a pair."""
    nodes = document.get("augment")
    for index, node in enumerate(nodes if isinstance(nodes, list) else ()):
        for (layer, argument), message in FACTORS.items():
            value = node.get(argument) if isinstance(node, Mapping) and node.get("layer") == layer else None
            if isinstance(value, int | float) or is_expression(value):
                yield ("augment", index, argument), message


def unused_names(document: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yields the path of each name that a document without faults defines and nothing uses, and what to say of it.

    A name counts as used wherever the text names it, whatever `when`, a variant or a search value chooses.
    """
    blocks = {name: body for name, body in (document.get("blocks") or {}).items() if not is_comment(name)}
    used_blocks = _reached([document.get("model"), document.get("augment")], blocks, document)
    for name in [name for name in blocks if name not in used_blocks]:
        yield ("blocks", name), "no node uses this block: remove it, or write it as a node"
    for name, body in blocks.items():
        yield from _unused_in_block(name, body)
    params = [name for name in document.get("params") or {} if not is_comment(name)]
    used = names_in({key: value for key, value in document.items() if key != "blocks"})
    used |= names_in([body for name, body in blocks.items() if name in used_blocks])
    for name in [name for name in params if name not in used and name not in GIVEN]:
        yield ("params", name), f"no expression uses this param: it changes nothing{nearest(name, used)}"


def _unused_in_block(name: str, body: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    arguments, let = (body.get(part) or {} for part in ("args", "let"))
    used = names_in([arguments, let, body.get("nodes")])
    for part, names in (("args", arguments), ("let", let)):
        for key in names:
            if not is_comment(key) and key not in used:
                what = "argument" if part == "args" else "name"
                message = f"no expression of the block uses this {what}: it changes nothing{nearest(key, used)}"
                yield ("blocks", name, part, key), message


def _reached(roots: Any, blocks: Mapping[str, Any], document: Mapping[str, Any]) -> set[str]:
    """The blocks that nodes name, and those that the bodies of these name."""
    reached: set[str] = set()
    rest = _named(roots)
    while rest:
        name = rest.pop()
        if is_expression(name):  # any text of a param may be the name
            rest |= _texts([document.get("params"), document.get("variants")]) & (blocks.keys() - reached)
        if name in blocks and name not in reached:
            reached.add(name)
            rest |= _named(blocks[name].get("nodes"))
    return reached


def _named(value: Any) -> set[str]:
    """Every text at a place where a node names a block."""
    if isinstance(value, list):
        return set().union(*map(_named, value))
    if not isinstance(value, Mapping):
        return set()
    found = _texts(value.get("block"))
    table = value.get("table")
    if isinstance(table, str):
        found.add(table)
    if isinstance(table, list) and table and isinstance(table[0], list) and "block" in table[0]:
        place = table[0].index("block")
        found |= _texts([row[place] for row in table[1:] if isinstance(row, list) and len(row) > place])
    return found.union(*(_named(item) for key, item in value.items() if not is_comment(key)))


def _texts(value: Any) -> set[str]:
    """The texts in a value: one, or those that a search value chooses from."""
    if isinstance(value, str):
        return {value}
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return set().union(*map(_texts, children))
