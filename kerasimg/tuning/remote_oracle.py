"""A worker's end of a search over several processes or machines: the oracle of the chief, asked with patience."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import grpc  # type: ignore[import-untyped]

from kerasimg import log
from kerasimg.errors import CallError, KerasimgError
from kerasimg.tuning import protocol
from kerasimg.tuning.ask_tell import ENDED, ORDER, as_trial, this_host
from kerasimg.tuning.journal import Ended

PATIENCE_S = 600.0
"""How long a worker waits for a chief that is not there (yet, or again)."""
SAY_AFTER_S = 3.0
"""How long it does so without a word."""
CALL_S = 30.0
"""How long an answer may take: a choice of Bayesian search takes some seconds."""
ASK_AGAIN_S = 0.2
HEARTBEAT_S = 5.0
LOOK_S = 0.2
"""How often a worker looks whether the process that began it is still there."""
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION)
CHANNEL = (("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1000))


class Chief:
    """The oracle of a search, as a worker sees it."""

    def __init__(self, address: str, token: str, digest: str, worker: str) -> None:
        """address: HOST:PORT.  digest: of `Task.identity`.  worker: the name of this one, which no other has."""
        host, port = address_of(address)
        self.address = address
        self.channel = grpc.insecure_channel(f"{host}:{port}", options=CHANNEL)
        self.facts = {protocol.TOKEN: token, protocol.DIGEST: digest, protocol.WORKER: worker}
        self.facts[protocol.HOST] = this_host()
        self.trial: str | None = None
        """The one that is trained now."""

    def join(self, identity: Mapping[str, str]) -> None:
        """Say what this worker has; CallError where the chief refuses it. The chief is waited for."""
        answer = self._patiently("Join", protocol.encode({"identity": identity}))
        self.facts[protocol.SEARCH] = str(answer["search"])

    def create_trial(self, tuner_id: str) -> Any:
        """The next trial, waited for; STOPPED where the search has ended."""
        while True:
            answer = self._patiently("Next", b"{}")
            if answer["status"] != "IDLE":
                break
            time.sleep(ASK_AGAIN_S)
        if answer["status"] == "STOPPED":
            return as_trial("STOPPED", tuner_id)
        order = answer["order"]
        self.trial = str(order["trial"])
        return as_trial("RUNNING", self.trial, {ORDER: json.dumps(order)})

    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Any:
        """Report an epoch."""
        (value,) = metrics.values()
        message = protocol.encode({"trial": trial_id, "step": step, "value": float(value)})
        return as_trial(self._patiently("Epoch", message)["status"], trial_id)

    def end_trial(self, trial: Any) -> None:
        """Report what became of a trial."""
        ended = Ended.read(trial.hyperparameters.values[ENDED])
        self._patiently("End", protocol.end_message(trial.trial_id, ended))
        self.trial = None

    def _call(self, method: str, message: bytes, timeout_s: float = CALL_S) -> dict[str, Any]:
        call = self.channel.unary_unary(f"/{protocol.SERVICE}/{method}")
        return dict(json.loads(call(message, timeout=timeout_s, metadata=tuple(self.facts.items()))))

    def _patiently(self, method: str, message: bytes) -> dict[str, Any]:
        """An answer; a chief that is gone may come back. Each request may be sent twice without harm."""
        begun = time.monotonic()
        waiting = False
        while True:
            try:
                answer = self._call(method, message)
            except grpc.RpcError as error:
                self._raise_unless_away(error)
                waited_s = time.monotonic() - begun
                known = protocol.SEARCH in self.facts
                if waited_s > PATIENCE_S:
                    raise KerasimgError(
                        f"no chief at {self.address} for {PATIENCE_S:.0f} s; start it, or resume its search by --resume"
                    ) from None
                if not waiting and waited_s > SAY_AFTER_S:
                    waiting = True
                    state = "the chief is gone from" if known else "no chief at"
                    then = "" if known else " yet"
                    log.info(f"{state} {self.address}{then}; it is waited for, at most {PATIENCE_S:.0f} s")
                time.sleep(ASK_AGAIN_S)
            else:
                if waiting:
                    log.info(f"the chief at {self.address} answers")
                return answer

    def _raise_unless_away(self, error: Any) -> None:
        code = error.code()
        if code in AWAY:
            return
        if code in REFUSED:
            raise CallError(f"the chief at {self.address} refuses this worker: {error.details()}") from None
        if code == grpc.StatusCode.UNIMPLEMENTED:
            raise CallError(f"what listens at {self.address} is no chief of this version of kerasimg") from None
        raise KerasimgError(f"the chief at {self.address} answers: {error.details()}") from None

    @contextmanager
    def present(self) -> Iterator[None]:
        """Let the chief know, now and then, that this worker is there, and at the end that it is not."""
        done = threading.Event()

        def tell() -> None:
            while not done.wait(HEARTBEAT_S):
                with suppress(grpc.RpcError, ValueError):  # ValueError: the channel was closed meanwhile
                    self._call("Alive", protocol.encode({"trial": self.trial}), HEARTBEAT_S)

        threading.Thread(target=tell, daemon=True).start()
        try:
            yield
        finally:
            done.set()
            with suppress(grpc.RpcError):
                self._call("Leave", b"{}", 1.0)
            self.channel.close()


def end_with(parent: int) -> None:
    """End this process when the one that began it is gone, however that was."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def address_of(text: str) -> tuple[str, str]:
    """HOST:PORT as a pair; CallError for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise CallError(f"expected HOST:PORT, got '{text}'")
    return host, port
