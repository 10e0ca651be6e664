"""Which model a file was derived from, and whether that still is the run's model.

Figures, report, model card, calibration, thresholds, label errors, export bundles and packs store the identity of the
model that they were made from: a hash of its weights, its temperature, its thresholds and whether it flips; a bundle
also that of its rule for unknown images. `model.keras` stores its own, so that comparing needs neither Keras nor the
weights. A file without an identity, as older versions wrote it, or a model without one, is unknown, not stale.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from kerasimg.boundary import limit, open_archive, parse_json
from kerasimg.errors import KerasimgError
from kerasimg.escaping import path_from_here
from kerasimg.files import read_json
from kerasimg.log import warning
from kerasimg.run_folder import EXPORT, RunFolder, RunReference
from kerasimg.spec.pack import KNOWN, KnownRule

MEMBER = "kerasimg.json"
"""The member of a `.keras` file that holds what Keras does not store."""
DIGEST = re.compile(r"[0-9a-f]{64}")
BUNDLE_MANIFEST = "manifest.json"
MARK = re.compile(r"<!-- kerasimg model (\{[^<>]*\}) -->")
"""The mark of a page or a card that says which model it describes."""
SEARCHED = 1_000_000
"""Characters in which the mark is looked for: it is near the top of a page, and a card is short."""


class ModelIdentity(TypedDict, total=False):
    """Identifies a state of a model. A file stores the keys that it depends on."""

    weights: str
    """SHA-256 over the weights, see `kerasimg.models.classifier.weights_digest`."""
    temperature: float
    thresholds: list[float] | None
    flips: bool


class Stale(NamedTuple):
    """A file of a run that belongs to an earlier state of the model."""

    path: Path
    why: str
    """The change since then."""
    command: str
    """The command that renews it."""

    def __str__(self) -> str:
        return f"'{self.path}' is stale: {self.why}; to renew it: kerasimg {self.command}"


def identity_of_file(file: Path) -> ModelIdentity | None:
    """The identity of the model in a `.keras` file; None if there is no such file, or it does not say."""
    try:
        with open_archive(file, f"'{file}'", ".keras") as archive:
            content = parse_json(archive.read(MEMBER, limit("json_bytes")))
    except (KerasimgError, OSError):  # whoever opens the model reports it
        return None
    if not isinstance(content, Mapping):
        return None
    return as_identity({"temperature": 1.0, "thresholds": None, "flips": False, **content})


def as_identity(content: Any) -> ModelIdentity | None:
    """The identity that a file stores; None if it stores none, or anything else."""
    if not isinstance(content, Mapping) or not DIGEST.fullmatch(str(content.get("weights"))):
        return None
    identity: ModelIdentity = {"weights": content["weights"]}
    if _is_number(content.get("temperature")):
        identity["temperature"] = content["temperature"]
    thresholds = content.get("thresholds")
    if "thresholds" in content and (
        thresholds is None or (isinstance(thresholds, list) and all(map(_is_number, thresholds)))
    ):
        identity["thresholds"] = thresholds
    if isinstance(content.get("flips"), bool):
        identity["flips"] = content["flips"]
    return identity


def change(stored: Any, model: ModelIdentity | None) -> str | None:
    """The difference between the identity in a file and the model's; None if there is none, or one is unknown."""
    derived = as_identity(stored)
    if derived is None or model is None:
        return None
    if derived["weights"] != model["weights"]:
        return "the model's weights have changed since"
    # What depends on probabilities depends on flips, which earlier versions did not have.
    if "temperature" in derived and derived.get("flips", False) != (flips := model.get("flips", False)):
        return f"the model's test-time flip was turned {'on' if flips else 'off'} since"
    if "temperature" in derived and derived["temperature"] != model["temperature"]:
        return f"the model's temperature was {derived['temperature']:.4g} and is {model['temperature']:.4g} now"
    if "thresholds" in derived and derived["thresholds"] != model["thresholds"]:
        return "the model's thresholds have changed since"
    return None


