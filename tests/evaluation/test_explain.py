"""A network that was trained on a planted cue is explained by the cue; and what else the maps must keep to."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, get_args

import keras
import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.data.decode import decode
from kerasimg.errors import CallError, DataError
from kerasimg.evaluation import Method
from kerasimg.evaluation.explain import as_shares, explain, explain_examples
from kerasimg.evaluation.explain_layers import map_layer, without_squashing
from kerasimg.evaluation.explain_methods import METHODS, grad_cam, gradient, integrated_gradients, occlusion
from kerasimg.evaluation.explain_overlay import on_original
from kerasimg.models.classifier import Classifier
from kerasimg.spec.document import Image

SIDE, PATCH = 28, 8
COLOURS = np.array([(230, 60, 60), (60, 230, 60), (60, 60, 230)])
CLASSES = ("red", "green", "blue", "none")
CAMS = ("grad_cam", "grad_cam_pp", "hires_cam")
OF_THE_HEAD = ("grad_cam", "integrated_gradients", "occlusion")
"""The methods whose maps hang on the head; the others show how strongly, not which way (docs/explain.md)."""
OF_CONVOLUTIONS = [method for method in METHODS if method != "attention_rollout"]
MARGIN = 2
"""Pixels by which a peak may miss the cue: 15 of 224 in the pointing game (Zhang et al. 2016, arXiv:1608.00507)."""
LEAST_HITS = 0.95
"""Share of the images in which the map's peak must lie on the cue. Measured: 1.0 for every method."""
MOST_LIKE = 0.5
"""Rank correlation, mean of three draws, that a map may keep when the weights behind it are drawn again."""


class Cues(NamedTuple):
    images: np.ndarray
    """(N, 28, 28, 3) float32: noise, and a patch of 6 x 6 pixels somewhere, whose colour is the class.

    The class of the images without a patch is there so that no colour can be known by the absence of the others.
    """
    labels: np.ndarray
    corners: np.ndarray
    """(N, 2), row and column of the patch."""


def cues(count: int, seed: int, classes: int) -> Cues:
    draws = np.random.default_rng(seed)
    images = draws.normal(128, 25, (count, SIDE, SIDE, 3))
    labels = draws.integers(0, classes, count)
    corners = draws.integers(0, SIDE - PATCH + 1, (count, 2))
    for image, label, (top, left) in zip(images, labels, corners, strict=True):
        if label == len(COLOURS):
            continue
        image[top : top + PATCH, left : left + PATCH] = COLOURS[label] + draws.normal(0, 10, (PATCH, PATCH, 3))
    return Cues(images.clip(0, 255).round().astype("float32"), labels, corners)


def spec(**sections: Any) -> dict[str, Any]:
    return {
        "kerasimg": 1,
        "name": "cue",
        "image": {"size": [SIDE, SIDE]},
        "model": [
            {"layer": "Conv2D", "filters": 12, "kernel_size": 3, "padding": "same", "activation": "relu"},
            {"layer": "MaxPooling2D"},
            {
                "layer": "Conv2D",
                "name": "last",
                "filters": 16,
                "kernel_size": 3,
                "padding": "same",
                "activation": "relu",
            },
            {"layer": "GlobalMaxPooling2D"},
            {"layer": "Dense", "name": "classes", "units": 4, "activation": "softmax"},
        ],
    } | sections


def trained() -> Classifier:
    """A network that knows the class by the colour of the patch."""
    keras.utils.set_random_seed(0)
    loaded = kerasimg.load(spec())
    model = kerasimg.build(loaded)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    shown = cues(600, 1, classes=4)
    model.fit(shown.images, shown.labels, batch_size=32, epochs=5, verbose=0)
    return Classifier(model, loaded, CLASSES)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return trained()


@pytest.fixture(scope="module")
def shown() -> Cues:
    """Images with a cue, which the network was not trained on."""
    return cues(24, 2, classes=3)


def maps(classifier: Classifier, shown: Cues, method: str, **options: Any) -> np.ndarray:
    asked = classifier.probabilities if method == "occlusion" else classifier.model
    return METHODS[method](asked, shown.images, shown.labels, **options)


