"""The work behind the routes: parses requests, runs the model, builds responses, explains predictions."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import PIL.Image

from kerasimg import log
from kerasimg.boundary import limit
from kerasimg.data.image_files import BadImage
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.serve import answers, protocol, requests
from kerasimg.deploy.serve.alarm import RATE, ShiftAlarm
from kerasimg.deploy.serve.errors import Refused, refused_image
from kerasimg.deploy.serve.limits import Capacity, Reservation
from kerasimg.deploy.serve.metrics import Metrics
from kerasimg.deploy.serve.requests import PredictRequest, Receive
from kerasimg.deploy.serve.session import InferenceSession, Model, blank_image
from kerasimg.deploy.serve.settings import Settings
from kerasimg.deploy.serve.workers import Budget, Workers
from kerasimg.errors import counted, listed
from kerasimg.evaluation.conformal import are_known
from kerasimg.evaluation.explain_overlay import as_shares, overlay
from kerasimg.evaluation.occlusion import occlusion
from kerasimg.evaluation.predictions import decide
from kerasimg.models.keras_file import Answer
from kerasimg.spec.document import Image

LONG_JSON, LONG_FORM = 2**15, 2**20
"""A body of at least this many bytes is parsed in a worker process, as is every compressed one."""


class ServedModel:
    """A model with the threads that run and explain it; a context manager around each of its requests."""

    def __init__(self, model: Model, workers: Workers, settings: Settings, metrics: Metrics) -> None:
        self.model = model
        self.session = InferenceSession(
            model,
            workers,
            settings,
            on_batch=metrics.on_batch(model.name),
            on_decode=metrics.decode_seconds.observe,
        )
        self.explainer = Explainer(model.bundle, self.session, settings.max_batch)
        known = model.bundle.manifest.known
        self.alarm: ShiftAlarm | None = None
        if known is not None and model.runtime.gives_p_values:
            # Each server process has an alarm of its own.
            self.alarm = ShiftAlarm(known.images, RATE / settings.workers)
        self._requests = 0
        self._done: asyncio.Event | None = None

    def __enter__(self) -> ServedModel:
        self._requests += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._requests -= 1
        if not self._requests and self._done is not None:
            self._done.set()

    async def retire(self) -> None:
        """Closes the model once its last request is answered."""
        self._done = asyncio.Event()
        if self._requests:
            await self._done.wait()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Completes the work in progress and releases the model."""
        self.explainer.close()
        self.session.close()