def known_change(stored: Any, file: Path) -> str | None:
    """The difference between a bundle's rule for unknown images and the model's; None if there is none, or unknown.

    Args:
        stored: `known` in the bundle's manifest.
        file: the model's `.keras` file.
    """
    try:
        with open_archive(file, f"'{file}'", ".keras") as archive:
            rule = parse_json(archive.read(MEMBER, limit("json_bytes"))).get("known")
            arrays = archive.read(KNOWN, limit("known_bytes")) if rule is not None else b""
        now = None if rule is None else (KnownRule.model_validate(rule), hashlib.sha256(arrays).hexdigest())
        before = None if stored is None else (KnownRule.model_validate(stored["rule"]), stored["sha256"])
    except (KerasimgError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if now == before:
        return None
    if before is None:
        return "the run has a rule for unknown images now"
    return f"the run's rule for unknown images has {'been removed' if now is None else 'changed'} since"


def mark(stored: Any) -> str:
    """The comment by which a page or a card says which model it describes; empty if that is unknown."""
    model = as_identity(stored)
    return "" if model is None else f"<!-- kerasimg model {json.dumps(model)} -->"


def stale_files(run: RunReference) -> list[Stale]:
    """Every file of a run that belongs to an earlier state of its model.

    Example:
        >>> [str(stale) for stale in stale_files("runs/photos-1")]
        ["'runs/photos-1/report.html' is stale: the model's temperature was 1 and is 1.37 now; to renew it: ..."]
    """
    files = RunFolder.of(run)
    model = identity_of_file(files.model_file)
    if model is None:
        return []
    found = [
        Stale(path, why, command)
        for path, derived, command in _derived(files)
        if (why := change(derived, model)) is not None
    ]
    for folder in bundles(files.path):
        path = folder / BUNDLE_MANIFEST
        if (why := _bundle_change(_object(path), files)) is not None:
            command = f"export {shlex.quote(str(files.path))} --to {shlex.quote(folder.name)}"
            found.append(Stale(path, why, command))
    return found


def bundles(run: Path) -> list[Path]:
    """The folders of a run's bundles; of what is no run, none."""
    return [path.parent for path in sorted(RunFolder(run).exports.glob(f"*/{BUNDLE_MANIFEST}"))]


def stale_bundle(folder: Path) -> Stale | None:
    """Whether a bundle belongs to an earlier state of its run's model; None if not, or if the run cannot be reached."""
    root = folder.resolve()
    content, files = _object(root / BUNDLE_MANIFEST), run_of_bundle(folder)
    why = None if files is None else _bundle_change(content, files)
    if files is None or why is None:
        return None
    run, out = shlex.quote(path_from_here(files.path)), shlex.quote(path_from_here(root.parent))
    command = f"export {run} --to {shlex.quote(str(content.get('target', root.name)))}"
    return Stale(folder, why, command if root.parent.name == EXPORT else f"{command} --out {out}")


def run_of_bundle(folder: Path) -> RunFolder | None:
    """Returns the run of a bundle: the folder around `export/`; elsewhere, that to which the manifest stores the path.

    None if it stores none; the run may be gone.
    """
    root = folder.resolve()
    if root.parent.name == EXPORT:
        return RunFolder(root.parent.parent)
    stored = _object(root / BUNDLE_MANIFEST).get("run")
    return RunFolder((root / stored).resolve()) if isinstance(stored, str) else None


def warn_of_stale(run: RunReference | None) -> None:
    """One warning for each stale file of a run."""
    for stale in [] if run is None else stale_files(run):
        warning(str(stale))


def _derived(files: RunFolder) -> Iterator[tuple[Path, Any, str]]:
    """Each file that stores which model it was made from, that identity, and the command that renews the file."""
    run = shlex.quote(str(files.path))
    evaluation = files.evaluation
    for path, command in (
        (evaluation.metrics_file, f"evaluate {run}"),
        (evaluation.label_errors_file, f"run label-errors {run}"),
        (files.calibration_file, f"run calibrate {run}"),
        (files.thresholds_file, f"run thresholds {run}"),
        (files.sets_file, f"run sets {run}"),
        (files.known_file, f"run known {run}"),
    ):
        yield path, _object(path).get("model"), command
    for path in (files.report_file, files.card_file):
        yield path, _marked(path), f"run report {run}"


def _bundle_change(content: Mapping[str, Any], files: RunFolder) -> str | None:
    """The difference between the model of a bundle and that of its run.  content: of the bundle's manifest."""
    why = change(content.get("model"), identity_of_file(files.model_file))
    if why is not None or "known" not in content or as_identity(content.get("model")) is None:
        return why
    return known_change(content["known"], files.model_file)


def _object(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; empty if there is none, or it is damaged, which whoever uses the file reports."""
    try:
        content = read_json(path) if path.is_file() else {}
    except (KerasimgError, OSError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _marked(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = MARK.search(file.read(SEARCHED))
        return json.loads(found[1]) if found else None
    except (OSError, ValueError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
