"""A local server with the part of the Hugging Face Hub's HTTP interface that its client uses for one repository."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

import huggingface_hub.constants
import pytest
import yaml


class Hub:
    """What it keeps: repositories, each a list of commits, each the files by name; large contents by SHA-256."""

    TOKEN = "hf_may_write"
    LARGE = 20_000
    """Minimum size in bytes for Git LFS; on the hub it is 10 MB."""

    def __init__(self) -> None:
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.broken = False
        self.storing = True
        self.url = ""
        self.stop: Callable[[], Any]

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> str:
        files = dict(self.repos[repo][-1]) if self.repos[repo] else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        self.repos[repo].append(files)
        return self.name_of(len(self.repos[repo]))

    @staticmethod
    def name_of(number: int) -> str:
        """The hash of a commit."""
        return f"{number:040x}"

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repos[repo]
        known = {self.name_of(number): files for number, files in enumerate(commits, 1)}
        if revision == "main" and commits:
            return self.name_of(len(commits)), commits[-1]
        return (revision, known[revision]) if revision in known else None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The client of this process asks the stand-in, with a token that may write."""
    with running() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # The hub's current store of large files has its own protocol, in compiled code; this is the previous protocol.
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
        yield hub


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    hub.stop = lambda: (server.shutdown(), server.server_close())
    try:
        yield hub
    finally:
        hub.stop()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._resolve(send=False)

    def do_GET(self) -> None:
        self._resolve(send=True)

    def do_PUT(self) -> None:
        content = self._content()
        if self.hub.storing:
            self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self._answer(200 if self.hub.storing else 507)

    def do_POST(self) -> None:
        self.hub.asked.append(self.path)
        content = self._content()
        if self.hub.broken:
            return self._answer(418, {"error": "a teapot"})
        if self.headers.get("Authorization") != f"Bearer {self.hub.TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self._create(json.loads(content))
        if self.path == "/api/validate-yaml":
            head = json.loads(content)["content"].split("---\n")[1]
            facts = yaml.safe_load(head)
            wrong = [] if isinstance(facts, dict) else [{"message": "no mapping"}]
            return self._answer(200, {"errors": wrong, "warnings": []})
        path = self.path.removeprefix("/api/models/").replace("/api/spaces/", "spaces/", 1)
        repo, _, task = path.removeprefix("/").rpartition("/")
        if task == "batch":
            return self._batch(json.loads(content))
        repo, _, task = repo.rpartition("/")
        if task == "preupload":
            return self._answer(200, {"files": [self._mode(file) for file in json.loads(content)["files"]]})
        assert task == "commit", self.path
        name = self.hub.commit(repo, [json.loads(line) for line in content.splitlines()])
        return self._answer(
            200, {"success": True, "commitOid": name, "commitUrl": f"{self.hub.url}/{repo}/commit/{name}"}
        )

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if asked.get("type") == "space":
            assert asked["sdk"] == "static"
            repo = f"spaces/{repo}"
        there = repo in self.hub.repos
        if not there:
            self.hub.repos[repo] = []
            self.hub.private[repo] = asked.get("private") or asked.get("visibility") == "private"
        self._answer(409 if there else 200, {"url": f"{self.hub.url}/{repo}", "name": repo})

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["size"] >= self.hub.LARGE else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.hub.url}/store/{item['oid']}", "header": {}}}}
            for item in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _resolve(self, send: bool) -> None:
        self.hub.asked.append(self.path)
        repo, _, rest = unquote(self.path).removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if repo not in self.hub.repos or (
            self.hub.private[repo] and self.headers.get("Authorization") != f"Bearer {self.hub.TOKEN}"
        ):
            return self._answer(401, headers={"X-Error-Code": "RepoNotFound"})
        revision_files = self.hub.at(repo, revision)
        if revision_files is None:
            return self._answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        name, files = revision_files
        if file not in files:
            return self._answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": name})
        facts = {"X-Repo-Commit": name, "ETag": f'"{hashlib.sha256(files[file]).hexdigest()}"'}
        return self._send(200, files[file], "application/octet-stream", facts, send)

    def _content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self._send(status, content, "application/json", headers or {}, self.command != "HEAD")

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)
