"""The whole check: planted faults are found, clean images are let be; as text, JSON, HTML and a list."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from kerasimg.data.audit.data_check import DataCheck, check_data
from kerasimg.data.audit.findings import KINDS
from kerasimg.data.readers.folders import SAMPLE

BENCHMARK = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "data_check.py")))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataCheck, dict[str, list[str]]]:
    """600 images of Fashion-MNIST with the faults of the benchmark."""
    root = tmp_path_factory.mktemp("planted")
    for part, count in (("train", 45), ("test", 15)):
        for label in sorted((SAMPLE / part).iterdir()):
            (root / part / label.name).mkdir(parents=True)
            for path in sorted(label.iterdir())[:count]:
                shutil.copy(path, root / part / label.name)
    faults = BENCHMARK.plant(root, seed=0)
    return check_data(root), faults


def test_planted_faults_are_found_and_nothing_else(planted: tuple[DataCheck, dict[str, list[str]]]):
    checked, faults = planted
    found = BENCHMARK.recalled(checked, faults)
    # Without --labels nobody looks for swapped ones; 4 % of an image of 28 pixels is another image.
    del found["swapped"], found["cropped"]
    assert found == {kind: BENCHMARK.PLANTED[kind] for kind in found}
    assert BENCHMARK.unplanted(checked, faults) == {}
    assert not checked.ok


def test_the_sample_that_ships_has_no_faults():
    assert check_data("sample").findings == ()


def test_json_lists_every_finding(planted: tuple[DataCheck, dict[str, list[str]]]):
    checked, faults = planted
    content = json.loads(json.dumps(checked.to_dict()))
    assert list(content) == [
        *("kerasimg_data_check", "where", "task", "suggested_task", "ok", "errors", "warnings", "notes"),
        *("images", "readable", "ignored_files", "seconds", "counts", "findings", "parts", "parts_given"),
        *("classes", "sizes", "kinds", "image"),
    ]
    assert (content["images"], content["readable"], content["image"]) == (675, 670, None)
    assert content["counts"]["leak"] == {"severity": "error", "findings": 30, "images": 60}
    assert content["counts"]["unreadable"] == {"severity": "error", "findings": 5, "images": 5}
    rows = [row for row in content["findings"] if row["kind"] == "unreadable"]
    assert sorted(row["images"][0]["file"] for row in rows) == sorted(faults["truncated"])
    assert {row["detail"] for row in rows} == {"is truncated"}
    assert content["parts"]["test"] == content["readable"] - content["parts"]["train"] - content["parts"]["validation"]
    assert content["parts_given"] == ["train", "test"]
    assert sum(row["images"] for row in content["classes"]) == content["readable"]
    assert content["sizes"]["width"] == [21, 28.0, 28]


def test_the_text_begins_with_the_verdict_and_names_files(planted: tuple[DataCheck, dict[str, list[str]]]):
    checked, faults = planted
    lines = checked.to_text(limit=2).splitlines()
    assert lines[0].startswith("675 images of 10 classes in ")
    assert lines[1].startswith("fix this before training: 35 errors, ")
    assert "error: the same image in several parts: 60 images in 30 groups; " in "\n".join(lines)
    advice = "repair or remove them, or leave them out (--fix-list FILE does)"
    start = lines.index(f"error: cannot be read: 5 images; {advice}")
    assert [line.split(":")[0].strip() for line in lines[start + 1 : start + 3]] == sorted(faults["truncated"])[:2]
    assert lines[start + 3] == "  ... and 3 more"


class Page(HTMLParser):
    """What a page asks for, and its images."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "img":
            self.images.append(dict(attrs))


def test_the_page_is_one_file_that_asks_for_nothing(planted: tuple[DataCheck, dict[str, list[str]]]):
    text = planted[0].to_html()
    page = Page(text)
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert len(page.images) > 40
    assert all(image["alt"] for image in page.images)
    assert not page.tags & {"script", "link", "iframe"}
    assert not re.search(r"url\(|@import", text)
    assert len(text) < 3_000_000


def test_names_are_text_in_the_page_and_in_the_terminal(tmp_path: Path):
    for label in ("<b>cat", "dog"):
        (tmp_path / label).mkdir()
        for seed in range(20):
            noise = np.random.default_rng((seed, len(label))).integers(0, 256, (9, 9, 3), np.uint8)
            PIL.Image.fromarray(noise).save(tmp_path / label / f"{seed}.png")
    (tmp_path / "<b>cat" / "\x1b[31mred.png").write_bytes(b"")
    checked = check_data(tmp_path)
    assert "b" not in Page(checked.to_html()).tags
    assert "\x1b" not in checked.to_text()


