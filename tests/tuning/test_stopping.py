from kerasimg.spec.metrics import Goal
from kerasimg.tuning.ask_tell import ends, rungs

MOST = Goal("val_accuracy", "max")
LEAST = Goal("val_loss", "min")


def named(curves):
    return {str(number): curve for number, curve in enumerate(curves)}


def test_the_median_rule_ends_trials_below_the_median_of_the_running_averages():
    others = named([[0.2, 0.4], [0.4, 0.6], [0.5, 0.5], [0.6, 0.8], [0.8, 0.9]])
    assert ends("median", MOST, [0.1, 0.45], others, 9)
    assert not ends("median", MOST, [0.1, 0.55], others, 9)


def test_the_median_rule_needs_some_trials_with_as_many_epochs():
    others = named([[0.9, 0.9], [0.9, 0.9], [0.9, 0.9], [0.9, 0.9], [0.9]])
    assert not ends("median", MOST, [0.1, 0.1], others, 9)
    assert ends("median", MOST, [0.1], others, 9)


def test_a_goal_may_be_a_minimum():
    others = named([[1.0]] * 5)
    assert ends("median", LEAST, [2.0], others, 9)
    assert not ends("median", LEAST, [0.5], others, 9)


def test_halving_decides_at_a_third_and_a_ninth_of_the_epochs():
    assert rungs(9) == [1, 3]
    assert rungs(10) == [1, 2, 4]
    assert rungs(3) == [1]


def test_halving_continues_the_best_third():
    others = named([[0.1], [0.2], [0.3], [0.4], [0.5]])
    assert ends("halving", MOST, [0.35], others, 9)
    assert not ends("halving", MOST, [0.45], others, 9)
    assert not ends("halving", MOST, [0.1, 0.1], others, 9)
    assert not ends("halving", MOST, [0.0], named([[0.9]]), 9)


def test_no_rule_ends_a_trial_at_its_last_epoch():
    assert not ends("halving", MOST, [0.0], named([[0.9]] * 9), 1)
