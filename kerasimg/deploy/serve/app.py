"""The FastAPI application: `/predict`, the Open Inference Protocol, `/metrics`, the web page and the docs."""

from __future__ import annotations

import base64
import hashlib
import re
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextlib import nullcontext as nothing
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from pydantic_core import to_json
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from kerasimg.deploy.serve import protocol, schemas
from kerasimg.deploy.serve.errors import Refused, refused_fault, refused_route
from kerasimg.deploy.serve.middleware import CLOSED_BY_CLIENT, LOG_RECORD, Answer, RequestMiddleware, Scope, refusal
from kerasimg.deploy.serve.requests import ClientDisconnected, Receive
from kerasimg.deploy.serve.service import Service

HERE = Path(__file__).parent

ABOUT = "Classifies images. Responses and errors are JSON; GET / is a page to try it."

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Refusal, "description": options}
    for status, options in {
        400: "The request cannot be parsed.",
        413: "Too many bytes, pixels or images, or too costly to parse.",
        415: "Not an image, or an unsupported content type.",
        422: "An image is damaged.",
        429: "Overloaded; retry after the time in Retry-After.",
        503: "The server is stopping, or the request timed out.",
    }.items()
}
_PROTOCOL_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ProtocolRefusal, "description": row["description"]} for status, row in _REFUSALS.items()
}


