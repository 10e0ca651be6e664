"""`Train a classifier from a spec and images (`kerasimg.train`), and resume a run (`kerasimg.resume`)."""

from __future__ import annotations

import errno
import gc
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import keras
import numpy as np

from kerasimg import log
from kerasimg.callbacks import CurvesToTensorBoard
from kerasimg.callbacks.track_run import TrackRun, check_trackers
from kerasimg.catalog import Reference
from kerasimg.compile_cache import TOTAL, Compilations
from kerasimg.data.items import ManyFaults, evenly_spaced
from kerasimg.data.readers.soft_labels import digest
from kerasimg.data.sources import Data
from kerasimg.data.split import warn_of_other_labels
from kerasimg.errors import DataError, Fault, Interrupted, KerasimgError, counted
from kerasimg.escaping import command
from kerasimg.evaluation.calibrate import fitted_to
from kerasimg.evaluation.embed import MAPPED
from kerasimg.evaluation.evaluate import Chosen, answered, evaluate_images, trained_on
from kerasimg.evaluation.flips import decide
from kerasimg.evaluation.known import false_alarms, known_by_default, own_passes
from kerasimg.files import lock_folder, write_json
from kerasimg.models.classifier import Classifier
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.models.keras_file import Answer
from kerasimg.models.weights import save_weights
from kerasimg.run_folder import SPEC, TRAINING, RunFolder
from kerasimg.training import checkpoint
from kerasimg.training.auto_settings import is_out_of_memory
from kerasimg.training.checkpoint_callbacks import record_interrupt
from kerasimg.training.deadline import NEVER, Deadline
from kerasimg.training.engine import Diverged, Engine, Hooks
from kerasimg.training.features import passes_by_features
from kerasimg.training.history import History
from kerasimg.training.objective import sample_weight_digest
from kerasimg.training.prepare import Experiment, prepare, weights_of
from kerasimg.training.run import (
    cache_kind,
    create_folder,
    describe_weights,
    environment_changes,
    finish,
    remove_partial_files,
    reopen_experiment,
    require_place,
    set_batch_size,
    stage_notes,
    with_absolute_path,
    write_stage_notes,
    write_start,
)
from kerasimg.training.splits import record_split

IN_THE_PIPELINE = re.compile(rf"{ManyFaults.__name__}: (.*)")
"""Matches the image that the pipeline could not read in an error of TensorFlow."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

OnFinished = Callable[[RunFolder, Classifier, Answer | None], object]
"""Called when a run is finished, before its folder is unlocked: the layers above write the report in it.

