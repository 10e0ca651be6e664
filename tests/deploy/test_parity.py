import numpy as np
import pytest

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import ModelFile, Parity, Tolerance
from kerasimg.deploy.parity import (
    TOLERANCES,
    Asked,
    Asks,
    Latency,
    compare,
    latency,
    line_of,
    require,
    told,
    tolerance_of,
)
from kerasimg.errors import CallError, GateError

BEFORE = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]], np.float32)
TOOK = Latency(1.0, 2.0, 500.0)


def row(bundle: Bundle, found: np.ndarray, difference: float = 0.1, decided: float = 0.9) -> Parity:
    asked = Asked(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], BEFORE, np.array([0, 0, 2, 0]))
    allowed = Tolerance(difference=difference, decided=decided)
    return compare(bundle, bundle.models[0], asked, np.asarray(found, np.float32), allowed, "test 1", TOOK)


def test_what_differs_is_counted_exactly(exported: dict[str, Bundle]):
    found = BEFORE + np.array([[-0.02, 0.02, 0], [-0.1, 0.1, 0], [0, 0, 0], [0.04, -0.04, 0]], np.float32)
    one = row(exported["litert"], found)
    assert one.greatest_difference == pytest.approx(0.1, abs=1e-6)
    assert one.mean_difference == pytest.approx(0.04, abs=1e-6)
    assert (one.same_decision, one.accuracy_before, one.accuracy_after) == (0.75, 0.75, 0.5)
    assert not one.passed
    assert [worst.image for worst in one.worst] == ["b.jpg", "d.jpg", "a.jpg", "c.jpg"]
    assert (one.worst[0].before, one.worst[0].after) == ("blue 0.400", "green 0.450")
    assert row(exported["litert"], found, 0.2, 0.75).passed
    assert not row(exported["litert"], found, 0.2, 0.8).passed
    assert not row(exported["litert"], found, 0.09, 0.7).passed


def test_a_loss_of_accuracy_counts_where_it_is_known(exported: dict[str, Bundle]):
    found = BEFORE.copy()
    found[1] = [0.3, 0.45, 0.25]
    asked = Asked(["a", "b", "c", "d"], BEFORE, np.array([0, 0, 2, 1]))
    for drop, passed in ((0.25, True), (0.24, False)):
        allowed = Tolerance(difference=1, decided=0.5, accuracy_drop=drop)
        one = compare(exported["litert"], exported["litert"].models[0], asked, found, allowed, "test 1", TOOK)
        assert (one.accuracy_before, one.accuracy_after, one.passed) == (1, 0.75, passed)
    unknown = Asked(asked.names, BEFORE, None)
    assert compare(exported["litert"], exported["litert"].models[0], unknown, found, allowed, "test 1", TOOK).passed


def test_what_is_no_number_never_passes(exported: dict[str, Bundle]):
    one = row(exported["litert"], np.where(BEFORE[2, 2] == BEFORE, np.nan, BEFORE), 1, 0)
    assert not one.passed
    assert (one.greatest_difference, one.mean_difference) == (None, None)
    assert one.worst[0].image == "c.jpg"
    assert "gives what is no number" in line_of(one)


def test_the_error_names_the_file_and_its_worst_images(exported: dict[str, Bundle]):
    sound = row(exported["litert"], BEFORE)
    require("here", [sound])
    with pytest.raises(GateError) as caught:
        require("here", [sound, row(exported["litert"], BEFORE[:, ::-1])])
    told_lines = str(caught.value).splitlines()
    assert told_lines[0].startswith("here: model_float32.tflite: differs by 0.7 at most (allowed 0.1), 25.00% of 4")
    assert told_lines[1] == "    failed: a probability differs by 0.7, allowed is 0.1 (--tolerance)"
    assert told_lines[2] == "    failed: 3 of 4 images are decided otherwise, allowed are 0 (--same)"
    assert told_lines[3] == "    c.jpg: by 0.7, red 0.800 -> blue 0.800"


def test_the_caller_s_tolerance_replaces_the_precision_s():
    model = ModelFile(path="m.tflite", runtime="litert", precision="int8", input_dtype="uint8")
    assert tolerance_of(model) == TOLERANCES["int8"]
    assert tolerance_of(model, Asks(0.01)) == TOLERANCES["int8"].model_copy(update={"difference": 0.01})
    assert tolerance_of(model, Asks(None, 1)) == TOLERANCES["int8"].model_copy(update={"decided": 1})
    with pytest.raises(CallError, match="same: expected a number from 0 to 1"):
        tolerance_of(model, Asks(None, 1.5))


@pytest.mark.parametrize(("images", "changed", "lost"), [(10, 3, 1), (34, 6, 2), (1000, 116, 28)])
def test_the_default_shares_become_numbers_of_images(images: int, changed: int, lost: int):
    model = ModelFile(path="m.tflite", runtime="litert", precision="int8", input_dtype="uint8")
    allowed = tolerance_of(model, images=images)
    assert (1 - allowed.decided) * images == pytest.approx(changed)
    assert allowed.accuracy_drop * images == pytest.approx(lost)
    assert tolerance_of(model, Asks(None, 0.99, 0.0), images).decided == 0.99
    assert tolerance_of(model, Asks(None, 0.99, 0.0), images).accuracy_drop == 0


def test_a_decision_is_told_as_its_task_wants():
    assert told(np.array([0.3]), ("ok", "bad"), "binary", None) == "ok 0.700"
    assert told(np.array([0.3]), ("ok", "bad"), "binary", (0.2,)) == "bad 0.300"
    assert told(np.array([0.9, 0.2, 0.6]), ("a", "b", "c"), "multilabel", None) == "a + c 0.600"
    assert told(np.array([0.1, 0.2]), ("a", "b"), "multilabel", None) == "nothing 0.800"


def test_latency_is_of_one_image_and_the_rate_of_a_batch():
    sizes: list[int] = []
    found = latency(lambda pixels: sizes.append(len(pixels)), (2, 2, 3))
    assert set(sizes) == {1, 32}
    assert 0 <= found.p50_ms <= found.p95_ms
    assert found.per_second > 0
