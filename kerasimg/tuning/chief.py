"""The chief of a parallel search: the gRPC service that hands out trials, and the worker processes that it starts."""

from __future__ import annotations

import hmac
import math
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import asdict, dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]

from kerasimg import log
from kerasimg.boundary import limit
from kerasimg.errors import CallError, KerasimgError, counted, listed
from kerasimg.tuning import protocol
from kerasimg.tuning.ask_tell import SILENCE_S
from kerasimg.tuning.journal import Ended
from kerasimg.tuning.protocol import PATIENCE_S, address_of

WORKER = """
from kerasimg.backend import load_keras
load_keras()
from kerasimg.tuning.worker import main
main()
"""
"""What the process of a worker runs."""
LOOK_S = 0.1
LINGER_S, LINGER_MOST_S = 5.0, 30.0
"""How long a chief waits at the end, so that workers elsewhere learn of it: at least, and at most."""
LOST_TO_GIVE_UP = 3
"""Number of workers that may be lost in a row without any trial ending in between."""
USERS_FAULT = (2, 3)
"""Exit codes of a worker that another one would repeat: the call or the spec is wrong, or the data."""


class _Refused(Exception):
    """The reason why a call is refused."""

    def __init__(self, code: Any, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass
class Presence:
    """A worker, as the chief knows it."""

    host: str
    heard: float
    """When it last called, by the monotonic clock."""
    informed: bool = False
    """Whether it was informed that the search has ended."""
    missed: bool = False
    """Whether its silence was reported."""


class Service:
    """Serves the requests of workers to an oracle on a port."""

    def __init__(self, address: str) -> None:
        """Bind the port; requests are answered after `serve`.

        Args:
            address: HOST:PORT; port 0: any free port.

        Raises:
            CallError: if the port is taken, or the host is another machine.
        """
        host, port = address_of(address)
        # Without this a second chief could take the same port, and get half of the requests.
        options = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", limit("grpc_message_bytes")))
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=options)
        self.address = address
        try:
            self.port = self.server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise CallError(f"{address} cannot be listened at: the port is taken, or the host is not this one")
        here = "127.0.0.1" if host in ("0.0.0.0", "[::]", "::") else host
        self.address_here = f"{here}:{self.port}"
        """Where workers on this machine reach it."""
        self.workers: dict[str, Presence] = {}
        self.failure: BaseException | None = None
        """The error in an answer after which the chief cannot continue."""
        self._guard = threading.Lock()

    def serve(self, oracle: Any, search: str, token: str, identity: Mapping[str, str], digest: str) -> None:
        """Answer the workers that have the token.

        search: the number of the search.  identity, digest: those of the task, which must equal the worker's.
        """
        self.oracle, self.search, self.token = oracle, search, token
        self.identity, self.digest = identity, digest
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._answers(name, kind))
            for name, kind in protocol.REQUESTS.items()
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(protocol.SERVICE, handlers),))
        self.server.start()

    def _answers(self, name: str, kind: type[protocol.Message]) -> Callable[[bytes, Any], bytes]:
        handle = getattr(self, f"_{name.lower()}")

        def answer(content: bytes, context: Any) -> bytes:
            try:
                worker = self._caller(context, name)
                if self.failure is not None:
                    raise _Refused(grpc.StatusCode.UNAVAILABLE, "the chief failed")
                try:
                    request = protocol.decode(kind, content)
                except ValueError as error:
                    raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
                return protocol.encode(handle(worker, request))
            except _Refused as refusal:
                code, reason = refusal.code, str(refusal)
            except CallError as error:
                code, reason = grpc.StatusCode.NOT_FOUND, str(error)
            except Exception as error:  # the chief's error, not the worker's, which waits for a resumed search
                self.failure = self.failure or error
                code, reason = grpc.StatusCode.UNAVAILABLE, "the chief failed"
            context.abort(code, reason)
            raise AssertionError("abort raises")

        return answer

    def _caller(self, context: Any, name: str) -> str:
        """Returns the name of the calling worker, after checking that it belongs to this search."""
        facts = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        if not hmac.compare_digest(facts.get(protocol.TOKEN, "").encode(), self.token.encode()):
            raise _Refused(grpc.StatusCode.UNAUTHENTICATED, "its token is not that of the search")
        worker, host = facts.get(protocol.WORKER, ""), facts.get(protocol.HOST, "")
        if not (protocol.NAME.fullmatch(worker) and protocol.NAME.fullmatch(host)):
            raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, "it does not say who it is")
        if name != "Join":
            if facts.get(protocol.SEARCH) != self.search:
                raise _Refused(grpc.StatusCode.FAILED_PRECONDITION, "another search is led here now")
            if facts.get(protocol.DIGEST) != self.digest:
                raise _Refused(grpc.StatusCode.FAILED_PRECONDITION, "it has another spec, other data or versions")
            self._note(worker, host)
        return worker

    def _note(self, worker: str, host: str) -> None:
        with self._guard:
            known = self.workers.get(worker)
            if known is None:
                self.workers[worker] = Presence(host, time.monotonic())
                return
            known.heard = time.monotonic()
            if known.missed:
                known.missed = False
                log.info(f"the worker on {host} is back")

    def _join(self, worker: str, request: protocol.Join) -> dict[str, Any]:
        if different := protocol.differences(self.identity, request.identity):
            raise _Refused(grpc.StatusCode.FAILED_PRECONDITION, f"it has {'; '.join(different)}")
        return {"search": self.search}

    def _next(self, worker: str, request: protocol.Next) -> dict[str, Any]:
        answer = self.oracle.create_trial(worker, self.workers[worker].host)
        if answer.status == "STOPPED":
            self.workers[worker].informed = True
        return {"status": answer.status, "order": answer.order and asdict(answer.order)}

    def _alive(self, worker: str, request: protocol.Alive) -> dict[str, Any]:
        if request.trial is not None:
            self.oracle.note_alive(request.trial)
        return {}

    def _epoch(self, worker: str, request: protocol.Epoch) -> dict[str, Any]:
        figures = {self.oracle.goal.figure: request.value}
        return {"stop": self.oracle.update_trial(request.trial, figures, step=request.step)}

    def _end(self, worker: str, request: protocol.End) -> dict[str, Any]:
        self.oracle.end_trial(request.trial, Ended(**request.ended.model_dump()), self.workers[worker].host)
        return {}

    def _leave(self, worker: str, request: protocol.Leave) -> dict[str, Any]:
        self.oracle.give_back(worker)
        with self._guard:
            # It stays in the table: another of its requests may still be in work.
            gone = self.workers[worker]
            gone.heard, gone.informed = -math.inf, True
        return {}

    def present(self) -> list[Presence]:
        """Returns the workers that called within the last minute, and reports each missing one once."""
        now = time.monotonic()
        with self._guard:
            for worker in self.workers.values():
                if now - worker.heard > SILENCE_S and not worker.missed and not worker.informed:
                    worker.missed = True
                    log.info(f"nothing was heard of the worker on {worker.host} for {SILENCE_S:.0f} s")
            return [worker for worker in self.workers.values() if now - worker.heard <= SILENCE_S]

    def linger(self) -> None:
        """Wait until the workers have learned that the search has ended."""
        started = time.monotonic()
        while (passed := time.monotonic() - started) < LINGER_MOST_S:
            if passed > LINGER_S and all(worker.informed for worker in self.present()):
                return
            time.sleep(LOOK_S)

    def close(self) -> None:
        """Stop the server after the pending answers."""
        self.server.stop(1).wait()


