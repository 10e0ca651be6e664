"""Rules that the source of the package keeps, read from its syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kerasimg
from kerasimg import run_folder

PACKAGE = Path(kerasimg.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

RUN_FILES = {
    value
    for name, value in vars(run_folder).items()
    if (name.isupper() and isinstance(value, str) and "." in value) or name in ("EVALUATION", "CHECKPOINTS")
}
OTHER_FORMATS = {"spec/pack.py": {"spec.json", "MODEL_CARD.md"}}
"""A pack has members of the same names; `spec` lies below `run_folder`."""


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


def strings(syntax: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string of a module, also those within f-strings."""
    for node in ast.walk(syntax):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def run_file_names(syntax: ast.AST) -> list[str]:
    """Where a module spells a name of the run folder as a path: alone, or at the end of one."""
    found = [f"{line}: {text!r}" for line, text in strings(syntax) if is_run_file(text)]
    for node in ast.walk(syntax):
        match node:
            case ast.BinOp(op=ast.Div(), right=ast.Constant(value=run_folder.EXPORT | run_folder.TENSORBOARD as name)):
                found.append(f"{node.lineno}: {name!r}")
            case ast.Call(func=ast.Name("getattr"), args=[_, ast.Constant(value="folder"), *_]):
                found.append(f"{node.lineno}: getattr(..., 'folder')")
    return found


def is_run_file(text: str) -> bool:
    return " " not in text and text.split("/")[-1] in RUN_FILES


@pytest.mark.parametrize(
    "code", ["a / 'data.json'", "f'{a}/evaluation/metrics.json'", "a / 'export'", "getattr(run, 'folder', run)"]
)
def test_a_name_of_the_run_folder_is_recognised(code: str):
    assert len(run_file_names(ast.parse(code))) == 1


def test_only_run_folder_knows_the_names_of_its_files():
    assert {"spec.json", "data.json", "history.csv", "model.keras", "metrics.json", "evaluation"} <= RUN_FILES
    found = {}
    for module in set(MODULES) - {"run_folder.py"}:
        allowed = OTHER_FORMATS.get(module, set())
        if names := [name for name in run_file_names(tree(module)) if name.split("'")[1] not in allowed]:
            found[module] = names
    assert found == {}