class Service:
    """Answers requests for one or several models, independent of the web framework."""

    def __init__(self, models: Sequence[Model], settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.capacity = Capacity(settings.queue, settings.held_bytes, settings.max_decode_s)
        self._workers = Workers(settings)
        self._served: dict[str, ServedModel] = {}
        for model in models:
            self._serve(model)
        self._default = models[0].name
        # Waits until the first worker process has started.
        section = Image(size=[8, 8]).model_dump_json()  # not the model's: files cannot have more than 3 channels
        self._workers.submit(self._workers.ask, "decode", Budget(settings.timeout_s), blank_image(), section).result()

    @property
    def models(self) -> list[Model]:
        """The models, the default first."""
        return [served.model for served in self._served.values()]

    @property
    def model(self) -> Model:
        """The model of requests that name none."""
        return self._served[self._default].model

    def served(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """Returns a model by its name, by default the first; raises Refused if there is none of that version."""
        served = self._served.get(self._default if name is None else name)
        if served is None:
            raise Refused("route", f"no model '{str(name)[:80]}' (this server has: {listed(list(self._served))})")
        if version is not None and version != served.model.version:
            raise Refused("route", f"no version '{version[:80]}' of '{name}' (this server has: {served.model.version})")
        return served

    async def replace(self, model: Model) -> None:
        """Serves a model instead of the one of its name; returns when the requests of that one are answered."""
        before = self._served[model.name]
        self._serve(model)
        if before.model.version != model.version:
            self.metrics.serves(before.model, 0)
        await before.retire()

    def _serve(self, model: Model) -> None:
        self._served[model.name] = ServedModel(model, self._workers, self.settings, self.metrics)
        self.metrics.serves(model)

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
        self._workers.close()
        for served in self._served.values():
            served.close()

    def count(self, route: str, status: int, seconds: float, record: Mapping[str, Any]) -> None:
        """Records a request that was answered; `record` is what its line in the log says."""
        self.metrics.count(route, status, seconds, record)
        if self.metrics.shared:  # another process may be asked
            self.measure()

    def measure(self) -> None:
        """Updates the gauges of images in progress."""
        self.metrics.in_work.set(self.capacity.images)
        self.metrics.waiting.set(sum(served.session.batcher.waiting() for served in self._served.values()))

    def about(self, key: bool) -> dict[str, Any]:
        """Describes the model and the limits, for `GET /about`."""
        bundle, settings = self.model.bundle, self.settings
        return {
            "model": {"name": self.model.name, "version": self.model.version},
            "models": [{"name": model.name, "version": model.version} for model in self.models],
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
            self.served(query.get("model"))  # raises before the body is read
            body = await self._body(headers, receive, reservation, deadline, record)
            kind = headers.get("content-type", "")
            max_images = self.settings.max_images
            encoding = headers.get("content-encoding", "")
            arguments = (kind, encoding, body, max_images, self.settings.max_bytes)
            costly = bool(encoding) or requests.is_costly(kind, len(body), LONG_JSON, LONG_FORM)
            request = await self._read("read_images", requests.read_images, arguments, costly, reservation, deadline)
            record["images"] = len(request.images)
            reservation.take(images=len(request.images))
            with self.served(query.get("model")) as served:
                model = served.model
                record["model"] = model.name
                top, explain = self._options({**request.options, **query}, len(request.images), model.bundle)
                given = model.runtime.split(await self._rows(served.session, request, reservation, deadline))
                self._watch(served, given, record)
                predictions = answers.predictions(model.bundle, request.ids, given, top)
                if explain:
                    async with self._within(deadline):
                        predictions[0]["explanation"] = await served.explainer.explain(
                            request.images[0], given.probabilities, reservation
                        )
                return {
                    "id": record["id"],
                    "model": {"name": model.name, "version": model.version},
                    "predictions": predictions,
                }

    async def infer(
        self,
        name: str,
        version: str | None,
        headers: Mapping[str, str],
        receive: Receive,
        record: MutableMapping[str, Any],
    ) -> tuple[bytes, dict[str, str]]:
        """Handles `POST /v2/models/{name}/infer`; returns the body of the response and its headers."""
        deadline = asyncio.get_running_loop().time() + self.settings.timeout_s
        with self.capacity.reserve() as reservation:
            model = self.served(name, version).model
            shape, outputs = model.bundle.shape, protocol.outputs_of(model)
            length = headers.get(protocol.HEADER_LENGTH)
            if length is not None and not (length.isdecimal() and len(length) < 12):
                raise Refused("body", f"{protocol.HEADER_LENGTH}: expected a number, got {length[:40]!r}")
            body = await self._body(headers, receive, reservation, deadline, record)
            max_images = self.settings.max_images
            encoding = headers.get("content-encoding", "")
            head = None if length is None else int(length)
            arguments = (body, encoding, head, shape, max_images, self.settings.max_bytes, outputs)
            costly = bool(encoding) or len(body) >= LONG_JSON
            request = await self._read("read_tensors", protocol.read, arguments, costly, reservation, deadline)
            with self.served(name, version) as served:
                given = await self.run(served, request, reservation, deadline, record)
                return protocol.answer(served.model, request, given, record["id"])

    async def run(
        self,
        served: ServedModel,
        request: protocol.InferRequest,
        reservation: Reservation,
        deadline: float,
        record: MutableMapping[str, Any],
    ) -> Answer:
        """Returns what a model says about the images of an inference request."""
        session, model = served.session, served.model
        record["images"], record["model"] = request.count, model.name
        reservation.take(images=request.count)
        if request.pixels is None:
            ids = [f"[{k}]" for k in range(request.count)]
            rows = await self._rows(session, PredictRequest(request.images, ids), reservation, deadline)
        else:
            protocol.checked_pixels(request.pixels, model.bundle.shape)  # the model may have been replaced
            if request.count == 1:
                rows = await self._row(session.run(request.pixels[0]), deadline)
            else:
                waiting = [session.batcher.submit(pixels) for pixels in request.pixels]
                async with self._within(deadline):
                    rows = np.stack([await asyncio.wrap_future(row) for row in waiting])
        given = model.runtime.split(rows)
        self._watch(served, given, record)
        return given

    def _watch(self, served: ServedModel, given: Answer, record: MutableMapping[str, Any]) -> None:
        """Counts unknown images; an alarm is in the metrics, in the line of the request in the log, and a warning."""
        alarm = served.alarm
        if alarm is None or given.p_values is None:
            return
        name = served.model.name
        self.metrics.unknown.labels(name).inc(int((~are_known(given.p_values, given.share)).sum()))
        raised = alarm.add(given.p_values)
        self.metrics.watched(name, alarm)
        if raised:
            record["shift_alarm"] = alarm.images
            log.warning(
                f"the images are unlike those that the model was trained on: after {counted(alarm.images, 'image')} of "
                f"'{name}' the evidence reached {alarm.limit:g}, which it does by chance with a probability of at most "
                f"{1 / alarm.limit:g}; evaluate the model on new labelled images"
            )

    async def _body(
        self,
        headers: Mapping[str, str],
        receive: Receive,
        reservation: Reservation,
        deadline: float,
        record: MutableMapping[str, Any],
    ) -> bytes:
        body = await requests.read_body(receive, headers.get("content-length"), reservation, self.settings, deadline)
        reservation.take(images=1)
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
        work = self._workers.read(task, reservation.budget, *arguments)
        reservation.hold_until_done(work)
        async with self._within(deadline):
            return await asyncio.wrap_future(work)

    async def _rows(
        self, session: InferenceSession, request: PredictRequest, reservation: Reservation, deadline: float
    ) -> np.ndarray:
        """Returns the model's rows, as `Runtime.rows`, for encoded images."""
        if len(request.images) == 1:
            try:
                row = session.predict_now(request.images[0])
            except BadImage as error:
                raise refused_image(request.ids[0], error) from None
            if row is not None:
                return await self._row(row, deadline)
        async with self._within(deadline):
            await self._check_pixels(request.images, reservation)
            return await _decoded_rows(session, request, reservation)

    async def _row(self, row: np.ndarray | Future, deadline: float) -> np.ndarray:
        """Returns one row, (1, K), once it is there; a timer is only set where it must be waited for."""
        if not isinstance(row, Future):
            return row[np.newaxis]
        async with self._within(deadline):
            return np.asarray(await asyncio.wrap_future(row))[np.newaxis]

    async def _check_pixels(self, images: Sequence[bytes], reservation: Reservation) -> None:
        """Refuses images that have too many pixels together, before any is decoded."""
        most = max(limit("request_pixels"), self.settings.max_pixels)
        if len(images) * self.settings.max_pixels <= most:
            return
        work = self._workers.read("pixels", reservation.budget, images)
        reservation.hold_until_done(work)
        if (count := await asyncio.wrap_future(work)) > most:
            raise Refused(
                "pixels",
                f"the images have {count / 1e6:,.0f} million pixels together; the limit is {most / 1e6:g} million: "
                "send fewer per request",
            )

    def _options(self, options: Mapping[str, Any], images: int, bundle: Bundle) -> tuple[int, bool]:
        top = requests.as_number("top", options.get("top", self.settings.top), len(bundle.classes))
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


async def _decoded_rows(session: InferenceSession, request: PredictRequest, reservation: Reservation) -> np.ndarray:
    """Returns the model's rows for images that are decoded in worker processes."""
    waiting = []
    for data in request.images:
        future, work = session.predict(data, reservation.budget)
        reservation.hold_until_done(work, future)
        waiting.append(asyncio.wrap_future(future))
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
    if bad and reservation.budget.left() <= 0:
        seconds = reservation.budget.seconds
        raise Refused("costly", f"the images take more than {seconds:g} s to decode, the limit; send fewer per request")
    if bad:
        raise Refused(bad[0].reason, "; ".join(map(str, bad)))
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return np.stack(results)  # type: ignore[arg-type]


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
            raise Refused("queue", f"{counted(self._waiting, 'image', 'are')} being explained; retry in a moment")
        self._waiting += 1
        stopped = threading.Event()
        try:
            try:
                pixels = await asyncio.wrap_future(self._session.pixels(image, reservation.budget))
            except BadImage as error:  # the budget was enough for the prediction only
                raise refused_image("the image", error) from None
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
            return answers.columns(self._bundle, np.stack(rows)[:, : self._bundle.outputs])

        values = occlusion(ask, pixels[np.newaxis].astype(np.float32), np.array([target]))[0]
        seen = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        file = io.BytesIO()
        overlay(seen, as_shares(values)).save(file, "PNG")
        return file.getvalue(), float(values.max())
