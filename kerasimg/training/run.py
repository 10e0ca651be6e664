"""What training writes in its run folder besides `RunFolder`, and how a resumed run reads it back."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg import log
from kerasimg.backend import BACKENDS, versions
from kerasimg.catalog import load
from kerasimg.data.items import ManyFaults, Part
from kerasimg.data.readers.soft_labels import digest
from kerasimg.data.source import Source
from kerasimg.data.sources import Data, is_in_memory, open_recorded
from kerasimg.data.split import record
from kerasimg.errors import CallError, Fault, Interrupted, WeightsError
from kerasimg.files import PARTIAL
from kerasimg.models.backbones import specs_beside
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.run_folder import CLASSES, DATA, ENVIRONMENT, SPEC, TRAINING, RunFolder
from kerasimg.spec.load import Spec
from kerasimg.spec.nodes import NAME
from kerasimg.spec.pack import write_beside
from kerasimg.training import checkpoint
from kerasimg.training.distillation import check_same_teacher
from kerasimg.training.objective import sample_weight_digest
from kerasimg.training.prepare import Experiment, prepare

PACKAGES = ("kerasimg", "keras", "tensorflow", "numpy", "pillow", "scikit-learn")


def require_place(runs: str | os.PathLike[str], data: Any = None) -> None:
    """CallError if no run can be created in `runs`, or it would be among the images; checked before all else."""
    place = Path(runs).resolve()
    if isinstance(data, str | os.PathLike) and os.path.isdir(data) and place.is_relative_to(Path(data).resolve()):
        below = place.relative_to(Path(data).resolve()).parts
        if not any(part.startswith(".") for part in below):  # hidden folders are no classes
            raise CallError(
                f"out: '{runs}' is among the images in '{data}', and would be read as a class of them; name a folder "
                "outside (--out)"
            )
    existing = next(path for path in (Path(runs).absolute(), *Path(runs).absolute().parents) if path.exists())
    if not existing.is_dir():
        raise CallError(f"out: '{existing}' is no folder, and cannot hold a run")
    if not os.access(existing, os.W_OK):
        raise CallError(f"out: '{existing}' may not be written in; name another folder (--out)")


def create_folder(
    runs: str | os.PathLike[str], name: str, fill: Callable[[RunFolder], None] = lambda draft: None
) -> RunFolder:
    """Creates the folder `runs/<name>-<k>` of a run or a search, with the first free k after the highest.

    fill: writes the first files. The folder has a temporary name until they are written, so it is never incomplete.
    """
    parent = Path(runs)
    parent.mkdir(parents=True, exist_ok=True)
    draft = parent / f".{name}-{os.getpid()}-{secrets.token_hex(4)}"
    draft.mkdir()
    try:
        fill(RunFolder(draft))
        return RunFolder(_first_free(parent, name, draft))
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def removed_unless(folder: Path, begun: Callable[[], bool]) -> Iterator[None]:
    """Remove a new folder if the block fails before the work has begun: nothing in it is worth resuming.

    An interruption leaves it, to be resumed.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, Interrupted) and not begun():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def write_start(
    run: RunFolder, spec: Spec, classes: tuple[str, ...], data: dict[str, Any], call: Mapping[str, Any]
) -> None:
    """Write the files that exist before the first epoch.

    call: the arguments of the caller, for `resume`.
    """
    copy_beside(spec, run.path)
    named = {"name": spec.name} if NAME.fullmatch(spec.name) else {}
    run.write_spec({**named, **spec.resolved})
    run.write_classes(classes)
    run.write_data(data)
    run.write_environment(environment())
    run.write_training({**call, "stages": [], "finished": None})


def set_batch_size(run: RunFolder, size: int) -> None:
    """Change the batch size in the spec of a run."""
    resolved = run.required(SPEC)
    resolved["fit"]["batch_size"] = size
    run.write_spec(resolved)


