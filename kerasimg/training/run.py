"""The run folder: everything that a training leaves behind, in a folder that no other run writes to."""

from __future__ import annotations

import csv
import json
import os
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kerasimg.errors import CallError
from kerasimg.models.backbones import specs_beside, write_beside
from kerasimg.models.classifier import Classifier
from kerasimg.spec.load import Spec
from kerasimg.spec.writing import dumps

PACKAGES = ("kerasimg", "keras", "tensorflow", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True)
class Run:
    """One training, as its folder holds it. `print(run)` tells where it is and what it reached."""

    folder: Path

    @staticmethod
    def create(runs: str | os.PathLike[str], name: str) -> Run:
        """A new folder `runs/<name>-<k>`, with the first free k from 1."""
        parent = Path(runs)
        parent.mkdir(parents=True, exist_ok=True)
        taken = [path.name.removeprefix(f"{name}-") for path in parent.glob(f"{name}-*")]
        k = 1 + max((int(number) for number in taken if number.isdecimal()), default=0)
        while True:
            try:
                (parent / f"{name}-{k}").mkdir()
            except FileExistsError:
                k += 1  # another run took it in the meantime
            else:
                return Run(parent / f"{name}-{k}")

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> Run:
        """The run in a folder; CallError when it holds none."""
        run = Run(Path(folder))
        if not (run.folder / "spec.json").is_file():
            raise CallError(f"'{folder}' is not the folder of a run: it holds no spec.json")
        return run

    @property
    def classifier(self) -> Classifier:
        """The trained model with its classes and spec."""
        return Classifier.open(self.folder)

    @property
    def model(self) -> Any:
        """The trained model, a plain keras.Model."""
        return self.classifier.model

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the outputs."""
        return list(self.read_json("classes.json"))

    @property
    def scores(self) -> dict[str, Any]:
        """The figures on the held-out part."""
        return dict(self.read_json("evaluation/metrics.json"))

    @property
    def history(self) -> list[dict[str, float]]:
        """One row per epoch: stage, epoch, seconds, learning_rate, then what Keras measured."""
        with (self.folder / "history.csv").open(newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]

    def read_json(self, name: str) -> Any:
        """The content of one of the run's JSON files."""
        path = self.folder / name
        if not path.is_file():
            raise CallError(f"the run '{self.folder}' has no {name}; its training did not get that far")
        return json.loads(path.read_text(encoding="utf-8"))

    def write_json(self, name: str, content: Any) -> None:
        """Write one of the run's JSON files, whole or not at all."""
        self._write(name, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)

    def write_start(self, spec: Spec, classes: tuple[str, ...], data: dict[str, Any]) -> None:
        """What is known before the first epoch."""
        write_beside(specs_beside(spec), self.folder)
        self._write("spec.json", dumps(spec.resolved))
        self.write_json("classes.json", list(classes))
        self.write_json("data.json", data)
        self.write_json("environment.json", environment())

    def __str__(self) -> str:
        try:
            scores = self.scores
        except CallError:
            return f"{self.folder} (no figures yet)"
        headline = ("accuracy", "subset_accuracy", "macro_f1", "f1")
        figures = ", ".join(f"{name} {scores[name]:.3f}" for name in headline if scores.get(name) is not None)
        return f"{self.folder} ({figures}, on {scores['n']:,} pictures)"


def environment() -> dict[str, Any]:
    """What a figure may depend on besides the spec and the data."""
    import keras

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "backend": keras.backend.backend(),
        "packages": {name: version(name) for name in PACKAGES},
    }
