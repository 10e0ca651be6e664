import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import kerasimg
from kerasimg import catalog, cli
from kerasimg.cli.groups import leaves
from kerasimg.cli.options import OWN_ARGUMENTS
from kerasimg.cli.output import BY_HAND, NEXT

HERE = Path(__file__).parent
"""The commands run here, not in the root of the checkout: Python would import the package from there."""

SPEC_NAMES = {"simple_cnn", "mobilenet", "branched"}


class Outcome(NamedTuple):
    code: Any
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Invoke = Callable[..., Outcome]


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """invoke("check", "mobilenet") runs a command line in this process."""

    def run(*arguments: Any) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["kerasimg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Outcome(caught.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Path:
    folder: Path = images(tmp_path_factory.mktemp("cli") / "colours", {"red": 10, "blue": 10})
    return folder


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    path = tmp_path_factory.mktemp("specs") / "tiny.json"
    path.write_text(json.dumps(tiny()))
    return path


@pytest.fixture(scope="module")
def run(spec: Path, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    return kerasimg.train(spec, data=colours, out=out, verbose=0).folder


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kerasimg", *arguments], cwd=HERE, capture_output=True, text=True, check=False, **options
    )


def test_check_lists_valid_specs(invoke: Invoke):
    outcome = invoke("check", "mobilenet", "zoo/simple_cnn.json")
    assert outcome.code == 0
    assert re.findall(r"ok: (\S+)", outcome.out) == ["zoo/mobilenet.json", "zoo/simple_cnn.json"]
    assert invoke("check", "mobilenet", "--json").json == {"ok": True, "faults": [], "warnings": []}


def test_check_lists_every_error_of_every_spec_and_exits_with_2(invoke: Invoke, tmp_path: Path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"kerasimg": 1, "model": [{"layer": "Conv2D", "fliters": 3}], "fit": {"batch_size": 0}}')
    outcome = invoke("check", "mobilenet", bad)
    assert (outcome.code, "did you mean 'filters'" in outcome.err, "fit.batch_size" in outcome.err) == (2, True, True)
    as_json = invoke("check", bad, "--json")
    assert as_json.code == 2
    assert as_json.json["ok"] is False
    assert {tuple(fault) for fault in as_json.json["faults"]} == {("file", "path", "message")}


def test_check_lists_the_params_that_must_be_given(invoke: Invoke, spec: Path):
    assert "must be given: num_classes" in invoke("check", spec).out
    assert "must be given" not in invoke("check", spec, "--set", "num_classes=3").out


def test_show_prints_a_spec_with_its_defaults(invoke: Invoke):
    outcome = invoke("spec", "show", "simple_cnn", "--set", "num_classes=3", "--set", "fit.stages.0.epochs=2").json
    assert outcome["params"]["num_classes"] == 3
    assert outcome["fit"]["stages"][0]["epochs"] == 2
    assert outcome["image"]["resize"] == "stretch"


def test_show_says_where_each_value_comes_from(invoke: Invoke):
    rows = invoke("spec", "show", "simple_cnn", "--origins", "--json", "--set", "fit.seed=4").json
    origins = {row["path"]: row["origin"] for row in rows}
    assert origins["fit.seed"] == "--set fit.seed"
    assert origins["fit.precision"] == "default"
    assert origins["fit.batch_size"] == "zoo/simple_cnn.json"
    printed = invoke("spec", "show", "simple_cnn", "--origins", "--set", "fit.seed=4").out
    assert "fit.seed = 4  <- --set fit.seed\n" in printed


def test_build_prints_the_layers_and_saves_the_model(invoke: Invoke, spec: Path, tmp_path: Path):
    outcome = invoke("spec", "build", spec, "--set", "num_classes=3", "--out", tmp_path / "model.keras")
    assert outcome.code == 0
    assert "classes (Dense)" in outcome.out
    assert (tmp_path / "model.keras").is_file()
    facts = invoke("spec", "build", spec, "--set", "num_classes=3", "--json").json
    assert facts == {"name": "tiny", "params": 12, "input": [None, 8, 8, 3], "output": [None, 3]}


def test_build_refuses_a_model_that_is_too_large_unless_the_limit_is_raised(invoke: Invoke, spec: Path):
    classes = ("--set", "num_classes=1000")
    assert invoke("spec", "build", spec, *classes, "--limit", "params=3999").code == 2
    assert invoke("spec", "build", spec, *classes, "--limit", "params=4000", "--json").json["params"] == 4000


def test_zoo_lists_and_shows_the_specs_that_ship(invoke: Invoke):
    assert {row["name"] for row in invoke("zoo", "list", "--json").json} >= SPEC_NAMES
    assert {line.split()[0] for line in invoke("zoo", "list").out.splitlines()} >= SPEC_NAMES
    assert invoke("zoo", "show", "branched").out == (catalog.ZOO / "branched.json").read_text(encoding="utf-8")


def test_schema_prints_the_schema(invoke: Invoke):
    assert invoke("spec", "schema").json["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_train_evaluate_and_predict_print_readable_text(invoke: Invoke, spec: Path, colours: Path, tmp_path: Path):
    trained = invoke("train", spec, "--data", colours, "--out", tmp_path, "--set", "fit.stages.0.epochs=1")
    assert trained.code == 0
    assert "20 images of 2 classes" in trained.out
    assert trained.out.splitlines()[-2] == (
        f"saved in {tmp_path / 'tiny-1'}; report: {tmp_path / 'tiny-1' / 'report.html'}"
    )
    assert trained.out.splitlines()[-1] == f"Next: kerasimg predict {tmp_path / 'tiny-1'} IMAGE"
    assert "Stages, each with its best epoch" in trained.out
    evaluated = invoke("evaluate", tmp_path / "tiny-1")
    assert evaluated.code == 0
    assert "macro F1" in evaluated.out
    predicted = invoke("predict", tmp_path / "tiny-1", colours / "red" / "00.png", "--top", "1")
    assert re.fullmatch(rf"{re.escape(str(colours / 'red' / '00.png'))}: (red|blue) [01]\.\d{{3}}\n", predicted.out)


def test_train_evaluate_and_predict_print_json(invoke: Invoke, spec: Path, colours: Path, tmp_path: Path):
    trained = invoke("train", spec, "--data", colours, "--out", tmp_path, "--json").json
    assert trained["run"] == str(tmp_path / "tiny-1")
    assert trained["scores"]["n"] == 3
    evaluated = invoke("evaluate", trained["run"], "--data", colours, "--json").json
    assert (evaluated["part"], evaluated["n"]) == ("all", 20)
    (predicted,) = invoke("predict", trained["run"], colours / "red" / "00.png", "--json").json
    assert set(predicted) == {"file", "label", "confidence", "probabilities", "set", "known", "p_value"}


def test_predict_classifies_the_good_images_beside_a_bad_one(invoke: Invoke, spec: Path, colours: Path, tmp_path: Path):
    assert invoke("train", spec, "--data", colours, "--out", tmp_path, "--quiet").code == 0
    (tmp_path / "new").mkdir()
    good, bad = tmp_path / "new" / "a.png", tmp_path / "new" / "b.png"
    good.write_bytes((colours / "red" / "00.png").read_bytes())
    bad.write_bytes(b"")
    predicted = invoke("predict", tmp_path / "tiny-1", tmp_path / "new", "--top", "1")
    assert (predicted.code, predicted.out.count("\n")) == (3, 1)
    assert predicted.out.startswith(f"{good}: ")
    assert f"{bad}: is empty" in predicted.err
    predicted = invoke("predict", tmp_path / "tiny-1", tmp_path / "new", "--json")
    assert (predicted.code, [row["file"] for row in json.loads(predicted.out)]) == (3, [str(good)])
    skipped = invoke("predict", tmp_path / "tiny-1", tmp_path / "new", "--on-bad-image", "skip")
    assert (skipped.code, skipped.err.splitlines()[0]) == (0, f"left out 1 unreadable: {bad}")


def test_quiet_training_prints_only_its_result(invoke: Invoke, spec: Path, colours: Path, tmp_path: Path):
    outcome = invoke("train", spec, "--data", colours, "--out", tmp_path, "--quiet", "--set", "fit.stages.0.epochs=1")
    assert "stage 1" not in outcome.out
    assert "saved in" in outcome.out


def test_own_arguments_lists_every_argument_of_the_verbs():
    from kerasimg.evaluation.evaluate import evaluate
    from kerasimg.models.build import build
    from kerasimg.training.train import train
    from kerasimg.tuning.search import tune
    from kerasimg.tuning.worker import work

    verbs = (catalog.load, kerasimg.train, kerasimg.tune, train, build, tune, work)
    taken = {name for verb in verbs for name in inspect.signature(verb).parameters}
    assert taken - {"params", "more_params", "options", "spec"} == OWN_ARGUMENTS
    assert "run" in inspect.signature(evaluate).parameters


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "no such spec": (["check", "mobilnet"], 2, "did you mean 'mobilenet'"),
    "no such file": (["check", "gone/spec.json"], 2, "no file"),
    "a folder as a spec": (["check", "{tmp}"], 2, "is a folder, and no spec"),
    "no JSON": (["check", "{tmp}/broken.json"], 2, "not JSON"),
    "bytes as a spec": (["check", "{tmp}/bytes.json"], 2, "bytes.json"),
    "an empty spec": (["check", "{tmp}/empty.json"], 2, "empty.json"),
    "a set without a value": (["check", "mobilenet", "--set", "units"], 2, "expected NAME=VALUE, got 'units'"),
    "a set without a name": (["check", "mobilenet", "--set", "=3"], 2, "expected NAME=VALUE"),
    "a set of an unknown param": (["check", "mobilenet", "--set", "unit=3"], 2, "did you mean 'units'"),
    "a set of an unknown path": (["check", "mobilenet", "--set", "fit.stage.0=3"], 2, "stage"),
    "a set with a very long value": (["check", "mobilenet", "--set", "units=" + "[" * 100_000], 2, "units"),
    "a set of a verb's argument": (["check", "mobilenet", "--set", "weights=3"], 2, "--set params.weights=3"),
    "a limit that is not a number": (
        ["spec", "build", "mobilenet", "--limit", "params=x"],
        2,
        "--limit params: expected a whole",
    ),
    "no such limit": (["spec", "build", "mobilenet", "--limit", "parms=3"], 2, "did you mean 'params'"),
    "another kind of file": (["spec", "build", "mobilenet", "--out", "model.h5"], 2, "ends in .keras"),
    "no weights file": (
        ["spec", "build", "mobilenet", "--weights", "gone.weights.h5"],
        1,
        "no weights file 'gone.weights.h5'",
    ),
    "no data": (["train", "simple_cnn", "--data", "{tmp}/gone"], 3, "no such file or folder"),
    "empty data": (["train", "simple_cnn", "--data", "{tmp}"], 3, "holds no folders"),
    "data of another kind": (["train", "simple_cnn", "--data", "{tmp}/broken.json"], 3, "expected a folder or a file"),
    "data left out": (["train", "simple_cnn"], 2, "--data"),
    "a file as the folder of runs": (
        ["train", "{spec}", "--data", "{colours}", "--out", "{tmp}/broken.json"],
        2,
        "broken.json",
    ),
    "a folder without a run": (["evaluate", "{tmp}"], 2, "no trained model"),
    "a run that does not exist": (["predict", "{tmp}/gone", "a.png"], 2, "no run"),
    "an image that does not exist": (["predict", "{run}", "gone.png"], 3, "gone.png"),
    "a file that is no image": (["predict", "{run}", "{tmp}/broken.json"], 3, "broken.json"),
    "no such part": (["evaluate", "{run}", "--data", "{colours}", "--part", "tets"], 2, "did you mean 'test'"),
    "no such zoo spec": (["zoo", "show", "mobilnet"], 2, "did you mean 'mobilenet'"),
    "no such command": (["trian", "mobilenet"], 2, "trian"),
    "no such option": (["check", "mobilenet", "--jsn"], 2, "--jsn"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_a_short_message_and_its_exit_code(
    invoke: Invoke, mistake: str, spec: Path, colours: Path, run: Path, tmp_path: Path
):
    (tmp_path / "broken.json").write_text("{bad")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00\x81")
    (tmp_path / "empty.json").write_bytes(b"")
    arguments, code, message = MISTAKES[mistake]
    places = {"{tmp}": tmp_path, "{spec}": spec, "{colours}": colours, "{run}": run}
    for placeholder, path in places.items():
        arguments = [argument.replace(placeholder, str(path)) for argument in arguments]
    outcome = invoke(*arguments)
    assert message in outcome.err
    assert (outcome.code, "Traceback" in outcome.err) == (code, False)
    assert len(outcome.err.splitlines()) < 8


def test_the_process_exits_with_the_code(tmp_path: Path):
    (tmp_path / "bad.json").write_text('{"kerasimg": 1}')
    assert command("check", str(tmp_path / "bad.json")).returncode == 2
    assert command("check", "mobilenet").returncode == 0
    assert command("train", "simple_cnn", "--data", str(tmp_path)).returncode == 3
    closed = {"KERAS_HOME": str(tmp_path), **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")}
    offline = command("spec", "build", "mobilenet", "--json", env=os.environ | closed)
    assert (offline.returncode, offline.stdout) == (1, "")
    assert f"sought: {tmp_path / 'models' / 'mobilenet_v2'}" in offline.stderr
    assert "Traceback" not in offline.stderr


def test_ctrl_c_exits_with_130_and_without_a_traceback(spec: Path, colours: Path, tmp_path: Path):
    arguments = [
        "train",
        str(spec),
        "--data",
        str(colours),
        "--out",
        str(tmp_path),
        "--set",
        "fit.stages.0.epochs=9999",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "kerasimg", *arguments],
        cwd=HERE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    history = tmp_path / "tiny-1" / "history.csv"
    deadline = time.monotonic() + 60
    while not history.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert re.search(r"^error: interrupted; .*; to resume: kerasimg train --resume \S+tiny-1$", errors, re.M)
    assert "Traceback" not in errors


def test_a_closed_output_pipe_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "kerasimg", "spec", "show", "mobilenet"],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(30) in (0, 1)


HEAVY = {"keras", "tensorflow", "jax", "torch", "numpy", "scipy", "sklearn", "PIL", "h5py", "rich", "keras_tuner"}


@pytest.mark.parametrize(
    ("arguments", "spec_is_read"),
    [
        (["--help"], False),
        (["check", "zoo/mobilenet.json"], True),
        (["zoo", "list"], True),
        (["spec", "schema"], True),
        (["spec", "show", "mobilenet"], True),
    ],
)
def test_commands_that_build_nothing_import_no_heavy_packages(arguments: list[str], spec_is_read: bool):
    code = (
        "import sys\n"
        "from kerasimg.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=HERE, capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert loaded & HEAVY == set()
    assert ("pydantic" in loaded) == spec_is_read


COMMANDS = list(leaves(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("words", [(), ("spec",), ("run",), ("data",), ("zoo",), ("cache",), *COMMANDS])
def test_every_command_has_a_help_page(invoke: Invoke, words: tuple[str, ...]):
    outcome = invoke(*words, "--help")
    assert (outcome.code, "Usage:" in outcome.out) == (0, True)
    assert "...\n" not in outcome.out.partition("\n")[2], "a sentence is cut"


def test_there_are_twelve_verbs_at_the_top_and_the_rest_is_in_groups():
    top = [words[0] for words in COMMANDS if len(words) == 1]
    train, use, deploy = (
        ["init", "check", "import", "train", "tune", "auto"],
        ["evaluate", "predict", "explain"],
        ["export", "serve"],
    )
    assert top == ["studio", *train, *use, *deploy]
    assert {words[0] for words in COMMANDS if len(words) > 1} == {"spec", "run", "data", "zoo", "cache"}


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        (["report", "runs/x"], "kerasimg run report"),
        (["show", "mobilenet"], "kerasimg spec show"),
        (["lr-find"], "kerasimg spec lr-find"),
        (["bench"], "kerasimg data bench"),
        (["run", "train"], "kerasimg train"),
    ],
)
def test_a_command_in_the_wrong_group_names_the_right_one(invoke: Invoke, typed: list[str], place: str):
    outcome = invoke(*typed)
    assert (outcome.code, outcome.out, f"moved to: {place}" in outcome.err) == (2, "", True)


def test_every_command_has_a_next_step_that_is_a_command(parse_command: Callable[[str], None]):
    assert set(NEXT) == {" ".join(words) for words in COMMANDS}
    assert [command for command, line in NEXT.items() if line is None] == ["serve", "studio"]
    for templates in filter(None, NEXT.values()):
        for line in [templates] if isinstance(templates, str) else templates:
            if not line.startswith(BY_HAND):
                parse_command(re.sub(r"\{\w+\}", "1", line))
            assert "--to web" not in line  # which needs npm, and a network


def test_a_shared_option_means_the_same_in_every_command():
    shared = (
        "--out",
        "--limit",
        "--data",
        "--part",
        "--set",
        "--top",
        "--json",
        "--on-bad-image",
        "RUN",
        "SPEC",
        "DATA",
    )
    texts: dict[str, set[str]] = {}
    for words in COMMANDS:
        command: Any = typer.main.get_command(cli.app)
        for word in words:
            command = command.commands[word]
        for parameter in command.params:
            name = parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]
            if name in shared:
                texts.setdefault(name, set()).add(parameter.help.partition(" Default:")[0])
    for name in ("--out", "--top"):  # each goes on with what the command writes or lists
        texts[name] = {text.partition(":")[0] for text in texts[name]}
    assert {name: len(meanings) for name, meanings in texts.items()} == dict.fromkeys(shared, 1), texts