def environment_changes(run: RunFolder) -> list[str]:
    """Returns the differences between this process and the one that started the run: backend, CPU cores, versions."""
    before, now = run.required(ENVIRONMENT), environment()
    pairs = {key: (before[key], now[key]) for key in ("backend", "cores")}
    names = [*now["packages"], *(name for name in before["packages"] if name not in now["packages"])]
    pairs |= {name: (before["packages"].get(name), now["packages"].get(name)) for name in names}
    return [f"{name} was {old}, is {new}" for name, (old, new) in pairs.items() if old != new]


def finish(run: RunFolder, compiled: Mapping[str, Any]) -> None:
    """Mark a run as finished, and remove the files that only `resume` needs.

    compiled: what was compiled for the run; empty if the backend does not report it.
    """
    facts: dict[str, Any] = {"compiled": dict(compiled)} if compiled else {}
    _write_facts(run, {**facts, "finished": datetime.now(UTC).isoformat(timespec="seconds")})
    run.checkpoint_file.unlink(missing_ok=True)


def remove_partial_files(run: RunFolder) -> None:
    """Remove the files that were being written when the process was killed."""
    for path in run.path.rglob(PARTIAL.format("*")):
        path.unlink(missing_ok=True)


def stage_notes(run: RunFolder, index: int) -> dict[str, Any]:
    """Returns the notes on how a stage is trained, by its number; empty if it has not started."""
    stages = run.required(TRAINING)["stages"]
    return dict(stages[index]) if index < len(stages) else {}


def write_stage_notes(run: RunFolder, index: int, notes: Mapping[str, Any]) -> None:
    """Write the notes on how a stage is trained."""
    stages = run.required(TRAINING)["stages"][:index]
    _write_facts(run, {"stages": [*stages, *({} for _ in range(index - len(stages))), dict(notes)]})


def _write_facts(run: RunFolder, facts: Mapping[str, Any]) -> None:
    run.write_training({**run.required(TRAINING), **facts})


def copy_beside(spec: Spec, folder: Path) -> None:
    """Copy the specs and weights files that a spec refers to into a folder."""
    write_beside(specs_beside(spec), folder)
    for file in weights_beside(spec):
        shutil.copyfile(spec.folder / file, folder / file)


def weights_beside(spec: Spec) -> list[str]:
    """Returns the weights files that a spec's nodes name, and that are in its folder."""
    files: dict[str, None] = {}

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            weights = value.get("weights")
            name = weights.get("file") if isinstance(weights, dict) else weights
            if isinstance(name, str) and name.endswith(".weights.h5") and (spec.folder / name).is_file():
                files[name] = None
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            visit(inner)

    visit([spec.resolved.get("model"), spec.resolved.get("blocks")])
    return list(files)


def weights_digests(spec: Spec) -> dict[str, str]:
    """Returns the SHA-256 of each weights file that a spec's nodes name."""
    return {file: _sha256(spec.folder / file) for file in weights_beside(spec)}


def _first_free(parent: Path, name: str, draft: Path) -> Path:
    """Rename a draft to the first free number, and return the folder."""
    taken = [path.name.removeprefix(f"{name}-") for path in parent.glob(f"{name}-*")]
    k = 1 + max((int(number) for number in taken if number.isdecimal()), default=0)
    while True:
        folder = parent / f"{name}-{k}"
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            k += 1  # another run took it in the meantime
        else:
            return folder


def environment() -> dict[str, Any]:
    """Returns what results may depend on besides the spec and the data: versions, platform, devices."""
    import keras

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "backend": keras.backend.backend(),
        "packages": versions(dict.fromkeys((*PACKAGES, BACKENDS[keras.backend.backend()]))),
    }


RUN_ADVICE = "the run can only go on with the images that it began with; or train again"


