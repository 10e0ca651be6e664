import numpy as np

from kerasimg.evaluation.evaluate import SMALL, slices
from kerasimg.evaluation.scores import scores

TRUTH = np.arange(80) % 2
P = np.eye(2)[np.where(np.arange(80) % 8 == 0, 1 - TRUTH, TRUTH)] * 0.8 + 0.1


def of(**extras):
    return slices(extras, TRUTH, P, ["a", "b"], "multiclass")


def test_each_value_has_the_figures_of_its_images_most_images_first():
    camera = ["new" if number < 20 else "old" for number in range(80)]
    (result,) = of(camera=camera)["slices"]
    assert result["column"] == "camera"
    assert [(row["value"], row["n"], row["small"]) for row in result["rows"]] == [("old", 60, False), ("new", 20, True)]
    found = scores(TRUTH[:20], P[:20], ["a", "b"], "multiclass")
    figures = result["rows"][1]["figures"]
    assert figures == {name: found[name] for name in figures}
    assert set(figures) == {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier_score", "calibration_error"}
    low, high = result["rows"][1]["intervals"]["accuracy"]
    assert low < figures["accuracy"] < high


def test_a_slice_is_small_below_thirty():
    (result,) = of(side=["left"] * SMALL + ["right"] * (80 - SMALL))["slices"]
    assert {row["value"]: row["small"] for row in result["rows"]} == {"left": False, "right": False}


def test_many_numbers_are_cut_at_their_quartiles():
    (result,) = of(year=[str(number) for number in range(79)] + [None])["slices"]
    assert [(row["value"], row["n"]) for row in result["rows"]] == [
        ("0 to 19.5", 20),
        ("19.5 to 39", 20),
        ("39 to 58.5", 19),
        ("58.5 to 78", 20),
        ("", 1),
    ]


def test_columns_of_one_value_or_of_many_texts_are_left_out_and_named():
    result = of(site=["x"] * 80, author=[f"author {number}" for number in range(80)], ok=[True, False] * 40)
    assert [one["column"] for one in result["slices"]] == ["ok"]
    assert [row["value"] for row in result["slices"][0]["rows"]] == ["false", "true"]
    assert result["slices_left_out"] == [{"column": "site", "values": 1}, {"column": "author", "values": 80}]
