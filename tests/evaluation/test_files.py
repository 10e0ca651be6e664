import json

import numpy as np
import pytest
from PIL import Image

from kerasimg.evaluation.evaluate import write_scores
from kerasimg.evaluation.scores import scores
from kerasimg.figures import confusion_figure, reliability_figure
from kerasimg.run_folder import scores_as_json

pytestmark = pytest.mark.usefixtures("drawn_figures")


def evaluated(k=3, n=20, task="multiclass", classes=None):
    random = np.random.default_rng(k)
    p = random.dirichlet(np.ones(k), n)
    truth = random.integers(0, 2, (n, k)) if task == "multilabel" else random.integers(0, k, n)
    classes = classes or [f"class {number}" for number in range(k)]
    return scores(truth, p[:, :1] if task == "binary" else p, classes, task)


def drawn_texts(figure):
    """The counts in the cells of a confusion matrix."""
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize(
    ("task", "k", "files"),
    [
        ("multiclass", 3, {"metrics.json", "confusion.png", "calibration.png"}),
        ("binary", 2, {"metrics.json", "confusion.png", "calibration.png"}),
        ("multilabel", 3, {"metrics.json", "calibration.png"}),
    ],
)
def test_the_files_of_each_task(task, k, files, tmp_path):
    found = evaluated(k, task=task)
    write_scores(tmp_path / "evaluation", found)
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} == files
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text(encoding="utf-8")) == found


def test_json_has_one_line_for_a_row_of_the_confusion_matrix_and_leaves_names_alone():
    text = scores_as_json({"classes": ["[\n1,\n 2\n]", "猫"], "confusion": [[1, 2], [3, 40]], "roc_auc": None})
    assert text.splitlines() == [
        "{",
        '  "classes": [',
        '    "[\\n1,\\n 2\\n]",',
        '    "猫"',
        "  ],",
        '  "confusion": [',
        "    [ 1, 2 ],",
        "    [ 3, 40 ]",
        "  ],",
        '  "roc_auc": null',
        "}",
    ]


def test_a_figure_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        scores_as_json({"roc_auc": float("nan")})


@pytest.mark.parametrize(("k", "widest"), [(2, 900), (30, 1700), (200, 3200)])
def test_the_confusion_matrix_grows_with_the_classes(k, widest, tmp_path):
    write_scores(tmp_path, evaluated(k, n=3 * k))
    with Image.open(tmp_path / "confusion.png") as image:
        assert widest * 0.5 < image.width < widest


def test_counts_stand_in_the_cells_of_a_small_confusion_matrix_only():
    assert drawn_texts(confusion_figure([[5, 1], [0, 7]], ["a", "b"])) == ["5", "1", "7"]
    assert drawn_texts(confusion_figure(np.eye(31, dtype=int).tolist(), ["x"] * 31)) == []


def test_every_class_is_named_up_to_the_limit_then_every_second():
    for k, named in ((250, 250), (400, 200)):
        axes = confusion_figure(np.eye(k, dtype=int).tolist(), [str(i) for i in range(k)]).axes[0]
        assert len(axes.get_yticklabels()) == named


def test_names_that_are_long_odd_or_in_another_script_are_drawn_without_a_warning(tmp_path):
    classes = ["costs $x_$ {", "猫", "word " * 20]
    figure = confusion_figure(np.eye(3, dtype=int).tolist(), classes)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "costs $x_$ {",
        "猫",
        "word word word word word word w…",
    ]
    write_scores(tmp_path, evaluated(3, classes=classes))
    assert (tmp_path / "confusion.png").stat().st_size > 0


def test_the_reliability_diagram_shows_accuracy_and_count_of_each_bin():
    bins = [
        {"low": 0.0, "high": 0.5, "n": 0, "accuracy": None, "confidence": None},
        {"low": 0.5, "high": 1.0, "n": 4, "accuracy": 0.75, "confidence": 0.9},
    ]
    upper, lower = reliability_figure(bins, 0.15).axes
    assert [bar.get_height() for bar in upper.patches] == [0, 0.75]
    assert [bar.get_height() for bar in lower.patches] == [0, 4]
    assert upper.get_title() == "Expected calibration error 0.150"
