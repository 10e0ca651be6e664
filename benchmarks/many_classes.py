"""Evaluation and report with many classes: seconds, peak memory, size of files.

    python benchmarks/many_classes.py [IMAGES CLASSES]

Each case is a separate process. It trains a network of one dense layer on a few images, then evaluates it on IMAGES
images of 4x4 pixels with CLASSES classes and writes the report. "start" is the memory before the evaluation: Keras,
TensorFlow, the network and the images. Default: 50,000 x 1,000 and 10,000 x 10,000.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CASES = [(50_000, 1_000), (10_000, 10_000)]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def case(images: int, classes: int, folder: Path) -> dict[str, float]:
    import kerasimg

    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (images, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(images) % classes
    spec = {
        "kerasimg": 1,
        "name": "many",
        "params": {"num_classes": None},
        "image": {"size": [4, 4]},
        "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": "=num_classes", "activation": "softmax"}],
        "fit": {"stages": [{"epochs": 1}], "validation_split": 0, "test_split": 0, "batch_size": 256},
    }
    few = np.arange(classes)
    run = kerasimg.train(spec, data=(pixels[few], labels[few]), out=folder, report=False, verbose=0)
    start_mb, begin = peak_mb(), time.perf_counter()
    out = run.folder / "evaluation"
    scores = kerasimg.evaluate(run, data=(pixels, labels), out=out)
    evaluated = time.perf_counter()
    kerasimg.report(run)
    end = time.perf_counter()
    files = [*out.iterdir(), run.folder / "report.html"]
    return {
        "images": images,
        "classes": classes,
        "evaluate_s": round(evaluated - begin, 1),
        "report_s": round(end - evaluated, 1),
        "start_mb": round(start_mb),
        "peak_mb": round(peak_mb()),
        "files_mb": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "accuracy": scores["accuracy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int, nargs="?")
    parser.add_argument("classes", type=int, nargs="?")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out:
        print(json.dumps(case(options.images, options.classes, options.out)))
        return
    for images, classes in [(options.images, options.classes)] if options.classes else CASES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, str(images), str(classes), "--out", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout.strip().splitlines()[-1] if done.returncode == 0 else done.stderr[-2000:], flush=True)


if __name__ == "__main__":
    main()
