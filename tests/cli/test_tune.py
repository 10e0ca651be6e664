"""The command `tune`: what it prints, and what it refuses."""

import json
import subprocess
import sys

import pytest

from kerasimg import cli


@pytest.fixture
def say(capfd, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kerasimg", "tune", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capfd.readouterr()

    return run


def test_the_space_of_a_spec_is_printed_with_its_size(say):
    code, out, _ = say("simple_cnn", "--space")
    assert code == 0
    assert out.splitlines() == [
        "filters  one of 16, 32, 64 (default 32)",
        "units    one of 64, 128, 256 (default 128)",
        "lr       a number from 0.0001 to 0.01, on a logarithmic scale (default 0.001)",
        "9 combinations, and 1 continuous range",
    ]


def test_the_space_needs_no_tensorflow(tmp_path):
    code = "import sys; from kerasimg import cli; sys.argv = ['kerasimg', 'tune', 'simple_cnn', '--space']\n"
    code += (
        "try: cli.main()\nexcept SystemExit: print(sorted({'tensorflow', 'keras', 'keras_tuner'} & sys.modules.keys()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "tune needs images: kerasimg tune photos/, or tune SPEC --data photos/, or --resume SEARCH"),
        (["simple_cnn"], "tune needs --data: kerasimg tune simple_cnn --data photos/"),
        (["simple_cnn", "--resume", "runs/x"], "--resume continues with what the search was started with"),
        (["simple_cnn", "--data", "sample", "--worker", "host"], "expected HOST:PORT, got 'host'"),
        (["simple_cnn", "--data", "sample", "--worker", "a:1", "--workers", "2"], "are for the chief"),
        (["--resume", "gone"], "'gone' is not the folder of a search: it does not exist"),
        (["simple_cnn", "--data", "sample", "--workers", "0"], "workers: expected a number > 0, got 0"),
    ],
)
def test_a_call_that_makes_no_sense_names_what_would(say, arguments, message):
    code, _, err = say(*arguments)
    assert code == 2
    assert message in err


def test_a_search_prints_its_result_as_json(say, searched_file, images, tmp_path):
    folder = images(tmp_path / "few", {"red": 10, "blue": 10})
    code, out, _ = say(searched_file, "--data", folder, "--out", tmp_path / "runs", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["trials"] == 2
    assert json.loads((tmp_path / "runs" / "tiny-tune-1" / "best.json").read_text())["kerasimg"] == 1
    assert list(result["values"]) == ["compile.optimizer.learning_rate"]


@pytest.fixture
def searched_file(tmp_path, tiny):
    rate = {"$choice": [0.1, 0.3], "default": 0.3}
    fit = {"batch_size": 8, "stages": [{"epochs": 1}]}
    tune = {"tuner": "grid", "max_trials": 2}
    spec = tiny(compile={"optimizer": {"type": "Adam", "learning_rate": rate}}, fit=fit, tune=tune)
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(spec))
    return path
