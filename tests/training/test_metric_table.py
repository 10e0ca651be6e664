"""Every metric that a spec can name, on every head and task: its value against scikit-learn or NumPy, or a refusal."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.spec.metrics import METRICS
from kerasimg.training.objective import make_objective

K = 3
RNG = np.random.default_rng(7)
ROWS = 60
TASKS = ("multiclass", "binary", "multilabel")
HEADS = ("softmax", "sigmoid", "logits")
RIGHT_HEADS = {("multiclass", "softmax"), ("binary", "sigmoid"), ("multilabel", "sigmoid")} | {
    (task, "logits") for task in TASKS
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    **{name: {"num_classes": K} for name in ("BalancedAccuracy", "F1", "MatthewsCorrelation")},
    **{name: {"num_classes": K} for name in ("SparsePrecision", "SparseRecall")},
    "FBetaScore": {"beta": 2.0},
    "PrecisionAtRecall": {"recall": 0.6},
    "RecallAtPrecision": {"precision": 0.6},
    "SensitivityAtSpecificity": {"specificity": 0.6},
    "SpecificityAtSensitivity": {"sensitivity": 0.6},
    "TopKCategoricalAccuracy": {"k": 2},
    "SparseTopKCategoricalAccuracy": {"k": 2},
}
ONE_OF_SEVERAL = {name for name in METRICS if "Categorical" in name} | {"KLDivergence"}
EACH_ALONE = {"BinaryAccuracy", "BinaryCrossentropy", "Hinge", "SquaredHinge"}
NOT_SEVERAL = {*("BalancedAccuracy", "ExpectedCalibrationError", "F1", "MatthewsCorrelation"), "SparsePrecision"} | {
    "SparseRecall"
}
ON_SCORES = {"Hinge", "SquaredHinge", "CategoricalHinge"}


def refused(name: str, task: str, head: str) -> bool:
    if (task, head) not in RIGHT_HEADS:
        return True
    wrong_task = {
        "multiclass": EACH_ALONE,
        "binary": ONE_OF_SEVERAL,
        "multilabel": ONE_OF_SEVERAL | NOT_SEVERAL,
    }[task]
    return name in wrong_task or (name in ON_SCORES and head != "logits")


def spec_of(task: str, head: str, metric: Any) -> Any:
    activation = None if head == "logits" else head
    units = 1 if task == "binary" else K
    model = [{"layer": "Flatten"}, {"layer": "Dense", "units": units, "activation": activation}]
    document = {"kerasimg": 1, "name": "tiny", "image": {"size": [2, 2]}, "task": task, "model": model}
    return kerasimg.load({**document, "compile": {"metrics": [metric]}})


@cache
def model_of(task: str, head: str) -> Any:
    return kerasimg.build(spec_of(task, head, "accuracy"))


@cache
def answers(task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels in the form of the pipeline for the loss "auto", probabilities and scores."""
    if task == "multiclass":
        truth = np.arange(ROWS) % K
        scores = RNG.normal(size=(ROWS, K)) + 1.2 * np.eye(K)[truth]
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return truth, p, scores
    shape = (ROWS, 1) if task == "binary" else (ROWS, K)
    truth = (RNG.random(shape) < 0.4).astype("float32")
    scores = RNG.normal(size=shape) + 1.2 * truth
    return truth, 1 / (1 + np.exp(-scores)), scores


