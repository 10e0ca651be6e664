"""`kerasimg.auto`: the best classifier that some minutes allow, by searches one after the other in one folder.

Each step is a search of `tune` with its share of the time: the recipe `transfer` as it is, heads on its features,
smaller images and other backbones, a network from scratch where images are tiny, and fine-tuning of the best so far.
Then the weights of good trials are averaged, and answers for mirror images with those for the images, where that gains;
the best is stored as a run, calibrated and exported. A step that is finished is not repeated, so a killed `auto`
resumes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasimg import catalog, log
from kerasimg.data.cache import Cache
from kerasimg.data.items import PART_NAMES
from kerasimg.data.readable import OnBadImage
from kerasimg.data.sources import Data, is_in_memory, open_recorded, open_source, task_of
from kerasimg.data.starter_spec import make_spec, name_of, valid_name
from kerasimg.data.summary import Summary, summarize
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.export import export
from kerasimg.deploy.measure import litert_figures
from kerasimg.deploy.parity import latency
from kerasimg.deploy.targets import open_runtime, target
from kerasimg.errors import CallError, GateError, Interrupted, KerasimgError, counted
from kerasimg.escaping import command
from kerasimg.evaluation.calibrate import fit
from kerasimg.evaluation.flips import FIGURE, compare, gain_interval
from kerasimg.evaluation.scores import scores
from kerasimg.files import damaged, lock_folder, read_object, write_json, write_text
from kerasimg.log import warning
from kerasimg.models.classifier import Classifier, write_pack
from kerasimg.models.flips import with_flips
from kerasimg.results import figure_words
from kerasimg.run_folder import AUTO, RunFolder, not_a_folder_of
from kerasimg.spec.document import Task
from kerasimg.spec.load import Spec, load_again
from kerasimg.spec.metrics import Goal
from kerasimg.spec.search import is_search
from kerasimg.training.engine import total_epochs
from kerasimg.training.prepare import Experiment, prepare
from kerasimg.training.run import copy_beside, create_folder, removed_unless, require_place
from kerasimg.training.splits import seed_of
from kerasimg.training.train import store_trained
from kerasimg.tuning.auto_specs import RECIPE, STEPS, TARGET, Limits, Specs
from kerasimg.tuning.candidates import Candidate, TrialModel, backbones_at_hand, structure
from kerasimg.tuning.front import front
from kerasimg.tuning.journal import AUTO_RESULT, BEST, CALL, TRIALS, WEIGHTS, Records
from kerasimg.tuning.pace import COMPARED, Costs, Pace, Parts, measure_epoch, measure_pace
from kerasimg.tuning.search import open_search, resume_search, tune
from kerasimg.tuning.search_folder import Task as Search
from kerasimg.tuning.search_folder import best_spec_text
from kerasimg.tuning.time_budget import TimeBudget

START = "finetune_from.kerasimg"
"""The weights with which fine-tuning begins."""
SIZES = (160, 128, 96)
"""Smaller images that are tried, in px."""
LEAST_EPOCHS, MOST_EPOCHS = 2, 12
"""Epochs of fine-tuning: with fewer it is not begun, and with time for more further trials are trained."""

LATE = 5
"""A model that comes late may take this many times its estimate."""

OnFinished = Callable[[Path, Mapping[str, Any]], object]
"""Called with the folder and the result; writes the page."""


def auto(
    data: Data,
    *,
    minutes: float,
    limits: Limits = Limits(),  # noqa: B008 - it cannot be changed
    task: Task | None = None,
    out: str | os.PathLike[str] = "runs",
    on_bad_image: OnBadImage = "fail",
    cache: Any = "auto",
    began: float | None = None,
    recipe: str = RECIPE,
    on_finished: OnFinished | None = None,
    on_searched: Any = None,
    on_trained: Any = None,
) -> Path:
    """Find the best classifier for images in some minutes; return the folder `<name>-auto-<k>`.

    The arguments are those of `kerasimg.auto`, except:

    Args:
        limits: what the exported model may take, and for which device it is.
        began: `time.monotonic` when the minutes began; None: now.
        recipe: the spec of a head on a frozen backbone, with which the search begins.
        on_finished: writes the page.  on_searched, on_trained: write the page of a search, and of the run.
    """
    began = time.monotonic() if began is None else began
    if not minutes > 0:
        raise CallError(f"minutes: expected a number above 0, got {minutes:g}")
    limits.check()
    require_place(out, data)
    wanted = task or task_of(data)
    source = open_source(data, wanted)
    in_memory, shipped = is_in_memory(source.where), source.where == "sample"
    call: dict[str, Any] = {
        "data": None if in_memory else str(data) if shipped else os.path.abspath(str(data)),
        "name": name_of(data),
        "minutes": minutes,
        "limits": limits._asdict(),
        "task": wanted,
        "on_bad_image": on_bad_image,
        "recipe": recipe,
        "steps": {},
    }
    name = f"{valid_name(name_of(data))}-auto"
    folder = create_folder(out, name, lambda draft: write_json(draft.path / AUTO, call)).path
    with removed_unless(folder, lambda: "pace" in read_object(folder / AUTO)):
        return _Auto(folder, data, cache, began, on_finished, on_searched, on_trained).carry_out()


def resume_auto(
    folder: str | os.PathLike[str],
    *,
    data: Data | None = None,
    cache: Any = "auto",
    began: float | None = None,
    on_finished: OnFinished | None = None,
    on_searched: Any = None,
    on_trained: Any = None,
) -> Path:
    """Resume an interrupted `auto` with what is left of its minutes; steps that have ended are not repeated."""
    began = time.monotonic() if began is None else began
    path = Path(folder)
    if not (path / AUTO).is_file():
        raise not_a_folder_of("an auto", path, AUTO)
    if (path / AUTO_RESULT).is_file():
        log.info(f"{path} is finished; nothing is left to do")
        return path
    where = read_object(path / AUTO).get("data") if data is None else data
    if where is None:
        raise CallError(f"'{folder}' was over images in memory; give them again: data=...")
    return _Auto(path, where, cache, began, on_finished, on_searched, on_trained).carry_out()


def marked(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns models, each with whether it is on the front: no other is better, faster and smaller."""
    complete = {str(place): row for place, row in enumerate(points) if {"latency_ms", "bytes"} <= row.keys()}
    on_front = set(front((Goal("score", "max"), Goal("latency_ms", "min"), Goal("bytes", "min")), complete))
    return [{**row, "front": str(place) in on_front} for place, row in enumerate(points)]


