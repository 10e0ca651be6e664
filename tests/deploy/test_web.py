"""The page in a headless Chromium without network, by every way in, against `kerasimg.predict`."""

import base64
import functools
import http.server
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.data import cache_folder
from kerasimg.data.decode import decode
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.export_context import Options, prepare
from kerasimg.deploy.targets import target
from kerasimg.deploy.web import browser, litertjs, pages
from kerasimg.deploy.web.browser import Browser
from kerasimg.errors import CallError, KerasimgError, WeightsError
from kerasimg.models.classifier import Classifier
from kerasimg.spec.document import Image

in_browser = pytest.mark.skipif(browser.available() is not None, reason=str(browser.available()))


@pytest.fixture(scope="session")
def runtime() -> Path:
    """LiteRT.js: from where the user has it, or by npm."""
    kept = cache_folder._systems_own() / "kerasimg" / "litertjs" / litertjs._cached().name
    if litertjs.VARIABLE not in os.environ and kept.is_dir():
        os.environ[litertjs.VARIABLE] = str(kept)
    try:
        return litertjs.runtime_files()
    except CallError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def bundle(run: Run, runtime: Path) -> Bundle:
    (made,) = kerasimg.export(run, "web")
    return made


@pytest.fixture(scope="module")
def page(bundle: Bundle) -> Iterator[Browser]:
    with Browser((bundle.folder / "demo.html").resolve().as_uri()) as opened:
        yield opened


