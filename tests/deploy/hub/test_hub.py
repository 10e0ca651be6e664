"""Push and pull with the hub's real client, against a local server with the hub's HTTP interface."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import kerasimg
from kerasimg.cli import app
from kerasimg.deploy.hub import FILE
from kerasimg.errors import CallError

REPO = "anna/lilies"
OLD_UPLOAD = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""The client uploads large files by a deprecated parameter of its HTTP library."""


@pytest.fixture(scope="module")
def packed(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kerasimg.pack(run, tmp_path_factory.mktemp("hub") / "colours.kerasimg")


def test_pull_returns_exactly_the_pushed_pack(hub: Any, run: Any, packed: Path, tmp_path: Path):
    assert kerasimg.push(run, REPO) == f"{hub.url}/{REPO}"
    assert sorted(hub.repos[REPO][-1]) == ["README.md", FILE, "spec.json"]
    pulled = kerasimg.pull(REPO, tmp_path / "again.kerasimg")
    assert pulled.read_bytes() == packed.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.kerasimg"]


@OLD_UPLOAD
def test_small_and_large_files_are_uploaded(hub: Any, packed: Path):
    kerasimg.push(packed, REPO)
    assert hub.repos[REPO][-1][FILE] == packed.read_bytes()
    assert not hub.large
    hub.LARGE = packed.stat().st_size
    kerasimg.push(packed, "anna/tulips")
    assert hub.repos["anna/tulips"][-1][FILE] == packed.read_bytes()
    assert list(hub.large.values()) == [packed.read_bytes()]


def test_model_page_shows_how_to_use_the_pack(hub: Any, run: Any, packed: Path):
    kerasimg.report(run)
    kerasimg.push(run, REPO)
    page = hub.repos[REPO][-1]["README.md"].decode()
    assert page.startswith("---\nlibrary_name: keras\n")
    assert (page.count("## Use"), page.count("kerasimg run pull anna/lilies"), 'model.keras"' in page) == (1, 1, False)
    assert "## Figures" in page
    assert "## Limits" in page


def test_push_is_a_commit_and_earlier_revisions_can_be_pulled(hub: Any, packed: Path, tmp_path: Path):
    kerasimg.push(packed, REPO, private=True, message="first version")
    kerasimg.push(packed, REPO)
    assert (hub.private[REPO], hub.messages) == (True, ["first version", "tiny, by kerasimg"])
    hub.repos[REPO][1][FILE] = b"changed"
    first = kerasimg.pull(REPO, tmp_path / "first.kerasimg", revision=hub.name_of(1))
    assert first.read_bytes() == packed.read_bytes()
    with pytest.raises(CallError, match=r"anna/lilies: no such revision"):
        kerasimg.pull(REPO, tmp_path / "x.kerasimg", revision="v9")


@OLD_UPLOAD
def test_interrupted_upload_is_reported(hub: Any, packed: Path, tmp_path: Path):
    hub.LARGE, hub.storing = 100, False
    with pytest.raises(CallError, match=r"anna/lilies: .* sent an unexpected response: .*507"):
        kerasimg.push(packed, REPO)
    assert hub.repos[REPO] == []


def test_tampered_pack_is_not_saved(hub: Any, packed: Path, tmp_path: Path):
    kerasimg.push(packed, REPO)
    content = bytearray(hub.repos[REPO][-1][FILE])
    content[content.index(b"weights.safetensors") + 200] ^= 1
    hub.repos[REPO][-1][FILE] = bytes(content)
    with pytest.raises(CallError, match=r"'anna/lilies/model.kerasimg' is not a valid kerasimg pack"):
        kerasimg.pull(REPO, tmp_path / "x.kerasimg")
    assert list(tmp_path.iterdir()) == []


def test_error_says_what_is_missing_and_what_to_do(
    hub: Any, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "x.kerasimg"
    with pytest.raises(CallError, match=r"anna/none: no such model at .*, or it is private: log in"):
        kerasimg.pull("anna/none", out)
    kerasimg.push(packed, REPO, private=True)
    hub.repos[REPO].append({"README.md": b""})
    with pytest.raises(
        CallError, match=r"the repository has no model.kerasimg; only models pushed by kerasimg run push"
    ):
        kerasimg.pull(REPO, out)
    with pytest.raises(CallError, match=r"repo: expected OWNER/NAME, .*, got 'a/b/c'"):
        kerasimg.pull("a/b/c", out)
    hub.broken = True
    with pytest.raises(CallError, match=r"anna/lilies: .* responded with status 418: .*teapot"):
        kerasimg.push(packed, REPO)
    hub.broken = False
    monkeypatch.setenv("HF_TOKEN", "hf_may_read")
    with pytest.raises(CallError, match=r"anna/lilies: .* \(401\): log in .* with a token with write permission"):
        kerasimg.push(packed, REPO)
    with pytest.raises(CallError, match="no such model"):
        kerasimg.pull(REPO, out)


def test_pull_checks_the_path_before_any_request_and_replaces_no_file(hub: Any, tmp_path: Path):
    existing = tmp_path / "mine.kerasimg"
    existing.write_text("mine")
    for out, words in (
        (existing, "already exists"),
        (tmp_path / "x.zip", "expected a name that ends in .kerasimg"),
        (tmp_path / "none" / "x.kerasimg", "no folder"),
    ):
        with pytest.raises(CallError, match=words):
            kerasimg.pull(REPO, out)
    assert (existing.read_text(), hub.asked) == ("mine", [])


def test_unreachable_hub_is_reported(hub: Any, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub.stop()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries five times more
    with pytest.raises(CallError, match=r"anna/lilies: http://127.0.0.1:.* cannot be reached"):
        kerasimg.push(packed, REPO)
    with pytest.raises(CallError, match=r"anna/lilies: http://127.0.0.1:.* cannot be reached"):
        kerasimg.pull(REPO, tmp_path / "x.kerasimg")


def test_commands_push_and_pull_a_pack(hub: Any, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pushed = CliRunner().invoke(app, ["run", "push", str(packed), REPO, "--json"])
    assert (pushed.exit_code, json.loads(pushed.stdout)) == (0, {"repo": REPO, "url": f"{hub.url}/{REPO}"})
    pulled = CliRunner().invoke(app, ["run", "pull", REPO])
    assert (pulled.exit_code, pulled.stdout.split()[0]) == (0, "lilies.kerasimg")
    assert (tmp_path / "lilies.kerasimg").read_bytes() == packed.read_bytes()


@OLD_UPLOAD
def test_a_space_shows_the_page_of_the_web_export(hub: Any, run: Any, packed: Path, tmp_path: Path):
    copied = Path(shutil.copytree(run, tmp_path / "run-1", ignore=shutil.ignore_patterns("export")))
    with pytest.raises(CallError, match=r"has no page for a Space; make it: kerasimg export .* --to web"):
        kerasimg.push(copied, REPO, space=True)
    assert hub.repos == {}
    (copied / "export/web").mkdir(parents=True)
    (copied / "export/web/demo.html").write_text("<!doctype html>")
    assert kerasimg.push(copied, REPO, space=True) == f"{hub.url}/spaces/{REPO}"
    files = hub.repos[f"spaces/{REPO}"][-1]
    assert files["index.html"] == b"<!doctype html>"
    head = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert head == {"title": "tiny", "sdk": "static", "app_file": "index.html", "models": [REPO]}
    assert FILE in hub.repos[REPO][-1]
    with pytest.raises(CallError, match="is a pack: --space and --data-card need the folder of the run"):
        kerasimg.push(packed, REPO, space=True)


def test_a_data_card_is_uploaded_only_if_asked(hub: Any, run: Any):
    kerasimg.push(run, REPO)
    assert "croissant.json" not in hub.repos[REPO][-1]
    kerasimg.push(run, REPO, data_card=True)
    card = json.loads(hub.repos[REPO][-1]["croissant.json"])
    assert card["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    classes, images = (records["data"] for records in card["recordSet"])
    assert {row["classes/name"]: row["classes/images"] for row in classes} == {"red": 20, "green": 20, "blue": 20}
    assert len(images) == 60
    assert {row["images/part"] for row in images} == {"train", "validation", "test"}