The answer is that for the held-out images, with the features of those in the map; None if none are held out."""


def train(
    ref: Reference,
    *,
    data: Data,
    out: str | os.PathLike[str] = "runs",
    weights: Any = AS_THE_SPEC_SAYS,
    limits: Mapping[str, int] | None = None,
    cache: Any = "auto",
    on_finished: OnFinished | None = None,
    tensorboard: bool = False,
    track: Sequence[str] = (),
    first_spec: Mapping[str, Any] | None = None,
    verbose: int | str = "auto",
    deadline: Deadline = NEVER,
    **options: Any,
) -> RunFolder:
    """Train the classifier of a spec, evaluate it on held-out images, and save all of it in a new folder.

    The arguments are those of `kerasimg.train`, except:

    Args:
        on_finished: called with the finished run and its model; None: no report is written, nor after a resume.
        first_spec: the document that was chosen for the images if the caller gave no spec; saved with the run.
        verbose: as for `keras.Model.fit`.
        deadline: when the training ends with what it has reached; evaluation and report come after it.
    """
    before = TOTAL.copy()
    require_place(out, data)
    check_trackers(track)
    experiment = prepare(ref, data, weights=weights, limits=limits, cache=cache, deadline=deadline, **options)
    spec, source, parts = experiment.spec, experiment.source, experiment.parts
    weights = weights_of(ref, weights)
    call = {"weights": describe_weights(weights), "limits": limits and dict(limits), "cache": cache_kind(cache)}
    call |= {"report": on_finished is not None, "tensorboard": tensorboard, "track": list(track)}
    call |= {"soft_labels": digest(source, parts["train"])} if source.soft else {}
    if (weights_digest := sample_weight_digest(spec, source, parts["train"])) is not None:
        call["sample_weight"] = weights_digest
    call |= experiment.notes
    data_record = with_absolute_path(record_split(spec, source, parts), data)
    run = create_folder(out, spec.name, lambda draft: write_start(draft, spec, source.classes, data_record, call))
    if first_spec is not None:
        run.write_first_spec(first_spec)
    warn_of_other_labels(data_record["images"])
    counts = ", ".join(f"{part} {len(indices):,}" for part, indices in parts.items())
    log.info(f"training {counts} -> {run.path}", **{log.RUN: str(run.path)})
    if spec.task == "multilabel":
        log.info("the accuracy of an epoch counts labels; the evaluation's subset accuracy, images with all correct")
    with lock_folder(run.path, "training"):
        return _carry_out(experiment, run, data, verbose, on_finished, before)


def resume(
    run: str | os.PathLike[str],
    *,
    data: Data | None = None,
    cache: Any = None,
    on_finished: OnFinished | None = None,
    verbose: int | str = "auto",
    deadline: Deadline = NEVER,
) -> RunFolder:
    """Resume an interrupted training; the result is that of an uninterrupted one.

    run: its folder.  data: the images, if they were arrays or have moved; their content and the split must not change.
    cache, verbose, deadline: as for `train`; None: as before.  on_finished: as for `train`; called only if `train` was
    called with one.

    On one machine, on the CPU in float32, the result is the same bit for bit. A finished run is not changed.
    Raises CallError if the folder has no run, DataError if an image is missing or has changed, WeightsError if a
    weights file that is still needed is missing or has changed.
    """
    before = TOTAL.copy()
    run = RunFolder.open(run)
    if run.finished:
        log.info(f"{run.path} is finished; nothing is left to do")
        return run
    with lock_folder(run.path, "training"):
        remove_partial_files(run)
        experiment = replace(reopen_experiment(run, data, cache), deadline=deadline)
        log.info(f"resuming {run.path}: {describe_progress(run)}")
        if line := _about_surroundings(run):
            log.info(line)
        return _carry_out(experiment, run, data, verbose, on_finished, before)


def _about_surroundings(run: RunFolder) -> str:
    """Returns a warning if a resumed run may differ from an uninterrupted one; empty if nothing differs."""
    others = environment_changes(run)
    if not others:
        return ""
    if any(line.startswith("backend ") for line in others):
        return (
            "another backend draws other random numbers (dropout, augmentation layers left to Keras): the "
            f"resumed training is another sample, not the uninterrupted run: {'; '.join(others)}"
        )
    return f"the result may differ in the last digits from that of an uninterrupted run: {'; '.join(others)}"


def _carry_out(
    experiment: Experiment,
    run: RunFolder,
    data: Data | None,
    verbose: int | str,
    on_finished: OnFinished | None,
    before: Compilations,
) -> RunFolder:
    """Does what remains of a run: train, save, evaluate, report.

    before: what the process had compiled before the run.
    """
    settings = run.required(TRAINING)
    with _saying_how_to_resume(run):
        with record_interrupt() as interruption:
            deadline = replace(experiment.deadline, interruption=interruption)
            experiment = _train_in_memory(replace(experiment, deadline=deadline), run, data, verbose)
        classifier = Classifier(experiment.built.model, experiment.spec, experiment.source.classes, run.path)
        _complete(classifier, experiment, run, on_finished if settings["report"] else None, before)
    return run


def _complete(
    classifier: Classifier, experiment: Experiment, run: RunFolder, on_finished: OnFinished | None, before: Compilations
) -> None:
    """Saves, evaluates and reports a trained model.  before: what had been compiled before the run."""
    classifier = with_flips_of_spec(classifier, experiment)
    notes = stage_notes(run, len(experiment.spec.fit.stages) - 1)
    apart = passes_by_features(classifier, notes, experiment.cache)
    passes = apart or own_passes(classifier, experiment.cache)
    found = known_by_default(classifier, experiment.source, experiment.parts, passes)
    rule, about_rule = found or (None, None)
    classifier = replace(classifier, known=rule)
    classifier.save(run.model_file)
    answer = None
    if (part := experiment.held_out) is not None:
        indices = experiment.parts[part]
        log.info(f"evaluating on {counted(len(indices), 'image')} ({part})")
        chosen, mapped = Chosen(experiment.source, indices, part), evenly_spaced(len(indices), MAPPED)
        if apart is None or classifier.flips:
            answer = answered(classifier, experiment.source, indices, mapped)
        else:
            answer = classifier.answer_from(apart.exact(chosen), mapped)
        seen = trained_on(classifier, chosen, own=True)
        options: dict[str, Any] = {"part": part, "seen": seen, "answer": answer}
        evaluate_images(classifier, experiment.source, indices, run.evaluation.path, **options)
        if about_rule is not None and part == "test":
            truth = experiment.source.label_ids(indices)
            about_rule["parts"][part] = false_alarms(
                truth, answer.p_values, about_rule["rule"]["share"], classifier.classes
            )
    if about_rule is not None:
        write_json(run.known_file, about_rule)
    finish(run, compiled=asdict(TOTAL.since(before)) if TOTAL.functions else {})
    if on_finished is not None:
        on_finished(run, classifier, answer)
    if line := TOTAL.since(before).describe():
        log.info(line)


def with_flips_of_spec(classifier: Classifier, experiment: Experiment) -> Classifier:
    """Returns the trained classifier with a test-time flip if `fit.flips` says so, or the validation images do."""
    wanted, parts = experiment.spec.fit.flips, experiment.parts
    applied = wanted == "on"
    if wanted == "auto" and "validation" not in parts:
        log.warning('test-time flip: off, since fit.flips "auto" needs validation images')
    elif wanted == "auto":
        found = decide(classifier, experiment.source, parts["validation"])
        applied = found["applied"]
        figures = f"{found['figure'].replace('_', ' ')} {found['before']:.4f} -> {found['after']:.4f}"
        log.info(f"test-time flip: {'on' if applied else 'off'}; {figures} on {counted(found['n'], 'image')}")
    return replace(classifier, flips=True) if applied else classifier


def store_trained(
    experiment: Experiment,
    data: Data,
    out: str | os.PathLike[str],
    *,
    rows: Sequence[Mapping[str, Any]],
    calibration: Mapping[str, Any] | None = None,
    flips: bool = False,
    on_finished: OnFinished | None = None,
) -> RunFolder:
    """Write the run of a model that has been trained elsewhere, by a trial of a search, say.

    Args:
        experiment: its model has the trained weights.
        data: where the images are, for the record.
        out: the folder in which the run gets its own folder.
        rows: the metrics of the epochs, for history.csv.
        calibration: what `kerasimg.evaluation.calibrate.fit` returned, if its temperature is to be used.
        flips: whether the probabilities are averaged over an image and its mirror image.
        on_finished: as for `train`.
    """
    spec, source = experiment.spec, experiment.source
    call = {"weights": None, "limits": None, "cache": cache_kind(experiment.cache), "report": on_finished is not None}
    call |= {"tensorboard": False, **experiment.notes}
    data_record = with_absolute_path(record_split(spec, source, experiment.parts), data)
    run = create_folder(out, spec.name, lambda draft: write_start(draft, spec, source.classes, data_record, call))
    columns = list(rows[0]) if rows else []
    History(run.history_file).set_state({"rows": list(rows), "columns": columns, "spent": 0.0})
    temperature = 1.0 if calibration is None else calibration["temperature"]
    classifier = Classifier(experiment.built.model, spec, source.classes, run.path, temperature, flips=flips)
    with lock_folder(run.path, "training"):
        if calibration is not None:
            write_json(run.calibration_file, {**calibration, "model": fitted_to(classifier)})
        _complete(classifier, experiment, run, on_finished, TOTAL.copy())
    return run


class _Hooks(Hooks):
    """Stores in the folder of a run what a training needs to resume."""

    checkpoints = True

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.file = run.checkpoint_file
        curves = run.history_file
        self.history = History(curves)
        call = run.required(TRAINING)
        self.boards: list[Any] = [CurvesToTensorBoard(curves, run.tensorboard_folder)] if call["tensorboard"] else []
        if names := call.get("track"):  # a run of an earlier version has no such entry
            self.boards.append(TrackRun(run, names))

    def notes(self, index: int) -> Mapping[str, Any]:
        """Returns the notes of a stage."""
        return stage_notes(self.run, index)

    def begin(self, index: int, notes: Mapping[str, Any]) -> None:
        """Write the notes of a stage."""
        write_stage_notes(self.run, index, notes)

    def save(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Write a checkpoint."""
        checkpoint.write(self.file, facts, arrays)

    def end(self, index: int, model: keras.Model) -> None:
        """Write the weights at the end of a stage."""
        self.file.parent.mkdir(exist_ok=True)
        save_weights(model, self.run.stage_weights_file(index + 1))

    def callbacks(self, model: Any, whole: keras.Model) -> list[Any]:
        """Returns the callbacks for TensorBoard and trackers that were requested."""
        return self.boards