@pytest.fixture(scope="module")
def photo() -> PIL.Image.Image:
    """Smooth and noisy parts, and nothing symmetric, so that a wrong turn or filter shows."""
    random = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(random.integers(0, 256, (5, 7, 3)).astype(np.uint8)).resize((211, 140))
    return PIL.Image.fromarray((np.asarray(coarse) // 2 + random.integers(0, 128, (140, 211, 3))).astype(np.uint8))


def saved(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def turned(orientation: int) -> dict[str, Any]:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def told(page: Browser, turn: int) -> tuple[str, list[tuple[str, str]]]:
    """What the page shows after its n-th image: the class, and the bars."""
    from selenium.webdriver.support.wait import WebDriverWait

    find = "return document.getElementById('result').dataset.turn === String(arguments[0])"
    WebDriverWait(page.driver, 20).until(lambda driver: driver.execute_script(find, turn))
    rows = page.driver.find_elements("css selector", "#bars li")
    read = [tuple(row.find_element("css selector", f".{part}").text for part in ("title", "share")) for row in rows]
    return page.driver.find_element("id", "verdict").text, read


def expected(run: Run, image: Any) -> tuple[str, list[tuple[str, str]]]:
    (one,) = kerasimg.predict(run, [image])
    rows = sorted(one.probabilities.items(), key=lambda row: -row[1])
    shares = [f"{value:.1%}".replace("%", " %") if value >= 0.001 or value == 0 else "< 0.1 %" for _, value in rows]
    return str(one.label), [(label, share) for (label, _), share in zip(rows, shares, strict=True)]


@in_browser
def test_the_page_agrees_with_the_trained_model_on_every_test_image(bundle: Bundle):
    (row,) = bundle.manifest.parity
    assert row.runtime.startswith("LiteRT.js in chrome")
    assert row.images == 9
    assert row.greatest_difference < 1e-5
    assert row.same_decision == 1


@in_browser
def test_a_images_file_gives_the_reference_decoders_pixels(
    page: Browser, photo: PIL.Image.Image, bundle: Bundle, run: Run
):
    y, x = np.mgrid[: photo.height, : photo.width]
    glass = photo.copy()
    glass.putalpha(PIL.Image.fromarray(((x + y) % 256).astype(np.uint8)))
    cases = {
        "png": saved(photo, "PNG"),
        "png, transparent": saved(glass, "PNG"),
        "png, palette": saved(photo.convert("P"), "PNG"),
        "jpeg": saved(photo, "JPEG", quality=90, subsampling=0),
        "jpeg, chroma at half": saved(photo, "JPEG", quality=75, subsampling=2, progressive=True),
        "jpeg, grey": saved(photo.convert("L"), "JPEG"),
        "webp": saved(photo, "WEBP", quality=80),
        "webp, transparent": saved(glass, "WEBP", lossless=True, exact=True),
        "webp, turned": saved(photo, "WEBP", lossless=True, **turned(6)),
        "gif": saved(photo, "GIF"),
        "bmp": saved(photo, "BMP"),
        **{f"jpeg, turned {number}": saved(photo, "JPEG", **turned(number)) for number in range(2, 9)},
    }
    for name, content in cases.items():
        difference = page.pixels(content).astype(int) - decode(content, bundle.image).reshape(-1)
        # A canvas keeps transparent pixels multiplied by alpha. JPEG decoders may differ in rounding.
        allowed = 1 if name == "webp, transparent" else 2 if "jpeg" in name or name == "webp" else 0
        assert np.abs(difference).max() <= allowed, name
    found = np.stack([page.probabilities(content) for content in cases.values()])
    wanted = kerasimg.predict(run, [np.asarray(PIL.Image.open(io.BytesIO(cases["png"])))])
    np.testing.assert_allclose(found[0], list(wanted[0].probabilities.values()), atol=1e-3)


@in_browser
def test_a_file_that_is_no_image_is_refused_in_words(page: Browser):
    for content in (b"", b"<!doctype html>", saved(PIL.Image.new("RGB", (40, 40)), "JPEG")[:300]):
        with pytest.raises(KerasimgError, match="says: is"):
            page.probabilities(content)


@in_browser
def test_images_are_chosen_dropped_and_photographed(bundle: Bundle, run: Run, images: Any, tmp_path: Path):
    data = images(tmp_path, {"red": 1, "green": 1, "blue": 1})
    red, green, blue = (data / name / "00.png" for name in ("red", "green", "blue"))
    video = tmp_path / "camera.y4m"
    luma, *chroma = np.asarray(PIL.Image.open(blue).convert("RGB").resize((64, 48)).convert("YCbCr")).transpose(2, 0, 1)
    frame = b"FRAME\n" + luma.tobytes() + b"".join(plane[::2, ::2].tobytes() for plane in chroma)
    video.write_bytes(b"YUV4MPEG2 W64 H48 F10:1 Ip A1:1 C420jpeg\n" + frame * 10)
    camera = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    options = [*camera, f"--use-file-for-fake-video-capture={video}"]
    with Browser((bundle.folder / "demo.html").resolve().as_uri(), options) as page:
        driver = page.driver
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        driver.find_element("id", "file").send_keys(str(red))
        assert told(page, 1) == expected(run, red)

        drop = """
            const bytes = Uint8Array.from(atob(arguments[0]), (character) => character.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            const event = { dataTransfer: carried, bubbles: true, cancelable: true };
            document.querySelector("h1").dispatchEvent(new DragEvent("drop", event));"""
        driver.execute_script(drop, base64.b64encode(green.read_bytes()).decode())
        assert told(page, 2) == expected(run, green)

        driver.find_element("id", "camera").click()
        ready = "return document.getElementById('video').videoWidth"
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(driver, 20).until(lambda found: found.execute_script(ready) == 64)
        driver.find_element("id", "shoot").click()
        shown = told(page, 3)
        copy = """
            const image = document.getElementById("image");
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png").split(",")[1];"""
        taken = tmp_path / "taken.png"
        taken.write_bytes(base64.b64decode(driver.execute_script(copy)))
        assert shown == expected(run, taken)
        assert shown[0] == "blue"
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390


@in_browser
def test_everything_is_reached_by_keyboard_and_has_a_name(page: Browser):
    from selenium.webdriver import ActionChains, Keys

    driver = page.driver
    reached = []
    for _ in range(3):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        reached.append(driver.switch_to.active_element.get_attribute("id"))
    assert {"choose", "camera"} <= set(reached)
    script = """return [...document.querySelectorAll("button, input, video, img, section, ol")]
        .filter((one) => !one.closest("[hidden]"))
        .filter((one) => !(one.innerText || one.alt || one.ariaLabel || one.getAttribute("aria-labelledby")))
        .map((one) => one.outerHTML)"""
    assert driver.execute_script(script) == []


@in_browser
def test_the_folder_runs_from_a_server_as_the_readme_says(bundle: Bundle, run: Run, photo: PIL.Image.Image):
    code = re.search(r"```js\n(.*?)```", (bundle.folder / "README.md").read_text(), re.S)
    assert code
    script = code[1].replace("console.log(", "window.told = [").replace("5));", "5)];")
    app = '<!doctype html><input type="file"><script type="module">' + script + "</script>"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path != "/app.html":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(app.encode())
            return None

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(bundle.folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        content = saved(photo, "PNG")
        try:
            with Browser(f"{address}/index.html", offline=False) as page:
                found = page.probabilities(content)
                from selenium.webdriver.support.wait import WebDriverWait

                page.driver.get(f"{address}/app.html")
                file = bundle.folder / "vectors" / "0.png"
                page.driver.find_element("css selector", "input").send_keys(str(file))
                answer = WebDriverWait(page.driver, 20).until(lambda one: one.execute_script("return window.told"))
        finally:
            server.shutdown()
    (wanted,) = kerasimg.predict(run, [np.asarray(photo)])
    np.testing.assert_allclose(found, list(wanted.probabilities.values()), atol=1e-5)
    label, ranked = answer
    (wanted,) = kerasimg.predict(run, [str(file)])
    assert label == wanted.label
    for row in ranked:
        assert row["probability"] == pytest.approx(wanted.probabilities[row["label"]], abs=1e-5)


@in_browser
@pytest.mark.parametrize("precision", ["float16", "dynamic", "int8"])
def test_smaller_models_run_in_the_page_too(precision: Any, run: Run, runtime: Path, tmp_path: Path):
    exporting = prepare(run, options=Options((precision,), 1))
    (made,) = [target("web").write(exporting, tmp_path, precision)]
    assert made.input_dtype == ("uint8" if precision == "int8" else "float32")
    classifier = Classifier.open(run)
    with Browser((tmp_path / "demo.html").resolve().as_uri()) as opened:
        assert exporting.test is not None
        chosen = exporting.test.evenly(3)
        for file, pixels in zip(chosen.names, chosen.batches(classifier.spec.image, 1), strict=True):
            content = saved(PIL.Image.fromarray(pixels[0]), "PNG")
            expected = classifier.probabilities(pixels.astype(np.float32))[0]
            np.testing.assert_allclose(opened.probabilities(content), expected, atol=0.05, err_msg=file)


def test_one_model_and_one_image_at_a_time(run: Run, runtime: Path):
    with pytest.raises(CallError, match="ask for one precision"):
        kerasimg.export(run, "web", precision=["float32", "int8"])
    with pytest.raises(CallError, match="expected a batch of 1"):
        kerasimg.export(run, "web", batch=4)


def test_names_cannot_break_out_of_the_page(runtime: Path):
    image = Image(size=[8, 8]).model_dump()
    name = "</script><script>alert(1)</script>&\"'<!--"
    about = {"name": name, "task": "multiclass", "classes": [name], "thresholds": None, "image": image}
    text = pages.single_page(about, b"model", runtime)
    assert "<script>alert" not in text
    inlined = re.search(r'id="about">(.*?)</script>', text)
    assert inlined
    assert json.loads(inlined[1]) == about


def test_the_page_names_no_address(bundle: Bundle):
    text = (bundle.folder / "demo.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "unsafe-inline" not in text
    assert "unsafe-eval'" not in text.replace("'wasm-unsafe-eval'", "")
    assert not re.search(r'(?:src|href)="https?:', text)
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in (bundle.folder / "litert" / "LICENSE").read_text()


def test_without_npm_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(litertjs.VARIABLE, raising=False)
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        CallError, match=r"npm, which fetches it, is not installed: where npm is, run `npm pack @litertjs"
    ):
        litertjs.runtime_files()


def test_a_folder_without_the_packages_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(litertjs.VARIABLE, str(tmp_path))
    with pytest.raises(CallError, match=r"holds neither @litertjs/core/dist/index\.js nor litertjs-core-"):
        litertjs.runtime_files()


def test_altered_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: Path):
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path / "cache"))
    given = tmp_path / "given"
    given.mkdir()
    for file in runtime.iterdir():
        (given / file.name).symlink_to(file)
    monkeypatch.setenv(litertjs.VARIABLE, str(given))
    kept = litertjs.runtime_files()
    assert kept.is_relative_to(tmp_path / "cache")
    assert {file.name for file in kept.iterdir()} == set(litertjs.FILES)
    monkeypatch.delenv(litertjs.VARIABLE)
    (kept / litertjs.LOADER).write_text("while (true) {}")
    with pytest.raises(WeightsError, match="its SHA-256 is another"):
        litertjs.runtime_files()
