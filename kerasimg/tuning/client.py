"""A worker's end of a search over several processes or machines: KerasTuner's client, made patient."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]

from kerasimg.errors import CallError, KerasimgError
from kerasimg.keras_internals import oracle_client_class
from kerasimg.tuning.administration import SPEC

OracleClient: Any = oracle_client_class()
Answer = TypeVar("Answer")

PATIENCE_S = 600.0
"""How long a worker waits for a chief that is not there (yet, or again)."""
ASK_AGAIN_S = 0.2
HEARTBEAT_S = 5.0
LOOK_S = 0.2
"""How often a worker looks whether the process that began it is still there."""


class PatientClient(OracleClient):
    """The oracle, as a worker sees it."""

    def __init__(self, oracle: Any, digest: str) -> None:
        """oracle: one of the same kind as the chief's, of which only the settings are asked.

        digest: of the spec and the classes, which must be the chief's.
        """
        super().__init__(oracle)
        self.digest = digest
        self.address = f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"

    def create_trial(self, tuner_id: str) -> Any:
        """The next trial, waited for."""
        while True:
            trial = self._patiently(lambda: OracleClient.create_trial(self, tuner_id))
            if trial.status != "IDLE":
                break
            time.sleep(ASK_AGAIN_S)
        if trial.status == "RUNNING" and trial.hyperparameters.values.get(SPEC) != self.digest:
            raise CallError(
                f"the chief at {self.address} searches another spec, or over other classes or pictures; start its "
                "workers with the same SPEC, --set and --data"
            )
        return trial

    def update_trial(self, trial_id: str, metrics: Any, step: int = 0) -> Any:
        """Tell of an epoch."""
        return self._patiently(lambda: OracleClient.update_trial(self, trial_id, metrics, step))

    def end_trial(self, trial: Any) -> None:
        """Tell what became of a trial."""
        self._patiently(lambda: OracleClient.end_trial(self, trial))

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """An answer; a chief that is gone may come back. Each request may be sent twice without harm."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask()
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise KerasimgError(f"the chief at {self.address} answers: {error.details()}") from None
                if time.monotonic() > end:
                    raise KerasimgError(
                        f"no chief at {self.address} for {PATIENCE_S:.0f} s; start it, or go on with it by --resume"
                    ) from None
                time.sleep(ASK_AGAIN_S)

    @contextmanager
    def alive(self, trial_id: str) -> Any:
        """Let the chief know, now and then, that a trial is being worked on."""
        done = threading.Event()

        def tell() -> None:
            while not done.wait(HEARTBEAT_S):
                with suppress(grpc.RpcError):
                    self.get_trial(trial_id)

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()


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
