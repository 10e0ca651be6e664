"""Sources of `predict` besides image files, with their results in files and folders."""

import csv
import itertools
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from kerasimg import boundary, cli
from kerasimg.api import Run
from kerasimg.data.frames import Frame, expand, fetch, frames_of, video_frames, watch
from kerasimg.deploy.predict import open_predictor
from kerasimg.deploy.predict_stream import PredictionFile, SortedFolder, predict_frames
from kerasimg.errors import CallError, DataError
from kerasimg.evaluation.predict import Prediction

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at 5 frames a second: red, then green, then blue."""
    path = tmp_path_factory.mktemp("video") / "walk.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (32, 32))
    for colour in COLOURS.values():
        for _ in range(5):
            writer.write(np.full((32, 32, 3), colour[::-1], np.uint8))
    writer.release()
    return path


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """command("predict", ...) is (standard output, standard error) of a command in this process."""

    def run(*words: Any) -> tuple[str, str]:
        cli.app([str(word) for word in words], standalone_mode=False)
        return capfd.readouterr()

    return run


def test_a_video_is_classified_frame_by_frame_into_a_file_and_folders(
    run: Run, video: Path, tmp_path: Path, command: Callable[..., tuple[str, str]]
):
    out, err = command("predict", run.folder, video, "--out", tmp_path / "rows.csv", "--sort-into", tmp_path / "sorted")
    assert (out, "3 images classified; saved in" in err) == ("", True)
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["red", "green", "blue"]
    assert [row["file"].removeprefix(str(video)) for row in rows] == [" at 0.00 s", " at 1.00 s", " at 2.00 s"]
    assert abs(sum(float(rows[0][f"p:{name}"]) for name in COLOURS) - 1) < 1e-5
    for name, colour in COLOURS.items():
        [image] = (tmp_path / "sorted" / name).iterdir()
        assert np.abs(np.asarray(PIL.Image.open(image))[16, 16].astype(int) - colour).max() < 12


def test_frames_are_taken_at_the_wanted_times(video: Path):
    frames = list(video_frames(str(video), 0.4))
    assert [frame.name.rpartition(" at ")[2] for frame in frames] == [f"{2 * k / 5:.2f} s" for k in range(8)]
    assert {frame.total for frame in frames} == {8}
    assert all(np.abs(frames[0].image[0, 0].astype(int) - COLOURS["red"]) < 12)


def test_a_pattern_and_json_lines(run: Run, images: Any, tmp_path: Path, command: Callable[..., tuple[str, str]]):
    images(tmp_path, {"new/red": 2, "new/blue": 1})
    command("predict", run.folder, f"{tmp_path}/new/**/*.png", "--out", tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["blue", "red", "red"]
    assert {*rows[0]["probabilities"]} == set(COLOURS)
    with pytest.raises(CallError, match="no file matches this pattern"):
        expand([f"{tmp_path}/*.gif"])


def test_an_unreadable_image_is_reported_and_the_others_are_classified(run: Run, images: Any, tmp_path: Path):
    images(tmp_path, {"red": 2})
    (tmp_path / "red/01.png").write_bytes(b"broken")
    results = list(predict_frames(open_predictor(run.folder, []), frames_of([str(tmp_path)]), batch=2))
    assert results[0][1].label == "red"
    assert results[1][1].file.endswith("01.png")
    assert "not an image" in results[1][1].message


@pytest.mark.parametrize("content", [b"", b"no video", b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_a_damaged_video_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "x.avi").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.avi: (is not a video|holds no frame) that OpenCV can read"):
        list(video_frames(str(tmp_path / "x.avi"), 1.0))


def test_a_missing_camera_and_a_call_without_images_are_errors(run: Run, command: Callable[..., tuple[str, str]]):
    with pytest.raises(CallError, match="--camera 63: there is no such camera"):
        command("predict", run.folder, "--camera", 63)
    for words in ((), ("--camera", 0, "x.png"), ("--watch", ".", "--camera", 0)):
        with pytest.raises(CallError, match="predict needs images"):
            command("predict", run.folder, *words)
    with pytest.raises(CallError, match="for a stream without an end"):
        command("predict", run.folder, "--camera", 0, "--json")


def test_a_watched_folder_gives_each_image_once_and_whole(images: Any, tmp_path: Path):
    images(tmp_path, {"red": 1})
    seen = watch(str(tmp_path), poll_s=0)
    looks = [next(seen) for _ in range(3)]
    assert [look.name if look else None for look in looks] == [None, str(tmp_path / "red/00.png"), None]
    content = (tmp_path / "red/00.png").read_bytes()
    (tmp_path / "new.png").write_bytes(content[:20])  # is being copied
    assert next(seen) is None
    (tmp_path / "new.png").write_bytes(content)
    assert next(seen) is None
    arrived = next(seen)
    assert arrived is not None
    assert arrived.name == str(tmp_path / "new.png")
    assert next(seen) is None


def test_a_live_stream_is_classified_at_once(run: Run, images: Any, tmp_path: Path):
    images(tmp_path, {"red": 1})
    live = predict_frames(open_predictor(run.folder, []), watch(str(tmp_path), poll_s=0))
    frame, prediction = next(live)
    assert (Path(frame.name).name, prediction.label) == ("00.png", "red")


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a certificate that this process trusts: /image, /http (a redirection) and /large."""
    folder = tmp_path_factory.mktemp("https")
    names = ["-keyout", str(folder / "key"), "-out", str(folder / "cert"), "-subj", "/CN=localhost"]
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    try:
        subprocess.run(
            [*words, *names, "-days", "2", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    ok, png = cv2.imencode(".png", np.full((32, 32, 3), COLOURS["blue"][::-1], np.uint8))
    assert ok

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/http": 302, "/gone": 404}.get(self.path, 200))
            self.send_header("location", "http://localhost/image")
            self.end_headers()
            self.wfile.write(b"x" * 5000 if self.path == "/large" else png.tobytes())

        def log_message(self, *_: Any) -> None:
            """Prints nothing."""

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(folder / "cert")
    yield f"https://localhost:{server.server_port}"
    os.environ.pop("SSL_CERT_FILE")
    if before is not None:
        os.environ["SSL_CERT_FILE"] = before
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_only_if_asked(run: Run, https: str, tmp_path: Path, command: Any):
    with pytest.raises(CallError, match=r"addresses are not fetched.*or fetch it with --download"):
        command("predict", run.folder, f"{https}/image")
    out, _ = command(
        "predict", run.folder, f"{https}/image", "--download", "--sort-into", tmp_path / "sorted", "--top", "1"
    )
    assert out.startswith(f"{https}/image: blue 0.")
    assert [path.name for path in (tmp_path / "sorted/blue").iterdir()] == ["image"]


def test_what_cannot_be_fetched_is_named(https: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CallError, match="only https addresses are fetched"):
        fetch(https.replace("https", "http"))
    with pytest.raises(DataError, match="is not https"):
        fetch(f"{https}/http")
    with pytest.raises(DataError, match="cannot be fetched: Not Found"):
        fetch(f"{https}/gone")
    limit = boundary.LIMITS["download_bytes"]
    monkeypatch.setattr(boundary, "LIMITS", {**boundary.LIMITS, "download_bytes": limit._replace(value=4096)})
    with pytest.raises(DataError, match="is larger than"):
        fetch(f"{https}/large")


def test_sorting_never_leaves_the_folder_and_replaces_nothing(images: Any, tmp_path: Path):
    source = str(images(tmp_path / "data", {"red": 1}) / "red/00.png")
    hostile = ("../../away", "/etc", "a/b", "..", "", "con\n")
    folder = SortedFolder(tmp_path / "sorted", [name for name in hostile if name != ".."])
    for name, _ in itertools.product(hostile[:3], range(2)):
        for copy in folder.add(Frame("x", source), Prediction(source, name, 1.0, {})):
            assert copy.resolve().is_relative_to(tmp_path / "sorted")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "sorted"]
    assert sum(path.is_file() for path in (tmp_path / "sorted").rglob("*")) == 6
    [copy] = folder.add(Frame("x", source), Prediction(source, "/etc", 1.0, {}, known=False, p_value=0.01))
    assert copy == tmp_path / "sorted/none of these/00.png"
    with pytest.raises(CallError, match="would have the same folder"):
        SortedFolder(tmp_path / "sorted", ["a/b", "a_b"])


def test_a_csv_cell_is_no_formula(tmp_path: Path):
    with PredictionFile(tmp_path / "rows.csv", ["=a", "b"]) as file:
        file.write(Prediction("=x.png", "=a", 0.9, {"=a": 0.9, "b": 0.1}, ("=a",), False, 0.02))
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines == ["file,label,confidence,set,known,p_value,p:=a,p:b", "'=x.png,'=a,0.9,'=a,false,0.02,0.9,0.1"]
    with pytest.raises(CallError, match=r"ends in \.csv or \.jsonl"):
        PredictionFile(tmp_path / "rows.txt", [])
