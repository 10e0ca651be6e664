"""Web: a folder for a server, and the self-contained `demo.html`; both run the model in the browser."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import PIL.Image

from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.runtimes import Runtime
from kerasimg.deploy.targets import Target
from kerasimg.deploy.targets.litert import LiteRT
from kerasimg.errors import CallError

if TYPE_CHECKING:
    from kerasimg.deploy.export_context import Exporting, Options

DEMO = "demo.html"


class Page(Runtime):
    """The page of a bundle in a headless browser without a network."""

    kind, parallel, reads_files = "browser", False, True

    def __init__(self, path: Path, model: ModelFile, threads: int | None = None) -> None:
        super().__init__(path, model, threads)
        from kerasimg.deploy.web.browser import Browser

        self._page = Browser((path.parent / DEMO).resolve().as_uri())
        about = self._page.driver.capabilities
        self.name = f"LiteRT.js in {about.get('browserName', 'a browser')} {about.get('browserVersion', '')}".strip()

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As `Runtime.run`; the page reads the pixels from a PNG of the model's own size."""
        return np.stack([self._page.probabilities(_png(image)) for image in pixels])

    def of_files(self, contents: Sequence[bytes]) -> np.ndarray:
        """As `Runtime.of_files`."""
        with self.lock:
            return np.stack([self._page.probabilities(content) for content in contents])

    def close(self) -> None:
        """Closes the browser."""
        self._page.__exit__(None, None, None)

    def _convert_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return pixels


class Web(LiteRT):
    """A .tflite file in a page, run by LiteRT.js."""

    name, about = "web", "a folder and one page that run in the browser"
    runtime, file, batch = Page, "model.tflite", 1
    measured = False
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
        return super().fit(options)

    def write(self, exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
        """As `Target.write`: `index.html` with `model.tflite` and what it loads, and `demo.html` with all of it."""
        from kerasimg.deploy.web import pages
        from kerasimg.deploy.web.litertjs import runtime_files

        runtime = runtime_files()
        described = super().write(exporting, folder, precision)
        about = {
            "name": exporting.name,
            "task": exporting.task,
            "classes": list(exporting.classes),
            "thresholds": exporting.classifier.thresholds,
            "image": exporting.image.model_dump(mode="json"),
        }
        pages.write_folder(folder, about, runtime)
        page = pages.single_page(about, (folder / described.path).read_bytes(), runtime)
        (folder / DEMO).write_text(page, encoding="utf-8")
        return described

    def fallback(self) -> Target | None:
        """As `Target.fallback`: LiteRT if there is no browser."""
        from kerasimg.deploy.web.browser import available

        return LiteRT() if available() else None


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(content, "PNG")
    return content.getvalue()
