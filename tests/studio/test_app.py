"""The routes, in this process: what the page does, and what other pages and hostile requests may not do."""

import io
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode

import PIL.Image
import pytest
from starlette.websockets import WebSocketDisconnect

from kerasimg.deploy.predict_stream import PredictionFile
from kerasimg.evaluation.predict import Prediction
from kerasimg.studio import guard
from kerasimg.studio.app import create_app
from kerasimg.studio.jobs import Job
from kerasimg.studio.library import Library
from kerasimg.studio.suspects import list_suspects


def paths(method: str) -> list[str]:
    """The paths of every route with a method, with names that a hostile page might guess."""
    state = SimpleNamespace(state=Path("none"), jobs=None)
    app = create_app(cast(Any, state), cast(Any, state), cast(Any, None), "token").app
    routes = [route.path for route in app.routes if method in route.methods]
    named = {"{name}": "a-1", "{number}": "0", "page/a-1": "page/main.js", "recipes/a-1": "recipes/auto"}
    for text, value in named.items():
        routes = [route.replace(text, value) for route in routes]
    return [route.removeprefix("/") for route in routes]


READS, CHANGES = paths("GET"), paths("POST")
ORIGIN = "http://127.0.0.1:8765"


def test_labelling_in_one_tab_is_seen_in_the_other(page: Any):
    seen = page.get("api/state").json()["version"]
    answered = page.post("api/labels", {"images": [0], "label": "red", "before": ["blue"]})
    assert (answered.status_code, answered.json()["changed"]) == (200, 1)
    other = page.get("api/state").json()
    classes = [{"name": "blue", "images": 0}, {"name": "red", "images": 4}]
    assert (other["version"] > seen, other["classes"], other["undo"]) == (True, classes, 1)
    late = page.post("api/labels", {"images": [0], "label": "green", "before": ["blue"]})
    assert (late.status_code, "labelled in another tab" in late.json()["error"]) == (409, True)
    assert page.post("api/undo").json()["classes"][0] == {"name": "blue", "images": 1}


def test_pages_of_rows_and_thumbnails(page: Any):
    rows = page.get("api/images?start=1&count=2").json()
    assert (rows["total"], [path for _, path, _ in rows["rows"]]) == (5, ["red/00.png", "red/01.png"])
    small = page.get(f"thumbnail/{rows['rows'][0][0]}")
    assert small.headers["content-type"] == "image/webp"
    assert PIL.Image.open(io.BytesIO(small.content)).size == (8, 8)
    assert page.get("thumbnail/0").content == page.get("thumbnail/0").content


def test_a_damaged_image_is_no_thumbnail_and_no_failure(page: Any, library: Library, photos: Path):
    (photos / "red/page.png").write_bytes(b"<!doctype html><script>alert(1)</script>")
    page.post("api/rescan")
    answered = page.get(f"thumbnail/{library.number_of('red/page.png')}")
    assert answered.status_code == 415
    assert "begins like an HTML page" in answered.json()["error"]
    tried = page.client.post("/token-of-the-tests/api/files?label=red", content=b"x" * 99, headers={"origin": ORIGIN})
    assert (tried.status_code, tried.json()["error"]) == (422, "The image is not an image of a known format.")


def test_files_are_moved_by_the_page_only_when_it_asks(page: Any, photos: Path):
    page.post("api/labels", {"images": [3], "label": "blue"})
    assert page.get("api/moves").json() == [["red/blue.png", "blue/blue.png"]]
    assert page.post("api/moves").json()["moved"] == 1
    assert (photos / "blue/blue.png").is_file()


@pytest.mark.parametrize("path", [*READS, *CHANGES])
def test_no_route_answers_without_the_token(page: Any, path: str):
    for wrong in ("", "token-of-the-test", "TOKEN-OF-THE-TESTS", "..", "%2e%2e/token-of-the-tests"):
        for ask in (page.client.get, page.client.post):
            answered = ask(f"/{wrong}/{path}", headers={"origin": ORIGIN})
            assert answered.status_code == 403
            assert "red" not in answered.text


