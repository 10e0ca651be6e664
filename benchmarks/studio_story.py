"""The studio in Chromium, from an empty folder to an exported model: what a person does, with a fake camera.

Three classes are photographed, more files of them are copied into the folder, one image is labelled wrongly, found
among the suspects and put right, files are moved, a model is trained (cancelled at the first width, killed at the
second, and resumed), a foreign image is flagged as unknown in Try and found among the suspects, the model is explained,
exported and verified, and the web page that the studio exports is downloaded and opened. Before, images that the model
asks for are labelled, it is trained again, and the two runs are compared. No name can be resolved
meanwhile, and every request must go to the page's own address.

    python benchmarks/studio_story.py --out shots         # screenshots of each step, at 1280 and 390 pixels
    python benchmarks/studio_story.py --keyboard          # by keyboard alone, from the camera to the export

By keyboard alone, every control is reached with Tab and arrow keys, and each shows that it has the focus.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from kerasimg.deploy.web import browser

COLOURS = {"cup": (200, 40, 40), "plate": (40, 60, 200), "spoon": (30, 160, 60)}
PATIENCE_S = 600
FRAMES = 300


COPIED = 210
"""Files of each class that are copied into the folder: with them, 100 images are held out for validation."""


def draw_frame(draw: Callable[[PIL.ImageDraw.ImageDraw, int], None], frame: int, noise: np.random.Generator) -> Any:
    image = PIL.Image.new("RGB", (160, 120), (225, 220, 210))
    draw(PIL.ImageDraw.Draw(image), frame)
    pixels = np.asarray(image).astype(int) + noise.integers(-12, 13, (120, 160, 3))
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_video(path: Path, draw: Callable[[PIL.ImageDraw.ImageDraw, int], None]) -> None:
    """A video that Chromium shows as its camera, longer than what is photographed."""
    noise = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W160 H120 F10:1 Ip A1:1 C420jpeg\n")
        for frame in range(FRAMES):
            converted = draw_frame(draw, frame, noise).convert("YCbCr")
            luma, *chroma = np.asarray(converted).transpose(2, 0, 1)
            file.write(b"FRAME\n" + luma.tobytes() + b"".join(plane[::2, ::2].tobytes() for plane in chroma))


def draw_class(name: str) -> Callable[[PIL.ImageDraw.ImageDraw, int], None]:
    def draw(canvas: PIL.ImageDraw.ImageDraw, frame: int) -> None:
        x, y = 50 + 40 * np.sin(frame / 5), 35 + 25 * np.cos(frame / 11)
        box = (x, y, x + 60, y + 50)
        if name == "cup":
            canvas.rectangle(box, COLOURS[name])
        elif name == "plate":
            canvas.ellipse(box, COLOURS[name])
        else:
            canvas.polygon([(x, y), (x + 60, y + 10), (x + 10, y + 50)], COLOURS[name])

    return draw


@contextmanager
def studio(folder: Path, out: Path) -> Iterator[str]:
    """The address of a studio on a folder."""
    command = [sys.executable, "-m", "kerasimg", "studio", str(folder), "--port", "0", "--no-open-browser"]
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr or ():
            if match := re.search(r"http://\S+", line):
                yield match[0]
                return
        raise SystemExit("the studio did not start")
    finally:
        process.terminate()
        process.wait(60)


class Page:
    """A tab."""

    def __init__(self, address: str, width: int, shots: Path, video: Path | None = None) -> None:
        options = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--use-fake-ui-for-media-stream"]
        options += ["--use-fake-device-for-media-stream"]
        if video is not None:
            options.append(f"--use-file-for-fake-video-capture={video}")
        self.driver = browser._driver(options)
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 844 if width < 500 else 800, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.address, self.width, self.shots = address, width, shots
        self.driver.get(address)
        self.wait(lambda: self.text("folder") != "Studio")

    def find(self, id: str) -> Any:
        return self.driver.find_element("id", id)

    def text(self, id: str) -> str:
        return str(self.find(id).text)

    def click(self, id: str) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.find(id))
        self.find(id).click()

    def tab(self, id: str) -> None:
        self.driver.execute_script("document.getElementById(arguments[0]).click()", f"tab-{id}")

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        def holds(_: Any) -> Any:
            problem = self.driver.execute_script(
                "const p = document.getElementById('problem'); return p.hidden ? '' : p.textContent"
            )
            if problem:
                raise SystemExit(f"the page says: {problem}")
            return condition()

        return WebDriverWait(self.driver, seconds, 0.2).until(holds)

    def shoot(self, name: str) -> None:
        self.driver.save_screenshot(str(self.shots / f"{self.width}-{name}.png"))

    def requests(self) -> list[str]:
        """Addresses of everything that the page loaded."""
        script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        return list(self.driver.execute_script(script))

    def close(self) -> None:
        foreign = [url for url in self.requests() if not url.startswith((self.address, "blob:", "data:"))]
        errors = [
            row for row in self.driver.get_log("browser") if row["level"] == "SEVERE" and "415" not in row["message"]
        ]
        self.driver.quit()
        if foreign or errors:
            raise SystemExit(f"foreign requests: {foreign}; errors: {errors}")


def photograph(address: str, width: int, shots: Path, folder: Path) -> None:
    for name in COLOURS:
        video = folder / f"{name}.y4m"
        write_video(video, draw_class(name))
        page = Page(address, width, shots, video)
        page.tab("camera")
        page.find("camera-class").send_keys(name)
        page.click("camera-start")
        page.wait(lambda page=page: page.find("camera-burst").is_displayed())
        for burst in (10, 20):
            page.click("camera-burst")
            page.wait(
                lambda page=page, burst=burst: (
                    len(page.driver.find_elements("css selector", "#camera-taken img")) >= burst
                )
            )
            page.wait(lambda page=page: "photographs" in page.text("status"))
            time.sleep(0.3)
        page.shoot(f"camera-{name}")
        page.close()


def tell(address: str, width: int, shots: Path, folder: Path) -> None:
    photos = folder / "photos"
    photograph(address, width, shots, folder)
    page = Page(address, width, shots)
    page.wait(lambda: len(page.driver.find_elements("css selector", ".cell img")) > 5)
    page.shoot("images")
    copy_files(photos)
    page.click("rescan")
    page.wait(lambda: page.text("status").startswith(f"{3 * COPIED} new"))

    # One photograph of a cup is labelled as a plate, by the keyboard, as a slip.
    page.click("grid") if width < 500 else page.find("grid").click()
    page.driver.execute_script("document.getElementById('grid').focus()")
    page.find("grid").send_keys(Keys.HOME)
    page.find("grid").send_keys(Keys.ESCAPE)
    page.find("grid").send_keys("2")
    page.wait(lambda: page.find("moves").is_displayed())
    page.shoot("mislabelled")

    page.tab("suspects")
    page.click("check")
    page.wait(lambda: "to decide" in page.text("suspects-count"), PATIENCE_S)
    page.shoot("suspects")
    cards = page.driver.find_elements("css selector", "#suspects-list .card")
    wrong = next((card for card in cards if "It is cup" in card.text), None)
    if wrong is None:
        raise SystemExit(f"the wrong label is not among the suspects: {[card.text for card in cards]}")
    next(button for button in wrong.find_elements("tag name", "button") if "It is cup" in button.text).click()
    page.wait(lambda: "It is cup" not in page.text("suspects-list"))
    decided = json.loads((photos / ".kerasimg/journal.jsonl").read_text().splitlines()[-1])
    print("put right by the suspects:", decided["edit"])

    # A real mistake that is to be moved: one spoon becomes a cup, and its file moves when asked, then all comes back.
    page.tab("images")
    page.driver.execute_script("document.getElementById('grid').focus()")
    page.find("grid").send_keys(Keys.END)
    page.find("grid").send_keys("1")
    page.wait(lambda: page.find("move").is_displayed())
    page.click("move")
    page.driver.switch_to.alert.accept()
    page.wait(lambda: "moved" in page.text("status"))
    moved = len(list((photos / "cup").glob("*.jpg")))
    page.driver.execute_script("document.getElementById('grid').focus()")
    page.find("grid").send_keys("z")
    page.wait(lambda: "Undone" in page.text("status"))
    page.click("move")
    page.driver.switch_to.alert.accept()
    page.wait(lambda: len(list((photos / "cup").glob("*.jpg"))) == 20 + COPIED)
    print(f"files in cup/ after the move, and after its undo: {moved}, {20 + COPIED}")

    page.tab("training")
    page.wait(lambda: len(page.driver.find_elements("css selector", "#recipe option")) > 3)
    page.driver.execute_script(
        "const r = document.getElementById('recipe'); r.value = 'transfer'; r.dispatchEvent(new Event('change'))"
    )
    page.wait(
        lambda: "valid" in page.driver.execute_script("return document.getElementById('spec-faults').textContent")
    )
    page.find("epochs").send_keys("30")
    page.click("train")
    page.wait(
        lambda: "epoch" in page.text("train-run") and page.driver.find_elements("css selector", "#train-chart svg"),
        PATIENCE_S,
    )
    page.shoot("training")
    if width > 500:
        page.find("train-progress").find_element("tag name", "button").click()
        page.wait(lambda: page.text("status").startswith(("Cancelled", "Trained")), PATIENCE_S)
        page.shoot("cancelled")
        if page.text("status").startswith("Cancelled"):
            page.wait(lambda: page.driver.find_elements("css selector", "#unfinished button"))
            page.driver.find_element("css selector", "#unfinished button").click()
            print("cancelled, and resumed")
    else:  # the process of the training is killed, as by a power failure
        kill_training(folder)
        killed = "document.getElementById('problem').hidden = true"
        WebDriverWait(page.driver, 60, 0.2).until(
            lambda _: page.driver.find_elements("css selector", "#unfinished button")
        )
        page.driver.execute_script(killed)
        page.driver.find_element("css selector", "#unfinished button").click()
        print("killed, and resumed")
    page.wait(lambda: page.text("status").startswith("Trained"), PATIENCE_S)
    print(page.text("train-run"))
    page.shoot("trained")

    foreign = folder / "foreign.png"
    draw_foreign(1).save(foreign)
    page.tab("trial")
    page.wait(lambda: page.find("try-choose").is_displayed())
    own = next((photos / "spoon").glob("camera*.jpg"))
    for turn, file in enumerate((own, foreign), 1):
        page.find("try-file").send_keys(str(file))
        page.wait(lambda turn=turn: page.find("try-result").get_attribute("data-turn") == str(turn), PATIENCE_S)
        verdict = page.text("try-verdict")
        print(f"{file.parent.name}/{file.name}: {verdict}: {page.text('try-sure')}")
        if verdict != ("spoon" if file == own else "None of these"):
            raise SystemExit(f"{file.name}: the page says {verdict}")
        if file == own:
            page.click("try-explain")
            page.wait(lambda: page.find("try-map").is_displayed(), PATIENCE_S)
            page.click("try-nearest")
            page.wait(lambda: page.driver.find_elements("css selector", "#try-near img"), PATIENCE_S)
        page.shoot(f"try-{turn}")
    page.click("try-live")
    page.wait(lambda: int(page.find("try-result").get_attribute("data-turn")) > 4, PATIENCE_S)
    page.shoot("try-live")
    page.click("try-live")

    page.tab("runs")
    page.wait(lambda: page.driver.find_elements("css selector", "#runs-list .card"))
    (photos / "unlabelled").mkdir()
    draw_foreign(2).save(photos / "unlabelled" / "foreign.png")
    page.tab("images")
    page.click("rescan")
    page.wait(lambda: page.text("status").startswith("1 new"))
    page.tab("runs")
    page.wait(lambda: page.driver.find_elements("css selector", "#runs-list .card"))
    press(page, "Find foreign images")
    page.wait(lambda: "among the suspects" in page.text("status"), PATIENCE_S)
    decide_foreign(page, photos)
    label_next(page, photos)
    press(page, "Export for phones")
    page.wait(lambda: page.text("status").startswith("Exported"), PATIENCE_S)
    print(page.text("runs-result"))
    page.shoot("exported")
    press(page, "Make a web page that learns")
    page.wait(lambda: page.text("status").startswith("Exported") and "/web" in page.text("status"), PATIENCE_S)
    page.shoot("exported-web")
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    press(page, "Download the web page")
    page.wait(lambda: list(folder.glob("*.html")))
    [downloaded] = folder.glob("*.html")
    try_downloaded(downloaded, own, width, shots)
    press(page, "Report")
    page.wait(lambda: page.find("report").is_displayed())
    time.sleep(1)
    page.shoot("report")
    page.close()
    [bundle] = (folder / "runs").glob("*/export/litert")
    subprocess.run([sys.executable, "-m", "kerasimg", "run", "verify", str(bundle)], check=True)


class Keyboard:
    """A person without a mouse: keys go to what has the focus, and nothing else is touched."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.reached = 0

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.page.driver).send_keys(key).perform()

    def focused(self) -> dict[str, Any]:
        """What has the focus: its id, its text, and whether that can be seen."""
        script = """
            const element = document.activeElement;
            const style = getComputedStyle(element);
            const place = element.getBoundingClientRect();
            return {
              id: element.id, text: (element.textContent || "").trim(), role: element.getAttribute("role"),
              outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
              inside: place.bottom > 0 && place.top < innerHeight && place.right > 0 && place.left < innerWidth,
            }"""
        return dict(self.page.driver.execute_script(script))

    def go(self, wanted: str, backwards: bool = False) -> None:
        """Presses Tab until the control with an id, or with a text, has the focus."""
        steps = []
        for _ in range(150):
            focused = self.focused()
            if wanted in (focused["id"], focused["text"]):
                if not (focused["outlined"] and focused["inside"]):
                    raise SystemExit(f"{wanted} has the focus, which cannot be seen: {focused}")
                self.reached += 1
                return
            steps.append(focused["id"] or focused["text"][:20])
            chain = ActionChains(self.page.driver)
            if backwards:
                chain = chain.key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT)
            else:
                chain = chain.send_keys(Keys.TAB)
            chain.perform()
        raise SystemExit(f"{wanted} cannot be reached by Tab; the way: {steps[:40]}")

    def open(self, step: str) -> None:
        """Goes back to the steps with Escape, and along them with the arrow keys."""
        for _ in range(3):  # out of a field, and out of a selection, before
            if self.focused()["role"] == "tab":
                break
            self.press(Keys.ESCAPE)
        shown = self.page.driver.find_element("css selector", "[role=tab][aria-selected=true]").get_attribute("id")
        self.go(shown, backwards=True)
        for _ in range(8):
            if self.focused()["id"] == f"tab-{step}":
                self.press(Keys.ENTER)
                return
            self.press(Keys.ARROW_RIGHT)
        raise SystemExit(f"the step {step} cannot be reached by arrow keys")


