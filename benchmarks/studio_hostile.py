"""Hostile requests to the studio: those of the server's suite, a page of another site, and paths that lead elsewhere.

1. The contents of `fuzz_requests.py --hostile` (bombs, 16 MB of lists, parts and keys) to every route that takes a
   body: each is refused, and the studio answers afterwards.
2. A page of another site, in Chromium, that has learned the address with its token: forms, fetch, images, frames,
   scripts, EventSource, WebSocket, beacons and a new window. None reads anything, none changes anything.
3. Raw request lines, links in the folder, and names of classes and files that lead elsewhere.

    python benchmarks/studio_hostile.py
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from fuzz_requests import hostile_cases
from studio_tabs import Studio, make_photos

from kerasimg.deploy.web import browser

BODIES = ("files?label=cup", "files?label=cup&name=a.png", "labels", "classes", "spec", "fine", "train", "auto")
BODIES += ("runs/none/predict", "runs/none/explain", "runs/none/nearest", "runs/none/export")
ATTACK = """
const done = arguments[arguments.length - 1];
const address = arguments[0];
const got = [];
const waits = [];
const attempt = (name, work) => waits.push(Promise.race([
  work().then((value) => { if (value) got.push(name); }, () => {}),
  new Promise((over) => setTimeout(over, 4000)),
]));
const loads = (tag, path, place = "src") => () => new Promise((loaded, failed) => {
  const element = document.createElement(tag);
  element.onload = () => loaded(tag !== "iframe" || Boolean(element.contentDocument?.body.textContent));
  element.onerror = failed;
  element[place] = address + path;
  document.body.append(element);
});
const body = JSON.stringify({ images: [0], label: "stolen" });
attempt("read by fetch", () => fetch(address + "api/state").then((answer) => answer.text()));
const ask = (path, options) => () => fetch(address + path, options);
const headers = { "content-type": "application/json" };
const blind = (path, options) => () => fetch(address + path, { mode: "no-cors", ...options })
  .then((answer) => answer.type !== "opaque");
