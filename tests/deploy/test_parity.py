import numpy as np
import pytest

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import ModelFile, Parity, Tolerance
from kerasimg.deploy.parity import (
    TOLERANCES,
    Bounds,
    Latency,
    Reference,
    compare,
    describe_decision,
    latency,
    line_of,
    require,
    tolerance_of,
)
from kerasimg.errors import CallError, GateError

BEFORE = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]], np.float32)
TIMES = Latency(1.0, 2.0, 500.0)


def row(bundle: Bundle, probabilities: np.ndarray, difference: float = 0.1, decided: float = 0.9) -> Parity:
    reference = Reference(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], BEFORE, np.array([0, 0, 2, 0]))
    allowed = Tolerance(difference=difference, decided=decided)
    return compare(bundle, bundle.models[0], reference, np.asarray(probabilities, np.float32), allowed, "test 1", TIMES)


def test_differences_are_counted_exactly(exported: dict[str, Bundle]):
    after = BEFORE + np.array([[-0.02, 0.02, 0], [-0.1, 0.1, 0], [0, 0, 0], [0.04, -0.04, 0]], np.float32)
    comparison = row(exported["litert"], after)
    assert comparison.greatest_difference == pytest.approx(0.1, abs=1e-6)
    assert comparison.mean_difference == pytest.approx(0.04, abs=1e-6)
    assert (comparison.same_decision, comparison.accuracy_before, comparison.accuracy_after) == (0.75, 0.75, 0.5)
    assert not comparison.passed
    assert [worst.image for worst in comparison.worst] == ["b.jpg", "d.jpg", "a.jpg", "c.jpg"]
    assert (comparison.worst[0].before, comparison.worst[0].after) == ("blue 0.400", "green 0.450")
    assert row(exported["litert"], after, 0.2, 0.75).passed
    assert not row(exported["litert"], after, 0.2, 0.8).passed
    assert not row(exported["litert"], after, 0.09, 0.7).passed


def test_loss_of_accuracy_counts_if_labels_are_known(exported: dict[str, Bundle]):
    after = BEFORE.copy()
    after[1] = [0.3, 0.45, 0.25]
    reference = Reference(["a", "b", "c", "d"], BEFORE, np.array([0, 0, 2, 1]))
    for drop, passed in ((0.25, True), (0.24, False)):
        allowed = Tolerance(difference=1, decided=0.5, accuracy_drop=drop)
        comparison = compare(
            exported["litert"], exported["litert"].models[0], reference, after, allowed, "test 1", TIMES
        )
        assert (comparison.accuracy_before, comparison.accuracy_after, comparison.passed) == (1, 0.75, passed)
    unknown = Reference(reference.names, BEFORE, None)
    assert compare(exported["litert"], exported["litert"].models[0], unknown, after, allowed, "test 1", TIMES).passed


def test_a_bound_that_allows_everything_is_not_shown(exported: dict[str, Bundle]):
    assert "(allowed 0.5), 100.00% of 4 images get the same decision (required 90.00%), accuracy" in line_of(
        row(exported["litert"], BEFORE, 0.5), "multiclass"
    )
    line = line_of(row(exported["litert"], BEFORE, 1, 0), "multiclass")
    assert "differs by 0 at most, 100.00% of 4 images get the same decision, accuracy" in line


def test_nan_never_passes(exported: dict[str, Bundle]):
    comparison = row(exported["litert"], np.where(BEFORE[2, 2] == BEFORE, np.nan, BEFORE), 1, 0)
    assert not comparison.passed
    assert (comparison.greatest_difference, comparison.mean_difference) == (None, None)
    assert comparison.worst[0].image == "c.jpg"
    assert "some probabilities are NaN or infinite" in line_of(comparison, "multiclass")


def test_error_names_the_file_and_its_worst_images(exported: dict[str, Bundle]):
    passing = row(exported["litert"], BEFORE)
    bundle = exported["litert"]
    require(bundle, [passing])
    with pytest.raises(GateError) as caught:
        require(bundle, [passing, row(exported["litert"], BEFORE[:, ::-1])])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(
        f"{bundle.folder}: model_float32.tflite: differs by 0.7 at most (allowed 0.1), 25.00% of 4"
    )
    assert lines[1] == "    failed: a probability differs by 0.7, allowed: 0.1 (--tolerance)"
    assert lines[2] == "    failed: 3 of 4 images get a different decision, allowed: 0 (--same)"
    assert lines[3] == "    c.jpg: by 0.7, red 0.800 -> blue 0.800"


def test_tolerance_of_the_caller_replaces_the_default():
    model = ModelFile(path="m.tflite", runtime="litert", precision="int8", input_dtype="uint8")
    assert tolerance_of(model) == TOLERANCES["int8"]
    assert tolerance_of(model, Bounds(0.01)) == TOLERANCES["int8"].model_copy(update={"difference": 0.01})
    assert tolerance_of(model, Bounds(None, 1)) == TOLERANCES["int8"].model_copy(update={"decided": 1})
    with pytest.raises(CallError, match="same: expected a number from 0 to 1"):
        tolerance_of(model, Bounds(None, 1.5))


@pytest.mark.parametrize(("images", "changed", "lost"), [(10, 3, 1), (34, 6, 2), (1000, 116, 28)])
def test_default_shares_become_numbers_of_images(images: int, changed: int, lost: int):
    model = ModelFile(path="m.tflite", runtime="litert", precision="int8", input_dtype="uint8")
    allowed = tolerance_of(model, images=images)
    assert (1 - allowed.decided) * images == pytest.approx(changed)
    assert allowed.accuracy_drop * images == pytest.approx(lost)
    assert tolerance_of(model, Bounds(None, 0.99, 0.0), images).decided == 0.99
    assert tolerance_of(model, Bounds(None, 0.99, 0.0), images).accuracy_drop == 0


def test_decision_is_described_by_task():
    assert describe_decision(np.array([0.3]), ("ok", "bad"), "binary", None) == "ok 0.700"
    assert describe_decision(np.array([0.3]), ("ok", "bad"), "binary", (0.2,)) == "bad 0.300"
    assert describe_decision(np.array([0.9, 0.2, 0.6]), ("a", "b", "c"), "multilabel", None) == "a + c 0.600"
    assert describe_decision(np.array([0.1, 0.2]), ("a", "b"), "multilabel", None) == "nothing 0.800"


def test_latency_is_measured_for_one_image_and_throughput_for_a_batch():
    sizes: list[int] = []
    times = latency(lambda pixels: sizes.append(len(pixels)), (2, 2, 3))
    assert set(sizes) == {1, 32}
    assert 0 <= times.p50_ms <= times.p95_ms
    assert times.per_second > 0
