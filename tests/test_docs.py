"""The README and the docs show what kerasimg does: commands and code run, outputs match, names and links exist."""

import contextlib
import itertools
import json
import pkgutil
import re
import runpy
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import typer

import kerasimg
from kerasimg import cli
from kerasimg.cli.groups import leaves
from kerasimg.deploy.web import browser, litertjs
from kerasimg.errors import CallError, SpecError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

QUICKER = {
    'kerasimg.train(data="photos/")': 'kerasimg.train(data="photos/", size=32, epochs=1)',
    'run.export("litert")  # also': 'run.export("litert", precision="float32")  # also',
    "epochs=3, lr=0.002, verbose=2)": "epochs=1, lr=0.002, verbose=2, report=False)",
    "epochs=6, lr=0.002)": "epochs=2, lr=0.002, report=False)",
    '[bundle] = longer.export("litert")': '[bundle] = longer.export("litert", precision="float32")',
    'data="sample", lr=0.002, overrides={"fit.stages.0.epochs": 3}': 'data="photos/", size=32, epochs=1, lr=0.002',
}
"""What an example runs with instead, because it would take too long. The page shows the same."""


class World(NamedTuple):
    """The working folder of the pages, and the outputs of the commands that made it."""

    folder: Path
    outputs: dict[str, list[str]]


@pytest.fixture(scope="session")
def examples() -> SimpleNamespace:
    """docs/examples.py, which writes the outputs of the pages."""
    return SimpleNamespace(**runpy.run_path(str(DOCS / "examples.py")))


@pytest.fixture(scope="session")
def world(examples: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return World(folder, examples.prepare(folder))


@pytest.fixture
def copy_of_the_world(world: World, tmp_path: Path) -> Iterator[Path]:
    folder = Path(shutil.copytree(world.folder, tmp_path / "world"))
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="session")
def trainings() -> dict[str, tuple[list[str], Path]]:
    """Trainings of `REPEATED` that a page has run: the command -> what it printed, and a copy of the run."""
    return {}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """kerasimg.train, which trains once for calls that are equal; later ones get a copy of the run."""
    runs = tmp_path_factory.mktemp("runs")
    done: dict[str, Path] = {}
    train = kerasimg.train

    def train_once(*args: Any, **options: Any) -> Any:
        call = repr((args, sorted(options.items())))
        if call not in done:
            run = train(*args, **options)
            done[call] = Path(shutil.copytree(run, runs / str(len(done)) / Path(run).name))
            return run
        return kerasimg.Run(shutil.copytree(done[call], Path("runs") / done[call].name))

    return train_once


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.M | re.S)


def named(pages: list[Path]) -> dict[str, Any]:
    return {"argvalues": pages, "ids": [page.name for page in pages]}


def test_ci_runs_the_test_command_of_the_readme():
    commands = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines() if "tox" in line]
    assert len(commands) == 1
    assert commands[0] in read(ROOT / ".ci" / "run").splitlines()


def test_generated_pages_are_up_to_date():
    pages = runpy.run_path(str(DOCS / "make_pages.py"))["pages"]()
    assert set(pages) == {"plain-keras.md", "zoo.md"}
    stale = [name for name, text in pages.items() if read(DOCS / name) != text]
    assert stale == [], "run: python docs/make_pages.py"


def test_links_lead_to_files_that_exist():
    links = [
        (page, target)
        for page in TEXTS
        for target in re.findall(r"\]\(([^)#]+)\)", read(page))
        if not target.startswith(("http", "generated/"))  # the site is built with warnings as errors
    ]
    assert links
    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []


PLACEHOLDERS = {"kerasimg/layers/soft_threshold.py", "kerasimg/classifier.js"}
"""A file that a recipe has the reader write, and one in an export for the web."""


def test_files_that_the_docs_name_exist():
    paths = {
        (page.name, path.rstrip("./"))
        for page in [page for page in TEXTS if page.name != "CHANGELOG.md"]
        for path in re.findall(r"(?<![\w./-])(?:kerasimg|tests|benchmarks|docs|zoo)/[\w./-]*[\w/]", read(page))
    }
    assert len(paths) > 60
    gone = [
        (page, path)
        for page, path in paths
        if not (ROOT / path).exists() and path not in PLACEHOLDERS and path.removeprefix("zoo/") not in ZOO_NAMES
    ]
    assert gone == []


ZOO_NAMES = {path.stem for path in (ROOT / "zoo").glob("*.json")}
ENTRY_POINTS = ("kerasimg.plugins", "kerasimg.targets", "kerasimg.sources", "kerasimg.samplers")


def test_python_names_that_the_docs_name_exist():
    names = {
        (page.name, name)
        for page in [page for page in TEXTS if page.name != "CHANGELOG.md"]
        for name in re.findall(r"`(kerasimg\.[\w.]+\w)(?:\(|`)", read(page))
        if name not in ENTRY_POINTS
    }
    assert len(names) > 40
    gone = []
    for page, name in names:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            gone.append((page, name))
    assert gone == []


