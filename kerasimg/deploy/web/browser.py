"""Open the page of a web bundle in a headless Chromium without network, for the comparison and the tests."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg.deploy.bundle import PAGE, Bundle
from kerasimg.errors import CallError, KerasimgError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 120
"""Timeout for loading the page, and for one image."""

CALL = """
const [method, content, done] = arguments;
const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
window.kerasimg
  .then((classifier) => classifier[method](new Blob([bytes])))
  .then((values) => done({ values: Array.from(values) }), (error) => done({ error: String(error.message ?? error) }));
"""

READY = """
const done = arguments[arguments.length - 1];
window.kerasimg.then(() => done({}), (error) => done({ error: String(error.message ?? error) }));
"""


class Browser(AbstractContextManager["Browser"]):
    """An open page; `driver` is the Selenium driver."""

    def __init__(self, address: str, options: Iterable[str] = (), *, offline: bool = True) -> None:
        """Opens an address and waits until its model is ready.

        Args:
            address: URL of the page.
            options: further command-line options of Chromium.
            offline: block all network requests.
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
            self._check(self.driver.execute_async_script(READY))
        except BaseException:
            self.driver.quit()
            raise

    def probabilities(self, image: bytes) -> np.ndarray:
        """Returns the outputs (K,) float32 for an image file's content, decoded and resized by the page."""
        return np.array(self._call("probabilities", image), dtype=np.float32)

    def row(self, image: bytes) -> np.ndarray:
        """As `probabilities`, with the p-value behind them if the model gives it."""
        return np.array(self._call("row", image), dtype=np.float32)

    def accelerator(self) -> str:
        """Returns what computes the model: "wasm" or "webgpu"."""
        answer = self.driver.execute_async_script(
            "const done = arguments[0]; window.kerasimg.then((classifier) => done(classifier.accelerator));"
        )
        return str(answer)

    def pixels(self, image: bytes) -> np.ndarray:
        """Returns the page's preprocessed pixels for an image file's content: flat, uint8, 0-255."""
        return np.array(self._call("pixels", image), dtype=np.uint8)

    def learned(self, image: bytes) -> np.ndarray:
        """Returns the probabilities (K,) of the classes that the page has learned, for an image file's content."""
        return np.array(self._call("learned", image), dtype=np.float32)

    def _call(self, method: str, image: bytes) -> list[float]:
        content = base64.b64encode(image).decode()
        values: list[float] = self._check(self.driver.execute_async_script(CALL, method, content))["values"]
        return values

    def _check(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "error" in answer:
            raise KerasimgError(f"the page {self.driver.current_url.rsplit('/', 1)[-1]} says: {answer['error']}")
        return answer

    def __exit__(self, *_: object) -> None:
        self.driver.quit()


def probabilities(
    bundle: Bundle, images: Iterable[str | os.PathLike[str] | bytes], *, accelerator: str = "wasm"
) -> np.ndarray:
    """Returns the probabilities (N, K) float32 from a web bundle's `demo.html`; K is 1 for a binary task.

    The page is opened from the file system in a headless Chromium without network.

    Args:
        bundle: the web bundle.
        images: paths or contents of image files.
        accelerator: "wasm" or "webgpu". On a machine without a GPU, Chromium computes WebGPU in software.

    Raises:
        CallError: if Chromium, its driver or Selenium is missing.
        KerasimgError: if the page cannot read an image, or the GPU cannot run the whole model.
    """
    address = (bundle.folder / PAGE).resolve().as_uri()
    options = ["--enable-unsafe-webgpu"] if accelerator == "webgpu" else []
    with Browser(f"{address}?accelerator={accelerator}", options) as page:
        if (used := page.accelerator()) != accelerator:
            raise KerasimgError(f"'{bundle.folder}': the page uses {used}: {accelerator} does not have every operation")
        rows = [page.probabilities(image if isinstance(image, bytes) else Path(image).read_bytes()) for image in images]
    return np.stack(rows) if rows else np.empty((0, bundle.outputs), np.float32)


def available() -> str | None:
    """Returns a message about what is missing to open pages; None if nothing is."""
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
        raise CallError(f"running a web page needs a browser: {missing}")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chosen = webdriver.ChromeOptions()
    chosen.binary_location = str(_browser())
    chosen.add_argument("--headless=new")
    chosen.add_argument("--no-first-run")
    chosen.add_argument("--disable-dev-shm-usage")  # too small in containers
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        chosen.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    for option in options:
        chosen.add_argument(option)
    # With an explicit driver, Selenium does not search the network for one.
    driver = webdriver.Chrome(options=chosen, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(SECONDS)
    driver.set_page_load_timeout(SECONDS)
    return driver
