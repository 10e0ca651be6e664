"""The routes of the studio besides images: suspects, training, runs, trying a model, and what to label next."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Body, FastAPI, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from kerasimg.data.image_files import read_sent
from kerasimg.data.starter_spec import ABOUT
from kerasimg.deploy.bundle import PAGE
from kerasimg.deploy.targets import target
from kerasimg.studio.guard import SANDBOX
from kerasimg.studio.jobs import Job
from kerasimg.studio.library import Library
from kerasimg.studio.model_process import ModelProcess
from kerasimg.studio.runs import AUTO, Runs, schema, table_of_export
from kerasimg.studio.suspects import SOURCES, list_suspects, mark_fine

Answer = Callable[..., Response]
LABELLED_NEXT = 48
LOOKED_AT = 2_000
"""Unlabelled images among which the next ones are chosen, at most; evenly taken."""


class Strict(BaseModel):
    """A body that has exactly the fields of its class."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Fine(Strict):
    """A suspicion that is unfounded."""

    kind: str
    image: int


class Text(Strict):
    """The text of a spec."""

    text: str = Field(max_length=1_000_000)


class Training(Strict):
    """A training to start."""

    epochs: int | None = Field(None, ge=1, le=100_000)


class Minutes(Strict):
    """Minutes for the best classifier."""

    model_config = ConfigDict(extra="forbid")

    minutes: float = Field(gt=0, le=10_000, allow_inf_nan=False)


class Export(Strict):
    """An export to start."""

    target: str = Field(max_length=100)
    trainable: bool = False


def add_work_routes(app: FastAPI, library: Library, runs: Runs, model: ModelProcess, answer: Answer) -> None:
    """Add the routes to an application.

    Args:
        app: the application.
        library: the images.
        runs: the runs on them.
        model: the process of the model that is tried.
        answer: makes the response of a value.
    """
    _suspect_routes(app, library, runs, answer)
    _training_routes(app, runs, answer)
    _run_routes(app, runs, answer)
    _model_routes(app, library, runs, model, answer)


def _suspect_routes(app: FastAPI, library: Library, runs: Runs, answer: Answer) -> None:
    jobs = runs.jobs

    def with_result(kind: str) -> Job | None:
        return jobs.last(kind, lambda job: job.code in (0, 3))

    @app.get("/api/suspects")
    def suspects() -> Response:
        ended = [job for kind in SOURCES if (job := with_result(kind))]
        return answer({**list_suspects(library, ended), "checked": bool(ended)})

    @app.post("/api/check")
    def check() -> Response:
        return answer(runs.check().to_dict())

    @app.post("/api/runs/{name}/label-errors")
    def label_errors(name: str) -> Response:
        return answer(runs.find_label_errors(name).to_dict())

    @app.post("/api/runs/{name}/known")
    def learn_to_refuse(name: str) -> Response:
        return answer(runs.learn_to_refuse(name).to_dict())

    @app.post("/api/runs/{name}/unknown")
    def find_unknown(name: str) -> Response:
        return answer(runs.find_unknown(name).to_dict())

    @app.post("/api/fine")
    def fine(decided: Fine) -> Response:
        library.file(decided.image)  # IndexError if there is no such image
        mark_fine(library, decided.kind, decided.image)
        return answer(library.summary())


