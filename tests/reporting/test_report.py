"""The report as its readers get it: whole, accessible, by itself; and rebuilt from what a run kept."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.errors import CallError
from kerasimg.evaluation.predictions import Predictions
from kerasimg.models.classifier import Classifier
from kerasimg.reporting import report as report_module
from kerasimg.reporting.epochs import print_stages
from kerasimg.reporting.images import mistakes_and_hits
from kerasimg.reporting.report import TEMPLATES, report, write_report
from kerasimg.reporting.wording import headline, number
from kerasimg.run_folder import CARD, REPORT, RunFolder

VOID = frozenset(("meta", "link", "img", "rect", "line", "circle", "polyline"))
MOST_BYTES = 3_000_000
"""Of the page of a run with ten classes."""


class Page(HTMLParser):
    """What a page is made of; it refuses tags that are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Path:
    folder: Path = images(tmp_path_factory.mktemp("report") / "colours", dict.fromkeys(("red", "green", "blue"), 16))
    for k in range(3):  # that is what mistakes are made of
        shutil.copy(folder / "red" / f"{k:02}.png", folder / "blue" / f"<no & blue> {k}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, colours: Path, tiny: Callable[..., dict[str, Any]]) -> Run:
    """A run of two stages on red, green and blue images, some of which are named wrongly."""
    spec = tiny(
        about="Tells <colours> apart & no more.",
        model=[
            {"layer": "Conv2D", "name": "seen", "filters": 8, "kernel_size": 3, "activation": "relu"},
            {"layer": "GlobalAveragePooling2D"},
            {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
        ],
        fit={"batch_size": 8, "stages": [{"epochs": 2}, {"epochs": 2}], "test_split": 0.4},
    )
    out = tmp_path_factory.mktemp("report-runs")
    return kerasimg.train(spec, data=colours, out=out, verbose=0)


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return Page(report(run).read_text(encoding="utf-8"))


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """The run's folder, which a test may spoil."""
    return Path(shutil.copytree(run.folder, tmp_path / run.folder.name))


def test_every_tag_is_closed_and_every_part_is_there(page: Page):
    assert page.open == []
    ids = {attributes["id"] for attributes in page.all("section")}
    assert ids == {
        *("brief", "figures", "classes", "confusion", "calibration", "abstention", "map", "images"),
        *("training", "data", "model", "spec", "again"),
    }
    assert {link["href"].removeprefix("#") for link in page.all("a")} == {*ids, "main"}


def test_unknown_images_sets_and_corruptions_have_sections(copy: Path, colours: Path):
    kerasimg.known(copy, 0.3, method="distance", data=colours)
    kerasimg.prediction_sets(copy, 0.8, data=colours)
    kerasimg.robustness(copy, corruptions=["contrast"], images=4)
    metrics = copy / "evaluation" / "metrics.json"
    off = {"calibration_error": 0.2, "intervals": {"calibration_error": [0.0, 0.3]}}
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | off))
    refused = {"applied": False, "temperature": 1.0, "fitted": 0.7158, "fitted_on": {"n": 22}}
    (copy / "calibration.json").write_text(json.dumps(refused))
    page = Page(report(copy).read_text(encoding="utf-8"))
    ids = {attributes["id"] for attributes in page.all("section")}
    assert ids >= {"known", "sets", "robustness", "map"}
    assert "whose p-value is 0.3 or less is called unknown (distance" in page.text
    assert "Sets of classes by LAC that hold the true class of 80 % of images" in page.text
    assert "not show whether that is chance: the 95 % interval begins at 0.000" in page.text
    assert "the temperature 0.7158, fitted on 22 images, made the held-out images worse" in page.text
    assert "Square" not in page.text  # no label is likely wrong
    points = [tag for tag in page.all("circle") if re.fullmatch(r"c\d", tag["class"])]
    assert len(points) == kerasimg.Run(copy).scores["n"]
    kerasimg.known(copy, undo=True)
    assert "is called unknown" not in report(copy).read_text(encoding="utf-8")


def test_nothing_is_fetched_and_no_script_runs(page: Page):
    assert page.all("script", "iframe", "object", "embed", "video", "audio") == []
    for tag, attributes in page.tags:
        for key in ("src", "href", "srcset", "poster", "action", "data"):
            if value := attributes.get(key):
                assert value.startswith(("data:", "#")), (tag, value)
    assert page.all("meta")[2]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    assert "url(" not in style
    assert "@import" not in style


