"""Imported checkpoints: what they compute, what is written, and what is refused."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import kerasimg
from kerasimg.boundary import Tensor
from kerasimg.catalog import load_to_build
from kerasimg.errors import CallError
from kerasimg.models import converters
from kerasimg.models.build import construct
from kerasimg.models.checkpoint_files import timm_preprocessing, transformers_preprocessing
from tests.checkpoints import seeded

TOLERANCE = 1e-4
TRANSFORMERS = json.loads(Path(__file__).with_name("transformers.json").read_text())
"""Of models of the transformers package: the config, and the shapes of their arrays as they are stored."""


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("name", seeded.names())
def test_an_imported_checkpoint_computes_the_logits_of_the_original(name: str, tmp_path: Path):
    fixture = seeded.read(name)
    imported = kerasimg.import_checkpoint(seeded.write(name, tmp_path / name), tmp_path / "out")
    model = kerasimg.build(imported.spec)
    found = np.array(model(seeded.image(fixture["size"])[None].astype("float32"), training=False))[0]
    wanted = np.array(fixture["logits"])
    assert np.abs(np.log(found) - log_probabilities(wanted)).max() < TOLERANCE


class Enough(Exception):
    """The model has been looked at and need not get memory."""


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_checkpoint_of_hugging_face_has_the_arrays_of_every_variable_and_no_others(name: str):
    config, shapes = TRANSFORMERS[name]["config"], TRANSFORMERS[name]["tensors"]
    classes, side = 2 * ("ForImageClassification" in name), config.get("image_size", 224)
    recipe = converters.for_transformers(config, classes, [side, side])
    tensors = {key.removeprefix(recipe.prefix): Tensor("F32", tuple(shape), 0, 0) for key, shape in shapes.items()}
    spec = load_to_build({"kerasimg": 1, "extends": f"zoo/{recipe.spec}", "params": dict(recipe.params)})

    def inspect(model):
        variables = [weight for weight in model.weights if classes or not weight.path.startswith("classes")]
        assert len(converters.assign_arrays(variables, recipe, spec.params, tensors)) == len(variables) > 10
        raise Enough

    with pytest.raises(Enough):
        construct(spec, weights=None, inspect=inspect)


def test_the_vision_model_of_a_checkpoint_of_hugging_face_computes_its_features(tmp_path: Path):
    case = TRANSFORMERS["CLIPVisionModel"]
    arrays = seeded.arrays(case["tensors"])
    text = {"text_model.embeddings.weight": np.zeros(3, "float32"), "logit_scale": np.zeros((), "float32")}
    seeded.write_safetensors(
        tmp_path / "model.safetensors", {f"vision_model.{name}": array for name, array in arrays.items()} | text
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": case["config"]}))
    imported = kerasimg.import_checkpoint(tmp_path, tmp_path / "out")
    probe = {
        "kerasimg": 1,
        "image": {"size": [64, 64]},
        "model": [{"backbone": imported.spec.name, "weights": "imagenet"}],
    }
    (tmp_path / "out" / "probe.json").write_text(json.dumps(probe))
    features = kerasimg.build(tmp_path / "out" / "probe.json")(seeded.image(64)[None].astype("float32"), training=False)
    np.testing.assert_allclose(np.array(features)[0, :8], case["features"], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vitt"}, "model_type 'vitt': no converter knows it; did you mean 'vit'?"),
        ({"hidden_act": "swish"}, "hidden_act: expected 'gelu', got 'swish'"),
    ],
)
def test_a_checkpoint_of_hugging_face_that_is_something_else_is_refused(change: dict, message: str):
    with pytest.raises(CallError) as caught:
        converters.for_transformers({**TRANSFORMERS["ViTForImageClassification"]["config"], **change}, 2, [64, 64])
    assert message in str(caught.value)


def test_the_table_of_the_page_is_the_last_comparison_with_timm():
    docs = Path(__file__).parents[2] / "docs"
    script = runpy.run_path(str(docs / "make_import_table.py"))
    text = (docs / "importing.md").read_text(encoding="utf-8")
    results = json.loads((docs / "import-parity.json").read_text(encoding="utf-8"))
    assert text == script["page"](text, results), "run: python docs/make_import_table.py --page"
    rows = results["architectures"].values()
    assert {row["family"] for row in rows} == set(converters.families())
    assert results["transformers"].keys() == TRANSFORMERS.keys()
    assert max(row["outputs"] for row in results["transformers"].values()) <= script["MAX_LOGITS"]
    assert max(row["logits"] for row in rows) <= script["MAX_LOGITS"]
    assert max(row["pixels"] for row in rows) <= script["MAX_PIXELS"]
    assert max(row[shape] for row in results["pixels"] for shape in script["SHAPES"]) <= script["MAX_PIXELS"]


@pytest.mark.parametrize(
    ("cfg", "section"),
    [
        ({}, {"resize": "crop", "interpolation": "bicubic", "scale": "imagenet", "crop_fraction": 0.875}),
        ({"crop_pct": 1.0, "interpolation": "bilinear"}, {"resize": "crop", "interpolation": "bilinear"}),
        ({"crop_mode": "squash", "crop_pct": 0.9}, {"resize": "stretch", "crop_fraction": 0.9}),
        (
            {"crop_mode": "border", "mean": [0.5, 0, 1], "std": [1, 1, 1]},
            {"resize": "pad", "background": [128, 0, 255], "scale": {"mean": [127.5, 0, 255], "std": [255, 255, 255]}},
        ),
    ],
)
def test_the_preprocessing_of_timm_is_kept(cfg: dict, section: dict):
    found = timm_preprocessing("cfg", cfg, [224, 224])
    assert found | section == found
    assert ("crop_fraction" in found) == (cfg.get("crop_pct") != 1.0)


@pytest.mark.parametrize(
    ("steps", "section"),
    [
        ({}, {"resize": "stretch", "interpolation": "bilinear", "scale": "symmetric"}),
        ({"size": 224, "image_processor_type": "ViTImageProcessor"}, {"resize": "stretch"}),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, {"crop_fraction": 0.875}),
        (
            {"size": 235, "crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor"},
            {"crop_fraction": 0.953191},
        ),
        ({"size": {"shortest_edge": 224}, "crop_size": 224, "resample": 3}, {"interpolation": "bicubic"}),
        ({"size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True}, {"crop_fraction": 0.875}),
        ({"size": {"shortest_edge": 224}, "image_processor_type": "ConvNextImageProcessor"}, {"crop_fraction": 0.875}),
        ({"size": {"shortest_edge": 384}, "image_processor_type": "ConvNextImageProcessor"}, {"resize": "stretch"}),
        ({"do_normalize": False}, {"scale": "unit"}),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1] * 3}, {"scale": {"mean": [127.5] * 3, "std": [63.75] * 3}}),
    ],
)
def test_the_preprocessing_of_hugging_face_is_kept(steps: dict, section: dict):  # 224 pixels of 235 or 256
    found = transformers_preprocessing("steps", steps)
    assert found | section == found


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"resample": 5}, "steps.resample: expected one of 0, 1, 2, 3, 4, got '5'"),
        ({"size": {"max_height": 9}}, "steps.size.max_height: expected shortest_edge, or height and width"),
        ({"size": {"shortest_edge": 20}, "crop_size": 224}, "steps.crop_size: expected 0.1 to 1 of the resized image"),
        ({"do_resize": False}, "steps.do_resize: expected true"),
        ({"rescale_factor": 0}, "steps: rescale_factor and std: expected numbers above 0"),
    ],
)
def test_a_preprocessing_that_cannot_be_kept_is_refused(steps: dict, message: str):
    with pytest.raises(CallError) as caught:
        transformers_preprocessing("steps", steps)
    assert str(caught.value).startswith(message)
