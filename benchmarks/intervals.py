"""CPU seconds of the confidence intervals: 1,000 resamples of 10,000 images on one core.

OMP_NUM_THREADS=1 python benchmarks/intervals.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from kerasimg.evaluation.intervals import resampled
from kerasimg.spec.document import Task

N = 10_000
REPEATS = 5


def drawn(task: Task, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns truth and probabilities of a calibrated model; each of several labels holds for one image in twenty."""
    random = np.random.default_rng(0)
    if task == "multiclass":
        p = random.dirichlet(np.full(labels, 0.3), N)
        return (p.cumsum(axis=1) > random.random((N, 1))).argmax(axis=1), p
    share = 0.1 if task == "multilabel" else 1.0
    p = random.random((N, labels))
    truth = (random.random((N, labels)) < p * share).astype(int)
    return truth.reshape(-1) if task == "binary" else truth, p


def seconds(task: Task, labels: int) -> float:
    """Returns the minimum CPU time of REPEATS runs."""
    truth, p = drawn(task, labels)
    spent = []
    for _ in range(REPEATS):
        start = time.process_time()
        resampled(truth, p, task)
        spent.append(time.process_time() - start)
    return min(spent)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    cases: tuple[tuple[Task, int], ...] = (("multiclass", 10), ("multiclass", 1000), ("binary", 1), ("multilabel", 20))
    for task, labels in cases:
        print(f"{task}, {labels} outputs: {seconds(task, labels):.2f} s")


if __name__ == "__main__":
    main()
