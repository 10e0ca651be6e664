"""What the routes do: a request's images in, predictions out, within the room and the time there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from kerasimg.data.image_files import BadImage
from kerasimg.deploy.serve import answers, protocol, requests
from kerasimg.deploy.serve.errors import Refused, refused_image
from kerasimg.deploy.serve.explaining import Explainer
from kerasimg.deploy.serve.limits import Place, Room
from kerasimg.deploy.serve.metrics import Meters
from kerasimg.deploy.serve.requests import Asked, Receive
from kerasimg.deploy.serve.session import Engine, Model
from kerasimg.deploy.serve.settings import Settings

LONG_JSON, LONG_FORM = 2**15, 2**20
"""Bytes from which on a body is read in another process, as each compressed one is: the event loop serves others."""


class Service:
    """A model that answers requests, whatever the web framework around it."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self.meters = Meters(model)
        self.room = Room(settings.queue, settings.held_bytes)
        self.engine = Engine(model, settings, batched=self.meters.batched, decoded=self.meters.decode_seconds.observe)
        self.explainer = Explainer(model.bundle, self.engine, settings.max_batch)

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self.room.stopping

    def stop(self) -> None:
        """Take no more requests; those that are in work are answered."""
        self.room.stopping = True

    def close(self) -> None:
        """Answer what is in work, and end the threads."""
        self.stop()
        self.explainer.close()
        self.engine.close()

    def measure(self) -> None:
        """Note how much is in work."""
        self.meters.in_work.set(self.room.images)
        self.meters.waiting.set(self.engine.batcher.waiting())

    def about(self, key: bool) -> dict[str, Any]:
        """What the web page tells of the server."""
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
        self, headers: Mapping[str, str], query: Mapping[str, str], receive: Receive, told: MutableMapping[str, Any]
    ) -> dict[str, Any]:
        """`POST /predict`.  told: gets what the log says of the request."""
        until = asyncio.get_running_loop().time() + self.settings.timeout_s
        with self.room.enter() as place:
            body = await self._body(headers, receive, place, until, told)
            kind = headers.get("content-type", "")
            most = self.settings.max_images
            encoding = headers.get("content-encoding", "")
            arguments = (kind, encoding, body, most, self.settings.max_bytes)
            costly = bool(encoding) or requests.is_costly(kind, len(body), LONG_JSON, LONG_FORM)
            asked = await self._read("read_images", requests.read_images, arguments, costly, place, until)
            told["images"] = len(asked.images)
            place.take(images=len(asked.images))
            top, explain = self._options({**asked.options, **query}, len(asked.images))
            async with self._in_time(until):
                answer: dict[str, Any] = {
                    "id": told["id"],
                    "model": {"name": self.model.name, "version": self.model.version},
                }
                rows = await self._rows(asked, place)
                answer["predictions"] = answers.predictions(self.model.bundle, asked.ids, rows, top)
                if explain:
                    explanation = await self.explainer.explain(asked.images[0], rows, place)
                    answer["predictions"][0]["explanation"] = explanation
                return answer

    async def infer(
        self, headers: Mapping[str, str], receive: Receive, told: MutableMapping[str, Any]
    ) -> tuple[bytes, dict[str, str]]:
        """`POST /v2/models/{name}/infer`: the body of the answer and its headers."""
        until = asyncio.get_running_loop().time() + self.settings.timeout_s
        with self.room.enter() as place:
            length = headers.get(protocol.HEADER_LENGTH)
            if length is not None and not (length.isdecimal() and len(length) < 12):
                raise Refused("body", f"{protocol.HEADER_LENGTH}: expected a number, got {length[:40]!r}")
            body = await self._body(headers, receive, place, until, told)
            most = self.settings.max_images
            encoding = headers.get("content-encoding", "")
            head = None if length is None else int(length)
            arguments = (body, encoding, head, self.model.bundle.shape, most, self.settings.max_bytes)
            costly = bool(encoding) or len(body) >= LONG_JSON
            wanted = await self._read("read_tensors", protocol.read, arguments, costly, place, until)
            told["images"] = wanted.count
            place.take(images=wanted.count)
            async with self._in_time(until):
                if wanted.pixels is None:
                    rows = await self._rows(Asked(wanted.images, [f"[{k}]" for k in range(wanted.count)]), place)
                else:
                    batcher = self.engine.batcher
                    put = [asyncio.wrap_future(batcher.put(pixels)) for pixels in wanted.pixels]
                    rows = np.stack(await asyncio.gather(*put))
                return protocol.answer(self.model, wanted, rows, told["id"])

    async def _body(
        self, headers: Mapping[str, str], receive: Receive, place: Place, until: float, told: MutableMapping[str, Any]
    ) -> bytes:
        body = await requests.read_body(receive, headers.get("content-length"), place, self.settings, until)
        told["bytes"] = len(body)
        return body

    async def _read(
        self, task: str, reader: Any, arguments: tuple[Any, ...], costly: bool, place: Place, until: float
    ) -> Any:
        """What a reader makes of a body; of a costly one, in another process."""
        if not costly:
            return reader(*arguments)
        work = self.engine.read(task, *arguments)
        place.until(work)
        async with self._in_time(until):
            return await asyncio.wrap_future(work)

    async def _rows(self, asked: Asked, place: Place) -> np.ndarray:
        """The model's probabilities, (N, K), of encoded images."""
        waiting = []
        for data in asked.images:
            row, work = self.engine.ask(data)
            place.until(work, row)
            waiting.append(asyncio.wrap_future(row))
        if len(waiting) == 1:
            try:
                return (await waiting[0])[np.newaxis]
            except BadImage as error:
                raise refused_image(asked.ids[0], error) from None
        found = await asyncio.gather(*waiting, return_exceptions=True)
        bad = [
            refused_image(name, one) for name, one in zip(asked.ids, found, strict=True) if isinstance(one, BadImage)
        ]
        if bad:
            raise Refused(bad[0].reason, "; ".join(map(str, bad)))
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return np.stack(found)  # type: ignore[arg-type]

    def _options(self, given: Mapping[str, Any], images: int) -> tuple[int, bool]:
        top = requests.as_number("top", given.get("top", self.settings.top), len(self.model.bundle.classes))
        explain = requests.as_flag("explain", given.get("explain", False))
        if explain and not self.settings.explain:
            raise Refused("body", "explain: this server does not explain")
        if explain and images != 1:
            raise Refused("body", f"explain: takes one image at a time, got {images}")
        return top, explain

    @asynccontextmanager
    async def _in_time(self, until: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(until):
                yield
        except TimeoutError:
            raise Refused("time", f"no answer within {self.settings.timeout_s:g} s; ask again later") from None
