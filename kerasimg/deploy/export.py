"""`kerasimg.export`: export a trained classifier to bundles and compare each with it on the target's runtime."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL.Image

from kerasimg import log
from kerasimg.backend import installed, versions
from kerasimg.data.bands import NPY
from kerasimg.data.decode import decode
from kerasimg.data.sources import Data
from kerasimg.deploy import manifest as manifests
from kerasimg.deploy.bundle import (
    CLASSES,
    EXPECTED,
    PREPROCESS,
    VECTORS,
    Bundle,
    belongs,
    list_files,
)
from kerasimg.deploy.export_context import Exporting, Options, prepare
from kerasimg.deploy.manifest import InputType, Manifest, Precision
from kerasimg.deploy.parity import Bounds, GateResult, as_file, gate, line_of, p_values_differ, require
from kerasimg.deploy.readme import write_texts
from kerasimg.deploy.serve import dockerfile
from kerasimg.deploy.targets import Target, names, served, target
from kerasimg.errors import CallError, DataError, Fault, GateError, Interrupted, KerasimgError, listed
from kerasimg.files import write_json
from kerasimg.log import Verbose
from kerasimg.models.classifier import Classifier, ClassifierReference, draw_image
from kerasimg.results import Results
from kerasimg.run_folder import RunFolder, folder_of
from kerasimg.spec.document import Image, Task
from kerasimg.staleness import warn_of_stale

PACKAGES = ("kerasimg", "keras", "tensorflow", "numpy", "pillow")
"""Packages whose versions a manifest lists, in addition to the target's."""

COUNT = 5
"""Number of test vectors in a bundle."""

EXTENSIONS = {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2", "tiff": "tif"}
"""Pillow's name of a format -> file extension, if they differ."""


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
    trainable: bool = False,
    flash_bytes: int | None = None,
    arena_bytes: int | None = None,
    verbose: Verbose = 1,
) -> Results[Bundle]:
    """Export a trained classifier, and compare every exported model with it on the test images.

    Args:
        run: a `Run`, its folder, a `model.keras` or `.kerasimg` file, or a zoo spec that brings its weights.
        to: one or more targets: "litert", "onnx", "openvino", ... (`kerasimg.deploy.targets`).
        precision: one or more of "float32", "float16", "int16" (activations), "dynamic" (int8 weights),
            "int8", "int4" (weights). None: the target's default.
        batch: fixed batch size. None: any, if the target supports it.
        out: parent folder of the bundles. None: `export/` in the run's folder.
        data: images to compare on. None: the run's.
        tolerance: largest allowed difference of a probability. None: by precision.
        same: minimum share of images with the same decision. None: by precision.
        accuracy_drop: largest allowed loss of accuracy. None: by precision.
        images: number of images to compare on. None: the whole test split.
        input_dtype: of an int8 model: "uint8" (pixels as they are) or "int8".
        allow_flex: allow TensorFlow (Flex) operations in a .tflite file.
        allow_uncompared: accept an export for which there are no test images to compare on.
        trainable: web: the page can learn new classes from images, and saves them for `kerasimg.learn`.
        flash_bytes: maximum flash of an embedded model.
        arena_bytes: maximum memory of an embedded model.
        verbose: 0: silent. 1 or 2: messages.

    Returns:
        One `Bundle` per target.

    Raises:
        GateError: if a model is beyond its tolerance, or there is nothing to compare it on; its bundle is
            written anyway, and marked.
        CallError: if a target or a precision is unknown, not installed, or cannot be written. The others are written
            anyway, and the error names each failure.

    Example:
        >>> [bundle] = kerasimg.export("runs/photos-1", "keras", verbose=0)
        >>> bundle.manifest.target
        'keras'
    """
    chosen = list(dict.fromkeys([to] if isinstance(to, str) else to))
    if not chosen:
        raise CallError(f"no target to export to (targets: {', '.join(names())})")
    bounds = Bounds(tolerance, same, accuracy_drop)
    bounds.check()
    precisions: tuple[Precision, ...] = () if precision is None else _as_tuple(precision)
    options = Options(precisions, batch, input_dtype, allow_flex, trainable, flash_bytes, arena_bytes)
    options.check()
    fitted: dict[Target, Options] = {}
    errors: list[Exception] = []
    for each in [target(name) for name in chosen]:
        try:
            fitted[each] = each.fit(options)
        except CallError as error:
            errors.append(error)
    if not fitted:
        raise _merge_errors(errors)
    bundles: Results[Bundle] = Results()
    remote: list[str] = []
    if keras.backend.backend() != "tensorflow":
        remote = [each.name for each in fitted if each.needs_tensorflow]
    if remote:
        settings = {**bounds._asdict(), "images": images, "allow_uncompared": allow_uncompared}
        try:
            bundles += _in_tensorflow(run, remote, options, out, data, settings)
        except Interrupted:
            raise
        except KerasimgError as error:
            errors.append(error)
        if len(remote) == len(fitted):
            if errors:
                raise _one_error([error for error in errors if isinstance(error, KerasimgError)], bundles)
            return bundles
    exporting = prepare(run, data=data, images=images)
    root = _root(exporting, out)
    for each, its_options in fitted.items():
        if each.name in remote:
            continue
        try:
            bundle, failures = _export_target(replace(exporting, options=its_options), each, root / each.name, bounds)
        except Interrupted:
            raise
        except Exception as error:
            if not isinstance(error, KerasimgError):
                error.add_note(f"while exporting for {each.name}")
            errors.append(error)
        else:
            bundles.append(bundle)
            errors += failures
    failed = [error for error in errors if isinstance(error, KerasimgError)]
    unexpected = [error for error in errors if not isinstance(error, KerasimgError)]
    warn_of_stale(exporting.run)
    if bundles and not (exporting.compared or allow_uncompared):
        message = "the export was written but not compared with the trained model: there are no test images"
        failed.append(GateError(f"{message}; pass some (--data), or accept it (--allow-uncompared)"))
    for bundle in bundles:
        try:
            require(bundle, bundle.manifest.parity)
        except GateError as error:
            failed.append(error)
    if unexpected:
        for failure in failed:
            unexpected[0].add_note(str(failure))
        raise unexpected[0]
    if failed:
        raise _one_error(failed, bundles)
    return bundles


