"""Packs on the Hugging Face Hub: `kerasimg.push`, `kerasimg.pull`.

A model on the hub is a Git repository. Of ours it holds the pack, which is all that `pull` reads; the spec beside it,
so that it can be read and compared in the browser; and the model card as README.md, whose head the hub's search reads.
The hub's own client does the talking: `HF_TOKEN`, `HF_ENDPOINT`, `hf auth login` and its proxies hold here, too.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kerasimg.deploy.runtimes import needs
from kerasimg.errors import CallError
from kerasimg.escaping import markdown
from kerasimg.spec import pack as form

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from kerasimg.models.classifier import ClassifierReference

FILE = f"model{form.SUFFIX}"
"""The pack in a repository; the one name that `pull` asks for."""
README = "README.md"
EXTRA, CLIENT = "hub", "huggingface_hub"
LOG_IN = "log in (hf auth login) or set HF_TOKEN"


def push(run: ClassifierReference, repo: str, *, private: bool = False, message: str | None = None) -> str:
    """Upload a classifier to the Hugging Face Hub, as a new commit.

    Needs `pip install "kerasimg[hub]"` and a token that may write.

    Args:
        run: a `Run`, its folder, a `model.keras` or a `.kerasimg` file.
        repo: `owner/name`; created where it does not exist.
        private: whether a repository that is created is private.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        CallError: if there is no trained model, or the hub refuses.

    Example:
        >>> kerasimg.push("runs/photos-1", "owner/photos", private=True)  # doctest: +SKIP
    """
    with tempfile.TemporaryDirectory(prefix="kerasimg-push-") as place:
        file = Path(str(run)) if form.is_pack(run) else _packed(run, Path(place))
        opened = form.Pack(file)
        with needs(EXTRA, CLIENT):
            from huggingface_hub import CommitOperationAdd
        contents: dict[str, str | bytes] = {
            FILE: str(file),
            form.SPEC: opened.read(form.SPEC),
            README: readme(opened, repo).encode(),
        }
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        with _talking(repo) as hub:
            address = str(hub.create_repo(repo, private=private, exist_ok=True))
            hub.create_commit(repo, operations, commit_message=message or f"{opened.manifest.name}, by kerasimg")
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
        CallError: if there is no such model, the file is damaged, or `out` exists.

    Example:
        >>> kerasimg.pull("owner/photos", revision="main")  # doctest: +SKIP
    """
    path = Path(f"{repo.rpartition('/')[2]}{form.SUFFIX}" if out is None else out)
    if path.suffix != form.SUFFIX:
        raise CallError(f"out: expected a name that ends in {form.SUFFIX}, got '{path}'")
    if not path.parent.is_dir():
        raise CallError(f"out: no folder '{path.parent}'")
    if path.exists():
        raise CallError(f"out: '{path}' is there already; name another file")
    with tempfile.TemporaryDirectory(prefix=".kerasimg-pull-", dir=path.parent) as place:
        with _talking(repo) as hub:
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
    """The model card as the page of the repository: how to use it names the repository."""
    name = repo.rpartition("/")[2]
    use = (
        f'## Use\n\n```sh\npip install "kerasimg[{EXTRA}]"\nkerasimg run pull {repo}\n'
        f"kerasimg predict {name}{form.SUFFIX} photo.jpg\n```\n"
    )
    card = opened.read(form.CARD).decode()
    if not card:
        head = "---\nlibrary_name: keras\npipeline_tag: image-classification\ntags:\n- keras\n- kerasimg\n---\n\n"
        return f"{head}# {markdown(opened.manifest.name)}\n\nAn image classifier.\n\n{use}"
    # The card of a run tells how to use the run's own files, which are not here.
    replaced, count = re.subn(r"(?ms)^## Use\n.*?(?=^## |\Z)", lambda _: f"{use}\n", card, count=1)
    return replaced if count else f"{card}\n{use}"


def _packed(run: ClassifierReference, place: Path) -> Path:
    from kerasimg.deploy.sharing import pack

    return pack(run, place / FILE)


@contextmanager
def _talking(repo: str) -> Iterator[HfApi]:
    """The hub's client; what it raises becomes an error that says what to do."""
    with needs(EXTRA, CLIENT):
        import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    hub = huggingface_hub.HfApi(library_name="kerasimg")
    try:
        yield hub
    except HFValidationError:
        raise CallError(f"repo: expected OWNER/NAME, letters, digits, - _ and . in each, got '{repo}'") from None
    except Exception as error:
        if (said := _told(error, str(hub.endpoint), repo)) is None:
            raise
        raise CallError(f"{repo}: {said}") from None


def _told(error: Exception, endpoint: str, repo: str) -> str | None:
    """What is to be said of an error; None where it is neither the client's nor its HTTP library's."""
    from huggingface_hub import errors

    # Some are kinds of one further down.
    known: dict[type[Exception], str] = {
        errors.RevisionNotFoundError: f"it has no such revision; see {endpoint}/{repo}/commits/main",
        errors.GatedRepoError: f"its owner must let you in: ask at {endpoint}/{repo}, and {LOG_IN}",
        errors.RepositoryNotFoundError: f"no such model at {endpoint}, or a private one: {LOG_IN}",
        errors.LocalTokenNotFoundError: f"{endpoint} must know who you are: {LOG_IN}",
        errors.LocalEntryNotFoundError: f"{endpoint} cannot be reached (HF_HUB_OFFLINE is set, or no network)",
        errors.EntryNotFoundError: f"it holds no {FILE}; only what kerasimg run push put there can be pulled",
    }
    for kind, said in known.items():
        if isinstance(error, kind):
            return said
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"{endpoint} refuses ({status}): {LOG_IN} with a token that may write"
        return f"{endpoint} answers {status}: {error.server_message or _first_line(error)}"
    # The client wraps what stops an upload, and lets errors of its HTTP library through, whose name changes.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if type(cause).__module__.startswith(CLIENT):
        return f"{endpoint} does not answer as its client expects: {_first_line(cause)}"
    reached = not type(cause).__module__.startswith(("httpx", "httpcore"))
    return None if reached else f"{endpoint} cannot be reached: {_first_line(cause)}"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
