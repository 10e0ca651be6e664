"""The samplers with a function instead of a training: the values that they choose, and the state that they restore."""

import shutil
import sys
from itertools import pairwise

import pytest
from pydantic import ValidationError

from kerasimg.errors import CallError
from kerasimg.spec.document import Tune
from kerasimg.spec.metrics import Goal
from kerasimg.tuning.journal import Ended, Records
from kerasimg.tuning.samplers import SAMPLERS, make_sampler
from kerasimg.tuning.space import Dimension, Space

GOAL = Goal("val_accuracy", "max")
SPACE = Space(
    (
        Dimension("x", "float", 0.5, low=0.0, high=1.0),
        Dimension("kind", "choice", "a", options=("a", "b")),
        Dimension("kind.b.n", "int", 3, low=1, high=9, within=(("kind", "b"),)),
    )
)
SMALL = Space((Dimension("n", "choice", 2, options=(1, 2, 3)),))


def sampler(tuner, folder=None, space=SPACE, epochs=9, **tune):
    made = make_sampler(space, GOAL, Tune(tuner=tuner, **{"max_trials": 12, **tune}), epochs)
    if folder is not None:
        folder.mkdir(exist_ok=True)
        made.open(Records(folder))
    return made


def figure(values):
    return 1 - (values.get("x", 0) - 0.3) ** 2 - 0.05 * (values.get("kind.b.n", 9) - 4) ** 2


def begin(made, worker="one"):
    return made.create_trial(worker)


def end(made, trial, status="completed", reason=None):
    score = figure(trial.order.values) if status == "completed" else None
    curve = [] if score is None else [score]
    made.end_trial(trial.order.trial, Ended(status, score, 0.1, curve, 1, reason))


def run(made, count=1000):
    for _ in range(count):
        trial = begin(made)
        if trial.status != "RUNNING":
            break
        end(made, trial)
    return made


def decisions(made):
    return [(name, dict(order.values), order.epochs, order.of) for name, order in made.orders.items()]


@pytest.mark.parametrize("tuner", SAMPLERS)
def test_the_first_trial_has_the_defaults_of_the_spec(tuner):
    assert dict(run(sampler(tuner), 1).orders["0001"].values) == {"x": 0.5, "kind": "a"}


@pytest.mark.parametrize("tuner", SAMPLERS)
def test_exactly_max_trials_trials_are_made(tuner):
    assert len(run(sampler(tuner)).ended) == 12


@pytest.mark.parametrize("tuner", SAMPLERS)
def test_an_inactive_value_is_never_explored(tuner):
    for order in run(sampler(tuner, max_trials=30)).orders.values():
        assert ("kind.b.n" in order.values) is (order.values["kind"] == "b")


@pytest.mark.parametrize("tuner", SAMPLERS)
@pytest.mark.parametrize("when", [0, 1, 5, 11])
def test_an_interrupted_search_continues_as_it_would_have(tuner, when, tmp_path):
    whole = run(sampler(tuner, tmp_path / "whole"))
    before = run(sampler(tuner, tmp_path / "cut"), when)
    begin(before)  # and killed before it has ended
    after = run(sampler(tuner, tmp_path / "cut"))
    assert decisions(after) == decisions(whole)
    assert after.best == whole.best
    assert sum(event["event"] == "begin" for event in after.records.events()) == 12


def test_a_trial_that_ended_before_the_journal_was_truncated_is_not_run_again(tmp_path):
    made = sampler("random", tmp_path / "cut")
    trial = begin(made)
    made.records.write_ended(trial.order.trial, Ended("completed", 0.9, 0.1, [0.9], 1))
    after = sampler("random", tmp_path / "cut")
    assert after.ended["0001"].score == 0.9
    assert begin(after).order.trial == "0002"


@pytest.mark.parametrize("tuner", ["random", "bayesian", "hyperband"])
def test_seed_0_is_a_seed_like_any_other(tuner):
    assert decisions(run(sampler(tuner, seed=0))) == decisions(run(sampler(tuner, seed=0)))
    assert decisions(run(sampler(tuner, seed=0))) != decisions(run(sampler(tuner, seed=1)))


