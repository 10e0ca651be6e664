import io

import numpy as np
from rich.console import Console

from kerasimg.evaluation.score_table import print_scores
from kerasimg.evaluation.scores import scores


def printed(found, **arguments):
    """The lines that are printed, stripped, without the empty ones."""
    console = Console(file=io.StringIO(), width=100, **arguments)
    print_scores(found, console)
    return [line.strip() for line in console.file.getvalue().splitlines() if line.strip()]


def of_classes(truth, decided, classes):
    return scores(truth, np.eye(len(classes))[decided], classes, "multiclass")


def test_two_classes_are_printed_as_plain_text():
    found = scores([0, 0, 1], [[0.75], [0.25], [0.5]], ["ok", "[red]defect"], "binary")
    assert printed(found) == [
        "3 images, 2 classes",
        "figure                             value",
        "accuracy                          0.3333",
        "balanced accuracy                 0.2500",
        "precision of [red]defect          0.0000",
        "recall of [red]defect             0.0000",
        "F1 of [red]defect                 0.0000",
        "ROC AUC                           0.5000",
        "average precision of [red]defect  0.5000",
        "log loss                          0.7890",
        "Brier score                       0.2917",
        "calibration error                 0.3333",
        "Each class",
        "class        precision  recall      F1  average precision  ROC AUC  support",
        "ok              0.5000  0.5000  0.5000             0.8333   0.5000        2",
        "[red]defect     0.0000  0.0000  0.0000             0.5000   0.5000        1",
        "Most confused",
        "truth        taken for    images  of the class",
        "ok           [red]defect       1           50%",
        "[red]defect  ok                1          100%",
    ]


def test_a_terminal_gets_lines_and_styles():
    found = of_classes([0, 1], [0, 1], ["a", "b"])
    assert any("\x1b[" in line for line in printed(found, force_terminal=True, color_system="standard"))
    assert not any("\x1b[" in line or "─" in line for line in printed(found))


def test_an_undefined_figure_and_a_class_without_images_are_a_dash():
    lines = printed(scores([0], [[0.25]], ["a", "b"], "binary"))
    assert ["ROC", "AUC", "-"] in [line.split() for line in lines]
    assert "b              -       -       -                  -        -        0" in lines


def test_nothing_is_confused_where_everything_is_right():
    assert "Most confused" not in printed(of_classes([0, 1], [0, 1], ["a", "b"]))


def test_the_five_pairs_most_confused_come_most_first():
    truth = [0] * 6 + [1] * 5 + [2] * 4 + [3] * 3 + [4] * 2 + [5]
    lines = printed(of_classes(truth, [0] + [(label + 1) % 6 for label in truth[1:]], list("abcdef")))
    start = lines.index("Most confused") + 2
    assert [line.split() for line in lines[start:]] == [
        ["a", "b", "5", "83%"],
        ["b", "c", "5", "100%"],
        ["c", "d", "4", "100%"],
        ["d", "e", "3", "100%"],
        ["e", "f", "2", "100%"],
    ]


def test_of_many_classes_the_worst_and_the_best_are_shown_that_have_images():
    k = 40
    # Class i has 40 images, of which i are right; the last two have none.
    truth = np.repeat(np.arange(k - 2), k)
    decided = np.where(np.tile(np.arange(k), k - 2) < truth, truth, k - 1)
    lines = printed(of_classes(truth, decided, [f"c{number}" for number in range(k)]))
    start = lines.index("Worst and best 10 of 38 classes") + 2
    shown = [line.split()[0] for line in lines[start : start + 21]]
    assert shown == [f"c{number}" for number in range(10)] + ["..."] + [f"c{number}" for number in range(28, 38)]


def test_of_many_classes_few_of_which_have_images_those_few_are_shown():
    lines = printed(of_classes([7, 7, 3, 3], [7, 3, 3, 3], [f"c{number}" for number in range(40)]))
    start = lines.index("Classes with images, worst first") + 2
    assert [line.split()[0] for line in lines[start : start + 3]] == ["c7", "c3", "Most"]


def test_labels_are_printed_with_their_average_precision_and_without_pairs():
    lines = printed(scores([[1, 0], [0, 1]], [[0.75, 0.25], [0.25, 0.75]], ["a", "b"], "multilabel"))
    assert "class  precision  recall      F1  average precision  ROC AUC  support" in lines
    assert "a         1.0000  1.0000  1.0000             1.0000   1.0000        1" in lines
    assert "Most confused" not in lines


def test_the_default_is_standard_output(capsys):
    print_scores(of_classes([0, 1], [0, 1], ["a", "b"]))
    assert capsys.readouterr().out.startswith("2 images, 2 classes")


def test_intervals_stand_beside_the_figures_and_slices_below():
    found = of_classes([0, 0, 1, 1], [0, 1, 1, 1], ["a", "b"])
    row = {
        "n": 2,
        "small": True,
        "figures": {"accuracy": 0.5, "macro_f1": 0.4},
        "intervals": {"accuracy": [0.1, 0.9], "macro_f1": None},
    }
    found |= {
        "intervals": {"accuracy": [0.3, 0.95], "macro_f1": None},
        "intervals_by": {"level": 0.95},
        "slices": [{"column": "camera", "rows": [{"value": "old", **row}, {"value": "", **row}]}],
    }
    lines = [line.split() for line in printed(found)]
    assert ["figure", "value", "95%", "interval"] in lines
    assert ["accuracy", "0.7500", "0.3000", "to", "0.9500"] in lines
    assert ["macro", "F1", "0.7333", "-"] in lines
    assert ["camera", "images", "accuracy", "interval", "macro", "F1", "interval"] in lines
    assert ["old", "(few)", "2", "0.5000", "0.1000", "to", "0.9000", "0.4000", "-"] in lines
    assert lines[-1][:2] == ["(none)", "(few)"]