def hits(shown: Cues, found: np.ndarray) -> np.ndarray:
    """Whether each map, its pixels averaged with their neighbours, has its peak on the patch or `MARGIN` beside it."""
    found = sum(np.roll(found, (down, right), (1, 2)) for down in (-1, 0, 1) for right in (-1, 0, 1))
    peaks = np.stack(np.unravel_index(found.reshape(len(found), -1).argmax(axis=1), (SIDE, SIDE)), axis=1)
    return ((peaks >= shown.corners - MARGIN) & (peaks < shown.corners + PATCH + MARGIN)).all(axis=1)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Mean rank correlation (Spearman) of the maps of an image."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        middle = (np.cumsum(counts) - (counts - 1) / 2)[places.reshape(-1)]
        return middle - middle.mean()

    pairs = [(ranks(one), ranks(other)) for one, other in zip(first, second, strict=True)]
    return float(np.mean([one @ two / (np.sqrt(one @ one * (two @ two)) or 1) for one, two in pairs]))


def test_the_network_has_learned_the_cue(classifier: Classifier, shown: Cues):
    assert (classifier.probabilities(shown.images).argmax(axis=1) == shown.labels).mean() == 1


@pytest.mark.parametrize("method", OF_CONVOLUTIONS)
def test_every_method_points_at_the_planted_cue(classifier: Classifier, shown: Cues, method: str):
    found = maps(classifier, shown, method)
    assert found.shape == (len(shown.images), SIDE, SIDE)
    assert hits(shown, found).mean() >= LEAST_HITS


@pytest.mark.parametrize(
    ("method", "part"),
    [*((method, "last") for method in OF_CONVOLUTIONS), *((method, "classes") for method in OF_THE_HEAD)],
)
def test_the_map_changes_when_weights_are_drawn_again(classifier: Classifier, shown: Cues, method: str, part: str):
    """The sanity check of Adebayo et al. 2018, arXiv:1810.03292, of the last stage and of the head."""
    some = Cues(*(each[:6] for each in shown))
    before = maps(classifier, some, method)
    layer = classifier.model.get_layer(part)
    learned = layer.get_weights()
    draws = np.random.default_rng(0)
    stored = []
    for _ in range(3):
        layer.set_weights([draws.normal(0, weight.std() or 0.1, weight.shape) for weight in learned])
        stored.append(likeness(before, maps(classifier, some, method)))
    layer.set_weights(learned)
    assert likeness(before, maps(classifier, some, method)) == pytest.approx(1, abs=1e-6)
    assert np.mean(stored) <= MOST_LIKE


@pytest.mark.parametrize("method", [*CAMS, "integrated_gradients", "smooth_grad"])
def test_a_nested_backbone_gives_the_map_of_the_flat_model(classifier: Classifier, shown: Cues, method: str):
    flat = classifier.model
    inner = keras.Model(flat.layers[2].input, flat.get_layer("last").output, name="base")
    pixels = keras.Input((SIDE, SIDE, 3))
    features = inner(flat.layers[1](pixels))
    nested = keras.Model(pixels, flat.layers[-1](flat.layers[-2](features)))
    assert any(isinstance(layer, keras.Model) for layer in nested.layers)
    images, labels = shown.images[:4], shown.labels[:4]
    expected = METHODS[method](flat, images, labels)
    np.testing.assert_allclose(METHODS[method](nested, images, labels), expected, rtol=1e-4, atol=1e-5)


def test_a_backbone_of_the_zoo_is_explained_by_its_last_map():
    model = kerasimg.build("transfer", num_classes=3, size=64, weights=None)
    layer = map_layer(model)
    assert layer is model.get_layer("base").layers[-1]
    assert tuple(layer.output.shape[1:]) == (2, 2, 1280)
    made = grad_cam(model, np.zeros((1, 64, 64, 3), "float32"), np.array([1]))
    assert made.shape == (1, 64, 64)


def test_what_leads_past_the_layer_counts_too():
    pixels = keras.Input((4, 4, 1))
    inside = keras.layers.Conv2D(1, 1, name="inside", kernel_initializer="ones")(pixels)
    joined = keras.layers.Add()([inside, pixels])
    summed = keras.layers.Flatten()(joined)
    model = keras.Model(pixels, keras.layers.Dense(2, kernel_initializer="ones")(summed))
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    np.testing.assert_allclose(grad_cam(model, image, np.array([0]), layer="inside")[0], image[0, ..., 0])


