"""Bayesian optimization against random search with equal numbers of trials, on a synthetic objective.

    python benchmarks/tune_bayesian.py [--trials 30] [--seeds 10]

The objective resembles a small training without noise: its optimum is a learning rate of 0.003 (a parabola in the
logarithm), 3 layers, little dropout, and one of three kinds of body, one of which has its own value. It goes through
the same code as a training: the search space of a spec, KerasTuner's hyperparameters, the oracle, the journal.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import kerasimg
from kerasimg.spec.document import Tune
from kerasimg.spec.metrics import Goal
from kerasimg.tuning.journal import Outcome, Records
from kerasimg.tuning.samplers import make_sampler
from kerasimg.tuning.space import space_of
from kerasimg.tuning.worker import run_trial

GOAL = Goal("val_accuracy", "max")
PATCHES = {"layer": "Conv2D", "name": "patches", "filters": 8, "kernel_size": {"$int": [2, 16], "default": 8}}
SPEC = {
    "kerasimg": 1,
    "params": {
        "num_classes": 10,
        "lr": {"$float": [1e-5, 1.0], "log": True, "default": 1e-4},
        "dropout": {"$float": [0.0, 0.8], "default": 0.5},
        "layers": {"$int": [1, 8], "default": 1},
    },
    "image": {"size": [32, 32]},
    "model": [
        {
            "$choice": {
                "flat": {"layer": "ReLU"},
                "conv": {"layer": "Conv2D", "filters": 8, "kernel_size": 3},
                "patches": PATCHES,
            },
            "default": "flat",
        },
        {"layer": "Flatten"},
        {"layer": "Dense", "units": 8, "repeat": "=layers"},
        {"layer": "Dropout", "rate": "=dropout"},
        {"layer": "Dense", "units": "=num_classes", "activation": "softmax"},
    ],
}
MOST = 0.95


def accuracy(values: dict[str, Any]) -> float:
    lost = 0.05 * (math.log10(values["lr"]) - math.log10(0.003)) ** 2
    lost += 0.004 * (values["layers"] - 3) ** 2 + 0.2 * (values["dropout"] - 0.2) ** 2
    body = values["model.0"]
    lost += {"flat": 0.2, "conv": 0.05, "patches": 0.0}[body]
    if body == "patches":
        lost += 0.001 * (values["model.0.patches.kernel_size"] - 4) ** 2
    return MOST - lost


class Function:
    """Replaces `Trials`."""

    def run(self, values: dict[str, Any], **how: Any) -> Outcome:
        row = {"stage": 1, "epoch": 1, "val_accuracy": accuracy(values)}
        return Outcome("completed", [row], row, 0.0)

    def expect(self, values: dict[str, Any], **how: Any) -> None:
        """Nothing to prefetch."""

    def used_up(self) -> bool:
        return False


def missed(tuner: str, seed: int, trials: int) -> float:
    """Returns the gap between the best of a number of trials and the optimum."""
    spec = kerasimg.load(SPEC)
    oracle = make_sampler(space_of(spec), GOAL, Tune(tuner=tuner, max_trials=trials, seed=seed), 1)
    with tempfile.TemporaryDirectory() as folder:
        oracle.open(Records(Path(folder)))
        while (order := oracle.create_trial("alone").order) is not None:
            oracle.end_trial(order.trial, run_trial(oracle, order, Function(), spec, GOAL))
    return MOST - float(oracle.trials[oracle.best].score)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=10)
    output = parser.parse_args()
    found: dict[str, list[float]] = {}
    for tuner in ("random", "bayesian"):
        started = time.perf_counter()
        found[tuner] = [missed(tuner, seed, output.trials) for seed in range(output.seeds)]
        each = (time.perf_counter() - started) / output.seeds / output.trials
        worst = max(found[tuner])
        print(
            f"{tuner}: {100 * statistics.mean(found[tuner]):.2f} points below the most, mean of {output.seeds} seeds "
            f"(median {100 * statistics.median(found[tuner]):.2f}, worst {100 * worst:.2f}); "
            f"{1000 * each:.0f} ms a trial"
        )
    wins = sum(one < other for one, other in zip(found["bayesian"], found["random"], strict=True))
    ratio = statistics.mean(found["random"]) / statistics.mean(found["bayesian"])
    print(f"bayesian is better for {wins} of {output.seeds} seeds; what it misses is {ratio:.1f} times less")


if __name__ == "__main__":
    main()
