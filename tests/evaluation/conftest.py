"""Runs that were never trained: weights set by hand, too sure of themselves, on images of which some deceive them."""

import csv
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.data.items import PART_NAMES
from kerasimg.data.sources import open_source
from kerasimg.data.split import record
from kerasimg.models.classifier import Classifier
from kerasimg.run_folder import MODEL

CLASSES = {
    "multiclass": ["blue", "green", "red"],
    "binary": ["ok", "red"],
    "multilabel": ["blue", "green", "red"],
}
SURE = 0.1
"""Logit per step of a channel; the images justify a quarter of it."""


@pytest.fixture(autouse=True)
def with_figures(built_figures: None) -> None:
    """What evaluations find here is unusual, and figures are made of it."""


def write_images(folder: Path, task: str, per_part: int = 60, seed: int = 0) -> Path:
    """A manifest of images 4 x 4, whose brightest channel says what they are, as a rule."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for part in PART_NAMES:
        for number in range(per_part):
            if task == "multiclass":
                on = np.eye(3)[number % 3]
            elif task == "binary":
                on = np.array([0, 0, number % 2])
            else:
                on = random.integers(0, 2, 3)
            # Channels in the order of the classes: blue, green, red.
            channels = 100 + 40 * on + random.normal(0, 40, 3)
            pixels = np.tile(np.clip(channels[::-1], 0, 255), (4, 4, 1)).astype("uint8")
            name = f"{part}-{number:03}.png"
            PIL.Image.fromarray(pixels).save(folder / name)
            labels = [label for label, there in zip(("blue", "green", "red"), on, strict=True) if there]
            said = "|".join(labels) if task == "multilabel" else (labels or ["ok"])[0]
            rows.append((name, said, part, "old" if number % 4 else "new"))
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "labels" if task == "multilabel" else "label", "split", "camera"), *rows])
    return folder / "list.csv"


def by_hand(task: str, sure: float = SURE, tilt: float = 0.0) -> Classifier:
    """A classifier that goes by the channels; `tilt` makes it prefer its last class."""
    units = 1 if task == "binary" else 3
    last = {"layer": "Dense", "units": units, "activation": "softmax" if task == "multiclass" else "sigmoid"}
    spec = kerasimg.load(
        {
            "kerasimg": 1,
            "name": "hand",
            "task": task,
            "image": {"size": [4, 4]},
            "model": [{"layer": "GlobalAveragePooling2D"}, last],
        }
    )
    model = kerasimg.build(spec)
    kernel = 255 * sure * np.eye(3)[::-1]  # the model brings pixels to 0-1
    bias = np.full(units, -120 * sure)
    bias[-1] += tilt
    model.set_weights([kernel[:, -units:], bias])
    return Classifier(model, spec, tuple(CLASSES[task]))


MakeRun = Callable[..., Run]


@pytest.fixture(scope="session")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """lists("binary") is the manifest of the task's images."""
    made: dict[str, Path] = {}

    def of_task(task: str) -> Path:
        if task not in made:
            made[task] = write_images(tmp_path_factory.mktemp(task) / "images", task)
        return made[task]

    return of_task


@pytest.fixture(scope="session")
def evaluated_once(tmp_path_factory: pytest.TempPathFactory, lists: Callable[[str], Path]) -> Callable[..., Path]:
    """The folder of a run that is made once, for copies."""

    @cache
    def make(task: str, **arguments: Any) -> Path:
        folder = tmp_path_factory.mktemp("evaluated")
        by_hand(task, **arguments).save(folder / MODEL)
        data = lists(task)
        source = open_source(data, task)
        parts = {part: np.flatnonzero(source.parts == code) for code, part in enumerate(PART_NAMES)}
        stored = record(source, parts) | {"where": str(data)}
        (folder / "data.json").write_text(json.dumps(stored))
        (folder / "spec.json").write_text("{}")
        kerasimg.evaluate(folder)
        return folder

    return make


@pytest.fixture
def make_run(tmp_path: Path, evaluated_once: Callable[..., Path]) -> MakeRun:
    """make_run("binary") is a run on the task's images, evaluated on its test part."""

    def make(task: str, name: str = "run", **arguments: Any) -> Run:
        return Run(shutil.copytree(evaluated_once(task, **arguments), tmp_path / name))

    return make
