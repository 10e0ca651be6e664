"""The routes of the studio: images and labels as JSON, thumbnails, and the files of the page."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import Body, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, FailFast, model_validator
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from kerasimg import log
from kerasimg.data.image_files import BadImage
from kerasimg.errors import KerasimgError
from kerasimg.studio import thumbnails
from kerasimg.studio.guard import Guard
from kerasimg.studio.library import Conflict, Label, Library
from kerasimg.studio.model_process import ModelProcess
from kerasimg.studio.runs import Runs
from kerasimg.studio.thumbnails import Thumbnails
from kerasimg.studio.work import add_work_routes

PAGE = Path(__file__).with_name("page")
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
MOST_ROWS = 1000
"""Rows of images in a response."""
SHORT_S = 3600
"""Seconds for which a browser may store a thumbnail; its address changes when the studio starts again."""


class Labels(BaseModel):
    """Images to label."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # The first wrong item ends the check: millions of them would take gigabytes.
    images: Annotated[list[int], FailFast()]
    label: str | None
    """A class, null or "/left_out"."""
    # Not "... | None": FailFast is not hashable, as a union asks of its members in Python 3.11.
    before: Annotated[list[str | None], FailFast()] = cast(Any, None)
    """The labels that the person saw; None if it was left out."""

    @model_validator(mode="after")
    def _one_label_seen_of_each(self) -> Labels:
        if self.before is not None and len(self.before) != len(self.images):
            raise ValueError("before: expected one label for each image")
        return self


class Name(BaseModel):
    """A class to make."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str


def create_app(library: Library, runs: Runs, model: ModelProcess, token: str, host: str = "127.0.0.1") -> Guard:
    """Creates the ASGI application of a folder.

    Args:
        library: the images.
        runs: the runs on them.
        model: the process of the model that is tried.
        token: the first part of every path.
        host: the address that the server listens on.
    """
    app = FastAPI(title="kerasimg studio", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _page_routes(app)
    _image_routes(app, library)
    _label_routes(app, library)
    add_work_routes(app, library, runs, model, answer)
    _error_handlers(app)
    return Guard(app, token, host)


def _page_routes(app: FastAPI) -> None:
    files = {path.name: path for path in PAGE.iterdir() if path.suffix in TYPES}

    @app.get("/")
    def page() -> Response:
        return _file(files["index.html"])

    @app.get("/page/{name}")
    def part(name: str) -> Response:
        if name not in files:  # a table, so that no name can lead to another folder
            raise HTTPException(404)
        return _file(files[name])


def _image_routes(app: FastAPI, library: Library) -> None:
    cache = Thumbnails(library.state / "thumbnails")

    @app.get("/api/state")
    def state() -> Response:
        return answer(library.summary())

    @app.get("/api/images")
    def images(
        start: int = Query(0, ge=0),
        count: int = Query(200, ge=0, le=MOST_ROWS),
        label: str = "",
        text: str = "",
        status: str = "all",
    ) -> Response:
        with library.lock:
            numbers = library.select(_label(label), text, status)
            rows = library.rows(numbers[start : start + count])
            return answer({"version": library.version, "total": len(numbers), "rows": rows})

    @app.get("/api/numbers")
    def numbers(label: str = "", text: str = "", status: str = "all") -> Response:
        return answer(list(library.select(_label(label), text, status)))

    @app.get("/thumbnail/{number}")
    def thumbnail(number: int) -> Response:
        return _image(lambda: cache.read(library.file(number)))

    @app.get("/image/{number}")
    def image(number: int) -> Response:
        return _image(lambda: thumbnails.render(library.file(number), thumbnails.LARGE_PX))


def _label_routes(app: FastAPI, library: Library) -> None:
    @app.post("/api/labels")
    def label(labels: Labels) -> Response:
        _require_numbers(library, labels.images)
        changed = library.set_labels(labels.images, labels.label, labels.before)
        return answer({"changed": changed, **library.summary()})

    @app.post("/api/classes")
    def add_class(asked: Name) -> Response:
        name = library.add_class(asked.name)
        return answer({"name": name, **library.summary()})

    @app.post("/api/undo")
    def undo() -> Response:
        return answer({"changed": library.undo(), **library.summary()})

    @app.post("/api/redo")
    def redo() -> Response:
        return answer({"changed": library.redo(), **library.summary()})

    @app.get("/api/moves")
    def moves() -> Response:
        return answer(library.planned_moves()[:MOST_ROWS])

    @app.post("/api/moves")
    def move() -> Response:
        return answer({"moved": library.move_files(), **library.summary()})

    @app.post("/api/rescan")
    def rescan() -> Response:
        return answer({"new": library.rescan(), **library.summary()})

    @app.post("/api/files")
    def add_file(
        label: str, name: str | None = None, content: bytes = Body(media_type="application/octet-stream")
    ) -> Response:
        number = library.add_image(content, _label(label) or None, name)
        return answer({"image": number, **library.summary()})

    @app.get("/labels.csv")
    def manifest() -> Response:
        headers = {"content-disposition": 'attachment; filename="labels.csv"'}
        return Response(library.manifest(library.folder), media_type="text/csv", headers=headers)


def _error_handlers(app: FastAPI) -> None:
    """Gives every error as {"error": message}."""

    async def refused(request: Request, error: Any) -> Response:
        message = f"The image {error.reason}." if isinstance(error, BadImage) else str(error)
        return answer({"error": message}, 409 if isinstance(error, Conflict) else 422)

    async def routed(request: Request, error: Any) -> Response:
        return answer({"error": str(error.detail)}, error.status_code)

    async def invalid(request: Request, error: Any) -> Response:
        places = "; ".join(f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors()[:5])
        return answer({"error": f"the request is not as the page sends it: {places}"}, 400)

    async def missing(request: Request, error: Any) -> Response:
        return answer({"error": "no such image"}, 404)

    async def failed(request: Request, error: Any) -> Response:
        log.warning("".join(traceback.format_exception(error)[-8:]))
        return answer({"error": f"unexpected error, see the terminal: {type(error).__name__}: {error}"}, 500)

    app.add_exception_handler(Exception, failed)  # it is raised again afterwards
    app.add_exception_handler(KerasimgError, refused)
    app.add_exception_handler(HTTPException, routed)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(IndexError, missing)
    app.add_exception_handler(FileNotFoundError, missing)


def answer(content: Any, status: int = 200) -> Response:
    """A response in JSON; names of files that are not UTF-8 are shown with a replacement character."""
    return Response(to_json(content, inf_nan_mode="null"), status, media_type="application/json")


def _label(text: str) -> Label:
    """The label in an address: "-" for none, since it cannot be null there."""
    return None if text == "-" else text


def _require_numbers(library: Library, numbers: list[int]) -> None:
    if numbers and (min(numbers) < 0 or max(numbers) >= len(library.paths)):
        raise IndexError(max(numbers))


def _image(content: Any) -> Response:
    try:
        body = content()
    except BadImage as error:
        return answer({"error": error.reason}, 415)
    headers = {"cache-control": f"private, max-age={SHORT_S}"}
    return Response(body, media_type=thumbnails.TYPE, headers=headers)


def _file(path: Path) -> Response:
    return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers={"cache-control": "no-cache"})
