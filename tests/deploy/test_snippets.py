"""The code that a bundle's README shows: run where its tools are installed, and of one piece everywhere."""

import functools
import http.server
import json
import shutil
import subprocess
import threading
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerasimg
from kerasimg.data.decode import FILTERS, RESIZE, decode
from kerasimg.deploy import snippets
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import Manifest, ModelFile
from kerasimg.deploy.web import browser, litertjs, pages
from kerasimg.errors import CallError
from kerasimg.spec.document import Image
from kerasimg.training.run import Run

HERE = Path(__file__).parent


def model(**changed: Any) -> ModelFile:
    told = {"path": "model.tflite", "runtime": "litert", "precision": "float32", "input_dtype": "float32"} | changed
    return ModelFile.model_validate(told)


def manifest(**changed: Any) -> Manifest:
    told = {"name": "x", "target": "litert", "task": "multiclass", "classes": 10, "models": [model()], "files": []}
    return Manifest.model_validate(told | {"created": "2026"} | changed)


IMAGES = [
    Image(size=[24, 40], channels=channels, resize=resize, interpolation=filter_name, background=[10, 200, 77])
    for resize, filter_name, channels in product(RESIZE, FILTERS, (1, 3))
]


@pytest.mark.parametrize("write", [snippets.kotlin, snippets.swift, snippets.javascript, snippets.microcontroller])
@pytest.mark.parametrize("input_dtype", ["float32", "uint8", "int8"])
def test_code_is_whole_for_every_image_section(write: Any, input_dtype: str):
    for image in IMAGES:
        code = write(manifest(), image, model(input_dtype=input_dtype))
        assert not set("@") & set(code.replace("@IntArray", "").replace("@litertjs", "")), code
        for opening, closing in ("()", "[]", "{}"):
            assert code.count(opening) == code.count(closing), code


def test_code_has_the_models_names_and_sizes():
    image = Image(size=[96, 64], channels=1, background=[1, 2, 3])
    told = manifest(task="multilabel", classes=7)
    kotlin = snippets.kotlin(told, image, model(path="model_int8.tflite", input_dtype="int8"))
    assert 'CompiledModel.create(assets, "model_int8.tflite", CompiledModel.Options(Accelerator.CPU))' in kotlin
    assert "7 probabilities, of each label by itself, in the order of classes.json" in kotlin
    assert "inputs[0].writeInt8(modelInput(argb, picture.width, picture.height))" in kotlin
    assert "ByteArray(96 * 64 * 1)" in kotlin
    assert "intArrayOf(1, 2, 3)" in kotlin
    swift = snippets.swift(told, image, model(path="model_int8.tflite", input_dtype="int8"))
    assert 'path(forResource: "model_int8", ofType: "tflite")' in swift
    assert "-> [Int8]" in swift
    assert "[1, 2, 3, 255]" in swift


@pytest.mark.skipif(shutil.which("kotlinc") is None, reason="kotlinc is not installed")
def test_kotlin_makes_the_reference_decoders_pixels_within_one(tmp_path: Path):
    sources, calls, cases = [], [], []
    random = np.random.default_rng(0)
    for number, image in enumerate(IMAGES[::2] + IMAGES[1:3]):
        code = snippets.kotlin(manifest(), image, model(input_dtype="int8"))
        sources.append(tmp_path / f"c{number}.kt")
        sources[-1].write_text(f"package c{number}\n{code}\n")
        for width, height in [(37, 23), (160, 120), (97, 61), (1, 5), (40, 24)]:
            picture = random.integers(0, 256, (height, width, 4)).astype(np.uint8)
            file = tmp_path / f"{len(cases)}.argb"
            picture[..., [3, 0, 1, 2]].tofile(file)
            cases.append((file, decode(picture, image), image))
            calls.append(f'  told("{file}", {width}, {height}) {{ c{number}.modelInput(it, {width}, {height}) }}')
    main = """
fun told(file: String, width: Int, height: Int, make: (IntArray) -> ByteArray) {
  val pixels = java.nio.ByteBuffer.wrap(java.io.File(file).readBytes()).asIntBuffer()
  java.io.File("$file.out").writeBytes(make(IntArray(width * height) { pixels.get(it) }))
}
"""
    (tmp_path / "Main.kt").write_text("fun main() {\n" + "\n".join(calls) + "\n}\n" + main)
    jar = tmp_path / "main.jar"
    given = [*sources, tmp_path / "Main.kt", HERE / "android"]
    subprocess.run(["kotlinc", *map(str, given), "-include-runtime", "-d", str(jar)], check=True)
    subprocess.run(["java", "-cp", str(jar), "MainKt"], check=True)
    for file, pixels, image in cases:
        found = np.fromfile(f"{file}.out", np.int8).astype(int) + 128
        assert np.abs(found - pixels.reshape(-1)).max() <= 1, (file.name, image)


@pytest.mark.skipif(browser.available() is not None, reason=str(browser.available()))
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_javascript_runs_a_tflite_file_of_any_batch(precision: str, exported: dict[str, Bundle], tmp_path: Path):
    try:
        runtime = litertjs.runtime_files()
    except CallError as error:
        pytest.skip(str(error))
    bundle = exported["litert"]
    chosen = bundle.model(precision)
    (vector, *_) = bundle.vectors()
    about = {"name": "x", "task": "multiclass", "classes": list(bundle.classes), "thresholds": None, "image": {}}
    pages.write_folder(tmp_path, about, runtime)
    shutil.copy(bundle.model_path(chosen), tmp_path)
    code = snippets.javascript(bundle.manifest, bundle.image, chosen)
    code = code.replace("node_modules/@litertjs/core/wasm/", "litert/")
    pixels = f"new Uint8Array({json.dumps(vector.pixels.reshape(-1).tolist())})"
    imports = '<script type="importmap">{"imports": {"@litertjs/core": "./litert/index.js"}}</script>'
    script = f"{code}\nwindow.kerasimg = Promise.resolve({{ told: await probabilities({pixels}) }});"
    page = f'<!doctype html>{imports}<script type="module">{script}</script>'
    (tmp_path / "index.html").write_text(page)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver = browser._driver([])
        try:
            from selenium.webdriver.support.wait import WebDriverWait

            driver.get(f"http://127.0.0.1:{server.server_port}/index.html")
            WebDriverWait(driver, 60).until(lambda one: one.execute_script("return Boolean(window.kerasimg)"))
            found = driver.execute_async_script("window.kerasimg.then(({ told }) => arguments[0](told))")
        finally:
            driver.quit()
            server.shutdown()
    np.testing.assert_allclose(found, vector.probabilities, atol=1e-5 if precision == "float32" else 0.05)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_the_readme_of_a_bundle_shows_them(exported: dict[str, Bundle], run: Run):
    text = (exported["litert"].folder / "README.md").read_text()
    for language in ("python", "cpp", "kotlin", "swift", "js"):
        assert f"```{language}\n" in text
    assert kerasimg.__name__ in text
