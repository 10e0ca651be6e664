"""`kerasimg serve`: opens a bundle, listens, answers until it is told to end."""

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
from kerasimg.errors import CallError, KerasimgError, nearest
from kerasimg.keras_internals import serve_in_processes
from kerasimg.log import Verbose
from kerasimg.run_folder import RunFolder
from kerasimg.spec.pack import SUFFIX, Pack, is_pack
from kerasimg.staleness import stale_bundle

NEEDED = ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client")
"""Packages of the extra `serve`; the runtime's own is named by whoever opens it."""

SERVED = ("litert", "onnx", "openvino")
"""Exports of a run that are served, the first that there is."""

WORKER = "KERASIMG_SERVE"
"""The environment variable by which worker processes learn what to serve: a folder, a line feed, the settings."""

BACKLOG = 2048
"""Connections that the system holds until they are accepted."""


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
    """Serve an exported model over HTTP, until the process is told to end (SIGTERM, Ctrl-C).

    Args:
        source: the folder of a bundle or of a run, or a `.kerasimg` file; where there is no export for LiteRT, ONNX or
            OpenVINO yet, one for LiteRT is made first.
        host: address to listen at; 127.0.0.1 is this machine alone.
        port: 0: any free port.
        workers: processes.
        api_key: a key that requests must bring; None: `$KERASIMG_API_KEY`, and no key where that is not set.
        verbose: 0: silent. 1 or 2: messages.
        **settings: limits and options as on the page on serving: threads, model, name, top, max_bytes, timeout_s, ...

    Raises:
        CallError: if the source cannot be served, a setting does not exist, or a package is missing.

    Example:
        >>> kerasimg.serve("runs/photos-1", port=8000)  # doctest: +SKIP
    """
    for name in settings:
        if name not in NAMES:
            raise CallError(f"serve has no setting '{name}'{nearest(name, NAMES)}")
    for package in NEEDED:
        if find_spec(package) is None:
            raise CallError(f'{package} is not installed: pip install "kerasimg[serve]"')
    chosen = Settings(host=host, port=port, workers=workers, **settings)
    if api_key is not None:
        os.environ["KERASIMG_API_KEY"] = api_key
    key = key_from_environment()
    folder = bundle_of(source)
    if stale := stale_bundle(folder):
        log.warning(str(stale))
    with _listening(chosen) as listener:
        address = _address(listener)
        (_several if chosen.workers > 1 else _alone)(folder, chosen, key, listener, address)


def bundle_of(source: str | os.PathLike[str]) -> Path:
    """The folder of the bundle that is meant by a bundle, a run or a pack; one that there is not yet is made."""
    folder = Path(source)
    if is_pack(folder):
        return _of_pack(folder)
    if (folder / FILE).is_file():
        return folder
    files = RunFolder(folder)
    model = files.model_file
    if not model.is_file():
        raise CallError(f"'{folder}' is neither a bundle ({FILE}) nor a run ({model.name}) nor a pack ({SUFFIX})")
    for target in SERVED:
        manifest = files.exports / target / FILE
        if manifest.is_file():
            return manifest.parent
    log.info(f"{folder} has no export yet; making one: kerasimg export {folder} --to litert")
    _export(folder, files.exports)
    return files.exports / "litert"


def _of_pack(pack: Path) -> Path:
    """An export that lasts as long as this process."""
    Pack(pack)  # what is wrong with it is told before anything is written
    place = Path(tempfile.mkdtemp(prefix="kerasimg-serve-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    log.info(
        f"exporting {pack}; to start at once next time: kerasimg export {pack} --to litert --out DIR, and serve that"
    )
    _export(pack, place)
    return place / "litert"


def _export(source: Path, out: Path) -> None:
    """In a process of its own: this one must not load TensorFlow."""
    command = [sys.executable, "-m", "kerasimg", "export", str(source), "--to", "litert", "--out", str(out)]
    command.append("--allow-uncompared")  # a pack of an earlier version has no test vectors
    if code := subprocess.run(command, check=False).returncode:
        raise KerasimgError(f"'{source}' could not be exported (exit code {code}); what is wrong stands above")


def worker() -> Any:
    """The application of a worker process, as its parent has told it in the environment."""
    folder, _, settings = os.environ[WORKER].partition("\n")
    return _application(Path(folder), Settings.from_json(settings), key_from_environment())


def _application(folder: Path, settings: Settings, key: str | None) -> Any:
    from kerasimg.deploy.serve import logs
    from kerasimg.deploy.serve.app import create_app
    from kerasimg.deploy.serve.service import Service
    from kerasimg.deploy.serve.session import Model

    logs.set_up()
    limit_memory(settings.max_pixels)
    return create_app(Service(Model.open(Bundle.open(folder), settings), settings), key=key)


def limit_memory(max_pixels: int) -> None:
    """Let Pillow, too, refuse what is larger than allowed, and give large buffers back to the system at once.

    For the process: images inside of images (ICO) tell their size only to Pillow; and the C library otherwise
    keeps buffers of up to 32 MB, in one heap per thread, once it has seen some of that size freed.
    """
    import ctypes

    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)  # Pillow raises at twice of it
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM)
        except (OSError, AttributeError):  # another C library
            return


_M_MMAP_THRESHOLD = -3
_MMAP_FROM = 2**20


def _alone(folder: Path, settings: Settings, key: str | None, listener: socket.socket, address: str) -> None:
    """Serve in this process."""
    application = _application(folder, settings, key)
    import uvicorn

    # uvicorn raises the signal again that has ended it; to be told to end is no failure.
    before = {number: signal.signal(number, _ignored) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        log.info(_told(folder, settings, address))
        uvicorn.Server(_configured(application, settings)).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _several(folder: Path, settings: Settings, key: str | None, listener: socket.socket, address: str) -> None:
    """Serve in worker processes; one that dies is replaced."""
    from kerasimg.deploy.serve import logs
    from kerasimg.deploy.serve.metrics import SEVERAL

    Bundle.open(folder).model(settings.model)  # what is wrong with it is told once, not by every worker
    logs.set_up()
    with tempfile.TemporaryDirectory(prefix="kerasimg-serve-") as shared:
        told = {WORKER: f"{folder.resolve()}\n{settings.to_json()}", SEVERAL: shared}
        os.environ |= told
        try:
            log.info(_told(folder, settings, address))
            serve_in_processes(_configured(f"{__name__}:worker", settings, factory=True), [listener])
        finally:
            for name in told:
                del os.environ[name]


def _configured(application: Any, settings: Settings, **more: Any) -> Any:
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


def _listening(settings: Settings) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise CallError(f"cannot listen at {settings.host}:{settings.port}: {error.strerror or error}") from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _told(folder: Path, settings: Settings, address: str) -> str:
    return f"serving {folder} at {address} (page: /, description: /docs); to end: Ctrl-C"


def _ignored(number: int, frame: Any) -> None:
    """Do nothing."""
