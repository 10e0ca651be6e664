"""The studio with two tabs, and killed: nothing is lost, nothing is half moved.

1. Two windows of Chromium label and move at the same time; each sees what the other did, and a decision on an image
   that the other one has labelled meanwhile is refused.
2. The studio is killed (SIGKILL) at a random moment of a move of thousands of files, and started again, many times.
3. The studio is killed during a training: the training goes on, and the next studio shows it. Then the training is
   killed, and resumed on the page.

After each step, every file that was there is there once, unchanged, at its old or at its new place, and every label
that a page had shown is the label.

    python benchmarks/studio_tabs.py
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait
from studio_story import Page, kill_training

from kerasimg.deploy.web import browser

CLASSES = ("cup", "plate", "spoon")


def make_photos(folder: Path, each: int) -> None:
    """Images that all differ, so that each can be recognized by its content."""
    noise = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for k in range(each):
            pixels = noise.integers(0, 80, (24, 24, 3)) + 60 * (np.arange(3) == number) * 2
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{k:05}.png")


def contents(folder: Path) -> Counter[str]:
    """The content of every file of images, wherever it is, also of what is left out."""
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.png"))


class Studio:
    """A studio of a folder, in a process of its own."""

    def __init__(self, folder: Path, out: Path) -> None:
        command = [sys.executable, "-m", "kerasimg", "studio", str(folder), "--port", "0", "--no-open-browser"]
        self.process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True)
        lines = iter(self.process.stderr or ())
        self.address = next(match[0] for line in lines if (match := re.search(r"http://\S+", line)))

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer of a route; with a body, a change."""
        request = urllib.request.Request(self.address + path)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
            request.add_header("origin", "/".join(self.address.split("/")[:3]))
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def labels(self) -> dict[str, str]:
        """Name of a file -> its label, by the manifest."""
        with urllib.request.urlopen(self.address + "labels.csv", timeout=60) as answer:
            rows = csv.DictReader(io.StringIO(answer.read().decode()))
            return {row["path"]: row["label"] for row in rows}

    def kill(self) -> None:
        """As a power failure does it."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """As Ctrl-C does it."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def two_tabs(folder: Path, shots: Path) -> None:
    photos = folder / "photos"
    make_photos(photos, 40)
    before = contents(photos)
    studio = Studio(photos, folder / "runs")
    tabs = [Page(studio.address, width, shots) for width in (1280, 390)]

    def label(page: Page, key: str, times: int, end: bool) -> None:
        page.driver.execute_script("document.getElementById('grid').focus()")
        for turn in range(times):
            steps = Keys.ARROW_LEFT if end else Keys.ARROW_RIGHT
            page.find("grid").send_keys((Keys.END if end else Keys.HOME) + steps * turn + key)
            time.sleep(0.3)

    def move(page: Page) -> None:
        page.driver.execute_script("setTimeout(() => document.getElementById('move').click())")
        WebDriverWait(page.driver, 20).until(expected_conditions.alert_is_present())
        page.driver.switch_to.alert.accept()
        page.wait(lambda: "moved" in page.text("status"))

    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda arguments: label(*arguments), [(tabs[0], "2", 5, False), (tabs[1], "1", 5, True)]))
    wait(lambda: studio.ask("api/state")["undo"] == 10)
    state = studio.ask("api/state")
    for page in tabs:
        page.wait(lambda page=page: page.driver.execute_script(VERSION) == state["version"], 10)
    print(f"two tabs: {state['undo']} decisions, both tabs show version {state['version']}")

    # The second tab decides on what the first one has labelled meanwhile, before it asks what is new.
    rows = studio.ask("api/images?count=1")["rows"]
    others = [name for name in CLASSES if name != rows[0][2]]
    answers = [
        page.driver.execute_async_script(DECIDE, rows[0][0], name, rows[0][2])
        for page, name in zip(tabs, others, strict=True)
    ]
    if answers[0] != 200 or answers[1] != 409:
        raise SystemExit(f"expected that the second decision is refused: {answers}")
    for page in tabs:
        page.wait(lambda page=page: page.find("move").is_displayed())
    with ThreadPoolExecutor(2) as both:
        list(both.map(move, tabs))
    labels = studio.labels()
    misplaced = [path for path, name in labels.items() if Path(path).parent.name != name]
    if misplaced or contents(photos) != before:
        raise SystemExit(f"two tabs: {len(misplaced)} files are not in the folder of their label, or files were lost")
    print(f"moved in both tabs at once: {len(labels)} files, each in the folder of its label")
    for page in tabs:
        page.driver.quit()
    studio.end()