def test_integrated_gradients_add_up_to_the_rise_of_the_score(classifier: Classifier, shown: Cues):
    images, labels = shown.images[:6], shown.labels[:6]
    with without_squashing(classifier.model):
        ends, starts = (
            keras.ops.convert_to_numpy(classifier.model(each))[np.arange(6), labels]
            for each in (images, np.zeros_like(images))
        )
    total = integrated_gradients(classifier.model, images, labels, steps=128).sum(axis=(1, 2))
    np.testing.assert_allclose(total, ends - starts, rtol=0.05)


def test_a_model_is_as_it_was_after_it_was_explained(classifier: Classifier, shown: Cues):
    before = classifier.probabilities(shown.images)
    weights = classifier.model.get_weights()
    for method in OF_CONVOLUTIONS:
        maps(classifier, Cues(*(each[:2] for each in shown)), method)
    np.testing.assert_array_equal(classifier.probabilities(shown.images), before)
    assert all((now == then).all() for now, then in zip(classifier.model.get_weights(), weights, strict=True))
    assert "call" not in vars(classifier.model.get_layer("last"))


def test_the_score_is_what_the_softmax_takes(classifier: Classifier, shown: Cues):
    with without_squashing(classifier.model):
        logits = keras.ops.convert_to_numpy(classifier.model(shown.images[:5]))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(keras.ops.softmax(logits)), classifier.probabilities(shown.images[:5]), atol=1e-5
    )


@pytest.mark.parametrize(("target", "sign"), [(1, 1), (0, -1)])
def test_of_two_classes_with_one_output_each_has_its_own_sign(target: int, sign: int):
    pixels = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(pixels)
    model = keras.Model(pixels, keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")(flat))
    image = np.full((1, 4, 4, 1), 2.0, "float32")
    made = integrated_gradients(model, image, np.array([target]), steps=2)
    np.testing.assert_allclose(made, np.full((1, 4, 4), sign * 2.0), rtol=1e-5)


def test_the_gradient_is_that_of_the_function():
    at = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    found = gradient(lambda x: (keras.ops.sum(x**3, axis=-1), 2 * x), keras.Sequential())(at)
    np.testing.assert_allclose(found.scores, [9, 91])
    np.testing.assert_allclose(found.gradient, 3 * at**2)
    np.testing.assert_allclose(found.further, 2 * at)


def test_a_model_without_a_map_is_refused_with_the_methods_that_do(classifier: Classifier):
    flat = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
    with pytest.raises(CallError, match="keeps no map of the image"):
        map_layer(flat)
    with pytest.raises(CallError, match=r"no layer 'lst'; did you mean 'last'\? \(with a map, last first: last, "):
        map_layer(classifier.model, "lst")
    with pytest.raises(CallError, match="'classes' gives 4; expected a map"):
        map_layer(classifier.model, "classes")


def bright_token(pool: str, attention: dict[str, Any]) -> keras.Model:
    """A transformer of 3 x 4 patches of 2 x 2 pixels, whose weights let bright patches be attended to, and count."""
    pooled: list[dict[str, Any]] = (
        [{"layer": "TakeToken"}] if pool == "token" else [{"layer": "GlobalAveragePooling1D"}]
    )
    document = {
        "kerasimg": 1,
        "image": {"size": [6, 8], "scale": "unit"},
        "model": [
            {"layer": "PatchEmbed", "units": 4, "patch_size": 2, "kernel_initializer": "ones"},
            {"layer": "ClassToken", "count": 2},
            {"layer": "Identity", "name": "tokens"},
            {**attention, "kernel_initializer": "ones"},
            {"layer": "Add", "inputs": ["tokens", "prev"]},
            *pooled,
            {"layer": "Dense", "units": 2, "kernel_initializer": {"type": "Identity"}, "activation": "softmax"},
        ],
    }
    return kerasimg.build(document)


@pytest.mark.parametrize("method", [*CAMS, "attention_rollout"])
@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize(
    "attention",
    [
        {"layer": "MultiHeadAttention", "inputs": {"query": "tokens", "value": "tokens"}, "num_heads": 1, "key_dim": 4},
        {"layer": "SelfAttention", "num_heads": 1},
    ],
    ids=lambda attention: attention["layer"],
)
def test_a_transformer_is_explained_by_its_tokens(method: str, pool: str, attention: dict[str, Any]):
    model = bright_token(pool, attention)
    model.get_layer("class_token").weights[0].assign(np.full((1, 2, 4), 0.5))
    image = np.full((1, 6, 8, 3), 20, "float32")
    image[0, 2:4, 6:8] = 60
    found = METHODS[method](model, image, np.array([0]))[0]
    assert found.shape == (6, 8)
    assert np.unravel_index(found.argmax(), found.shape) in {(2, 6), (2, 7), (3, 6), (3, 7)}


def test_rollout_multiplies_the_attention_of_every_layer_with_its_shortcut():
    model = kerasimg.build("zoo/small_vit.json", variant="2/3x2", num_classes=2)
    image = np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:])).astype("float32")
    found = METHODS["attention_rollout"](model, image, np.array([0, 1]))
    assert found.shape == image.shape[:3]
    assert (found > 0).all()