def test_a_spec_says_how_it_is_split_and_what_it_does_to_images(tiny, images, tmp_path: Path):
    folder = images(tmp_path, {"red": 30, "blue": 30})
    spec = tiny(image={"size": [16, 8], "resize": "pad"}, fit={"validation_split": 0.2, "test_split": 0})
    checked = check_data(folder, spec)
    content = checked.to_dict()
    assert content["parts"] == {"train": 48, "validation": 12, "test": 0}
    assert content["parts_given"] == []
    assert content["image"] == {
        "size": [16, 8],
        "resize": "pad",
        "enlarged": 0.0,
        "enlarged_twofold": 0.0,
        "scale_median": 1.0,
        "filled_median": 0.5,
        "filled_over_a_quarter": 1.0,
    }
    assert len(checked.show()) == 24
    assert "as the model gets it" in checked.to_html()
    assert "in half 50% of the input or more is background" in checked.to_text()


def test_label_errors_are_found_by_the_given_function(tiny, images, tmp_path: Path):
    folder = images(tmp_path, {"red": 20, "blue": 20})
    (folder / "red" / "00.png").rename(folder / "blue" / "swapped.png")

    def suggest_labels(names, truth, probabilities, classes, task):
        assert probabilities.shape == (40, 2)
        assert task == "multiclass"
        return [
            {"file": name, "given": classes[given], "suggested": classes[row.argmax()]}
            for name, given, row in zip(names, truth, probabilities, strict=True)
            if row.argmax() != given
        ]

    checked = check_data(folder, find_label_errors=suggest_labels)
    (finding,) = [each for each in checked.findings if each.kind == "label_suspect"]
    assert finding.detail == "is labelled 'blue', looks like 'red'"
    assert checked.source.items[finding.images[0]].id == "blue/swapped.png"


def test_the_command_ends_with_3_where_something_must_be_mended(images, tmp_path: Path):
    folder = images(tmp_path / "data", {"red": 20, "blue": 20})
    written = [tmp_path / name for name in ("page.html", "sheet.png", "list.csv")]
    options = ["--spec", "simple_cnn", "--html", written[0], "--sheet", written[1], "--fix-list", written[2]]
    done = command("data", "check", folder, *options)
    assert (done.returncode, re.sub(r".* \.\.\. \d+ s\n", "", done.stderr)) == (0, "")  # seconds of a busy machine
    assert done.stdout.splitlines()[-2] == f"fix list: {written[2]}, 40 images, 0 left out"
    assert all(path.stat().st_size for path in written)
    (folder / "red" / "bad.png").write_bytes(b"")
    done = command("data", "check", folder, "--json")
    assert done.returncode == 3
    assert [one["kind"] for one in json.loads(done.stdout)["findings"]] == ["unreadable"]


def test_every_kind_of_finding_is_in_the_docs():
    text = (Path(__file__).parents[3] / "docs" / "data-check.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.M))
    assert rows == {name: kind.severity for name, kind in KINDS.items()}


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kerasimg", *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


def test_images_of_several_bands_are_checked_as_others_are(tmp_path: Path):
    tifffile = pytest.importorskip("tifffile")
    draw = np.random.default_rng(0)
    for label in ("field", "forest"):
        (tmp_path / label).mkdir()
        for number in range(4):
            values = draw.integers(200, 4000, (24, 20, 6)).astype(np.uint16)
            tifffile.imwrite(
                tmp_path / label / f"{number}.tif", values, photometric="minisblack", planarconfig="contig"
            )
    shutil.copy(tmp_path / "field" / "0.tif", tmp_path / "forest" / "copy.tif")
    (tmp_path / "field" / "cut.tif").write_bytes((tmp_path / "field" / "1.tif").read_bytes()[:900])
    checked = check_data(tmp_path)
    content = checked.to_dict()
    assert (content["images"], content["readable"]) == (10, 9)
    assert content["kinds"] == {"file uint16 6 channels": 9}
    assert content["sizes"]["width"] == [20, 20.0, 20]
    [unreadable] = [row for row in content["findings"] if row["kind"] == "unreadable"]
    assert [image["file"] for image in unreadable["images"]] == ["field/cut.tif"]
    twice = [{image["file"] for image in row["images"]} for row in content["findings"] if row["kind"] != "unreadable"]
    assert {"field/0.tif", "forest/copy.tif"} in twice
    assert "data:image/" in checked.to_html()
