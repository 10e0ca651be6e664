"""Kills short trainings at random moments, resumes them, and compares the results with undisturbed trainings.

    python benchmarks/kills.py [--kills 50] [--seed 0] [--case NAME] [--at-a-time 2]

A process is stopped some time after its run starts; the script notes what it was doing, kills it (SIGKILL), resumes
it, and kills it again. Every second kill targets a checkpoint that is being written. It compares all weights of the
model and of the ends of the stages; at the end of each stage the optimizer with step count and moving averages, and
the state of callbacks; all values of history.csv except the seconds, and of metrics.json. The cases have two or three
stages with augmentation, Dropout, moving averages, layer-wise decay, early stopping and ReduceLROnPlateau, with
cached features, with fresh features and without; each run has its own cache, so that kills also hit the computation
of features.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import PIL.Image

BODY = {
    "nodes": [
        {"layer": "Conv2D", "name": "one", "filters": 8, "kernel_size": 3, "padding": "same", "activation": "relu"},
        {"layer": "BatchNormalization", "name": "normal"},
        {"layer": "Conv2D", "name": "two", "filters": 8, "kernel_size": 3, "padding": "same", "activation": "relu"},
    ]
}
MODEL = [
    {"block": "body", "name": "body"},
    {"layer": "GlobalAveragePooling2D"},
    {"layer": "Dropout", "rate": 0.3},
    {"layer": "Dense", "name": "hidden", "units": 16, "activation": "relu"},
    {"layer": "Dense", "units": "=num_classes", "activation": "softmax"},
]
AUGMENT = [{"layer": "RandomFlip"}, {"layer": "RandomRotation", "factor": 0.1}]
CALLBACKS = [{"type": "ReduceLROnPlateau", "monitor": "val_loss", "patience": 1, "min_delta": 0.02, "factor": 0.5}]
STOPPING = {"monitor": "val_accuracy", "patience": 4}
CASES: dict[str, dict[str, Any]] = {
    "plain": {
        "fit": {
            "features": "off",
            "callbacks": CALLBACKS,
            "stages": [
                {"epochs": 6, "freeze": ["body"], "early_stopping": STOPPING},
                {"epochs": 6, "unfreeze": {"body": 2}, "learning_rate": 0.003, "warmup_epochs": 1, "decay": "cosine"},
                {"epochs": 4, "unfreeze": {"body": 0}, "learning_rate": 0.001, "layer_decay": 0.7, "keep": "best"},
            ],
        },
    },
    "averages": {
        "augment": AUGMENT,
        "fit": {
            "features": "off",
            "ema": 0.9,
            "class_weight": "balanced",
            "stages": [{"epochs": 6, "keep": "best"}, {"epochs": 6, "learning_rate": 0.002, "size": [20, 20]}],
        },
    },
    "cached": {
        "fit": {
            "features": "cached",
            "callbacks": CALLBACKS,
            "stages": [
                {"epochs": 20, "freeze": ["body"], "early_stopping": STOPPING | {"patience": 8}},
                {"epochs": 4, "unfreeze": {"body": 1}, "learning_rate": 0.003, "warmup_epochs": 0.5},
            ],
        },
    },
    "views": {
        "augment": AUGMENT,
        "fit": {"features": "cached", "views": 3, "stages": [{"epochs": 20, "freeze": ["body"]}, {"epochs": 2}]},
    },
    "fresh": {
        "augment": AUGMENT,
        "fit": {"features": "fresh", "stages": [{"epochs": 6, "freeze": ["body"]}, {"epochs": 2}]},
    },
}


def spec(case: str) -> dict[str, Any]:
    """Returns a small spec that trains in a few seconds."""
    return {
        "kerasimg": 1,
        "name": case,
        "params": {"num_classes": None},
        "image": {"size": [16, 16]},
        "blocks": {"body": BODY},
        "model": MODEL,
        "compile": {"optimizer": {"type": "Adam", "learning_rate": 0.01}, "metrics": ["accuracy", "f1"]},
        **CASES[case],
        "fit": {"batch_size": 8, **CASES[case]["fit"]},
    }


def images(folder: Path) -> Path:
    """Returns striped images that take some epochs to learn; one class has twice as many."""
    noise = np.random.default_rng(0)
    for label, count in (("across", 60), ("down", 120)):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            wave = 128 + 40 * np.sin(np.arange(16) * noise.uniform(0.8, 1.6) + noise.uniform(0, 6))
            lines = np.tile(wave, (16, 1)).T if label == "across" else np.tile(wave, (16, 1))
            pixels = lines[..., None] + noise.normal(0, 50, (16, 16, 3))
            PIL.Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(folder / label / f"{number:03}.png")
    return folder


def outcome(run: Path) -> dict[str, Any]:
    """Returns all results of a run except times."""
    rows = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
    clock = rows[0].index("seconds")
    found: dict[str, Any] = {"history": [[*row[:clock], *row[clock + 1 :]] for row in rows]}
    for file in sorted((run / "checkpoints").iterdir()):
        with h5py.File(file) as weights:
            names: list[str] = []
            weights.visit(names.append)
            found[file.name] = {name: weights[name][...].tobytes() for name in names if hasattr(weights[name], "shape")}
    for file in sorted(run.glob("state-*.npz")):
        with np.load(file) as arrays:
            found[file.name] = {name: arrays[name].tobytes() for name in arrays.files}
    found["metrics"] = json.loads((run / "evaluation" / "metrics.json").read_text())
    return found


def keep_states() -> None:
    """Saves at the end of each stage what runs discard: the optimizer and the state of callbacks."""
    from kerasimg.training import checkpoint, engine

    finish = engine.Engine._finish

    def keeping(self: Any, index: int, model: Any, best: Any) -> None:
        arrays = checkpoint.variable_values(model.optimizer.variables, "optimizer")
        callbacks = [*self.callbacks, *([best] if best else [])]
        states = json.dumps(checkpoint.callback_states(callbacks, arrays))
        np.savez(self.hooks.run.path / f"state-{index + 1}.npz", states=np.array(states), **arrays)
        finish(self, index, model, best)

    engine.Engine._finish = keeping  # type: ignore[method-assign]


def in_a_process(work: Any, cache: Path) -> int:
    """Returns the id of a process that does the work, with Keras loaded but not used before."""
    if pid := os.fork():
        return pid
    os.environ["KERASIMG_CACHE"] = str(cache)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        keep_states()
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait_until(condition: Any, pid: int) -> bool:
    """Waits for a condition; returns False if the process ends first."""
    while not condition():
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.0002)
    return True


def doing(run: Path) -> str:
    """Returns what a stopped process was doing, according to its run's folder."""
    from kerasimg.files import PARTIAL
    from kerasimg.run_folder import RunFolder
    from kerasimg.training import checkpoint

    if list((run / "checkpoints").glob(PARTIAL.format("*"))):
        return "writing a checkpoint"
    started = len(json.loads((run / "training.json").read_text())["stages"])
    known = checkpoint.read_facts(RunFolder(run).checkpoint_file)
    if known is None and not started:
        return "before stage 1"
    if known and known["done"] and known["stage"] + 1 == started:
        return "between stages or after the last"
    return f"in stage {started}"