def test_occlusion_asks_any_function_and_finds_what_it_looks_at():
    def corner(images: np.ndarray) -> np.ndarray:
        share = images[:, :4, :4].mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - share, share], axis=1)

    image = np.zeros((1, 12, 12, 3), "float32")
    image[0, :4, :4] = 255
    made = occlusion(corner, image, np.array([1]), window=4, stride=4)[0]
    assert (made[:4, :4] > 0.5).all()
    assert (made[4:] == 0).all()


def test_occlusion_explains_the_only_label_of_a_multilabel_model():
    spec = kerasimg.load(
        {
            "kerasimg": 1,
            "task": "multilabel",
            "image": {"size": [12, 12]},
            "model": [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": 1, "activation": "sigmoid"}],
        }
    )
    model = kerasimg.build(spec)
    model.set_weights([np.full((3, 1), 3.0, "float32"), np.array([-1.0], "float32")])
    image = np.zeros((12, 12, 3), np.uint8)
    image[:4, :4] = 255
    [explained] = explain(Classifier(model, spec, ("bright",)), image, method="occlusion", window=4, stride=4)
    assert explained.map[:4, :4].min() > 0.9
    assert explained.map[4:].max() < 0.5


def test_every_class_of_a_image_can_be_asked_for(classifier: Classifier, shown: Cues):
    images = [image.astype("uint8") for image in shown.images[:2]]
    predicted = explain(classifier, images)
    assert [each.target for each in predicted] == [CLASSES[label] for label in shown.labels[:2]]
    assert all(each.probability > 0.5 for each in predicted)
    asked = explain(classifier, images, target="blue")
    assert [each.target for each in asked] == ["blue", "blue"]
    assert all(each.map.min() >= 0 and each.map.max() <= 1 and each.map.dtype == np.float32 for each in asked)


def test_examples_with_known_probabilities_are_explained_alike(classifier: Classifier, shown: Cues):
    images = [image.astype("uint8") for image in shown.images[:25]]  # more than one batch
    expected = explain(classifier, images, "grad_cam")
    targets, sure = [each.target for each in expected], [each.probability for each in expected]
    found = explain_examples(classifier, images, "grad_cam", targets, sure)
    for one, other in zip(found, expected, strict=True):
        assert (one.file, one.target, one.probability) == (other.file, other.target, other.probability)
        np.testing.assert_allclose(one.map, other.map, atol=1e-5)


def test_threads_that_share_a_classifier_get_what_one_gets(classifier: Classifier, shown: Cues):
    images = shown.images[:3].astype("uint8")
    wanted, map_of_one = classifier.probabilities(shown.images[:3]), explain(classifier, images)[0].map
    cold = Classifier(classifier.model, classifier.spec, classifier.classes)

    def ask(number: int) -> float:
        if number % 2:
            return float(np.abs(explain(cold, images)[0].map - map_of_one).max())
        return float(np.abs(cold.probabilities(shown.images[:3]) - wanted).max())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(ask, range(24))) < 1e-5


