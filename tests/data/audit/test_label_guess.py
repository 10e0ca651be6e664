"""The classifier of thumbnails that looks at labels."""

import numpy as np
import pytest

from kerasimg.data.audit.data_check import out_of_fold
from kerasimg.data.audit.survey import survey
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError


def data(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(0).integers(-20, 21, (len(labels), 16, 16, 3))
    return (noise + 40 + 60 * labels[:, None, None, None]).clip(0, 255).astype(np.uint8), labels


def test_classes_are_guessed_by_models_that_did_not_see_the_image():
    images, labels = data([20, 20, 20])
    labels[3] = 2
    source = open_source((images, labels))
    indices, p = out_of_fold(source, survey(source.items), [])
    assert indices.tolist() == list(range(60))
    assert p.shape == (60, 3)
    assert np.allclose(p.sum(axis=1), 1)
    right = np.repeat([0, 1, 2], 20)
    assert (p.argmax(axis=1) == right).all()


def test_the_same_image_is_asked_once_and_classes_of_less_than_five_are_left_out():
    images, labels = data([10, 10, 4])
    source = open_source((images, labels))
    indices, p = out_of_fold(source, survey(source.items), [[0, 1], [5, 12]])
    assert indices.tolist() == [index for index in range(20) if index not in (1, 12)]
    assert p.shape == (18, 3)
    assert (p[:, 2] == 0).all()


def test_of_two_classes_in_a_binary_task_the_second_is_given():
    images, labels = data([10, 10])
    source = open_source((images, labels), "binary")
    _, p = out_of_fold(source, survey(source.items), [])
    assert p.shape == (20, 1)
    assert ((p[:, 0] > 0.5) == labels.astype(bool)).all()


def test_several_labels_a_image_are_refused():
    source = open_source((data([6, 6])[0], np.eye(2, dtype=int)[[0, 1] * 6]), "multilabel")
    with pytest.raises(CallError, match="multilabel"):
        out_of_fold(source, survey(source.items), [])
