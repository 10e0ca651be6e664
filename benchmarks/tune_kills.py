"""Kills a search (SIGKILL) at random moments, resumes it each time, and compares it with an undisturbed one.

    python benchmarks/tune_kills.py [--kills 10] [--seed 0]

Runs once with one process, and once with two workers, where either the chief or a worker is killed. Prints a line per
kill, and fails unless each of `max_trials` trials started and ended exactly once and the winning spec is identical.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TRIALS = 40
AT_ANY_TIME = 0.3
"""Share of the kills that may fall into the start of the processes, too; the others wait until a trial begins."""
SPEC = {
    "kerasimg": 1,
    "name": "killed",
    "params": {"num_classes": 10, "lr": {"$float": [1e-4, 1e-1], "log": True, "default": 1e-3}},
    "image": {"size": [28, 28], "channels": 1},
    "model": [
        {"layer": "Conv2D", "filters": {"$choice": [8, 16, 24], "default": 16}, "kernel_size": 3, "activation": "relu"},
        {"layer": "MaxPooling2D"},
        {"layer": "Flatten"},
        {"layer": "Dense", "units": "=num_classes", "activation": "softmax"},
    ],
    "compile": {"optimizer": {"type": "Adam", "learning_rate": "=lr"}},
    "fit": {"batch_size": 32, "stages": [{"epochs": 6}]},
    "tune": {"tuner": "random", "max_trials": TRIALS},
}


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kerasimg", "tune", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> None:
    said = process.communicate()[0].decode()
    if process.returncode:
        sys.exit(f"a search ended with code {process.returncode}:\n{said}")


def events(folder: Path) -> list[dict]:
    path = folder / "journal.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def undisturbed(spec: Path, out: Path, workers: int) -> tuple[str, float, float]:
    """Returns the winning spec, the total seconds and the seconds per trial."""
    started = time.perf_counter()
    finish(start(str(spec), "--data", "sample", "--out", str(out), "--workers", str(workers)))
    seconds = time.perf_counter() - started
    folder = out / "killed-tune-1"
    trial_s = statistics.median(event["ended"]["seconds"] for event in events(folder) if event["event"] == "end")
    return (folder / "best.json").read_text(), seconds, trial_s


def disturbed(
    spec: Path, out: Path, workers: int, kills: int, draw: random.Random, usual_s: float, trial_s: float
) -> str:
    folder = out / "killed-tune-1"
    process = start(str(spec), "--data", "sample", "--out", str(out), "--workers", str(workers))
    start_s = usual_s - trial_s * TRIALS / workers
    done = 0
    while done < kills:
        if draw.random() < AT_ANY_TIME:
            time.sleep(draw.uniform(0, start_s))
        else:
            wait_for_a_trial(process, folder)
            time.sleep(draw.uniform(0, 3 * trial_s))
        if process.poll() is not None:
            sys.exit(f"the search ended before it was killed {kills} times; let it have more trials")
        found = workers_of(process) if workers > 1 else []
        chief = not found or done % 2 == 0
        victim = process.pid if chief else draw.choice(found)
        os.kill(victim, signal.SIGKILL)
        done += 1
        ended = sum(event["event"] == "end" for event in events(folder))
        started = sum(event["event"] == "begin" for event in events(folder))
        what = "the search" if chief else "a worker"
        print(f"  kill {done}: {what}, with {ended} trials ended and {started - ended} under way", flush=True)
        if chief:
            process.communicate()
            there = (folder / "search.json").is_file()
            again = ["--resume", str(folder)] if there else [str(spec), "--data", "sample", "--out", str(out)]
            process = start(*again, "--workers", str(workers))
    finish(process)
    check(folder)
    print(f"  {done} kills, {TRIALS} trials, each started and ended once")
    return (folder / "best.json").read_text()


def wait_for_a_trial(process: subprocess.Popen[bytes], folder: Path) -> None:
    before = len(events(folder))
    while process.poll() is None and len(events(folder)) == before:
        time.sleep(0.02)


def check(folder: Path) -> None:
    journal = events(folder)
    names = [f"{number:04d}" for number in range(1, TRIALS + 1)]
    for kind in ("begin", "end"):
        counted = Counter(event["trial"] for event in journal if event["event"] == kind)
        if counted != Counter(names):
            sys.exit(f"expected each of {TRIALS} trials to {kind} once, found {counted}")
    for name in names:
        if json.loads((folder / "trials" / name / "outcome.json").read_text())["status"] != "completed":
            sys.exit(f"trial {name} is not complete")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        spec = Path(temporary) / "killed.json"
        spec.write_text(json.dumps(SPEC, indent=2))
        for workers in (1, 2):
            out = Path(temporary)
            expected, usual_s, trial_s = undisturbed(spec, out / f"left-{workers}", workers)
            print(f"{workers} worker{'s' * (workers > 1)}: undisturbed in {usual_s:.1f} s")
            found = disturbed(spec, out / f"killed-{workers}", workers, options.kills, draw, usual_s, trial_s)
            if found != expected:
                sys.exit(f"the winning spec differs:\n{expected}\n{found}")
            print("  the same winning spec to the byte")


if __name__ == "__main__":
    main()