def test_a_reader_who_does_not_see_it_gets_it_too(page: Page):
    assert page.all("html")[0]["lang"] == "en"
    images = page.all("img")
    assert len(images) > 20
    assert all(len(image["alt"]) > 3 for image in images)
    drawings = page.all("svg")
    assert all(figure["role"] == "img" and len(figure["aria-label"]) > 20 for figure in drawings)
    assert page.text.count("Kind") == 1
    tables = page.all("table")
    assert len(page.all("caption")) == len(tables) >= 6
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert all(page.all(name) for name in ("main", "header", "nav", "footer"))


def test_headings_go_down_step_by_step(page: Page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_figures_are_those_of_the_run(run: Run, page: Page):
    scores = run.scores
    assert number(scores["accuracy"], "accuracy") in page.text
    assert number(scores["log_loss"]) in page.text
    for name in scores["classes"]:
        assert f"{scores['per_class'][name]['f1']:.3f}" in page.text
    low, high = scores["intervals"]["accuracy"]
    assert f"{100 * low:.1f} to {100 * high:.1f}\u00a0%" in page.text


def test_the_mistakes_are_shown_with_their_names_and_maps(run: Run, page: Page):
    images = [image["alt"] for image in page.all("img")]
    shown = [alt for alt in images if alt.startswith("Image ")]
    maps = [alt for alt in images if alt.startswith("Map over ")]
    assert len(shown) == len(maps) > 4
    assert "blue/<no & blue> " in page.text
    assert "by Grad-CAM" in page.text


def test_what_a_name_holds_is_text_and_no_markup(run: Run, page: Page):
    assert "Tells <colours> apart & no more." in page.text
    assert page.all("colours", "no") == []


def test_the_stages_are_marked_and_described(page: Page):
    assert page.text.count("Stage 1") == page.text.count("Stage 2") >= 2
    assert "4 epochs in 2 stages" in page.text


def test_the_page_is_small(run: Run):
    assert (run.folder / REPORT).stat().st_size < MOST_BYTES / 10


def test_it_is_the_same_when_it_is_made_again(run: Run):
    first = (run.folder / REPORT).read_bytes()
    assert report(run.folder).read_bytes() == first


def test_without_the_images_it_says_so(copy: Path):
    record = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps(record | {"where": str(copy / "gone")}))
    page = Page(report(copy).read_text(encoding="utf-8"))
    assert page.all("img") == []
    assert "are no longer where the run read them" in page.text
    assert "image not available" in page.text
    assert "blue/<no & blue> " in page.text


def test_of_a_run_that_went_no_further_the_rest_is_left_out(copy: Path):
    shutil.rmtree(copy / "evaluation")
    (copy / "model.keras").unlink()
    (copy / "history.csv").unlink()
    page = Page(report(copy).read_text(encoding="utf-8"))
    assert [attributes["id"] for attributes in page.all("section")] == ["brief", "data", "spec", "again"]
    assert "The run has no metrics, and no finished epoch" in page.text


