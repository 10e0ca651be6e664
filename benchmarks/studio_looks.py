"""The studio's page at 390, 768, 1280 and 2560 pixels, light and dark: every text can be read, and nothing overflows.

The contrast of every visible text and placeholder with what is behind it is computed from the computed styles, as WCAG
2.2 defines it; AA asks for 4.5 (text of disabled controls is exempt). Screenshots of every step go to --out.

    python benchmarks/studio_looks.py --out shots
    python benchmarks/studio_looks.py --out shots --folder photos --runs runs      # with the runs of a folder
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from studio_story import COLOURS, PATIENCE_S, Page, draw_class, draw_frame, studio

from kerasimg.deploy.web import browser

STEPS = ("images", "camera", "suspects", "training", "trial", "runs", "next")
LEAST = 4.5
CONTRAST = """
const parse = (text) => {
  const numbers = text.match(/[\\d.]+/g).map(Number);
  return numbers.length < 4 ? [...numbers, 1] : numbers;
};
const over = (top, below) => [0, 1, 2].map((k) => top[k] * top[3] + below[k] * (1 - top[3])).concat(1);
const linear = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
const luminance = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
const contrast = (first, second) => {
  const [high, low] = [luminance(first), luminance(second)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
};
const elements = new Set(document.querySelectorAll("input, textarea, select"));
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) if (texts.currentNode.textContent.trim()) elements.add(texts.currentNode.parentElement);
const measured = [];
for (const element of elements) {
  const box = element.getBoundingClientRect();
  const seen = element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && box.width && box.height;
  if (!seen || element.closest(".away, :disabled, option")) continue;
  let [ground, opacity] = [[0, 0, 0, 0], 1];
  for (let each = element; each; each = each.parentElement) {
    const style = getComputedStyle(each);
    const colour = parse(style.backgroundColor);
    opacity *= Number(style.opacity);
    if (ground[3] < 1 && colour[3] > 0) ground = ground[3] ? over(ground, colour) : colour;
  }
  const style = getComputedStyle(element);
  const colours = [parse(element instanceof SVGElement ? style.fill : style.color)];
  if (element.placeholder) colours.push(parse(getComputedStyle(element, "::placeholder").color));
  for (const colour of colours) {
    const shown = over([...colour.slice(0, 3), colour[3] * opacity], ground);
    const text = (element.textContent || element.placeholder || "").trim().slice(0, 40);
    measured.push([contrast(shown, ground), `${element.tagName} ${element.id} “${text}”`]);
  }
}
return [measured, document.documentElement.scrollWidth - innerWidth];
"""


def make_photos(folder: Path) -> None:
    noise = np.random.default_rng(0)
    for name in COLOURS:
        (folder / name).mkdir(parents=True)
        for number in range(12):
            draw_frame(draw_class(name), 37 * number, noise).save(folder / name / f"{number}.jpg")
    (folder / "cup" / "broken.jpg").write_bytes((folder / "cup" / "0.jpg").read_bytes()[:900])


def measure(page: Page, scheme: str, width: int, out: Path) -> tuple[int, float, list[str]]:
    """(texts, the lowest contrast, what is wrong) of every step at a width."""
    height = 844 if width < 500 else 900 if width < 2000 else 1440
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    count, lowest, wrong = 0, 99.0, []
    for step in STEPS:
        page.tab(step)
        time.sleep(0.8)
        page.driver.execute_script("document.querySelector('details').open = true")
        if step == "images":
            page.driver.execute_script("document.getElementById('grid').focus()")
            page.find("grid").send_keys("a")
            page.wait(lambda: page.text("selected-count"))
        page.driver.save_screenshot(str(out / f"{scheme}-{width}-{step}.png"))
        measured, overflow = page.driver.execute_script(CONTRAST)
        count, lowest = count + len(measured), min([lowest, *(row[0] for row in measured)])
        wrong += [f"{step}: {text}: {ratio:.2f}" for ratio, text in measured if ratio < LEAST]
        wrong += [f"{step}: {overflow} pixels wider than the screen"] if overflow > 0 else []
    return count, lowest, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("studio-shots"), help="a folder for the screenshots")
    parser.add_argument("--widths", type=int, nargs="+", default=[390, 768, 1280, 2560])
    parser.add_argument("--folder", type=Path, help="images; default: a few that are made")
    parser.add_argument("--runs", type=Path, help="the runs of --folder")
    asked = parser.parse_args()
    if missing := browser.available():
        raise SystemExit(missing)
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch) / "photos"
        if asked.folder is None:
            make_photos(folder)
        faults = []
        with studio(folder, asked.runs or Path(scratch) / "runs") as address:
            page = Page(address, asked.widths[0], asked.out)
            page.tab("suspects")
            page.click("check")
            page.wait(lambda: "to decide" in page.text("suspects-count"), PATIENCE_S)
            for scheme in ("light", "dark"):
                for width in asked.widths:
                    count, lowest, wrong = measure(page, scheme, width, asked.out)
                    print(f"{scheme}, {width} pixels: {count} texts, the lowest contrast {lowest:.2f}")
                    faults += [f"{scheme}, {width} pixels: {fault}" for fault in wrong]
            page.close()
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
