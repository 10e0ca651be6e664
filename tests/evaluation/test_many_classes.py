"""Above some hundred classes, files hold no number for each pair of an image and a class, or of two classes."""

import json

import numpy as np
import pytest
import sklearn.metrics as sk

from kerasimg.errors import CallError
from kerasimg.evaluation import scores as module
from kerasimg.evaluation.evaluate import write_scores
from kerasimg.evaluation.intervals import resampled
from kerasimg.evaluation.predictions import LISTED, MANY_CLASSES, STORED, read_predictions, write_predictions
from kerasimg.evaluation.scores import DRAWN_CLASSES, drawn_confusion, scores

K = MANY_CLASSES + 44
CLASSES = [f"class {number}" for number in range(K)]


@pytest.fixture(scope="module")
def answers():
    """(truth, p) of 60 images: the true class is among the first in half of the rows only."""
    random = np.random.default_rng(3)
    p = random.dirichlet(np.full(K, 0.05), 60).astype("float32")
    truth = np.where(np.arange(60) % 2, p.argmax(axis=1), random.integers(0, K, 60))
    return truth, p


def test_the_confusion_is_a_list_of_cells(answers):
    truth, p = answers
    found = scores(truth, p, CLASSES, "multiclass")
    assert "confusion" not in found
    wanted = sk.confusion_matrix(truth, p.argmax(axis=1), labels=range(K))
    assert found["confusion_cells"] == [[i, j, wanted[i, j]] for i, j in zip(*np.nonzero(wanted), strict=True)]
    np.testing.assert_array_equal(drawn_confusion(found), wanted)
    assert sum(cell[2] for cell in found["confusion_cells"]) == 60


def test_the_last_number_of_classes_with_a_dense_confusion_matrix(answers):
    truth, p = answers
    few = p[:, :MANY_CLASSES] + 1e-3
    found = scores(truth % MANY_CLASSES, few, CLASSES[:MANY_CLASSES], "multiclass")
    assert "confusion_cells" not in found
    assert len(found["confusion"]) == MANY_CLASSES


def test_figures_are_those_of_scikit_learn(answers):
    truth, p = answers
    found = scores(truth, p, CLASSES, "multiclass")
    exact = p.astype(float) / p.astype(float).sum(axis=1, keepdims=True)
    decision = p.argmax(axis=1)
    assert found["accuracy"] == sk.accuracy_score(truth, decision)
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, exact, labels=range(K)), rel=1e-12)
    assert found["top_5_accuracy"] == sk.top_k_accuracy_score(truth, exact, k=5, labels=range(K))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, decision, average="macro", zero_division=0))


def test_a_block_of_rows_at_a_time_gives_the_same_figures(answers, monkeypatch):
    truth, p = answers
    whole, drawn = scores(truth, p, CLASSES, "multiclass"), resampled(truth, p, "multiclass", resamples=20)
    monkeypatch.setattr(module, "_CHUNK", 7 * K)
    assert scores(truth, p, CLASSES, "multiclass") == whole
    for name, draws in resampled(truth, p, "multiclass", resamples=20).items():
        np.testing.assert_array_equal(draws, drawn[name])


def test_predictions_come_back_with_the_decisions_ranks_and_losses(answers, tmp_path):
    truth, p = answers
    ids = [f"{number}.png" for number in range(60)]
    write_predictions(tmp_path / "p.csv", ids, truth, p, CLASSES, "multiclass", extras={"site": ["x"] * 60})
    found = read_predictions(tmp_path / "p.csv", "multiclass")
    assert (found.ids, found.classes, found.extras) == (ids, CLASSES, {"site": ["x"] * 60})
    np.testing.assert_array_equal(found.truth, truth)
    np.testing.assert_array_equal(found.decision, p.argmax(axis=1))
    before = scores(truth, p, CLASSES, "multiclass")
    after = scores(found.truth, found.probabilities, CLASSES, "multiclass")
    for name in ("accuracy", "top_k_accuracy", "macro_f1", "confusion_cells", "most_confused"):
        assert after[name] == before[name], name
    assert after["log_loss"] == pytest.approx(before["log_loss"], rel=1e-6)
    assert after["brier_score"] == pytest.approx(before["brier_score"], rel=1e-3)


