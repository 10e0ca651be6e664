"""Accuracy on corrupted images: each corruption changes any image more with its severity, and the table is stored."""

import json

import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError
from kerasimg.evaluation.corruptions import CORRUPTIONS, corrupt


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(64, 48, 3), (33, 40, 1)])
def test_a_corruption_keeps_the_form_and_grows_with_the_severity(name: str, shape: tuple[int, int, int]):
    rows, columns = np.indices(shape[:2])
    waves = 128 + 60 * np.sin(rows / 3) * np.cos(columns / 5)
    image = np.clip(waves[..., None] + np.arange(shape[2]) * 20, 0, 255).astype(np.uint8)
    changes = []
    for severity in (1, 5):
        changed = corrupt(image, name, severity, np.random.default_rng(0))
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
        assert np.array_equal(changed, corrupt(image, name, severity, np.random.default_rng(0)))
        changes.append(np.abs(changed.astype(float) - image).mean())
    assert changes[0] > 0
    assert changes[0] < changes[1]


def test_many_channels_and_a_single_pixel_can_be_corrupted():
    for name in CORRUPTIONS:
        for shape in ((1, 1, 3), (20, 20, 4), (20, 20, 5)):
            image = np.full(shape, 100, np.uint8)
            assert corrupt(image, name, 3, np.random.default_rng(0)).shape == shape, name


def test_robustness_is_a_table_and_a_plot_of_the_run(make_run):
    run = make_run("multiclass")
    result = kerasimg.robustness(run, corruptions=["contrast", "gaussian_noise"], images=30)
    assert result.n == 30
    # The images are of one colour each, which contrast does not change.
    assert [row["accuracy"] for row in result.rows["contrast"]] == [result.clean["accuracy"]] * 5
    assert result.rows["gaussian_noise"][4]["confidence"] != result.clean["confidence"]
    assert result.mean == pytest.approx(np.mean([row["accuracy"] for rows in result.rows.values() for row in rows]))
    stored = json.loads((run.folder / "evaluation/robustness.json").read_text())
    assert stored["rows"]["contrast"][4]["severity"] == 5
    assert (run.folder / "evaluation/robustness.png").stat().st_size > 1000
    with pytest.raises(CallError, match="no corruption 'fogg'; did you mean 'fog'"):
        run.robustness(corruptions=["fogg"])
