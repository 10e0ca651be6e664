import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.data.sources import open_source
from kerasimg.data.starter_spec import Choices, make_spec, valid_name
from kerasimg.data.summary import Summary, describe_sizes, summarize
from kerasimg.spec.formatting import dumps

PHOTOS = Summary(500, {"cat": 300, "dog": 200}, 400, 0, 480, 640, (1.3, 1.4), False, 0.0)


def chosen(wish: Choices | None = None, **seen: Any) -> dict[str, Any]:
    return make_spec("photos", PHOTOS._replace(**seen), wish or Choices())


def test_few_photos_get_a_head_on_frozen_features_and_many_a_whole_network():
    assert chosen()["extends"] == "recipes/transfer"
    assert chosen(classes={"cat": 3000, "dog": 2000})["extends"] == "recipes/finetune"


def test_tiny_images_get_a_network_of_their_own_in_their_size_and_colours():
    spec = chosen(height=28, width=28, grey=True)
    assert (spec["extends"], spec["params"]["size"], spec["params"]["channels"]) == ("recipes/from_scratch", 28, 1)


@pytest.mark.parametrize(("side", "size"), [(480, 224), (224, 224), (200, 192), (130, 128), (70, 96)])
def test_the_size_is_no_more_than_the_images_have(side: int, size: int):
    assert chosen(height=side, width=side + 10)["params"]["size"] == size


def test_images_of_one_shape_are_stretched_and_of_many_padded():
    assert chosen()["image"]["resize"] == "stretch"
    assert chosen(aspects=(0.7, 1.5))["image"]["resize"] == "pad"


def test_rare_classes_weigh_more_where_some_are():
    assert "fit" not in chosen()
    spec = chosen(classes={"cat": 400, "dog": 50})
    assert (spec["fit"]["class_weight"], spec["tune"]["objective"]) == ("balanced", "val_f1")


@pytest.mark.parametrize("recipe", ["transfer", "finetune", "from_scratch", "tiny_device"])
@pytest.mark.parametrize("mirror", [True, False])
def test_every_choice_makes_a_spec_that_loads_and_says_why(recipe: Any, mirror: bool):
    wish = Choices(recipe, 64, "crop", mirror, True)
    spec = kerasimg.load(json.loads(dumps(chosen(wish))))
    assert (spec.image.size, spec.image.resize, spec.params["num_classes"]) == ([64, 64], "crop", 2)
    assert ("RandomFlip" in [name for name, _ in spec.augment]) == mirror
    assert {value.name for value in spec.search} >= {"lr"}
    assert sum(key.startswith("//") for key in dumps(chosen(wish)).split('"')) >= 6


@pytest.mark.parametrize(
    ("name", "made"), [("my photos", "my_photos"), ("2024-trip", "_2024-trip"), ("Häuser", "Hauser")]
)
def test_any_folder_gives_a_name_of_the_language(name: str, made: str):
    assert kerasimg.load(make_spec(name, PHOTOS)).name == made


def test_a_look_sees_sizes_upright_colours_and_what_cannot_be_read(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            PIL.Image.new("L", (30, 20), 100).save(tmp_path / name / f"{number}.png")
    seen = summarize(open_source(tmp_path))
    assert (seen.images, seen.height, seen.width, seen.grey, seen.imbalance) == (6, 20, 30, True, 1.0)
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    for number in range(3, 12):
        PIL.Image.new("RGB", (30, 20), (200, 100, 0)).save(tmp_path / "a" / f"{number}.jpg", exif=exif)
    (tmp_path / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    seen = summarize(open_source(tmp_path))
    assert (seen.height, seen.width, seen.grey, seen.unreadable) == (30, 20, False, 1)
    assert list(seen.classes.items()) == [("a", 12), ("b", 3)]


def test_grey_photographs_kept_as_jpegs_in_colour_count_as_grey(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        PIL.Image.fromarray(noise).convert("RGB").save(tmp_path / name / "0.jpg")
    assert summarize(open_source(tmp_path)).grey


def test_arrays_can_be_looked_at_too():
    seen = summarize(open_source((np.zeros((10, 8, 6, 3), np.uint8), np.arange(10) % 2)))
    assert (seen.height, seen.width, seen.grey) == (8, 6, False)


def test_a_spec_is_named_after_a_folder_in_any_language():
    assert valid_name("photos/Fotos für Oma") == "Fotos_fur_Oma"
    assert valid_name("Großer Garten 1") == "Grosser_Garten_1"
    assert valid_name("写真") == "___"


def test_sizes_are_described_in_one_way_and_most_only_where_most_are():
    assert describe_sizes([(28, 28)] * 3) == "all 28 x 28 px"
    assert describe_sizes([(40, 30), (20, 50), (30, 40)]) == "20 to 40 px wide and 30 to 50 px high, median 30 x 40 px"
    half = [(30, 40), (30, 20), (30, 40), (30, 30)]
    assert describe_sizes(half) == "30 px wide and 20 to 40 px high, median 30 x 35 px"
    assert describe_sizes([*half, (30, 40)]).endswith(", median 30 x 40 px; most are 30 x 40 px (3)")
