"""The FastAPI application: `/predict`, the Open Inference Protocol, `/metrics`, the web page and the docs."""

from __future__ import annotations

import base64
import hashlib
import re
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from kerasimg.deploy.serve import protocol, schemas
from kerasimg.deploy.serve.errors import Refused, refused_fault, refused_route
from kerasimg.deploy.serve.middleware import CLOSED_BY_CLIENT, LOG_RECORD, RequestMiddleware, refusal
from kerasimg.deploy.serve.requests import ClientDisconnected
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


def create_app(service: Service, *, key: str | None = None) -> RequestMiddleware:
    """Creates the ASGI application of a service; `key` is the API key that requests must send."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _stop_at_signals(service)
        yield
        service.close()

    app = FastAPI(
        title=f"kerasimg: {service.model.name}",
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
    return RequestMiddleware(app, metrics=service.metrics, key=key, log=service.settings.log, after=service.measure)


def _own_routes(app: FastAPI, service: Service, key: bool) -> None:
    @app.post("/predict", summary="Classify images", responses=_with(schemas.Answer), openapi_extra=schemas.PREDICT)
    async def predict(request: Request) -> Response:
        scope = request.scope
        answer = await service.predict(_headers(scope), request.query_params, request.receive, scope[LOG_RECORD])
        return _json(answer)

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
    model = service.model
    tags: Any = ["Open Inference Protocol v2"]

    def check(name: str, version: str | None = None) -> None:
        if name != model.name:
            raise Refused("route", f"no model '{name[:80]}' (this server has: {model.name})")
        if version is not None and version != model.version:
            raise Refused("route", f"no version '{version[:80]}' of '{name}' (this server has: {model.version})")

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
            check(**request.path_params)
            return _json(protocol.model_metadata(model))

        async def model_ready(request: Request) -> Response:
            check(**request.path_params)
            return _json({"name": model.name, "ready": service.ready}, 200 if service.ready else 503)

        async def infer(request: Request) -> Response:
            check(**request.path_params)
            scope = request.scope
            body, headers = await service.infer(_headers(scope), request.receive, scope[LOG_RECORD])
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
