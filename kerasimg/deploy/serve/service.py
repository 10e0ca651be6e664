"""The work behind the routes: parses requests, runs the model, builds responses, explains predictions."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import AsyncIterator, Mapping, MutableMapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import PIL.Image

from kerasimg.data.image_files import BadImage
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.serve import answers, protocol, requests
from kerasimg.deploy.serve.errors import Refused, refused_image
from kerasimg.deploy.serve.limits import Capacity, Reservation
from kerasimg.deploy.serve.metrics import Metrics
from kerasimg.deploy.serve.requests import PredictRequest, Receive
from kerasimg.deploy.serve.session import InferenceSession, Model
from kerasimg.deploy.serve.settings import Settings
from kerasimg.evaluation.explain_overlay import as_shares, overlay
from kerasimg.evaluation.occlusion import occlusion
from kerasimg.evaluation.predictions import decide

LONG_JSON, LONG_FORM = 2**15, 2**20
"""A body of at least this many bytes is parsed in a worker process, as is every compressed one."""


class Service:
    """Answers requests for a model, independent of the web framework."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self.metrics = Metrics(model)
        self.capacity = Capacity(settings.queue, settings.held_bytes)
        self.session = InferenceSession(
            model, settings, on_batch=self.metrics.batched, on_decode=self.metrics.decode_seconds.observe
        )
        self.explainer = Explainer(model.bundle, self.session, settings.max_batch)

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return not self.capacity.stopping

    def stop(self) -> None:
        """Accepts no more requests; those in progress are completed."""
        self.capacity.stopping = True

    def close(self) -> None:
        """Completes the requests in progress and ends the threads."""
        self.stop()
        self.explainer.close()
        self.session.close()

    def measure(self) -> None:
        """Updates the gauges of images in progress."""
        self.metrics.in_work.set(self.capacity.images)
        self.metrics.waiting.set(self.session.batcher.waiting())

    def about(self, key: bool) -> dict[str, Any]:
        """Describes the model and the limits, for `GET /about`."""
        bundle, settings = self.model.bundle, self.settings
        return {
            "model": {"name": self.model.name, "version": self.model.version},
            "runtime": self.model.file.runtime,
            "precision": self.model.file.precision,
            "task": bundle.task,
            "classes": len(bundle.classes),
            "input": list(bundle.shape),
            "explain": settings.explain,
            "key": key,
            "limits": {
                "bytes": settings.max_bytes,
                "pixels": settings.max_pixels,
                "images": settings.max_images,
                "seconds": settings.timeout_s,
            },
        }

    async def predict(
        self, headers: Mapping[str, str], query: Mapping[str, str], receive: Receive, record: MutableMapping[str, Any]
    ) -> dict[str, Any]:
        """Handles `POST /predict`; `record` receives fields for the log."""
        deadline = asyncio.get_running_loop().time() + self.settings.timeout_s
        with self.capacity.reserve() as reservation:
            body = await self._body(headers, receive, reservation, deadline, record)
            kind = headers.get("content-type", "")
            max_images = self.settings.max_images
            encoding = headers.get("content-encoding", "")
            arguments = (kind, encoding, body, max_images, self.settings.max_bytes)
            costly = bool(encoding) or requests.is_costly(kind, len(body), LONG_JSON, LONG_FORM)
            request = await self._read("read_images", requests.read_images, arguments, costly, reservation, deadline)
            record["images"] = len(request.images)
            reservation.take(images=len(request.images))
            top, explain = self._options({**request.options, **query}, len(request.images))
            async with self._within(deadline):
                answer: dict[str, Any] = {
                    "id": record["id"],
                    "model": {"name": self.model.name, "version": self.model.version},
                }
                rows = await self._rows(request, reservation)
                answer["predictions"] = answers.predictions(self.model.bundle, request.ids, rows, top)
                if explain:
                    explanation = await self.explainer.explain(request.images[0], rows, reservation)
                    answer["predictions"][0]["explanation"] = explanation
                return answer

    async def infer(
        self, headers: Mapping[str, str], receive: Receive, record: MutableMapping[str, Any]
    ) -> tuple[bytes, dict[str, str]]:
        """Handles `POST /v2/models/{name}/infer`; returns the body of the response and its headers."""
        deadline = asyncio.get_running_loop().time() + self.settings.timeout_s
        with self.capacity.reserve() as reservation:
            length = headers.get(protocol.HEADER_LENGTH)
            if length is not None and not (length.isdecimal() and len(length) < 12):
                raise Refused("body", f"{protocol.HEADER_LENGTH}: expected a number, got {length[:40]!r}")
            body = await self._body(headers, receive, reservation, deadline, record)
            max_images = self.settings.max_images
            encoding = headers.get("content-encoding", "")
            head = None if length is None else int(length)
            arguments = (body, encoding, head, self.model.bundle.shape, max_images, self.settings.max_bytes)
            costly = bool(encoding) or len(body) >= LONG_JSON
            request = await self._read("read_tensors", protocol.read, arguments, costly, reservation, deadline)
            record["images"] = request.count
            reservation.take(images=request.count)
            async with self._within(deadline):
                if request.pixels is None:
                    rows = await self._rows(
                        PredictRequest(request.images, [f"[{k}]" for k in range(request.count)]), reservation
                    )
                else:
                    batcher = self.session.batcher
                    put = [asyncio.wrap_future(batcher.submit(pixels)) for pixels in request.pixels]
                    rows = np.stack(await asyncio.gather(*put))
                return protocol.answer(self.model, request, rows, record["id"])

    async def _body(
        self,
        headers: Mapping[str, str],
        receive: Receive,
        reservation: Reservation,
        deadline: float,
        record: MutableMapping[str, Any],
    ) -> bytes:
        body = await requests.read_body(receive, headers.get("content-length"), reservation, self.settings, deadline)
        record["bytes"] = len(body)
        return body

    async def _read(
        self,
        task: str,
        reader: Any,
        arguments: tuple[Any, ...],
        costly: bool,
        reservation: Reservation,
        deadline: float,
    ) -> Any:
        """Parses a body; a costly one in a worker process."""
        if not costly:
            return reader(*arguments)
        work = self.session.read(task, *arguments)
        reservation.hold_until_done(work)
        async with self._within(deadline):
            return await asyncio.wrap_future(work)

    async def _rows(self, request: PredictRequest, reservation: Reservation) -> np.ndarray:
        """Returns the model's probabilities, (N, K), for encoded images."""
        waiting = []
        for data in request.images:
            row, work = self.session.predict(data)
            reservation.hold_until_done(work, row)
            waiting.append(asyncio.wrap_future(row))
        if len(waiting) == 1:
            try:
                return (await waiting[0])[np.newaxis]
            except BadImage as error:
                raise refused_image(request.ids[0], error) from None
        results = await asyncio.gather(*waiting, return_exceptions=True)
        bad = [
            refused_image(name, result)
            for name, result in zip(request.ids, results, strict=True)
            if isinstance(result, BadImage)
        ]
        if bad:
            raise Refused(bad[0].reason, "; ".join(map(str, bad)))
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return np.stack(results)  # type: ignore[arg-type]

    def _options(self, options: Mapping[str, Any], images: int) -> tuple[int, bool]:
        top = requests.as_number("top", options.get("top", self.settings.top), len(self.model.bundle.classes))
        explain = requests.as_flag("explain", options.get("explain", False))
        if explain and not self.settings.explain:
            raise Refused("body", "explain: explanations are disabled on this server")
        if explain and images != 1:
            raise Refused("body", f"explain: expected one image, got {images}")
        return top, explain

    @asynccontextmanager
    async def _within(self, deadline: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise Refused("time", f"no answer within {self.settings.timeout_s:g} s; retry later") from None


MAX_EXPLAINING = 4
"""Maximum images that are explained or wait for it; each takes about 81 model calls."""

NOTE = "brighter: hiding this part lowers the probability more"
NOTHING = "hiding any part raises the probability or does not change it: the map is empty"


class Explainer:
    """Explains predictions by occlusion, one image at a time in a thread, interleaved with other requests."""

    def __init__(self, bundle: Bundle, engine: InferenceSession, max_batch: int) -> None:
        self._bundle = bundle
        self._session = engine
        self._max_batch = max_batch
        self._pool = ThreadPoolExecutor(1, "explain")
        self._waiting = 0

    async def explain(self, image: bytes, rows: np.ndarray, reservation: Reservation) -> dict[str, Any]:
        """Returns the occlusion map of the decided class as a PNG data URL, drawn over the model's input.

        Args:
            image: the encoded image.
            rows: the model's probabilities for it, (1, K).
            reservation: the request's reservation.
        """
        if self._waiting >= MAX_EXPLAINING:
            raise Refused("queue", f"{self._waiting} images are being explained; retry in a moment")
        self._waiting += 1
        stopped = threading.Event()
        try:
            pixels = await asyncio.wrap_future(self._session.pixels(image))
            target = self._target(rows)
            work = self._pool.submit(self._explain, pixels, target, stopped)
            reservation.hold_until_done(work)
            shown, fall = await asyncio.wrap_future(work)
        finally:
            stopped.set()  # after a timeout the thread stops before its next model call
            self._waiting -= 1
        return {
            "method": "occlusion",
            "class": self._bundle.classes[target],
            "fall": float(str(np.float32(fall))),
            "note": NOTE if fall > 0 else NOTHING,
            "overlay": "data:image/png;base64," + base64.b64encode(shown).decode(),
        }

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown()

    def _target(self, rows: np.ndarray) -> int:
        if self._bundle.task == "multilabel":
            return int(rows[0].argmax())
        decisions, _ = decide(rows, self._bundle.task, self._bundle.thresholds)
        return int(decisions[0])

    def _explain(self, pixels: np.ndarray, target: int, stopped: threading.Event) -> tuple[bytes, float]:
        def ask(images: np.ndarray) -> np.ndarray:
            rows: list[np.ndarray] = []
            for first in range(0, len(images), self._max_batch):
                if stopped.is_set():
                    raise CancelledError
                chunk = np.rint(images[first : first + self._max_batch]).astype(np.uint8)
                rows += [result.result() for result in [self._session.batcher.submit(image) for image in chunk]]
            return answers.columns(self._bundle, np.stack(rows))

        values = occlusion(ask, pixels[np.newaxis].astype(np.float32), np.array([target]))[0]
        seen = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        file = io.BytesIO()
        overlay(seen, as_shares(values)).save(file, "PNG")
        return file.getvalue(), float(values.max())
