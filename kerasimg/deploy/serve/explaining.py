"""Where the served model sees a class: by occlusion, which asks it about images with a part hidden."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL.Image

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.serve import answers
from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.limits import Place
from kerasimg.deploy.serve.session import Engine
from kerasimg.evaluation.explain_overlay import as_shares, overlay
from kerasimg.evaluation.occlusion import occlusion
from kerasimg.evaluation.predictions import decide

MOST = 4
"""Images that are explained or wait for it; each asks the model for about 81 others."""

NOTE = "how far the probability falls where a square is hidden: the brighter, the further"
NOTHING = "hiding any part makes the class likelier, or changes nothing: the map is empty"


class Explainer:
    """Explains one image after the other, in a thread; between its questions other requests are answered."""

    def __init__(self, bundle: Bundle, engine: Engine, max_batch: int) -> None:
        self._bundle = bundle
        self._engine = engine
        self._max_batch = max_batch
        self._pool = ThreadPoolExecutor(1, "explain")
        self._waiting = 0

    async def explain(self, image: bytes, rows: np.ndarray, place: Place) -> dict[str, Any]:
        """The map for the decided class over the image as the network sees it, a PNG in base64.

        rows: what the model says of the image, (1, K).
        """
        if self._waiting >= MOST:
            raise Refused("queue", f"{self._waiting} images are being explained; ask again in a moment")
        self._waiting += 1
        stopped = threading.Event()
        try:
            pixels = await asyncio.wrap_future(self._engine.pixels(image))
            target = self._target(rows)
            work = self._pool.submit(self._explain, pixels, target, stopped)
            place.until(work)
            shown, fall = await asyncio.wrap_future(work)
        finally:
            stopped.set()  # where the time has run out, the thread stops at its next question
            self._waiting -= 1
        return {
            "method": "occlusion",
            "class": self._bundle.classes[target],
            "fall": float(str(np.float32(fall))),
            "note": NOTE if fall > 0 else NOTHING,
            "overlay": "data:image/png;base64," + base64.b64encode(shown).decode(),
        }

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def _target(self, rows: np.ndarray) -> int:
        if self._bundle.task == "multilabel":
            return int(rows[0].argmax())
        decisions, _ = decide(rows, self._bundle.task, self._bundle.thresholds)
        return int(decisions[0])

    def _explain(self, pixels: np.ndarray, target: int, stopped: threading.Event) -> tuple[bytes, float]:
        def ask(images: np.ndarray) -> np.ndarray:
            found: list[np.ndarray] = []
            for first in range(0, len(images), self._max_batch):
                if stopped.is_set():
                    raise CancelledError
                some = np.rint(images[first : first + self._max_batch]).astype(np.uint8)
                found += [answer.result() for answer in [self._engine.batcher.put(one) for one in some]]
            return answers.columns(self._bundle, np.stack(found))

        values = occlusion(ask, pixels[np.newaxis].astype(np.float32), np.array([target]))[0]
        seen = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        file = io.BytesIO()
        overlay(seen, as_shares(values)).save(file, "PNG")
        return file.getvalue(), float(values.max())
