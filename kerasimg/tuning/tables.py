"""Pictures and features as tensors in memory, decoded once and shared by the trials of a process."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from kerasimg.data.cache import Cache, memory_room, open_cache
from kerasimg.data.items import Part
from kerasimg.data.loading import Loader
from kerasimg.data.pipeline import TARGETS, labels_for
from kerasimg.data.sources import Source
from kerasimg.spec.document import Image
from kerasimg.training.feature_rows import Rows
from kerasimg.training.features import FeaturePlan, Job
from kerasimg.tuning.whole_epochs import Table

SHARE = 0.25
"""Of the memory that more pictures may take: what a tensor of all of them may; beyond, they come batch by batch."""
SECTIONS = 2
"""Of so many `image` sections the pictures are kept as a tensor."""
AT_ONCE = 1024


class Tables:
    """What trials are trained on, where it fits the memory."""

    def __init__(self, source: Source, cache: Cache) -> None:
        self.source, self.cache = source, cache
        self._pixels: OrderedDict[str, Any] = OrderedDict()

    def of(self, plan: FeaturePlan) -> tuple[Table | None, Table | None]:
        """What a stage trains on and validates by; None in place of what is fed batch by batch, or is not there."""
        return self._train(plan), self._validation(plan)

    def _train(self, plan: FeaturePlan) -> Table | None:
        job = plan.job
        if "train" in plan.rows:
            return self._features(job, plan.rows["train"], "train", job.sample_weight)
        if plan.engine is not None or job.augmentation is not None:
            return None
        return self._pictures(job, "train", job.sample_weight)

    def _validation(self, plan: FeaturePlan) -> Table | None:
        if "validation" not in plan.job.parts:
            return None
        if "validation" in plan.rows:
            return self._features(plan.job, plan.rows["validation"], "validation", None)
        return self._pictures(plan.job, "validation", None) if plan.engine is None else None

    def _features(self, job: Job, rows: Rows, part: Part, weights: np.ndarray | None) -> Table:
        import tensorflow as tf

        parts = tuple(tf.constant(one) for one in rows.parts)
        labels = self._labels(job, part) if rows.labels is None else tf.constant(rows.labels)
        views = len(rows.parts[0]) // rows.count
        return Table(parts, labels, _tensor(weights), np.arange(rows.count), views, rows.labels is not None)

    def _pictures(self, job: Job, part: Part, weights: np.ndarray | None) -> Table | None:
        pixels = self._all_pixels(job.image)
        if pixels is None:
            return None
        return Table((pixels,), self._labels(job, part), _tensor(weights), job.parts[part].astype(np.int64))

    def _labels(self, job: Job, part: Part) -> Any:
        import tensorflow as tf

        labels = labels_for(job.source, job.parts[part], job.targets)
        labels = labels.astype(np.uint8) if job.targets == "multi_hot" else labels
        return TARGETS[job.targets](tf.constant(labels), len(job.source.classes))

    def _all_pixels(self, image: Image) -> Any:
        """(pictures, H, W, C) uint8 of the whole source; None where the memory does not suffice."""
        import tensorflow as tf

        key = image.model_dump_json()
        if key not in self._pixels:
            shape = (len(self.source), *image.size, image.channels)
            if np.prod(shape, dtype=np.int64) > SHARE * memory_room():
                return None
            loader = Loader(self.source, np.arange(len(self.source)), image, open_cache(self.cache), exact=False)
            pixels = np.empty(shape, np.uint8)
            for first in range(0, len(pixels), AT_ONCE):
                places = np.arange(first, min(first + AT_ONCE, len(pixels)))
                pixels[places] = loader.load(places)
            self._pixels[key] = tf.constant(pixels)
            while len(self._pixels) > SECTIONS:
                self._pixels.popitem(last=False)
        self._pixels.move_to_end(key)
        return self._pixels[key]


def _tensor(weights: np.ndarray | None) -> Any:
    import tensorflow as tf

    return None if weights is None else tf.constant(weights, tf.float32)
