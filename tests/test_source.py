"""Rules for the source of the package, checked on its syntax trees."""

import ast
import configparser
import functools
import importlib
import inspect
import itertools
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
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


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


def strings(syntax: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string of a module, also those within f-strings."""
    for node in ast.walk(syntax):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def run_file_names(syntax: ast.AST) -> list[str]:
    """Where a module spells a file name of the run folder: alone, or at the end of a path."""
    places = [f"{line}: {text!r}" for line, text in strings(syntax) if is_run_file(text)]
    for node in ast.walk(syntax):
        match node:
            case ast.BinOp(op=ast.Div(), right=ast.Constant(value=run_folder.EXPORT | run_folder.TENSORBOARD as name)):
                places.append(f"{node.lineno}: {name!r}")
            case ast.Call(func=ast.Name("getattr"), args=[_, ast.Constant(value="folder"), *_]):
                places.append(f"{node.lineno}: getattr(..., 'folder')")
    return places


def is_run_file(text: str) -> bool:
    return " " not in text and text.split("/")[-1] in RUN_FILES


@pytest.mark.parametrize(
    "code", ["a / 'data.json'", "f'{a}/evaluation/metrics.json'", "a / 'export'", "getattr(run, 'folder', run)"]
)
def test_a_name_of_the_run_folder_is_recognised(code: str):
    assert len(run_file_names(ast.parse(code))) == 1


def test_only_run_folder_knows_the_names_of_its_files():
    assert {"spec.json", "data.json", "history.csv", "model.keras", "metrics.json", "evaluation"} <= RUN_FILES
    violations = {}
    for module in set(MODULES) - {"run_folder.py"}:
        allowed = OTHER_FORMATS.get(module, set())
        if names := [name for name in run_file_names(tree(module)) if name.split("'")[1] not in allowed]:
            violations[module] = names
    assert violations == {}


LIBRARIES = ("keras", "keras_tuner", "tensorflow", "uvicorn")
PRIVATE_MODULES = ("keras.src", "keras_tuner.src", "tensorflow.python", "uvicorn.protocols", "uvicorn.supervisors")
PRIVATE_PARTS = {name.split(".")[-1] for name in PRIVATE_MODULES}
OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}
OTHERS = {"_exit": "os", "_fingerprint": "a data set of Hugging Face, whose digest has no public name"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def own_names(syntax: ast.AST) -> set[str]:
    """The private names that a module defines: functions, classes, variables, attributes."""
    names = set()
    for node in ast.walk(syntax):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(ast.Name("self"), attr=name, ctx=ast.Store()):
                names.add(name)
    return {name for name in names if is_private(name)}


def foreign_private_names(syntax: ast.AST, own: set[str]) -> list[str]:
    """Where a module uses a private name that the package does not define, or imports a private module."""
    places = []
    for node in ast.walk(syntax):
        match node:
            case ast.Attribute(attr=name) if is_private(name) and name not in own | OF_NAMED_TUPLES | set(OTHERS):
                places.append(f"{node.lineno}: {ast.unparse(node)}")
            case ast.Attribute(attr=name) if name in PRIVATE_PARTS and ast.unparse(node) in PRIVATE_MODULES:
                places.append(f"{node.lineno}: {ast.unparse(node)}")
            case ast.Attribute(attr="__mro__") | ast.Attribute(attr="__bases__") if "type(" not in ast.unparse(node):
                places.append(f"{node.lineno}: {ast.unparse(node)}")
            case ast.Call(
                func=ast.Name("getattr" | "setattr" | "hasattr" | "delattr"), args=[_, ast.Constant(name), *_]
            ):
                if is_private(str(name)) and name not in own:
                    places.append(f"{node.lineno}: {ast.unparse(node)}")
            case ast.Constant(value=str(text)) if text.startswith(PRIVATE_MODULES) and " " not in text:
                places.append(f"{node.lineno}: {text!r}")
            case ast.ImportFrom(module=str(module)) if module.startswith(PRIVATE_MODULES):
                places.append(f"{node.lineno}: {ast.unparse(node)}")
            case ast.Import(names=names) if any(each.name.startswith(PRIVATE_MODULES) for each in names):
                places.append(f"{node.lineno}: {ast.unparse(node)}")
            case ast.Assign(targets=[ast.Attribute(ast.Name(name), "call" | "activation" | "next")]) if name != "self":
                places.append(f"{node.lineno}: {ast.unparse(node)}")
    return places


@pytest.mark.parametrize(
    "code",
    [
        "model._nodes_by_depth",
        "getattr(optimizer, '_learning_rate', None)",
        "import keras.src.ops",
        "from tensorflow.python.framework import ops",
        "keras.src.backend.random_seed_dtype()",
        "importlib.import_module('keras.src.losses')",
        "keras.layers.RandomFlip.__mro__[1]",
        "layer.call = replaced",
    ],
)
def test_a_private_name_is_recognised(code: str):
    assert len(foreign_private_names(ast.parse(code), {"_own"})) == 1


def test_only_keras_internals_uses_private_names_of_libraries():
    trees = {module: tree(module) for module in MODULES}
    own = set().union(*(own_names(syntax) for module, syntax in trees.items() if module != "keras_internals.py"))
    violations = {
        module: names
        for module, syntax in trees.items()
        if module != "keras_internals.py" and (names := foreign_private_names(syntax, own))
    }
    assert violations == {}


def test_no_class_overrides_or_reads_a_private_name_of_its_foreign_base():
    violations = {}
    for cls in classes_of_the_package():
        bases = [base for base in cls.__mro__ if base.__module__.split(".")[0] in LIBRARIES]
        ours = [base for base in cls.__mro__ if base.__module__.startswith("kerasimg.")]
        ours = [base for base in ours if base.__module__ != "kerasimg.keras_internals"]
        private = set().union(*map(private_names_of, bases))
        if names := private & set().union(*map(names_used_by, ours)):
            violations[cls.__qualname__] = names
    assert violations == {}


def classes_of_the_package() -> Iterator[type]:
    """Every class that has a base of one of the libraries."""
    for module in MODULES:
        name = f"kerasimg.{module.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}"
        if module in ("__init__.py", "__main__.py"):
            continue
        try:
            members = vars(importlib.import_module(name))
        except ImportError:  # of an extra that is not installed
            continue
        for cls in members.values():
            if inspect.isclass(cls) and cls.__module__ == name:
                yield cls


@functools.cache
def classes_in(file: str) -> dict[str, ast.ClassDef]:
    """Qualified name -> class, of a source file. `inspect.getsource` parses the whole file for every class."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.ClassDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield prefix + child.name, child
                yield from visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef):
                yield from visit(child, f"{prefix}{child.name}.<locals>.")
            else:
                yield from visit(child, prefix)

    return dict(visit(ast.parse(Path(file).read_text(encoding="utf-8")), ""))


