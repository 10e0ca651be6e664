"""Web: a folder for a server, and the self-contained `demo.html`; both run the model in the browser."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import PIL.Image

from kerasimg.deploy.bundle import PAGE
from kerasimg.deploy.manifest import ModelFile, Output, Precision
from kerasimg.deploy.runtimes import Runtime
from kerasimg.deploy.targets import Target
from kerasimg.deploy.targets.litert import LiteRT
from kerasimg.errors import CallError, listed
from kerasimg.evaluation.conformal import FREE, PENALTY

if TYPE_CHECKING:
    from kerasimg.deploy.export_context import Exporting, Options

AGREEING = ("float32", "float16")
"""Precisions whose features agree with those of the trained model."""


class Page(Runtime):
    """The page of a bundle in a headless browser without a network."""

    kind, parallel, reads_files = "browser", False, True

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        from kerasimg.deploy.web.browser import Browser

        self._page = Browser((path.parent / PAGE).resolve().as_uri())
        about = self._page.driver.capabilities
        self.name = f"LiteRT.js in {about.get('browserName', 'a browser')} {about.get('browserVersion', '')}".strip()

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """As `Runtime.run`; the page reads the pixels from a PNG of the model's own size."""
        rows = np.stack([self._page.row(_png(image)) for image in pixels])
        return [rows[:, : self.outputs], *([rows[:, self.outputs :]] if self.gives_p_values else [])]

    def of_files(self, contents: Sequence[bytes]) -> np.ndarray:
        """As `Runtime.of_files`."""
        with self.lock:
            return np.stack([self._page.row(content) for content in contents])

    def close(self) -> None:
        """Closes the browser."""
        self._page.__exit__(None, None, None)

    def _convert_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return pixels


class Web(LiteRT):
    """A .tflite file in a page, run by LiteRT.js."""

    name, about = "web", "a folder and one page that run in the browser"
    precisions: ClassVar[tuple[Precision, ...]] = ("float32", "float16", "dynamic", "int8")
    runtime, file, batch = Page, "model.tflite", 1
    measured, learns = False, True
    snippets: ClassVar = {"JavaScript": "web.js.j2"}
    files: ClassVar = {}

    def fit(self, options: Options) -> Options:
        """As `Target.fit`; the page has one model, with batch size 1."""
        if len(options.precisions) > 1:
            raise CallError(f"a page has one model: choose one precision, not {', '.join(options.precisions)}")
        if options.batch not in (None, 1):
            raise CallError(f"LiteRT.js needs batch size 1, got {options.batch}")
        if options.allow_flex:
            raise CallError("LiteRT.js cannot run TensorFlow operations: remove --allow-flex")
        fitted = super().fit(options)
        if options.trainable and (unfit := [name for name in fitted.precisions if name not in AGREEING]):
            raise CallError(f"trainable: features in {unfit[0]} differ from those in Python: choose {listed(AGREEING)}")
        return fitted

    def outputs_of(self, exporting: Exporting, precision: Precision) -> list[Output]:
        """As `Target.outputs_of`; a page that learns has the features as the last output."""
        features: list[Output] = ["features"] if exporting.options.trainable else []
        return super().outputs_of(exporting, precision) + features

    def write(self, exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
        """As `Target.write`: `index.html` with `model.tflite` and what it loads, and `demo.html` with all of it."""
        from kerasimg.deploy.web import pages
        from kerasimg.deploy.web.litertjs import runtime_files

        runtime = runtime_files()
        examples = None
        if exporting.options.trainable:
            from kerasimg.deploy.learning import collect_examples

            examples = collect_examples(exporting).to_dict()
        described = super().write(exporting, folder, precision)
        about: dict[str, Any] = {
            "name": exporting.name,
            "task": exporting.task,
            "classes": list(exporting.classes),
            "thresholds": exporting.classifier.thresholds,
            "image": exporting.image.model_dump(mode="json"),
            "outputs": described.outputs,
        }
        if "p_value" in described.outputs and exporting.known is not None:
            about["share"] = exporting.known.rule.share
        if exporting.classifier.sets is not None:
            about |= {"sets": exporting.classifier.sets.model_dump(mode="json"), "penalty": PENALTY, "free": FREE}

        if examples is not None:
            about["learns"] = True
        pages.write_folder(folder, about, runtime, examples)
        page = pages.single_page(about, (folder / described.path).read_bytes(), runtime, examples)
        (folder / PAGE).write_text(page, encoding="utf-8")
        return described

    def fallback(self) -> Target | None:
        """As `Target.fallback`: LiteRT if there is no browser."""
        from kerasimg.deploy.web.browser import available

        return LiteRT() if available() else None


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(content, "PNG")
    return content.getvalue()
