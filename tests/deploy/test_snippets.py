"""The code in a bundle's README: complete, and run if its tools are installed."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.data.decode import FILTERS, decode
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.export_context import Options, prepare
from kerasimg.deploy.manifest import Manifest, ModelFile
from kerasimg.deploy.readme import LANGUAGES, snippet
from kerasimg.deploy.targets import target, targets
from kerasimg.deploy.web import browser, litertjs, pages
from kerasimg.errors import CallError
from kerasimg.models.classifier import Classifier
from kerasimg.spec.document import Image, ResizePolicy

HERE = Path(__file__).parent


def model(**changed: Any) -> ModelFile:
    fields = {"path": "model.tflite", "runtime": "litert", "precision": "float32", "input_dtype": "float32", "batch": 1}
    fields |= changed
    return ModelFile.model_validate(fields)


def manifest(**changed: Any) -> Manifest:
    fields = {"name": "x", "target": "litert", "task": "multiclass", "classes": 10, "models": [model()], "files": []}
    return Manifest.model_validate(fields | {"created": "2026"} | changed)


IMAGES = [
    Image(
        size=[24, 40],
        channels=channels,
        resize=resize,
        interpolation=filter_name,
        crop_fraction=0.8 if filter_name == "bicubic" else 1,
        background=[10, 200, 77],
    )
    for resize, filter_name, channels in product(get_args(ResizePolicy), FILTERS, (1, 3))
]


def code_of(
    title: str, image: Image, name: str = "litert", bundle_manifest: Manifest | None = None, **changed: Any
) -> str:
    """The code below a heading in the README of a target's bundle."""
    chosen = target(name)
    return snippet(chosen, chosen.snippets[title], bundle_manifest or manifest(), image, model(**changed))


@pytest.mark.parametrize(("name", "title"), [(each.name, title) for each in targets() for title in each.snippets])
@pytest.mark.parametrize("input_dtype", ["float32", "uint8", "int8"])
def test_code_is_complete_for_every_image_section(name: str, title: str, input_dtype: str):
    assert title in LANGUAGES
    for image in IMAGES:
        code = code_of(title, image, name, input_dtype=input_dtype)
        assert "{{" not in code
        assert "{%" not in code
        for opening, closing in ("()", "[]", "{}"):
            assert code.count(opening) == code.count(closing), code
        for imported in re.findall(r"import kotlin\.math\.(\w+)", code):
            assert len(re.findall(rf"\b{imported}\b", code)) > 1, imported


def test_code_contains_the_names_and_sizes_of_the_model():
    image = Image(size=[96, 64], channels=1, background=[1, 2, 3])
    bundle_manifest = manifest(task="multilabel", classes=7)
    kotlin = code_of("Kotlin", image, bundle_manifest=bundle_manifest, path="model_int8.tflite", input_dtype="int8")
    assert 'CompiledModel.create(assets, "model_int8.tflite", CompiledModel.Options(Accelerator.CPU))' in kotlin
    assert "7 probabilities, of each label by itself, in the order of classes.json" in kotlin
    assert "inputs[0].writeInt8(modelInput(argb, image.width, image.height))" in kotlin
    assert "ByteArray(96 * 64 * 1)" in kotlin
    assert "intArrayOf(1, 2, 3)" in kotlin
    swift = code_of("Swift", image, bundle_manifest=bundle_manifest, path="model_int8.tflite", input_dtype="int8")
    assert 'path(forResource: "model_int8", ofType: "tflite")' in swift
    assert "-> [Int8]" in swift
    assert "[1, 2, 3, 255]" in swift