class _Auto:
    """One call of `auto`."""

    def __init__(
        self,
        folder: Path,
        data: Data,
        cache: Any,
        began: float,
        on_finished: OnFinished | None,
        on_searched: Any,
        on_trained: Any,
    ) -> None:
        self.folder, self.data, self.cache = folder, data, cache
        self.on_finished, self.on_searched, self.on_trained = on_finished, on_searched, on_trained
        self.call = read_object(folder / AUTO)
        if not {"minutes", "limits", "task", "steps"} <= self.call.keys():
            raise self._of_another_version()
        self.task: Task = self.call["task"]
        self.limits = Limits(**self.call["limits"])
        self.budget = TimeBudget(folder, self.call["minutes"], began)
        where = data if isinstance(data, str) else ""
        advice = f"{command('auto', '--resume', folder)} DATA"
        self.source = open_recorded(where, None if where else data, self.task, advice)
        self.candidates: list[Candidate] = []
        self.notes: dict[str, Any] = {"left_out": []}
        self.end_s = 0.0
        self.specs = Specs(str(self.call["recipe"]), self.task, tuple(self.source.classes), self.limits)
        self._trial_model: tuple[str, TrialModel] | None = None
        self._features: dict[str, np.ndarray] = {}
        self._measure_s: float | None = None
        """Seconds that a model takes to be converted and timed; None: not known yet."""

    def carry_out(self) -> Path:
        """Search, choose, store, export."""
        with lock_folder(self.folder, "searching"), self.budget.counting():
            try:
                return self._carry_out()
            except (KeyboardInterrupt, Interrupted):
                again = command("auto", "--resume", self.folder)
                raise Interrupted(f"interrupted; finished steps are saved; to resume: {again}") from None

    def _carry_out(self) -> Path:
        summary = summarize(self.source)
        tiny = self.limits.device == "microcontroller"
        self.costs = self._costs(self.specs.scratch(summary, "tiny_device") if tiny else self.specs.plain("recipe"))
        self.end_s = self.costs.several_s + self.costs.end_s()
        log.info(
            f"{self.costs.pace.rate:,.0f} images/s through {'the model' if tiny else 'the backbone'}; of {self._time}, "
            f"about {self.end_s:.0f} s are for the evaluation and the export at the end"
        )
        if not tiny:
            self._search_heads()
            self._search_late()
        self._search_from_scratch(summary)
        if not tiny:
            self._search_smaller()
            self._search_other_backbones()
            self._fine_tune()
        return self._finish(summary)

    # The time that is left for searches.

    @property
    def _time(self) -> str:
        return counted(float(self.call["minutes"]), "minute")

    @property
    def left_s(self) -> float:
        """Seconds that are left before the end must begin."""
        return self.budget.left_s - self.end_s

    def _costs(self, document: Mapping[str, Any]) -> Costs:
        """Measure a model once; a resumed `auto` reads it."""
        if (known := self.call.get("pace")) is None:
            started = time.perf_counter()
            experiment = self._experiment(document)
            pace = measure_pace(experiment, self.task, started)
            parts = Parts(*(len(experiment.parts.get(part, ())) for part in PART_NAMES))
            known = self.call["pace"] = {"pace": pace._asdict(), "parts": parts._asdict()}
            write_json(self.folder / AUTO, self.call)
        try:
            return Costs(Pace(**known["pace"]), Parts(**known["parts"]), len(self.source.classes))
        except (KeyError, TypeError):
            raise self._of_another_version() from None

    def _of_another_version(self) -> KerasimgError:
        return damaged(self.folder / AUTO, "it is of another version of kerasimg")

    def _experiment(self, ref: Any, trained: Path | None = None, **options: Any) -> Experiment:
        """Returns a spec with these images.  trained: the weights of a trial, instead of the spec's."""
        options |= {"weights": None} if trained else {}
        options |= {"on_bad_image": self.call["on_bad_image"], "cache": Cache(self.cache)}
        experiment = prepare(ref, self.data, distribute=False, **options)
        if trained is not None:
            experiment.built.model.load_weights(trained)
        return experiment

    # The searches.

    def _search_heads(self) -> None:
        """Train the recipe as it is, and then other heads on its features; without time for it, on fewer features."""
        if self.costs.recipe_s <= self.left_s or "recipe" in self.call["steps"]:
            self._step("recipe", self.specs.plain("recipe", max_trials=1), self.left_s)
            self._step("heads", self.specs.heads("heads"), max(0.3 * self.left_s, min(20.0, self.left_s)))
            return
        if begun := self.call["steps"].get("heads"):
            size, plain_s = begun.get("size", self.costs.pace.size), 0.0
        else:
            size, plain_s = self._size_that_fits()
            self.end_s += self.costs.several_s
        heads = self.specs.heads("heads", augmented=False, size=size)
        if self.left_s < plain_s:
            heads["tune"]["max_trials"] = 1  # there is no time to compare several
        self._step("heads", heads, max(self.left_s, plain_s), size=size)  # some model is better than the time kept

    def _size_that_fits(self) -> tuple[int, float]:
        """Returns the largest image size at which one trial on plain features fits, and its seconds; else the smallest.

        On photos and clip art plain features are about as good as those of four views, and smaller images are worse
        by points: so the export is left out before the size is.
        """
        minutes = (self.costs.recipe_s + self.end_s) / 60
        longer = f"{self._time} cannot hold {self.specs.recipe} as it is, which takes about {minutes:.1f} minutes here"
        for size in (self.costs.pace.size, *SIZES):
            plain_s = self.costs.plain_s(size)
            for exported in (True, False):
                self.end_s = self.costs.end_s(size, export=exported)
                if plain_s <= self.left_s:
                    warning(f"{longer}: features of images without augmentation are used, at {size} px")
                    return size, plain_s
        warning(f"{longer}, nor more than one small model, at {size} px and without an export")
        return size, plain_s

    def _search_late(self) -> None:
        """Train one small model beyond the time if the machine became so slow that there is none: better than none."""
        size = SIZES[-1]
        plain_s = self.costs.plain_s(size)
        if "late" not in self.call["steps"]:
            if self.candidates or self.left_s >= plain_s:
                return
            warning(
                f"this machine is slower than at the start, and {self._time} ended without a model: one small model "
                f"follows, at {size} px and without an export, later than asked"
            )
        late = self.specs.heads("late", augmented=False, size=size)
        late["tune"]["max_trials"] = 1
        self._step("late", late, LATE * plain_s)

    def _search_from_scratch(self, summary: Summary) -> None:
        """Train a small network from scratch, where the images are tiny or the limits leave no other."""
        if self.limits.device == "microcontroller" or (self.call["steps"] and not self.candidates):
            recipe: Any = "tiny_device"
        elif make_spec("first", summary)["extends"] == "recipes/from_scratch":
            recipe = "from_scratch"
        else:
            return
        document = self.specs.scratch(summary, recipe)
        share = 1.0 if self.limits.device == "microcontroller" else 0.6
        seconds = share * self.left_s
        known = self.call["steps"].get("scratch")
        epochs = known["epochs"] if known else self._epochs(document, seconds, catalog.read_zoo(document["extends"]))
        if epochs >= LEAST_EPOCHS:
            document["params"]["epochs"] = epochs
            self._step("scratch", document, seconds, epochs=epochs)

    def _epochs(self, document: Mapping[str, Any], seconds: float, parent: Mapping[str, Any]) -> int:
        """Returns the epochs of a recipe that fit in this time, at most those of the recipe."""
        epoch_s, start_s = self._epoch_s(document)
        most = parent["params"]["epochs"]
        return min(most, int((seconds - start_s) / epoch_s))

    def _epoch_s(self, document: Mapping[str, Any]) -> tuple[float, float]:
        """Returns the seconds of an epoch of the last stage, and those until its first step."""
        started = time.perf_counter()
        return measure_epoch(self._experiment(document), started)

    def _search_smaller(self) -> None:
        """Look for the front of accuracy, latency and bytes over smaller images, where that is asked for or cheap."""
        cost_s = self.costs.smaller_s(SIZES)
        wanted = bool(self.limits.tuned)
        if cost_s > (0.7 if wanted else 0.15) * self.left_s and "smaller" not in self.call["steps"]:
            self.notes["left_out"].append("smaller")
            return
        size = {"$choice": list(SIZES), "default": SIZES[0]}
        document = self.specs.heads("smaller", augmented=False, size=size)
        objectives = ["val_accuracy", "latency_ms", "bytes"]
        document["tune"] = self.specs.tune(tuner="grid", objective=objectives, max_trials=len(SIZES))
        document["params"]["hidden"] = 0
        document["params"] |= {
            name: value["default"]
            for name, value in self.specs.parent["params"].items()
            if name != "size" and is_search(value)
        }
        self._step("smaller", document, 2 * cost_s)

    def _search_other_backbones(self) -> None:
        """Search heads on other backbones whose weights are on this machine."""
        for name, node in backbones_at_hand():
            if self.costs.backbone_s > 0.3 * self.left_s and name not in self.call["steps"]:
                self.notes["left_out"].append(name)
                continue
            self._step(name, self.specs.heads(name, augmented=False, backbone=node), 2 * self.costs.backbone_s)

    def _fine_tune(self) -> None:
        """Train all layers of the best transfer model with what is left of the time."""
        known = self.call["steps"].get("finetune")
        if known is None:
            best = max((c for c in self.candidates if c.step != "scratch"), key=lambda c: c.rank, default=None)
            if best is None:
                return
            document = self.specs.fine_tuning(best)
            if self.left_s < 2 * self.costs.build_s:
                self.notes["left_out"].append("finetune")
                return
            epoch_s, start_s = self._epoch_s(document)
            epochs = int((0.9 * self.left_s - start_s) / epoch_s)
            if epochs < LEAST_EPOCHS:
                self.notes["left_out"].append("finetune")
                self.notes["epoch_s"] = epoch_s
                return
            document["params"]["epochs"] = min(MOST_EPOCHS, epochs)
            known = {"spec": document}
            self._pack(best)
        self._step("finetune", known["spec"], self.left_s, weights=self.folder / START, spec=known["spec"])

    def _pack(self, best: Candidate) -> None:
        """Write the weights with which fine-tuning begins."""
        model = self._experiment(best.spec, best.weights).built.model
        if best.values is not None:
            model.set_weights(list(best.values))
        write_pack(Classifier(model, best.spec, tuple(self.source.classes)), self.folder / START)

    def _step(self, name: str, document: Mapping[str, Any], seconds: float, weights: Any = None, **facts: Any) -> None:
        """Carry out a search, or the rest of it, or nothing if it has ended; its best trials become candidates."""
        steps = self.call["steps"]
        folder = self.folder / f"{name}-tune-1"
        if name not in steps:
            if seconds < 2:
                self.notes["left_out"].append(name)
                return
            steps[name] = {"seconds": seconds, **facts}
            write_json(self.folder / AUTO, self.call)
        if "failed" in steps[name]:
            return
        log.info(f"{name}: {STEPS.get(name, name)}, {max(seconds, 0):.0f} s")
        log.doing("searching")
        options: dict[str, Any] = {"on_finished": self.on_searched}
        try:
            if (folder / BEST).is_file():
                pass
            elif folder.is_dir():
                resume_search(folder, data=self.data, **options)
            else:
                options |= {"weights": weights} if weights else {}
                options |= {"on_bad_image": self.call["on_bad_image"], "cache": self.cache, "out": self.folder}
                tune(document, data=self.data, overrides={"tune.minutes": seconds / 60}, **options)
        except (CallError, Interrupted):
            raise
        except KerasimgError as error:
            log.info(f"{name}: {error}")
            steps[name]["failed"] = str(error)
            write_json(self.folder / AUTO, self.call)
            return
        self.candidates += self._evaluated(name, folder)

    # The choice.

    def _evaluated(self, name: str, folder: Path) -> list[Candidate]:
        """Returns the saved trials of a step with their predictions of the validation images, the best first."""
        log.doing("comparing the trials")
        task, oracle = open_search(folder)
        found: list[Candidate] = []
        saved = [trial for trial in sorted(oracle.ended) if (folder / TRIALS / trial / WEIGHTS).is_file()]
        specs = {
            trial: self._spec_of(task, oracle.orders[trial].values) for trial in saved if oracle.ended[trial].worked
        }
        for trial, spec in sorted(specs.items(), key=lambda item: structure(name, item[1])):
            weights = folder / TRIALS / trial / WEIGHTS
            model = self._model_of(name, spec)
            model.load(weights)
            found.append(self._candidate(name, (trial,), spec, weights, model))
        best = sorted(found, key=lambda candidate: candidate.rank, reverse=True)
        return best if name == "recipe" or len(best) < 2 else self._with_soup(best)

    def _model_of(self, name: str, spec: Spec) -> TrialModel:
        """Returns the model of a structure; the last one is in memory, as steps follow that have the same."""
        key = structure(name, spec)
        if self._trial_model is None or self._trial_model[0] != key:
            self._trial_model = None  # frees its memory first
            self._trial_model = key, TrialModel(self._experiment(spec, weights=None), self.task, self._features)
        return self._trial_model[1]

    def _spec_of(self, task: Search, values: Mapping[str, Any]) -> Spec:
        return load_again(task.spec, chosen=values, edits={"fit.seed": seed_of(task.spec)}, other_options=False)

    def _candidate(
        self,
        step: str,
        trials: tuple[str, ...],
        spec: Spec,
        weights: Path,
        model: TrialModel,
        values: Sequence[np.ndarray] | None = None,
    ) -> Candidate:
        """Returns what a model has the weights of, with its figures."""
        self._truth, probabilities = model.truth, model.probabilities()
        measured = scores(model.truth, probabilities, self.source.classes, self.task)
        score, loss = float(measured[FIGURE[self.task]]), float(measured["log_loss"])
        return Candidate(step, trials, spec, weights, score, loss, probabilities, values)

    def _with_soup(self, best: list[Candidate]) -> list[Candidate]:
        """Adds the greedy average of weights (Wortsman et al. 2022, arXiv:2203.05482) if it is better than each."""
        first = best[0]
        alike = [other for other in best if structure(other.step, other.spec) == structure(first.step, first.spec)]
        model = self._model_of(first.step, first.spec)
        model.load(first.weights)
        mean, used, current = model.values(), 1, first
        for other in alike[1:]:
            model.load(other.weights)
            values = [(a * used + b) / (used + 1) for a, b in zip(mean, model.values(), strict=True)]
            model.set(values)
            trials = (*current.trials, *other.trials)
            soup = self._candidate(first.step, trials, first.spec, first.weights, model, values)
            if soup.gains(current):
                mean, used, current = values, used + 1, soup
        figures = {"of": len(alike), "trials": used, "before": first.score, "after": current.score}
        self.notes.setdefault("soups", {})[first.step] = figures
        return best if used == 1 else [current, *best]

    # The end.

    def _finish(self, summary: Summary) -> Path:
        if not self.candidates:
            reasons = [step["failed"] for step in self.call["steps"].values() if "failed" in step]
            raise KerasimgError(
                f"no model was trained in {self._time}; give it more, or smaller images\n" + "\n".join(reasons)
            )
        log.doing("evaluating the best model")
        best = self._with_flips(self._best())
        self._note_cut(best)
        calibration = self._calibration(best)
        run = self._stored(best, calibration)
        self.notes["calibration"] = None if calibration is None else calibration["temperature"]
        result: dict[str, Any] = {
            "spec": BEST,
            "run": run.path.name,
            "task": self.task,
            "figure": FIGURE[self.task],
            "score": best.score,
            "loss": best.loss,
            "step": best.step,
            "trials": list(best.trials),
            "validation_images": len(self._truth),
            "recipe": self._against_recipe(best),
            "test": run.evaluation.metrics(),
        }
        log.doing("measuring and exporting")
        points = self._points(best)
        result["exports"] = self._exported(run, points, best)
        result["front"] = marked(self._with_export(points, result["exports"], best))
        result["steps"] = [self._facts_of(name, step) for name, step in self.call["steps"].items()]
        result |= {"minutes": self.call["minutes"], "limits": self.limits._asdict(), "notes": self.notes}
        result |= self.call["pace"]
        result |= {"summary": {"images": summary.images, "classes": len(summary.classes), "width": summary.width}}
        result |= {"height": summary.height, "per_class": summary.per_class, "used_s": round(self.budget.used_s, 1)}
        if self.on_finished is not None:
            log.doing("writing the report")
            self.on_finished(self.folder, result)
        result["used_s"] = round(self.budget.used_s, 1)
        write_json(self.folder / AUTO_RESULT, result)
        log.info(
            f"{figure_words(FIGURE[self.task])} {best.score:.4g} on {counted(len(self._truth), 'validation image')}: "
            f"{run.path}"
        )
        return self.folder

    def _note_cut(self, best: Candidate) -> None:
        """Warns if the time ran out in the first half of the training of the best model."""
        _, oracle = open_search(self.folder / f"{best.step}-tune-1")
        ended, order = oracle.ended[best.trials[0]], oracle.orders[best.trials[0]]
        epochs, planned = order.first_epoch + len(ended.curve), total_epochs(best.spec)
        if ended.status == "stopped" and 2 * epochs < planned:
            self.notes["cut"] = {"epochs": epochs, "of": planned}
            warning(
                f"{self._time} ended in epoch {epochs} of {planned} of the best model: it is worse than it could be; "
                "start again with more minutes"
            )

    def _best(self) -> Candidate:
        """Returns the candidate with the lowest loss among those that have no lower score than the recipe."""
        floor = next((candidate.score for candidate in self.candidates if candidate.step == "recipe"), -math.inf)
        allowed = [candidate for candidate in self.candidates if candidate.score >= floor]
        return max(allowed, key=lambda candidate: candidate.rank)

    def _with_flips(self, best: Candidate) -> Candidate:
        """Returns the candidate with a test-time flip if the paired interval of its gain is above zero.

        It takes twice the time for an image, which the limits must allow.
        """
        decided: dict[str, Any] | None = self.call.get("flips")
        if decided is None:
            if self.limits.device == "microcontroller":
                decided = {"applied": False}
            elif self.budget.left_s < self.end_s + self.costs.flips_s:
                decided = {"applied": False}
                self.notes["left_out"].append("flips")
        flipped = best
        if decided is None or decided["applied"]:
            model = self._model_of(best.step, best.spec)
            if best.values is None:
                model.load(best.weights)
            else:
                model.set(best.values)
            p, classes = model.flipped(), self.source.classes
            measured = scores(self._truth, p, classes, self.task)
            score, loss = float(measured[FIGURE[self.task]]), float(measured["log_loss"])
            flipped = replace(best, score=score, loss=loss, probabilities=p, flips=True)
            if decided is None:
                decided = compare(self._truth, best.probabilities, p, classes, self.task)
                if decided["applied"] and (beyond := self._beyond_ms(flipped)):
                    decided |= {"applied": False, "beyond": beyond}
        self.call["flips"] = self.notes["flips"] = decided
        write_json(self.folder / AUTO, self.call)
        return flipped if decided["applied"] else best

    def _beyond_ms(self, candidate: Candidate) -> list[str]:
        """Returns the latency of a model if it is beyond the limit."""
        limits = self.limits._replace(max_mb=None)
        return [] if limits.max_ms is None else limits.beyond(self._measured(candidate))

    def _stored(self, best: Candidate, calibration: Mapping[str, Any] | None) -> RunFolder:
        """Write the spec and the run of a candidate."""
        if (name := self.call.get("run")) is not None and RunFolder(self.folder / name).finished:
            return RunFolder(self.folder / name)
        search = self.folder / f"{best.step}-tune-1"
        task, oracle = open_search(search)
        origin = f"kerasimg auto, {self._time}: step {best.step}, trial {int(best.trials[0])}"
        if len(best.trials) > 1:
            origin += f", weights averaged with those of {counted(len(best.trials) - 1, 'other trial')}"
        text = best_spec_text(task, oracle.orders[best.trials[0]].values, origin)
        write_text(self.folder / BEST, text)
        copy_beside(best.spec, self.folder)
        name = valid_name(self.call["name"])
        experiment = self._experiment(load_again(best.spec, edits={"name": name}), best.weights)
        if best.values is not None:
            experiment.built.model.set_weights(list(best.values))
        rows = [dict(row) for row in Records(search).history(best.trials[0])]
        report = self.on_trained
        if self.budget.left_s < self.end_s + self.costs.report_s:
            self.notes["left_out"].append("report")
            report = None
        options: dict[str, Any] = {"rows": rows, "calibration": calibration, "flips": best.flips, "on_finished": report}
        run = store_trained(experiment, self.data, self.folder, **options)
        self.call["run"] = run.path.name
        write_json(self.folder / AUTO, self.call)
        return run

    def _against_recipe(self, best: Candidate) -> dict[str, Any] | None:
        """Returns the recipe's score, and the gain over it with its paired interval; None if it was not trained."""
        recipe = next((candidate for candidate in self.candidates if candidate.step == "recipe"), None)
        if recipe is None:
            return None
        gain = best.score - recipe.score
        reach = gain_interval(self._truth, best.probabilities, recipe.probabilities, gain, self.task)
        return {"score": recipe.score, "loss": recipe.loss, "gain": gain, "interval": reach}

    def _calibration(self, best: Candidate) -> dict[str, Any] | None:
        """Fits the temperature on the validation images; None if they do not show that there should be another."""
        try:
            calibration = fit(
                self._truth,
                best.probabilities,
                self.source.classes,
                self.task,
                where=self.source.where,
                part="validation",
            )
        except KerasimgError as error:
            log.info(f"not calibrated: {error}")
            return None
        low, high = calibration["interval"]
        if low <= 1 <= high:
            log.info(
                f"not calibrated: {counted(len(self._truth), 'validation image')} do not show that the probabilities "
                f"need another temperature (95 % interval {low:.3g} to {high:.3g})"
            )
            return None
        return calibration

    def _points(self, best: Candidate) -> list[dict[str, Any]]:
        """Returns the figures of the best model of each step and of the step `smaller`."""
        chosen = best.step, best.trials
        known: dict[str, dict[str, float]] = {}
        rows = []
        for name in self.call["steps"]:
            of_step = [c for c in self.candidates if c.step == name]
            for each in of_step if name == "smaller" else of_step[:1]:
                candidate = best if (each.step, each.trials) == chosen else each
                key = str((candidate.spec.resolved["model"], candidate.spec.image.size, candidate.flips))
                if name == "smaller" and not candidate.flips:
                    _, oracle = open_search(self.folder / "smaller-tune-1")
                    known.setdefault(key, dict(oracle.ended[candidate.trials[0]].figures))
                elif key not in known:
                    known[key] = self._measured(candidate)
                row = {"step": name, "trial": int(candidate.trials[0]), "size": candidate.spec.image.size[0]}
                rows.append({**row, "score": candidate.score, **known[key]})
        return rows

    def _with_export(
        self, points: Sequence[dict[str, Any]], exports: Sequence[Mapping[str, Any]], best: Candidate
    ) -> list[dict[str, Any]]:
        """Returns the points, with the size and latency of the best model from its export if they were not measured."""
        whole = [row for row in exports if row["precision"] == "float32" and "latency_ms" in row]
        if not whole or TARGET[self.limits.device] != "litert":
            return list(points)
        figures = {name: whole[0][name] for name in ("latency_ms", "bytes")}
        chosen = best.step, int(best.trials[0])
        return [figures | row if (row["step"], row["trial"]) == chosen else row for row in points]

    def _measured(self, candidate: Candidate) -> dict[str, float]:
        """Returns the size and latency of a model as a LiteRT file; empty without time, or without LiteRT."""
        measure_s = self._measure_s or self.costs.export_s
        if keras.backend.backend() != "tensorflow":
            self.notes["measure"] = "models are converted to LiteRT, and timed, with the TensorFlow backend only"
            return {}
        if self.budget.left_s < self.costs.export_s + measure_s:
            return {}
        started = time.monotonic()
        try:
            model = self._experiment(candidate.spec, weights=None).built.model
            figures = litert_figures(with_flips(model) if candidate.flips else model)
        except KerasimgError as error:
            self.notes["measure"] = str(error)
            return {}
        self._measure_s = max(self._measure_s or 0.0, time.monotonic() - started)
        return {"latency_ms": figures["latency_ms"], "bytes": figures["litert_bytes"]}

    def _exported(self, run: RunFolder, points: Sequence[Mapping[str, Any]], best: Candidate) -> list[dict[str, Any]]:
        """Export the run for the device, in int8 if the limits ask for it; return the files and their figures."""
        name = TARGET[self.limits.device]
        if self.budget.left_s < self.costs.export_s:
            self.notes["left_out"].append("export")
            return []
        size = next((row["bytes"] for row in points if row["step"] == best.step and "bytes" in row), 0)
        small = self.limits.max_mb is not None and size > self.limits.max_mb * 1e6
        options: dict[str, Any] = {"precision": "int8"} if small and "int8" in target(name).precisions else {}
        if self.call["data"] is None:
            options["data"] = self.data
        try:
            bundles = list(export(run.path, name, images=COMPARED, **options))
        except GateError as error:
            self.notes["export"] = str(error)
            bundles = [Bundle.open(run.exports / name)] if (run.exports / name).is_dir() else []
        except KerasimgError as error:
            self.notes["export"] = str(error)
            return []
        return [row for bundle in bundles for row in self._figures_of(bundle)]

    def _figures_of(self, bundle: Bundle) -> Iterator[dict[str, Any]]:
        for model in bundle.models:
            row: dict[str, Any] = {"folder": os.path.relpath(bundle.folder, self.folder), "precision": model.precision}
            row["bytes"] = bundle.model_bytes(model)
            if target(bundle.manifest.target).measured:
                runtime = open_runtime(bundle, model)
                row["latency_ms"] = latency(runtime, bundle.shape, model.batch).p50_ms
                runtime.close()
            if beyond := self.limits.beyond(row):
                warning(f"the export ({model.precision}) is beyond the limits: {', '.join(beyond)}")
            yield {**row, "within": not beyond}

    def _facts_of(self, name: str, step: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the page says of a step."""
        row: dict[str, Any] = {"name": name, "about": STEPS.get(name, name), "failed": step.get("failed")}
        of_step = [candidate for candidate in self.candidates if candidate.step == name]
        folder = self.folder / f"{name}-tune-1"
        if (folder / CALL).is_file():
            _, oracle = open_search(folder)
            row |= {"trials": len(oracle.ended), "folder": folder.name}
            row["seconds"] = sum(ended.seconds for ended in oracle.ended.values())
        return row | ({"score": of_step[0].score, "loss": of_step[0].loss} if of_step else {})