def test_neighbouring_seeds_have_no_number_in_common():
    item, other = (run(sampler("random", seed=seed, max_trials=30)) for seed in (1, 2))
    drawn = [{order.values["x"] for name, order in made.orders.items() if name != "0001"} for made in (item, other)]
    assert not drawn[0] & drawn[1]


@pytest.mark.parametrize("tuner", ["random", "grid", "bayesian"])
def test_a_small_space_is_searched_completely_and_then_the_search_ends(tuner):
    made = run(sampler(tuner, space=SMALL))
    assert sorted(order.values["n"] for order in made.orders.values()) == [1, 2, 3]


def test_hyperband_promotes_the_best_trials_which_continue_from_their_state():
    made = run(sampler("hyperband", max_trials=18))
    promoted = {name: order for name, order in made.orders.items() if order.of}
    assert len(promoted) >= 4
    for order in promoted.values():
        assert order.first_epoch == made.orders[order.of].epochs
        assert order.values == made.orders[order.of].values
        assert made.orders[order.of].keep_state
    assert {order.epochs for order in made.orders.values()} == {1, 3, 9}


def test_hyperband_trains_to_the_last_epoch_even_in_a_small_space():
    made = run(sampler("hyperband", space=SMALL, max_trials=30))
    assert max(order.epochs for order in made.orders.values()) == 9


def test_hyperband_does_not_start_a_bracket_with_more_trials_than_allowed():
    assert {order.epochs for order in run(sampler("hyperband", max_trials=4)).orders.values()} == {9}


def test_bayesian_search_tries_nothing_twice():
    made = run(sampler("bayesian", space=Space((Dimension("n", "int", 2, low=1, high=9),)), max_trials=9))
    assert sorted(order.values["n"] for order in made.orders.values()) == list(range(1, 10))


def test_bayesian_search_beats_random_search_on_a_bowl():
    bests = {
        tuner: [run(sampler(tuner, seed=seed, max_trials=20)).trials for seed in range(4)]
        for tuner in ("random", "bayesian")
    }
    missed = {tuner: sum(1 - max(t.score for t in trials.values()) for trials in of) / 4 for tuner, of in bests.items()}
    assert missed["bayesian"] < 0.7 * missed["random"]


def test_a_search_whose_trials_all_fail_ends_early():
    made = sampler("random")
    for _ in range(3):
        end(made, begin(made), "failed", "no good")
    assert begin(made).status == "STOPPED"
    assert made.ended["0001"].reason == "no good"


def test_one_failed_trial_does_not_end_the_search():
    made = run(sampler("random"), 1)
    for _ in range(5):
        end(made, begin(made), "failed", "no good")
    assert begin(made).status == "RUNNING"


def test_another_worker_gets_the_trial_of_a_lost_worker():
    made = sampler("random")
    lost = begin(made, "one")
    assert begin(made, "two").order.trial == "0002"
    made.give_back("one")
    assert begin(made, "three").order.trial == lost.order.trial
    assert begin(made, "four").order.trial == "0003"


def test_the_search_waits_for_the_last_trial_of_a_lost_worker():
    made = sampler("random", max_trials=1)
    begin(made, "one")
    assert begin(made, "two").status == "IDLE"
    made.give_back("one")
    assert begin(made, "two").status == "RUNNING"


def test_a_trial_that_ends_twice_counts_once(tmp_path):
    made = sampler("random", tmp_path / "twice")
    trial = begin(made)
    end(made, trial)
    end(made, trial, "failed", "late")
    assert made.ended["0001"].status == "completed"
    assert sum(event["event"] == "end" for event in made.records.events()) == 1


def test_a_worker_that_asks_again_gets_the_same_trial():
    made = sampler("random")
    assert begin(made).order.trial == begin(made).order.trial


def test_a_folder_of_another_search_is_not_continued(tmp_path):
    run(sampler("grid", tmp_path / "one"), 5)
    other = Space((Dimension("x", "float", 0.25, low=0.0, high=0.5), *SPACE.dimensions[1:]))
    with pytest.raises(CallError, match="would not be chosen again"):
        sampler("grid", tmp_path / "one", space=other)


