"""New classes that a page learns in the browser, and Python after it."""

import base64
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy import learning
from kerasimg.deploy.export_context import Options, prepare
from kerasimg.deploy.learning import Examples, fit_head
from kerasimg.deploy.targets import target
from kerasimg.deploy.web import browser
from kerasimg.deploy.web.browser import Browser
from kerasimg.errors import CallError
from kerasimg.models.classifier import Classifier


def yellow(folder: Path, count: int, seed: int) -> list[Path]:
    """Images of a class that the run has not."""
    random = np.random.default_rng(seed)
    files = [folder / f"yellow-{seed}-{number}.png" for number in range(count)]
    for file in files:
        pixels = np.array([220, 210, 30]) + random.integers(-25, 25, (12, 10, 3))
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(file)
    return files


@pytest.mark.skipif(browser.available() is not None, reason=str(browser.available()))
def test_a_class_taught_in_the_page_goes_on_in_python_with_the_same_numbers(run: Run, runtime: Path, tmp_path: Path):
    from selenium.webdriver.support.wait import WebDriverWait

    exporting = prepare(run, options=Options(("float32",), 1, trainable=True))
    target("web").write(exporting, tmp_path, "float32")
    colours = Path(exporting.test.source.where)
    tests = [*yellow(tmp_path, 2, 9), *(colours / name for name in exporting.test.names[::4])]
    contents = [Path(file).read_bytes() for file in tests]
    with Browser((tmp_path / "demo.html").resolve().as_uri()) as page:
        driver = page.driver
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        driver.find_element("id", "learn-name").send_keys("yellow")
        driver.find_element("id", "learn-files").send_keys("\n".join(map(str, yellow(tmp_path, 5, 1))))
        said = driver.find_element("id", "learn-status")
        WebDriverWait(driver, 20).until(lambda _: said.text.startswith("Learned 4 classes"))
        assert "yellow: 5 examples" in driver.find_element("id", "learn-classes").text
        in_page = np.stack([page.learned(content) for content in contents])
        driver.find_element("id", "file").send_keys(str(tests[0]))
        WebDriverWait(driver, 20).until(lambda _: driver.find_element("id", "verdict").text == "yellow")
        driver.find_element("id", "learn-save").click()
        saved = tmp_path / "tiny-learned.json"
        WebDriverWait(driver, 20).until(lambda _: saved.is_file())
        # The page opens what it saved, and forgets what it was taught.
        driver.find_element("id", "learn-file").send_keys(str(saved))
        driver.find_element("css selector", "#learn-classes button").click()
        WebDriverWait(driver, 20).until(lambda _: "yellow" not in driver.find_element("id", "learn-classes").text)
    learned = run.learn(saved)
    assert learned.file == saved.with_suffix(".keras")
    assert learned.classes == ("blue", "green", "red", "yellow")
    assert learned.images["yellow"] == 5
    predictions = kerasimg.predict(learned.file, [str(file) for file in tests])
    in_python = np.array([[row.probabilities[name] for name in learned.classes] for row in predictions])
    assert np.abs(in_python - in_page).max() < 1e-4
    assert predictions[0].label == "yellow"
    more = run.learn(saved, out=tmp_path / "more.keras", data=str(colours))
    assert more.images["red"] > learned.images["red"]


def examples(run: Run, count: int = 3) -> Examples:
    classifier = Classifier.open(run)
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), count)
    features = (labels[:, None] == np.arange(8)) + random.normal(0, 0.1, (3 * count, 8))
    return Examples("tiny", classifier.identity()["weights"], ("a", "b", "c"), labels, features.astype(np.float32))


def test_each_left_out_score_is_that_of_a_fit_without_the_example(run: Run, monkeypatch: pytest.MonkeyPatch):
    given = examples(run, 4)
    counts = np.bincount(given.labels)
    seen: list[np.ndarray] = []
    monkeypatch.setattr(learning, "_sharpness", lambda scores, *_: seen.append(scores) or 1.0)
    fit_head(given)
    # Weighted ridge regression with an intercept without penalty, by the normal equations, without row 0.
    weights = 1 / (3 * counts[given.labels])
    x = given.features.astype(float)
    mean = weights @ x
    scale = np.sqrt(weights @ np.square(x - mean).sum(axis=1))
    rows = np.column_stack([np.ones(len(x)), (x - mean) / scale])
    penalty = learning.PENALTY * np.diag([0.0, *np.ones(x.shape[1])])
    chosen = np.arange(len(x)) != 0
    left = rows[chosen].T @ (weights[chosen, None] * rows[chosen])
    right = rows[chosen].T @ (weights[chosen, None] * np.eye(3)[given.labels[chosen]])
    expected = rows[0] @ np.linalg.solve(left + penalty, right)
    assert seen[0][0] == pytest.approx(expected, abs=1e-9)


def test_wrong_files_are_named(run: Run, tmp_path: Path):
    file = tmp_path / "page.json"
    good = examples(run).to_dict()
    for change, message in {
        '{"': "not a file that a page",
        json.dumps({**good, "labels": [7] * 9}): "labels: expected numbers below 3, found 7",
        json.dumps({**good, "width": 9}): "features: expected 9 x 9 numbers, found 72",
        json.dumps({**good, "features": base64.b64encode(np.full(72, np.nan, "<f4").tobytes()).decode()}): "finite",
        json.dumps({**good, "classes": ["a", "a", "c"]}): "names that differ",
        json.dumps({**good, "weights": "other"}): "saved by a page of another model, 'tiny'",
        json.dumps({**good, "classes": ["a", "b", "c", "d"]}): "the class 'd' has no example",
    }.items():
        file.write_text(change)
        with pytest.raises(CallError, match=message):
            kerasimg.learn(run, file)
    file.write_text(json.dumps(good))
    assert kerasimg.learn(run, file).classes == ("a", "b", "c")
    with pytest.raises(CallError, match="no file"):
        kerasimg.learn(run, tmp_path / "none.json")
    with pytest.raises(CallError, match=r"ends in \.keras"):
        kerasimg.learn(run, file, out=tmp_path / "a.h5")


def test_only_pages_of_agreeing_precision_learn(run: Run, runtime: Path):
    with pytest.raises(CallError, match="litert: only a page can learn"):
        kerasimg.export(run, "litert", trainable=True)
    with pytest.raises(CallError, match="features in int8 differ"):
        kerasimg.export(run, "web", precision="int8", trainable=True)
