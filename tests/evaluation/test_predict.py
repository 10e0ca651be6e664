from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError, DataError
from kerasimg.evaluation.predict import BATCH_SIZE
from kerasimg.models.classifier import Classifier

RED, BLUE = (np.full((8, 8, 3), colour, "uint8") for colour in ((220, 30, 30), (30, 30, 220)))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Sees blue in blue and red in red, by weights that are set by hand."""
    spec = {
        "kerasimg": 1,
        "name": "hand",
        "image": {"size": [4, 4]},
        "model": [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": 2, "activation": "softmax"}],
    }
    loaded = kerasimg.load(spec)
    model = kerasimg.build(loaded)
    model.set_weights([np.array([[0.0, 9.0], [0.0, 0.0], [9.0, 0.0]]), np.zeros(2)])
    return Classifier(model, loaded, ("blue", "red"))


def by_hand(task: str, units: int) -> Classifier:
    spec = {
        "kerasimg": 1,
        "name": "hand",
        "task": task,
        "image": {"size": [4, 4]},
        "model": [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": units, "activation": "sigmoid"}],
    }
    loaded = kerasimg.load(spec)
    model = kerasimg.build(loaded)
    kernel = np.array([[9.0, -9.0], [0.0, 0.0], [-9.0, 9.0]])[:, :units]
    model.set_weights([kernel, np.zeros(units)])
    return Classifier(model, loaded, ("warm", "cold") if task == "multilabel" else ("blue", "red"))


def test_one_file_gives_one_prediction(classifier: Classifier, images: Any, tmp_path: Path):
    path = images(tmp_path, {"red": 1}) / "red" / "00.png"
    (said,) = kerasimg.predict(classifier, path)
    assert (said.file, said.label) == (str(path), "red")
    assert list(said.probabilities) == ["blue", "red"]
    assert said.confidence == said.probabilities["red"] > 0.9


def test_a_folder_gives_every_image_below_it_in_the_order_of_paths(classifier: Classifier, images: Any, tmp_path: Path):
    images(tmp_path, {"b/red": 2, "a/blue": 1})
    (tmp_path / "notes.txt").write_text("no image")
    said = kerasimg.predict(classifier, tmp_path)
    assert [Path(one.file).relative_to(tmp_path).as_posix() for one in said] == [
        "a/blue/00.png",
        "b/red/00.png",
        "b/red/01.png",
    ]
    assert [one.label for one in said] == ["blue", "red", "red"]


def test_files_and_arrays_are_predicted_in_the_order_given(classifier: Classifier, images: Any, tmp_path: Path):
    path = images(tmp_path, {"blue": 1}) / "blue" / "00.png"
    said = kerasimg.predict(classifier, [RED, path, str(path)])
    assert [(one.file, one.label) for one in said] == [("[0]", "red"), (str(path), "blue"), (str(path), "blue")]


def test_an_array_of_images_is_numbered(classifier: Classifier):
    said = kerasimg.predict(classifier, np.stack([RED, BLUE]))
    assert [(one.file, one.label) for one in said] == [("[0]", "red"), ("[1]", "blue")]


def test_more_images_than_a_batch_come_out_as_they_went_in(classifier: Classifier):
    labels = np.arange(BATCH_SIZE + 3) % 2
    said = kerasimg.predict(classifier, np.where(labels[:, None, None, None], RED, BLUE))
    assert [one.label for one in said] == ["red" if label else "blue" for label in labels]


def test_every_unreadable_image_is_named(classifier: Classifier, images: Any, tmp_path: Path):
    good = images(tmp_path, {"red": 1}) / "red" / "00.png"
    (tmp_path / "page.png").write_text("<html>not found</html>")
    with pytest.raises(DataError) as caught:
        kerasimg.predict(classifier, [good, tmp_path / "page.png", tmp_path / "gone.png"])
    result, *named = caught.value.faults
    assert [fault.file for fault in named] == [str(tmp_path / "page.png"), str(tmp_path / "gone.png")]
    assert result.message.startswith("2 of 3 images cannot be read")
    assert named[1].message == "does not exist"


def test_unreadable_images_can_be_left_out(
    classifier: Classifier, images: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    good = images(tmp_path, {"red": 2}) / "red"
    (tmp_path / "red" / "page.png").write_text("<html>not found</html>")
    with caplog.at_level("DEBUG", logger="kerasimg"):
        said = kerasimg.predict(classifier, good, on_bad_image="skip")
    assert [Path(one.file).name for one in said] == ["00.png", "01.png"]
    assert caplog.messages == ["0 of 3 images", "1 of 3 images", "2 of 3 images"]
    with pytest.raises(DataError, match=r"page\.png"):
        kerasimg.predict(classifier, good / "page.png", on_bad_image="skip")


def test_unreadable_images_of_several_batches_are_named_together(classifier: Classifier, tmp_path: Path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        kerasimg.predict(classifier, [bad, *[RED] * BATCH_SIZE, bad])
    assert [fault.file for fault in caught.value.faults] == ["", str(bad), str(bad)]


def test_no_image_at_all_is_a_wrong_call(classifier: Classifier, tmp_path: Path):
    with pytest.raises(CallError, match="no images to predict"):
        kerasimg.predict(classifier, tmp_path)


def test_a_binary_task_names_the_likelier_of_its_two_classes():
    red, blue = kerasimg.predict(by_hand("binary", 1), [RED, BLUE])
    assert (red.label, blue.label) == ("red", "blue")
    assert sum(blue.probabilities.values()) == pytest.approx(1)
    assert blue.confidence == blue.probabilities["blue"] > 0.9


def test_a_multilabel_task_names_every_label_that_holds_and_the_least_sure_decision():
    red, dark = kerasimg.predict(by_hand("multilabel", 2), [RED, np.zeros((8, 8, 3), "uint8")])
    assert red.label == ("warm",)
    assert dark.label == ()
    assert dark.confidence == pytest.approx(0.5)


@pytest.mark.parametrize(
    "make", [lambda folder: folder / "gone", lambda folder: folder, lambda folder: folder / "text.keras"]
)
def test_what_is_no_run_is_a_wrong_call(make: Callable[[Path], Path], tmp_path: Path):
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(CallError):
        kerasimg.predict(make(tmp_path), [RED])


def test_a_model_that_kerasimg_did_not_write_says_nothing_of_classes(classifier: Classifier, tmp_path: Path):
    classifier.model.save(tmp_path / "plain.keras")
    with pytest.raises(CallError, match=r"plain\.keras' was not written by kerasimg"):
        kerasimg.predict(tmp_path / "plain.keras", [RED])
