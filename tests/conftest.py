"""Fixtures that every test may use, and the order in which test files run."""

import functools
import gc
import inspect
import logging
import os
import shlex
import signal
import sys
import tempfile
import typing
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

# Its plugin imports it at the latest for the summary. It looks there for what holds the random generator of trio, which
# Selenium imports, and the garbage collector no longer tells after gc.freeze.
import hypothesis  # noqa: F401
import numpy as np
import PIL.Image
import pytest
import typer.main

from kerasimg import figures, log
from kerasimg.cli import progress
from kerasimg.spec import arguments

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored; some tests send it, to this process and to child processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What libraries compute again and again for the same function or class is computed once: a tenth of the processor time.
# A program builds its commands once; the tests call it a thousand times, and building takes a twentieth of a second.
typer.main.get_command = functools.cache(typer.main.get_command)
if sys.version_info < (3, 12):  # newer versions keep it; TensorFlow asks at each use of a tensor
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)
SIGNATURE = inspect.signature
SIGNATURES = weakref.WeakKeyDictionary[Any, dict[bool, inspect.Signature]]()


def signature(thing: Any, **options: Any) -> inspect.Signature:
    """As `inspect.signature`, by which Keras looks at the same three methods of each layer that it makes."""
    function = thing.__func__ if inspect.ismethod(thing) else thing
    if options or not inspect.isfunction(function):
        return SIGNATURE(thing, **options)
    known, is_method = SIGNATURES.setdefault(function, {}), function is not thing
    if is_method not in known:
        known[is_method] = SIGNATURE(thing)
    return known[is_method]


inspect.signature = signature


def set_plain_attributes_directly() -> None:
    """A layer of Keras stores a value that nobody tracks without asking six classes of trackers what it is.

    A layer sets about 80 attributes while it is made, which is a quarter of the time that a model takes to build.
    """
    import keras
    import tensorflow as tf
    from tensorflow.python.trackable.data_structures import NoDependency

    base = keras.layers.Layer
    original = base.__setattr__
    tracked = (keras.Variable, keras.Metric, base, keras.random.SeedGenerator, tf.__internal__.tracking.Trackable)
    is_tracked = functools.cache(lambda kind: issubclass(kind, (*tracked, tuple, list, dict, set, NoDependency)))

    def store(layer: Any, name: str, value: Any) -> None:
        if is_tracked(type(value)) or "_tracker" not in layer.__dict__:
            original(layer, name, value)
        elif getattr(layer, name, MISSING) is not value:  # as TensorFlow's trackable objects have it
            object.__setattr__(layer, name, value)

    base.__setattr__ = store


MISSING = object()

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
    *("cli/test_diff", "cli/test_show", "studio/test_journal"),
    "contract/test_keras_internals",
)
"""The modules of `pytest -m fast`: the main path of each package, on the smallest model and without a second process
that loads Keras. Together they take less than a minute on two idle cores."""

SLOWEST = (
    # Raises SIGINT. At the end of a long run that has ended the worker process, for a reason that was not found.
    "training/test_checkpoint_callbacks",
    *("contract/test_zoo", "test_docs", "training/test_resume"),
    *("data/test_augment", "tuning/test_search", "test_api", "training/test_devices", "checkpoints/test_import"),
    *("contract/test_layers", "test_every_source", "contract/test_backends", "deploy/test_measure"),
    *("tuning/test_trials", "deploy/test_export", "training/test_features", "models/test_backbones"),
    *("tuning/test_parity", "deploy/test_export_support", "deploy/test_unsupported", "deploy/serve/test_server"),
    *("training/test_train", "data/test_augment_backends", "evaluation/test_explain", "training/test_distillation"),
    *("training/test_optimizer_weight_decay", "deploy/test_web", "deploy/test_litert_file", "deploy/test_shrink"),
    *("tuning/test_auto", "tuning/test_hyper_spec", "tuning/test_model_limits", "training/test_memory"),
    *("training/test_engine", "training/test_auto_settings", "tuning/test_chief", "deploy/test_hostile_packs"),
    *("deploy/serve/test_hostile", "evaluation/test_warnings"),
)
"""The test files that take longest. They run first: with `--dist loadfile` a worker takes whole files, and a long one
that came last would leave the other worker idle."""

