"""Results of each zoo recipe on the stated data: `python benchmarks/recipes.py CLIPART`.

CLIPART is the folder of the Debian package openclipart-png (usr/share/openclipart/png), of which animals, food,
transportation and people are used. Fashion-MNIST is the sample that ships: 2,000 training and 500 test images. Each
recipe is trained by the printed command in a separate process; the test split is used once, at the end.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUBJECTS = ("animals", "food", "transportation")
"""Of 316, 366 and 369 drawings."""
RARE = {"people": (240, 60, 40), "animals": (40, 15, 40), "food": (12, 8, 40)}
"""Subject -> images to train with, to validate by, to test with: the first of each folder, by name."""

RUNS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("from_scratch", "sample", ()),
    ("speedrun", "sample", ("epochs=40",)),
    ("tiny_device", "sample", ("size=32", "channels=1")),
    ("transfer", "clips", ()),
    ("finetune", "clips", ("size=128", "tuning_epochs=6")),
    ("robust", "clips", ("size=128", "tuning_epochs=8")),
    ("transfer", "rare.csv", ()),
    ("imbalanced", "rare.csv", ()),
)
"""Recipe, data, params."""
COLUMNS = ("recipe", "data", "--set", "epochs", "minutes", "accuracy", "balanced accuracy", "macro F1")


def main() -> None:
    """Trains the recipes and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clipart", type=Path)
    parser.add_argument("--only", nargs="*", help="names of recipes")
    parser.add_argument("--out", type=Path, help="store the runs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "clips").mkdir()
        for subject in SUBJECTS:
            (work / "clips" / subject).symlink_to((options.clipart / subject).resolve())
        write_rare(options.clipart, work / "rare.csv")
        print(f"| {' | '.join(COLUMNS)} |\n| --- | --- | --- |{' ---: |' * 5}", flush=True)
        for recipe, data, params in RUNS:
            if options.only is None or recipe in options.only:
                row, run = trained(recipe, work / data if data != "sample" else "sample", params, options.out or work)
                print(f"| {' | '.join([recipe, data, ' '.join(params), *row])} |", flush=True)
                if recipe == "tiny_device":
                    print(in_int8(run), flush=True)


def trained(recipe: str, data: Path | str, params: Sequence[str], out: Path) -> tuple[list[str], Path]:
    """Returns the table row of a run, and its folder."""
    sets = [word for param in params for word in ("--set", param)]
    command = [sys.executable, "-m", "kerasimg", "train", f"recipes/{recipe}", "--data", str(data), *sets]
    command += ["--on-bad-image", "skip"]  # one drawing has 623 million pixels
    started = time.monotonic()
    answer = subprocess.run(
        [*command, "--out", str(out), "--json"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    minutes = (time.monotonic() - started) / 60
    output = json.loads(answer)
    run, scores = Path(output["run"]), output["scores"]
    epochs = len((run / "history.csv").read_text().splitlines()) - 1
    figures = [f"{scores[key]:.3f}" for key in ("accuracy", "balanced_accuracy", "macro_f1")]
    return [str(epochs), f"{minutes:.1f}", *figures], run


def write_rare(clipart: Path, path: Path) -> None:
    """Writes a manifest of many people, few animals and very little food, with equal numbers in the test split."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for subject, counts in RARE.items():
            files = iter(sorted(one for one in (clipart / subject).resolve().rglob("*") if one.suffix == ".png"))
            for part, count in zip(("train", "validation", "test"), counts, strict=True):
                writer.writerows((next(files), subject, part) for _ in range(count))


def in_int8(run: Path) -> str:
    """Returns size and accuracy of a run's model in int8, activations included."""
    import keras
    import numpy as np
    import tensorflow as tf

    from kerasimg.data.pipeline import batches
    from kerasimg.data.sources import open_source
    from kerasimg.models.classifier import Classifier
    from kerasimg.run_folder import RunFolder
    from kerasimg.training.run import parts_of_record

    classifier = Classifier.open(run)
    source = open_source("sample", "multiclass", classes=classifier.classes)
    parts = parts_of_record(source, RunFolder.of(run).required("data.json"))
    how: dict[str, Any] = {"batch_size": 500, "cache": "off"}
    some = next(iter(batches(source, parts["train"][:500], classifier.spec.image, **how)))[0].numpy()
    pixels, labels = (part.numpy() for part in next(iter(batches(source, parts["test"], classifier.spec.image, **how))))
    model = classifier.model
    with tempfile.TemporaryDirectory() as folder:
        keras.Model(model.input, model(model.input, training=False)).export(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in some)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8
        content = converter.convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    right = 0
    for image, label in zip(pixels, labels, strict=True):
        interpreter.set_tensor(entry["index"], image[np.newaxis].astype("uint8"))
        interpreter.invoke()
        right += int(interpreter.get_tensor(result["index"])[0].argmax() == label)
    return f"tiny_device in int8: {len(content) / 1000:.0f} KB, accuracy {right / len(labels):.3f}"


if __name__ == "__main__":
    main()