def test_the_table_names_the_most_likely_classes(answers, tmp_path):
    truth, p = answers
    write_predictions(tmp_path / "p.csv", [str(row) for row in range(60)], truth, p, CLASSES, "multiclass")
    header, first, *_ = (tmp_path / "p.csv").read_text().splitlines()
    assert header.split(",")[4:] == [f"{each}:{k + 1}" for k in range(LISTED) for each in ("top", "top_prob")]
    top = np.argsort(-p[0], kind="stable")[:LISTED]
    assert first.split(",")[4::2] == [CLASSES[k] for k in top]
    np.testing.assert_array_equal(np.array(first.split(",")[5::2], "float32"), p[0, top])


def test_equal_probabilities_stay_equal(tmp_path):
    p = np.full((2, K), 1 / K, "float32")
    write_predictions(tmp_path / "p.csv", ["a", "b"], [0, K - 1], p, CLASSES, "multiclass")
    found = read_predictions(tmp_path / "p.csv", "multiclass")
    np.testing.assert_array_equal(found.probabilities, p)
    np.testing.assert_array_equal(found.decision, [0, 0])


def test_of_equal_probabilities_the_first_are_stored_so_that_the_decision_stays(tmp_path):
    """As an int8 model gives them: 180 of the classes share the probability."""
    random = np.random.default_rng(0)
    p = np.zeros((40, K), "float32")
    for row in p:
        row[random.choice(K, 180, replace=False)] = 1 / 180
    truth = random.integers(0, K, 40)
    write_predictions(tmp_path / "p.csv", [str(row) for row in range(40)], truth, p, CLASSES, "multiclass")
    found = read_predictions(tmp_path / "p.csv", "multiclass")
    np.testing.assert_array_equal(found.decision, p.argmax(axis=1))
    np.testing.assert_array_equal(found.probabilities.argmax(axis=1), p.argmax(axis=1))


def test_several_labels_come_back_exactly(tmp_path):
    p = np.random.default_rng(0).random((3, K)).astype("float32")
    truth = (p > 0.7).astype(int)
    write_predictions(tmp_path / "p.csv", ["a", "b", "c"], truth, p, CLASSES, "multilabel")
    found = read_predictions(tmp_path / "p.csv", "multilabel")
    np.testing.assert_array_equal(found.probabilities, p)
    np.testing.assert_array_equal(found.truth, truth)


@pytest.mark.parametrize("content", [None, b"", b"\x08\0\0\0\0\0\0\0{}      ", b"no safetensors"])
def test_a_damaged_file_of_probabilities_is_named(answers, content, tmp_path):
    truth, p = answers
    write_predictions(tmp_path / "p.csv", [str(row) for row in range(60)], truth, p, CLASSES, "multiclass")
    file = tmp_path / "p.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(CallError, match=r"p\.safetensors"):
        read_predictions(tmp_path / "p.csv", "multiclass")


def test_files_of_ten_thousand_classes_grow_with_the_images_not_with_the_classes_squared(tmp_path):
    k, n = 10_000, 50
    assert k > DRAWN_CLASSES
    random = np.random.default_rng(0)
    p = random.dirichlet(np.full(k, 0.01), n).astype("float32")
    truth, classes = random.integers(0, k, n), [str(number) for number in range(k)]
    found = scores(truth, p, classes, "multiclass")
    write_scores(tmp_path, found)
    write_predictions(tmp_path / "predictions.csv", classes[:n], truth, p, classes, "multiclass")
    assert not (tmp_path / "confusion.png").exists()
    assert sum(len(file.read_bytes()) for file in tmp_path.iterdir()) < 5_000_000
    assert len(json.loads((tmp_path / "metrics.json").read_text())["confusion_cells"]) <= n
    assert (tmp_path / "predictions.safetensors").stat().st_size < n * (STORED * 8 + 8) + 200_000