def sweep(truth: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall, specificity at each of Keras' 200 thresholds."""
    result = []
    for threshold in np.linspace(0, 1, 200)[1:-1]:
        said = p > threshold
        hit, false = (said & (truth == 1)).sum(), (said & (truth == 0)).sum()
        result.append((hit / max(hit + false, 1), hit / (truth == 1).sum(), 1 - false / (truth == 0).sum()))
    return tuple(np.array(result).T)


def calibration_error(truth: np.ndarray, p: np.ndarray) -> float:
    columns = p if p.shape[1] > 1 else np.hstack([1 - p, p])
    sure, hit = columns.max(axis=1), columns.argmax(axis=1) == truth.ravel()
    bins = np.minimum(np.ceil(sure * 15).astype(int) - 1, 14)
    return sum(abs((sure - hit)[bins == k].sum()) for k in range(15)) / len(sure)


def expected(name: str, task: str) -> float:
    """The value by scikit-learn or NumPy."""
    truth, p, scores = answers(task)
    columns = np.eye(K)[truth] if task == "multiclass" else truth
    decision = p.argmax(axis=1) if task == "multiclass" else (p > 0.5).astype(int)
    flat, flat_p, above = columns.ravel(), p.ravel(), p.ravel() > 0.5
    ones = truth.ravel() if task != "multilabel" else None
    said = decision.ravel() if task != "multilabel" else decision
    average = "binary" if task == "binary" else "macro"
    signs = 2 * columns - 1
    own = {"zero_division": 0, "average": "macro"}
    precision, recall, specificity = sweep(flat, flat_p)
    top_2 = np.argsort(-p, axis=1)[:, :2] if task == "multiclass" else None
    of_true = (columns * scores).sum(axis=1)
    return float(
        {
            "accuracy": lambda: (said == (truth if task == "multilabel" else ones)).mean(),
            "f1": lambda: sk.f1_score(truth, decision, average=average, zero_division=0),
            "F1Score": lambda: sk.f1_score(truth, decision, average=average, zero_division=0),
            "FBetaScore": lambda: sk.fbeta_score(truth, decision, beta=2.0, average=average, zero_division=0),
            "AUC": lambda: sk.roc_auc_score(flat, flat_p),
            "BinaryAccuracy": lambda: (above == flat).mean(),
            "BinaryCrossentropy": lambda: sk.log_loss(flat, flat_p),
            "CategoricalAccuracy": lambda: (decision == truth).mean(),
            "SparseCategoricalAccuracy": lambda: (decision == truth).mean(),
            "CategoricalCrossentropy": lambda: sk.log_loss(truth, p),
            "SparseCategoricalCrossentropy": lambda: sk.log_loss(truth, p),
            "KLDivergence": lambda: sk.log_loss(truth, p),
            "CategoricalHinge": lambda: sk.hinge_loss(truth, scores, labels=list(range(K))),
            "Hinge": lambda: np.maximum(1 - signs * scores, 0).mean(),
            "SquaredHinge": lambda: (np.maximum(1 - signs * scores, 0) ** 2).mean(),
            "FalseNegatives": lambda: ((flat == 1) & ~above).sum(),
            "FalsePositives": lambda: ((flat == 0) & above).sum(),
            "TrueNegatives": lambda: ((flat == 0) & ~above).sum(),
            "TruePositives": lambda: ((flat == 1) & above).sum(),
            "Precision": lambda: sk.precision_score(flat, above),
            "Recall": lambda: sk.recall_score(flat, above),
            "PrecisionAtRecall": lambda: precision[recall >= 0.6].max(),
            "RecallAtPrecision": lambda: recall[precision >= 0.6].max(),
            "SensitivityAtSpecificity": lambda: recall[specificity >= 0.6].max(),
            "SpecificityAtSensitivity": lambda: specificity[recall >= 0.6].max(),
            "TopKCategoricalAccuracy": lambda: (top_2 == truth[:, None]).any(axis=1).mean(),
            "SparseTopKCategoricalAccuracy": lambda: (top_2 == truth[:, None]).any(axis=1).mean(),
            "BalancedAccuracy": lambda: sk.balanced_accuracy_score(ones, said),
            "MatthewsCorrelation": lambda: sk.matthews_corrcoef(ones, said),
            "F1": lambda: sk.f1_score(ones, said, **own),
            "SparsePrecision": lambda: sk.precision_score(ones, said, **own),
            "SparseRecall": lambda: sk.recall_score(ones, said, **own),
            "ExpectedCalibrationError": lambda: calibration_error(truth, p),
        }[name]()
        if of_true is not None
        else 0.0
    )


def written(name: str, task: str) -> Any:
    given = dict(ARGUMENTS.get(name, {}))
    if "num_classes" in given and task == "binary":
        given["num_classes"] = 2
    return {"type": name, **given} if given else name


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_correct_on_every_head_or_refused(name: str, head: str, task: str):
    if refused(name, task, head):
        with pytest.raises(SpecError) as caught:
            spec_of(task, head, written(name, task))
        for line in str(caught.value).split("\n"):
            assert "write" in line or "leave out" in line
        return
    classes = 2 if task == "binary" else K
    objective = make_objective(spec_of(task, head, written(name, task)), model_of(task, head), classes)
    (metric,) = objective.metrics
    truth, p, scores = answers(task)
    outputs = (scores if head == "logits" else p).astype("float32")
    for rows in (slice(0, 25), slice(25, ROWS)):
        metric.update_state(truth[rows], outputs[rows])
    figure = np.asarray(metric.result())
    assert figure.shape == ()
    # Keras' area is a sum over 200 thresholds.
    assert float(figure) == pytest.approx(expected(name, task), rel=1e-4, abs=0.01 if name == "AUC" else 1e-5)
    metric.reset_state()
    metric.update_state(truth, outputs)
    assert float(np.asarray(metric.result())) == pytest.approx(float(figure), rel=1e-5)
