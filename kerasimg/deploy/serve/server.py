"""`kerasimg serve`: opens a bundle and serves it over HTTP until the process is stopped."""

from __future__ import annotations

import atexit
import errno
import gc
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kerasimg import log
from kerasimg.backend import quiet_libraries
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import FILE
from kerasimg.deploy.parity import line_of
from kerasimg.deploy.serve.settings import NAMES, Settings, key_from_environment
from kerasimg.deploy.targets import open_runtime, served, target
from kerasimg.errors import CallError, KerasimgError, counted, nearest, needs
from kerasimg.escaping import command, one_line
from kerasimg.keras_internals import serve_in_processes
from kerasimg.log import Verbose
from kerasimg.models.keras_file import model_file
from kerasimg.run_folder import RunFolder, kind_of
from kerasimg.spec.pack import SUFFIX, Pack, is_pack
from kerasimg.staleness import stale_bundle

REQUIRED_PACKAGES = ("fastapi", "uvicorn", "httptools", "prometheus_client")
"""Packages of the extra `serve`; a missing runtime is reported when it is opened."""

WORKER_VARIABLE = "KERASIMG_SERVE"
"""Environment variable that tells server processes what to serve: a JSON list of folders, and the settings."""

BACKLOG = 2048
"""Connections that the system queues until they are accepted."""


@log.applies_verbose
def serve(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    name: str | Sequence[str] | None = None,
    api_key: str | None = None,
    verbose: Verbose = 1,
    **settings: Any,
) -> None:
    """Serves exported models over HTTP until the process receives SIGTERM or Ctrl-C.

    A bundle that is replaced on disk meanwhile is opened again.

    Args:
        source: folder of an export bundle or of a run, or a `.kerasimg` file; or several of them. The LiteRT, ONNX or
            OpenVINO export of a run is served. A run without one, or a pack, is exported for LiteRT first, in a
            separate process.
        host: address to listen on; 127.0.0.1 accepts connections from this machine only.
        port: 0: any free port.
        workers: number of server processes.
        name: name of each model in requests; by default those in the bundles, which must differ.
        api_key: key that requests must send; default: `$KERASIMG_API_KEY`. Without either, no key is required.
        verbose: 0: silent. 1 or 2: messages.
        **settings: limits and options, see docs/serve.md: threads, model, device, top, max_bytes, timeout_s, ...

    Raises:
        CallError: if the source cannot be served, a setting does not exist, or a package is missing.

    Example:
        >>> kerasimg.serve("runs/photos-1", port=8000)  # doctest: +SKIP
    """
    for setting in settings:
        if setting not in NAMES:
            raise CallError(f"serve has no setting '{setting}'{nearest(setting, NAMES)}")
    for package in REQUIRED_PACKAGES:
        if find_spec(package) is None:
            raise CallError(f'{package} is not installed: pip install "kerasimg[serve]"')
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    names = (name,) if isinstance(name, str) else tuple(name or ())
    if not sources or (names and len(names) != len(sources)):
        raise CallError(f"name: expected {len(sources)}, one for each source, got {len(names)}")
    if settings.get("grpc_port") is not None:
        quiet_libraries()
        with needs("grpc", "grpcio"):
            from kerasimg.deploy.serve.inference_grpc import serve_grpc  # noqa: F401 - fails before anything is opened
    configured = Settings(host=host, port=port, workers=workers, names=names, **settings)
    if api_key is not None:
        os.environ["KERASIMG_API_KEY"] = api_key
    key = key_from_environment()
    folders = [bundle_of(each, configured.device) for each in sources]
    for folder in folders:
        if stale := stale_bundle(folder):
            log.warning(str(stale))
    with _open_socket(configured) as listener:
        address = _address(listener)
        (_serve_in_workers if configured.workers > 1 else _serve_here)(folders, configured, key, listener, address)


def bundle_of(source: str | os.PathLike[str], device: str = "cpu") -> Path:
    """Returns the bundle folder for a bundle, a run or a pack, to run on a device; exports it first if necessary."""
    folder = Path(source)
    able = [name for name in served() if device in target(name).runtime.devices]
    if is_pack(folder):
        return _export_pack(folder, able[0])
    if (folder / FILE).is_file():
        return folder
    files = RunFolder(folder)
    model = files.model_file
    if not model.is_file():
        if kind_of(folder) is not None:
            model_file(folder)  # says what it is
        raise CallError(f"'{folder}' is neither a bundle ({FILE}) nor a run ({model.name}) nor a pack ({SUFFIX})")
    for name in able:
        manifest = files.exports / name / FILE
        if manifest.is_file():
            log.info(f"{folder}: serving its export {manifest.parent}")
            return manifest.parent
    log.info(f"{folder} has no export yet; making one: {command('export', folder, '--to', able[0])}")
    _export(folder, files.exports, able[0])
    return files.exports / able[0]


