"""A bundle's page in a headless Chromium without network: how the browser gate and the tests ask it."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg.deploy.bundle import Bundle
from kerasimg.errors import CallError, KerasimgError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 120
"""That the page may take to load, or for one image."""

ASK = """
const [what, told, done] = arguments;
const bytes = Uint8Array.from(atob(told), (character) => character.charCodeAt(0));
window.kerasimg
  .then((classifier) => classifier[what](new Blob([bytes])))
  .then((values) => done({ values: Array.from(values) }), (error) => done({ error: String(error.message ?? error) }));
"""

READY = """
const done = arguments[arguments.length - 1];
window.kerasimg.then(() => done({}), (error) => done({ error: String(error.message ?? error) }));
"""


class Browser(AbstractContextManager["Browser"]):
    """A page that is open; `driver` is Selenium's."""

    def __init__(self, address: str, options: Iterable[str] = (), *, offline: bool = True) -> None:
        """Open an address and wait until its model is ready.

        options: further ones of Chromium's command line.  offline: refuse every request over the network.
        """
        self.driver = _driver(options)
        try:
            if offline:
                self.driver.execute_cdp_cmd("Network.enable", {})
                self.driver.execute_cdp_cmd(
                    "Network.emulateNetworkConditions",
                    {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
                )
            self.driver.get(address)
            self._answer(self.driver.execute_async_script(READY))
        except BaseException:
            self.driver.quit()
            raise

    def probabilities(self, image: bytes) -> np.ndarray:
        """The model's outputs (K,) float32 for an image file's content, decoded and resized by the page."""
        return np.array(self._ask("probabilities", image), dtype=np.float32)

    def pixels(self, image: bytes) -> np.ndarray:
        """What the page makes of an image file's content for its model: uint8, 0-255, in one row."""
        return np.array(self._ask("pixels", image), dtype=np.uint8)

    def _ask(self, what: str, image: bytes) -> list[float]:
        told = base64.b64encode(image).decode()
        values: list[float] = self._answer(self.driver.execute_async_script(ASK, what, told))["values"]
        return values

    def _answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "error" in answer:
            raise KerasimgError(f"the page {self.driver.current_url.rsplit('/', 1)[-1]} says: {answer['error']}")
        return answer

    def __exit__(self, *_: object) -> None:
        self.driver.quit()


def probabilities(bundle: Bundle, images: Iterable[str | os.PathLike[str] | bytes]) -> np.ndarray:
    """What a web bundle's `demo.html` says of image files: (N, K) float32; K is 1 where the task is binary.

    It is opened from the file system in a headless Chromium that has no network. CallError where Chromium, its driver
    or Selenium is missing; KerasimgError where the page cannot read an image.
    """
    with Browser((bundle.folder / "demo.html").resolve().as_uri()) as page:
        rows = [page.probabilities(one if isinstance(one, bytes) else Path(one).read_bytes()) for one in images]
    return np.stack(rows) if rows else np.empty((0, bundle.outputs), np.float32)


def available() -> str | None:
    """What is missing to open pages, in words; None where all is there."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return 'Selenium is not installed: pip install "kerasimg[browser]"'
    if _browser() is None:
        return "no Chromium or Chrome is installed; on Debian: apt install chromium chromium-driver"
    if shutil.which("chromedriver") is None:
        return "chromedriver is not installed; on Debian: apt install chromium-driver"
    return None


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _driver(options: Iterable[str]) -> Any:
    if missing := available():
        raise CallError(f"the browser's answers need a browser: {missing}")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chosen = webdriver.ChromeOptions()
    chosen.binary_location = str(_browser())
    chosen.add_argument("--headless=new")
    chosen.add_argument("--no-first-run")
    chosen.add_argument("--disable-dev-shm-usage")  # in a container it is too small
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        chosen.add_argument("--no-sandbox")  # which Chromium refuses to root
    for option in options:
        chosen.add_argument(option)
    # Given the driver, Selenium does not look for one on the network.
    driver = webdriver.Chrome(options=chosen, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(SECONDS)
    driver.set_page_load_timeout(SECONDS)
    return driver