@pytest.mark.parametrize("page", **named(PAGES))
def test_specs_on_a_page_are_valid(page: Path):
    for block in blocks(page, "json"):
        if '"kerasimg": 1' in block:
            assert kerasimg.load(json.loads(block)).nodes


RUNNABLE = [
    (page, block)
    for page in PAGES
    if page.name != "plain-keras.md"  # tests/contract/test_plain_keras.py runs those
    for block in blocks(page, "python")
]
PRINTED = {
    block: shown
    for page in PAGES
    for block, shown in re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", read(page), re.M | re.S)
}
"""What a page shows below an example as its output."""
BLOCK_IDS = [f"{page.name}-{len(block)}" for page, block in RUNNABLE]


@pytest.mark.parametrize(("page", "block"), RUNNABLE, ids=BLOCK_IDS)
def test_examples_use_the_public_api(page: Path, block: str):
    modules = re.findall(r"^\s*(?:from|import) (kerasimg\.[\w.]+)", block, re.M)
    assert set(modules) <= {"kerasimg.data.readers", "kerasimg.tuning.samplers"}  # base classes of extensions


def test_api_page_lists_every_public_name():
    listed = set(re.findall(r"`kerasimg\.(\w+)`", read(DOCS / "api.md").split("## Objects")[1]))
    assert listed == set(kerasimg.__all__) - {"__version__"}


