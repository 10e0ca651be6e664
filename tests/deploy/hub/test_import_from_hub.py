"""Checkpoints on the Hub, with its real client, against a local server with the hub's HTTP interface."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError, SpecError, WeightsError
from tests.checkpoints import seeded

REPO = "timm/vit_small"
CARD = b"---\nlibrary_name: timm\nlicense: mit\n---\n\n# ViT\n"


@pytest.fixture
def stored(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub with two commits: a checkpoint, and the same one under another licence."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = seeded.write("vit", tmp_path / "vit")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repos[REPO] = [{**files, "README.md": CARD}, {**files, "README.md": CARD.replace(b"mit", b"gpl-3.0")}]
    hub.private[REPO] = False
    return hub


def test_a_checkpoint_is_imported_with_its_commit_and_licence(stored: Any, tmp_path: Path):
    imported = kerasimg.import_checkpoint(f"hf://{REPO}", tmp_path / "out")
    assert (imported.source, imported.license) == (f"hf://{REPO}@{stored.name_of(2)}", "gpl-3.0")
    card = json.loads(imported.spec.read_text())["card"]
    assert (card["origin"], card["license"]) == (imported.source, "gpl-3.0")
    first = kerasimg.import_checkpoint(f"hf://{REPO}", tmp_path / "first", revision=stored.name_of(1))
    assert first.license == "mit"


def test_a_checkpoint_is_the_weights_of_a_backbone(stored: Any, tmp_path: Path):
    params = {"width": 48, "depth": 2, "heads": 3, "patch": 16, "dropout": 0.0}
    backbone = {"backbone": "zoo/vit.json", "weights": f"hf://{REPO}@{stored.name_of(1)}", **params}
    spec = {"kerasimg": 1, "image": {"size": [64, 64]}, "model": [backbone]}
    features = kerasimg.build(spec)
    imported = kerasimg.import_checkpoint(f"hf://{REPO}", tmp_path / "out")
    whole = kerasimg.build(imported.spec)
    pixels = seeded.image(64)[None].astype("float32")
    logits = np.asarray(features(pixels)) @ np.asarray(whole.layers[-1].kernel) + np.asarray(whole.layers[-1].bias)
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), whole(pixels), rtol=1e-4)
    with pytest.raises(
        WeightsError, match=r"expected .* of shape \(16, 16, 3, 24\), found \(16, 16, 3, 48\); give .*width=48"
    ):
        kerasimg.build({**spec, "model": [{**backbone, "width": 24}]})
    with pytest.raises(WeightsError, match=r"is a checkpoint of zoo/vit.json, and the backbone is zoo/deit.json"):
        kerasimg.build({**spec, "model": [{"backbone": "zoo/deit.json", "weights": backbone["weights"]}]})


def test_a_spec_must_name_the_commit():
    model = [{"backbone": "zoo/vit.json", "weights": f"hf://{REPO}"}]
    with pytest.raises(SpecError, match=r"model\[0\].*weights: expected .* with the 40 digits of a commit"):
        kerasimg.load({"kerasimg": 1, "model": model})


def test_a_repository_without_safetensors_is_refused(stored: Any, tmp_path: Path):
    stored.repos[REPO].append({"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    with pytest.raises(CallError, match=r"no model.safetensors .* pickles \(.bin, .pth\) are not read"):
        kerasimg.import_checkpoint(f"hf://{REPO}", tmp_path / "out")
    with pytest.raises(CallError, match=r"timm/none: no such model"):
        kerasimg.import_checkpoint("hf://timm/none", tmp_path / "out")
    with pytest.raises(CallError, match=r"no such revision"):
        kerasimg.import_checkpoint(f"hf://{REPO}@v9", tmp_path / "out")
