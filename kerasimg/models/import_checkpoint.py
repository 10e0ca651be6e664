"""`kerasimg.import_checkpoint`: a PyTorch checkpoint of timm or Hugging Face becomes a spec with its weights."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from kerasimg import boundary
from kerasimg.errors import CallError
from kerasimg.files import write_json, write_text
from kerasimg.models.build import construct_without_weights
from kerasimg.models.checkpoint_files import Facts, Found, extending, headless, load_model, open_files, read_facts
from kerasimg.models.weights import save_weights
from kerasimg.results import Result
from kerasimg.spec.formatting import dumps


@dataclass(frozen=True, repr=False)
class ImportedCheckpoint(Result):
    """What `import_checkpoint` wrote."""

    spec: Path
    """The spec; `kerasimg.build` and every command take it."""
    weights: Path
    family: str
    """The converter, `zoo/converters/<family>.json`."""
    architecture: str
    """What the checkpoint calls itself."""
    params: int
    """Parameters of the model."""
    classes: int
    """Of its head; 0: it has none, and `num_classes` must be given."""
    license: str | None
    """As its card says; None: the card says nothing."""
    source: str
    """Where it came from; from the Hub with its commit."""


def import_checkpoint(
    source: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, revision: str | None = None
) -> ImportedCheckpoint:
    """Imports a checkpoint of timm or Hugging Face: writes a spec, its weights and its class names.

    The spec extends one of the zoo, with the params of the checkpoint and with its own preprocessing in the section
    `image`. `docs/importing.md` lists the families.

    Args:
        source: a `.safetensors` file with `config.json` beside it, a folder with both, or `hf://owner/name`, which
            needs `pip install "kerasimg[hub]"`.
        out: the folder to write to. None: one with the name of the checkpoint, in the current folder.
        revision: of a checkpoint on the Hub: a branch, a tag or a commit. None: `main`. The commit is recorded.

    Returns:
        An `ImportedCheckpoint` with the paths of the spec and the weights.

    Raises:
        CallError: if there is no such checkpoint, no converter knows it, or the files exist already.
        WeightsError: if its arrays are not those of its architecture; nothing is written.

    Example:
        >>> kerasimg.import_checkpoint("vit_tiny/", out="models").spec  # doctest: +SKIP
        PosixPath('models/vit_tiny.json')
    """
    with open_files(source, revision) as found:
        facts = read_facts(found)
        folder = Path(found.name if out is None else out)
        files = {suffix: folder / f"{found.name}{suffix}" for suffix in (".json", ".weights.h5", ".classes.json")}
        for path in files.values():
            if path.exists():
                raise CallError(f"'{path}' exists already; choose another folder with out (--out)")
        model = load_model(found, facts, construct_without_weights)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CallError(f"out: '{folder}': {boundary.reason_of(error)}") from None
        save_weights(model if facts.classes else headless(model), files[".weights.h5"])
        if facts.names:
            write_json(files[".classes.json"], list(facts.names))
        write_text(files[".json"], dumps(_document(found, facts, model, files[".weights.h5"])))
    return ImportedCheckpoint(
        spec=files[".json"],
        weights=files[".weights.h5"],
        family=facts.recipe.family,
        architecture=facts.architecture,
        params=model.count_params(),
        classes=facts.classes,
        license=facts.license,
        source=found.source,
    )


def _document(found: Found, facts: Facts, model: keras.Model, weights: Path) -> dict[str, Any]:
    """The spec of an imported checkpoint."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    pretrained = {"file": weights.name, "sha256": digest}
    if facts.names:
        pretrained["classes"] = weights.name.replace(".weights.h5", ".classes.json")
    body = extending(facts)
    card = {"source": facts.architecture, "license": facts.license or "unknown", "origin": found.source}
    document = {
        "$schema": "kerasimg-1.schema.json",
        **body,
        "name": found.name,
        "about": f"{facts.architecture}, imported by the converter {facts.recipe.family}.",
        "card": card,
        "pretrained": {"imagenet": pretrained},
    }
    if facts.classes:
        document["expect"] = {"params": model.count_params(), "output": [None, facts.classes]}
    return document
