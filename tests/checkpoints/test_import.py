"""Imported checkpoints: what they compute, what is written, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

import kerasimg
from tests.checkpoints import seeded

TOLERANCE = 1e-4


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("name", seeded.names())
def test_an_imported_checkpoint_computes_the_logits_of_the_original(name: str, tmp_path: Path):
    fixture = seeded.read(name)
    imported = kerasimg.import_checkpoint(seeded.write(name, tmp_path / name), tmp_path / "out")
    model = kerasimg.build(imported.spec)
    found = model.predict(seeded.image(fixture["size"])[None].astype("float32"), verbose=0)[0]
    wanted = np.array(fixture["logits"])
    assert np.abs(np.log(found) - log_probabilities(wanted)).max() < TOLERANCE