def _train_in_memory(experiment: Experiment, run: RunFolder, data: Data | None, verbose: int | str) -> Experiment:
    """Train the rest of a run, and return the experiment with the trained weights.

    If memory runs out and `fit.batch_size` was "auto", training continues from the last checkpoint with half the size,
    which is stored in the run's spec. If the size was given, or is 1, the backend's error is raised.
    data: as for `resume`.
    """
    while True:
        hooks = _Hooks(run)
        saved = checkpoint.with_batch_size(
            checkpoint.read(hooks.file), len(experiment.parts["train"]), experiment.batch_size
        )
        try:
            Engine(
                experiment,
                hooks=hooks,
                history=hooks.history,
                checkpoint=saved,
                verbose=verbose,
            ).train()
            return experiment
        except Exception as error:
            auto = "batch_size" in run.required(TRAINING).get("tried", {})
            if not is_out_of_memory(error) or experiment.batch_size == 1 or not auto:
                raise
        # Not in the handler: the error keeps the failed objects in memory.
        half, cache, deadline = experiment.batch_size // 2, experiment.cache, experiment.deadline
        log.info(
            f"out of memory at batch size {experiment.batch_size}: continuing with {half} "
            f"({describe_progress(run)}); the learning rate stays as it is"
        )
        _note_batch_size(run, half)
        _forget(experiment)
        experiment = replace(reopen_experiment(run, data, cache), deadline=deadline)


