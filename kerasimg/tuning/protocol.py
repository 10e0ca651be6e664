"""The messages between the processes of a search: JSON over gRPC, checked before anything changes.

The metadata of each call holds the shared token, the random number of the search, the digest of all that a score
depends on, and the name of the worker. A chief refuses a call if one of them is missing or wrong. So a worker of
another search, a worker with other images, or a stranger can neither get a trial nor send a result.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, model_validator

from kerasimg.boundary import limit, parse_json
from kerasimg.errors import CallError
from kerasimg.tuning.journal import Ended

SERVICE: Final = "kerasimg.Search"
TOKEN_VARIABLE: Final = "KERASIMG_TOKEN"
TOKEN_FILE: Final = ".token"
"""In the folder of a search, for its owner only."""
TOKEN, SEARCH, DIGEST, WORKER, HOST = ("kerasimg-" + name for name in ("token", "search", "digest", "worker", "host"))
"""The keys of the metadata."""
PATIENCE_S = 600.0
"""How long a worker waits for a chief that does not answer, and a chief for workers."""
HOST_NAME = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\]|::")
PORT = re.compile("[0-9]{1,5}")
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,255}")

Trial = Annotated[str, Field(pattern=r"^[0-9]{4,9}$")]
NOT_FINITE = ("nan", "inf", "-inf")
"""JSON has no NaN and no infinity: they are sent as strings."""


def _number(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, str) and value not in NOT_FINITE):
        raise ValueError("expected a number")
    return value


Figure = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, Strict()]


class Message(BaseModel):
    """A request of a worker."""

    model_config = ConfigDict(extra="forbid")


class Join(Message):
    """The first request: the worker's `Task.identity`."""

    identity: Annotated[dict[str, Annotated[str, Field(max_length=200)]], Field(max_length=32)]


class Next(Message):
    """The worker requests a trial."""


class Alive(Message):
    """The worker is alive and trains this trial."""

    trial: Trial | None = None


class Epoch(Message):
    """The objective after an epoch, counted from 0."""

    trial: Trial
    step: Annotated[Whole, Field(ge=0, le=1_000_000)]
    value: Figure


class Result(Message):
    """The result of a trial: `Ended`."""

    status: Literal["completed", "stopped", "infeasible", "failed"]
    score: Figure | None
    seconds: Annotated[Figure, Field(ge=0, allow_inf_nan=False)]
    curve: list[Figure] = []
    best_epoch: Annotated[Whole, Field(ge=1)] | None = None
    reason: Annotated[str, Field(max_length=20_000)] | None = None
    scores: list[Figure] = []
    rows: list[dict[Annotated[str, Field(max_length=200)], Figure]] = []
    figures: Annotated[dict[Annotated[str, Field(max_length=200)], Figure], Field(max_length=32)] = {}

    @model_validator(mode="after")
    def _check(self) -> Result:
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError("score: expected a finite number")
        if self.status in ("completed", "stopped") and self.score is None:
            raise ValueError(f"score: a trial that is {self.status} has one")
        return self


class End(Message):
    """A trial has ended."""

    trial: Trial
    ended: Result


class Leave(Message):
    """The worker ends; another one gets its trial."""


REQUESTS: Final[Mapping[str, type[Message]]] = {kind.__name__: kind for kind in (Join, Next, Alive, Epoch, End, Leave)}
"""Method -> the class of its request."""


def encode(content: Mapping[str, Any]) -> bytes:
    """Returns a message as bytes."""
    return json.dumps(_plain(content), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def decode(kind: type[Message], content: bytes) -> Any:
    """Parses a request; ValueError with a message of one line if it is not valid."""
    try:
        return kind.model_validate(parse_json(content, most=limit("grpc_message_bytes")))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or kind.__name__}: {first['msg']}") from None


def end_message(trial: str, ended: Ended) -> bytes:
    """Returns the message that a trial has ended, without its epochs if the message would be too large."""
    result = asdict(ended)
    result["reason"] = None if ended.reason is None else ended.reason[:20_000]
    content = encode({"trial": trial, "ended": result})
    if len(content) > limit("grpc_message_bytes") // 2:
        content = encode({"trial": trial, "ended": {**result, "rows": []}})
    return content


def address_of(text: str) -> tuple[str, str]:
    """Splits HOST:PORT; CallError for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not HOST_NAME.fullmatch(host) or not PORT.fullmatch(port) or int(port) > 65535:
        six = f"; an IPv6 address has brackets: [{host}]:{port}" if host.count(":") > 1 and "[" not in host else ""
        raise CallError(f"expected HOST:PORT, got '{text}'{six}")
    return host, port


def given_token(given: str | None) -> str | None:
    """Returns the token of a call, else that of the environment; CallError if it is not valid."""
    token = os.environ.get(TOKEN_VARIABLE) if given is None else given
    if token is not None and not re.fullmatch(r"[!-~]{8,255}", token):
        raise CallError("the token: expected 8 to 255 printable ASCII characters without spaces")
    return token


def token_of(folder: Path, given: str | None = None) -> str:
    """Returns the token of a search, and stores it: the given one, else that of its folder, else a new one."""
    path = folder / TOKEN_FILE
    if given is None and path.is_file():
        return path.read_text(encoding="ascii").strip()
    token = given or secrets.token_hex(16)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(token + "\n")
    return token


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Sequence[str]:
    """Returns the differences between two identities in words; digests are not printed."""
    words = {
        "spec": "another spec, or other values of its params (SPEC, --set)",
        "data": "other images, labels or classes (--data): names, order and SHA-256 of all must be equal",
        "columns": "other columns in its manifest: sample weights, groups, or soft labels",
        "files": "another teacher, or another content of a weights file that the spec names",
        "options": "other options (--weights, --limit, --on-bad-image)",
    }
    return [
        words.get(name, f"{name} {theirs.get(name, 'none')} instead of {ours.get(name, 'none')}")
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    ]
