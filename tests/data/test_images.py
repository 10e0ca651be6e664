"""One table of what callers pass in, and every entry point held to it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import kerasimg
from kerasimg.data.decode import decode
from kerasimg.data.image_files import BadImage
from kerasimg.data.images import named_images
from kerasimg.data.readable import scan
from kerasimg.data.sources import open_source
from kerasimg.deploy.serve.errors import Refused
from kerasimg.deploy.serve.protocol import checked_pixels
from kerasimg.errors import CallError, DataError, KerasimgError
from kerasimg.models.classifier import Classifier
from kerasimg.spec.document import Image

ONE = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
IMAGE = Image(size=[4, 4])

RANGES = {
    "floats of 0 to 1": (ONE / 255, "multiply by 255"),
    "reflectance of 0 to 1.2": (ONE / 255 * 1.2, "nearly black"),
    "float16 of 0 to 1": ((ONE / 255).astype("float16"), "multiply by 255"),
    "integers of 0 and 1": ((ONE > 99).astype("int64"), "multiply by 255"),
    "uint8 of 0 and 1": ((ONE > 99).astype("uint8"), "multiply by 255"),
    "a mask of booleans": (ONE > 99, "multiply by 255"),
    "centred at 0": (ONE / 127.5 - 1, "the model scales them itself"),
    "negative integers": (ONE.astype("int16") - 128, "expected values of 0 to 255, got -"),
    "NaN": (np.where(ONE > 99, np.nan, ONE), "nan_to_num"),
    "infinity": (np.where(ONE > 99, np.inf, ONE), "expected values of 0 to 255"),
    "16 bits": (ONE.astype("uint16") * 257, "divide 16-bit values by 257"),
    "complex numbers": (ONE.astype("complex64"), "expected numbers of 0 to 255"),
    "Python objects": (np.full((4, 4, 3), "1", object), "Python objects"),
    "four channels": (np.concatenate([ONE, ONE[..., :1]], axis=2), "PIL.Image.fromarray(image)"),
    "two channels": (ONE[..., :2], "1 or 3 channels"),
    "seven channels": (np.repeat(ONE[..., :1], 7, axis=2), "1 or 3 channels"),
}
"""What no entry point may take for an image, and what the error says."""


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    spec = kerasimg.load(
        {
            "kerasimg": 1,
            "name": "hand",
            "image": {"size": [4, 4]},
            "model": [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": 2, "activation": "softmax"}],
        }
    )
    return Classifier(kerasimg.build(spec), spec, ("0", "1"))


def by_predict(classifier: Classifier, image: Any) -> None:
    kerasimg.predict(classifier, image)


def by_predict_of_a_list(classifier: Classifier, image: Any) -> None:
    kerasimg.predict(classifier, [image])


def by_predict_of_a_batch(classifier: Classifier, image: Any) -> None:
    kerasimg.predict(classifier, np.stack([image, image]))


def by_explain(classifier: Classifier, image: Any) -> None:
    kerasimg.explain(classifier, [image], "occlusion", window=2)


def by_train(classifier: Classifier, image: Any) -> None:
    scan(open_source((np.stack([image, image]), [0, 1])), classifier.spec.image)


def by_train_on_a_list(classifier: Classifier, image: Any) -> None:
    scan(open_source(([image, image], [0, 1])), classifier.spec.image)


def by_evaluate(classifier: Classifier, image: Any) -> None:
    kerasimg.evaluate(classifier, data=(np.stack([image, image]), [0, 1]))


def by_check_data(classifier: Classifier, image: Any) -> None:
    kerasimg.check_data((np.stack([image, image]), [0, 1]))


def by_serve(classifier: Classifier, image: Any) -> None:
    checked_pixels(np.asarray([image]), (4, 4, 3))


DOORS = (
    by_predict,
    by_predict_of_a_list,
    by_predict_of_a_batch,
    by_explain,
    by_train,
    by_train_on_a_list,
    by_evaluate,
    by_check_data,
)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("case", RANGES)
def test_values_on_another_scale_are_refused_at_every_entry_point(
    classifier: Classifier, door: Callable[[Classifier, Any], None], case: str
):
    image, advice = RANGES[case]
    if door is by_check_data and case in ("four channels", "seven channels"):  # no spec says how many there should be
        assert "images=2" in repr(kerasimg.check_data((np.stack([image, image]), [0, 1])))
        return
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4) and door is by_predict:
        image = image[np.newaxis]  # (H, W, 7) alone could be H grey images
    with pytest.raises(DataError) as caught:
        door(classifier, image)
    assert advice in str(caught.value)


@pytest.mark.parametrize("case", [name for name, (image, _) in RANGES.items() if image.shape == (4, 4, 3)])
def test_values_on_another_scale_are_refused_by_the_server(classifier: Classifier, case: str):
    image, advice = RANGES[case]
    with pytest.raises(Refused) as caught:
        by_serve(classifier, image)
    assert advice in str(caught.value)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("kind", ["uint8", "int32", "float32", "float16", "float64"])
def test_numbers_of_0_to_255_of_any_type_are_taken_at_every_entry_point(
    classifier: Classifier, door: Callable[[Classifier, Any], None], kind: str
):
    door(classifier, ONE.astype(kind))


def encoded(image: np.ndarray = ONE, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind)
    return file.getvalue()


class Tensor:
    """What a tensor of TensorFlow, JAX or PyTorch has in common."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape = array, array.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array