def train_with_kills(
    case: str, data: Path, out: Path, chance: random.Random, spans: tuple[float, float]
) -> tuple[Path, list[str]]:
    """Returns the run's folder, and what it was doing at each kill."""
    from kerasimg.files import PARTIAL
    from kerasimg.training import train as verbs

    def begin() -> None:
        verbs.train(spec(case), data=data, out=out, verbose=0)

    run, kills = out / f"{case}-1", list[str]()
    pid = in_a_process(begin, out / "cache")
    if not wait_until(run.exists, pid):
        raise SystemExit(f"{case}: the training failed")
    while True:
        until = time.monotonic() + chance.uniform(*spans)
        if not wait_until(lambda until=until: time.monotonic() > until, pid):
            break
        if len(kills) % 2:
            late, folder = time.monotonic() + 2, run / "checkpoints"
            pattern = PARTIAL.format("*")
            if not wait_until(lambda: any(folder.glob(pattern)) or time.monotonic() > late, pid):  # noqa: B023
                break
        os.kill(pid, signal.SIGSTOP)
        kills.append(doing(run))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pid = in_a_process(lambda: verbs.resume(run, verbose=0), out / "cache")
        # A process that is killed before it trains learns nothing of its end, and never gets anywhere.
        spans = (spans[0], spans[1] * 1.05)
    if not json.loads((run / "training.json").read_text())["finished"]:
        raise SystemExit(f"{case}: resuming failed")
    return run, kills


def check_case(case: str, data: Path, folder: Path, least: int, seed: int) -> int:
    """Kills runs of a case at least `least` times, prints a table row, and returns the number of different results."""
    chance = random.Random(f"{seed} {case}")
    started = time.monotonic()
    whole, _ = train_with_kills(case, data, folder / "whole" / case, chance, (1e9, 1e9))
    took = time.monotonic() - started
    wanted, runs, differ = outcome(whole), 0, 0
    hit: collections.Counter[str] = collections.Counter()
    while hit.total() < least:
        out = folder / f"killed-{case}-{runs}"
        started = time.monotonic()
        run, kills = train_with_kills(case, data, out, chance, (0.0, took))
        if not kills:
            took = min(took, time.monotonic() - started)  # the first may have found the machine busy
        hit.update(kills)
        runs += 1
        found = outcome(run)
        differ += found != wanted
        for key in wanted:
            if found.get(key) != wanted[key]:
                print(f"{case}: run {runs} differs in {key}", file=sys.stderr)
        shutil.rmtree(out)
    where = ", ".join(f"{count} {what}" for what, count in sorted(hit.items()))
    print(f"| {case} | {hit.total()} | {where} | {runs} | {differ} | {took:.1f} |", flush=True)
    return differ


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--at-a-time", type=int, default=2)
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    cases = options.case or list(CASES)
    least = -(-options.kills // len(cases))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KERASIMG_CACHE"] = f"{folder}/cache"
        import kerasimg.training.train  # noqa: F401 - for the processes

        data = images(folder / "data")
        head = ("case", "kills", "while it was", "runs", "ends that differ", "seconds undisturbed")
        print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)
        workers = []
        for number in range(options.at_a_time):
            if pid := os.fork():
                workers.append(pid)
                continue
            failed = 1
            try:
                failed = sum(
                    [check_case(case, data, folder, least, options.seed) for case in cases[number :: options.at_a_time]]
                )
            finally:
                os._exit(min(failed, 1))
        return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers)


if __name__ == "__main__":
    sys.exit(main())