def _one_error(errors: Sequence[KerasimgError], bundles: Sequence[Bundle]) -> KerasimgError:
    """Returns one error for all; its exit code is the highest of theirs: 4 if a comparison failed."""
    if len(errors) == 1 and not bundles:
        return errors[0]
    text = "\n".join(map(str, errors))
    if bundles and any(not isinstance(error, GateError) for error in errors):
        written = [
            f"{bundle.manifest.target} ({', '.join(model.precision for model in bundle.models)})" for bundle in bundles
        ]
        text += f"\nwritten anyway: {', '.join(written)}"
    code = max(error.exit_code for error in errors)
    return RAISED.get(code, KerasimgError)(text)


def _as_tuple(precision: Precision | Sequence[Precision]) -> tuple[Precision, ...]:
    return (precision,) if isinstance(precision, str) else tuple(dict.fromkeys(precision))


def _in_tensorflow(
    run: ClassifierReference,
    names: Sequence[str],
    options: Options,
    out: str | os.PathLike[str] | None,
    data: Data | None,
    settings: dict[str, Any],
) -> Results[Bundle]:
    """Exports in a separate process with TensorFlow, whose converters write the files."""
    arguments = {
        **settings,
        **({"precision": list(options.precisions)} if options.precisions else {}),
        "batch": options.batch,
        "out": None if out is None else os.fspath(out),
        "input_dtype": options.input_dtype,
        "allow_flex": options.allow_flex,
        "trainable": options.trainable,
        "flash_bytes": options.flash_bytes,
        "arena_bytes": options.arena_bytes,
    }
    log.info(f"Keras runs on {keras.backend.backend()} here; a TensorFlow process writes the files")
    folders = call_in_tensorflow(f"{__name__}:_export_folders", run, data, {"to": list(names), **arguments})
    return Results(Bundle.open(folder) for folder in folders)


def _export_folders(**arguments: Any) -> list[str]:
    """Returns the folders of the exported bundles, for another process."""
    return [str(bundle.folder) for bundle in export(**arguments)]