@pytest.mark.parametrize("path", [*READS, *CHANGES])
def test_no_route_answers_another_site_even_with_the_token(page: Any, path: str):
    ask = page.get if path in READS else page.post
    hostile = (
        *({"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}),
        *(
            {"origin": ORIGIN, "host": "evil.example:8765"},
            {"origin": "http://evil.example:8765", "host": "evil.example:8765"},
        ),
        *({"origin": ORIGIN, "sec-fetch-site": "cross-site"}, {"origin": ORIGIN, "sec-fetch-site": "same-site"}),
        {"origin": "https://127.0.0.1:8765"},
    )
    for headers in hostile:
        assert ask(path, headers=headers).status_code == 403, headers
    if path in CHANGES:
        assert page.post(path, headers={"host": "127.0.0.1:8765"}).status_code == 403  # a form of an old browser


@pytest.mark.parametrize(
    "path",
    [
        *("page/../app.py", "page/..%2fapp.py", "page/%2e%2e/app.py", "page//etc/passwd", "page/app.py", "page/"),
        *("thumbnail/../../x", "thumbnail/-1", "thumbnail/99", "thumbnail/99999999999999999999", "image/red%2f00.png"),
        *("api/runs/..", "api/runs/%2e%2e", "runs/../report", "runs/%2e%2e%2f%2e%2e/report", "runs/.kerasimg/report"),
        *("api/jobs/0", "api/jobs/-1", "api/jobs/x", "runs/a-1/page", "api/runs/a-1"),
        *("api/../../etc/passwd", "../../etc/passwd", "docs", "openapi.json", "api/images?count=1001"),
    ],
)
def test_no_path_leads_to_another_file(page: Any, path: str):
    answered = page.get(path)
    assert 400 <= answered.status_code < 500
    assert "root:" not in answered.text
    assert "import" not in answered.text


@pytest.mark.parametrize(
    "body",
    [
        *(None, [], {}, {"images": [0]}, {"images": "0", "label": "red"}, {"images": [0.5], "label": "red"}),
        *({"images": [-1], "label": "red"}, {"images": [10**30], "label": "red"}, {"images": [0], "label": "../out"}),
        *({"images": [0], "label": "red", "more": 1}, {"images": [0, 1], "label": "red", "before": ["red"]}),
        {"images": [0], "label": "/left"},
    ],
)
def test_a_wrong_body_is_refused_and_changes_nothing(page: Any, library: Library, body: Any):
    before = list(library.labels)
    answered = page.post("api/labels", body)
    assert 400 <= answered.status_code < 500
    assert (library.labels, library.journal.version) == (before, 0)
    assert not (library.folder.parent / "out").exists()


def test_a_body_that_is_too_large_is_refused(page: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "MAX_BODY_BYTES", 100)
    headers = {"origin": ORIGIN}
    assert (
        page.client.post("/token-of-the-tests/api/files?label=red", content=b"x" * 101, headers=headers).status_code
        == 413
    )

    chunks = (b"x" * 60 for _ in range(3))  # without a length
    answered = page.client.post("/token-of-the-tests/api/files?label=red", content=chunks, headers=headers)
    assert 400 <= answered.status_code < 500


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"images": [' + b"9" * 5000 + b"]}", b"\xff\xfe", b'{"images": [1e999]}']
)
def test_a_hostile_body_is_refused_and_changes_nothing(page: Any, library: Library, body: bytes):
    headers = {"origin": ORIGIN, "content-type": "application/json"}
    for path in CHANGES:
        if path.startswith(("api/labels", "api/classes", "api/fine", "api/spec", "api/train", "api/auto")):
            assert (
                400 <= page.client.post(f"/token-of-the-tests/{path}", content=body, headers=headers).status_code < 500
            )
    assert library.journal.version == 0


def test_other_methods_and_web_sockets_are_refused(page: Any, library: Library):
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        for path in READS + CHANGES:
            answered = page.client.request(method, f"/token-of-the-tests/{path}", headers={"origin": ORIGIN})
            assert answered.status_code == 405, (method, path)
    for path in ("", "api/state"):
        with pytest.raises(WebSocketDisconnect), page.client.websocket_connect(f"/token-of-the-tests/{path}"):
            pass
    assert library.journal.version == 0


def test_the_page_may_load_nothing_but_its_own_files(page: Any):
    shown = page.get("")
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert shown.headers["referrer-policy"] == "no-referrer"
    texts = [path.read_text() for path in Path(guard.__file__).with_name("page").iterdir()]
    texts = [text.replace("http://www.w3.org/2000/svg", "") for text in texts]  # the name of a language, not a place
    assert not any(forbidden in text for text in texts for forbidden in ("http://", "https://", "innerHTML", "eval("))


def test_suspects_are_decided_one_by_one_and_stay_decided(page: Any, library: Library, photos: Path):
    (photos / "red/copy.png").write_bytes((photos / "blue/00.png").read_bytes())
    (photos / "red/broken.png").write_bytes(b"not an image")
    page.post("api/rescan")
    job = page.runs.jobs.start("check", ["data", "check", str(page.runs.snapshot()), "--json"])
    job.process.wait(60)
    shown = page.get("api/suspects").json()
    by_kind = {group["kind"]: group for group in shown["groups"]}
    assert [group["kind"] for group in shown["groups"][:2]] == ["unreadable", "conflict"]
    assert {(path, label) for _, path, label in by_kind["conflict"]["images"]} == {
        ("blue/00.png", "blue"),
        ("red/copy.png", "red"),
    }
    page.post("api/labels", {"images": [library.number_of("red/broken.png")], "label": "/left_out"})
    page.post("api/fine", {"kind": "conflict", "image": by_kind["conflict"]["images"][0][0]})
    left = page.get("api/suspects").json()["counts"]
    assert not {"unreadable", "conflict"} & set(left)
    page.post("api/undo")
    assert page.get("api/suspects").json()["counts"]["conflict"] == 1
    assert page.post("api/fine", {"kind": "nothing", "image": 0}).status_code == 422
    assert page.post("api/fine", {"kind": "conflict", "image": 99}).status_code == 404


def test_foreign_images_are_suspects_the_least_usual_first(library: Library, tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    with PredictionFile(file, ["red", "blue"]) as rows:
        for path, p_value in (("red/00.png", 0.04), ("unlabelled/a.png", 0.01), ("blue/00.png", 0.5)):
            known = p_value > 0.05
            rows.write(Prediction(str(library.folder / path), "red", 1.0, {"red": 1.0}, known=known, p_value=p_value))
    with subprocess.Popen(["true"]) as ended:
        job = Job(1, "unknown", ("predict", "--out", str(file)), tmp_path / "out", ended)
    first, second = list_suspects(library, [job])["groups"]
    assert first["images"] == [(library.number_of("unlabelled/a.png"), "unlabelled/a.png", None)]
    assert second["images"][0][1] == "red/00.png"
    library.set_labels([first["images"][0][0]], "/left_out")
    assert list_suspects(library, [job])["counts"] == {"unknown": 1}


def test_the_spec_is_a_file_that_check_explains(page: Any, library: Library):
    text = page.post("api/recipes/tiny_device").json()["text"]
    assert (library.state / "spec.json").read_text() == text
    assert page.post("api/spec", {"text": text}).json()["ok"]
    wrong = page.post("api/spec", {"text": text.replace('"kerasimg": 1', '"kerasimg": 1, "imge": {}')}).json()
    assert (wrong["ok"], wrong["faults"][0]["place"]) == (False, "imge")
    assert "did you mean 'image'?" in wrong["faults"][0]["message"]
    [fault] = page.post("api/spec", {"text": "{"}).json()["faults"]
    assert (fault["place"], fault["message"].startswith("not JSON")) == ("line 1, column 2", True)
    assert "batch_size" in page.get("api/schema").json()
    assert page.post("api/recipes/nothing").status_code == 422


def test_too_few_images_are_refused_in_words_of_the_page(page: Any, library: Library):
    page.post("api/labels", {"images": [library.number_of("red/blue.png")], "label": None})
    assert page.post("api/train", {}).json()["error"] == (
        "Too few images: blue has 1, red has 2. Each class needs 3, and better 30."
    )
    page.post("api/labels", {"images": [library.number_of("blue/00.png")], "label": "red"})
    for path, body in (("api/train", {}), ("api/auto", {"minutes": 1}), ("api/recipes/transfer", None)):
        message = page.post(path, body).json()["error"]
        assert message == "A model tells classes apart: label images of at least two. Now only 'red' has images."


def test_an_image_that_is_added_is_stored_under_its_name_and_undo_leaves_it_out(page: Any, photos: Path):
    content = (photos / "red/00.png").read_bytes()

    def add(name: str, label: str = "red", content: bytes = content) -> Any:
        path = f"/token-of-the-tests/api/files?{urlencode({'label': label, 'name': name})}"
        return page.client.post(path, content=content, headers={"origin": ORIGIN})

    assert add("00.png").status_code == add("new.png", "-").status_code == 200
    assert (photos / "red/00-2.png").read_bytes() == (photos / "unlabelled/new.png").read_bytes() == content
    page.post("api/undo")
    assert page.get("api/state").json()["left_out"] == 1
    before = sorted(photos.rglob("*"))
    names = ("../x.png", "..", "", "a/b.png", "a\\b.png", ".png", "x.py", "x\n.png", "x" * 250 + ".png", "C:/x.png")
    for name in names:
        assert add(name).status_code == 422, name
    assert add("x.png", "../out").status_code == add("x.png", "/left_out").status_code == 422
    large = io.BytesIO()
    PIL.Image.new("1", (7100, 7100)).save(large, "PNG")
    assert "has 50 million pixels; the limit is 50" in add("x.png", content=large.getvalue()).json()["error"]
    path = "/token-of-the-tests/api/runs/a/predict"
    asked = page.client.post(path, content=large.getvalue(), headers={"origin": ORIGIN})
    assert "has 50 million pixels" in asked.json()["error"]
    assert add("x.png", content=b"no image").json()["error"] == "The image is not an image of a known format."
    assert sorted(photos.rglob("*")) == before


def test_a_training_is_an_ordinary_command_on_labels_that_later_decisions_do_not_change(library: Library, page: Any):
    before = page.runs.snapshot()
    content = before.read_text()
    library.set_labels([0], "red")
    assert page.runs.snapshot() != before
    assert before.read_text() == content
