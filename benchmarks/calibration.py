"""Effect of temperature scaling on the calibration error of held-out images, for an overtrained simple CNN.

    python benchmarks/calibration.py [--data DATA] [--epochs N] [--seeds N]

Prints for each seed the temperature fitted on the validation split and, on the test split, the calibration error and
the log loss before and after, with 95 % intervals. DATA is "sample" (2,500 images of Fashion-MNIST that ship) or any
value of `kerasimg train --data`; `benchmarks/fashion_mnist.py npz` makes an .npz of all of Fashion-MNIST. Exit code 1
if the error of any seed did not decrease.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from typing import Any

import kerasimg

SPEC = "zoo/simple_cnn.json"


def trained_and_calibrated(data: str, epochs: int, seed: int, out: str) -> tuple[float, dict[str, Any]]:
    """Returns the test accuracy of a run, and its calibration."""
    edits = {"fit.stages": [{"epochs": epochs}], "fit.seed": seed, "fit.validation_split": 0.15, "fit.callbacks": []}
    run = kerasimg.train(SPEC, data=data, out=out, size=28, overrides=edits, verbose=0)
    return run.scores["accuracy"], kerasimg.calibrate(run)


def between(side: dict[str, Any], figure: str) -> str:
    low, high = side["intervals"][figure]
    return f"{side[figure]:.4f} ({low:.4f}-{high:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--epochs", type=int, default=30, help="default: 30")
    parser.add_argument("--seeds", type=int, default=5, help="default: 5")
    options = parser.parse_args()
    print("| seed | accuracy | temperature | calibration error | after | log-loss | after |")
    print("| ---: | ---: | ---: | --- | --- | --- | --- |")
    errors = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as out:
            accuracy, output = trained_and_calibrated(options.data, options.epochs, seed, out)
        before, after = (output["parts"]["test"][when] for when in ("before", "after"))
        errors.append((before["calibration_error"], after["calibration_error"]))
        sides = [between(side, figure) for figure in ("calibration_error", "log_loss") for side in (before, after)]
        print(f"| {seed} | {accuracy:.3f} | {output['temperature']:.2f} | {' | '.join(sides)} |", flush=True)
    medians = [statistics.median(side) for side in zip(*errors, strict=True)]
    print(f"median calibration error {medians[0]:.4f} -> {medians[1]:.4f}")
    sys.exit(any(after >= before for before, after in errors))


if __name__ == "__main__":
    main()
