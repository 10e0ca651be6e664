import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kerasimg.data import bench
from kerasimg.data.bench import Bench, measure
from kerasimg.data.sources import open_source
from kerasimg.errors import DataError
from kerasimg.spec.document import Image

Folder = Callable[..., Path]
PIXELS = np.random.default_rng(1).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "LEAST_S", 0.02)


def test_every_part_and_the_whole_are_measured():
    source = open_source((PIXELS, np.arange(40) % 2))
    found = measure(source, Image(size=[8, 8]), [("RandomFlip", {})], batch_size=8, images=20, threads=2)
    assert (found.images, found.of, found.threads, found.batch_size) == (20, 40, 2, 8)
    assert list(found.parts) == ["read", "decode", "resize", "augment", "copy"]
    assert all(rate > 0 for rate in (*found.parts.values(), found.first_epoch, found.from_cache))
    assert sum(found.share(name) for name in found.parts) == pytest.approx(1)
    assert found.share(found.bound) == max(found.share(name) for name in found.parts)
    assert found.cache == "memory"
    assert "RandomFlip" in found.augmentation
    assert json.loads(json.dumps(found.as_dict()))["first_epoch"] == found.first_epoch


def test_a_part_that_takes_no_time_is_null_in_json_and_the_line_says_what_bounds():
    parts = {"read": 8000.0, "decode": 2000.0, "resize": 4000.0, "augment": math.inf, "copy": 8000.0}
    found = Bench(10, 10, 2, 8, (8, 8), parts, 1000.0, 8000.0, "decode", "copy", cache="disk")
    assert found.as_dict()["parts"]["augment"] is None
    assert found.as_dict()["shares"] == {"read": 0.125, "decode": 0.5, "resize": 0.25, "augment": 0, "copy": 0.125}
    assert found.summary() == (
        "images: 1,000 a second in the first epoch (decode takes 50%), 8,000 from the cache (disk; copy)"
    )


def test_a_image_that_cannot_be_read_is_named(folder: Folder):
    root = folder("cat/1.png", "dog/1.png")
    (root / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"dog/1\.png: is empty"):
        measure(open_source(root), Image(size=[2, 2]))
