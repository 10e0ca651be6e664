import json
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from kerasimg import cli
from kerasimg.errors import CallError, KerasimgError
from kerasimg.training.lr_find import find_learning_rate, sweep_of

RATES = [10.0 ** (k / 10) for k in range(-40, 0)]


def test_the_suggestion_is_the_rate_at_which_the_loss_falls_fastest():
    losses = [2.0] * 15 + [2.0 - 0.1 * k for k in range(10)] + [1.1] * 10 + [5.0] * 5
    sweep = sweep_of(RATES, losses)
    assert RATES[15] <= sweep.suggestion <= RATES[24]
    assert sweep.lowest == RATES[24]


def test_a_single_lower_loss_is_not_a_suggestion():
    losses = [2.0 - 0.005 * k for k in range(40)]
    losses[3:4] = [1.95]  # a batch that was easy
    losses[20:30] = [1.9 - 0.05 * k for k in range(10)]
    assert sweep_of(RATES, losses).suggestion >= RATES[18]


@pytest.mark.parametrize("losses", [[1.0 + 0.1 * k for k in range(40)], [float("nan")] * 40])
def test_a_loss_that_never_falls_suggests_nothing(losses: list[float]):
    with pytest.raises(KerasimgError, match="the loss never fell"):
        sweep_of(RATES, losses)


def test_a_sweep_leaves_no_run_and_is_reproducible(
    tiny: Any, colours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    spec = tiny(compile={"optimizer": "SGD"}, fit={"batch_size": 8, "stages": [{"epochs": 1}]})
    options: dict[str, Any] = {"data": colours, "low": 1e-5, "high": 1.0, "steps": 30}
    first, second = (find_learning_rate(spec, **options) for _ in range(2))
    assert not list(tmp_path.iterdir())
    assert first == second
    assert 1e-5 < first.suggestion <= first.lowest <= 1.0


def test_lr_find_writes_a_plot_and_json(
    tiny: Any, colours: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "spec.json").write_text(json.dumps(tiny(fit={"batch_size": 8, "stages": [{"epochs": 1}]})))
    words = ["spec", "lr-find", tmp_path / "spec.json", "--data", colours, "--low", 1e-4, "--steps", 30, "--json"]
    monkeypatch.setattr(sys, "argv", ["kerasimg", *map(str, words), "--out", str(tmp_path / "plot.png")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    answer = json.loads(capfd.readouterr().out)
    assert len(answer["rates"]) == len(answer["losses"]) <= 30
    assert answer["suggestion"] in answer["rates"]
    with PIL.Image.open(tmp_path / "plot.png") as image:
        assert image.size == (840, 540)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 3}, "expected 0 < low < high and steps >= 10, got 1e-06, 10 and 3"),
        ({"low": 1.0, "high": 0.1}, "expected 0 < low < high"),
        ({"stage": 2}, "stage: expected 1 to 1, got 2"),
    ],
)
def test_invalid_arguments_of_a_sweep_are_refused(tiny: Any, colours: Any, arguments: dict[str, Any], message: str):
    with pytest.raises(CallError, match=message):
        find_learning_rate(tiny(), data=colours, **arguments)
