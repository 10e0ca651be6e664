"""How far each method of `kerasimg.explain` can be trusted: the table of docs/explain.md.

    python benchmarks/explain_sanity.py

With the network and the images of tests/evaluation/test_explain.py: the share of the maps whose peak lies on the
planted cue, and the rank correlation that is left when the weights of the last convolution, or of the head, are drawn
again (mean of four draws).
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1] / "tests" / "evaluation" / "test_explain.py"


def main() -> None:
    tests = runpy.run_path(str(TESTS))
    classifier = tests["trained"]()
    shown = tests["cues"](40, 2, classes=3)
    print("| method | pointing | last convolution | head |\n| --- | ---: | ---: | ---: |")
    for method in tests["METHODS"]:
        found = tests["maps"](classifier, shown, method)
        row = [f"{tests['hits'](shown, found).mean():.2f}"]
        for part in ("last", "classes"):
            layer = classifier.model.get_layer(part)
            learned = layer.get_weights()
            kept = []
            for seed in range(4):
                draws = np.random.default_rng(seed)
                layer.set_weights([draws.normal(0, weight.std() or 0.1, weight.shape) for weight in learned])
                kept.append(tests["likeness"](found, tests["maps"](classifier, shown, method)))
            layer.set_weights(learned)
            row.append(f"{np.mean(kept):.2f}")
        print(f"| `{method}` | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