def syntax_of(cls: type) -> ast.ClassDef:
    return classes_in(inspect.getfile(cls))[cls.__qualname__]


@functools.cache
def names_used_by(cls: type) -> set[str]:
    """The methods and attributes that a class defines or reads."""
    return {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(syntax_of(cls))
        if isinstance(node, ast.Attribute | ast.FunctionDef)
    }


@functools.cache
def private_names_of(cls: type) -> set[str]:
    """The private names of a class of a library: its methods and attributes, and those that it sets on itself."""
    assigned = {
        node.attr
        for node in ast.walk(syntax_of(cls))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return {name for name in assigned | set(vars(cls)) if is_private(name)}


PLURAL = re.compile(
    r" ((?!of|tell)[a-z-]+ )?(images|classes|epochs|trials|files|folders|groups|labels|layers|steps|models|nodes"
    r"|variables|columns|workers|threads|folds|examples|features|combinations|parameters"
    r"|members)\b(?!/s| a second| per )"
)


def plurals(syntax: ast.AST) -> list[str]:
    """Where an f-string has a number, as its format or `len` shows, with a noun in the plural: also of 1 image."""
    places = []
    for text in ast.walk(syntax):
        if isinstance(text, ast.JoinedStr):
            for value, after in itertools.pairwise(text.values):
                match value, after:
                    case ast.FormattedValue(value=number, format_spec=form), ast.Constant(value=str(words)):
                        shown = ast.unparse(number)
                        is_count = shown.startswith("len(") or (form is not None and ast.unparse(form) == "f','")
                        if is_count and not shown.isupper() and PLURAL.match(words):
                            places.append(f"{value.lineno}: {shown}{words[:30]}")
    return places


@pytest.mark.parametrize("code", ["f'{len(files)} images'", "f'{n:,} bad images are'", "f'{a:,} of {b:,} classes'"])
def test_a_number_with_a_noun_in_the_plural_is_noticed(code: str):
    assert plurals(ast.parse(code))
    assert not plurals(ast.parse("f'{MOST:,} files, {rate:,.0f} images/s, {counted(n, 1)} images'"))


def test_a_number_in_a_text_gets_its_noun_from_counted():
    """A limit is more than 1: `boundary` has only such numbers."""
    found = {module: plurals(tree(module)) for module in MODULES if module != "boundary.py"}
    assert {module: places for module, places in found.items() if places} == {}


def test_no_module_imports_the_package_itself():
    places = []
    for module in set(MODULES) - {"__main__.py"}:
        for node in ast.walk(tree(module)):
            match node:
                case ast.Import(names=names) if any(each.name == "kerasimg" for each in names):
                    places.append(f"{module}:{node.lineno}")
                case ast.ImportFrom(module="kerasimg", names=names):
                    places += [f"{module}:{node.lineno}" for each in names if not is_submodule(each.name)]
    assert places == []


def is_submodule(name: str) -> bool:
    return f"{name}.py" in MODULES or f"{name}/__init__.py" in MODULES


def test_every_distribution_that_is_imported_is_declared():
    installed = installed_distributions()
    required = requirements()
    declared = {canonical(name) for names in required.values() for name in names}
    missing = {}
    for module in MODULES:
        for name in imported(tree(module)) - set(sys.stdlib_module_names) - {"kerasimg"}:
            distributions = {canonical(each) for each in installed.get(name, [name])}
            if not distributions & declared:
                missing.setdefault(name, []).append(module)
    assert missing == {}


def test_an_import_at_module_level_needs_no_extra():
    """Imports at the top of a module must work after a plain `pip install kerasimg`."""
    installed, always = installed_distributions(), {canonical(name) for name in requirements()[""]}
    missing = {}
    for module in MODULES:
        if module.startswith(("deploy/serve/", "studio/")):  # begin with a check for the extra of that name
            continue
        for name in imported(ast.Module(toplevel(tree(module)), [])) - set(sys.stdlib_module_names) - {"kerasimg"}:
            if not {canonical(each) for each in installed.get(name, [name])} & always:
                missing.setdefault(name, []).append(module)
    assert missing == {}


@functools.cache
def installed_distributions() -> Mapping[str, list[str]]:
    """Importable name -> the installed distributions that provide it."""
    return packages_distributions()


def requirements() -> dict[str, list[str]]:
    """Extra -> the names of the distributions that it installs; "" for those that are always installed."""
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")
    groups = {"": settings["options"]["install_requires"], **settings["options.extras_require"]}
    return {
        extra: [re.split(r"[ <>=!~;\[]", line)[0] for line in lines.splitlines() if line]
        for extra, lines in groups.items()
        if extra not in ("test", "docs")
    }


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(syntax: ast.AST) -> set[str]:
    packages = set()
    for node in ast.walk(syntax):
        match node:
            case ast.Import(names=names):
                packages |= {each.name.split(".")[0] for each in names}
            case ast.ImportFrom(module=str(module), level=0):
                packages.add(module.split(".")[0])
    return packages


def toplevel(syntax: ast.Module) -> list[ast.stmt]:
    """The statements that run at import, without what only type checkers read."""
    return [node for node in syntax.body if isinstance(node, ast.Import | ast.ImportFrom)]


def test_the_quick_loop_has_tests_of_every_package_and_the_slowest_files_exist(request: pytest.FixtureRequest):
    tests = Path(__file__).parent
    conftest = request.config.pluginmanager.get_plugin(str(tests / "conftest.py"))
    assert [name for name in conftest.FAST + conftest.SLOWEST if not (tests / f"{name}.py").is_file()] == []
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages - {name.split("/")[0] for name in conftest.FAST} == set()


BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


def names_taken_from_the_package(syntax: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of each name of kerasimg that a script imports, or uses of a module that it imports."""
    modules = {}
    for node in ast.walk(syntax):
        match node:
            case ast.Import(names=names):
                for each in names:
                    if each.name.split(".")[0] == "kerasimg":
                        modules[each.asname or "kerasimg"] = each.name if each.asname else "kerasimg"
                        yield node.lineno, each.name, ""
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "kerasimg":
                for each in names:
                    yield node.lineno, module, each.name
                    if is_module(f"{module}.{each.name}"):
                        modules[each.asname or each.name] = f"{module}.{each.name}"
    assigned = {node.id for node in ast.walk(syntax) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(syntax):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules.keys() - assigned:
                yield node.lineno, modules[module], name


def is_module(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def exists(module: str, name: str) -> bool:
    return is_module(f"{module}.{name}") or (is_module(module) and hasattr(importlib.import_module(module), name))


def test_a_script_that_uses_a_removed_name_is_noticed():
    script = (
        "import kerasimg\nfrom kerasimg.training import engine\nfrom kerasimg.gone import x\nengine.Loop\nkerasimg.y"
    )
    taken = list(names_taken_from_the_package(ast.parse(script)))
    missing = [(line, name) for line, module, name in taken if name and not exists(module, name)]
    assert sorted(missing) == [(3, "x"), (4, "Loop"), (5, "y")]


@pytest.mark.parametrize("path", BENCHMARKS, ids=[path.stem for path in BENCHMARKS])
def test_a_benchmark_imports_what_it_needs_and_has_help(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0


@pytest.mark.parametrize("path", BENCHMARKS, ids=[path.stem for path in BENCHMARKS])
def test_a_benchmark_uses_only_names_that_the_package_has(path: Path):
    missing = []
    for line, module, name in names_taken_from_the_package(ast.parse(path.read_text(encoding="utf-8"))):
        if not (exists(module, name) if name else is_module(module)):
            missing.append(f"{path.name}:{line}: {module}.{name}")
    assert missing == []
