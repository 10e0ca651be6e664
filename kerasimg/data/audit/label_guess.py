"""What a simple classifier of thumbnails thinks of images that it was not trained on.

It is a logistic regression on a kernel map (Nystroem, Williams and Seeger 2001) of the images' 16 x 16 thumbnails,
trained five times on four fifths. It knows shapes and colours, not things: it serves for a first look at labels where
images of a class look alike, and says little of photographs. A trained run says more: `kerasimg run label-errors`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerasimg.data.audit.survey import Survey
from kerasimg.data.source import Source
from kerasimg.errors import CallError

FOLDS = 5
LANDMARKS = 600
MOST = 20_000
"""Images that the regression is trained on, at most; beyond that a part of each fold is drawn."""


def out_of_fold(source: Source, seen: Survey, groups: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of images by a classifier that was trained without them.

    groups: the same images; of each the first is asked alone, lest a copy is known by heart.
    Returns the indices of the images asked, (M,), and (M, number of classes). Classes with fewer than five images
    are left out. Raises CallError where the task is multilabel.
    """
    from sklearn.model_selection import StratifiedKFold

    if source.task == "multilabel":
        raise CallError("wrong labels are found by thumbnails for images with one label; this data is multilabel")
    asked = seen.readable
    for group in groups:
        asked[list(group[1:])] = False
    labels = source.label_ids()
    enough = np.bincount(labels[asked], minlength=len(source.classes)) >= FOLDS
    indices = np.flatnonzero(asked & enough[labels])
    if enough.sum() < 2:
        return indices[:0], np.empty((0, len(source.classes)))
    features = seen.thumbs[indices].reshape(len(indices), -1).astype(np.float32) / 255
    probabilities = np.zeros((len(indices), len(source.classes)))
    drawn = np.random.default_rng(0)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, labels[indices]):
        if len(train) > MOST:
            train = drawn.choice(train, MOST, replace=False)
        model = _classifier(len(train)).fit(features[train], labels[indices[train]])
        # In slices, so that the kernel map of many images does not stand in memory at once.
        for part in np.array_split(test, -(-len(test) // 8192)):
            probabilities[np.ix_(part, model.classes_)] = model.predict_proba(features[part])
    return indices, probabilities if source.task == "multiclass" else probabilities[:, 1:]


def _classifier(count: int):  # type: ignore[no-untyped-def]
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # 0.01: the width at which pixels of 0 to 1 of 16 x 16 x 3 differ, about 1 / their summed variance.
    kernel = Nystroem(gamma=0.01, n_components=min(LANDMARKS, count), random_state=0)
    return make_pipeline(kernel, StandardScaler(), LogisticRegression(C=0.03, max_iter=300))