def tell_by_keyboard(address: str, width: int, shots: Path, folder: Path) -> None:
    """The story by keyboard alone: photograph, label, move, decide on suspects, train, try, export."""
    photos = folder / "photos"
    reached = 0
    for name in COLOURS:
        video = folder / f"{name}.y4m"
        write_video(video, draw_class(name))
        page = Page(address, width, shots, video)
        keys = Keyboard(page)
        keys.open("camera")
        keys.go("camera-class")
        keys.press(name)
        keys.go("camera-start")
        keys.press(Keys.ENTER)
        page.wait(lambda keys=keys: keys.focused()["id"] == "camera-shoot")
        keys.press(Keys.SPACE)
        page.wait(lambda page=page: page.text("status").startswith("1 photograph "))
        for taken in (11, 21):
            keys.press("b")
            page.wait(lambda page=page, taken=taken: count_photographs(page) >= taken)
            page.wait(lambda page=page: page.text("status").startswith("10 photographs"))
        reached += keys.reached
        page.close()
    page = Page(address, width, shots, folder / "cup.y4m")
    keys = Keyboard(page)
    page.wait(lambda: len(page.driver.find_elements("css selector", ".cell img")) > 5)

    copy_files(photos)
    keys.go("rescan")
    keys.press(Keys.ENTER)
    page.wait(lambda: page.text("status").startswith(f"{3 * COPIED} new"))
    keys.go("grid")
    keys.press(Keys.HOME, "2")  # a cup becomes a plate, by mistake
    page.wait(lambda: page.text("status") == "1 image: plate.")
    page.shoot("keyboard-mislabelled")
    keys.open("suspects")
    keys.go("check")
    keys.press(Keys.ENTER)
    page.wait(lambda: "to decide" in page.text("suspects-count"), PATIENCE_S)
    right = re.compile(r"^(\d) (It is|All are) cup$", re.MULTILINE)
    for _ in range(len(page.driver.find_elements("css selector", "#suspects-list .card"))):
        card = page.driver.find_element("css selector", "#suspects-list [aria-current=true]").text
        if decision := right.search(card):
            break
        keys.press(Keys.ARROW_DOWN)
    else:
        raise SystemExit(f"the wrong label is not among the suspects: {page.text('suspects-list')}")
    keys.press(decision[1])
    page.wait(lambda: not right.search(page.text("suspects-list")))
    print("put right by keys:", json.loads((photos / ".kerasimg/journal.jsonl").read_text().splitlines()[-1])["edit"])
    if not keys.focused()["outlined"]:
        raise SystemExit(f"after a decision, nothing has a visible focus: {keys.focused()}")
    page.shoot("keyboard-suspects")

    keys.open("images")
    keys.go("grid")
    # Two spoons become cups, selected with Shift and an arrow; the others keep their class.
    keys.press(Keys.END)
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
    page.wait(lambda: page.text("selected-count") == "2 selected")
    keys.press("1")
    page.wait(lambda: page.text("status") == "2 images: cup.")
    keys.go("move", backwards=True)
    cups = 21 + COPIED
    for expected in (cups + 2, cups):
        keys.press(Keys.ENTER)
        page.driver.switch_to.alert.accept()  # Enter, in the browser's own dialog
        page.wait(lambda expected=expected: len(list((photos / "cup").glob("*.jpg"))) == expected)
        if expected > cups:
            keys.press("z")
            page.wait(lambda: page.text("status") == "Undone: 2 images.")
            keys.go("move", backwards=True)
    print("selected, labelled, moved, and all of it taken back")
    keys.go("grid")
    keys.press(Keys.HOME, Keys.ENTER)
    page.wait(lambda: page.find("viewer").get_attribute("open"))
    keys.press("2")  # the image that is looked at, and no other
    page.wait(lambda: page.text("viewer-label") == "plate")
    keys.press("z", Keys.ESCAPE)
    page.wait(lambda: not page.find("viewer").get_attribute("open") and page.text("status") == "Undone: 1 image.")
    keys.go("size", backwards=True)
    before = page.find("size").get_attribute("value")
    keys.press(Keys.ARROW_RIGHT)
    if page.find("size").get_attribute("value") == before:
        raise SystemExit("the size of the images cannot be changed by arrow keys")

    keys.open("training")
    keys.go("recipe")
    page.wait(lambda: len(page.driver.find_elements("css selector", "#recipe option")) > 3)
    keys.press("transfer:")
    page.wait(lambda: page.text("status").startswith("The spec is that of transfer"))
    keys.go("epochs")
    keys.press("5")
    complete_by_keyboard(page, keys)
    keys.go("train", backwards=True)
    keys.press(Keys.ENTER)
    page.wait(lambda: page.text("status").startswith("Trained"), PATIENCE_S)
    print(page.text("train-run"))
    page.shoot("keyboard-trained")

    keys.open("trial")
    page.wait(lambda: page.find("try-choose").is_displayed())
    keys.go("try-live")
    keys.press(Keys.ENTER)
    page.wait(lambda: int(page.find("try-result").get_attribute("data-turn") or 0) > 2, PATIENCE_S)
    print(f"the live camera: {page.text('try-verdict')}")
    keys.press(Keys.ENTER)
    keys.go("try-explain")
    keys.press(Keys.ENTER)
    page.wait(lambda: page.find("try-map").is_displayed(), PATIENCE_S)
    keys.go("try-nearest")
    keys.press(Keys.ENTER)
    page.wait(lambda: page.driver.find_elements("css selector", "#try-near img"), PATIENCE_S)
    page.shoot("keyboard-try")

    keys.open("runs")
    page.wait(lambda: page.driver.find_elements("css selector", "#runs-list .card"))
    keys.go("Export for phones")
    keys.press(Keys.ENTER)
    page.wait(lambda: page.text("status").startswith("Exported"), PATIENCE_S)
    page.shoot("keyboard-exported")
    keys.go("Report", backwards=True)
    keys.press(Keys.ENTER)
    page.wait(lambda: page.find("report").is_displayed())
    page.close()
    [bundle] = (folder / "runs").glob("*/export/litert")
    subprocess.run([sys.executable, "-m", "kerasimg", "run", "verify", str(bundle)], check=True)
    print(f"{reached + keys.reached} controls reached by keys, each with a visible focus")