def test_a_trial_is_ended_by_the_rule_of_the_spec():
    made = sampler("random", stop="halving")
    ended = []
    for number in range(6):
        trial = begin(made, f"worker {number}")
        ended.append(made.update_trial(trial.order.trial, {"val_accuracy": 1 - number / 10}, step=0))
    assert ended == [False, False, True, True, True, True]


def test_the_table_has_a_row_per_trial_with_its_values(tmp_path):
    made = run(sampler("grid", tmp_path / "one"), 2)
    rows = made.table()
    assert [row["trial"] for row in rows] == ["0001", "0002"]
    assert {"status", "val_accuracy", "seconds", "x", "kind", "reason"} <= rows[0].keys()
    assert (tmp_path / "one" / "trials.csv").read_text().count("\n") == 3
    shutil.rmtree(tmp_path / "one")


def test_random_search_knows_the_next_trial_before_this_one_has_ended(tmp_path):
    made, undisturbed = (sampler("random", tmp_path / name, max_trials=6) for name in ("asked", "not-asked"))
    next_values = []
    for _ in range(6):
        trial = begin(made)
        next_values.append(made.next_values())
        end(made, trial)
    run(undisturbed)
    chosen = [dict(undisturbed.orders[trial].values) for trial in sorted(undisturbed.orders)]
    assert [dict(order.values) for order in made.orders.values()] == chosen
    assert next_values == [*chosen[1:], None]


@pytest.mark.parametrize("tuner", ["grid", "bayesian", "hyperband"])
def test_a_search_that_learns_from_its_trials_does_not_know_the_next(tuner):
    made = sampler(tuner)
    begin(made)
    assert made.next_values() is None


PLUGIN = """
import scipy.stats
from kerasimg.tuning.samplers import PointSampler

class Halton(PointSampler):
    name, about = "halton", "the points of a Halton sequence"

    def point(self, trial):
        return scipy.stats.qmc.Halton(len(self.space.dimensions), seed=self.tune.seed).random(trial)[-1]
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package that adds a sampler by an entry point."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)

    def write(entry):
        folder = site / "mine-1.0.dist-info"
        folder.mkdir(parents=True)
        (site / "halton_sampler.py").write_text(PLUGIN)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[kerasimg.samplers]\nhalton = {entry}\n")

    yield write
    sys.modules.pop("halton_sampler", None)


def test_a_sampler_of_another_package_searches_and_continues_after_a_kill(install, tmp_path):
    install("halton_sampler:Halton")
    whole = run(sampler("halton", tmp_path / "whole"))
    assert len(whole.ended) == 12
    assert dict(whole.orders["0001"].values) == {"x": 0.5, "kind": "a"}
    xs = sorted(order.values["x"] for order in whole.orders.values())
    assert max(high - low for low, high in pairwise(xs)) < 0.3  # a Halton sequence leaves no gaps
    assert {"kind.b.n" in order.values for order in whole.orders.values() if order.values["kind"] == "a"} == {False}
    run(sampler("halton", tmp_path / "cut"), 5)
    assert decisions(run(sampler("halton", tmp_path / "cut"))) == decisions(whole)


def test_a_sampler_that_cannot_be_loaded_is_named(install):
    install("halton_sampler:Missing")
    with pytest.raises(CallError, match=r"sampler 'halton': halton_sampler:Missing cannot be loaded: .*Missing"):
        sampler("halton")


def test_a_sampler_that_is_not_one_is_named(install):
    install("scipy.stats:norm")
    with pytest.raises(CallError, match=r"sampler 'halton': scipy.stats:norm is not a subclass of .*Sampler"):
        sampler("halton")


def test_a_spec_can_name_every_sampler():
    names = Tune.model_json_schema()["properties"]["tuner"]["enum"]
    assert sorted(names) == sorted(SAMPLERS) == sorted(cls.name for cls in SAMPLERS.values())


def test_an_unknown_sampler_is_refused_when_the_spec_is_checked():
    with pytest.raises(ValidationError, match="'random', 'grid', 'bayesian' or 'hyperband'"):
        sampler("halton")