def reopen_experiment(run: RunFolder, data: Data | None, cache: Any) -> Experiment:
    """Returns the experiment of a run, with the same images in the same parts."""
    call = run.required(TRAINING)
    spec = load(run.spec_file)
    check_same_teacher(spec, call)
    # With a checkpoint no other weights are needed.
    started = checkpoint.read_facts(run.checkpoint_file) is not None
    weights = None if started else weights_of_record(call["weights"])
    recorded = run.required(DATA)
    if data is None and is_in_memory(recorded["where"]):
        raise CallError(
            "the run was trained on arrays, which it did not keep; give them: kerasimg.resume(run, data=...)"
        )
    advice = f"{run.resume} --data DIR"
    source = open_recorded(recorded["where"], data, spec.task, advice, classes=run.required(CLASSES))
    log.once(source.describe())
    parts = parts_of_record(source, recorded)
    if source.soft and digest(source, parts["train"]) != call["soft_labels"]:
        raise ManyFaults(
            [
                Fault(source.where, "", "the shares of the classes have changed"),
                Fault(source.where, "", RUN_ADVICE),
            ]
        )
    if "sample_weight" in call and call["sample_weight"] != sample_weight_digest(spec, source, parts["train"]):
        raise ManyFaults(
            [
                Fault(source.where, "", "the sample weights have changed"),
                Fault(source.where, "", RUN_ADVICE),
            ]
        )
    return prepare(
        spec,
        source,
        weights=weights,
        limits=call["limits"],
        on_bad_image=None,
        cache=cache or call["cache"],
        parts=parts,
    )


def parts_of_record(source: Source, recorded: Mapping[str, Any], advice: str = RUN_ADVICE) -> dict[Part, np.ndarray]:
    """Returns the indices of the images of each part, as a run or a search has recorded them.

    DataError names the images that are missing or have changed.  advice: what the error tells the user to do.
    """
    places = {item_id: index for index, item_id in enumerate(map(source.columns.id, range(len(source))))}
    images = recorded["images"]
    faults = [
        Fault(source.where, image["id"], "was trained with and is no longer there")
        for image in images
        if image["id"] not in places
    ]
    if faults:
        raise ManyFaults([*faults, Fault(source.where, "", advice)])
    parts: dict[Part, np.ndarray] = {}
    for part in dict.fromkeys(image["part"] for image in images):
        parts[part] = np.array([places[image["id"]] for image in images if image["part"] == part], np.int64)
    for old, new in zip(images, record(source, parts)["images"], strict=True):
        if old["sha256"] != new["sha256"]:
            faults.append(Fault(source.where, old["id"], "is not the image that was trained with: it has changed"))
        elif sorted(old["labels"]) != sorted(new["labels"]):
            faults.append(Fault(source.where, old["id"], f"was labelled {old['labels']}, and is now {new['labels']}"))
    if faults:
        raise ManyFaults([*faults, Fault(source.where, "", advice)])
    return parts


def describe_weights(weights: Any) -> Any:
    """Returns the argument `weights` of `train` as values for JSON: files by their path and hash."""
    if weights == AS_THE_SPEC_SAYS:
        return "as the spec says"
    if isinstance(weights, Mapping):
        return {"each": {name: describe_weights(value) for name, value in weights.items()}}
    if weights is None or weights == "imagenet":
        return weights
    path = Path(weights)
    return {"file": os.path.abspath(path), "sha256": _sha256(path)}


def weights_of_record(record: Any) -> Any:
    """Returns the argument `weights` from that record; WeightsError if a file is missing or has changed."""
    if record == "as the spec says":
        return AS_THE_SPEC_SAYS
    if not isinstance(record, dict):
        return record
    if "each" in record:
        return {name: weights_of_record(value) for name, value in record["each"].items()}
    path = Path(record["file"])
    if not path.is_file():
        raise WeightsError(f"the weights file '{path}', which the run began with, is no longer there; put it back")
    if _sha256(path) != record["sha256"]:
        raise WeightsError(f"the weights file '{path}' is not the one that the run began with: its content has changed")
    return path


def cache_kind(cache: Any) -> str:
    """Returns the kind of cache of an argument."""
    return str(getattr(cache, "kind", cache))


def with_absolute_path(data: dict[str, Any], given: Data) -> dict[str, Any]:
    """Returns the record of the data with an absolute path."""
    if isinstance(given, str | os.PathLike) and given != "sample":
        return {**data, "where": os.path.abspath(given)}
    return data


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