class _Attendance:
    """Reports when no worker is connected, and ends a search whose workers have all left."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.since = time.monotonic()
        """When the last worker was seen."""
        self.hosts: dict[str, None] = {}
        self.said = False

    def look(self, crew: bool, finished: int) -> None:
        """Check the workers; KerasimgError if all of them have been gone for PATIENCE_S.

        crew: whether this machine has workers.  finished: number of trials that have ended.
        """
        present = self.service.present()
        self.hosts |= dict.fromkeys(worker.host for worker in present)
        if present or crew:
            self.since, self.said = time.monotonic(), False
            return
        away_s = time.monotonic() - self.since
        if self.hosts and away_s > PATIENCE_S:
            raise KerasimgError(
                f"no worker has been there for {PATIENCE_S:.0f} s (the last were on {listed(self.hosts)}); "
                f"{counted(finished, 'trial', 'are')} saved, and kerasimg tune --resume continues from them"
            )
        if not self.said and away_s > (LOOK_S if self.hosts else SILENCE_S):
            self.said = True
            if self.hosts:
                log.info(
                    f"no worker is left (they were on {listed(self.hosts)}); the search ends unless one comes within "
                    f"{PATIENCE_S / 60:.0f} min"
                )
            else:
                log.info(f"no worker has come yet to {self.service.address}; it is waited for")


class Workers:
    """Worker processes on this machine, restarted if they end too early."""

    def __init__(self, count: int, oracle: Any, address: str, arguments: Sequence[str]) -> None:
        """arguments: those of `kerasimg.tuning.worker.main` after the address."""
        self.oracle, self.address, self.arguments = oracle, address, list(arguments)
        self.cores = share_of_cores(count)
        self.processes: dict[int, tuple[subprocess.Popen[bytes], str, Any]] = {}
        self.lost = 0
        self._ended_when_lost = -1
        # TensorFlow writes code there that a killed process does not remove.
        self._temporary = tempfile.TemporaryDirectory(prefix="kerasimg-", ignore_cleanup_errors=True)
        for number in range(count):
            self._begin(number)

    def _begin(self, number: int) -> None:
        tuner_id = f"worker-{number}-{secrets.token_hex(4)}"
        output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        command = [sys.executable, "-c", WORKER, self.address, *self.arguments]
        command += ["--name", tuner_id, "--parent", str(os.getpid())]
        process = subprocess.Popen(command, env=self._environment(number), stdout=output, stderr=output)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, self.cores[number])
        self.processes[number] = process, tuner_id, output

    def _environment(self, number: int) -> dict[str, str]:
        threads = str(len(self.cores[number]))
        own = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        own |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "TMPDIR": self._temporary.name}
        if "," in (devices := os.environ.get("CUDA_VISIBLE_DEVICES", "")):
            each = devices.split(",")
            own["CUDA_VISIBLE_DEVICES"] = each[number % len(each)]
        return {**os.environ, **own}

    def look(self) -> bool:
        """Restart workers that ended too early; return whether any is left. KerasimgError if a restart cannot help."""
        for number, (process, tuner_id, output) in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes[number]
            self.oracle.give_back(tuner_id)
            if not self.oracle.over:
                if code != 0:
                    self._lost(number, code, output)
                else:
                    self._begin(number)  # it had used too much memory
            output.close()
        return bool(self.processes)

    def _lost(self, number: int, code: int, output: Any) -> None:
        output.seek(0)
        text = output.read().decode("utf-8", "replace").strip()
        ended = len(self.oracle.ended)
        self.lost = self.lost + 1 if ended == self._ended_when_lost else 1
        self._ended_when_lost = ended
        if code in USERS_FAULT or self.lost >= LOST_TO_GIVE_UP:
            raise KerasimgError(f"a worker ended with code {code}: {text[-2000:] or 'it said nothing'}")
        why = f"signal {-code}" if code < 0 else f"code {code}"
        log.info(f"worker {number + 1} ended by {why}; another takes its place")
        self._begin(number)

    def close(self) -> None:
        """Kill the remaining processes."""
        for process, _, output in self.processes.values():
            process.kill()
            process.wait()
            output.close()
        self.processes.clear()
        self._temporary.cleanup()


def lead(oracle: Any, workers: int, service: Service, arguments: Sequence[str], *, elsewhere: bool) -> None:
    """Hand out trials until none is left, to `workers` processes on this machine and to workers elsewhere.

    elsewhere: whether workers may come from other machines.
    """
    crew = Workers(workers, oracle, service.address_here, arguments)
    attendance = _Attendance(service)
    try:
        while (left := crew.look()) or (elsewhere and not oracle.over):
            if service.failure is not None:
                raise service.failure
            oracle.take_back_lost()
            if elsewhere:
                attendance.look(left, len(oracle.ended))
            time.sleep(LOOK_S)
        if service.failure is not None:
            raise service.failure
        if elsewhere:
            service.linger()
    finally:
        crew.close()
        service.close()


def share_of_cores(count: int) -> list[list[int]]:
    """Returns the cores of each of `count` workers, a share of those that this process may use, at least one each."""
    available = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    )
    if count >= len(available):
        return [[available[number % len(available)]] for number in range(count)]
    return [available[number::count] for number in range(count)]
