"""`kerasimg studio`: serves the studio of a folder until the process is stopped."""

from __future__ import annotations

import os
import secrets
import webbrowser
from importlib.util import find_spec
from pathlib import Path

from kerasimg import log
from kerasimg.deploy.serve.server import run_application
from kerasimg.deploy.serve.settings import Settings
from kerasimg.errors import CallError, counted
from kerasimg.log import Verbose

REQUIRED_PACKAGES = ("fastapi", "uvicorn", "httptools")
"""Packages of the extra `studio`."""


@log.applies_verbose
def open_studio(
    folder: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    out: str | os.PathLike[str] = "runs",
    open_browser: bool = True,
    verbose: Verbose = 1,
) -> None:
    """Open a page on this machine to label, clean, train, try and export, until Ctrl-C.

    Nothing leaves the machine. Labels are stored in `.kerasimg/` in the folder; files are moved only on request.

    Args:
        folder: images, with a folder per class, or without labels. It is made if it does not exist.
        host: the address to listen on; 127.0.0.1 is this machine alone.
        port: 0: any free port.
        out: the folder in which each run gets its own folder.
        open_browser: open the page in the browser.
        verbose: 0: silent. 1 or 2: messages.

    Raises:
        CallError: if the folder cannot be written to, another studio has it open, or a package is missing.

    Example:
        >>> kerasimg.open_studio("photos/")  # doctest: +SKIP
    """
    for package in REQUIRED_PACKAGES:
        if find_spec(package) is None:
            raise CallError(f'{package} is not installed: pip install "kerasimg[studio]"')
    from kerasimg.studio.app import create_app
    from kerasimg.studio.jobs import Jobs
    from kerasimg.studio.library import Library
    from kerasimg.studio.model_process import ModelProcess
    from kerasimg.studio.runs import Runs

    token = secrets.token_urlsafe(24)
    with Library(folder) as library, Jobs(library.state / "jobs") as jobs, ModelProcess() as model:
        application = create_app(library, Runs(library, jobs, Path(out)), model, token, host)

        def started(address: str) -> None:
            page = f"{address}/{token}/"
            log.info(
                f"{counted(library.summary()['total'], 'image')} in {library.folder}\nstudio at {page} (Ctrl-C ends it)"
            )
            if open_browser:
                webbrowser.open(page)

        run_application(application, Settings(host=host, port=port, timeout_s=5), started)
