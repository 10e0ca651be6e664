"""The model of a run, as the process beside the studio asks it."""

import shutil
from pathlib import Path

import pytest

import kerasimg
from kerasimg import log
from kerasimg.errors import DataError
from kerasimg.studio.command import run_recorder
from kerasimg.studio.model_process import Model


@pytest.fixture(scope="module")
def model(images, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    images(folder / "photos", {"red": 12, "blue": 12})
    names = [f"{label}/{number:02}.png" for label in ("red", "blue") for number in range(12)]
    parts = (["train"] * 8 + ["test"] * 4) * 2
    rows = [f"../photos/{name},{name.split('/')[0]},{part}" for name, part in zip(names, parts, strict=True)]
    (folder / "state").mkdir()
    (folder / "state/labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    spec = tiny(fit={"validation_split": 0, "stages": [{"epochs": 1}]})
    recorder = run_recorder(folder / "job.run")
    log.LOGGER.addFilter(recorder)
    run = kerasimg.train(spec, data=folder / "state/labels.csv", out=folder, report=False)
    log.LOGGER.removeFilter(recorder)
    (folder / "photos/red/00.png").write_bytes(b"damaged since")
    (folder / "photos/blue/01.png").unlink()
    return Model(run.folder)


def test_the_run_of_a_job_is_known_from_its_beginning(model):
    assert Path((model.run.path.parent / "job.run").read_text()) == model.run.path


def test_the_nearest_training_images_are_named_past_one_that_cannot_be_read(model):
    folder = model.run.path.parent / "photos"
    for name in ("red/02.png", "red/03.png", "blue/02.png"):
        nearest = model.nearest((folder / name).read_bytes())
        assert nearest[0] == (f"../photos/{name}", pytest.approx(1, abs=1e-4))
        assert {"../photos/red/00.png", "../photos/blue/01.png"}.isdisjoint(path for path, _ in nearest)
    with pytest.raises(DataError):
        model.nearest(b"none")


def test_images_to_label_next_are_those_that_can_be_read(model, tmp_path):
    folder = model.run.path.parent / "photos"
    (tmp_path / "broken.png").write_bytes(b"none")
    shutil.copy(folder / "red/09.png", tmp_path / "a.png")
    chosen = model.label_next([str(tmp_path / "broken.png"), str(tmp_path / "a.png"), str(folder / "blue/09.png")], 5)
    assert sorted(place for place, *_ in chosen) == [1, 2]
    assert all(0 <= margin <= 1 and likely in ("red", "blue") for _, margin, likely in chosen)
    assert model.label_next([], 5) == []
