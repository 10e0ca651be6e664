"""The Open Inference Protocol over gRPC, by a client of the messages' own bytes."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import PIL.Image
import pytest

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.serve.inference_grpc import (
    MESSAGES,
    MOST_FIELDS,
    SERVICE,
    count_fields,
    message_classes,
    serve_grpc,
)
from kerasimg.deploy.serve.service import Service
from kerasimg.deploy.serve.session import Model
from kerasimg.deploy.serve.settings import Settings

SIZE = 24
KEY = "a-key-of-16-characters"
Messages = message_classes()
Call = Callable[..., Awaitable[Any]]


def answer(folder: Path, ask: Callable[[Call], Awaitable[Any]], **settings: Any) -> Any:
    """Runs a client against a server in this process."""
    chosen = Settings(log=False, threads=1, grpc_port=0, **settings)
    service = Service([Model.open(Bundle.open(folder), chosen)], chosen)

    async def run() -> Any:
        async with serve_grpc(service, KEY) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

            async def call(
                method: str, key: str = KEY, raw: bytes | None = None, silent: bool = False, **fields: Any
            ) -> Any:
                if silent:
                    return await channel.stream_unary(f"/{SERVICE}/{method}")(_nothing()).code()
                unary = channel.unary_unary(f"/{SERVICE}/{method}")
                data = Messages[f"{method}Request"](**fields).SerializeToString() if raw is None else raw
                reply = await unary(data, metadata=[("x-api-key", key)] if key else [])
                return Messages[f"{method}Response"].FromString(reply)

            return await ask(call)

    try:
        return asyncio.run(run())
    finally:
        service.close()


async def _nothing() -> AsyncIterator[bytes]:
    await asyncio.sleep(60)
    yield b""


def red() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (30, 30), (250, 10, 10)).save(file, "PNG")
    return file.getvalue()


def tensor(datatype: str, shape: list[int], **fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": datatype, "shape": shape, **fields}]}


def pixels(dtype: str = "u1", count: int = 1) -> np.ndarray:
    return np.full((count, SIZE, SIZE, 3), (250, 10, 10), dtype)


def test_a_client_reads_the_metadata_and_the_same_prediction_in_every_form(bundles: Callable[..., Path]):
    async def ask(call: Call) -> None:
        assert (await call("ServerLive", key="")).live
        assert (await call("ServerReady", key="")).ready
        assert (await call("ServerMetadata")).name == "kerasimg"
        metadata = await call("ModelMetadata", name="tiny")
        assert list(metadata.inputs[0].shape) == [-1, SIZE, SIZE, 3]
        assert (await call("ModelReady", name="tiny", version=metadata.versions[0])).ready
        one = [1, SIZE, SIZE, 3]
        forms = [
            tensor("UINT8", one) | {"raw_input_contents": [pixels().tobytes()]},
            tensor("FP32", one) | {"raw_input_contents": [pixels("<f4").tobytes()]},
            tensor("UINT8", one, contents={"uint_contents": pixels().ravel().tolist()}),
            tensor("FP32", one, contents={"fp32_contents": pixels("f4").ravel().tolist()}),
            tensor("BYTES", [1], contents={"bytes_contents": [red()]}),
            tensor("BYTES", [1]) | {"raw_input_contents": [len(red()).to_bytes(4, "little") + red()]},
        ]
        rows = []
        for form in forms:
            reply = await call("ModelInfer", model_name="tiny", id="mine", **form)
            assert (reply.id, [output.name for output in reply.outputs]) == ("mine", ["probabilities", "label"])
            rows.append(np.frombuffer(reply.raw_output_contents[0], "<f4"))
            assert reply.raw_output_contents[1] == b"\3\0\0\0red"
        assert np.allclose(rows, rows[0], atol=1e-6)
        two = tensor("UINT8", [2, SIZE, SIZE, 3]) | {"raw_input_contents": [pixels(count=2).tobytes()]}
        reply = await call("ModelInfer", model_name="tiny", outputs=[{"name": "label"}], **two)
        assert [list(output.shape) for output in reply.outputs] == [[2]]

    answer(bundles(), ask)


def test_what_is_refused_has_a_status_and_says_why(bundles: Callable[..., Path]):
    one, raw = [1, SIZE, SIZE, 3], {"raw_input_contents": [pixels().tobytes()]}
    page = {"contents": {"bytes_contents": [b"<html>"]}}
    many = {"contents": {"uint_contents": [0] * (2**18 + 1)}}
    bad = grpc.StatusCode.INVALID_ARGUMENT
    refusals: list[tuple[grpc.StatusCode, str, dict[str, Any]]] = [
        (grpc.StatusCode.NOT_FOUND, "no model 'other'", {"model_name": "other"}),
        (grpc.StatusCode.NOT_FOUND, "no model '\\x1b[m\\nFORGED\\u202e'", {"model_name": "\x1b[m\nFORGED\u202e"}),
        (grpc.StatusCode.NOT_FOUND, "no version '7'", {"model_name": "tiny", "model_version": "7"}),
        (bad, "expected one tensor", {}),
        (bad, "expected 'image'", {"inputs": [{"name": "x"}]}),
        (bad, "expected UINT8, FP32 or BYTES", tensor("INT8", one) | raw),
        (bad, "does not have", tensor("FP32", one) | raw),
        (bad, "expected the shape", tensor("UINT8", [1, 1728]) | raw),
        (bad, "expected one element", tensor("UINT8", one) | {"raw_input_contents": [b"", b""]}),
        (bad, "more than 32 images", tensor("BYTES", [33])),
        (bad, "positive integers", tensor("UINT8", [-1, 2, 2, 3]) | raw),
        (bad, "is not an image", tensor("BYTES", [1], **page)),
        (bad, "did you mean 'label'", tensor("UINT8", one) | raw | {"outputs": [{"name": "lable"}]}),
        (bad, "more than 128 fields", {"inputs": [{}] * (MOST_FIELDS + 33)}),
        (bad, "more than 128 fields", tensor("BYTES", [1], contents={"bytes_contents": [b""] * 129})),
        (bad, "more than 128 fields", tensor("UINT8", [1] * 2_100_000)),
        (bad, "list of 4 sizes", tensor("UINT8", [1] * 20)),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "send raw_input_contents", tensor("UINT8", one, **many)),
    ]

    async def ask(call: Call) -> None:
        for status, message, fields in refusals:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call("ModelInfer", **({"model_name": "tiny"} | fields))
            assert (error.value.code(), message in error.value.details()) == (status, True), error.value.details()
        for raw_message, status, options in (
            (b"\x0a\xff", grpc.StatusCode.INVALID_ARGUMENT, {}),
            (b"", grpc.StatusCode.UNAUTHENTICATED, {"key": ""}),
            (b"", grpc.StatusCode.UNAUTHENTICATED, {"key": "another-key-of-16"}),
            (bytes(2**22 + 1), grpc.StatusCode.RESOURCE_EXHAUSTED, {}),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call("ModelInfer", raw=raw_message, **options)
            assert error.value.code() == status, error.value.details()
        # Calls that send nothing make room for others.
        silent = [asyncio.ensure_future(call("ServerReady", key="", silent=True)) for _ in range(70)]
        await asyncio.sleep(0.1)
        assert (await call("ServerReady", key="")).ready
        assert {await call for call in silent if call.done()} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        for call in silent:
            call.cancel()

    answer(bundles(), ask)


def test_fields_are_counted_as_protobuf_does_and_any_bytes_end():
    message = Messages["ModelInferRequest"](model_name="a", id="b", raw_input_contents=[b"c" * 300, b""])
    assert count_fields(message.SerializeToString(), 99) == 4
    assert count_fields(b"\x2a\0" * 1000, 9) == 10
    random = np.random.default_rng(0)
    for _ in range(200):
        assert count_fields(random.bytes(40), 20) <= 21
    inner = Messages["ModelInferRequest"](**tensor("BYTES", [1], contents={"bytes_contents": [b"", b""]}))
    assert count_fields(inner.SerializeToString(), 99) == 7  # inputs, name, datatype, shape, contents, two images


def test_every_type_of_a_field_is_one_of_protobuf_or_a_message():
    kinds = {text.split()[1].removesuffix("*") for fields in MESSAGES.values() for text in fields}
    plain = {"bool", "string", "bytes", "float", "double", "int32", "int64", "uint32", "uint64"}
    assert kinds - set(MESSAGES) <= plain
