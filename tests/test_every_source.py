"""Every verb on every kind of data: one small run per source, shared by all verbs."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.data.sources import open_source

COUNT = 32
"""Images, 8 x 8, half of them dark, half bright; every eighth has the wrong label, so that there are mistakes."""


class Trained(NamedTuple):
    run: Any
    data: Any
    reopens: bool
    """Whether the run can find its images again by itself."""

    @property
    def given(self) -> dict[str, Any]:
        """What a verb needs besides the run."""
        return {} if self.reopens else {"data": self.data}


def images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = np.arange(COUNT) % 2
    pixels = np.clip(60 + 130 * truth[:, None, None, None] + random.normal(0, 25, (COUNT, 8, 8, 3)), 0, 255)
    return pixels.astype(np.uint8), np.where(np.arange(COUNT) % 8 == 7, 1 - truth, truth)


NAMES = ("bright", "dark")


def encoded() -> list[tuple[str, bytes, str]]:
    """File name, PNG and label of each image."""
    rows = []
    for number, (pixels, label) in enumerate(zip(*images(), strict=True)):
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "PNG")
        rows.append((f"{number:03}.png", file.getvalue(), NAMES[label]))
    return rows


def folder(place: Path) -> Path:
    for name, content, label in encoded():
        (place / "images" / label).mkdir(parents=True, exist_ok=True)
        (place / "images" / label / name).write_bytes(content)
    return place / "images"


def zipped(place: Path) -> Path:
    with zipfile.ZipFile(place / "images.zip", "w") as archive:
        for name, content, label in encoded():
            archive.writestr(f"{label}/{name}", content)
    return place / "images.zip"


def csv(place: Path) -> Path:
    for name, content, _ in encoded():
        (place / name).write_bytes(content)
    rows = [f"{name},{label}\n" for name, _, label in encoded()]
    (place / "list.csv").write_text("path,label\n" + "".join(rows))
    return place / "list.csv"


def jsonl(place: Path) -> Path:
    (place / "below").mkdir()
    for name, content, _ in encoded():
        (place / "below" / name).write_bytes(content)
    rows = [json.dumps({"path": f"below/{name}", "label": label}) for name, _, label in encoded()]
    (place / "list.jsonl").write_text("\n".join(rows))
    return place / "list.jsonl"


def npz(place: Path) -> Path:
    pixels, labels = images()
    np.savez(place / "images.npz", images=pixels, labels=labels)
    return place / "images.npz"


def arrays(place: Path) -> Any:
    return images()


def tfrecord(place: Path) -> Path:
    tf = pytest.importorskip("tensorflow")

    def held(value: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    (place / "shards").mkdir()
    with tf.io.TFRecordWriter(str(place / "shards" / "images.tfrecord")) as writer:
        for _, content, label in encoded():
            features = {"image/encoded": held(content), "image/class/text": held(label.encode())}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return place / "shards"


def webdataset(place: Path) -> Path:
    (place / "shards").mkdir()
    with tarfile.open(place / "shards" / "images.tar", "w") as archive:
        for name, content, label in encoded():
            for member, held in ((name, content), (name.replace("png", "cls"), label.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(held)
                archive.addfile(info, io.BytesIO(held))
    return place / "shards"


def parquet(place: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    rows = encoded()
    table = pa.table({"image": [content for _, content, _ in rows], "label": [label for _, _, label in rows]})
    write_table(table, place / "images.parquet")
    return place / "images.parquet"


def hugging_face(place: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    rows = encoded()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": content, "path": None} for _, content, _ in rows],
            "label": [NAMES.index(label) for _, _, label in rows],
        },
        features=features,
    )


SOURCES: dict[str, Callable[[Path], Any]] = {
    each.__name__: each
    for each in (folder, zipped, csv, jsonl, npz, arrays, tfrecord, webdataset, parquet, hugging_face)
}

SPEC = {
    "kerasimg": 1,
    "name": "small",
    "image": {"size": [8, 8]},
    "model": [
        {"layer": "Conv2D", "filters": 2, "kernel_size": 3, "activation": "relu"},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "units": 2, "activation": "softmax"},
    ],
    "compile": {"optimizer": {"type": "Adam", "learning_rate": 0.05}, "steps_per_execution": 1},
    "fit": {"batch_size": 8, "validation_split": 0.25, "test_split": 0.25, "stages": [{"epochs": 1}]},
}


@pytest.fixture(scope="module", params=list(SOURCES))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    place = tmp_path_factory.mktemp(request.param)
    data = SOURCES[request.param](place)
    run = kerasimg.train(SPEC, data=data, out=place / "runs", report=False, verbose=0)
    return Trained(run, data, isinstance(data, Path))


def test_train_notes_every_image_and_evaluates_the_test_part(trained):
    rows = json.loads((trained.run.folder / "data.json").read_text())["images"]
    assert len({row["id"] for row in rows}) == len({row["sha256"] for row in rows}) == COUNT
    assert json.loads((trained.run.folder / "evaluation" / "metrics.json").read_text())["n"] == 8


def test_evaluate_gives_the_figures_of_the_training(trained):
    of_training = json.loads((trained.run.folder / "evaluation" / "metrics.json").read_text())
    if trained.reopens:
        assert kerasimg.evaluate(trained.run).to_dict() == of_training
    assert kerasimg.evaluate(trained.run, data=trained.data)["n"] == COUNT


def test_report_shows_the_images_of_every_source_that_it_can_open(trained):
    text = kerasimg.report(trained.run).read_text()
    assert text.count("data:image/") > 8 if trained.reopens else "data:image/" not in text
    assert ("image not available" in text) is not trained.reopens
    assert ("Map over" in text) is trained.reopens


def test_predict_and_explain_take_the_images_of_the_source(trained):
    held = [item.image for item in open_source(trained.data).items[:3]]
    assert [result.label in NAMES or result.label in "01" for result in kerasimg.predict(trained.run, held)] == [
        True
    ] * 3
    explained = kerasimg.explain(trained.run, held)
    assert [result.map.ndim for result in explained] == [2, 2, 2]
    assert [result.original().size for result in explained] == [(8, 8)] * 3


def test_label_errors_looks_at_every_image_that_was_held_out(trained):
    assert kerasimg.label_errors(trained.run, **trained.given).n == (16 if trained.reopens else COUNT)


def test_export_compares_on_the_images_of_the_source(trained):
    [bundle] = kerasimg.export(trained.run, "keras", **trained.given)
    assert bundle.manifest.parity[0].images == (8 if trained.reopens else COUNT)
    assert kerasimg.verify(bundle, data=trained.data).accuracy.keys() == {bundle.models[0].path}


def test_tune_runs_a_trial(trained, tmp_path):
    spec = json.loads(json.dumps(SPEC))
    spec["compile"]["optimizer"]["learning_rate"] = {"$choice": [0.01, 0.05], "default": 0.05}
    spec["tune"] = {"tuner": "random", "max_trials": 1}
    search = kerasimg.tune(spec, data=trained.data, out=tmp_path, report=False, verbose=0)
    assert len(search.trials) == 1