@pytest.mark.skipif(shutil.which("kotlinc") is None, reason="kotlinc is not installed")
def test_kotlin_preprocessing_is_within_one_of_the_reference_decoder(tmp_path: Path):
    sources, calls, cases = [], [], []
    random = np.random.default_rng(0)
    for number, image in enumerate(IMAGES[::2] + IMAGES[1:3]):
        code = code_of("Kotlin", image, input_dtype="int8")
        sources.append(tmp_path / f"c{number}.kt")
        sources[-1].write_text(f"package c{number}\n{code}\n")
        for width, height in [(37, 23), (160, 120), (97, 61), (1, 5), (40, 24)]:
            img = random.integers(0, 256, (height, width, 4)).astype(np.uint8)
            file = tmp_path / f"{len(cases)}.argb"
            img[..., [3, 0, 1, 2]].tofile(file)
            cases.append((file, decode(img, image), image))
            calls.append(f'  convert("{file}", {width}, {height}) {{ c{number}.modelInput(it, {width}, {height}) }}')
    main = """
fun convert(file: String, width: Int, height: Int, make: (IntArray) -> ByteArray) {
  val pixels = java.nio.ByteBuffer.wrap(java.io.File(file).readBytes()).asIntBuffer()
  java.io.File("$file.out").writeBytes(make(IntArray(width * height) { pixels.get(it) }))
}
"""
    (tmp_path / "Main.kt").write_text("fun main() {\n" + "\n".join(calls) + "\n}\n" + main)
    jar = tmp_path / "main.jar"
    inputs = [*sources, tmp_path / "Main.kt", HERE / "android"]
    subprocess.run(["kotlinc", *map(str, inputs), "-include-runtime", "-d", str(jar)], check=True)
    subprocess.run(["java", "-cp", str(jar), "MainKt"], check=True)
    for file, pixels, image in cases:
        converted = np.fromfile(f"{file}.out", np.int8).astype(int) + 128
        assert np.abs(converted - pixels.reshape(-1)).max() <= 1, (file.name, image)


@pytest.mark.skipif(browser.available() is not None, reason=str(browser.available()))
def test_javascript_runs_a_tflite_file(run: Run, tmp_path: Path):
    try:
        runtime = litertjs.runtime_files()
    except CallError as error:
        pytest.skip(str(error))
    exporting = prepare(run, options=Options(("float32", "int8"), 1))
    models = [target("litert").write(exporting, tmp_path, precision) for precision in ("float32", "int8")]
    bundle_manifest = manifest(classes=3, models=models)
    pages.write_folder(tmp_path, {"name": "x"}, runtime)
    imports = '<script type="importmap">{"imports": {"@litertjs/core": "./litert/index.js"}}</script>'
    failed = "<script>onerror = (message) => (window.result = message);</script>"
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    values = json.dumps(pixels.reshape(-1).tolist())
    for model_file in models:
        code = snippet(target("litert"), "litert.js.j2", bundle_manifest, exporting.image, model_file)
        code = code.replace("node_modules/@litertjs/core/wasm/", "litert/")
        script = f"{code}\nwindow.result = await probabilities(new Uint8Array({values}));"
        page = f'<!doctype html>{failed}{imports}<script type="module">{script}</script>'
        (tmp_path / f"{model_file.precision}.html").write_text(page)
    results = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver = browser._driver([])
        try:
            from selenium.webdriver.support.wait import WebDriverWait

            for model_file in models:
                driver.get(f"http://127.0.0.1:{server.server_port}/{model_file.precision}.html")
                answer = WebDriverWait(driver, 60).until(lambda page: page.execute_script("return window.result"))
                results[model_file.precision] = answer
        finally:
            driver.quit()
            server.shutdown()
    expected = Classifier.open(run).probabilities(pixels.astype(np.float32))[0]
    np.testing.assert_allclose(results["float32"], expected, atol=1e-5)
    np.testing.assert_allclose(results["int8"], expected, atol=0.05)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_readme_of_a_bundle_shows_the_code(exported: dict[str, Bundle], run: Run):
    text = (exported["litert"].folder / "README.md").read_text()
    for language in ("python", "cpp", "kotlin", "swift", "js"):
        assert f"```{language}\n" in text
    assert kerasimg.__name__ in text