def count_photographs(page: Page) -> int:
    return len(page.driver.find_elements("css selector", "#camera-taken img"))


def complete_by_keyboard(page: Page, keys: Keyboard) -> None:
    """Opens the spec, lets the page complete a name with Tab, takes it back, and leaves: Tab is no trap."""
    for _ in range(40):
        if page.driver.execute_script("return document.activeElement.tagName") == "SUMMARY":
            break
        keys.press(Keys.TAB)
    keys.press(Keys.ENTER)
    keys.go("spec")
    before = page.find("spec").get_attribute("value")
    ActionChains(page.driver).key_down(Keys.CONTROL).send_keys(Keys.HOME).key_up(Keys.CONTROL).perform()
    keys.press(Keys.ARROW_RIGHT, '"batch_si')
    page.wait(lambda: "batch_size" in page.text("completions"))
    page.shoot("keyboard-completion")
    keys.press(Keys.TAB)
    completed = page.find("spec").get_attribute("value")
    if '{"batch_size"' not in completed:
        raise SystemExit(f"not completed: {completed[:40]}")
    keys.press(*[Keys.BACKSPACE] * len('"batch_size"'))
    if page.find("spec").get_attribute("value") != before:
        raise SystemExit(f"the spec has changed: {page.find('spec').get_attribute('value')[:40]}")
    page.wait(lambda: page.text("spec-faults") == "The spec is valid.")


