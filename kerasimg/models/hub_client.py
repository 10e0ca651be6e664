"""The client of the Hugging Face Hub, whose exceptions become errors that say what to do.

`HF_TOKEN`, `HF_ENDPOINT`, `hf auth login` and its proxy settings apply, for it is the hub's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kerasimg.errors import CallError, needs

if TYPE_CHECKING:
    from huggingface_hub import HfApi

EXTRA, CLIENT = "hub", "huggingface_hub"
LOG_IN = "log in (hf auth login) or set HF_TOKEN"


@contextmanager
def hub_client(repo: str, missing: str = "") -> Iterator[HfApi]:
    """Yields the hub's client; turns its exceptions into CallErrors that say what to do.

    missing: the message where the repository has no such file.
    """
    with needs(EXTRA, CLIENT):
        import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    hub = huggingface_hub.HfApi(library_name="kerasimg")
    try:
        yield hub
    except HFValidationError:
        raise CallError(f"repo: expected OWNER/NAME, each of letters, digits, -, _ and ., got '{repo}'") from None
    except Exception as error:
        if (message := _describe_error(error, str(hub.endpoint), repo, missing)) is None:
            raise
        raise CallError(f"{repo}: {message}") from None


def _describe_error(error: Exception, endpoint: str, repo: str, missing: str) -> str | None:
    """Returns the message for an error of the client or its HTTP library; None for other errors."""
    from huggingface_hub import errors

    # Some are subclasses of a later one.
    known: dict[type[Exception], str] = {
        errors.RevisionNotFoundError: f"no such revision; see {endpoint}/{repo}/commits/main",
        errors.GatedRepoError: f"access is restricted: request access at {endpoint}/{repo}, then {LOG_IN}",
        errors.RepositoryNotFoundError: f"no such model at {endpoint}, or it is private: {LOG_IN}",
        errors.LocalTokenNotFoundError: f"{endpoint} requires authentication: {LOG_IN}",
        errors.LocalEntryNotFoundError: f"{endpoint} cannot be reached (HF_HUB_OFFLINE is set, or no network)",
        errors.EntryNotFoundError: missing or "the repository has no such file",
    }
    for kind, message in known.items():
        if isinstance(error, kind):
            return message
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"{endpoint} denied access ({status}): {LOG_IN} with a token with write permission"
        return f"{endpoint} responded with status {status}: {error.server_message or _first_line(error)}"
    # The client wraps errors of an upload; errors of its HTTP library, which varies, pass through.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if type(cause).__module__.startswith(CLIENT):
        return f"{endpoint} sent an unexpected response: {_first_line(cause)}"
    foreign = not type(cause).__module__.startswith(("httpx", "httpcore"))
    return None if foreign else f"{endpoint} cannot be reached: {_first_line(cause)}"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
