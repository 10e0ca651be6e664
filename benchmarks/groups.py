"""Accuracy under a random split and under a split by patient, for a model that recognizes patients (docs/groups.md).

Each patient has several similar images, and a diagnosis that no image shows: the true accuracy is 0.5.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image

import kerasimg

SPEC = {
    "kerasimg": 1,
    "name": "patients",
    "params": {"num_classes": None},
    "image": {"size": [32, 32]},
    "model": [
        {"layer": "Conv2D", "filters": 16, "kernel_size": 3, "strides": 2, "activation": "relu"},
        {"layer": "Conv2D", "filters": 32, "kernel_size": 3, "strides": 2, "activation": "relu"},
        {"layer": "Flatten"},
        {"layer": "Dense", "units": 64, "activation": "relu"},
        {"layer": "Dense", "units": "=num_classes", "activation": "softmax"},
    ],
    "compile": {"optimizer": {"type": "Adam", "learning_rate": 0.002}},
    "fit": {"stages": [{"epochs": 20}], "test_split": 0.25, "validation_split": 0.1},
}


def write(folder: Path, patients: int, each: int, seed: int) -> Path:
    """Writes a manifest of patients, half of them ill, with images of an individual pattern plus noise."""
    draws = np.random.default_rng(seed)
    ill = draws.permutation(np.arange(patients) % 2)
    rows = []
    for patient in range(patients):
        own = PIL.Image.fromarray(draws.integers(60, 196, (5, 5, 3)).astype(np.uint8))
        pattern = np.asarray(own.resize((32, 32), PIL.Image.Resampling.BICUBIC), float)
        for number in range(each):
            pixels = np.clip(pattern + draws.normal(0, 25, pattern.shape), 0, 255).astype(np.uint8)
            name = f"{patient:03}_{number}.png"
            PIL.Image.fromarray(pixels).save(folder / name)
            rows.append({"path": name, "label": ("healthy", "ill")[ill[patient]], "patient": patient})
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "patient"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "data.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--each", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as temporary:
            data = write(Path(temporary), asked.patients, asked.each, seed)
            for group in (None, {"column": "patient"}):
                spec = {**SPEC, "fit": {**SPEC["fit"], "seed": seed, "group": group}}
                run = kerasimg.train(spec, data=data, out=Path(temporary) / "runs", verbose=0, report=False)
                scores = run.scores
                low, high = scores["intervals"]["accuracy"]
                name, groups = "patient" if group else "none", scores["intervals_by"].get("groups", "-")
                reach = f"{scores['accuracy']:.3f} ({low:.3f} to {high:.3f})"
                print(f"seed {seed}, group {name}: accuracy {reach} on {scores['n']} images, {groups} groups")


if __name__ == "__main__":
    main()