FORMS: dict[str, tuple[Any, list[str]]] = {
    "(H, W, 3)": (ONE, ["[0]"]),
    "(1, H, W, 3)": (ONE[np.newaxis], ["[0]"]),
    "(2, H, W, 3)": (np.stack([ONE, ONE]), ["[0]", "[1]"]),
    "nested lists": (ONE.tolist(), ["[0]"]),
    "a tensor": (Tensor(ONE), ["[0]"]),
    "a list of a tensor": ([Tensor(ONE)], ["[0]"]),
    "a list of arrays": ([ONE, ONE], ["[0]", "[1]"]),
    "arrays of several sizes": ([ONE, np.repeat(ONE, 2, axis=0)], ["[0]", "[1]"]),
    "a tuple": ((ONE, ONE), ["[0]", "[1]"]),
    "a generator": ((image for image in [ONE, ONE]), ["[0]", "[1]"]),
    "PIL": (PIL.Image.fromarray(ONE), ["[0]"]),
    "a list of PIL": ([PIL.Image.fromarray(ONE)] * 2, ["[0]", "[1]"]),
    "bytes": (encoded(), ["[0]"]),
    "bytearray": (bytearray(encoded()), ["[0]"]),
    "an open file": (io.BytesIO(encoded()), ["[0]"]),
    "a list of all": ([ONE, encoded(), PIL.Image.fromarray(ONE), io.BytesIO(encoded())], ["[0]", "[1]", "[2]", "[3]"]),
    "an array of objects": (np.array([ONE, np.repeat(ONE, 2, axis=0), None], object)[:2], ["[0]", "[1]"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_may_come_in_any_form(form: str):
    given, names = FORMS[form]
    images = named_images(given)
    assert [image.name for image in images] == names
    assert np.array_equal(decode(images[0].read(), IMAGE), ONE)


def test_paths_may_stand_in_a_list_an_array_or_alone(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    for given in (path, str(path), [path], np.array([str(path)]), np.array([path], object), tmp_path, [tmp_path]):
        (image,) = named_images(given)
        assert image.name == str(path)
        assert np.array_equal(decode(image.read(), IMAGE), ONE)
    with path.open("rb") as file:
        assert [image.name for image in named_images([file, ONE])] == [str(path), "[1]"]


def test_grey_images_are_recognised_by_their_last_dimension():
    grey = ONE[..., 0]
    assert len(named_images(grey)) == 1
    assert len(named_images(ONE[..., :1])) == 1
    assert len(named_images(np.repeat(np.repeat(grey[np.newaxis], 5, axis=0), 2, axis=2))) == 5
    three = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    assert len(named_images(three, channels=1)) == 3
    with pytest.raises(DataError, match=r"channels first, or three grey images"):
        named_images(three, channels=3)
    with pytest.raises(DataError, match=r"images\.transpose\(0, 2, 3, 1\)"):
        named_images(three[np.newaxis])


@pytest.mark.parametrize(
    "address",
    ["https://example.com/cat.jpg", "http://a.b/c", "s3://bucket/key", "file:///a.png", "data:image/png;base64,iVBOR"],
)
def test_an_address_says_what_to_do(address: str, classifier: Classifier):
    for given in (address, [address], Path(address) if "//" in address else address):
        with pytest.raises(CallError, match="addresses are not fetched; download the file"):
            kerasimg.predict(classifier, given)
    with pytest.raises(CallError, match="addresses are not fetched"):
        open_source(address)


def test_a_drive_is_no_address():
    (image,) = named_images(r"C:\images\a.png")
    assert image.name == r"C:\images\a.png"


@pytest.mark.parametrize("given", [None, 3, {"image": ONE}, [None], [object()], io.StringIO("text")])
def test_what_is_no_image_is_a_wrong_call(given: Any):
    with pytest.raises(CallError, match=r"expected a path, bytes|open it for reading bytes"):
        named_images(given)


def test_a_file_that_was_read_to_its_end_says_so():
    file = io.BytesIO()
    PIL.Image.fromarray(ONE).save(file, "PNG")
    (image,) = named_images(file)
    with pytest.raises(BadImage, match=r"file\.seek\(0\)"):
        image.read()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16"])
def test_a_pil_image_becomes_what_its_file_becomes(mode: str):
    clear = PIL.Image.fromarray(ONE).convert("RGBA")
    clear.putalpha(PIL.Image.fromarray(ONE[..., 0]))
    image = clear.convert(mode) if mode in ("RGBA", "LA") else PIL.Image.fromarray(ONE)
    image = PIL.Image.fromarray(ONE[..., 0].astype("uint16") * 257) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")
    (named,) = named_images(image)
    assert np.array_equal(decode(named.read(), IMAGE), decode(file.getvalue(), IMAGE))


def test_a_pil_image_is_turned_upright_and_laid_on_the_background():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    PIL.Image.fromarray(ONE).save(file, "PNG", exif=exif)
    (named,) = named_images(PIL.Image.open(io.BytesIO(file.getvalue())))
    assert np.array_equal(decode(named.read(), IMAGE), np.rot90(ONE, -1))
    (named,) = named_images(PIL.Image.new("RGBA", (4, 4), (0, 0, 0, 0)))
    assert (decode(named.read(), Image(size=[4, 4], background=[9, 8, 7])) == [9, 8, 7]).all()


def test_a_dark_image_of_uint8_is_taken_among_others():
    dark = np.ones((4, 4, 3), np.uint8)
    assert all(isinstance(image.image, np.ndarray) for image in named_images([dark, ONE]))
    assert all(isinstance(image.image, BadImage) for image in named_images([dark, dark]))
    assert isinstance(named_images([dark / 1.0, ONE])[0].image, BadImage)
    assert isinstance(named_images(np.zeros((4, 4, 3)))[0].image, np.ndarray)


def test_an_image_of_a_wrong_range_does_not_hide_the_others(classifier: Classifier):
    with pytest.raises(DataError) as caught:
        kerasimg.predict(classifier, [ONE, ONE / 255, ONE])
    assert [fault.file for fault in caught.value.faults] == ["", "[1]"]
    assert [one.file for one in caught.value.predictions] == ["[0]", "[2]"]  # type: ignore[attr-defined]
    assert len(kerasimg.predict(classifier, [ONE, ONE / 255, ONE], on_bad_image="skip")) == 2


def test_keras_data_sets_are_train_and_test():
    x, y = np.stack([ONE] * 4), np.array([0, 1, 0, 1])
    source = open_source(((x, y), (x[:2], y[:2])))
    assert [item.part for item in source.items] == ["train"] * 4 + ["test"] * 2
    assert source.items[4].id == "test[0]"
    source = open_source(((x, y), (x[:2], y[:2]), (x[:2], y[:2])))
    assert [item.part for item in source.items][3:7] == ["train", "validation", "validation", "test"]
    source = open_source({"train": (x, y), "val": (x[:2], y[:2])})
    assert [item.part for item in source.items][3:] == ["train", "validation", "validation"]


def test_two_images_with_two_labels_are_no_parts():
    for images in ([ONE, ONE], (ONE, ONE), [ONE[..., 0], ONE[..., 0]], np.stack([ONE, ONE])):
        source = open_source((images, [0, 1]))
        assert [item.part for item in source.items] == [None, None]
        source = open_source((images, [[1, 0], [0, 1]]), "multilabel")
        assert len(source) == 2


def test_lists_of_paths_with_labels_are_data(tmp_path: Path):
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encoded())
    for given in (paths, list(map(str, paths)), np.array(list(map(str, paths))), [PIL.Image.fromarray(ONE)] * 4):
        source = open_source((given, ["cat", "dog", "cat", "dog"]))
        assert (len(source), source.classes) == (4, ("cat", "dog"))
        assert np.array_equal(decode(source.items[3].image, IMAGE), ONE)
    source = open_source(((paths, [0, 1, 0, 1]), (paths[:2], [0, 1])))
    assert [item.part for item in source.items][3:5] == ["train", "test"]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("as_dict", [False, True])
def test_a_tf_data_set_is_read_into_memory(batched: bool, as_dict: bool):
    tf = pytest.importorskip("tensorflow")
    x, y = np.stack([ONE, ONE // 2, ONE, ONE // 2]).astype("float32"), np.array([0, 1, 0, 1])
    dataset = tf.data.Dataset.from_tensor_slices({"image": x, "label": y} if as_dict else (x, y))
    source = open_source(dataset.batch(3) if batched else dataset)
    assert (source.classes, source.label_ids().tolist()) == (("0", "1"), [0, 1, 0, 1])
    assert np.array_equal(source.items[1].image, ONE // 2)
    source = open_source({"train": dataset.batch(3), "validation": (x, y)})
    assert [item.part for item in source.items] == ["train"] * 4 + ["validation"] * 4


def test_a_tf_data_set_that_cannot_be_taken_says_why():
    tf = pytest.importorskip("tensorflow")
    x, y = np.stack([ONE] * 4), np.array([0, 1, 0, 1])
    whole = tf.data.Dataset.from_tensor_slices((x, y))
    for dataset, reason in (
        (whole.repeat(), r"remove \.repeat\(\)"),
        (whole.map(lambda image, label: (image / 255, label)), "multiply by 255"),
        (whole.map(lambda image, label: (tf.cast(image, tf.float32) - 128, label)), "got -128"),
        (whole.map(lambda image, label: image), "expected a tf.data.Dataset of"),
        ((whole, whole), "say which"),
    ):
        with pytest.raises(KerasimgError, match=reason):
            open_source(dataset)


def test_names_of_classes_of_a_tf_data_set_are_kept(tmp_path: Path, images: Any):
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    images(tmp_path, {"red": 3, "blue": 3})
    dataset = keras.utils.image_dataset_from_directory(tmp_path, image_size=(8, 8), batch_size=2, verbose=False)
    source = open_source(dataset)
    assert source.classes == ("blue", "red")
    for item in source.items:
        assert item.image[..., 0].mean() > 100 or item.labels == ("blue",)