def test_overlays_are_written_at_both_sizes(classifier: Classifier, shown: Cues, tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        PIL.Image.fromarray(shown.images[0].astype("uint8")).resize((80, 40)).save(tmp_path / folder / "one.png")
    files = [tmp_path / "a", tmp_path / "b" / "one.png"]
    kerasimg.explain(classifier, files, "hires_cam", out=tmp_path / "out")
    sizes = {}
    for path in (tmp_path / "out").iterdir():
        with PIL.Image.open(path) as written:
            sizes[path.name] = written.size
    assert sizes == {
        "one.hires_cam.png": (80, 40),
        "one.hires_cam.seen.png": (SIDE, SIDE),
        "one-2.hires_cam.png": (80, 40),
        "one-2.hires_cam.seen.png": (SIDE, SIDE),
    }
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    kerasimg.explain(classifier, files, "hires_cam", out=tmp_path / "out")  # the same maps
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    kerasimg.explain(classifier, files[1:], "hires_cam", CLASSES[0], out=tmp_path / "out")
    kerasimg.explain(classifier, files[1:], "hires_cam", CLASSES[1], out=tmp_path / "out")
    after = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after.items() > before.items()  # no map of an earlier call is replaced
    assert tmp_path / "out" / "one-3.hires_cam.png" in after


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(60, 30), (30, 60), (41, 40)])
def test_a_map_laid_back_lies_on_what_it_explains(resize: Any, size: tuple[int, int]):
    """A bright spot of the image, found in what the network sees of it, is laid back onto the spot."""
    width, height = size
    img = np.zeros((height, width, 3), "uint8")
    img[height // 2 - 2 : height // 2 + 3, width // 2 - 2 : width // 2 + 3] = 255
    image = Image(size=[32, 32], resize=resize, background=[0, 0, 0])
    laid = on_original(decode(img, image)[..., 0].astype("float32"), image, width, height)
    assert laid.shape == (height, width)
    row, column = (np.average(np.arange(n), weights=laid.sum(axis=1 - axis)) for axis, n in enumerate(laid.shape))
    assert row == pytest.approx(height // 2, abs=1)
    assert column == pytest.approx(width // 2, abs=1)


def test_shares_are_of_the_highest_and_nothing_stays_nothing():
    np.testing.assert_allclose(as_shares(np.array([[-1.0, 0.0], [2.0, 2.0]])), [[0, 0], [1, 1]])
    assert as_shares(np.full((2, 2), -3.0)).max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gradcam"}, "method: no 'gradcam'; did you mean 'grad_cam'?"),
        ({"steps": 3}, "grad_cam has no option 'steps' (options: layer)"),
        ({"target": ["red", "red"]}, "target: 2 classes for 1 image; give one class, or one for each"),
        ({"target": "rad"}, "target: the model knows no class 'rad'; did you mean 'red'?"),
        ({"method": "integrated_gradients", "steps": 0}, "steps: expected 1 or more, got 0"),
    ],
)
def test_a_call_that_cannot_be_meant_says_what_there_is(classifier: Classifier, arguments: Any, message: str):
    with pytest.raises(CallError) as caught:
        explain(classifier, np.zeros((1, SIDE, SIDE, 3), "uint8"), **arguments)
    assert str(caught.value).startswith(message)


def test_every_unreadable_image_is_named(classifier: Classifier, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: is empty\n.*b\.png: does not exist"):
        explain(classifier, [tmp_path / "a.png", tmp_path / "b.png"], on_bad_image="skip")


def test_unreadable_images_can_be_left_out_and_the_others_keep_their_targets(
    classifier: Classifier, shown: Cues, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "a.png").write_bytes(b"")
    images = [str(tmp_path / "a.png"), *shown.images[:2].astype("uint8")]
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read \(below\).* --on-bad-image skip\b"):
        explain(classifier, images, "occlusion")
    with caplog.at_level("INFO"):
        found = explain(classifier, images, "occlusion", [CLASSES[0], CLASSES[1], CLASSES[0]], on_bad_image="skip")
    assert [row.target for row in found] == [CLASSES[1], CLASSES[0]]
    assert f"left out 1 unreadable: {tmp_path / 'a.png'}" in caplog.messages


def test_the_command_line_lists_every_method():
    assert get_args(Method) == tuple(METHODS)


def test_what_has_only_probabilities_is_explained_by_occlusion_alone(classifier: Classifier, shown: Cues):
    class Exported:
        classes = CLASSES
        spec = classifier.spec
        probabilities = staticmethod(classifier.probabilities)

    image = shown.images[:1].astype("uint8")
    (found,) = explain(Exported(), image, "occlusion")
    assert found.target == CLASSES[shown.labels[0]]
    assert found.file == "[0]"
