"""The page in a headless Chromium without network, compared with `kerasimg.predict`."""

import base64
import functools
import http.server
import io
import json
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
from kerasimg.data.decode import decode
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.export_context import Options, prepare
from kerasimg.deploy.targets import target
from kerasimg.deploy.web import browser, litertjs, pages
from kerasimg.deploy.web.browser import Browser
from kerasimg.deploy.web.browser import probabilities as web_probabilities
from kerasimg.errors import CallError, KerasimgError, WeightsError
from kerasimg.evaluation.predict import answer, require_all
from kerasimg.models.classifier import Classifier
from kerasimg.spec.document import Image

in_browser = pytest.mark.skipif(browser.available() is not None, reason=str(browser.available()))


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
    """An asymmetric image with smooth and noisy parts, which reveals a wrong rotation or filter."""
    random = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(random.integers(0, 256, (5, 7, 3)).astype(np.uint8)).resize((211, 140))
    return PIL.Image.fromarray((np.asarray(coarse) // 2 + random.integers(0, 128, (140, 211, 3))).astype(np.uint8))


def by_keras(run: Run, images: list[Any]) -> list[Any]:
    """As `kerasimg.predict`, but never by a bundle that another test has exported from the same run."""
    return require_all(answer(Classifier.open(run), images))


def encode(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def exif_with(orientation: int) -> dict[str, Any]:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def shown_result(page: Browser, turn: int) -> tuple[str, list[tuple[str, str]]]:
    """Returns the class and the bars that the page shows after its n-th image."""
    from selenium.webdriver.support.wait import WebDriverWait

    find = "return document.getElementById('result').dataset.turn === String(arguments[0])"
    WebDriverWait(page.driver, 20).until(lambda driver: driver.execute_script(find, turn))
    rows = page.driver.find_elements("css selector", "#bars li")
    read = [tuple(row.find_element("css selector", f".{part}").text for part in ("title", "share")) for row in rows]
    return page.driver.find_element("id", "verdict").text, read


def expected(run: Run, image: Any) -> tuple[str, list[tuple[str, str]]]:
    (one,) = by_keras(run, [image])
    rows = sorted(one.probabilities.items(), key=lambda row: -row[1])
    shares = [f"{value:.1%}".replace("%", " %") if value >= 0.001 or value == 0 else "< 0.1 %" for _, value in rows]
    return str(one.label), [(label, share) for (label, _), share in zip(rows, shares, strict=True)]


@in_browser
def test_page_agrees_with_the_trained_model_on_every_test_image(bundle: Bundle):
    (row,) = bundle.manifest.parity
    assert row.runtime.startswith("LiteRT.js in chrome")
    assert row.images == 9
    assert row.greatest_difference < 1e-5
    assert row.same_decision == 1


@in_browser
def test_page_decodes_image_files_like_the_reference_decoder(
    page: Browser, photo: PIL.Image.Image, bundle: Bundle, run: Run
):
    y, x = np.mgrid[: photo.height, : photo.width]
    glass = photo.copy()
    glass.putalpha(PIL.Image.fromarray(((x + y) % 256).astype(np.uint8)))
    cases = {
        "png": encode(photo, "PNG"),
        "png, transparent": encode(glass, "PNG"),
        "png, palette": encode(photo.convert("P"), "PNG"),
        "jpeg": encode(photo, "JPEG", quality=90, subsampling=0),
        "jpeg, chroma at half": encode(photo, "JPEG", quality=75, subsampling=2, progressive=True),
        "jpeg, grey": encode(photo.convert("L"), "JPEG"),
        "webp": encode(photo, "WEBP", quality=80),
        "webp, transparent": encode(glass, "WEBP", lossless=True, exact=True),
        "webp, turned": encode(photo, "WEBP", lossless=True, **exif_with(6)),
        "gif": encode(photo, "GIF"),
        "bmp": encode(photo, "BMP"),
        **{f"jpeg, turned {number}": encode(photo, "JPEG", **exif_with(number)) for number in range(2, 9)},
    }
    for name, content in cases.items():
        difference = page.pixels(content).astype(int) - decode(content, bundle.image).reshape(-1)
        # A canvas keeps transparent pixels multiplied by alpha. JPEG decoders may differ in rounding.
        allowed = 1 if name == "webp, transparent" else 2 if "jpeg" in name or name == "webp" else 0
        assert np.abs(difference).max() <= allowed, name
    found = np.stack([page.probabilities(content) for content in cases.values()])
    expected_result = by_keras(run, [np.asarray(PIL.Image.open(io.BytesIO(cases["png"])))])
    np.testing.assert_allclose(found[0], list(expected_result[0].probabilities.values()), atol=1e-3)


@in_browser
def test_webgpu_gives_the_probabilities_of_the_trained_model(bundle: Bundle):
    vectors = bundle.vectors()
    found = web_probabilities(bundle, [vector.file for vector in vectors], accelerator="webgpu")
    np.testing.assert_allclose(found, [vector.probabilities for vector in vectors], atol=1e-4)


@in_browser
def test_page_reports_a_file_that_is_not_an_image(page: Browser):
    for content in (b"", b"<!doctype html>", encode(PIL.Image.new("RGB", (40, 40)), "JPEG")[:300]):
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
        assert shown_result(page, 1) == expected(run, red)

        drop = """
            const bytes = Uint8Array.from(atob(arguments[0]), (character) => character.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            const event = { dataTransfer: carried, bubbles: true, cancelable: true };
            document.querySelector("h1").dispatchEvent(new DragEvent("drop", event));"""
        driver.execute_script(drop, base64.b64encode(green.read_bytes()).decode())
        assert shown_result(page, 2) == expected(run, green)

        driver.find_element("id", "camera").click()
        ready = "return document.getElementById('video').videoWidth"
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(driver, 20).until(lambda found: found.execute_script(ready) == 64)
        driver.find_element("id", "shoot").click()
        shown = shown_result(page, 3)
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
def test_controls_are_reachable_by_keyboard_and_have_names(page: Browser):
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
def test_folder_runs_from_a_server_with_the_code_of_the_readme(bundle: Bundle, run: Run, photo: PIL.Image.Image):
    code = re.search(r"```js\n(.*?)```", (bundle.folder / "README.md").read_text(), re.S)
    assert code
    script = code[1].replace("console.log(", "window.result = [").replace("5));", "5)];")
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
        content = encode(photo, "PNG")
        try:
            with Browser(f"{address}/index.html", offline=False) as page:
                found = page.probabilities(content)
                from selenium.webdriver.support.wait import WebDriverWait

                page.driver.get(f"{address}/app.html")
                file = bundle.folder / "vectors" / "0.png"
                page.driver.find_element("css selector", "input").send_keys(str(file))
                answer = WebDriverWait(page.driver, 20).until(
                    lambda driver: driver.execute_script("return window.result")
                )
        finally:
            server.shutdown()
    (expected_result,) = by_keras(run, [np.asarray(photo)])
    np.testing.assert_allclose(found, list(expected_result.probabilities.values()), atol=1e-5)
    label, ranked = answer
    (expected_result,) = by_keras(run, [str(file)])
    assert label == expected_result.label
    for row in ranked:
        assert row["probability"] == pytest.approx(expected_result.probabilities[row["label"]], abs=1e-5)


@in_browser
@pytest.mark.parametrize("precision", ["float16", "dynamic", "int8"])
def test_quantized_models_run_in_the_page(precision: Any, run: Run, runtime: Path, tmp_path: Path):
    exporting = prepare(run, options=Options((precision,), 1))
    (made,) = [target("web").write(exporting, tmp_path, precision)]
    assert made.input_dtype == ("uint8" if precision == "int8" else "float32")
    classifier = Classifier.open(run)
    with Browser((tmp_path / "demo.html").resolve().as_uri()) as opened:
        assert exporting.test is not None
        chosen = exporting.test.sample(3)
        for file, pixels in zip(chosen.names, chosen.batches(classifier.spec.image, 1), strict=True):
            content = encode(PIL.Image.fromarray(pixels[0]), "PNG")
            expected = classifier.probabilities(pixels.astype(np.float32))[0]
            np.testing.assert_allclose(opened.probabilities(content), expected, atol=0.05, err_msg=file)


def test_several_precisions_or_another_batch_size_are_refused(run: Run, runtime: Path):
    with pytest.raises(CallError, match="choose one precision"):
        kerasimg.export(run, "web", precision=["float32", "int8"])
    with pytest.raises(CallError, match="needs batch size 1, got 4"):
        kerasimg.export(run, "web", batch=4)


def test_names_are_escaped_in_the_page(runtime: Path):
    image = Image(size=[8, 8]).model_dump()
    name = "</script><script>alert(1)</script>&\"'<!--"
    about = {"name": name, "task": "multiclass", "classes": [name], "thresholds": None, "image": image}
    text = pages.single_page(about, b"model", runtime)
    assert "<script>alert" not in text
    inlined = re.search(r'id="about">(.*?)</script>', text)
    assert inlined
    assert json.loads(inlined[1]) == about


def test_page_contains_no_external_address(bundle: Bundle):
    text = (bundle.folder / "demo.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "unsafe-inline" not in text
    assert "unsafe-eval'" not in text.replace("'wasm-unsafe-eval'", "")
    assert not re.search(r'(?:src|href)="https?:', text)
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in (bundle.folder / "litert" / "LICENSE").read_text()


def test_missing_npm_is_reported_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(litertjs.VARIABLE, raising=False)
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        CallError, match=r"npm, which downloads it, is not installed: on a machine with npm, run `npm pack @litertjs"
    ):
        litertjs.runtime_files()


def test_folder_without_the_packages_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(litertjs.VARIABLE, str(tmp_path))
    with pytest.raises(CallError, match=r"contains neither @litertjs/core/dist/index\.js nor litertjs-core-"):
        litertjs.runtime_files()


def test_changed_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: Path):
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.mkdir()
    for file in runtime.iterdir():
        (source / file.name).symlink_to(file)
    monkeypatch.setenv(litertjs.VARIABLE, str(source))
    cached = litertjs.runtime_files()
    assert cached.is_relative_to(tmp_path / "cache")
    assert {file.name for file in cached.iterdir()} == set(litertjs.FILES)
    monkeypatch.delenv(litertjs.VARIABLE)
    (cached / litertjs.LOADER).write_text("while (true) {}")
    with pytest.raises(WeightsError, match="its SHA-256 differs"):
        litertjs.runtime_files()
