"""`POST /predict`, the pages, the key: a server without a socket."""

import asyncio
import base64
import hashlib
import html.parser
import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest

from kerasimg.deploy.serve.app import HERE
from kerasimg.deploy.serve.session import Model

CLASSES = ("red", "green", "blue")
COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
KEY = "a key of some length"


def encoded(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """An image of one colour, as a file."""
    file = io.BytesIO()
    PIL.Image.new("RGB", size, COLOURS[colour]).save(file, kind)
    return file.getvalue()


def multipart(*images: bytes) -> list[Any]:
    return [("file", (f"{place}.png", data, "image/png")) for place, data in enumerate(images)]


def asleep(seconds: float) -> Callable[[Model], Model]:
    """What makes a model take so long for every batch."""

    def change(model: Model) -> Model:
        answer = model.runtime.run

        def slow(pixels: np.ndarray) -> np.ndarray:
            time.sleep(seconds)
            return answer(pixels)

        model.runtime.run = slow  # type: ignore[method-assign]
        return replace(model, quick=False)

    return change


def test_the_classes_of_an_image_are_sorted_by_probability(shared: Any):
    answer = shared().post("/predict", files=multipart(encoded("green")), headers={"x-request-id": "mine-1"}).json()
    assert (answer["id"], answer["model"]["name"], len(answer["model"]["version"])) == ("mine-1", "tiny", 12)
    (prediction,) = answer["predictions"]
    assert (prediction["id"], prediction["label"]) == ("0.png", "green")
    shares = [entry["probability"] for entry in prediction["classes"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert prediction["confidence"] == shares[0]
    expected = np.exp(np.array(COLOURS["green"]) * 0.04 - 5)
    assert shares[0] == pytest.approx((expected / expected.sum())[1], rel=1e-5)


def test_every_content_type_gets_the_same_answer(within: Any):
    server, image = within(), encoded("blue", "JPEG")
    text = base64.b64encode(image).decode()
    answers = [
        server.post("/predict", files=multipart(image)),
        server.post("/predict", json={"images": [text]}),
        server.post("/predict", content=image, headers={"content-type": "image/jpeg"}),
        server.post("/predict", content=image),
    ]
    predictions = [answer.json()["predictions"][0] for answer in answers]
    assert [entry["label"] for entry in predictions] == ["blue"] * 4
    assert [entry["classes"] for entry in predictions[1:]] == [predictions[0]["classes"]] * 3


def test_many_images_are_answered_in_order(shared: Any):
    order = ["red", "blue", "green", "green", "red"]
    answer = shared().post("/predict?top=1", files=multipart(*map(encoded, order))).json()
    assert [entry["label"] for entry in answer["predictions"]] == order
    assert [len(entry["classes"]) for entry in answer["predictions"]] == [1] * 5


def test_concurrent_requests_get_their_own_answers(within: Any):
    server = within(max_batch=4)
    order = [CLASSES[k % 3] for k in range(60)]

    async def ask(client: httpx.AsyncClient) -> list[str]:
        answers = await asyncio.gather(*[client.post("/predict", content=encoded(name)) for name in order])
        return [answer.json()["predictions"][0]["label"] for answer in answers]

    assert server.together(ask) == order
    assert server.service.capacity.images == server.service.capacity.bytes == 0


def test_each_label_of_a_multilabel_model_has_its_threshold(within: Any):
    server = within("multilabel", (0.5, 0.999, 0.001))
    (prediction,) = server.post("/predict", content=encoded("red")).json()["predictions"]
    assert "label" not in prediction
    assert prediction["labels"] == ["red", "blue"]
    by_name = {entry["name"]: entry for entry in prediction["classes"]}
    assert {name: (entry["threshold"], entry["holds"]) for name, entry in by_name.items()} == {
        "red": (0.5, True),
        "green": (0.999, False),
        "blue": (0.001, True),
    }


@pytest.mark.parametrize(("threshold", "label"), [(None, "green"), ((0.999,), "other")])
def test_the_threshold_of_a_binary_model_decides(shared: Any, threshold: Any, label: str):
    (prediction,) = shared("binary", threshold).post("/predict", content=encoded("green")).json()["predictions"]
    assert prediction["label"] == label
    assert [entry["name"] for entry in prediction["classes"]] == ["green", "other"]
    assert sum(entry["probability"] for entry in prediction["classes"]) == pytest.approx(1)


def test_an_explanation_is_an_image_of_the_models_input_size(shared: Any):
    answer = shared().post("/predict?explain=true", content=encoded("red")).json()
    explanation = answer["predictions"][0]["explanation"]
    assert (explanation["method"], explanation["class"]) == ("occlusion", "red")
    kind, _, data = explanation["overlay"].partition(",")
    assert kind == "data:image/png;base64"
    with PIL.Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert shown.size == (24, 24)


def test_an_explanation_needs_one_image_and_a_server_that_allows_it(within: Any):
    two = within().post("/predict?explain=1", files=multipart(encoded(), encoded()))
    assert (two.status_code, "expected one image" in two.text) == (400, True)
    none = within(explain=False).post("/predict?explain=1", content=encoded())
    assert (none.status_code, "explanations are disabled" in none.text) == (400, True)


BAD: dict[str, tuple[bytes, int, str]] = {
    "text": (b"no image at all", 415, "unknown"),
    "a page": (b"<!doctype html><p>", 415, "unknown"),
    "an archive": (b"PK\x03\x04" + bytes(40), 415, "unknown"),
    "a part of one": (encoded("red", "JPEG", (300, 300))[:700], 422, "damaged"),
    "a part of a header": (encoded("red")[:20], 422, "damaged"),
    "too large a one": (encoded("red", "PNG", (2000, 1001)), 413, "pixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_refused_with_its_reason(within: Any, case: str):
    data, status, reason = BAD[case]
    server = within(max_pixels=2_000_000)
    answer = server.post("/predict", content=data)
    error = answer.json()["error"]
    assert (answer.status_code, error["reason"]) == (status, reason)
    assert error["id"] == answer.headers["x-request-id"]
    assert server.service.capacity.images == 0


def test_every_bad_image_of_a_request_is_named(shared: Any):
    answer = shared().post("/predict", files=multipart(encoded(), b"text", encoded(), encoded()[:50]))
    message = answer.json()["error"]["message"]
    assert answer.status_code == 415
    assert "1.png is not an image" in message
    assert "3.png is" in message


def test_too_many_bytes_or_images_are_refused(within: Any):
    server = within(max_bytes=2048, max_images=2)
    assert server.post("/predict", content=bytes(2049)).status_code == 413

    async def chunks() -> Any:
        for _ in range(10):
            yield bytes(500)

    async def stream(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/predict", content=chunks())

    assert server.together(stream).status_code == 413
    three = server.post("/predict", files=multipart(*[encoded()] * 3))
    assert (three.status_code, three.json()["error"]["reason"]) == (413, "images")
    assert server.service.capacity.bytes == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [("top=0", "top: expected"), ("top=x", "top"), ("top=1_0", "top"), ("top=%D9%A3", "top"), ("explain=2", "explain")],
)
def test_a_wrong_option_is_refused(shared: Any, query: str, message: str):
    answer = shared().post(f"/predict?{query}", content=encoded())
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (400, True)


def test_requests_beyond_the_queue_get_retry_after(within: Any):
    server = within(change=asleep(0.1), queue=4, max_images=4, max_batch=1)

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*[client.post("/predict", content=encoded()) for _ in range(10)])

    answers = server.together(ask)
    codes = [answer.status_code for answer in answers]
    assert sorted(set(codes)) == [200, 429]
    assert codes.count(200) == 4
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 429} == {"1"}
    assert server.post("/predict", content=encoded()).status_code == 200


def test_a_timeout_is_reported_and_releases_the_capacity(within: Any):
    server = within(change=asleep(0.6), timeout_s=0.2)
    answer = server.post("/predict", content=encoded())
    assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "time")
    assert answer.headers["retry-after"] == "2"
    assert server.service.capacity.images == 0


def test_a_failing_model_gets_500_without_its_message(within: Any, capsys: pytest.CaptureFixture[str]):
    def broken(model: Model) -> Model:
        def run(pixels: np.ndarray) -> np.ndarray:
            raise RuntimeError("a path of the server")

        runtime = model.runtime
        runtime.run = run  # type: ignore[method-assign]
        return replace(model, runtime=runtime)

    answer = within(change=broken).post("/predict", content=encoded())
    assert (answer.status_code, answer.json()["error"]["reason"]) == (500, "failed")
    assert "a path of the server" not in answer.text
    assert "a path of the server" in capsys.readouterr().out


def test_a_key_is_required_if_one_is_set(within: Any):
    server = within(key=KEY)
    for headers, status in (
        ({}, 401),
        ({"x-api-key": "another"}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"x-api-key": KEY}, 200),
        ({"authorization": f"Bearer {KEY}"}, 200),
    ):
        assert server.post("/predict", content=encoded(), headers=headers).status_code == status
        assert server.get("/metrics", headers=headers).status_code == status
        assert server.get("/v2/models/tiny", headers=headers).status_code == status
    assert server.get("/v2/health/ready").status_code == 200
    assert server.get("/about").json()["key"] is True


def test_a_stopping_server_is_not_ready(within: Any):
    server = within()
    assert server.get("/v2/health/ready").json() == {"ready": True}
    server.service.stop()
    assert (server.get("/v2/health/ready").status_code, server.get("/v2/health/live").status_code) == (503, 200)
    assert server.post("/predict", content=encoded()).status_code == 503


def test_an_unknown_route_gets_404(within: Any):
    server = within()
    missing = server.get("/nope")
    assert (missing.status_code, missing.json()["error"]["reason"]) == (404, "route")
    wrong = server.get("/predict")
    assert (wrong.status_code, wrong.headers["allow"], wrong.json()["error"]["reason"]) == (405, "POST", "method")


def test_requests_are_counted(within: Any, until: Any):
    server = within()
    server.post("/predict", files=multipart(encoded(), encoded()))
    server.post("/predict", content=b"text")
    expected = {
        'kerasimg_requests_total{route="/predict",status="200"} 1.0',
        'kerasimg_requests_total{route="/predict",status="415"} 1.0',
        'kerasimg_refused_total{reason="unknown"} 1.0',
        'kerasimg_images_total{model="tiny"} 2.0',
        'kerasimg_batch_size_sum{model="tiny"} 2.0',
        'kerasimg_request_seconds_count{route="/predict"} 2.0',
        "kerasimg_in_work_images 0.0",
        "kerasimg_queue_images 0.0",
    }
    until(lambda: expected <= {*server.get("/metrics").text.splitlines()})


def test_the_log_line_of_a_request_has_no_file_name(within: Any, capsys: pytest.CaptureFixture[str]):
    server = within(log=True)
    server.post("/predict", files=[("file", ("secret.png", encoded(), "image/png"))], headers={"x-request-id": "a1"})
    server.post("/predict", content=b"secret", headers={"x-request-id": "not an id"})
    out = capsys.readouterr().out
    first, second = map(json.loads, out.splitlines())
    assert "secret" not in out
    assert {"event": "request", "id": "a1", "status": 200, "images": 1, "path": "/predict"}.items() <= first.items()
    assert (second["status"], second["reason"], len(second["id"])) == (415, "unknown", 16)


class Loads(html.parser.HTMLParser):
    """The addresses that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name == "src" or (tag == "link" and name == "href")]


@pytest.mark.parametrize(("path", "file"), [("/", "page.html"), ("/docs", "docs.html")])
def test_a_page_loads_nothing_from_other_hosts(shared: Any, path: str, file: str):
    answer = shared().get(path)
    assert answer.text == (HERE / file).read_text(encoding="utf-8")
    page = Loads()
    page.feed(answer.text)
    assert page.sources == ["data:,"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_openapi_lists_every_route(within: Any):
    server = within()
    api = server.get("/openapi.json").json()
    assert set(api["paths"]) == {
        "/predict",
        "/metrics",
        "/about",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{name}",
        "/v2/models/{name}/ready",
        "/v2/models/{name}/infer",
    }
    predict = api["paths"]["/predict"]["post"]
    assert "multipart/form-data" in predict["requestBody"]["content"]
    assert {"200", "413", "415", "422", "429", "503"} <= set(predict["responses"])


def test_responses_match_the_openapi_schemas(within: Any):
    jsonschema = pytest.importorskip("jsonschema")
    server = within()
    api = server.get("/openapi.json").json()

    def check(answer: httpx.Response, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": api["components"]}
        jsonschema.validate(answer.json(), schema)

    check(server.post("/predict?explain=1", content=encoded()), "Answer")
    check(server.post("/predict", content=b"text"), "Refusal")
    check(server.get("/v2/models/tiny"), "ModelMetadata")
    check(server.get("/v2/models/tony"), "ProtocolRefusal")
