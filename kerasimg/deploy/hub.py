"""Packs on the Hugging Face Hub: `kerasimg.push`, `kerasimg.pull`.

A model on the hub is a Git repository. `push` writes three files: the pack, which is all that `pull` reads; the spec,
for reading and comparing in the browser; and the model card as README.md with the metadata for the hub's search.
The hub's own client makes the requests, so `HF_TOKEN`, `HF_ENDPOINT`, `hf auth login` and its proxy settings apply.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasimg.deploy import croissant
from kerasimg.deploy.bundle import PAGE
from kerasimg.errors import CallError, needs
from kerasimg.escaping import command, markdown
from kerasimg.files import to_json
from kerasimg.models.hub_client import CLIENT, EXTRA, hub_client
from kerasimg.run_folder import RunFolder
from kerasimg.spec import pack as form
from kerasimg.staleness import stale_bundle

if TYPE_CHECKING:
    from kerasimg.models.classifier import ClassifierReference

FILE = f"model{form.SUFFIX}"
"""Name of the pack in a repository."""
README = "README.md"


def push(
    run: ClassifierReference,
    repo: str,
    *,
    private: bool = False,
    message: str | None = None,
    space: bool = False,
    data_card: bool = False,
) -> str:
    """Upload a classifier to the Hugging Face Hub, as a new commit.

    Requires `pip install "kerasimg[hub]"` and a token with write permission.

    Args:
        run: a `Run`, its folder, a `model.keras` or a `.kerasimg` file.
        repo: `owner/name`; created if it does not exist.
        private: whether a new repository is private.
        message: commit message.
        space: publish the page of the run's web export as a static Space of the same name, too; it runs in the
            visitor's browser and needs no server.
        data_card: upload a card of the run's data, too: `croissant.json`, with the path, part, labels and SHA-256 of
            each image.

    Returns:
        The address of the repository; with `space`, that of the Space.

    Raises:
        CallError: if there is no trained model, or the hub rejects the request.

    Example:
        >>> kerasimg.push("runs/photos-1", "owner/photos", private=True)  # doctest: +SKIP
    """
    with tempfile.TemporaryDirectory(prefix="kerasimg-push-") as place:
        file = Path(str(run)) if form.is_pack(run) else _write_pack(run, Path(place))
        opened = form.Pack(file)
        with needs(EXTRA, CLIENT):
            from huggingface_hub import CommitOperationAdd
        contents: dict[str, str | bytes] = {
            FILE: str(file),
            form.SPEC: opened.read(form.SPEC),
            README: readme(opened, repo).encode(),
        }
        if data_card:
            contents[croissant.FILE] = to_json(croissant.data_card(_own_run(run))).encode()
        page = _page(_own_run(run)) if space else None  # an error comes before anything is uploaded
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        said = message or f"{opened.manifest.name}, by kerasimg"
        with hub_client(repo) as hub:
            address = str(hub.create_repo(repo, private=private, exist_ok=True))
            hub.create_commit(repo, operations, commit_message=said)
            if page is not None:
                static: dict[str, Any] = {"repo_type": "space"}
                address = str(hub.create_repo(repo, private=private, exist_ok=True, space_sdk="static", **static))
                files = {"index.html": page, README: space_readme(opened, repo).encode()}
                operations = [CommitOperationAdd(name, content) for name, content in files.items()]
                hub.create_commit(repo, operations, commit_message=said, **static)
        return address


def pull(repo: str, out: str | os.PathLike[str] | None = None, *, revision: str | None = None) -> Path:
    """Download a classifier from the Hugging Face Hub as a `.kerasimg` file, which cannot run code, and check it.

    Args:
        repo: `owner/name`.
        out: the file, which must not exist. None: `<name>.kerasimg` in this folder.
        revision: a branch, a tag or a commit. None: `main`.

    Returns:
        The path of the file.

    Raises:
        CallError: if the model does not exist, the file is damaged, or `out` exists.

    Example:
        >>> kerasimg.pull("owner/photos", revision="main")  # doctest: +SKIP
    """
    path = Path(f"{repo.rpartition('/')[2]}{form.SUFFIX}" if out is None else out)
    if path.suffix != form.SUFFIX:
        raise CallError(f"out: expected a name that ends in {form.SUFFIX}, got '{path}'")
    if not path.parent.is_dir():
        raise CallError(f"out: no folder '{path.parent}'; create it first")
    if path.exists():
        raise CallError(f"out: '{path}' already exists; choose another file")
    with tempfile.TemporaryDirectory(prefix=".kerasimg-pull-", dir=path.parent) as place:
        missing = (
            f"the repository has no {FILE}; only models pushed by kerasimg run push can be pulled (a checkpoint of "
            f"timm or Hugging Face: kerasimg import hf://{repo})"
        )
        with hub_client(repo, missing) as hub:
            fetched = Path(hub.hf_hub_download(repo, FILE, revision=revision, local_dir=place))
        try:
            opened = form.Pack(fetched)
            for member in opened.manifest.files:
                opened.read(member)  # compares its SHA-256
        except CallError as error:
            raise CallError(str(error).replace(str(fetched), f"{repo}/{FILE}")) from None
        shutil.move(fetched, path)
    return path


def readme(opened: form.Pack, repo: str) -> str:
    """Returns the model card for the repository, with usage instructions that name the repository."""
    name = repo.rpartition("/")[2]
    use = (
        f'## Use\n\n```sh\npip install "kerasimg[{EXTRA}]"\nkerasimg run pull {repo}\n'
        f"kerasimg predict {name}{form.SUFFIX} photo.jpg\n```\n"
    )
    card = opened.read(form.CARD).decode()
    if not card:
        head = "---\nlibrary_name: keras\npipeline_tag: image-classification\ntags:\n- keras\n- kerasimg\n---\n\n"
        return f"{head}# {markdown(opened.manifest.name)}\n\nAn image classifier.\n\n{use}"
    # The card of a run shows how to use the run's files, which are not in the repository.
    replaced, count = re.subn(r"(?ms)^## Use\n.*?(?=^## |\Z)", lambda _: f"{use}\n", card, count=1)
    return replaced if count else f"{card}\n{use}"


def _own_run(run: ClassifierReference) -> RunFolder:
    """The folder of the run; CallError for a pack, which has neither pages nor a record of its data."""
    if form.is_pack(run):
        raise CallError(f"'{run}' is a pack: --space and --data-card need the folder of the run")
    return RunFolder.of(run)


def _page(run: RunFolder) -> bytes:
    """The page of the run's web export, of its present model."""
    folder = run.exports / "web"
    advice = f"make it: {command('export', run.path, '--to', 'web')}"
    if not (folder / PAGE).is_file():
        raise CallError(f"'{run.path}' has no page for a Space; {advice}")
    if stale := stale_bundle(folder):
        raise CallError(f"{stale}; {advice}")
    return (folder / PAGE).read_bytes()


def space_readme(opened: form.Pack, repo: str) -> str:
    """The README of a Space: its metadata, and the model that it shows."""
    head = {"title": opened.manifest.name[:60], "sdk": "static", "app_file": "index.html", "models": [repo]}
    # JSON is YAML, and quotes whatever a name holds.
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    title = markdown(opened.manifest.name)
    return f"---\n{lines}\n---\n\n# {title}\n\nThe model runs in your browser; no image leaves it.\n"


def _write_pack(run: ClassifierReference, place: Path) -> Path:
    from kerasimg.deploy.sharing import pack

    return pack(run, place / FILE)