Images = Callable[[Path, Mapping[str, int]], Path]
"""images(folder, {"red": 8, "test/blue": 2}) writes 8 red and 2 blue images of 8x8 pixels, and returns the folder."""


@functools.cache
def module_name(path: Path) -> str:
    """The name of a test module as FAST and SLOWEST have it."""
    return path.relative_to(Path(__file__).parent).with_suffix("").as_posix()


def is_fast(path: Path) -> bool:
    """Whether a module belongs to the quick loop."""
    return module_name(path) in FAST


def pytest_configure(config: pytest.Config) -> None:
    """A worker process that dies ends the run, which names its test: xdist can wait forever for one that takes over."""
    if getattr(config.option, "maxworkerrestart", "") is None:
        config.option.maxworkerrestart = "0"


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


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests and their child processes leave in the folder for temporary files goes with the other files of tests.

    TensorFlow leaves generated code there, when its process is killed; Core ML leaves models.
    """
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("temporary"))
    tempfile.tempdir = None  # is read again


@pytest.fixture(scope="module", autouse=True)
def own_registry() -> Iterator[None]:
    """What the tests of a module register is removed after them."""
    before = {group: dict(members) for group, members in arguments._registered.items()}
    yield
    arguments._registered.clear()
    arguments._registered.update(before)


BUILDERS = ("confusion_figure", "reliability_figure", "curves_figure")
"""The functions that make the figures of an evaluation."""


def no_figure(*args: Any, **options: Any) -> None:
    """Takes the place of `BUILDERS` in evaluations, except in tests/evaluation and with the fixture `drawn_figures`."""


def save_blank_figure(figure: Any, file: Path, **options: Any) -> None:
    """Takes the place of `save_figure` in evaluations, except with the fixture `drawn_figures`."""
    PIL.Image.new("L", (1, 1)).save(file)


def not_flushed(descriptor: int) -> None:
    """Takes the place of `os.fsync`: no test cuts the power, and a small training waits for the disk fifteen times."""


def single_steps(*args: Any, **options: Any) -> int:
    """Takes the place of `choose_steps_per_execution` in trainings, except with the fixture `chosen_steps`."""
    return 1


def pytest_collection_finish() -> None:
    """Removes costs of every test: a third of the processor time of a small training is its figures.

    To trace a loop of steps takes longer than a small training does. The garbage collector ignores what imports made,
    and runs less often: a tenth of the processor time.
    """
    progress.PATIENCE_S = 3600.0  # a busy machine prints no more than an idle one
    if "keras" in sys.modules:
        from kerasimg.cli import train
        from kerasimg.deploy import parity
        from kerasimg.evaluation import evaluate
        from kerasimg.training import engine

        for name in BUILDERS:
            setattr(evaluate, name, no_figure)
        evaluate.save_figure = save_blank_figure
        engine.choose_steps_per_execution = single_steps
        parity.SECONDS = 0.2  # no test depends on a precise latency
        if "tensorflow" in sys.modules and sys.modules["keras"].backend.backend() == "tensorflow":
            set_plain_attributes_directly()
        train._frozen = nullcontext  # after it, the collector would no longer ignore what imports made
    os.fsync = not_flushed  # type: ignore[assignment]
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture
def built_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation makes its figures, but does not draw them into a file, which takes longer."""
    from kerasimg.evaluation import evaluate

    for name in BUILDERS:
        monkeypatch.setattr(evaluate, name, getattr(figures, name))


@pytest.fixture
def drawn_figures(built_figures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation draws its figures, as it does for users."""
    from kerasimg.evaluation import evaluate

    monkeypatch.setattr(evaluate, "save_figure", figures.save_figure)


@pytest.fixture
def chosen_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training chooses how many steps it executes at a time, as it does for users."""
    from kerasimg.training import auto_settings, engine

    monkeypatch.setattr(engine, "choose_steps_per_execution", auto_settings.choose_steps_per_execution)


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
    """tiny(...) returns a spec that learns to separate colours in one epoch; arguments replace its sections.

    Each step runs on its own unless `compile` says otherwise, in child processes too (see `single_steps`).
    """

    def spec(**sections: Any) -> dict[str, Any]:
        document = {
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
        return document | {"compile": {"steps_per_execution": 1, **document["compile"]}}

    return spec
