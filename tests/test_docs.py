"""What the README and the docs promise is what there is."""

import itertools
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import typer

import kerasimg
from kerasimg import cli
from kerasimg.cli.groups import leaves
from kerasimg.errors import SpecError

QUICKER = {
    'data="photos/")': 'data="photos/", size=32, overrides={"fit.stages": [{"epochs": 1}]})',
    'data="sample", lr=0.002, overrides': 'data="photos/", size=32, lr=0.002, overrides',
    '"zoo/mobilenet.json", num_classes=5': '"zoo/mobilenet.json", num_classes=5, weights=None',
}
"""What an example would take too long for, or a network, and what it is run with."""

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def test_ci_runs_the_test_command_of_the_readme():
    commands = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines() if "tox" in line]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["plain-keras.md", "zoo.md"])
def test_a_page_is_what_its_script_makes(name: str):
    made = runpy.run_path(str(ROOT / "docs" / "make_pages.py"))["pages"]()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made[name], "run: python docs/make_pages.py"


def test_every_page_links_only_to_what_is_there():
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        if not target.startswith(("http", "generated/"))  # the site is built with warnings as errors
    ]
    assert links
    assert [str(target) for page, target in links if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_whole_spec_on_a_page_is_a_spec(page: Path):
    whole = [block for block in blocks(page, "json") if '"kerasimg": 1' in block]
    for block in whole:
        assert kerasimg.load(json.loads(block)).nodes


RUNNABLE = [
    (page, block)
    for page in PAGES
    if page.name != "plain-keras.md"  # tests/contract/test_plain_keras.py runs those
    for block in blocks(page, "python")
]


@pytest.mark.parametrize(("page", "block"), RUNNABLE, ids=[f"{page.name}-{len(block)}" for page, block in RUNNABLE])
def test_an_example_uses_the_public_api(page: Path, block: str):
    modules = re.findall(r"^\s*(?:from|import) (kerasimg\.[\w.]+)", block, re.M)
    assert set(modules) <= {"kerasimg.data.readers"}  # the base class of data sources


def test_the_page_of_the_api_lists_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`kerasimg\.(\w+)`", text.split("## Objects")[1]))
    assert listed == set(kerasimg.__all__) - {"__version__"}


@pytest.mark.parametrize(("page", "block"), RUNNABLE, ids=[f"{page.name}-{len(block)}" for page, block in RUNNABLE])
def test_every_python_example_runs(page: Path, block: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    for short, long in QUICKER.items():
        block = block.replace(short, long)
    image = np.random.default_rng(0).integers(0, 256, (60, 40, 3)).astype("uint8")
    for name in ("photo.jpg", *(f"photos/{label}/{k}.jpg" for label in ("cat", "dog") for k in range(8))):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(name)
    exec(block, {"__name__": "example"})


COMMANDS = [
    (page, line)
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("kerasimg ")
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page.name}: {line}" for page, line in COMMANDS])
def test_every_command_on_a_page_is_one_that_is_taken(page: Path, line: str, parse_command: Callable[[str], None]):
    parse_command(line.removeprefix("kerasimg "))


PACKAGE = Path(kerasimg.__file__).parent
TEXTS = sorted(
    [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "benchmarks").glob("*"), *(ROOT / "docs").glob("*.py")]
    + [path for ending in ("py", "j2", "html", "js", "md", "json") for path in PACKAGE.rglob(f"*.{ending}")]
)
"""What may name a command: pages, messages, docstrings, templates."""
MENTION = re.compile(r"(?<![.\w/-])kerasimg((?:[ \n]+(?:#[ ]*)?(?:--?[a-z][\w-]*|[\w./:={}\[\]'@-]+))+)")


def _mentions() -> list[tuple[str, list[str]]]:
    """Each place where the name of the program is followed by the name of a command, wherever that command is."""
    tree: Any = typer.main.get_command(cli.app)
    names = {*tree.commands, *(words[-1] for words in leaves(tree))}
    found = []
    for path in TEXTS:
        for match in MENTION.finditer(path.read_text(encoding="utf-8")):
            words = list(itertools.takewhile("kerasimg".__ne__, match[1].split()))
            if words[0] in names and (path.suffix != ".md" or match.string[match.start() - 1] in "`\n"):
                found.append((path.name, words))
    return found


MENTIONS = _mentions()


def test_every_command_that_a_text_or_a_message_names_is_there_with_its_options():
    tree: Any = typer.main.get_command(cli.app)
    missing = []
    for name, words in MENTIONS:
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
    assert len(MENTIONS) > 100


def test_a_command_beside_that_of_another_library_can_be_typed(parse_command: Callable[[str], None]):
    text = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    lines = [line for line in re.findall(r"`kerasimg ([^`]+)`", text) if len(line.split()) > 2]
    assert len(lines) > 5
    for line in lines:
        parse_command(line)


def test_the_tutorial_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: Any):
    """Every command of the page, in its order; the trainings with fewer epochs and smaller images."""
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "photos", {"red": 12, "blue": 12})
    PIL.Image.open(tmp_path / "photos" / "red" / "00.png").save("photo.jpg")
    for line in (line for page, line in COMMANDS if page.name == "tutorial.md"):
        words = shlex.split(line)
        quicker = ["--set", "epochs=1"] if words[1] == "train" and "--resume" not in words else []
        monkeypatch.setattr(sys, "argv", [*words, *quicker])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert (line, caught.value.code) == (line, 0)


def test_the_faults_that_the_readme_shows_are_those_that_are_told():
    shown = next(block for block in blocks(ROOT / "README.md", "text") if "fliters" in block)
    spec = next(json.loads(block) for block in blocks(ROOT / "README.md", "json"))
    spec["model"][0]["fliters"] = spec["model"][0].pop("filters")
    spec["fit"] = {"batch_size": 0}
    with pytest.raises(SpecError) as caught:
        kerasimg.load(spec | {"name": "my"})
    told = [f"my.json{str(fault).removeprefix('my')}" for fault in caught.value.faults]
    assert set(shown.splitlines()) <= set(told)
