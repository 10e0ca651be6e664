"""The one process of a parallel search that decides what is tried: KerasTuner's service, and the workers it watches."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import grpc  # type: ignore[import-untyped]

from kerasimg import log
from kerasimg.errors import CallError, KerasimgError
from kerasimg.keras_internals import add_oracle_service
from kerasimg.tuning.client import address_of

LOOK_S = 0.1
LINGER_S = 5.0
"""How long a chief stays, at the end, for workers elsewhere to hear of it."""
LOST_TO_GIVE_UP = 3
"""Workers that end, one after the other, before any trial has."""
USERS_FAULT = (2, 3)
"""Exit codes of a worker that would be the same of another: the call or the spec, the data."""


class Service:
    """KerasTuner's service for an oracle, on a port."""

    def __init__(self, oracle: Any, address: str) -> None:
        """address: HOST:PORT; port 0: any that is free."""
        host, port = address_of(address)
        # Without this a second chief could take the same port, and get half of the requests.
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=(("grpc.so_reuseport", 0),))
        add_oracle_service(oracle, self.server)
        try:
            self.port = self.server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise CallError(f"{address} cannot be listened at: the port is taken, or the host is not this one")
        self.server.start()

    def close(self) -> None:
        """End it, after the answers that are on their way."""
        self.server.stop(1).wait()


class Workers:
    """Processes on this machine, begun again when they end too early."""

    def __init__(self, count: int, oracle: Any, port: int, arguments: Sequence[str]) -> None:
        """arguments: of `python -m kerasimg.tuning.worker`, but for the address."""
        self.oracle, self.port, self.arguments = oracle, port, list(arguments)
        self.cores = share_of_cores(count)
        self.processes: dict[int, tuple[subprocess.Popen[bytes], str, Any]] = {}
        self.lost = 0
        self._ended_when_lost = -1
        for number in range(count):
            self._begin(number)

    def _begin(self, number: int) -> None:
        tuner_id = f"worker-{number}-{secrets.token_hex(4)}"
        told = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        command = [sys.executable, "-m", "kerasimg.tuning.worker", f"127.0.0.1:{self.port}", *self.arguments]
        cores = self.cores[number]
        command += ["--cores", ",".join(map(str, cores)), "--parent", str(os.getpid())]
        process = subprocess.Popen(command, env=self._environment(number, tuner_id), stdout=told, stderr=told)
        self.processes[number] = process, tuner_id, told

    def _environment(self, number: int, tuner_id: str) -> dict[str, str]:
        threads = str(len(self.cores[number]))
        own = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        own |= {"KERASTUNER_TUNER_ID": tuner_id, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        if "," in (devices := os.environ.get("CUDA_VISIBLE_DEVICES", "")):
            each = devices.split(",")
            own["CUDA_VISIBLE_DEVICES"] = each[number % len(each)]
        return {**os.environ, **own}

    def look(self) -> bool:
        """Begin again what has ended too early; whether any worker is left. KerasimgError where it cannot help."""
        for number, (process, tuner_id, told) in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes[number]
            self.oracle.give_back(tuner_id)
            if not self.oracle.over:
                if code != 0:
                    self._lost(number, code, told)
                else:
                    self._begin(number)  # it had taken much memory
            told.close()
        return bool(self.processes)

    def _lost(self, number: int, code: int, told: Any) -> None:
        told.seek(0)
        text = told.read().decode("utf-8", "replace").strip()
        ended = len(self.oracle.ended)
        self.lost = self.lost + 1 if ended == self._ended_when_lost else 1
        self._ended_when_lost = ended
        if code in USERS_FAULT or self.lost >= LOST_TO_GIVE_UP:
            raise KerasimgError(f"a worker ended with code {code}: {text[-2000:] or 'it said nothing'}")
        why = f"signal {-code}" if code < 0 else f"code {code}"
        log.info(f"worker {number + 1} ended by {why}; another takes its place")
        self._begin(number)

    def close(self) -> None:
        """End all that are left."""
        for process, _, told in self.processes.values():
            process.kill()
            process.wait()
            told.close()
        self.processes.clear()


def lead(oracle: Any, workers: int, address: str | None, arguments: Sequence[str]) -> None:
    """Hand out trials until none is left: to so many workers on this machine, and to whoever comes to `address`.

    address: HOST:PORT for workers elsewhere; None: for those on this machine only.
    """
    service = Service(oracle, address or "127.0.0.1:0")
    crew = Workers(workers, oracle, service.port, arguments)
    try:
        if address is not None:
            log.info(f"workers may come to {address}: kerasimg tune SPEC --data DIR --worker HOST:{service.port}")
        while crew.look() or (address is not None and not oracle.over):
            time.sleep(LOOK_S)
        if address is not None:
            time.sleep(LINGER_S)
    finally:
        crew.close()
        service.close()


def share_of_cores(count: int) -> list[list[int]]:
    """The cores of each of so many workers: shares of those that this process may use, at least one each."""
    available = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    )
    if count >= len(available):
        return [[available[number % len(available)]] for number in range(count)]
    return [available[number::count] for number in range(count)]
