from pathlib import Path
from typing import Any

import kerasimg


def test_a_run_shows_its_figures_and_curves(tmp_path: Path, images: Any, tiny: Any):
    data = images(tmp_path / "colours", {"red": 10, "blue": 10})
    run = kerasimg.train(tiny(), data=data, out=tmp_path / "runs", verbose=0, report=False)
    shown = run._repr_html_()
    assert f"{run.scores['accuracy']:.4f}" in shown
    assert (shown.count("<polyline"), "val_loss, 3 epochs" in shown) == (3, True)
    assert "http" not in shown


def test_an_unfinished_run_shows_what_it_has(tmp_path: Path):
    (tmp_path / "spec.json").write_text("{}")
    (tmp_path / "classes.json").write_text('["<b>", "dog"]')
    shown = kerasimg.Run(tmp_path)._repr_html_()
    assert ("&lt;b&gt;, dog" in shown, "<svg" in shown) == (True, False)
