"""A training whose memory runs out goes on with smaller batches, where their size was left to the program."""

from __future__ import annotations

import gc
from collections.abc import Callable

import keras

from kerasimg.data.sources import Data
from kerasimg.run_folder import TRAINING
from kerasimg.training import checkpoint, recall
from kerasimg.training.experiment import Experiment
from kerasimg.training.interruption import Interruption
from kerasimg.training.loop import Loop, kept_until
from kerasimg.training.run import Run
from kerasimg.training.trial import is_out_of_memory

Say = Callable[[str], None]


def train_in_memory(
    experiment: Experiment, run: Run, data: Data | None, interruption: Interruption, verbose: int | str, say: Say
) -> Experiment:
    """Train what is left of a run; the experiment that has the weights.

    When memory runs out and `fit.batch_size` was "auto", it goes on from the last checkpoint with half the size, which
    then stands in the run's spec. data: as for `resume`. Where the size was given, or is 1, the backend's error passes.
    """
    while True:
        tensorboard = run.read_json(TRAINING)["tensorboard"]
        try:
            Loop(experiment, run, interruption, verbose, say, tensorboard).train()
            return experiment
        except Exception as error:
            if not is_out_of_memory(error) or experiment.batch_size == 1 or not _is_ours_to_choose(run):
                raise
        # Not in the handler: what failed stays in memory as long as its error does.
        half, cache = experiment.batch_size // 2, experiment.cache
        say(
            f"the memory does not suffice for batches of {experiment.batch_size} pictures: going on with {half} "
            f"({kept_until(run)}); the learning rate stays as it is"
        )
        _note(run, half)
        _forget(experiment)
        experiment = recall.experiment(run, data, cache, say)


def _is_ours_to_choose(run: Run) -> bool:
    return "batch_size" in run.read_json(TRAINING).get("tried", {})


def _note(run: Run, size: int) -> None:
    """Have the run go on with another batch size, and tell from where on in its notes."""
    training = run.read_json(TRAINING)
    known = checkpoint.facts(run.files.checkpoint_file) or {"epoch": 0, "step": 0}
    smaller = {"batch_size": size, "after": {"epochs": known["epoch"], "steps": known["step"]}}
    training["tried"]["batch_size"].setdefault("out_of_memory", []).append(smaller)
    run.write_json(TRAINING, training)
    run.set_batch_size(size)


def _forget(experiment: Experiment) -> None:
    """Let go of what a compiled model holds, which is most of the memory; the caller may have the model still."""
    for sized in experiment.sized.values():
        model = sized.built.model
        model.optimizer = model.train_function = model.test_function = None
    if keras.backend.backend() == "torch":
        import torch

        torch.cuda.empty_cache()
    gc.collect()
