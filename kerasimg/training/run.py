"""The run folder: everything that a training leaves behind, in a folder that no other run writes to."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kerasimg.backend import BACKENDS, versions
from kerasimg.errors import CallError
from kerasimg.files import PARTIAL, write_json, write_text
from kerasimg.models.backbones import specs_beside
from kerasimg.models.classifier import Classifier
from kerasimg.run_folder import CLASSES, ENVIRONMENT, EVALUATION, METRICS, SPEC, TRAINING, RunFolder
from kerasimg.spec.load import Spec
from kerasimg.spec.nodes import NAME
from kerasimg.spec.pack import write_beside
from kerasimg.spec.writing import dumps

PACKAGES = ("kerasimg", "keras", "tensorflow", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True)
class Run:
    """One training, as its folder holds it; `kerasimg.Run` is what users see."""

    folder: Path

    @staticmethod
    def create(runs: str | os.PathLike[str], name: str, fill: Callable[[Run], None] = lambda run: None) -> Run:
        """A new folder `runs/<name>-<k>`, with the first free k after the highest.

        fill: writes what it begins with. It does so under another name, so that no run is ever there in part.
        """
        parent = Path(runs)
        parent.mkdir(parents=True, exist_ok=True)
        draft = Run(parent / f".{name}-{os.getpid()}-{secrets.token_hex(4)}")
        draft.folder.mkdir()
        try:
            fill(draft)
            return Run(_first_free(parent, name, draft.folder))
        except BaseException:
            shutil.rmtree(draft.folder, ignore_errors=True)
            raise

    @staticmethod
    def require_place(runs: str | os.PathLike[str]) -> None:
        """CallError where no run can be created in `runs`: before anything was computed for one."""
        there = next(path for path in (Path(runs).absolute(), *Path(runs).absolute().parents) if path.exists())
        if not there.is_dir():
            raise CallError(f"out: '{there}' is no folder, and cannot hold a run")
        if not os.access(there, os.W_OK):
            raise CallError(f"out: '{there}' may not be written in; name another folder (--out)")

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> Run:
        """The run in a folder; CallError when it holds none."""
        return Run(RunFolder.open(folder).path)

    @property
    def files(self) -> RunFolder:
        """Its files, by what they are."""
        return RunFolder(self.folder)

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
        return list(self.read_json(CLASSES))

    @property
    def scores(self) -> dict[str, Any]:
        """The figures on the held-out part."""
        return dict(self.read_json(f"{EVALUATION}/{METRICS}"))

    @property
    def history(self) -> list[dict[str, float]]:
        """One row per epoch: stage, epoch, seconds, learning_rate, then what Keras measured."""
        return self.files.history()

    def read_json(self, name: str) -> Any:
        """The content of one of the run's JSON files."""
        return self.files.required(name)

    def write_json(self, name: str, content: Any) -> None:
        """Write one of the run's JSON files, whole or not at all."""
        write_json(self.folder / name, content)

    def write_start(
        self, spec: Spec, classes: tuple[str, ...], data: dict[str, Any], call: Mapping[str, Any] | None = None
    ) -> None:
        """What is known before the first epoch.

        call: what else the caller asked for, as `train` needs it to go on.
        """
        write_beside(specs_beside(spec), self.folder)
        for file in weights_beside(spec):
            shutil.copyfile(spec.folder / file, self.folder / file)
        named = {"name": spec.name} if NAME.fullmatch(spec.name) else {}
        self.files.write_spec({**named, **spec.resolved})
        self.files.write_classes(classes)
        self.files.write_data(data)
        self.files.write_environment(environment())
        self.files.write_training({**(call or {}), "stages": [], "finished": None})

    def write_first_spec(self, document: Mapping[str, Any]) -> None:
        """Save the spec that was chosen for the images, with its comments."""
        write_text(self.files.first_spec_file, dumps(document))

    def set_batch_size(self, size: int) -> None:
        """Have its spec say another one, with which it goes on."""
        resolved = self.read_json(SPEC)
        resolved["fit"]["batch_size"] = size
        self.files.write_spec(resolved)

    def other_surroundings(self) -> list[str]:
        """What the run began with and this process has otherwise: backend, processor cores, versions."""
        before, now = self.read_json(ENVIRONMENT), environment()
        told = {key: (before[key], now[key]) for key in ("backend", "cores")}
        names = [*now["packages"], *(name for name in before["packages"] if name not in now["packages"])]
        told |= {name: (before["packages"].get(name), now["packages"].get(name)) for name in names}
        return [f"{name} was {old}, is {new}" for name, (old, new) in told.items() if old != new]

    @property
    def finished(self) -> bool:
        """Whether its training has come to its end, figures and all."""
        return bool((self.files.training() or {"finished": True})["finished"])

    def finish(self) -> None:
        """Note that nothing is left to do, and drop what only going on would need."""
        self._note({"finished": datetime.now(UTC).isoformat(timespec="seconds")})
        self.files.checkpoint_file.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what was being written when the process was killed."""
        for path in self.folder.rglob(PARTIAL.format("*")):
            path.unlink(missing_ok=True)

    def stage_notes(self, index: int) -> dict[str, Any]:
        """What was noted of a stage, by its number; nothing where it has not begun."""
        noted = self.read_json(TRAINING)["stages"]
        return dict(noted[index]) if index < len(noted) else {}

    def note_stage(self, index: int, notes: Mapping[str, Any]) -> None:
        """Note how a stage is trained."""
        noted = self.read_json(TRAINING)["stages"][:index]
        self._note({"stages": [*noted, *({} for _ in range(index - len(noted))), dict(notes)]})

    def _note(self, facts: Mapping[str, Any]) -> None:
        self.files.write_training({**self.read_json(TRAINING), **facts})


def weights_beside(spec: Spec) -> list[str]:
    """The weights files that a spec's nodes name, and that stand beside it."""
    found: dict[str, None] = {}

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            weights = value.get("weights")
            name = weights.get("file") if isinstance(weights, dict) else weights
            if isinstance(name, str) and name.endswith(".weights.h5") and (spec.folder / name).is_file():
                found[name] = None
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            visit(inner)

    visit([spec.resolved.get("model"), spec.resolved.get("blocks")])
    return list(found)


def _first_free(parent: Path, name: str, draft: Path) -> Path:
    """The folder that a draft has become."""
    taken = [path.name.removeprefix(f"{name}-") for path in parent.glob(f"{name}-*")]
    k = 1 + max((int(number) for number in taken if number.isdecimal()), default=0)
    while True:
        folder = parent / f"{name}-{k}"
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            k += 1  # another run took it in the meantime
        else:
            return folder


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
        "packages": versions(dict.fromkeys((*PACKAGES, BACKENDS[keras.backend.backend()]))),
    }
