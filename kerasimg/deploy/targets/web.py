"""Web: a folder for a server and `demo.html`, one file that needs nothing; both run the model in the browser."""

from __future__ import annotations

from pathlib import Path

from kerasimg.deploy.export_context import Exporting
from kerasimg.deploy.manifest import ModelFile
from kerasimg.deploy.targets import litert
from kerasimg.deploy.web import pages
from kerasimg.deploy.web.litertjs import runtime_files
from kerasimg.errors import CallError

MODEL = "model.tflite"
DEMO = "demo.html"


def write(exporting: Exporting, folder: Path) -> list[ModelFile]:
    """`index.html` with `model.tflite` and all that it loads, and `demo.html`, which holds all of it.

    CallError for anything but one precision and a batch of one: LiteRT.js takes one image at a time.
    """
    asked = exporting.options.precisions
    if len(asked) != 1:
        raise CallError(f"the page holds one model: ask for one precision, not {', '.join(asked) or 'none'}")
    if exporting.batch != 1:
        raise CallError(f"LiteRT.js takes one image at a time: expected a batch of 1, got {exporting.batch or 'free'}")
    if exporting.options.allow_flex:
        raise CallError("LiteRT.js has none of TensorFlow's own operations: leave out --allow-flex")
    runtime = runtime_files()
    made = litert.write_one(exporting, folder, asked[0])
    (folder / made.path).rename(folder / MODEL)
    about = {
        "name": exporting.name,
        "task": exporting.task,
        "classes": list(exporting.classes),
        "thresholds": exporting.classifier.thresholds,
        "image": exporting.image.model_dump(mode="json"),
    }
    pages.write_folder(folder, about, runtime)
    page = pages.single_page(about, (folder / MODEL).read_bytes(), runtime)
    (folder / DEMO).write_text(page, encoding="utf-8")
    return [made.model_copy(update={"path": MODEL, "runtime": "browser"})]