def label_next(page: Page, photos: Path) -> None:
    """Labels what the model asks for, trains again, and compares the two runs."""
    noise = np.random.default_rng(11)
    for number, name in enumerate(COLOURS):
        for k in range(4):
            frame = draw_frame(draw_class(name), 5000 + 17 * (4 * number + k), noise)
            frame.save(photos / "unlabelled" / f"{name} {k}.jpg", quality=92)
    page.tab("images")
    page.click("rescan")
    page.wait(lambda: page.text("status").startswith("12 new"))
    page.tab("next")
    page.wait(lambda: page.find("next-ask").is_displayed())
    page.click("next-ask")
    page.wait(lambda: len(page.driver.find_elements("css selector", "#next-list .card")) == 12, PATIENCE_S)
    page.shoot("next")
    names = list(COLOURS)
    for left in range(11, -1, -1):
        shown = page.driver.find_element("css selector", "#next-list img").get_attribute("alt")
        right = next(place for place, name in enumerate(names, 1) if f"/{name} " in shown)
        page.driver.find_element("tag name", "body").send_keys(str(right))
        page.wait(lambda left=left: len(page.driver.find_elements("css selector", "#next-list .card")) == left)
    page.tab("training")
    page.find("epochs").clear()
    page.find("epochs").send_keys("3")
    page.click("train")
    page.wait(lambda: page.text("status").startswith("Trained"), PATIENCE_S)
    page.tab("next")
    page.wait(lambda: len(page.driver.find_elements("css selector", "#next-gain tr")) == 2)
    print("rounds:", page.text("next-gain").replace("\n", "; "))
    page.shoot("rounds")
    page.tab("runs")
    page.wait(lambda: len(page.driver.find_elements("css selector", "#runs-list .card")) == 2)
    press(page, "Compare with")
    page.wait(lambda: "on the same" in page.text("runs-result"), PATIENCE_S)
    print(page.text("runs-result"))
    page.shoot("compared")


