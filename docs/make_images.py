"""Makes the images of the README from a real run on the sample: its report and its web export, in headless Chromium.

It needs Chromium with its driver and the extras `browser` and `litert`: `python docs/make_images.py`.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
from selenium import webdriver
from selenium.webdriver.common.by import By

import kerasimg

IMAGES = Path(__file__).parent / "images"
SAMPLE = Path(__file__).parents[1] / "kerasimg" / "data" / "sample"


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run = kerasimg.train("simple_cnn", data="sample", epochs=8, size=28, lr=0.002)
        [bundle] = run.export("web")
        report = run.report()
        with _browser(1200, 1100) as browser:
            browser.get(Path(report).resolve().as_uri())
            _save(browser, "report.webp")
        with _browser(760, 880) as browser:
            browser.get((bundle.folder.resolve() / "demo.html").as_uri())
            photo = next((SAMPLE / "test" / "ankle_boot").iterdir())
            browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(photo))
            time.sleep(8)  # the runtime starts when the first image is given
            browser.execute_script("window.scrollTo(0, 0)")
            _save(browser, "web.webp")


@contextlib.contextmanager
def _browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},{height}"):
        options.add_argument(option)
    options.binary_location = "/usr/bin/chromium"
    browser = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        yield browser
    finally:
        browser.quit()


def _save(browser: webdriver.Chrome, name: str) -> None:
    image = PIL.Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    image.save(IMAGES / name, quality=82, method=6)
    print(f"{name}: {image.size}, {(IMAGES / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