def _training_routes(app: FastAPI, runs: Runs, answer: Answer) -> None:
    jobs = runs.jobs

    @app.get("/api/recipes")
    def recipes() -> Response:
        automatic = {"name": AUTO, "about": "chosen by looking at the images"}
        return answer([automatic, *({"name": name, "about": about} for name, about in ABOUT.items())])

    @app.get("/api/spec")
    def spec() -> Response:
        return answer({"text": runs.read_spec(), "file": str(runs.spec_file)})

    @app.post("/api/spec")
    def write_spec(edited: Text) -> Response:
        return answer(runs.write_spec(edited.text))

    @app.post("/api/recipes/{name}")
    def use_recipe(name: str) -> Response:
        return answer({"text": runs.write_recipe(name), "file": str(runs.spec_file)})

    @app.get("/api/schema")
    def names() -> Response:
        return answer(schema())

    @app.post("/api/train")
    def train(asked: Training) -> Response:
        return answer(runs.train(asked.epochs).to_dict())

    @app.post("/api/auto")
    def find_best(asked: Minutes) -> Response:
        return answer(runs.find_best(asked.minutes).to_dict())

    @app.post("/api/runs/{name}/resume")
    def resume(name: str) -> Response:
        return answer(runs.resume(name).to_dict())

    @app.get("/api/jobs")
    def all_jobs() -> Response:
        return answer([job.to_dict() for job in jobs.all()[:20]])

    @app.get("/api/jobs/{number}")
    def job(number: int) -> Response:
        return answer(jobs.get(number).to_dict())

    @app.get("/api/jobs/{number}/result")
    def result(number: int) -> Response:
        job = jobs.get(number)
        return answer(table_of_export(job) if job.kind == "export" else job.result())

    @app.post("/api/jobs/{number}/cancel")
    def cancel(number: int) -> Response:
        jobs.cancel(number)
        return answer(jobs.get(number).to_dict())


def _run_routes(app: FastAPI, runs: Runs, answer: Answer) -> None:
    @app.get("/api/runs")
    def all_runs() -> Response:
        return answer([runs.describe(name) for name in runs.names()[:100]])

    @app.get("/api/runs/{name}")
    def progress(name: str) -> Response:
        return answer(runs.progress(name))

    @app.get("/runs/{name}/report")
    def report(name: str) -> Response:
        page = runs.get(name).report_file.read_bytes()
        return Response(page, media_type="text/html", headers={"content-security-policy": SANDBOX})

    @app.get("/runs/{name}/page")
    def page(name: str) -> Response:
        content = (runs.get(name).exports / "web" / PAGE).read_bytes()
        headers = {"content-disposition": f'attachment; filename="{name}.html"', "content-security-policy": SANDBOX}
        return Response(content, media_type="text/html", headers=headers)

    @app.post("/api/runs/{name}/export")
    def export(name: str, asked: Export) -> Response:
        return answer(runs.export(name, target(asked.target).name, asked.trainable).to_dict())

    @app.post("/api/runs/{name}/compare")
    def compare(name: str, other: str) -> Response:
        return answer(runs.compare(name, other).to_dict())


def _model_routes(app: FastAPI, library: Library, runs: Runs, model: ModelProcess, answer: Answer) -> None:
    @app.post("/api/runs/{name}/predict")
    def predict(name: str, content: bytes = Body(media_type="application/octet-stream")) -> Response:
        read_sent(content)  # before a process is started for it
        return answer(model.ask(runs.get(name), "predict", content))

    @app.post("/api/runs/{name}/explain")
    def explain(name: str, content: bytes = Body(media_type="application/octet-stream")) -> Response:
        read_sent(content)
        return answer(model.ask(runs.get(name), "explain", content))

    @app.post("/api/runs/{name}/nearest")
    def nearest(name: str, content: bytes = Body(media_type="application/octet-stream")) -> Response:
        read_sent(content)
        near = model.ask(runs.get(name), "nearest", content)
        numbers = [(library.number_of(path), similarity) for path, similarity in near]
        return answer(
            [
                {"image": library.rows([number])[0], "similarity": similarity}
                for number, similarity in numbers
                if number is not None
            ]
        )

    @app.get("/api/runs/{name}/next")
    def label_next(name: str, count: int = Query(24, ge=1, le=LABELLED_NEXT)) -> Response:
        waiting = list(library.select(None))
        waiting = waiting[:: max(1, -(-len(waiting) // LOOKED_AT))]
        files = [str(library.file(number)) for number in waiting]
        chosen = model.ask(runs.get(name), "label_next", files, count) if waiting else []
        return answer(
            {
                "unlabelled": library.summary()["unlabelled"],
                "images": [
                    {"image": library.rows([waiting[place]])[0], "margin": margin, "likely": likely}
                    for place, margin, likely in chosen
                ],
            }
        )