def copy_files(photos: Path) -> None:
    """What a person copies into the folder: more images of each class."""
    noise = np.random.default_rng(7)
    for name in COLOURS:
        for number in range(COPIED):
            frame = draw_frame(draw_class(name), 1000 + 7 * number, noise)
            frame.save(photos / name / f"copied {number:03}.jpg", quality=92)


def draw_foreign(seed: int) -> PIL.Image.Image:
    """A page of text, more or less: nothing that was photographed."""
    canvas = PIL.Image.new("RGB", (160, 120), (250, 250, 250))
    draw, noise = PIL.ImageDraw.Draw(canvas), np.random.default_rng(seed)
    for line in range(6, 114, 7):
        x = 8
        while x < 145:
            length = int(noise.integers(4, 22))
            draw.rectangle((x, line, min(x + length, 152), line + 3), (20, 20, 20))
            x += length + 5
    return canvas


def decide_foreign(page: Page, photos: Path) -> None:
    """Leaves out the foreign image that is among the suspects, by its key."""
    page.wait(lambda: "unlabelled/foreign.png" in page.text("suspects-list"))
    page.shoot("foreign")
    cards = page.driver.find_elements("css selector", "#suspects-list .card")
    place = next(k for k, card in enumerate(cards) if "unlabelled/foreign.png" in card.text)
    unlike = [card for card in cards if "unlike the images" in card.text]
    print(f"foreign images among the suspects: {len(unlike)}, the first is foreign.png: {cards[place] == unlike[0]}")
    body = page.driver.find_element("tag name", "body")
    for _ in range(place):
        body.send_keys("j")
    body.send_keys("1")
    page.wait(lambda: "unlabelled/foreign.png" not in page.text("suspects-list"))
    decided = json.loads((photos / ".kerasimg/journal.jsonl").read_text().splitlines()[-1])
    if decided["edit"][0][0] != "unlabelled/foreign.png":
        raise SystemExit(f"decided on another image: {decided}")