def call_in_tensorflow(function: str, run: ClassifierReference, data: Data | None, arguments: Mapping[str, Any]) -> Any:
    """Calls a function in a separate process, in which Keras runs on TensorFlow.

    Args:
        function: MODULE:NAME; called with `run`, `data` and `arguments`. Arguments and result must be JSON.
        run: as for `kerasimg.export`.
        data: as for `kerasimg.export`.
        arguments: further keyword arguments.

    Returns:
        The result of the function.
    """
    if not installed("tensorflow"):
        raise CallError(
            "TensorFlow converts the model, in a process of its own, and is not installed: pip install tensorflow "
            f"(Keras keeps running on {keras.backend.backend()}); the target 'keras' needs none"
        )
    # A classifier in memory may differ from the one in its folder.
    folder = None if isinstance(run, Classifier) else folder_of(run)
    if folder is None or not isinstance(data, str | os.PathLike | None):
        raise CallError(
            f"export needs TensorFlow, and Keras runs on {keras.backend.backend()} here: pass the run's folder and "
            "the images' folder, so that another process can export"
        )
    paths = {"run": os.fspath(folder), "data": None if data is None else os.fspath(data)}
    process = subprocess.run(
        [sys.executable, "-c", _CHILD, function],
        input=json.dumps({**paths, **arguments}),
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, last = process.stdout.splitlines() or [""]
    try:
        answer = json.loads(last)
    except ValueError:
        raise KerasimgError(
            f"the exporting process ended with exit code {process.returncode}:\n{process.stderr[-2000:]}"
        ) from None
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
"""Exit code of an error in another process -> error to raise here."""

_CHILD = """
import importlib, json, sys
from kerasimg.backend import load_keras
from kerasimg.errors import KerasimgError
load_keras()
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
        raise CallError("out: required for a model without a run's folder (--out)")
    return RunFolder(exporting.run).exports


def _export_target(
    exporting: Exporting, chosen: Target, folder: Path, bounds: Bounds
) -> tuple[Bundle, list[Exception]]:
    """Writes and compares the bundle of one target, in a draft folder until it is complete.

    Returns the bundle of the precisions that could be written, and the errors of the others.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_drafts(folder)
    draft = folder.with_name(f".{chosen.name}-{platform.node()}-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        bundle, errors = write_bundle(exporting, chosen, draft, folder)
        log.doing(f"{chosen.name}: comparing with the trained model")
        result = gate(exporting, bundle, bounds)
        if differing := [row.path for row in result.rows if p_values_differ(row)]:
            bundle, result = _without_p_values(exporting, chosen, bundle, result, bounds, differing)
        for path, error in result.failed.items():
            errors.append(_name_precision(chosen, bundle.model(path).precision, error))
        if len(result.failed) == len(bundle.models):
            raise errors.pop()
        notes = {**bundle.manifest.notes, **({"not_compared": result.skipped} if result.skipped else {})}
        manifest = bundle.manifest.model_copy(update={"parity": result.rows, "notes": notes})
        if result.failed:
            manifest = _remove_models(draft, manifest, result.failed)
        manifests.write(draft / manifests.FILE, manifest)
        _report(result, bundle.task)
        gone = sorted(_models(folder) - {model.path for model in manifest.models})
        _move(draft, folder)
        if gone:
            log.info(
                f"  the export that was in {folder} is replaced; no longer there: {listed(gone)} (--out keeps both)"
            )
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Bundle.open(folder), errors


def _models(folder: Path) -> set[str]:
    """Returns the paths of the models in a bundle; empty if the folder has none that can be read."""
    try:
        return {model.path for model in Bundle.open(folder, check=False).models}
    except KerasimgError:
        return set()


def _without_p_values(
    exporting: Exporting, chosen: Target, bundle: Bundle, result: GateResult, bounds: Bounds, paths: Sequence[str]
) -> tuple[Bundle, GateResult]:
    """Writes models whose p-values are wrong again, without them, and compares these again."""
    plain = replace(exporting, classifier=replace(exporting.classifier, known=None))
    rows = {row.path: row for row in result.rows}
    models, reasons = {model.path: model for model in bundle.models}, {}
    for path in paths:
        reasons[path] = (
            f"they differ by {rows[path].p_value_difference:.2g}, allowed: {rows[path].tolerance.p_value:.2g}"
        )
        log.warning(f"{chosen.name}: {path} gives no p-values: {reasons[path]}")
        models[path] = chosen.write(plain, bundle.folder, models[path].precision)
    notes = bundle.manifest.notes
    notes = {**notes, NO_P_VALUES: {**notes.get(NO_P_VALUES, {}), **reasons}}
    manifest = bundle.manifest.model_copy(update={"models": list(models.values()), "notes": notes})
    write_texts(bundle.folder, manifest, bundle.image, bundle.classes)
    manifest = manifest.model_copy(update={"files": list_files(bundle.folder)})
    changed = replace(bundle, manifest=manifest)
    only = manifest.model_copy(update={"models": [models[path] for path in paths]})
    again = gate(exporting, replace(bundle, manifest=only), bounds)
    rows |= {row.path: row for row in again.rows}
    kept = [rows[path] for path in models if path in rows and path not in again.failed]
    return changed, GateResult(kept, result.skipped | again.skipped, result.failed | again.failed)


NO_P_VALUES = "no_p_values"
"""Note in a manifest: path of a model without the output "p_value", though there is a rule -> the reason."""


def _remove_models(folder: Path, manifest: Manifest, failed: Iterable[str]) -> Manifest:
    """Removes the models that do not run from a bundle's draft and its manifest."""
    removed = [model for model in manifest.models if model.path in failed]
    for file in manifest.files:
        if any(belongs(file.path, model) for model in removed):
            (folder / file.path).unlink()
    manifest = manifest.model_copy(update={"models": [model for model in manifest.models if model not in removed]})
    image = Image.model_validate(json.loads((folder / PREPROCESS).read_text(encoding="utf-8")))
    write_texts(folder, manifest, image, json.loads((folder / CLASSES).read_text(encoding="utf-8")))
    return manifest.model_copy(update={"files": list_files(folder)})


def _name_precision(chosen: Target, precision: Precision, error: Exception) -> Exception:
    """Names the precision in an error, if the target has several."""
    if not isinstance(error, KerasimgError):
        error.add_note(f"while exporting for {chosen.name} in {precision}")
        return error
    if len(chosen.precisions) == 1 or isinstance(error, Interrupted):
        return error
    text = str(error).removeprefix(f"{chosen.name}: ")
    return RAISED.get(error.exit_code, KerasimgError)(f"{chosen.name} {precision}: {text}")


def _remove_drafts(folder: Path) -> None:
    """Removes drafts that killed exports on this machine left."""
    for draft in folder.parent.glob(f".{folder.name}-*"):
        *host, number = draft.name.removeprefix(f".{folder.name}-").rsplit("-", 1)
        if number.isdecimal() and host in ([], [platform.node()]) and not _is_running(int(number)):
            shutil.rmtree(draft, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_bundle(
    exporting: Exporting, chosen: Target, folder: Path, place: Path | None = None
) -> tuple[Bundle, list[Exception]]:
    """Writes a target's bundle into an empty folder, without a comparison.

    Args:
        exporting: the classifier to export.
        chosen: the target.
        folder: the folder to write to.
        place: its final folder; default: `folder`.

    Returns:
        The bundle of the precisions that could be written, and the errors of the others.

    Raises:
        Exception: if none could.
    """
    write_json(folder / CLASSES, list(exporting.classes))
    write_json(folder / PREPROCESS, exporting.image.model_dump(mode="json"))
    _write_vectors(exporting, folder)
    models, errors = [], []
    for precision in exporting.options.precisions:
        log.info(f"{chosen.name}: writing {precision}")
        log.doing(f"{chosen.name}: writing {precision}")
        try:
            models.append(chosen.write(exporting, folder, precision))
        except Interrupted:
            raise
        except Exception as error:
            errors.append(_name_precision(chosen, precision, error))
    if not models:
        raise errors[0] if len(errors) == 1 else _merge_errors(errors)
    thresholds = exporting.classifier.thresholds
    without: dict[str, str] = {
        model.path: f"models for {chosen.name} in {model.precision} have no output for them"
        for model in models
        if exporting.known is not None and "p_value" not in model.outputs
    }
    manifest = Manifest(
        name=exporting.name,
        target=chosen.name,
        task=exporting.task,
        classes=len(exporting.classes),
        temperature=exporting.classifier.temperature,
        thresholds=None if thresholds is None else list(thresholds),
        flips=exporting.classifier.flips,
        sets=exporting.classifier.sets,
        known=exporting.known,
        model=dict(exporting.classifier.identity()),
        run=_path_to(exporting.run, place or folder),
        models=models,
        files=[],
        spec=dict(exporting.classifier.spec.resolved),
        notes={NO_P_VALUES: without} if without else {},
        versions=versions((*PACKAGES, *(package.replace("_", "-") for package in chosen.packages))),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    manifests.write(folder / manifests.FILE, manifest)
    write_texts(folder, manifest, exporting.image, exporting.classes)
    if chosen.name in served():
        text = dockerfile.dockerfile(Bundle.open(folder, check=False))
        (folder / dockerfile.FILE).write_text(text, encoding="utf-8")
    manifests.write(folder / manifests.FILE, manifest.model_copy(update={"files": list_files(folder)}))
    return Bundle.open(folder, check=False), errors


def _merge_errors(errors: list[Exception]) -> Exception:
    """Returns the error to raise if no precision could be written."""
    unexpected = [error for error in errors if not isinstance(error, KerasimgError)]
    return unexpected[0] if unexpected else _one_error([e for e in errors if isinstance(e, KerasimgError)], [])


def _path_to(run: Path | None, place: Path) -> str | None:
    """Returns the path from a bundle's folder to its run's, with forward slashes; None within the run."""
    if run is None or place.resolve().is_relative_to(run.resolve()):
        return None
    try:
        return Path(os.path.relpath(run.resolve(), place.resolve())).as_posix()
    except ValueError:  # another drive
        return None


def _write_vectors(exporting: Exporting, folder: Path) -> None:
    """Writes `vectors/`: five evenly spaced test images; without test images, five drawn ones."""
    (folder / VECTORS).mkdir()
    rows: list[dict[str, Any]] = []
    pixels = []
    for number, (name, image) in enumerate(_vector_images(exporting)):
        content = as_file(image)
        kind = "npy"
        if not content.startswith(NPY):
            with PIL.Image.open(io.BytesIO(content)) as opened:
                kind = (opened.format or "bin").lower()
        file = folder / VECTORS / f"{number}.{EXTENSIONS.get(kind, kind)}"
        file.write_bytes(content)
        pixels.append(decode(str(file), exporting.image))
        np.save(folder / VECTORS / f"{number}.input.npy", pixels[-1])
        rows.append({"name": name, "file": file.name, "pixels": f"{number}.input.npy"})
    expected = exporting.classifier.answer(np.stack(pixels).astype(np.float32))
    for place, row in enumerate(rows):
        row["probabilities"] = expected.probabilities[place].astype(float).tolist()
        if expected.p_values is not None:
            row["p_value"] = float(expected.p_values[place])
    write_json(folder / EXPECTED, {"classes": list(exporting.classes), "vectors": rows})


def _vector_images(exporting: Exporting) -> list[tuple[str, Any]]:
    if exporting.test is None:
        height, width, channels = exporting.shape
        # Smooth colours, in another size than the model's.
        named = []
        for number in range(COUNT):
            size = (height * 5 // 4 + number, width * 3 // 2)
            images = [np.asarray(draw_image(number + COUNT * part, *size)) for part in range(-(-channels // 3))]
            named.append((f"drawn {number}", np.concatenate(images, axis=-1)[..., : max(3, channels)]))
        return named
    chosen = exporting.test.sample(COUNT)
    return [
        (name, chosen.source.columns.image(int(index)))
        for name, index in zip(chosen.names, chosen.indices, strict=True)
    ]


def _report(result: GateResult, task: Task) -> None:
    for row in result.rows:
        log.info(
            f"  {line_of(row, task)}; {row.bytes:,} bytes, {row.p50_ms:.2f} ms (p95 {row.p95_ms:.2f}), {row.runtime}"
        )
    for path, why in result.skipped.items():
        log.info(f"  {path}: not compared: {why}")


def _move(draft: Path, folder: Path) -> None:
    """Replaces the folder by the draft."""
    previous = folder.with_name(f".{folder.name}-{os.getpid()}-before")
    if folder.exists():
        if not (folder / manifests.FILE).is_file() and any(folder.iterdir()):
            raise CallError(f"'{folder}' exists but is not an export bundle; remove it, or choose another --out")
        folder.rename(previous)
    draft.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)
