"""Writes the pages of docs/ that follow from files: plain-keras.md and zoo.md.

    python docs/make_pages.py              # the pages, from the specs, the snippets and parity.json
    python docs/make_pages.py --measure    # parity.json first: builds every family beside keras.applications

A test fails while a page is not what this script makes.
"""

from __future__ import annotations

import argparse
import json
import runpy
from pathlib import Path

import numpy as np

from kerasimg import catalog

DOCS = Path(__file__).parent
PARITY = DOCS / "parity.json"
"""Spec -> model of keras.applications -> greatest difference of the outputs, with the same weights."""

REPLACED = {
    "simple_cnn": "Two convolutions, two poolings, two dense layers.",
    "branched": "Two branches, joined. As usually printed, without padding, they do not concatenate: 31x31 against "
    "30x30.",
    "mobilenet": "MobileNetV2, frozen, under a new head. The spec also has what the code here leaves out: "
    "augmentation, and the second stage, fine-tuning.",
}


SIMPLE_CNN = """\
simple_cnn: 1,626,442 parameters
node             type          inputs           output    parameters
...
Next: kerasimg train simple_cnn --data DATA
"""
"""What the command at the beginning of plain-keras.md prints, shortened."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure parity with keras.applications again")
    if parser.parse_args().measure:
        PARITY.write_text(json.dumps(measure(), indent=2) + "\n", encoding="utf-8")
    for name, page in pages().items():
        (DOCS / name).write_text(page, encoding="utf-8")


def pages() -> dict[str, str]:
    """File name -> content."""
    return {"plain-keras.md": plain_keras(), "zoo.md": zoo()}


def plain_keras() -> str:
    """Each of three specs beside the code that it replaces."""
    parts = [
        "# Beside plain Keras",
        "```console\n$ kerasimg spec show simple_cnn --graph\n" + SIMPLE_CNN + "```",
        "Three specs of the zoo, and the Keras code that each replaces. A test checks of each pair that layers, shapes "
        "and number of parameters are the same and that, with the same weights, the outputs are equal.",
    ]
    for name, about in REPLACED.items():
        code = (DOCS / "snippets" / f"plain_{name}.py").read_text(encoding="utf-8").strip()
        spec = catalog.zoo_file(name).path.read_text(encoding="utf-8").strip()
        parts += [f"## {name}", about, f"```python\n{code}\n```", f"```json\n{spec}\n```"]
    return "\n\n".join(parts) + "\n"


def zoo() -> str:
    """The table of the specs that ship."""
    parity = json.loads(PARITY.read_text(encoding="utf-8"))
    rows = [
        "# The zoo",
        "",
        "```console",
        "$ kerasimg spec show mobilenet_v2 --graph",
        "mobilenet_v2: 3,538,984 parameters",
        "...",
        "$ kerasimg spec build mobilenet_v2",
        "...",
        "```",
        "",
        "Each file is written from the paper that its card names; `kerasimg zoo show NAME` prints it. Parameters are "
        "those at the defaults. Parity is the greatest difference of the outputs to the model of `keras.applications` "
        "with the same weights, over the members compared; where there is no such model, a test asserts the paper's "
        "number of parameters.",
        "",
        "| spec | lines | variants | parameters | parity | source |",
        "| --- | ---: | --- | ---: | --- | --- |",
    ]
    for name in catalog.zoo_names():
        spec = catalog.load(name, partial=True)
        lines = len(catalog.zoo_file(name).path.read_text(encoding="utf-8").splitlines())
        variants = ", ".join(name for name in spec.document.get("variants", {}) if not name.startswith("//"))
        compared = parity.get(name, {})
        figure = f"{max(compared.values()):.0e} ({', '.join(compared)})" if compared else ""
        params = f"{spec.expect.params:,}" if spec.expect.params else ""
        rows.append(f"| {name} | {lines} | {variants} | {params} | {figure} | {_short(spec.card.source)} |")
    elsewhere = (DOCS / "snippets" / "zoo_weights.md").read_text(encoding="utf-8")
    return "\n".join(rows) + f"\n\n{elsewhere}"


def _short(source: str | None) -> str:
    return (source or "").replace("|", "/")


def measure() -> dict[str, dict[str, float]]:
    """The parity of one member of each family that keras.applications has too, as the contract test compares them."""
    contract = runpy.run_path(str(DOCS.parent / "tests" / "contract" / "test_zoo.py"))
    found: dict[str, dict[str, float]] = {}
    for row in contract["OUTPUTS"]:
        theirs, ours = contract["outputs"](*row)
        found.setdefault(row[0], {})[row[2]] = float(np.abs(theirs - ours).max())
        print(row[0], row[2], found[row[0]][row[2]])
    return found


if __name__ == "__main__":
    main()
