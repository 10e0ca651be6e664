"""The runs of a folder of images: ordinary run folders, trained on the labels of the studio."""

from __future__ import annotations

import hashlib
import math
import os
import time
from pathlib import Path
from typing import Any

from kerasimg import catalog
from kerasimg.data.starter_spec import ABOUT, Choices, make_spec, summarize_data
from kerasimg.deploy.bundle import PAGE
from kerasimg.deploy.manifest import FILE as BUNDLE
from kerasimg.errors import CallError, GateError, KerasimgError, SpecError, counted
from kerasimg.files import is_locked, read_json, write_text
from kerasimg.results import Evaluation, accuracy_key, figure_words
from kerasimg.run_folder import SPEC, RunFolder
from kerasimg.spec.formatting import dumps
from kerasimg.studio.jobs import Job, Jobs
from kerasimg.studio.library import Library

AUTO = "auto"
LEAST, START = 3, 30
"""Images of each class: to train, validate and test on at all, and to begin with."""
SHARE, MOST_SHARE = 0.05, 0.2
"""The share of images like the training images that may be flagged as unknown, and the largest one with few images."""


class Runs:
    """The runs on a library's images.

    Args:
        library: the images.
        jobs: what starts commands.
        out: the folder that holds runs.
    """

    def __init__(self, library: Library, jobs: Jobs, out: Path) -> None:
        self.library = library
        self.jobs = jobs
        self.out = Path(os.path.abspath(out))
        self._data: dict[Path, tuple[int, int] | None] = {}
        self._epochs: dict[Path, list[int]] = {}

    @property
    def spec_file(self) -> Path:
        """The spec that the page edits, in `.kerasimg/`."""
        return self.library.state / SPEC

    def names(self) -> list[str]:
        """Names of the runs on these images, the last one first."""
        folders = self._folders()
        return sorted(folders, key=lambda name: folders[name].stat().st_mtime, reverse=True)

    def get(self, name: str) -> RunFolder:
        """A run by its name; IndexError if it is not one on these images."""
        folders = self._folders()  # a table, so that no name can lead to another folder
        if name not in folders:
            raise IndexError(name)
        return RunFolder(folders[name])

    def _folders(self) -> dict[str, Path]:
        """Name -> folder of the runs on these images, also of those that `auto` has made."""
        named = {path.name: path for path in self.out.glob("[!.]*")}
        named |= {f"{path.name} of {path.parent.name}": path for path in self.out.glob("[!.]*-auto-*/[!.]*")}
        return {name: path for name, path in named.items() if path.is_dir() and self._counts(path)}

    def describe(self, name: str) -> dict[str, Any]:
        """A run for the page."""
        run = self.get(name)
        counts = self._counts(run.path)
        row: dict[str, Any] = {
            "name": name,
            "finished": run.finished,
            "running": is_locked(run.path),  # also by a training that a studio before this one began
            "knows": run.known_file.is_file(),
            "trained_on": counts[0] if counts else 0,
            "report": run.report_file.is_file(),
            "page": (run.exports / "web" / PAGE).is_file(),
            "exports": sorted(path.parent.name for path in run.exports.glob(f"*/{BUNDLE}")),
        }
        figures = run.evaluation.metrics()
        if figures is not None:
            scores = Evaluation.of(figures)
            row |= {"measure": figure_words(accuracy_key(scores.task)), "value": scores.accuracy, "n": scores.n}
            row["interval"] = scores.intervals.get(accuracy_key(scores.task))
        return row

    def progress(self, name: str) -> dict[str, Any]:
        """The epochs of a run, how many are planned, and the seconds that are left at most."""
        run = self.get(name)
        rows = run.history()
        planned = self._planned(run)
        left = None
        if rows:
            stage = int(rows[-1].get("stage", 1))
            in_stage = [row.get("seconds", 0.0) for row in rows if row.get("stage", 1) == stage]
            open_epochs = max(0, sum(planned[stage - 1 :]) - len(in_stage))
            last = in_stage[1:][-5:]  # the first epoch of a stage also compiles
            left = open_epochs * sum(last) / len(last) if last else None
        return {**self.describe(name), "rows": rows, "planned": sum(planned), "seconds_left": left}

    def write_recipe(self, recipe: str) -> str:
        """Write the spec of a recipe for these images; returns its text.

        Args:
            recipe: its name, or "auto": the one that fits the images.

        Raises:
            CallError: if there is no such recipe.
            DataError: if the images cannot be trained on.
        """
        if recipe != AUTO and recipe not in ABOUT:
            raise CallError(f"no recipe '{recipe[:40]}'; the recipes are {AUTO}, {', '.join(ABOUT)}")
        self._require_images(1)
        summary = summarize_data(str(self.snapshot()))
        choices = Choices(task="multiclass") if recipe == AUTO else Choices(recipe=recipe, task="multiclass")  # type: ignore[arg-type]
        text = dumps(make_spec(self.library.folder.name or "photos", summary, choices))
        write_text(self.spec_file, text)
        return text

    def write_spec(self, text: str) -> dict[str, Any]:
        """Write the spec that the person edited, and check it: what `kerasimg check` says."""
        write_text(self.spec_file, text)
        try:
            spec = catalog.load(str(self.spec_file), partial=True)
        except SpecError as error:
            rows = [{"place": fault.path, "message": fault.message} for fault in error.faults]
            return {"ok": False, "faults": rows, "warnings": []}
        except KerasimgError as error:
            return {"ok": False, "faults": [{"place": "", "message": str(error)}], "warnings": []}
        return {"ok": True, "faults": [], "warnings": [str(warning) for warning in spec.warnings]}

    def read_spec(self) -> str | None:
        """The text of the spec; None if there is none yet."""
        return self.spec_file.read_text(encoding="utf-8") if self.spec_file.is_file() else None

    def train(self, epochs: int | None = None) -> Job:
        """Start a training of the spec on the current labels."""
        self._require_images()
        if not self.spec_file.is_file():
            self.write_recipe(AUTO)
        command = ["train", str(self.spec_file), "--data", str(self.snapshot()), "--out", str(self.out)]
        command += ["--on-bad-image", "skip"]
        return self.jobs.start("train", command if epochs is None else [*command, "--epochs", str(epochs)])

    def find_best(self, minutes: float) -> Job:
        """Start `kerasimg auto`: the best classifier that some minutes allow, with its export."""
        self._require_images()
        command = ["auto", str(self.snapshot()), "--minutes", f"{minutes:g}", "--out", str(self.out)]
        return self.jobs.start("train", [*command, "--on-bad-image", "skip"])

    def resume(self, name: str) -> Job:
        """Continue a training that was cancelled or killed."""
        run = self.get(name).path
        return self.jobs.start("train", ["train", "--resume", str(run)], run)

    def export(self, name: str, target: str, trainable: bool = False) -> Job:
        """Start an export.  trainable: the page can learn new classes."""
        run = self.get(name)
        command = ["export", str(run.path), "--to", target, "--json"]
        if trainable:
            command.append("--trainable")
        if self._moved(run):  # the run's own images are no longer where they were
            command += ["--data", str(self.snapshot())]
        return self.jobs.start("export", command, run.path)

    def compare(self, first: str, second: str) -> Job:
        """Start a comparison of two runs on the held-out images of the first."""
        command = ["run", "compare", str(self.get(first).path), str(self.get(second).path), "--json"]
        return self.jobs.start("compare", command, self.get(first).path)

    def check(self) -> Job:
        """Start a check of all labelled images, with labels that may be wrong."""
        if not any(row["images"] for row in self.library.summary()["classes"]):
            raise CallError("Nothing to check yet: label some images first.")
        return self.jobs.start("check", ["data", "check", str(self.snapshot()), "--labels", "--json"])

    def find_label_errors(self, name: str) -> Job:
        """Start a search for wrong labels among the images that a run held out."""
        run = self.get(name).path
        return self.jobs.start("label errors", ["run", "label-errors", str(run), "--json"], run)

    def learn_to_refuse(self, name: str) -> Job:
        """Start fitting the rule by which the model of a run flags unknown images, by the images that it has."""
        run = self.get(name)
        record = run.data()
        held = sum(image["part"] == "validation" for image in record["images"]) if record else 0
        share = max(SHARE, math.ceil(500 / max(held, 1)) / 100)  # `kerasimg.known` asks for 5 / share images
        if share > MOST_SHARE:
            least = math.ceil(5 / MOST_SHARE)
            labelled = len(record["images"]) if record else 0
            wanted = f", about {math.ceil(labelled * least / held / 10) * 10} in all" if held else ""
            raise CallError(
                f"{name}: to flag unknown images, a run must hold out {counted(least, 'image')} for validation, "
                f"and this one holds out {held}: label more images{wanted}, and train again"
            )
        return self.jobs.start("known", ["run", "known", str(run.path), "--share", f"{share:g}", "--json"], run.path)

    def find_unknown(self, name: str) -> Job:
        """Start a search for images of the folder that are unlike those that a run was trained on."""
        run = self.get(name).path
        self.jobs.folder.mkdir(parents=True, exist_ok=True)
        rows = self.jobs.folder / f"{os.getpid()}-{time.time_ns()}.jsonl"
        command = ["predict", str(run), str(self.library.folder), "--on-bad-image", "skip", "--out", str(rows)]
        return self.jobs.start("unknown", command, run)

    def snapshot(self) -> Path:
        """The current labels as a manifest that later decisions do not change, since a run refers to it."""
        text = self.library.manifest(self.library.state)
        # `auto` names its runs after the file.
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        file = self.library.state / f"{self.library.folder.name or 'photos'}-{digest}.csv"
        if not file.is_file():
            write_text(file, text)
        return file

    def _require_images(self, least: int = LEAST) -> None:
        """Raises a CallError, in the words of the page, if the labels are too few to train on."""
        counts = {row["name"]: row["images"] for row in self.library.summary()["classes"] if row["images"]}
        if len(counts) < 2:
            now = f"only '{next(iter(counts))}' has images" if counts else "no image has a label"
            raise CallError(f"A model tells classes apart: label images of at least two. Now {now}.")
        if few := [f"{name} has {images}" for name, images in counts.items() if images < least]:
            raise CallError(f"Too few images: {', '.join(few)}. Each class needs {least}, and better {START}.")

    def _counts(self, path: Path) -> tuple[int, int] | None:
        """(images to train on, all images) of a run on these images; None if it is none."""
        if path not in self._data:
            try:
                # The folder of a search has a record of its data, too, and no training of its own.
                record = None if RunFolder(path).training() is None else RunFolder(path).data()
            except (KerasimgError, OSError):
                record = None
            if record is None:
                return None
            images = record["images"]
            ours = Path(record["where"]).parent == self.library.state
            counts = sum(image["part"] == "train" for image in images), len(images)
            self._data[path] = counts if ours else None
        return self._data[path]

    def _planned(self, run: RunFolder) -> list[int]:
        """The epochs of each stage, as the spec of the run says."""
        if run.path not in self._epochs:
            spec = catalog.load(str(run.spec_file), partial=True)
            self._epochs[run.path] = [stage.epochs for stage in spec.fit.stages]
        return self._epochs[run.path]

    def _moved(self, run: RunFolder) -> bool:
        record = run.data()
        folder = self.library.state
        return record is None or not all(os.path.exists(folder / image["id"]) for image in record["images"])


def table_of_export(job: Job) -> list[dict[str, Any]]:
    """The rows of an export's comparison with the trained model, for each file, also where the gate was not passed.

    Raises:
        CallError: if the export failed otherwise, with its message.
    """
    if job.run is None or job.code not in (0, GateError.exit_code):
        job.result()
        return []
    folder = RunFolder(job.run).exports / job.arguments[job.arguments.index("--to") + 1]
    manifest = read_json(folder / BUNDLE)
    return [{"bundle": str(folder), "target": manifest["target"], **row} for row in manifest["parity"]]


def schema() -> dict[str, str]:
    """Every name that a spec may have, with its description: for completion while a spec is edited."""
    names: dict[str, str] = {}
    rest: list[Any] = [read_json(catalog.ZOO / "kerasimg-1.schema.json")]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            properties = item.get("properties")
            if isinstance(properties, dict):
                for name, value in properties.items():
                    about = value.get("description", "") if isinstance(value, dict) else ""
                    names[name] = names.get(name) or about
            for value in [item.get("const"), *(item.get("enum") or [])]:
                if isinstance(value, str):
                    names.setdefault(value, "")
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)
    return names