def _note_batch_size(run: RunFolder, size: int) -> None:
    """Store another batch size in the run, and note from which epoch on it is used."""
    training = run.required(TRAINING)
    known = checkpoint.read_facts(run.checkpoint_file) or {"epoch": 0, "step": 0}
    smaller = {"batch_size": size, "after": {"epochs": known["epoch"], "steps": known["step"]}}
    training["tried"]["batch_size"].setdefault("out_of_memory", []).append(smaller)
    run.write_training(training)
    set_batch_size(run, size)


def _forget(experiment: Experiment) -> None:
    """Release what a compiled model holds, which is most of the memory; the caller may still have the model."""
    for sized in experiment.sized.values():
        model = sized.built.model
        model.optimizer = model.train_function = model.test_function = None
    if keras.backend.backend() == "torch":
        import torch

        torch.cuda.empty_cache()
    gc.collect()


@contextmanager
def _saying_how_to_resume(run: RunFolder) -> Iterator[None]:
    """Add to an error that ends a training what is saved and how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_how_to_resume(run)}") from None
    except Interrupted as error:
        raise Interrupted(f"{error}; {_how_to_resume(run)}") from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = error.filename or run.path
        raise KerasimgError(f"no space is left to write {where}: free some; {_how_to_resume(run)}") from error
    except DataError as error:
        raise ManyFaults([*error.faults, Fault("", "", _how_to_resume(run))]) from error
    except Diverged as error:
        raise Diverged(f"{error}. The folder of the run is {run.path} ({describe_progress(run)})") from None
    except KerasimgError:
        raise  # it says all
    except Exception as error:
        if named := IN_THE_PIPELINE.search(str(error)):
            raise ManyFaults([Fault("", "", named[1]), Fault("", "", _how_to_resume(run))]) from None
        if is_out_of_memory(error):
            size = run.required(SPEC)["fit"]["batch_size"]
            smaller = f"with a smaller one (--set fit.batch_size={size // 2}, or auto)"
            advice = smaller if size > 1 else "with smaller images (image.size) or a smaller model"
            raise KerasimgError(
                f"out of memory at batch size {size}: retrain {advice}, or free memory; {_how_to_resume(run)}"
            ) from error
        error.add_note(_how_to_resume(run))
        raise


def _how_to_resume(run: RunFolder) -> str:
    if run.finished:
        return f"the training is finished and saved in {run.path}; for its report: {command('run', 'report', run.path)}"
    return f"{describe_progress(run)}; to resume: {run.resume}"


def describe_progress(run: RunFolder) -> str:
    """Returns the saved progress of a run in words."""
    facts = checkpoint.read_facts(run.checkpoint_file)
    if facts is None:
        return "no checkpoint was written yet"
    epoch, step = facts["epoch"], facts["step"]
    return f"saved up to step {step:,} of epoch {epoch + 1}" if step else f"saved up to the end of epoch {epoch}"
