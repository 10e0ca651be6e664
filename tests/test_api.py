"""The public names: visible to type checkers and editors, documented, with examples that run."""

import ast
import doctest
import inspect
import json
import os
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg import api, results
from kerasimg.deploy.export_context import prepare
from kerasimg.deploy.learning import collect_examples
from kerasimg.results import Result, Results

NAMES = [name for name in kerasimg.__all__ if name != "__version__"]
ERRORS = [
    name for name in NAMES if inspect.isclass(getattr(kerasimg, name)) and name.endswith(("Error", "Interrupted"))
]
NOT_RUN = {
    "serve": "test_server.py",
    "push": "test_sharing.py",
    "pull": "test_sharing.py",
    "import_checkpoint": "test_import.py",
    "auto": "test_auto.py",
    "resume_auto": "test_auto.py",
    "Auto": "test_auto.py",
    "open_studio": "test_app.py",
}
"""Examples that wait for requests, take minutes or need the network, and where the function is tested."""


def members(owner: type) -> list[tuple[str, Any]]:
    """The public methods and properties that a public class defines itself."""
    return [
        (f"{owner.__name__}.{name}", inspect.unwrap(getattr(thing, "fget", None) or getattr(thing, "__func__", thing)))
        for name, thing in vars(owner).items()
        if not name.startswith("_") and (callable(thing) or isinstance(thing, (property, classmethod, staticmethod)))
    ]


