from pathlib import Path
from typing import Any

import pytest

import kerasimg
from kerasimg.reporting.search_page import importance, place
from kerasimg.tuning.space import Dimension, Space

SPACE = Space(
    (
        Dimension("rate", "float", 0.01, low=0.001, high=0.1, log=True),
        Dimension("idle", "choice", "a", options=("a", "b")),
        Dimension("only", "int", 1, low=1, high=9, within=(("idle", "b"),)),
    )
)


def test_the_value_that_decides_the_score_has_the_greatest_importance():
    trials = [{"rate": 0.001 * 1.1**n, "idle": "ab"[n % 2], **({"only": 3} if n % 2 else {})} for n in range(40)]
    result = importance(SPACE, trials, [place(SPACE["rate"], one["rate"]) for one in trials], [3] * 40)
    assert next(iter(result.shares)) == "rate"
    assert result.shares["rate"] > 0.9
    assert sum(result.shares.values()) == pytest.approx(1)
    assert result.explained > 0.8


def test_few_trials_give_no_importance():
    assert importance(SPACE, [{"rate": 0.01, "idle": "a"}] * 3, [1.0, 2.0, 3.0], [1, 1, 1]) is None


def test_a_value_is_placed_on_its_scale():
    assert place(SPACE["rate"], 0.01) == pytest.approx(0.5)
    assert place(SPACE["idle"], "b") == 1.0


def test_the_page_lists_every_trial_and_loads_nothing_from_elsewhere(tiny: Any, images: Any, tmp_path: Path):
    rate = {"$float": [0.001, 1.0], "log": True, "default": 0.01}
    spec = tiny(
        compile={"optimizer": {"type": "Adam", "learning_rate": rate}},
        fit={"batch_size": 8, "stages": [{"epochs": 1}]},
        tune={"tuner": "random", "max_trials": 9},
    )
    data = images(tmp_path / "photos", {"red": 10, "green": 10, "blue": 10})
    search = kerasimg.tune(spec, data=data, out=tmp_path, verbose=0)
    page = (search.folder / "report.html").read_text()
    assert page.count('<th scope="row" class="n">') == 9
    assert "Parallel coordinates" in page
    assert "compile.optimizer.learning_rate" in page
    assert "http" not in page.replace("http-equiv", "")