def _export_pack(pack: Path, to: str) -> Path:
    """Exports a pack to a temporary folder that is deleted when this process ends."""
    Pack(pack)  # reports errors before anything is written
    temporary = Path(tempfile.mkdtemp(prefix="kerasimg-serve-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    log.info(
        f"exporting {pack}; to start at once next time: {command('export', pack, '--to', to, '--out', 'DIR')}, and "
        "serve that"
    )
    _export(pack, temporary, to)
    return temporary / to


def _export(source: Path, out: Path, to: str) -> None:
    """Exports in a separate process, since this one must not load TensorFlow, and logs the comparisons.

    What that process prints as its result is left out: its next step is not one while the server runs.
    """
    words = [sys.executable, "-m", "kerasimg", "export", str(source), "--to", to, "--out", str(out)]
    words.append("--allow-uncompared")  # a pack of an earlier version has no test vectors
    if code := subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode:
        by_hand = command("export", source, "--to", to)
        raise KerasimgError(
            f"'{source}' could not be exported (exit code {code}); see the error above. To export it yourself, with "
            f"images in another place: {by_hand} --data DIR"
        )
    bundle = Bundle.open(out / to, check=False)
    for row in bundle.manifest.parity:
        log.info(line_of(row, bundle.task))


def create_worker_app() -> Any:
    """Creates the application of a server process from the environment that its parent has set."""
    stop_with_parent()
    folders, settings = json.loads(os.environ[WORKER_VARIABLE])
    return _application(list(map(Path, folders)), Settings.from_json(settings), key_from_environment())


def stop_with_parent() -> None:
    """Stops this process when the one that started it has ended, even if it was killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _application(folders: Sequence[Path], settings: Settings, key: str | None) -> Any:
    from kerasimg.deploy.serve.app import create_app
    from kerasimg.deploy.serve.middleware import set_up_logging
    from kerasimg.deploy.serve.reload import Reloader, Source
    from kerasimg.deploy.serve.service import Service
    from kerasimg.deploy.serve.session import Model
    from kerasimg.deploy.serve.workers import limit_memory

    set_up_logging()
    limit_memory(settings.max_pixels)
    sources = [Source(folder) for folder in folders]
    bundles = [Bundle.open(folder) for folder in folders]
    models = [
        Model.open(bundle, settings, name)
        for name, bundle in zip(_names(bundles, settings.names), bundles, strict=True)
    ]
    service = Service(models, settings)
    reloader = Reloader(service, {model.name: source for model, source in zip(models, sources, strict=True)})

    @asynccontextmanager
    async def background() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(reloader.running(settings.reload_s))
            if settings.grpc_port is not None:
                from kerasimg.deploy.serve.inference_grpc import serve_grpc

                await stack.enter_async_context(serve_grpc(service, key))
            yield

    application = create_app(service, key=key, background=background)
    gc.freeze()  # what is loaded stays; a collection that looked at all of it would stop the event loop
    return application


def _names(bundles: Sequence[Bundle], chosen: Sequence[str]) -> list[str]:
    """Returns the names of the models; raises CallError if two have the same."""
    names = list(chosen) or [bundle.manifest.name for bundle in bundles]
    for name in names:
        if names.count(name) > 1:
            raise CallError(
                f"{counted(names.count(name), 'model', 'have')} the name '{name}'; give each another: --name A --name B"
            )
        if not name.isprintable() or not name or "/" in name:  # it is in the metrics, the log and addresses
            raise CallError(
                f"name: expected printable characters without '/', got '{one_line(name)}'; choose it by --name"
            )
    return names


def _serve_here(
    folders: Sequence[Path], settings: Settings, key: str | None, listener: socket.socket, address: str
) -> None:
    """Serves in this process."""
    application = _application(folders, settings, key)
    log.info(_startup_message(folders, settings, address))
    _run(application, settings, listener)


def run_application(application: Any, settings: Settings, started: Callable[[str], None]) -> None:
    """Serves an ASGI application in this process until SIGTERM or Ctrl-C.

    Args:
        application: the application.
        settings: the address, and the limits on connections.
        started: called with the address once connections are accepted.

    Raises:
        CallError: if the port cannot be opened.
    """
    with _open_socket(settings) as listener:
        started(_address(listener))
        _run(application, settings, listener)


def _run(application: Any, settings: Settings, listener: socket.socket) -> None:
    import uvicorn

    server = uvicorn.Server(_uvicorn_config(application, settings))

    def stop(number: int, frame: Any) -> None:
        server.should_exit = True

    # Before uvicorn handles signals, they stop it as soon as it has started. Afterwards it raises the one that stopped
    # it again; a stopped server is not a failure.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve_in_workers(
    folders: Sequence[Path], settings: Settings, key: str | None, listener: socket.socket, address: str
) -> None:
    """Serves in several processes; one that dies is replaced."""
    from kerasimg.deploy.serve.metrics import MULTIPROCESS_DIR
    from kerasimg.deploy.serve.middleware import set_up_logging

    bundles = [Bundle.open(folder) for folder in folders]  # reports errors once, not in every process
    _names(bundles, settings.names)
    for bundle in bundles:
        open_runtime(bundle, settings.model, device=settings.device).close()
    set_up_logging()
    with tempfile.TemporaryDirectory(prefix="kerasimg-serve-") as shared:
        served_folders = [str(folder.resolve()) for folder in folders]
        variables = {WORKER_VARIABLE: json.dumps([served_folders, settings.to_json()]), MULTIPROCESS_DIR: shared}
        os.environ |= variables
        try:
            log.info(_startup_message(folders, settings, address))
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
        why = error.strerror or error
        if error.errno == errno.EADDRINUSE:
            why = "another program uses the port; choose one by --port (0: any free port)"
        raise CallError(f"cannot listen on {settings.host}:{settings.port}: {why}") from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _startup_message(folders: Sequence[Path], settings: Settings, address: str) -> str:
    return f"serving {', '.join(map(str, folders))} at {address} (page: /, description: /docs); Ctrl-C stops it"
