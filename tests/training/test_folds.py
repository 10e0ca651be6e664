import shutil
from functools import partial

import numpy as np
import pytest

from kerasimg.errors import CallError
from kerasimg.evaluation.label_errors import find_label_errors
from kerasimg.training.folds import cross_val_predict

predict = partial(cross_val_predict, verbose=0)


def test_every_image_is_predicted_by_a_model_that_was_not_trained_on_it(tiny, colours, tmp_path, images):
    data = images(tmp_path / "data", {"red": 9, "green": 9, "blue": 9})
    (data / "red" / "00.png").rename(data / "blue" / "red.png")
    p = predict(tiny(), data=data, folds=3)
    assert p.ids == sorted(p.ids)
    assert len(p.ids) == 27
    assert p.classes == ["blue", "green", "red"]
    (row,) = find_label_errors(p.ids, p.truth, p.probabilities, p.classes, "multiclass")
    assert (row["file"], row["given"], row["suggested"]) == ("blue/red.png", "blue", "red")


def test_the_result_does_not_depend_on_the_folder_of_the_images(tiny, colours, tmp_path):
    shutil.copytree(colours, tmp_path / "elsewhere")
    here, there = (predict(tiny(), data=data, folds=2) for data in (colours, tmp_path / "elsewhere"))
    assert np.array_equal(here.probabilities, there.probabilities)


def test_arrays_are_accepted(tiny):
    labels = np.arange(12) % 2
    images = np.where(labels[:, None, None, None], 220, 30).astype("uint8") * np.ones((1, 8, 8, 1), "uint8")
    predictions = predict(tiny(image={"size": [8, 8], "channels": 1}), data=(images, labels), folds=2)
    assert predictions.probabilities.shape == (12, 2)
    assert predictions.truth.tolist() == labels.tolist()


def test_a_class_with_fewer_images_than_folds_is_named(tiny, images, tmp_path):
    data = images(tmp_path, {"red": 9, "blue": 2})
    with pytest.raises(CallError, match="class 'blue' has 2 images, fewer than 3 folds"):
        predict(tiny(), data=data, folds=3)
    with pytest.raises(CallError, match="expected 2 or more"):
        predict(tiny(), data=data, folds=1)