attempt("read blindly", blind("api/state", {}));
attempt("change by fetch", ask("api/labels", { method: "POST", body, headers }));
attempt("change blindly", blind("api/labels", { method: "POST", body }));
attempt("undo blindly", blind("api/undo", { method: "POST" }));
attempt("beacon", async () => { navigator.sendBeacon(address + "api/moves", new Blob(["{}"])); return false; });
attempt("image", loads("img", "thumbnail/0"));
attempt("large image", loads("img", "image/0"));
attempt("script", loads("script", "page/api.js"));
attempt("style", loads("link", "page/studio.css", "href"));
attempt("frame", loads("iframe", ""));
attempt("EventSource", () => new Promise((opened, failed) => {
  const source = new EventSource(address + "api/state");
  source.onopen = opened;
  source.onmessage = opened;
  source.onerror = failed;
}));
for (const path of ["", "api/state"]) attempt("WebSocket", () => new Promise((opened, failed) => {
  const socket = new WebSocket(address.replace("http", "ws") + path);
  socket.onopen = () => opened(true);
  socket.onerror = failed;
}));
const form = document.createElement("form");
Object.assign(form, { method: "POST", action: address + "api/moves", target: "other" });
document.body.append(form);
form.submit();
const opened = window.open(address, "window");
Promise.all(waits).then(() => setTimeout(() => {
  try { if (opened && opened.document.body.textContent) got.push("window"); } catch { /* of another site */ }
  done(got);
}, 1500));
"""


def send_bodies(studio: Studio) -> None:
    parts = urlsplit(studio.address)
    origin = {"origin": f"{parts.scheme}://{parts.netloc}"}
    cases = hostile_cases()
    slowest, highest, statuses = 0.0, 0, set()
    with httpx.Client(timeout=120) as client:
        for name, case in cases.items():
            for route in BODIES:
                began = time.perf_counter()
                try:
                    headers = {**case.headers, **origin}
                    answer = client.post(studio.address + "api/" + route, content=case.content, headers=headers)
                except httpx.TransportError:  # closed before the whole body was sent
                    statuses.add("closed")
                else:
                    statuses.add(str(answer.status_code))
                    if answer.status_code == 200 and route.startswith("files"):  # strange, but an image
                        thumbnail = client.get(f"{studio.address}thumbnail/{answer.json()['image']}")
                        print(f"{name}: stored; its thumbnail: {thumbnail.status_code}")
                    elif not 400 <= answer.status_code < 500:
                        raise SystemExit(f"{name} to {route}: {answer.status_code} {answer.text[:200]}")
                slowest = max(slowest, time.perf_counter() - began)
                highest = max(highest, resident_mb(studio))
                studio.ask("api/state")
    print(f"{len(cases)} contents to {len(BODIES)} routes: {sorted(statuses)}")
    print(f"at most {slowest:.1f} s each, {highest} MB")


def resident_mb(studio: Studio) -> int:
    status = Path(f"/proc/{studio.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) // 1024


def attack_from_other_site(studio: Studio) -> None:
    """Opens a page of another origin on this machine, which is the nearest that a site can come."""
    with tempfile.TemporaryDirectory() as empty:
        (Path(empty) / "index.html").write_text("<!doctype html><title>another site</title><body></body>")

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=empty)

            def log_message(self, *_: Any) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            driver = browser._driver(["--host-resolver-rules=MAP evil.example 127.0.0.1"])
            try:
                for host in ("evil.example", "localhost", "127.0.0.1"):
                    driver.get(f"http://{host}:{server.server_port}/")
                    got = driver.execute_async_script(ATTACK, studio.address)
                    if got:
                        raise SystemExit(f"a page of {host} got through by: {got}")
                    print(f"a page of {host}, with the token: nothing read")
                # A name of the attacker that points to this machine (DNS rebinding).
                driver.get(studio.address.replace("127.0.0.1", "evil.example"))
                if "unexpected host" not in driver.page_source:
                    raise SystemExit("the studio answers to a name of another site")
            finally:
                driver.quit()
                server.shutdown()


def send_raw(studio: Studio, line: bytes, headers: bytes = b"") -> bytes:
    parts = urlsplit(studio.address)
    with socket.create_connection((parts.hostname or "", parts.port or 0), 20) as raw:
        raw.settimeout(20)
        raw.sendall(
            line + b" HTTP/1.1\r\nHost: " + parts.netloc.encode() + b"\r\nConnection: close\r\n" + headers + b"\r\n"
        )
        answer = b""
        with contextlib.suppress(OSError):
            while piece := raw.recv(65_536):
                answer += piece
    return answer


def leave_the_folder(studio: Studio, photos: Path, outside: Path) -> None:
    token = urlsplit(studio.address).path.encode()
    up = (
        b"../",
        b"..%2f",
        b"%2e%2e/",
        b"%2e%2e%2f",
        b"..%5c",
        b"..\\",
        b"..;/",
        b"%252e%252e%252f",
        b"....//",
        b"%00../",
    )
    starts = (b"", b"page/", b"thumbnail/", b"image/", b"runs/", b"api/runs/", b"api/jobs/", b"runs/a/")
    lines = [b"GET " + token + start + step * 8 + b"etc/passwd" for start in starts for step in up]
    lines += [b"GET //etc/passwd", b"GET /etc/passwd", b"GET file:///etc/passwd", b"GET http://evil.example/" + token]
    lines += [b"GET " + token + b"a" * 100_000, b"CONNECT 127.0.0.1:22", b"TRACE " + token, b"GET " + token + b"\x00"]
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    for line in lines:
        answer = send_raw(studio, line)
        if b"root:" in answer or answer.startswith(b"HTTP/1.1 200") or b" 500 " in answer[:20]:
            raise SystemExit(f"{line[:80]!r}: {answer[:200]!r}")
    for path in (b"", b"api/state"):
        if b" 101 " in send_raw(studio, b"GET " + token + path, upgrade)[:40]:
            raise SystemExit("a WebSocket was opened")
    many = send_raw(studio, b"GET " + token + b"api/state", b"".join(b"X-%d: a\r\n" % k for k in range(20_000)))
    print(f"{len(lines)} request lines: nothing read; 20,000 headers: {many[9:12].decode() or 'closed'}")

    names = (
        "../out",
        "..",
        ".",
        "a/../../out",
        "a\\..\\out",
        "/etc",
        "",
        " ",
        "\x00",
        "a\nb",
        ".kerasimg",
        "x" * 300,
        "CON:",
    )
    origin = {"origin": "/".join(studio.address.split("/")[:3])}
    image = next((photos / "cup").glob("*.png")).read_bytes()
    for name in names:
        answers = [
            httpx.post(studio.address + "api/classes", json={"name": name}, headers=origin),
            httpx.post(studio.address + "api/labels", json={"images": [0], "label": name}, headers=origin),
            httpx.post(f"{studio.address}api/files?label=cup&name={quote(name)}", content=image, headers=origin),
        ]
        if name.strip():
            answers.append(httpx.post(f"{studio.address}api/files?label={quote(name)}", content=image, headers=origin))
        for answer in answers:
            if not 400 <= answer.status_code < 500:
                raise SystemExit(f"{name!r}: {answer.url}: {answer.status_code} {answer.text}")
    os.symlink("/etc/passwd", photos / "cup" / "passwd.png")
    os.symlink(outside, photos / "away")
    studio.ask("api/rescan", {})
    rows = studio.ask("api/images?count=1000&text=passwd")["rows"]
    for kind in ("thumbnail", "image"):
        answer = httpx.get(f"{studio.address}{kind}/{rows[0][0]}")
        if answer.status_code != 415 or "root:" in answer.text:
            raise SystemExit(f"a link to another file: {answer.status_code} {answer.text[:100]}")
    refused = httpx.post(f"{studio.address}api/files?label=away", content=image, headers=origin)
    studio.ask("api/labels", {"images": [0], "label": "away"})
    moved = httpx.post(f"{studio.address}api/moves", headers=origin)
    studio.ask("api/undo", {})
    if (refused.status_code, moved.status_code, os.listdir(outside)) != (422, 422, []):
        raise SystemExit(f"a link was followed: {refused.text} {moved.text} {os.listdir(outside)}")
    print(f"{len(names)} names of classes and files, links to a file and to a folder outside: nothing read or written")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if missing := browser.available():
        raise SystemExit(missing)
    with tempfile.TemporaryDirectory() as scratch:
        photos, outside = Path(scratch) / "photos", Path(scratch) / "outside"
        outside.mkdir()
        make_photos(photos, 20)
        studio = Studio(photos, Path(scratch) / "runs")
        try:
            send_bodies(studio)
            files = sorted(photos.rglob("*.*"))
            before = studio.ask("api/state")
            attack_from_other_site(studio)
            if studio.ask("api/state") != before or sorted(photos.rglob("*.*")) != files:
                raise SystemExit("something has changed")
            leave_the_folder(studio, photos, outside)
            left = {path for path in sorted(photos.rglob("*.png")) if not path.is_symlink()} - set(files)
            written = json.dumps(sorted(path.name for path in Path(scratch).iterdir()))
            if left or written != '["outside", "photos"]':
                raise SystemExit(f"files were written: {left} {written}")
        finally:
            studio.process.terminate()
            studio.process.wait(60)
    print("nothing read, nothing changed, nothing outside the folder")


if __name__ == "__main__":
    main()
