"""Reliability of each method of `kerasimg.explain`: the table of docs/explain.md.

    python benchmarks/explain_sanity.py

Uses the network and the images of tests/evaluation/test_explain.py. Prints the fraction of maps whose maximum is on the
planted cue, and the remaining rank correlation when the weights of the last convolution, or of the head, are
randomized (mean of four seeds).
"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1] / "tests" / "evaluation" / "test_explain.py"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tests = runpy.run_path(str(TESTS))
    classifier = tests["trained"]()
    images = tests["cues"](40, 2, classes=3)
    print("| method | pointing | last convolution | head |\n| --- | ---: | ---: | ---: |")
    for method in tests["METHODS"]:
        maps = tests["maps"](classifier, images, method)
        row = [f"{tests['hits'](images, maps).mean():.2f}"]
        for part in ("last", "classes"):
            layer = classifier.model.get_layer(part)
            learned = layer.get_weights()
            correlations = []
            for seed in range(4):
                draws = np.random.default_rng(seed)
                layer.set_weights([draws.normal(0, weight.std() or 0.1, weight.shape) for weight in learned])
                correlations.append(tests["likeness"](maps, tests["maps"](classifier, images, method)))
            layer.set_weights(learned)
            row.append(f"{np.mean(correlations):.2f}")
        print(f"| `{method}` | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
