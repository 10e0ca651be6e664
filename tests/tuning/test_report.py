import pytest

from kerasimg.tuning import search as searches
from kerasimg.tuning.report import importance, place
from kerasimg.tuning.space import Dimension, Space

SPACE = Space(
    (
        Dimension("rate", "float", 0.01, low=0.001, high=0.1, log=True),
        Dimension("idle", "choice", "a", options=("a", "b")),
        Dimension("only", "int", 1, low=1, high=9, within=(("idle", "b"),)),
    )
)


def test_the_value_that_mattered_is_found():
    trials = [{"rate": 0.001 * 1.1**n, "idle": "ab"[n % 2], **({"only": 3} if n % 2 else {})} for n in range(40)]
    found = importance(SPACE, trials, [place(SPACE["rate"], one["rate"]) for one in trials], [3] * 40)
    assert next(iter(found.shares)) == "rate"
    assert found.shares["rate"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.explained > 0.8


def test_few_trials_say_nothing():
    assert importance(SPACE, [{"rate": 0.01, "idle": "a"}] * 3, [1.0, 2.0, 3.0], [1, 1, 1]) is None


def test_a_value_stands_where_its_scale_says():
    assert place(SPACE["rate"], 0.01) == pytest.approx(0.5)
    assert place(SPACE["idle"], "b") == 1.0


def test_the_page_holds_every_trial_and_needs_nothing_else(searched, few, tmp_path):
    folder = searches.tune(searched({"max_trials": 9}), data=few, out=tmp_path)
    page = (folder / "report.html").read_text()
    assert page.count('<th scope="row" class="n">') == 9
    assert "Parallel coordinates" in page
    assert "compile.optimizer.learning_rate" in page
    assert "http" not in page.replace("http-equiv", "")