FUNCTIONS = [(name, getattr(kerasimg, name)) for name in NAMES if inspect.isfunction(getattr(kerasimg, name))]
CLASSES = [(name, getattr(kerasimg, name)) for name in NAMES if inspect.isclass(getattr(kerasimg, name))]
METHODS = [pair for owner in (kerasimg.Run, kerasimg.Spec, kerasimg.Search) for pair in members(owner)]
VERBS = [
    (name, thing)
    for name, thing in METHODS
    if not isinstance(vars(getattr(kerasimg, name.split(".")[0]))[name.split(".")[1]], property)
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, specs, runs and a search, as the examples expect it."""
    folder = tmp_path_factory.mktemp("examples")
    noise = np.random.default_rng(0)
    for label, value in (("cat", 60), ("dog", 200)):
        (folder / "photos" / label).mkdir(parents=True)
        for k in range(12):
            pixels = (value + noise.integers(-20, 20, (16, 16, 3))).astype("uint8")
            PIL.Image.fromarray(pixels).save(folder / "photos" / label / f"{k}.png")
    PIL.Image.fromarray(pixels).save(folder / "photo.jpg")
    spec: dict[str, Any] = {
        "kerasimg": 1,
        "name": "photos",
        "params": {"num_classes": None},
        "image": {"size": [8, 8]},
        "model": [
            {"layer": "Conv2D", "filters": 2, "kernel_size": 3},
            {"layer": "GlobalAveragePooling2D"},
            {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
        ],
        "compile": {"optimizer": {"type": "Adam", "learning_rate": 0.3}},
        "fit": {"batch_size": 8, "validation_split": 0.25, "test_split": 0.25, "stages": [{"epochs": 1}]},
    }
    binary = {"name": "binary", "task": "binary", "params": {}}
    head = {"layer": "Dense", "name": "classes", "units": 1, "activation": "sigmoid"}
    search = {"params": {"num_classes": None, "lr": {"$choice": [0.3, 0.1], "default": 0.3}}}
    written = {
        "photos.json": spec,
        "binary.json": {**spec, **binary, "model": [*spec["model"][:-1], head]},
        "search.json": {
            **spec,
            **search,
            "compile": {"optimizer": {"type": "Adam", "learning_rate": "=lr"}},
            "tune": {"tuner": "grid", "objective": "val_loss", "max_trials": 2},
        },
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content))
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name in ("photos.json", "photos.json", "binary.json"):
            kerasimg.train(name, data="photos/", report=False, verbose=0)
        learned = collect_examples(prepare("runs/photos-1")).to_dict()
        (folder / "photos-learned.json").write_text(json.dumps(learned))
        kerasimg.tune("search.json", data="photos/", report=False, verbose=0)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current folder."""
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


EXAMPLES = [
    (name, test)
    for name, thing in [*FUNCTIONS, *CLASSES, *METHODS]
    if name not in ERRORS
    and (test := doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", {}, name, None, 0)).examples
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # KerasTuner's threads
@pytest.mark.parametrize(("name", "test"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_example_runs(name: str, test: doctest.DocTest, here: Path):
    test.globs = {"kerasimg": kerasimg, "np": np}
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    outcome = runner.run(test, out=said.append)
    assert outcome.failed == 0, "".join(said)
    assert ("+SKIP" in test.examples[0].source) == (name in NOT_RUN)


@pytest.mark.parametrize("name", sorted(NOT_RUN))
def test_an_example_that_is_not_run_is_a_call_that_fits(name: str):
    (call,) = (
        each
        for _, test in EXAMPLES
        if test.name == name
        for each in ast.walk(ast.parse(test.examples[0].source))
        if isinstance(each, ast.Call)
    )
    inspect.signature(getattr(kerasimg, name)).bind(*call.args, **{each.arg: each.value for each in call.keywords})


@pytest.mark.parametrize(
    ("name", "thing"), [*FUNCTIONS, *CLASSES], ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_public_name_has_a_docstring_and_an_example(name: str, thing: Any):
    assert inspect.getdoc(thing)
    assert name in ERRORS or name in dict(EXAMPLES)


@pytest.mark.parametrize(
    ("name", "thing"), [*FUNCTIONS, *VERBS], ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_docstring_names_every_argument_what_is_returned_and_what_is_raised(name: str, thing: Any):
    text = inspect.getdoc(thing) or ""
    signature = inspect.signature(thing)
    for argument in signature.parameters.values():
        stars = {argument.VAR_POSITIONAL: "*", argument.VAR_KEYWORD: "**"}.get(argument.kind, "")
        assert argument.name in ("self", "cls") or f"\n    {stars}{argument.name}: " in text, argument.name
        assert argument.annotation is not argument.empty or argument.name in ("self", "cls"), argument.name
    assert signature.return_annotation is not signature.empty
    assert ("\nReturns:" in text) == (signature.return_annotation not in ("None", None))


@pytest.mark.parametrize(
    ("name", "thing"), [*FUNCTIONS, *VERBS], ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_default_is_a_plain_value(name: str, thing: Any):
    for argument in inspect.signature(thing).parameters.values():
        if argument.default is not argument.empty:
            assert isinstance(argument.default, (str, int, float, bool, type(None))), argument


def test_type_checkers_see_the_names_that_are_loaded():
    tree = ast.parse(Path(kerasimg.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {each.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for each in node.names}
    assert seen == kerasimg._WHERE


PROGRAM = """\
import kerasimg

run = kerasimg.train("simple_cnn", data="photos/", epochs=3)
label = run.predict("photo.jpg")[0].label
print(label, run.scores.accuracy)
search = kerasimg.tune("simple_cnn", data="photos/", overrides={"fit.batch_size": 8})
again = kerasimg.train(search.best, data="photos/")
bundles = again.export("litert", precision="int8")
print(bundles[0].folder, kerasimg.load("simple_cnn").fit.batch_size)
kerasimg.train("simple_cnn", dta="photos/")
"""


def test_mypy_finds_the_typo_of_a_user_and_nothing_else(tmp_path: Path):
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert errors == ['program.py:10: error: Missing named argument "data" for "train"  [call-arg]'], done.stdout


RESULTS = [
    thing
    for module in (api, results)
    for thing in vars(module).values()
    if inspect.isclass(thing) and issubclass(thing, Result) and thing.__module__ == module.__name__
]


def test_no_public_function_returns_a_bare_dict():
    for name, thing in [*FUNCTIONS, *VERBS]:
        returned = str(typing.cast(Any, thing).__annotations__["return"])
        assert not returned.lower().startswith(("dict", "mapping")), name or "list[dict" in returned


def test_a_result_reads_well_as_text_as_html_and_as_plain_values(here: Path):
    run = kerasimg.Run("runs/photos-1")
    shown: dict[str, Any] = {
        "evaluation": run.evaluate(verbose=0),
        "predictions": run.predict("photo.jpg", verbose=0),
        "explanations": run.explain("photo.jpg", "occlusion", window=4),
        "comparison": run.compare("runs/photos-2"),
        "label errors": kerasimg.label_errors(run),
        "data check": kerasimg.check_data("photos/", verbose=0),
        "difference": run.spec.diff(run.spec),
        "trials": kerasimg.Search("runs/photos-tune-1").trials,
        "predictions of folds": kerasimg.cross_val_predict("photos.json", data="photos/", folds=2, verbose=0),
    }
    for name, result in shown.items():
        assert isinstance(result, (Result, Results)), name
        assert len(repr(result)) < 1000, name
        assert result._repr_html_().startswith("<"), name
        assert json.loads(json.dumps(result.to_dict())) == result.to_dict(), name
    assert repr(shown["evaluation"]).startswith("Evaluation(task='multiclass', data=")
    assert shown["evaluation"].to_dict() == json.loads(Path("runs/photos-1/evaluation/metrics.json").read_text())


@pytest.mark.parametrize(
    "form",
    [
        lambda path: path,
        lambda path: Path(path),
        lambda path: Path(path).read_bytes(),
        lambda path: PIL.Image.open(path),
        lambda path: np.asarray(PIL.Image.open(path)),
        lambda path: np.asarray(PIL.Image.open(path))[None],
        lambda path: [Path(path).read_bytes()],
        lambda path: [PIL.Image.open(path)],
    ],
    ids=["path", "Path", "bytes", "PIL", "array", "arrays", "list of bytes", "list of PIL"],
)
def test_a_run_predicts_what_users_have(here: Path, form: Callable[[str], Any]):
    run = kerasimg.Run("runs/photos-1")
    expected = run.predict("photos/cat/0.png", verbose=0)[0].probabilities
    [prediction] = run.predict(form("photos/cat/0.png"), verbose=0)
    assert prediction.probabilities == pytest.approx(expected, abs=1e-6)


def test_a_run_can_be_given_wherever_its_folder_can(here: Path):
    run = kerasimg.Run("runs/photos-1")
    assert os.fspath(run) == "runs/photos-1"
    assert kerasimg.evaluate(run, verbose=0).figures == kerasimg.evaluate("runs/photos-1", verbose=0).figures
    assert kerasimg.report(run) == run.folder / "report.html"
    assert kerasimg.resume(run, verbose=0) == run


def test_a_search_can_be_given_wherever_a_spec_can(here: Path):
    search = kerasimg.Search("runs/photos-tune-1")
    assert kerasimg.load(search).name == search.best.name == "photos"
    assert [trial.number for trial in search.trials] == [1, 2]
    assert search.score == min(trial.score for trial in search.trials if trial.score is not None)
    assert kerasimg.train(search, data="photos/", report=False, verbose=0).spec.params["lr"] == search.values["lr"]


def test_training_without_a_spec_chooses_one_and_stores_it_with_the_run(here: Path, caplog: pytest.LogCaptureFixture):
    run = kerasimg.train(data="photos/", report=False, verbose=2, epochs=1)
    first = json.loads((run.folder / "first_spec.json").read_text())
    assert first["extends"] == "recipes/from_scratch"
    assert run.folder.name == "photos-3"
    assert any(line.startswith("no spec given; using recipes/from_scratch") for line in caplog.messages)
    assert kerasimg.load(run.folder / "first_spec.json").name == "photos"


def test_params_can_be_given_as_a_dict_and_not_twice(here: Path):
    assert kerasimg.load("simple_cnn", params={"num_classes": 4}).params["num_classes"] == 4
    with pytest.raises(kerasimg.CallError, match="'num_classes' is given twice"):
        kerasimg.load("simple_cnn", params={"num_classes": 4}, num_classes=4)


def test_verbose_says_what_is_reported(here: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]):
    kerasimg.train("photos.json", data="photos/", report=False, verbose=0)
    assert (caplog.messages, capfd.readouterr().out) == ([], "")
    kerasimg.train("photos.json", data="photos/", report=False, verbose=2)
    assert caplog.messages[0] == "24 images of 2 classes in photos/"
    assert {record.name for record in caplog.records} == {"kerasimg"}
    with pytest.raises(kerasimg.CallError, match="verbose: expected 0"):
        kerasimg.train("photos.json", data="photos/", verbose=3)  # type: ignore[arg-type]


def test_a_program_without_logging_sees_the_messages(photos: Path):
    # A library that calls `logging.warning` configures logging without being asked, as TensorFlow does in an export.
    code = "import kerasimg, logging; logging.warning('a library'); kerasimg.train('photos.json', data='photos/', "
    code += "out='printed', report=False, verbose=2)"
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], cwd=photos, env=env, capture_output=True, text=True, check=True)
    assert "24 images of 2 classes in photos/" in done.stdout.splitlines()
    assert done.stderr == "WARNING:root:a library\n"  # nothing of what TensorFlow found on this machine


def test_the_batches_of_a_data_set_are_those_that_training_sees(here: Path):
    whole = {
        part: np.concatenate([y for _, y in kerasimg.dataset("photos.json", "photos/", part).as_numpy_iterator()])
        for part in ("train", "validation", "test")
    }
    assert {part: len(labels) for part, labels in whole.items()} == {"train": 12, "validation": 6, "test": 6}
    model = kerasimg.build("photos.json", num_classes=2)
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(
        model.fit(kerasimg.dataset("photos.json", "photos/"), shuffle=False, verbose=0).history["loss"]
    ).all()
    with pytest.raises(kerasimg.CallError, match="no part 'tset'; did you mean 'test'"):
        kerasimg.dataset("photos.json", "photos/", "tset")  # type: ignore[arg-type]
    with pytest.raises(kerasimg.CallError, match=r"no part '\['test'\]'"):
        kerasimg.dataset("photos.json", "photos/", ["test"])  # type: ignore[arg-type]
    with pytest.raises(kerasimg.CallError, match="overrides: expected a dict, got int"):
        kerasimg.dataset("photos.json", "photos/", overrides=3)  # type: ignore[arg-type]
    with pytest.raises(kerasimg.CallError, match="params: expected a dict, got list"):
        kerasimg.dataset("photos.json", "photos/", params=[3])  # type: ignore[arg-type]


def test_a_spec_is_written_as_it_was_loaded(here: Path):
    spec = kerasimg.load("simple_cnn", num_classes=4, overrides={"fit.batch_size": 8})
    again = kerasimg.load(spec.save("again.json"))
    assert spec.diff(again) == []
    assert (again.params["num_classes"], again.fit.batch_size) == (4, 8)
    assert isinstance(again, kerasimg.Spec)
