"""Each key of `fit` is read in one module of training and tuning, so that no two trainings can read it differently.

What makes a signature of a whole section (`model_dump`) reads no key by itself.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import kerasimg
from kerasimg.spec.document import Fit, Stage

PACKAGE = Path(kerasimg.__file__).parent
CONTAINERS = {"stages"}
"""Keys that hold sections, whose own keys are checked."""
IN_SPEC = {"keep", "monitor", "mode"}
"""Keys of a stage that `kerasimg.spec.metrics` reads, which both training and reports ask."""


def reads(section: str) -> dict[str, set[str]]:
    """Key -> the modules that read it from a section: `x.fit.key`, `fit.key`, `stage.key`, `x.stages[i].key`."""
    result: dict[str, set[str]] = defaultdict(set)
    for path in [*PACKAGE.glob("training/*.py"), *PACKAGE.glob("tuning/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and name(node.value) == section:
                result[node.attr].add(f"{path.parent.name}/{path.name}")
    return result


def name(node: ast.expr) -> str:
    """Returns the last name in an expression; "stage" for an item of `stages`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        return name(node.value).removesuffix("s")
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("fit", set(Fit.model_fields) - CONTAINERS),
        ("stage", set(Stage.model_fields) - IN_SPEC),
    ],
)
def test_a_key_of_fit_is_read_in_one_module(section: str, keys: set[str]) -> None:
    result = {key: modules for key, modules in reads(section).items() if key in keys}
    assert {key: modules for key, modules in result.items() if len(modules) > 1} == {}
    assert keys - result.keys() == set()


def test_no_stage_has_another_name() -> None:
    """Otherwise the test above would miss the keys that are read from it."""
    loops = [
        ast.unparse(node.target)
        for path in [*PACKAGE.glob("training/*.py"), *PACKAGE.glob("tuning/*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.For | ast.comprehension) and re.search(r"\bfit\.stages\)?$", ast.unparse(node.iter))
    ]
    assert loops
    assert set(loops) <= {"stage", "(index, stage)", "index, stage"}
