"""`kerasimg serve`: opens a bundle and serves it over HTTP until the process is stopped."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kerasimg import log
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import FILE
from kerasimg.deploy.serve.settings import NAMES, Settings, key_from_environment
from kerasimg.deploy.targets import served
from kerasimg.errors import CallError, KerasimgError, nearest
from kerasimg.keras_internals import serve_in_processes
from kerasimg.log import Verbose
from kerasimg.run_folder import RunFolder
from kerasimg.spec.pack import SUFFIX, Pack, is_pack
from kerasimg.staleness import stale_bundle

REQUIRED_PACKAGES = ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client")
"""Packages of the extra `serve`; a missing runtime is reported when it is opened."""

WORKER_VARIABLE = "KERASIMG_SERVE"
"""Environment variable that tells server processes what to serve: folder, line feed, settings."""

BACKLOG = 2048
"""Connections that the system queues until they are accepted."""


@log.applies_verbose
def serve(
    source: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    api_key: str | None = None,
    verbose: Verbose = 1,
    **settings: Any,
) -> None:
    """Serves an exported model over HTTP until the process receives SIGTERM or Ctrl-C.

    Args:
        source: folder of an export bundle or of a run, or a `.kerasimg` file. The LiteRT, ONNX or OpenVINO export of a
            run is served. A run without one, or a pack, is exported for LiteRT first, in a separate process.
        host: address to listen on; 127.0.0.1 accepts connections from this machine only.
        port: 0: any free port.
        workers: number of server processes.
        api_key: key that requests must send; default: `$KERASIMG_API_KEY`. Without either, no key is required.
        verbose: 0: silent. 1 or 2: messages.
        **settings: limits and options, see docs/serve.md: threads, model, name, top, max_bytes, timeout_s, ...

    Raises:
        CallError: if the source cannot be served, a setting does not exist, or a package is missing.

    Example:
        >>> kerasimg.serve("runs/photos-1", port=8000)  # doctest: +SKIP
    """
    for name in settings:
        if name not in NAMES:
            raise CallError(f"serve has no setting '{name}'{nearest(name, NAMES)}")
    for package in REQUIRED_PACKAGES:
        if find_spec(package) is None:
            raise CallError(f'{package} is not installed: pip install "kerasimg[serve]"')
    configured = Settings(host=host, port=port, workers=workers, **settings)
    if api_key is not None:
        os.environ["KERASIMG_API_KEY"] = api_key
    key = key_from_environment()
    folder = bundle_of(source)
    if stale := stale_bundle(folder):
        log.warning(str(stale))
    with _open_socket(configured) as listener:
        address = _address(listener)
        (_serve_in_workers if configured.workers > 1 else _serve_here)(folder, configured, key, listener, address)


def bundle_of(source: str | os.PathLike[str]) -> Path:
    """Returns the bundle folder for a bundle, a run or a pack; exports it first if necessary."""
    folder = Path(source)
    if is_pack(folder):
        return _export_pack(folder)
    if (folder / FILE).is_file():
        return folder
    files = RunFolder(folder)
    model = files.model_file
    if not model.is_file():
        raise CallError(f"'{folder}' is neither a bundle ({FILE}) nor a run ({model.name}) nor a pack ({SUFFIX})")
    for target in served():
        manifest = files.exports / target / FILE
        if manifest.is_file():
            return manifest.parent
    log.info(f"{folder} has no export yet; making one: kerasimg export {folder} --to litert")
    _export(folder, files.exports)
    return files.exports / "litert"


def _export_pack(pack: Path) -> Path:
    """Exports a pack to a temporary folder that is deleted when this process ends."""
    Pack(pack)  # reports errors before anything is written
    temporary = Path(tempfile.mkdtemp(prefix="kerasimg-serve-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    log.info(
        f"exporting {pack}; to start at once next time: kerasimg export {pack} --to litert --out DIR, and serve that"
    )
    _export(pack, temporary)
    return temporary / "litert"


def _export(source: Path, out: Path) -> None:
    """Exports in a separate process: this one must not load TensorFlow."""
    command = [sys.executable, "-m", "kerasimg", "export", str(source), "--to", "litert", "--out", str(out)]
    command.append("--allow-uncompared")  # a pack of an earlier version has no test vectors
    if code := subprocess.run(command, check=False).returncode:
        raise KerasimgError(f"'{source}' could not be exported (exit code {code}); see the error above")


def create_worker_app() -> Any:
    """Creates the application of a server process from the environment that its parent has set."""
    folder, _, settings = os.environ[WORKER_VARIABLE].partition("\n")
    return _application(Path(folder), Settings.from_json(settings), key_from_environment())


def _application(folder: Path, settings: Settings, key: str | None) -> Any:
    from kerasimg.deploy.serve.app import create_app
    from kerasimg.deploy.serve.middleware import set_up_logging
    from kerasimg.deploy.serve.service import Service
    from kerasimg.deploy.serve.session import Model
    from kerasimg.deploy.serve.workers import limit_memory

    set_up_logging()
    limit_memory(settings.max_pixels)
    return create_app(Service(Model.open(Bundle.open(folder), settings), settings), key=key)


def _serve_here(folder: Path, settings: Settings, key: str | None, listener: socket.socket, address: str) -> None:
    """Serves in this process."""
    application = _application(folder, settings, key)
    import uvicorn

    # uvicorn raises the signal that stopped it again; a stopped server is not a failure.
    before = {number: signal.signal(number, _ignore_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        log.info(_startup_message(folder, settings, address))
        uvicorn.Server(_uvicorn_config(application, settings)).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve_in_workers(folder: Path, settings: Settings, key: str | None, listener: socket.socket, address: str) -> None:
    """Serves in several processes; one that dies is replaced."""
    from kerasimg.deploy.serve.metrics import MULTIPROCESS_DIR
    from kerasimg.deploy.serve.middleware import set_up_logging

    Bundle.open(folder).model(settings.model)  # reports errors once, not in every process
    set_up_logging()
    with tempfile.TemporaryDirectory(prefix="kerasimg-serve-") as shared:
        variables = {WORKER_VARIABLE: f"{folder.resolve()}\n{settings.to_json()}", MULTIPROCESS_DIR: shared}
        os.environ |= variables
        try:
            log.info(_startup_message(folder, settings, address))
            serve_in_processes(_uvicorn_config(f"{__name__}:create_worker_app", settings, factory=True), [listener])
        finally:
            for name in variables:
                del os.environ[name]


def _uvicorn_config(application: Any, settings: Settings, **more: Any) -> Any:
    import uvicorn

    from kerasimg.deploy.serve.guard import GuardedProtocol

    return uvicorn.Config(
        application,
        workers=settings.workers,
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.timeout_s) + 5,
        **more,
    )


def _open_socket(settings: Settings) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise CallError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}") from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _startup_message(folder: Path, settings: Settings, address: str) -> str:
    return f"serving {folder} at {address} (page: /, description: /docs); Ctrl-C stops it"


def _ignore_signal(number: int, frame: Any) -> None:
    """Does nothing."""
