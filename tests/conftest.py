"""Fixtures that every test may use, and the order in which test files run."""

import gc
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from kerasimg import log
from kerasimg.spec import arguments

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored; some tests send it, to this process and to child processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests decode in threads on every machine: they replace functions of the decoder, and their images are few.
os.environ.setdefault("KERASIMG_WORKERS", "0")

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}

FAST = (
    *("test_catalog", "test_files", "test_run_folder"),
    *("spec/test_expand", "spec/test_expressions", "spec/test_golden", "spec/test_merge", "spec/test_params"),
    *("layers/test_augmentation", "callbacks/test_callbacks", "metrics/test_f1"),
    *("data/test_decode", "data/test_shuffling", "data/test_image_files", "data/test_sources", "data/test_split"),
    *("models/test_graph", "test_objects", "models/test_output_kind", "models/test_temperature"),
    *("evaluation/test_intervals", "evaluation/test_measures", "evaluation/test_predictions", "evaluation/test_scores"),
    *("training/test_checkpoint", "training/test_objective", "training/test_optimizer_rates", "training/test_run"),
    *("tuning/test_stopping", "tuning/test_samplers", "tuning/test_journal", "tuning/test_space"),
    *("deploy/test_parity", "reporting/test_charts", "reporting/test_epochs"),
    *("cli/test_diff", "cli/test_show"),
    "contract/test_keras_internals",
)
"""The modules of `pytest -m fast`: the main path of each package, on the smallest model and without a second process
that loads Keras. Together they take less than a minute on two idle cores."""

SLOWEST = (
    *("contract/test_zoo", "deploy/test_export_support", "tuning/test_parity", "contract/test_to_spec_applications"),
    *("training/test_devices", "models/test_backbones", "test_docs", "test_api", "test_every_source"),
    *("deploy/test_measure", "tuning/test_hyper_spec", "training/test_memory", "training/test_engine"),
    *("training/test_resume", "tuning/test_search", "tuning/test_chief", "training/test_optimizer_weight_decay"),
    *("deploy/test_web", "deploy/test_hostile_packs", "deploy/serve/test_hostile", "deploy/serve/test_server"),
    *("contract/test_backends", "evaluation/test_warnings", "training/test_distillation", "training/test_features"),
)
"""The test files that take longest. They run first: with `--dist loadfile` a worker takes whole files, and a long one
that came last would leave the other worker idle."""

Images = Callable[[Path, Mapping[str, int]], Path]
"""images(folder, {"red": 8, "test/blue": 2}) writes 8 red and 2 blue images of 8x8 pixels, and returns the folder."""


def module_name(path: Path) -> str:
    """The name of a test module as FAST and SLOWEST have it."""
    return path.relative_to(Path(__file__).parent).with_suffix("").as_posix()


def is_fast(path: Path) -> bool:
    """Whether a module belongs to the quick loop."""
    return module_name(path) in FAST


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """In the quick loop, import only its modules: importing the others takes a quarter of a minute."""
    other = collection_path.suffix == ".py" and not is_fast(collection_path)
    return True if other and config.option.markexpr == "fast" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the quick loop, and put the slowest files first."""
    for item in items:
        if is_fast(item.path):
            item.add_marker("fast")
    items.sort(key=lambda item: SLOWEST.index(name) if (name := module_name(item.path)) in SLOWEST else len(SLOWEST))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, alone or among others. Tests that do not load Keras stay without it."""
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests have a cache folder of their own, and never touch the user's."""
    os.environ["KERASIMG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def own_registry() -> Iterator[None]:
    """What the tests of a module register is removed after them."""
    before = {group: dict(members) for group, members in arguments._registered.items()}
    yield
    arguments._registered.clear()
    arguments._registered.update(before)


def pytest_collection_finish() -> None:
    """Lets the garbage collector ignore what imports made, and run less often: a tenth of the processor time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


LIMIT_OF_PILLOW = PIL.Image.MAX_IMAGE_PIXELS


@pytest.fixture(autouse=True)
def restored_limit_of_pillow() -> Iterator[None]:
    """A server lowers Pillow's limit for its whole process, and other tests follow in this one."""
    yield
    PIL.Image.MAX_IMAGE_PIXELS = LIMIT_OF_PILLOW


class MessageHandler(logging.Handler):
    """Passes every message to a function."""

    def __init__(self, to: Callable[[str], None]) -> None:
        super().__init__()
        self.to = to

    def emit(self, record: logging.LogRecord) -> None:
        self.to(record.getMessage())


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[str], None]], None]]:
    """listen(messages.append) passes every message of kerasimg to a function, until the test ends."""
    with ExitStack() as stack:
        yield lambda to: stack.enter_context(log.attached(MessageHandler(to), logging.INFO))


@pytest.fixture(scope="session")
def images() -> Images:
    def write(root: Path, counts: Mapping[str, int]) -> Path:
        noise = np.random.default_rng(0)
        for name, count in counts.items():
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = np.array(COLOURS[folder.name]) + noise.integers(-20, 20, (8, 8, 3))
                PIL.Image.fromarray(pixels.astype("uint8")).save(folder / f"{number:02}.png")
        return root

    return write


@pytest.fixture(scope="session")
def parse_command() -> Callable[[str], None]:
    """parse_command("run report runs/x") parses a command line, and raises if it is not valid."""
    import typer

    from kerasimg import cli

    def parse(line: str) -> None:
        command: Any = typer.main.get_command(cli.app)
        words = shlex.split(line, comments=True)
        context = None
        while hasattr(command, "commands"):
            context = command.make_context(words[0] if words else "", words, parent=context)
            name, command, words = command.resolve_command(context, words)
        command.make_context(name, words, parent=context)

    return parse


@pytest.fixture(scope="session")
def tiny() -> Callable[..., dict[str, Any]]:
    """tiny(...) returns a spec that learns to separate colours in one epoch; arguments replace its sections."""

    def spec(**sections: Any) -> dict[str, Any]:
        return {
            "kerasimg": 1,
            "name": "tiny",
            "params": {"num_classes": None},
            "image": {"size": [8, 8]},
            "model": [
                {"layer": "GlobalAveragePooling2D"},
                {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
            ],
            "compile": {"optimizer": {"type": "Adam", "learning_rate": 0.3}},
            "fit": {"batch_size": 8, "stages": [{"epochs": 3}]},
        } | sections

    return spec
