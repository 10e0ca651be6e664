"""What `kerasimg explain`, `report` and `history` print and write."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kerasimg

Say = Callable[..., tuple[Any, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Any, tiny: Any) -> Path:
    folder = tmp_path_factory.mktemp("cli-report")
    data = images(folder / "colours", {"red": 10, "blue": 10})
    return kerasimg.train(tiny(), data=data, out=folder / "runs", verbose=0).folder


def test_explain_writes_the_maps_and_says_where(say: Say, run: Path, tmp_path: Path):
    image = run.parent.parent / "colours" / "red" / "00.png"
    code, out, _ = say("explain", run, image, "--method", "occlusion", "--option", "window=4", "--out", tmp_path)
    assert (code, out.splitlines()[0].split()[1]) == (0, "red")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00.occlusion.png", "00.occlusion.seen.png"]
    code, out, _ = say("explain", run, image, "--method", "occlusion", "--target", "blue", "--out", tmp_path, "--json")
    (row,) = json.loads(out)
    assert (row["target"], row["probability"] < 0.5, len(row["peak"])) == ("blue", True, 2)


def test_explain_says_why_a_model_has_no_map_and_names_other_methods(say: Say, run: Path, tmp_path: Path):
    image = run.parent.parent / "colours" / "red" / "00.png"
    code, _, err = say("explain", run, image, "--out", tmp_path)
    assert (code, "keeps no map" in err, "'occlusion'" in err) == (2, True, True)
    code, _, err = say("explain", run, image, "--option", "window=wide")
    assert (code, err.strip()) == (2, "error: --option: expected NAME=NUMBER, got 'window=wide'")


def test_report_says_where_it_wrote(say: Say, run: Path, tmp_path: Path):
    code, out, _ = say("run", "report", run)
    assert (code, out.startswith(f"{run / 'report.html'} (0.")) == (0, True)
    code, _, _ = say("run", "report", run, "--out", tmp_path / "page.html")
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "MODEL_CARD.md"}
    assert say("run", "report", tmp_path)[0] == 2


def test_history_tells_each_stage(say: Say, run: Path, tmp_path: Path):
    code, out, _ = say("run", "history", run)
    assert (code, out.splitlines()[2].split()[:2]) == (0, ["1", "1-3"])
    code, out, _ = say("run", "history", run, "--json")
    assert [(row["first"], row["last"]) for row in json.loads(out)] == [(1, 3)]
    assert say("run", "history", tmp_path)[0] == 2
