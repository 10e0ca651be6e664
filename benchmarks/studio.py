"""The studio with many images: the time to the first screen, the time of a frame while scrolling, and the memory.

    python benchmarks/studio.py                 # 100,000 images of 200x150 in 20 classes, made once in --folder

Times are those of headless Chromium on this machine. The memory is that of the page (JavaScript heap, elements) and of
the studio's process, at the beginning and after scrolling through the whole folder.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from kerasimg.deploy.web import browser

CLASSES = 20
DIFFERENT = 500
"""Images that are made; the others are copies under other names."""

FIRST_SCREEN = """
const done = arguments[arguments.length - 1];
const ask = () => {
  const all = [...document.querySelectorAll('.cell img')];
  const seen = all.filter((image) => image.getBoundingClientRect().top < innerHeight);
  if (seen.length > 20 && seen.every((image) => image.complete && image.naturalWidth)) done(performance.now());
  else requestAnimationFrame(ask);
};
ask();
"""

SCROLL = """
const done = arguments[arguments.length - 1];
const [steps, pixels] = arguments;
const grid = document.getElementById('grid');
const frames = [];
let before = performance.now();
let taken = 0;
const step = () => {
  const now = performance.now();
  if (taken) frames.push(now - before);
  before = now;
  if (taken++ === steps) { frames.sort((a, b) => a - b); done(frames); return; }
  grid.scrollTop += pixels;
  requestAnimationFrame(step);
};
requestAnimationFrame(step);
"""


def make_images(folder: Path, count: int) -> None:
    """Writes the images: links to a few different ones, since the time to write 100,000 is not what is measured."""
    if folder.is_dir():
        return
    noise = np.random.default_rng(0)
    source = folder.with_name(f"{folder.name}-different")
    source.mkdir(parents=True)
    for number in range(DIFFERENT):
        small = PIL.Image.fromarray(noise.integers(0, 256, (6, 8, 3)).astype(np.uint8))
        small.resize((200, 150)).save(source / f"{number}.jpg", quality=85)
    for number in range(count):
        place = folder / f"class {number % CLASSES:02}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"photograph-{number:06}.jpg").hardlink_to(source / f"{number % DIFFERENT}.jpg")


def memory_mb(process: subprocess.Popen[Any]) -> float:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def page_memory(driver: Any) -> tuple[float, int]:
    """The JavaScript heap in MB after garbage collection, and the number of elements."""
    driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    rows = {row["name"]: row["value"] for row in driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
    return rows["JSHeapUsedSize"] / 2**20, driver.execute_script("return document.querySelectorAll('*').length")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "studio-images")
    asked = parser.parse_args()
    if missing := browser.available():
        raise SystemExit(missing)
    make_images(asked.folder, asked.images)
    began = time.perf_counter()
    command = [sys.executable, "-m", "kerasimg", "studio", str(asked.folder), "--port", "0", "--no-open-browser"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    driver = None
    try:
        lines = iter(process.stderr or ())
        address = next(match[0] for line in lines if (match := re.search(r"http://\S+", line)))
        print(f"studio ready: {time.perf_counter() - began:.2f} s for {asked.images:,} images")
        driver = browser._driver(["--window-size=1280,800", "--enable-precise-memory-info"])
        driver.execute_cdp_cmd("Performance.enable", {})
        for visit in ("first", "second"):
            driver.get(address)
            seconds = driver.execute_async_script(FIRST_SCREEN) / 1000
            print(f"first screen with its images, {visit} visit: {seconds:.2f} s")
        heap, elements = page_memory(driver)
        print(f"before scrolling: heap {heap:.1f} MB, {elements} elements, studio {memory_mb(process):.0f} MB")
        for name, steps, pixels in (("steadily", 300, 60), ("fast", 300, 2_000), ("to the end", 400, 10_000)):
            frames = driver.execute_async_script(SCROLL, steps, pixels)
            middle, high = frames[len(frames) // 2], frames[int(len(frames) * 0.99)]
            print(f"scrolling {name}: {middle:.0f} ms a frame, 99 % below {high:.0f} ms, longest {frames[-1]:.0f} ms")
            time.sleep(2)
            heap, elements = page_memory(driver)
            print(f"  heap {heap:.1f} MB, {elements} elements, studio {memory_mb(process):.0f} MB")
        began = time.perf_counter()
        driver.execute_script("document.getElementById('grid').focus()")
        driver.find_element("id", "select-all").click()
        while "selected" not in driver.find_element("id", "selected-count").text:
            time.sleep(0.02)
        print(f"select all: {time.perf_counter() - began:.2f} s")
        began = time.perf_counter()
        driver.find_element("id", "grid").send_keys("1")
        while "image" not in driver.find_element("id", "status").text:
            time.sleep(0.02)
        print(f"label all of them: {time.perf_counter() - began:.2f} s; {driver.find_element('id', 'status').text}")
        driver.find_element("id", "undo").click()
    finally:
        if driver is not None:
            driver.quit()
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