def create_app(
    service: Service, *, key: str | None = None, background: Callable[[], AbstractAsyncContextManager[None]] = nothing
) -> RequestMiddleware:
    """Creates the ASGI application of a service.

    Args:
        service: what answers.
        key: the API key that requests must send.
        background: entered while the application runs.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _stop_at_signals(service)
        async with background():
            yield
        service.close()

    app = FastAPI(
        title=f"kerasimg: {', '.join(model.name for model in service.models)}",
        version=service.model.version,
        description=ABOUT,
        docs_url=None,  # FastAPI's pages load code from another host
        redoc_url=None,
        redirect_slashes=False,  # a redirect would follow the Host header of the request
        lifespan=lifespan,
    )
    _own_routes(app, service, key is not None)
    _protocol_routes(app, service)
    _error_handlers(app)
    return RequestMiddleware(app, _busy_routes(service), service, key=key)


def _busy_routes(service: Service) -> Callable[[Scope], tuple[str, Answer] | None]:
    """Returns the route of a request for a prediction, and what answers it.

    These requests skip FastAPI, which takes as long as a small model; it has the same routes for its description.
    """
    parts = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

    def choose(scope: Scope) -> tuple[str, Answer] | None:
        if scope["method"] != "POST":
            return None
        path = scope["path"]
        if path == "/predict":
            return path, partial(_predict, service)
        if match := parts.fullmatch(path):
            return _INFER[match[2] is not None], partial(_infer, service, match[1], match[2])
        return None

    return choose


_INFER = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")


async def _predict(service: Service, scope: Scope, receive: Receive) -> tuple[bytes, dict[str, str]]:
    query = QueryParams(scope["query_string"]) if scope["query_string"] else {}
    answer = await service.predict(_headers(scope), query, receive, scope[LOG_RECORD])
    return to_json(answer), {"content-type": "application/json"}


async def _infer(
    service: Service, name: str, version: str | None, scope: Scope, receive: Receive
) -> tuple[bytes, dict[str, str]]:
    return await service.infer(name, version, _headers(scope), receive, scope[LOG_RECORD])


def _own_routes(app: FastAPI, service: Service, key: bool) -> None:
    @app.post("/predict", summary="Classify images", responses=_with(schemas.Answer), openapi_extra=schemas.PREDICT)
    async def predict(request: Request) -> Response:
        body, headers = await _predict(service, request.scope, request.receive)
        return Response(body, headers=headers)

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        service.measure()
        text, kind = service.metrics.text()
        return Response(text, headers={"content-type": kind})

    @app.get("/about", summary="The model and the limits")
    async def about() -> Response:
        return _json(service.about(key))

    page, docs = _page("page.html"), _page("docs.html")

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return page

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> Response:
        return docs


def _protocol_routes(app: FastAPI, service: Service) -> None:
    tags: Any = ["Open Inference Protocol v2"]

    @app.get("/v2", summary="Server metadata", tags=tags)
    async def server() -> Response:
        return _json(protocol.server_metadata())

    @app.get("/v2/health/live", summary="Whether the server is running", response_model=schemas.ServerState, tags=tags)
    async def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready", summary="Whether requests are accepted", response_model=schemas.ServerState, tags=tags)
    async def ready() -> Response:
        return _json({"ready": service.ready}, 200 if service.ready else 503)

    for start in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):

        async def metadata(request: Request) -> Response:
            return _json(protocol.model_metadata(service.served(**request.path_params).model))

        async def model_ready(request: Request) -> Response:
            name = service.served(**request.path_params).model.name
            return _json({"name": name, "ready": service.ready}, 200 if service.ready else 503)

        async def infer(request: Request) -> Response:
            parameters = request.path_params
            body, headers = await _infer(
                service, parameters["name"], parameters.get("version"), request.scope, request.receive
            )
            return Response(body, headers=headers)

        options: dict[str, Any] = {"tags": tags, "include_in_schema": "{version}" not in start}
        app.get(start, summary="Model metadata", responses=_protocol(schemas.ModelMetadata), **options)(metadata)
        app.get(
            f"{start}/ready", summary="Whether the model is ready", responses=_protocol(schemas.ModelState), **options
        )(model_ready)
        app.post(
            f"{start}/infer",
            summary="Run the model",
            openapi_extra=schemas.INFER,
            responses=_protocol(schemas.InferAnswer) | _PROTOCOL_REFUSALS,
            **options,
        )(infer)


def _error_handlers(app: FastAPI) -> None:
    """Gives all errors the same format, including those of the router."""

    def answer(request: Request, refused: Refused, headers: Mapping[str, str] | None = None) -> Response:
        options = request.scope[LOG_RECORD]
        options["reason"] = refused.reason
        body, own = refusal(refused, request.scope["path"], options["id"])
        if refused.reason in ("slow", "stopping"):
            own["connection"] = "close"
        return Response(body, refused.status, {**(headers or {}), **own})

    async def refused(request: Request, error: Any) -> Response:
        return answer(request, error)

    async def routed(request: Request, error: Any) -> Response:
        return answer(request, refused_route(error.status_code, request.method, request.url.path), error.headers)

    async def invalid(request: Request, error: Any) -> Response:
        return answer(request, Refused("body", "the request does not match the schema in /docs"))

    async def failed(request: Request, error: Any) -> Response:
        return answer(request, refused_fault(request.scope[LOG_RECORD]["id"]))

    async def gone(request: Request, error: Any) -> Response:
        return Response(status_code=CLOSED_BY_CLIENT)  # for the log; no client reads it

    app.add_exception_handler(ClientDisconnected, gone)
    app.add_exception_handler(Exception, failed)  # it is raised again afterwards, for the log
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, routed)
    app.add_exception_handler(RequestValidationError, invalid)


def _stop_at_signals(service: Service) -> None:
    """Refuses new requests once the process receives a stop signal; uvicorn waits for those in progress."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)

        def stop(number: int, frame: Any, before: Any = before) -> None:
            service.stop()
            if callable(before):
                before(number, frame)

        with suppress(ValueError):
            signal.signal(number, stop)


def _headers(scope: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _json(document: Any, status: int = 200) -> Response:
    return Response(to_json(document), status, media_type="application/json")


def _with(answer: Any) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"model": answer, "description": "A prediction per image, in the order of the request."},
        **_REFUSALS,
    }


def _protocol(answer: Any) -> dict[int | str, dict[str, Any]]:
    missing = {"model": schemas.ProtocolRefusal, "description": "No such model."}
    return {200: {"model": answer, "description": "See the protocol."}, 404: missing}


def _page(name: str) -> HTMLResponse:
    """Returns a page with a policy that allows its own style and script, by hash, and requests to this server only."""
    text = (HERE / name).read_text(encoding="utf-8")
    allowed = {
        kind: " ".join(f"'sha256-{_digest(part)}'" for part in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL))
        for kind, tag in (("script-src", "script"), ("style-src", "style"))
    }
    policy = {
        "default-src": "'none'",
        **allowed,
        "img-src": "'self' data: blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{kind} {where}" for kind, where in policy.items()),
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return HTMLResponse(text, headers=headers)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
