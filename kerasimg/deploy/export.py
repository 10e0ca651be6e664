"""`kerasimg.export`: a trained classifier -> bundles, each of them compared with it on its own runtime."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras

from kerasimg import log
from kerasimg.backend import versions
from kerasimg.data.sources import Data
from kerasimg.deploy import manifest as manifests
from kerasimg.deploy.bundle import CLASSES, PREPROCESS, README, Bundle, described
from kerasimg.deploy.export_context import Exporting, Options, prepare
from kerasimg.deploy.gate import Gated, gate
from kerasimg.deploy.manifest import InputType, Manifest, Precision
from kerasimg.deploy.parity import Asks, line_of, require
from kerasimg.deploy.readme import readme
from kerasimg.deploy.serve import dockerfile
from kerasimg.deploy.targets import TARGETS, target
from kerasimg.deploy.vectors import write_vectors
from kerasimg.errors import CallError, DataError, Fault, GateError, Interrupted, KerasimgError, listed
from kerasimg.files import write_json
from kerasimg.log import Verbose
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.results import Results
from kerasimg.run_folder import RunFolder, folder_of
from kerasimg.staleness import warn_of_stale

PACKAGES = (
    *("kerasimg", "keras", "tensorflow", "numpy", "pillow", "ai-edge-litert", "onnx", "tf2onnx", "onnxruntime"),
    "openvino",
)
"""Whose versions a manifest tells, where they are installed."""


@log.applies_verbose
def export(
    run: ClassifierReference,
    to: str | Sequence[str] = "litert",
    *,
    precision: Precision | Sequence[Precision] | None = None,
    batch: int | None = None,
    out: str | os.PathLike[str] | None = None,
    data: Data | None = None,
    tolerance: float | None = None,
    same: float | None = None,
    accuracy_drop: float | None = None,
    images: int | None = None,
    input_dtype: InputType = "uint8",
    allow_flex: bool = False,
    allow_uncompared: bool = False,
    flash_bytes: int | None = None,
    arena_bytes: int | None = None,
    verbose: Verbose = 1,
) -> Results[Bundle]:
    """Export a trained classifier, and compare every exported model with the trained one on the test images.

    Args:
        run: a `Run`, its folder, a `model.keras` or `.kerasimg` file, or a zoo spec that brings its weights.
        to: "savedmodel", "litert", "onnx", "openvino", "keras", "web", "embedded"; one or several.
        precision: "float32", "float16", "dynamic" (int8 weights), "int8"; one or several. None: the target's default.
        batch: fixed batch size. None: any, where the target can.
        out: the folder in which each target gets its own. None: `export/` in the run's folder.
        data: other images to compare on than the run's.
        tolerance: greatest difference of a probability. None: by precision.
        same: share of images that must get the same decision. None: by precision.
        accuracy_drop: greatest loss of accuracy. None: by precision.
        images: number of images to compare on. None: the whole test part.
        input_dtype: of an int8 model: "uint8" (pixels as they are) or "int8".
        allow_flex: let a .tflite hold operations that only TensorFlow has.
        allow_uncompared: accept an export for which there are no test images to compare on.
        flash_bytes: of an embedded model: most bytes of flash.
        arena_bytes: of an embedded model: most bytes of memory.
        verbose: 0: silent. 1 or 2: messages.

    Returns:
        One `Bundle` per target.

    Raises:
        GateError: if a model is beyond its tolerance, or there is nothing to compare it on; its bundle is written
            all the same, and marked.
        CallError: for an unknown target, or one that is not installed.

    Example:
        >>> [bundle] = kerasimg.export("runs/photos-1", "keras", verbose=0)
        >>> bundle.manifest.target
        'keras'
    """
    names = list(dict.fromkeys([to] if isinstance(to, str) else to))
    if not names:
        raise CallError(f"no target to export to (targets: {', '.join(TARGETS)})")
    asks = Asks(tolerance, same, accuracy_drop)
    asks.check()
    asked: tuple[Precision, ...] = () if precision is None else _one_or_more(precision)
    options = Options(asked, batch, input_dtype, allow_flex, flash_bytes, arena_bytes)
    chosen = {name: _fitted(name, options) for name in names}
    if keras.backend.backend() != "tensorflow":
        how = {**asks._asdict(), "images": images, "allow_uncompared": allow_uncompared}
        return _in_tensorflow(run, names, options, out, data, how)
    exporting = prepare(run, data=data, images=images)
    root = _root(exporting, out)
    bundles: Results[Bundle] = Results()
    failed: list[KerasimgError] = []
    unexpected: list[Exception] = []
    for name, fitted in chosen.items():
        try:
            bundles.append(_export_one(replace(exporting, options=fitted), name, root / name, asks))
        except Interrupted:
            raise
        except KerasimgError as error:
            failed.append(error)
        except Exception as error:
            error.add_note(f"while exporting for {name}")
            unexpected.append(error)
    warn_of_stale(exporting.run)
    if bundles and not (exporting.compared or allow_uncompared):
        message = "the export is written and was not compared with the trained model: there are no test images"
        failed.append(GateError(f"{message}; name some (--data), or accept it (--allow-uncompared)"))
    for bundle in bundles:
        try:
            require(bundle.folder, bundle.manifest.parity)
        except GateError as error:
            failed.append(error)
    if unexpected:
        for failure in failed:
            unexpected[0].add_note(str(failure))
        raise unexpected[0]
    if failed:
        raise _together(failed, [bundle.manifest.target for bundle in bundles])
    return bundles


def _together(errors: Sequence[KerasimgError], written: Sequence[str]) -> KerasimgError:
    """One error for all; its exit code is the highest of theirs: 4 says that a comparison failed."""
    if len(errors) == 1 and not written:
        return errors[0]
    text = "\n".join(map(str, errors))
    if len(written) and any(not isinstance(error, GateError) for error in errors):
        text += f"\nwritten all the same: {', '.join(written)}"
    code = max(error.exit_code for error in errors)
    return RAISED.get(code, KerasimgError)(text)


def _one_or_more(precision: Precision | Sequence[Precision]) -> tuple[Precision, ...]:
    return (precision,) if isinstance(precision, str) else tuple(dict.fromkeys(precision))


def _fitted(name: str, options: Options) -> Options:
    """The options as a target takes them; CallError for what it cannot do, or what is not installed."""
    asked_of = target(name)
    asked_of.require(name)
    unfit = [one for one in options.precisions if one not in asked_of.precisions]
    if unfit:
        raise CallError(f"{name}: no precision {listed(unfit)} (there are: {', '.join(asked_of.precisions)})")
    if options.batch is not None and options.batch < 1:
        raise CallError(f"batch: expected 1 or more, got {options.batch}")
    if options.input_dtype not in ("uint8", "int8"):
        raise CallError(f"input_dtype: expected uint8 or int8, got {options.input_dtype}")
    return replace(
        options,
        precisions=options.precisions or asked_of.default,
        batch=asked_of.batch if options.batch is None else options.batch,
    )


def _in_tensorflow(
    run: ClassifierReference,
    names: Sequence[str],
    options: Options,
    out: str | os.PathLike[str] | None,
    data: Data | None,
    how: dict[str, Any],
) -> Results[Bundle]:
    """The same in a process of its own, where Keras runs on TensorFlow, whose converters write the files."""
    told = {
        **how,
        **({"precision": list(options.precisions)} if options.precisions else {}),
        "batch": options.batch,
        "out": None if out is None else os.fspath(out),
        "input_dtype": options.input_dtype,
        "allow_flex": options.allow_flex,
        "flash_bytes": options.flash_bytes,
        "arena_bytes": options.arena_bytes,
    }
    log.info(f"Keras runs on {keras.backend.backend()} here; a process with TensorFlow writes the files")
    folders = call_in_tensorflow(f"{__name__}:_exported", run, data, {"to": list(names), **told})
    return Results(Bundle.open(folder) for folder in folders)


def _exported(**arguments: Any) -> list[str]:
    """The folders of the bundles that `export` writes, for another process."""
    return [str(bundle.folder) for bundle in export(**arguments)]


def call_in_tensorflow(function: str, run: ClassifierReference, data: Data | None, arguments: Mapping[str, Any]) -> Any:
    """Call a function in a process of its own, where Keras runs on TensorFlow.

    function: MODULE:NAME; it takes `run`, `data` and the arguments, all as JSON has them, and so is what it returns.
    """
    # A classifier that was changed in this process is not what its folder holds.
    folder = None if isinstance(run, Classifier) else folder_of(run)
    if folder is None or not isinstance(data, str | os.PathLike | None):
        raise CallError(
            f"an export is written by TensorFlow, and Keras runs on {keras.backend.backend()} here: name the run's "
            "folder and the folder of the images, and it is done in another process"
        )
    places = {"run": os.fspath(folder), "data": None if data is None else os.fspath(data)}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, function],
        input=json.dumps({**places, **arguments}),
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, last = done.stdout.splitlines() or [""]
    try:
        answer = json.loads(last)
    except ValueError:
        raise KerasimgError(f"the process that exports ended with {done.returncode}:\n{done.stderr[-2000:]}") from None
    for line in lines:
        log.info(line)
    if "error" in answer:
        raise RAISED.get(answer["code"], KerasimgError)(answer["error"])
    return answer["returned"]


RAISED: dict[int, Callable[[str], KerasimgError]] = {
    2: CallError,
    3: lambda text: DataError([Fault("", "", text)]),
    4: GateError,
}
"""Exit code of an error in another process -> the error that tells it here."""

_CHILD = """
import importlib, json, sys
from kerasimg.errors import KerasimgError
module, name = sys.argv[1].split(":")
try:
    returned = getattr(importlib.import_module(module), name)(**json.load(sys.stdin))
