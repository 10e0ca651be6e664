"""What `kerasimg spec diff` prints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import kerasimg


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, images: Any, tiny: Any) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("diff")
    data = images(folder / "colours", {"red": 8, "blue": 8})
    how = {"out": folder / "runs", "verbose": 0, "report": False}
    first = kerasimg.train(tiny(), data=data, **how).folder
    (data / "red" / "00.png").unlink()
    other = tiny()
    other["fit"] = {**other.get("fit", {}), "seed": 7}
    return first, kerasimg.train(other, data=data, **how).folder


def test_two_specs_differ_in_their_own_words(say: Any, tmp_path: Path):
    mine = tmp_path / "mine.json"
    mine.write_text('{"kerasimg": 1, "extends": "simple_cnn", "set": {"fit.batch_size": 7}}')
    said = say("spec", "diff", "simple_cnn", mine)
    lines = [line.strip() for line in said.out.splitlines()]
    assert (said.code, any(line.startswith("fit.batch_size:") and line.endswith("-> 7") for line in lines)) == (0, True)
    assert say("spec", "diff", mine, mine).out.splitlines()[0] == "spec: no differences"


def test_as_written_leaves_the_defaults_out(say: Any, tmp_path: Path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    body: dict[str, Any] = {"kerasimg": 1, "image": {"size": [8, 8]}, "model": [{"layer": "Flatten"}]}
    one.write_text(json.dumps(body))
    other.write_text(json.dumps(body | {"fit": {"batch_size": 32}}))
    assert "+ fit" in say("spec", "diff", one, other, "--as-written").out
    assert "+ fit" not in say("spec", "diff", one, other).out


def test_two_runs_differ_in_spec_data_and_figures_too(say: Any, runs: tuple[Path, Path]):
    sections = json.loads(say("spec", "diff", *runs, "--json").out)
    assert list(sections) == ["spec", "data", "surroundings", "figures"]
    assert {"path": "fit.seed", "before": 0, "after": 7} in sections["spec"]
    (gone,) = [one for one in sections["data"] if one["path"] == "only in the first"]
    assert gone["before"] == {"images": 1, "as": ["red/00.png"]}
    assert sections["surroundings"] == []


def test_the_same_run_twice_shows_nothing(say: Any, runs: tuple[Path, Path]):
    assert say("spec", "diff", runs[0], runs[0]).out.count("no differences") == 4


def test_a_path_that_is_neither_run_nor_spec_is_refused(say: Any, tmp_path: Path, runs: tuple[Path, Path]):
    said = say("spec", "diff", "simple_cnn", tmp_path)
    assert (said.code, "holds no spec.json" in said.err) == (2, True)
    broken = tmp_path / "broken"
    shutil.copytree(runs[0], broken)
    (broken / "data.json").write_text("{")
    said = say("spec", "diff", runs[0], broken)
    assert (said.code, "data.json' is damaged" in said.err) == (2, True)