@pytest.mark.usefixtures("copy_of_the_world")
@pytest.mark.parametrize(("page", "block"), RUNNABLE, ids=BLOCK_IDS)
def test_python_examples_run(
    page: Path,
    block: str,
    monkeypatch: pytest.MonkeyPatch,
    trained: Callable[..., Any],
    examples: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(kerasimg, "train", trained)
    exec(quicker(block), {"__name__": "example"})
    printed = capsys.readouterr().out.splitlines()
    assert block not in PRINTED or examples.matches(PRINTED[block].splitlines(), printed), printed


def quicker(example: str) -> str:
    """What a test runs of an example."""
    for shown, instead in QUICKER.items():
        example = example.replace(shown, instead)
    return example


def notebook_cells() -> list[str]:
    """The code of the notebook."""
    notebook = json.loads(read(DOCS / "notebooks" / "first_hour.ipynb"))
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_quicker_forms_are_those_of_examples():
    examples = "\n".join([*(block for _, block in RUNNABLE), *notebook_cells()])
    assert [shown for shown in QUICKER if shown not in examples] == []


SHOWN = [page for page in PAGES if blocks(page, "console")]
NEEDS = {"serve.md": ("curl",)}
REPEATED = {"kerasimg train transfer --data photos/ --epochs 5": "runs/transfer-1"}
"""A training that several pages show runs once; others than those of `examples.SHARED` are on few pages."""
ELSEWHERE = ("kerasimg auto photos/ --minutes 2",)
"""Commands that take minutes: tests/tuning/test_auto.py compares what this one prints, at the end of its own."""


@pytest.mark.usefixtures("copy_of_the_world")
@pytest.mark.parametrize("page", **named(SHOWN))
def test_commands_print_what_the_page_shows(
    page: Path, world: World, examples: SimpleNamespace, trainings: Any, tmp_path_factory: pytest.TempPathFactory
):
    if missing := [name for name in NEEDS.get(page.name, ()) if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    if page.name == "web.md":
        if reason := browser.available():
            pytest.skip(reason)
        try:
            litertjs.runtime_files()
        except CallError as error:
            pytest.skip(str(error))
    known = dict(world.outputs)
    for command, (printed, run) in trainings.items():
        if f"$ {command}\n" in read(page):
            known[command] = printed
            shutil.copytree(run, REPEATED[command])
    for block in examples.blocks(read(page)):
        for example, printed in examples.run_block(block, known, quick=True, skip=ELSEWHERE):
            shown = example.output
            if example.command in REPEATED and example.command not in trainings:
                copy = shutil.copytree(REPEATED[example.command], tmp_path_factory.mktemp("runs") / "run")
                trainings[example.command] = (printed, copy)
            assert examples.matches(shown, printed), (
                f"{page.name}: $ {example.command}\n"
                + "\n".join(["shown:", *examples.normalise(shown), "", "printed:", *examples.normalise(printed)])
                + f"\nrun: python docs/examples.py {page.name}"
            )


@pytest.mark.parametrize("page", **named(PAGES))
def test_pages_begin_with_something_to_run_and_its_output(page: Path):
    languages = re.findall(r"^```([{}\w]+)$", read(page), re.M)
    if page.name == "README.md":
        assert languages.pop(0) == "sh"  # the installation
    if languages[0] == "python":
        assert languages[1] == "text"
    else:
        assert languages[0] == "console"
        first = next(iter(re.findall(r"^```console\n(.*?)^```$", read(page), re.M | re.S))).splitlines()
        assert [line for line in first if not line.startswith(("$ ", "...", "Next: "))]


def test_examples_are_compared_except_for_numbers_and_classes(examples: SimpleNamespace):
    assert examples.matches(["saved in runs/a-1 (12.5 MB)"], ["saved in runs/a-2 (3 MB)"])
    assert examples.matches(["a", "...", "z"], ["a", "b", "c", "z"])
    assert examples.matches(["x.jpg: leaf 0.5"], ["x.jpg: stone 1.0"])
    assert examples.matches(["0 bytes of at most 4.5 GB"], ["7 kB of at most 440 MB"])
    assert not examples.matches(["saved in runs/a-1"], ["written to runs/a-1"])
    assert not examples.matches(["a", "...", "z"], ["a", "b"])


def commands(page: Path) -> list[str]:
    """The kerasimg commands of a page, in shell blocks and in the tables of other libraries."""
    shell = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    table = re.findall(r"`(kerasimg [^`]+)`", read(page)) if page.name == "coming-from.md" else []
    return [line.removeprefix("kerasimg ") for line in shell + table if line.startswith("kerasimg ")]


@pytest.mark.parametrize("page", **named([page for page in PAGES if commands(page)]))
def test_commands_on_a_page_parse(page: Path, parse_command: Callable[[str], None]):
    for line in commands(page):
        parse_command(line)


PACKAGE = Path(kerasimg.__file__).parent
MENTIONING = sorted(
    [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "benchmarks").glob("*.*"), *DOCS.glob("*.py")]
    + [path for ending in ("py", "j2", "html", "js", "md", "json") for path in PACKAGE.rglob(f"*.{ending}")]
)
"""What may name a command: pages, messages, docstrings, templates."""
MENTION = re.compile(r"(?<![.\w/-])kerasimg((?:[ \n]+(?:#[ ]*)?(?:--?[a-z][\w-]*|[\w./:={}\[\]'@-]+))+)")


def _mentions() -> list[tuple[str, list[str]]]:
    """Each place where the name of the program is followed by the name of a command, in whatever group that is."""
    tree: Any = typer.main.get_command(cli.app)
    names = {*tree.commands, *(words[-1] for words in leaves(tree))}
    mentions = []
    for path in MENTIONING:
        for match in MENTION.finditer(read(path)):
            words = list(itertools.takewhile("kerasimg".__ne__, match[1].split()))
            if words[0] in names and (path.suffix != ".md" or match.string[match.start() - 1] in "`\n"):
                mentions.append((path.name, words))
    return mentions


def test_commands_and_options_that_texts_and_messages_name_exist():
    tree: Any = typer.main.get_command(cli.app)
    mentions, missing = _mentions(), []
    for name, words in mentions:
        command, rest = tree, list(words)
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        options = {word.split("=")[0] for word in rest if word.startswith("--")}
        if (
            command is tree
            or not options <= known
            or (hasattr(command, "commands") and rest and rest[0] != "--help" and rest[0][0].islower())
        ):
            missing.append((name, " ".join(words[:6])))
    assert missing == []
    assert len(mentions) > 100


def test_errors_that_the_readme_shows_are_reported():
    shown = next(block for block in blocks(ROOT / "README.md", "text") if "fliters" in block)
    spec = next(json.loads(block) for block in blocks(ROOT / "README.md", "json"))
    spec["model"][0]["fliters"] = spec["model"][0].pop("filters")
    spec["fit"] = {"batch_size": 0}
    with pytest.raises(SpecError) as caught:
        kerasimg.load(spec | {"name": "my"})
    reported = [f"my.json{str(fault).removeprefix('my')}" for fault in caught.value.faults]
    assert set(shown.splitlines()) <= set(reported)


@pytest.mark.usefixtures("copy_of_the_world")
def test_notebook_runs_from_top_to_bottom():
    cells = notebook_cells()
    assert len(cells) > 8
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        exec(quicker(cell), names)


def test_recipe_for_a_family_of_the_zoo_works(
    tmp_path: Path, examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    """The spec of CONTRIBUTING passes the commands of its recipe."""
    [spec] = re.findall(r"^   ```json\n(.*?)^   ```$", read(ROOT / "CONTRIBUTING.md"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    Path("lenet.json").write_text(textwrap.dedent(spec), encoding="utf-8")
    for command in ("check lenet.json", "spec show lenet.json --graph", "spec build lenet.json"):
        printed, code = examples.run(f"kerasimg {command}")
        assert code == 0, printed
    assert kerasimg.build("lenet.json").count_params() == 61_706