except KerasimgError as error:
    print(json.dumps({"code": error.exit_code, "error": str(error)}))
else:
    print(json.dumps({"returned": returned}))
"""


def _root(exporting: Exporting, out: str | os.PathLike[str] | None) -> Path:
    if out is not None:
        return Path(out)
    if exporting.run is None:
        raise CallError("out: a model without its run's folder; say where the bundles go (--out)")
    return RunFolder(exporting.run).exports


def _export_one(exporting: Exporting, name: str, folder: Path, asks: Asks) -> Bundle:
    """The bundle of one target, compared; under another name until it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    draft = folder.with_name(f".{name}-{platform.node()}-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        log.info(f"{name}: writing {', '.join(exporting.options.precisions)}")
        bundle = write_bundle(exporting, name, draft)
        gated = gate(exporting, bundle, asks)
        notes = {**bundle.manifest.notes, **({"not_compared": gated.left} if gated.left else {})}
        manifest = bundle.manifest.model_copy(update={"parity": gated.rows, "notes": notes})
        manifests.write(draft / manifests.FILE, manifest)
        _report(gated)
        _put(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Bundle.open(folder)


def _sweep(folder: Path) -> None:
    """Remove the drafts that exports killed on this machine have left."""
    for draft in folder.parent.glob(f".{folder.name}-*"):
        *host, number = draft.name.removeprefix(f".{folder.name}-").rsplit("-", 1)
        if number.isdecimal() and host in ([], [platform.node()]) and not _runs(int(number)):
            shutil.rmtree(draft, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_bundle(exporting: Exporting, name: str, folder: Path) -> Bundle:
    """A target's bundle in an empty folder, not compared yet."""
    write_json(folder / CLASSES, list(exporting.classes))
    write_json(folder / PREPROCESS, exporting.image.model_dump(mode="json"))
    write_vectors(exporting, folder)
    models = target(name).writer(name)(exporting, folder)
    thresholds = exporting.classifier.thresholds
    manifest = Manifest(
        name=exporting.name,
        target=name,
        task=exporting.task,
        classes=len(exporting.classes),
        temperature=exporting.classifier.temperature,
        thresholds=None if thresholds is None else list(thresholds),
        model=dict(exporting.classifier.identity()),
        models=models,
        files=[],
        spec=dict(exporting.classifier.spec.resolved),
        versions=versions(PACKAGES),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if not (folder / README).exists():
        text = readme(manifest, exporting.image, exporting.classes)
        (folder / README).write_text(text, encoding="utf-8")
    manifests.write(folder / manifests.FILE, manifest)
    if any(model.runtime in dockerfile.RUNTIME_PACKAGES for model in models):
        text = dockerfile.dockerfile(Bundle.open(folder, check=False))
        (folder / dockerfile.FILE).write_text(text, encoding="utf-8")
    manifests.write(folder / manifests.FILE, manifest.model_copy(update={"files": described(folder)}))
    return Bundle.open(folder, check=False)


def _report(gated: Gated) -> None:
    for row in gated.rows:
        log.info(f"  {line_of(row)}; {row.bytes:,} bytes, {row.p50_ms:.2f} ms (p95 {row.p95_ms:.2f}), {row.runtime}")
    for path, why in gated.left.items():
        log.info(f"  {path}: not compared: {why}")


def _put(draft: Path, folder: Path) -> None:
    """The draft in the folder's place."""
    before = folder.with_name(f".{folder.name}-{os.getpid()}-before")
    if folder.exists():
        if not (folder / manifests.FILE).is_file() and any(folder.iterdir()):
            raise CallError(f"'{folder}' is there and is no bundle; remove it, or name another --out")
        folder.rename(before)
    draft.rename(folder)
    shutil.rmtree(before, ignore_errors=True)
