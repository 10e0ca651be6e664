"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`, as KServe and Triton describe it.

The messages are those of `grpc_predict_v2.proto`, built from the table `MESSAGES`, so that no code is generated. The
limits, the errors and the model are those of the HTTP server. Messages are received and parsed in a thread with an
event loop of its own: gRPC copies each in one go, and many large ones would hold up the health routes. Requests are
handled, counted and logged in the event loop of the HTTP server.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from kerasimg import log
from kerasimg.boundary import limit
from kerasimg.deploy.serve import protocol
from kerasimg.deploy.serve.errors import Refused, refused_fault
from kerasimg.deploy.serve.guard import HEADER_TIMEOUT_S
from kerasimg.deploy.serve.middleware import log_event
from kerasimg.deploy.serve.requests import LARGE
from kerasimg.deploy.serve.service import Service
from kerasimg.deploy.serve.settings import Settings
from kerasimg.errors import CallError
from kerasimg.escaping import one_line

SERVICE = "inference.GRPCInferenceService"

MESSAGES: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("1 bool live",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("1 bool ready",),
    "ModelReadyRequest": ("1 string name", "2 string version"),
    "ModelReadyResponse": ("1 bool ready",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("1 string name", "2 string version", "3 string* extensions"),
    "ModelMetadataRequest": ("1 string name", "2 string version"),
    "TensorMetadata": ("1 string name", "2 string datatype", "3 int64* shape"),
    "ModelMetadataResponse": (
        *("1 string name", "2 string* versions", "3 string platform"),
        *("4 TensorMetadata* inputs", "5 TensorMetadata* outputs"),
    ),
    "InferTensorContents": (
        *("1 bool* bool_contents", "2 int32* int_contents", "3 int64* int64_contents", "4 uint32* uint_contents"),
        *("5 uint64* uint64_contents", "6 float* fp32_contents", "7 double* fp64_contents", "8 bytes* bytes_contents"),
    ),
    "InferInputTensor": (*("1 string name", "2 string datatype", "3 int64* shape", "5 InferTensorContents contents"),),
    "InferRequestedOutputTensor": ("1 string name",),
    "ModelInferRequest": (
        *("1 string model_name", "2 string model_version", "3 string id", "5 InferInputTensor* inputs"),
        *("6 InferRequestedOutputTensor* outputs", "7 bytes* raw_input_contents"),
    ),
    "InferOutputTensor": (*("1 string name", "2 string datatype", "3 int64* shape", "5 InferTensorContents contents"),),
    "ModelInferResponse": (
        *("1 string model_name", "2 string model_version", "3 string id", "5 InferOutputTensor* outputs"),
        "6 bytes* raw_output_contents",
    ),
}
"""Message -> number, type and name of its fields; * for repeated ones. Parameters, which nothing here reads, are left
out: protobuf skips unknown fields."""

CODES = {
    **dict.fromkeys(("body", "address", "tensor", "type", "unknown", "damaged"), grpc.StatusCode.INVALID_ARGUMENT),
    **dict.fromkeys(("images", "pixels", "costly"), grpc.StatusCode.INVALID_ARGUMENT),
    **dict.fromkeys(("bytes", "queue"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    **dict.fromkeys(("slow", "time"), grpc.StatusCode.DEADLINE_EXCEEDED),
    "key": grpc.StatusCode.UNAUTHENTICATED,
    "route": grpc.StatusCode.NOT_FOUND,
    "method": grpc.StatusCode.UNIMPLEMENTED,
    "stopping": grpc.StatusCode.UNAVAILABLE,
    "failed": grpc.StatusCode.INTERNAL,
}
"""Reason of a refusal -> status of gRPC."""

MOST_FIELDS = 96
"""Fields of a message besides its images, with those of the messages within it; a request has about twenty."""
MOST_VALUES = 2**18
"""Numbers in a tensor that is not raw: each becomes a Python object."""
PACKED_BYTES = 2**14
IDLE_S = 300.0
"""A connection without a call is closed after so long; clients open another by themselves."""
PATIENCE_S = 1.0
"""How long a call may take to send its message while others wait for its place."""
SWITCH_S = 0.0005
"""How long the thread of gRPC keeps the interpreter from the other threads; Python's default is 5 ms."""
MOST_STARTED = 8
"""Calls that begin in the event loop of the service at once; a burst of 1,000 would take it half a second."""
MOST_BYTES = limit("grpc_message_bytes")

Method = Callable[[Any, dict[str, Any]], Coroutine[Any, Any, Any]]

OPEN = ("ServerLive", "ServerReady")
"""Methods that need no key."""


def message_classes() -> dict[str, Any]:
    """Returns the class of each message of the protocol."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="grpc_predict_v2.proto", package="inference", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields:
            number, kind, field = text.split()
            repeated, kind = kind.endswith("*"), kind.removesuffix("*")
            entry = message.field.add(name=field, number=int(number))
            entry.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in MESSAGES:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".inference.{kind}"
            else:
                entry.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in MESSAGES}


class InferenceService:
    """The methods of the service.

    Args:
        service: answers them.
        key: what a call needs in its metadata; None: nothing.
        loop: the event loop of the service.
    """

    def __init__(self, service: Service, key: str | None, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop
        self._key = None if key is None else key.encode()
        self._answering = 0
        self._turn = asyncio.Lock()
        self._messages = message_classes()
        # gRPC reads a message before anything else can be decided about it.
        self._places = asyncio.Semaphore(service.settings.held_bytes // most_bytes(service.settings))

    def handler(self) -> Any:
        """Returns the handler of all methods, for a server of gRPC."""
        methods: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                # On the wire the same as one message. This way it is read below, where a slow client can be refused.
                name: grpc.stream_unary_rpc_method_handler(
                    self._handle(name, method),
                    response_serializer=self._messages[f"{name}Response"].SerializeToString,
                )
                for name, method in methods.items()
            },
        )

    def _handle(self, name: str, method: Method) -> Any:
        """Returns a method with the key, the metrics, the log and the errors of every request."""

        async def handle(messages: Any, context: Any) -> Any:
            started = time.perf_counter()
            record: dict[str, Any] = {"id": os.urandom(8).hex()}
            code = grpc.StatusCode.CANCELLED
            try:
                if self._key is not None and name not in OPEN:
                    self._check_key(dict(context.invocation_metadata()))
                request = self._parse(name, await self._message(messages))
                response = await self._answer(method, request, record)
                code = grpc.StatusCode.OK
                return response
            except Refused as refused:
                record["reason"], code = refused.reason, CODES[refused.reason]
                await context.abort(code, one_line(refused))
            except Exception as error:
                record["reason"], code = "failed", CODES["failed"]
                record["error"] = repr(error)
                await context.abort(code, str(refused_fault(record["id"])))
            finally:
                fields = {"client": context.peer(), "method": name, "status": code.name}
                with suppress(RuntimeError):  # the loop is closed: the server has stopped
                    self._loop.call_soon_threadsafe(self._record, record, fields, time.perf_counter() - started)

        return handle

    async def _answer(self, method: Method, request: Any, record: dict[str, Any]) -> Any:
        """Runs a method in the event loop of the service, which starts only a few at once."""
        self._answering += 1
        try:
            if self._answering > MOST_STARTED:  # one after the other, so that other work of that loop comes in between
                async with self._turn:
                    await _in(self._loop, asyncio.sleep(0))
            return await _in(self._loop, method(request, record))
        finally:
            self._answering -= 1

    def _record(self, record: dict[str, Any], fields: dict[str, Any], seconds: float) -> None:
        """Counts and logs a call."""
        if (error := record.pop("error", None)) is not None:
            log_event("fault", id=record["id"], error=error)
        self._service.metrics.count(fields["method"], fields["status"], seconds, record)
        if self._service.settings.log:
            log_event("request", **record, **fields, ms=round(seconds * 1000, 3))

    async def _message(self, messages: Any) -> bytes:
        """Returns the message of a call.

        There is room for as many unread messages as `held_bytes`; further calls wait. While any does, those that are
        silent are refused.
        """
        timeout_s = self._service.settings.timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s
        reader: asyncio.Future[bytes] | None = None
        try:
            async with asyncio.timeout_at(deadline), self._places:
                reader = asyncio.ensure_future(anext(messages, b""))
                while not (await asyncio.wait({reader}, timeout=PATIENCE_S))[0]:
                    if self._places.locked():
                        raise TimeoutError
                return reader.result()
        except TimeoutError:
            raise Refused("slow", f"the message did not arrive within {timeout_s:g} s, or others wait") from None
        finally:
            if reader is not None:
                reader.cancel()

    def _parse(self, name: str, data: bytes) -> Any:
        most = MOST_FIELDS + self._service.settings.max_images
        if count_fields(data, most, f"{name}Request") > most:
            raise Refused("body", f"the message has more than {most} fields, or more than {MOST_VALUES:,} numbers")
        try:
            return self._messages[f"{name}Request"].FromString(data)
        except DecodeError:
            raise Refused("body", f"the message is not a {name}Request of the Open Inference Protocol") from None

    def _check_key(self, metadata: dict[str, Any]) -> None:
        sent = str(metadata.get("x-api-key") or str(metadata.get("authorization", "")).partition(" ")[2].strip())
        if not hmac.compare_digest(sent.encode(), self._key or b""):
            raise Refused("key", "a key is needed in the metadata: x-api-key: KEY, or authorization: Bearer KEY")

    async def _live(self, request: Any, record: dict[str, Any]) -> Any:
        return self._messages["ServerLiveResponse"](live=True)

    async def _ready(self, request: Any, record: dict[str, Any]) -> Any:
        return self._messages["ServerReadyResponse"](ready=self._service.ready)

    async def _model_ready(self, request: Any, record: dict[str, Any]) -> Any:
        self._service.served(request.name, request.version or None)
        return self._messages["ModelReadyResponse"](ready=self._service.ready)

    async def _metadata(self, request: Any, record: dict[str, Any]) -> Any:
        return self._messages["ServerMetadataResponse"](**protocol.server_metadata())

    async def _model_metadata(self, request: Any, record: dict[str, Any]) -> Any:
        model = self._service.served(request.name, request.version or None).model
        metadata = protocol.model_metadata(model)
        tensors = {
            side: [{key: tensor[key] for key in ("name", "datatype", "shape")} for tensor in metadata[side]]
            for side in ("inputs", "outputs")
        }
        return self._messages["ModelMetadataResponse"](
            name=metadata["name"], versions=metadata["versions"], platform=metadata["platform"], **tensors
        )

    async def _infer(self, request: Any, record: dict[str, Any]) -> Any:
        service = self._service
        deadline = asyncio.get_running_loop().time() + service.settings.timeout_s
        record["bytes"] = size = request.ByteSize()
        with (
            service.capacity.reserve() as reservation,
            service.served(request.model_name, request.model_version or None) as served,
        ):
            reservation.take(size=size)
            model = served.model
            arguments = (request, model.bundle.shape, service.settings.max_images, protocol.outputs_of(model))
            parsed = await asyncio.to_thread(read, *arguments) if size >= LARGE else read(*arguments)
            given = await service.run(served, parsed, reservation, deadline, record)
            response = self._messages["ModelInferResponse"](
                model_name=model.name, model_version=model.version, id=parsed.id or record["id"]
            )
            for name in parsed.outputs:
                tensor = protocol.output(model, name, given)
                response.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
                response.raw_output_contents.append(tensor.raw)
            return response


def count_fields(data: bytes, most: int, message: str = "ModelInferRequest") -> int:
    """Returns the number of fields of a message and of the messages within it, at most `most` + 1.

    Many empty fields become 30 times as large when they are parsed. Numbers that are packed into one field count as
    one for every `PACKED_BYTES` of them.
    """
    return _count(memoryview(data), most, message)


def _count(data: memoryview, most: int, message: str) -> int:
    def integer(position: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            byte = data[position]
            position, value = position + 1, value | (byte & 127) << shift
            if byte < 128:
                break
        return value, position

    position = count = 0
    while position < len(data) and count <= most:
        count += 1
        try:
            tag, position = integer(position)
            if tag & 7 == 2:
                size, position = integer(position)
                kind, repeated = _KINDS[message].get(tag >> 3, ("bytes", False))
                if kind in MESSAGES:
                    count += _count(data[position : position + size], most - count, kind)
                elif repeated and kind not in ("string", "bytes"):
                    count += size // PACKED_BYTES
                position += size
            elif tag & 7 == 0:
                _, position = integer(position)
            else:
                position += 8 if tag & 7 == 1 else 4
        except IndexError:  # cut short; the parser says so
            break
    return min(count, most + 1)


_KINDS: dict[str, dict[int, tuple[str, bool]]] = {
    message: {int(number): (kind.removesuffix("*"), kind.endswith("*")) for number, kind, _ in map(str.split, fields)}
    for message, fields in MESSAGES.items()
}
"""Message -> number of a field -> its type, and whether it is repeated."""


def read(
    request: Any, shape: tuple[int, int, int], max_images: int, available: tuple[str, ...]
) -> protocol.InferRequest:
    """Parses a ModelInferRequest, whose tensor is in `raw_input_contents` or in its own `contents`.

    Args:
        request: the message.
        shape: (H, W, C) of the model's input.
        max_images: maximum number of images.
        available: names of the outputs that the model has.

    Raises:
        Refused: if it is not one tensor of images.
    """
    if len(request.inputs) != 1:
        raise Refused("tensor", f'inputs: expected one tensor, "{protocol.INPUT}", got {len(request.inputs)}')
    tensor = request.inputs[0]
    sizes = protocol.checked_tensor(tensor.name, tensor.datatype, list(tensor.shape[:5]), max_images)
    raw = None
    if request.raw_input_contents:
        if len(request.raw_input_contents) != 1 or tensor.HasField("contents"):
            raise Refused("tensor", "raw_input_contents: expected one element, and no contents in the tensor")
        raw = request.raw_input_contents[0]
    names = [{"name": output.name} for output in request.outputs]
    outputs, _ = protocol.requested_outputs(names, True, available)
    if tensor.datatype == "BYTES":
        images = protocol.split_elements(raw) if raw is not None else list(tensor.contents.bytes_contents)
        if sizes != (len(images),):
            raise Refused(
                "tensor", f"inputs[0].shape: expected [{len(images)}], the number of images, got {list(sizes)}"
            )
        return protocol.InferRequest(len(images), None, images, outputs, request.id or None)
    if raw is None:
        contents = tensor.contents
        values = contents.fp32_contents if tensor.datatype == "FP32" else contents.uint_contents
        if len(values) > MOST_VALUES:
            raise Refused("bytes", f"inputs[0].contents: more than {MOST_VALUES:,} values; send raw_input_contents")
        data = np.asarray(values, np.float32 if tensor.datatype == "FP32" else np.uint32)
        if tensor.datatype == "UINT8" and data.max(initial=0) > 255:
            raise Refused("tensor", f"inputs[0].contents: expected UINT8, got {data.max()}")
        raw = data.astype("<f4" if tensor.datatype == "FP32" else "u1").tobytes()
    pixels = protocol.checked_pixels(protocol.from_raw(raw, tensor.datatype, sizes), shape)
    return protocol.InferRequest(len(pixels), pixels, [], outputs, request.id or None)


def most_bytes(settings: Settings) -> int:
    """Returns the maximum size of a message."""
    return min(settings.max_bytes, MOST_BYTES)


def host_of(settings: Settings) -> str:
    """Returns the host as in an address, an IPv6 one in brackets."""
    return f"[{settings.host}]" if ":" in settings.host else settings.host


@asynccontextmanager
async def serve_grpc(service: Service, key: str | None) -> AsyncIterator[int]:
    """Serves while the context is open; yields the port.

    Raises:
        CallError: if the port cannot be opened.
    """
    settings, own = service.settings, asyncio.new_event_loop()
    handler = InferenceService(service, key, asyncio.get_running_loop()).handler()
    thread = threading.Thread(target=own.run_forever, name="grpc", daemon=True)
    thread.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        server, port = await _in(own, _start(settings, handler))
        log.info(f"gRPC at {host_of(settings)}:{port}")
        try:
            yield port
        finally:
            await _in(own, server.stop(settings.timeout_s))
    finally:
        sys.setswitchinterval(before)
        own.call_soon_threadsafe(own.stop)
        await asyncio.to_thread(thread.join)
        own.close()


def _in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> asyncio.Future:
    """Runs a coroutine in the event loop of another thread."""
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


async def _start(settings: Settings, handler: Any) -> tuple[Any, int]:
    """Returns a server that has started, and its port."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", most_bytes(settings)),
            ("grpc.max_metadata_size", limit("request_header_bytes")),
            ("grpc.so_reuseport", int(settings.workers > 1)),
            ("grpc.server_handshake_timeout_ms", int(HEADER_TIMEOUT_S * 1000)),
            ("grpc.max_connection_idle_ms", int(IDLE_S * 1000)),
            ("grpc.max_allowed_incoming_connections", settings.connections),
        ],
        maximum_concurrent_rpcs=settings.connections,
    )
    server.add_generic_rpc_handlers((handler,))
    host = host_of(settings)
    try:
        port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
    except RuntimeError:
        why = "another program uses the port; choose one by --grpc-port"
        raise CallError(f"cannot listen on {host}:{settings.grpc_port} for gRPC: {why}") from None
    await server.start()
    return server, port