VERSION = "return import('./page/api.js').then(({ state }) => state.version)"
DECIDE = """
const [image, label, before, done] = arguments;
fetch("api/labels", { method: "POST", headers: { "content-type": "application/json" },
  body: JSON.stringify({ images: [image], label, before: [before] }) }).then(({ status }) => done(status));
"""


def killed_moves(folder: Path, times: int, images: int) -> None:
    photos = folder / "many"
    make_photos(photos, images // 3)
    before = contents(photos)
    random = np.random.default_rng(1)
    completed = begun = 0
    for turn in range(times):
        studio = Studio(photos, folder / "runs")
        rows = studio.ask(f"api/numbers?label={CLASSES[turn % 3]}")
        studio.ask("api/labels", {"images": rows, "label": CLASSES[(turn + 1) % 3]})
        shown = {row[0]: row[2] for start in range(0, images, 1000) for row in rows_from(studio, start)}
        planned = studio.ask("api/state")["to_move"]
        delay = float(random.uniform(0, 0.6))
        with ThreadPoolExecutor(1) as pool:
            moving = pool.submit(studio.ask, "api/moves", {})
            time.sleep(delay)
            studio.kill()
            completed += moving.exception() is None
        if contents(photos) != before:
            raise SystemExit(f"kill {turn + 1} after {delay:.2f} s: a file was lost, doubled or cut")
        with_new = Studio(photos, folder / "runs")
        state = with_new.ask("api/state")
        counts = Counter(name for name in shown.values())
        if {each["name"]: each["images"] for each in state["classes"] if each["images"]} != counts:
            raise SystemExit(f"kill {turn + 1} after {delay:.2f} s: expected {counts}, found {state}")
        misplaced = sum(Path(path).parent.name != name for path, name in with_new.labels().items())
        # All are moved, or none if the move had not begun; never some of them.
        if misplaced != state["to_move"] or misplaced not in (0, planned):
            raise SystemExit(f"kill {turn + 1}: {misplaced} of {planned} files are not in the folder of their label")
        begun += not misplaced
        with_new.kill()
    print(
        f"{times} kills during a move of up to {images} files ({begun} had begun and were completed,"
        f" {completed} had ended): nothing lost, nothing half moved"
    )


def rows_from(studio: Studio, start: int) -> list[Any]:
    return list(studio.ask(f"api/images?start={start}&count=1000")["rows"])


def killed_training(folder: Path, shots: Path) -> None:
    photos = folder / "training"
    make_photos(photos, 40)
    studio = Studio(photos, folder / "runs")
    studio.ask("api/recipes/tiny_device", {})
    studio.ask("api/train", {"epochs": 400})
    run = wait(lambda: next((run for run in studio.ask("api/runs") if run["running"]), None))
    wait(lambda: len(studio.ask(f"api/runs/{run['name']}")["rows"]) > 1)
    studio.kill()
    studio = Studio(photos, folder / "runs")
    epoch = len(studio.ask(f"api/runs/{run['name']}")["rows"])
    if not studio.ask("api/runs")[0]["running"]:
        raise SystemExit("the training did not go on without its studio, or the next studio does not show it")
    page = Page(studio.address + "#training", 1280, shots)
    page.wait(lambda: f"{run['name']}: epoch" in page.text("train-run"))
    wait(lambda: len(studio.ask(f"api/runs/{run['name']}")["rows"]) > epoch)
    print(f"the studio was killed after {epoch} epochs; the training goes on, and the next studio shows it")
    kill_training(folder)
    wait(lambda: not studio.ask("api/runs")[0]["running"])
    page.wait(lambda: page.driver.find_elements("css selector", "#unfinished button"), 30)
    page.driver.find_element("css selector", "#unfinished button").click()
    wait(lambda: studio.ask("api/runs")[0]["running"])
    wait(lambda: studio.ask("api/runs")[0]["finished"], 600)
    epochs = [(row["stage"], row["epoch"]) for row in studio.ask(f"api/runs/{run['name']}")["rows"]]
    if len(set(epochs)) < len(epochs) or epochs[-1][1] - epochs[0][1] != len(epochs) - 1:
        raise SystemExit(f"epochs are doubled or lack: {epochs}")
    print(f"the training was killed, and resumed on the page: {len(epochs)} epochs, each once")
    page.driver.quit()
    studio.end()


def wait(condition: Any, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.3)
    raise SystemExit("waited too long")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("studio-shots"), help="a folder for screenshots")
    asked = parser.parse_args()
    if missing := browser.available():
        raise SystemExit(missing)
    asked.out.mkdir(parents=True, exist_ok=True)
    os.chdir(tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as scratch:
        two_tabs(Path(scratch), asked.out)
        killed_moves(Path(scratch), asked.kills, asked.images)
        killed_training(Path(scratch), asked.out)


if __name__ == "__main__":
    main()