def try_downloaded(file: Path, image: Path, width: int, shots: Path) -> None:
    """Opens the exported page as a person would, from the disk and without a network, and gives it an image."""
    with browser.Browser(file.resolve().as_uri()) as opened:
        driver = opened.driver
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.find_element("id", "file").send_keys(str(image))
        WebDriverWait(driver, 60, 0.2).until(lambda _: driver.find_element("id", "verdict").text)
        print(f"the downloaded page, {file.stat().st_size / 1e6:.1f} MB: {driver.find_element('id', 'verdict').text}")
        driver.save_screenshot(str(shots / f"{width}-downloaded.png"))


def kill_training(folder: Path) -> None:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"train" in words and str(folder / "runs").encode() in words:
                os.kill(int(path.parent.name), signal.SIGKILL)


def press(page: Page, text: str) -> None:
    buttons = page.driver.find_elements("css selector", "#runs-list .buttons button, #runs-list .buttons a")
    button = next(each for each in buttons if each.text == text)
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("studio-shots"), help="a folder for the screenshots")
    parser.add_argument("--widths", type=int, nargs="+", default=[1280, 390])
    parser.add_argument("--keyboard", action="store_true", help="the story by keyboard alone")
    asked = parser.parse_args()
    if missing := browser.available():
        raise SystemExit(missing)
    asked.out.mkdir(parents=True, exist_ok=True)
    for width in asked.widths:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            with studio(folder / "photos", folder / "runs") as address:
                (tell_by_keyboard if asked.keyboard else tell)(address, width, asked.out.resolve(), folder)
        print(f"{width} pixels: the whole story, without a foreign request")


if __name__ == "__main__":
    main()