def test_a_folder_that_is_no_run_is_refused_and_a_failing_report_fails_no_training(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(CallError, match=r"is not the folder of a run: it holds no spec\.json"):
        report(tmp_path)
    with caplog.at_level("INFO", "kerasimg"):
        write_report(RunFolder(tmp_path), Classifier.open(run.folder))
    assert caplog.messages[-1].startswith("the report could not be written (CallError: ")
    assert caplog.messages[-1].endswith(f"try again: kerasimg run report {tmp_path}")


def test_the_speed_is_measured_once(run: Run, page: Page):
    speed = json.loads((run.folder / "evaluation" / "speed.json").read_text())
    assert speed["ms_single"] > 0
    assert f"{speed['ms_single']:.2f} ms" in page.text


def test_the_speed_of_a_network_is_measured_once_for_all_its_runs(run: Run, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("KERASIMG_CACHE", str(tmp_path))
    measured: list[float] = []

    def measure(classifier: Classifier) -> dict[str, Any]:
        measured.append(1.0)
        return {"ms_single": float(len(measured)), "ms_batch": 1.0}

    monkeypatch.setattr(report_module, "measure", measure)
    classifier = Classifier.open(run.folder)
    first = report_module.speed_of(classifier)
    for weight in classifier.model.weights[:2]:
        weight.assign(weight * 2)
    assert report_module.speed_of(classifier) == first
    assert report_module.speed_of(replace(classifier, flips=True))["ms_single"] == 2
    other = keras.Model(classifier.model.input, keras.layers.Identity()(classifier.model.output))
    assert report_module.speed_of(replace(classifier, model=other))["ms_single"] == 3


def test_slices_and_curves_are_drawn_where_they_were_found(copy: Path):
    path = copy / "evaluation" / "metrics.json"
    scores = json.loads(path.read_text())
    row = {"value": "north", "n": 9, "small": True, "figures": {"accuracy": 0.5}, "intervals": {"accuracy": [0.2, 0.8]}}
    path.write_text(json.dumps(scores | {"slices": [{"column": "site", "rows": [row]}]}))
    page = Page(report(copy).read_text(encoding="utf-8"))
    assert {"slices"} <= {attributes.get("id") for attributes in page.all("section")}
    assert "20.0\u00a0% to 80.0\u00a0%" in page.text
    labels = [figure["aria-label"] for figure in page.all("svg")]
    assert any(label.startswith("ROC. Areas: blue ") for label in labels)


def test_the_card_is_in_the_form_of_the_hub(run: Run, page: Page):
    text = (run.folder / CARD).read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    assert "library_name: keras\n" in front
    assert 'license: "unknown"\n' in front
    assert "- image-classification\n" in front
    assert f'    - type: accuracy\n      name: "Accuracy"\n      value: {round(run.scores["accuracy"], 4)}\n' in front
    assert body.startswith(f"\n# {run.folder.name}\n\nTells &lt;colours&gt; apart & no more.\n")
    assert "| Accuracy | " in body


def test_of_labels_the_surest_wrong_one_counts():
    truth = np.array([[1, 0], [1, 1], [0, 1]], "float32")
    p = np.array([[0.9, 0.8], [0.9, 0.6], [0.3, 0.55]], "float32")
    found = Predictions(["a", "b", "c"], truth, p, ["cat", "dog"], (p > 0.5).astype(int), {})
    mistakes, hits, mistaken = mistakes_and_hits(found, "multilabel")
    assert [(one.id, one.target, round(one.confidence, 2)) for one in mistakes] == [("a", "dog", 0.8)]
    assert [(one.id, one.truth, one.target) for one in hits] == [("c", "dog", "dog"), ("b", "cat, dog", "dog")]
    assert mistaken == 1


def test_the_stages_are_printed_as_a_table(run: Run, capsys: pytest.CaptureFixture[str]):
    print_stages(run.history)
    title, head, first, second, *_ = capsys.readouterr().out.splitlines()
    assert title.strip() == "Stages, each with its best epoch"
    assert head.split()[:4] == ["stage", "epochs", "time", "best"]
    assert first.split()[:2] == ["1", "1-2"]
    assert second.split()[:2] == ["2", "3-4"]


def test_a_figure_that_is_not_defined_is_left_out():
    scores = {"task": "binary", "accuracy": 1.0, "roc_auc": None, "intervals": {"accuracy": None}}
    assert [(one.name, one.value, one.interval) for one in headline(scores)] == [("Accuracy", "100.0\u00a0%", "")]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CONTROL = "http://127.0.0.1:9/control.png"
"""Asked for by the page around the report, so that the log is known to show what is asked for."""
LOOK = (
    f'<img src="{CONTROL}">'
    + """
<script>onload = () => setTimeout(() => {
  const inside = document.querySelector('iframe').contentDocument, root = inside.documentElement;
  inside.querySelectorAll('details').forEach(each => each.open = true);
  document.body.textContent = JSON.stringify({
    images: inside.images.length,
    broken: [...inside.images].filter(each => !each.naturalWidth).length,
    wide: root.scrollWidth, width: root.clientWidth,
    styled: inside.defaultView.getComputedStyle(inside.querySelector('.tiles')).display});
}, 300)</script>
"""
)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_no_image_is_broken_and_nothing_leaves(run: Run, page: Page, tmp_path: Path, width: int):
    shown = escape((run.folder / REPORT).read_text(encoding="utf-8"), quote=True)
    frame = f'<!DOCTYPE html><body><iframe srcdoc="{shown}" style="width:{width}px;height:900px;border:0"></iframe>'
    (tmp_path / "look.html").write_text(frame + LOOK, encoding="utf-8")
    log = tmp_path / "net.json"
    command = [
        *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"),
        *(f"--log-net-log={log}", "--virtual-time-budget=3000", "--window-size=1400,1000", "--dump-dom"),
        (tmp_path / "look.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(re.search(r"\{.*\}", done.stdout)[0])
    assert found["images"] == len(page.all("img"))
    assert found["broken"] == 0
    assert found["wide"] <= found["width"]
    assert found["styled"] == "grid"
    asked = set(re.findall(r'"url":"(\w+:[^"]*)"', log.read_text(encoding="utf-8", errors="replace")))
    assert CONTROL in asked
    asked.remove(CONTROL)
    ours = {url for url in asked if not re.match(r"(file|data|chrome[\w-]*|about|devtools):", url)}
    assert not [url for url in ours if not re.search(r"//([\w.-]*\.)?(google|googleapis|gstatic|gvt1)\.com/", url)]
