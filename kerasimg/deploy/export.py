"""`kerasimg.export`: a trained classifier -> bundles, each of them compared with it on its own runtime."""

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
from kerasimg.backend import versions
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
from kerasimg.deploy.parity import Asks, Gated, as_file, gate, line_of, require
from kerasimg.deploy.readme import write_texts
from kerasimg.deploy.serve import dockerfile
from kerasimg.deploy.targets import Target, names, served, target
from kerasimg.errors import CallError, DataError, Fault, GateError, Interrupted, KerasimgError
from kerasimg.files import write_json
from kerasimg.log import Verbose
from kerasimg.models.classifier import Classifier, ClassifierReference
from kerasimg.models.pack_io import drawn
from kerasimg.results import Results
from kerasimg.run_folder import RunFolder, folder_of
from kerasimg.spec.document import Image
from kerasimg.staleness import warn_of_stale

PACKAGES = ("kerasimg", "keras", "tensorflow", "numpy", "pillow")
"""Whose versions a manifest lists, besides the target's own."""

COUNT = 5
"""Test vectors of a bundle."""

EXTENSIONS = {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2", "tiff": "tif"}
"""Pillow's name of a format -> the extension, where it is another."""


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
        to: one target or several: "litert", "onnx", "openvino", ... (`kerasimg.deploy.targets`).
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
        CallError: if a target or a precision is unknown, not installed, or cannot be written. The others are written
            all the same, and the error names each that failed.

    Example:
        >>> [bundle] = kerasimg.export("runs/photos-1", "keras", verbose=0)
        >>> bundle.manifest.target
        'keras'
    """
    chosen = list(dict.fromkeys([to] if isinstance(to, str) else to))
    if not chosen:
        raise CallError(f"no target to export to (targets: {', '.join(names())})")
    asks = Asks(tolerance, same, accuracy_drop)
    asks.check()
    precisions: tuple[Precision, ...] = () if precision is None else _one_or_more(precision)
    options = Options(precisions, batch, input_dtype, allow_flex, flash_bytes, arena_bytes)
    options.check()
    fitted: dict[Target, Options] = {}
    errors: list[Exception] = []
    for each in [target(name) for name in chosen]:
        try:
            fitted[each] = each.fit(options)
        except CallError as error:
            errors.append(error)
    if not fitted:
        raise _all_of(errors)
    if keras.backend.backend() != "tensorflow":
        settings = {**asks._asdict(), "images": images, "allow_uncompared": allow_uncompared}
        return _in_tensorflow(run, chosen, options, out, data, settings)
    exporting = prepare(run, data=data, images=images)
    root = _root(exporting, out)
    bundles: Results[Bundle] = Results()
    for each, its_options in fitted.items():
        try:
            bundle, failures = _export_one(replace(exporting, options=its_options), each, root / each.name, asks)
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
        raise _together(failed, bundles)
    return bundles


def _together(errors: Sequence[KerasimgError], bundles: Sequence[Bundle]) -> KerasimgError:
    """Returns one error for all; its exit code is the highest of theirs: 4 if a comparison failed."""
    if len(errors) == 1 and not bundles:
        return errors[0]
    text = "\n".join(map(str, errors))
    if bundles and any(not isinstance(error, GateError) for error in errors):
        written = [f"{one.manifest.target} ({', '.join(model.precision for model in one.models)})" for one in bundles]
        text += f"\nwritten all the same: {', '.join(written)}"
    code = max(error.exit_code for error in errors)
    return RAISED.get(code, KerasimgError)(text)


def _one_or_more(precision: Precision | Sequence[Precision]) -> tuple[Precision, ...]:
    return (precision,) if isinstance(precision, str) else tuple(dict.fromkeys(precision))


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


def _export_one(exporting: Exporting, chosen: Target, folder: Path, asks: Asks) -> tuple[Bundle, list[Exception]]:
    """Writes the bundle of one target, compared; under another name until it is complete.

    Returns the bundle of the precisions that could be written, and the errors of the others.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    draft = folder.with_name(f".{chosen.name}-{platform.node()}-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        log.info(f"{chosen.name}: writing {', '.join(exporting.options.precisions)}")
        bundle, errors = write_bundle(exporting, chosen, draft, folder)
        gated = gate(exporting, bundle, asks)
        for path, error in gated.failed.items():
            errors.append(_of_precision(chosen, bundle.model(path).precision, error))
        if len(gated.failed) == len(bundle.models):
            raise errors.pop()
        notes = {**bundle.manifest.notes, **({"not_compared": gated.left} if gated.left else {})}
        manifest = bundle.manifest.model_copy(update={"parity": gated.rows, "notes": notes})
        if gated.failed:
            manifest = _without(draft, manifest, gated.failed)
        manifests.write(draft / manifests.FILE, manifest)
        _report(gated)
        _put(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Bundle.open(folder), errors


def _without(folder: Path, manifest: Manifest, failed: Iterable[str]) -> Manifest:
    """Removes the models that do not run from a bundle's draft and its manifest."""
    gone = [model for model in manifest.models if model.path in failed]
    for file in manifest.files:
        if any(belongs(file.path, model) for model in gone):
            (folder / file.path).unlink()
    manifest = manifest.model_copy(update={"models": [model for model in manifest.models if model not in gone]})
    image = Image.model_validate(json.loads((folder / PREPROCESS).read_text(encoding="utf-8")))
    write_texts(folder, manifest, image, json.loads((folder / CLASSES).read_text(encoding="utf-8")))
    return manifest.model_copy(update={"files": list_files(folder)})


def _of_precision(chosen: Target, precision: Precision, error: Exception) -> Exception:
    """Names the precision in an error, if the target has several."""
    if not isinstance(error, KerasimgError):
        error.add_note(f"while exporting for {chosen.name} in {precision}")
        return error
    if len(chosen.precisions) == 1 or isinstance(error, Interrupted):
        return error
    text = str(error).removeprefix(f"{chosen.name}: ")
    return RAISED.get(error.exit_code, KerasimgError)(f"{chosen.name} {precision}: {text}")


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


def write_bundle(
    exporting: Exporting, chosen: Target, folder: Path, place: Path | None = None
) -> tuple[Bundle, list[Exception]]:
    """Writes a target's bundle into an empty folder, not compared yet.

    Args:
        exporting: what is exported.
        chosen: the target.
        folder: where it is written.
        place: where it will be; default: `folder`.

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
        try:
            models.append(chosen.write(exporting, folder, precision))
        except Interrupted:
            raise
        except Exception as error:
            errors.append(_of_precision(chosen, precision, error))
    if not models:
        raise errors[0] if len(errors) == 1 else _all_of(errors)
    thresholds = exporting.classifier.thresholds
    manifest = Manifest(
        name=exporting.name,
        target=chosen.name,
        task=exporting.task,
        classes=len(exporting.classes),
        temperature=exporting.classifier.temperature,
        thresholds=None if thresholds is None else list(thresholds),
        model=dict(exporting.classifier.identity()),
        run=_path_to(exporting.run, place or folder),
        models=models,
        files=[],
        spec=dict(exporting.classifier.spec.resolved),
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


def _all_of(errors: list[Exception]) -> Exception:
    """Returns the error to raise if no precision could be written."""
    unexpected = [error for error in errors if not isinstance(error, KerasimgError)]
    return unexpected[0] if unexpected else _together([e for e in errors if isinstance(e, KerasimgError)], [])


def _path_to(run: Path | None, place: Path) -> str | None:
    """Returns the path from a bundle's folder to its run's, with forward slashes; None within the run."""
    if run is None or place.resolve().is_relative_to(run.resolve()):
        return None
    try:
        return Path(os.path.relpath(run.resolve(), place.resolve())).as_posix()
    except ValueError:  # another drive
        return None


def _write_vectors(exporting: Exporting, folder: Path) -> None:
    """Writes `vectors/`: five of the test images at even distances; if there are none, five that are drawn."""
    (folder / VECTORS).mkdir()
    rows, pixels = [], []
    for number, (name, image) in enumerate(_vector_images(exporting)):
        content = as_file(image)
        with PIL.Image.open(io.BytesIO(content)) as opened:
            kind = (opened.format or "bin").lower()
        file = folder / VECTORS / f"{number}.{EXTENSIONS.get(kind, kind)}"
        file.write_bytes(content)
        pixels.append(decode(str(file), exporting.image))
        np.save(folder / VECTORS / f"{number}.input.npy", pixels[-1])
        rows.append({"name": name, "file": file.name, "pixels": f"{number}.input.npy"})
    expected = exporting.classifier.probabilities(np.stack(pixels).astype(np.float32))
    for row, probabilities in zip(rows, expected, strict=True):
        row["probabilities"] = probabilities.astype(float).tolist()
    write_json(folder / EXPECTED, {"classes": list(exporting.classes), "vectors": rows})


def _vector_images(exporting: Exporting) -> list[tuple[str, Any]]:
    if exporting.test is None:
        height, width, _ = exporting.shape
        # Of smooth colours, and of another size than the model's.
        return [
            (f"drawn {number}", np.asarray(drawn(number, height * 5 // 4 + number, width * 3 // 2)))
            for number in range(COUNT)
        ]
    chosen = exporting.test.evenly(COUNT)
    return [
        (name, chosen.source.columns.image(int(index)))
        for name, index in zip(chosen.names, chosen.indices, strict=True)
    ]


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
