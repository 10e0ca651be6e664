"""Images of 4 to 16 channels, from files to predictions and exports."""

import io
import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

import kerasimg
from kerasimg.data.bands import read_bands
from kerasimg.data.decode import decode
from kerasimg.data.fast_decode import decode_fast
from kerasimg.data.image_files import BadImage
from kerasimg.data.loading import Loader
from kerasimg.data.readable import scan
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError, DataError, SpecError
from kerasimg.spec.document import Image

VALUES = np.random.default_rng(0).integers(0, 10_001, (20, 18, 5)).astype(np.uint16)
TIFF = {"photometric": "minisblack"}


def tiff(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **TIFF | options)
    return file.getvalue()


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def declare(content: bytes, shape: tuple[int, ...]) -> bytes:
    """A .npy file whose header declares another shape."""
    start, end = content.index(b"'shape': "), content.index(b"\n")
    return content[:start] + f"'shape': {shape}, }}".encode().ljust(end - start) + content[end:]


def test_bands_are_read_in_their_order_and_scaled_by_the_range(tmp_path: Path):
    expected = np.rint(VALUES / 10_000 * 255).astype(np.uint8)
    planes = np.moveaxis(VALUES, -1, 0)
    (tmp_path / "a.tif").write_bytes(tiff(VALUES, planarconfig="contig"))
    for img in (
        str(tmp_path / "a.tif"),
        tiff(VALUES, planarconfig="contig"),
        tiff(planes, planarconfig="separate"),
        tiff(planes),  # a page each
        tiff(VALUES.astype(np.float32), planarconfig="contig", compression="zlib"),
        npy(VALUES),
        npy(VALUES.astype(np.float64)),
        VALUES,
    ):
        assert np.array_equal(read_bands(img, 5, [0, 10_000]), expected)
    assert np.array_equal(read_bands(npy(expected), 5, None), expected)
    clipped = read_bands(VALUES, 5, [2_000, 4_000])
    assert (clipped[VALUES <= 2_000] == 0).all()
    assert (clipped[VALUES >= 4_000] == 255).all()


@pytest.mark.parametrize(
    ("img", "limits", "reason"),
    [
        (VALUES, None, r'holds uint16 from \d+ to \d+; .* "range": \[0, 10000\] \(image\.range\)'),
        (VALUES[..., :4], [0, 1], "has the shape 20 x 18 x 4; expected height x width x 5"),
        (np.where(VALUES > 5, np.nan, VALUES), [0, 1], "holds NaN or infinity"),
        (b"", None, "is empty"),
        (b"\xff\xd8\xff", None, "is neither a TIFF nor a .npy file"),
        (tiff(VALUES, planarconfig="contig")[:300], [0, 1], "cannot be read"),
        (npy(VALUES)[:300], [0, 1], r"is truncated: its header declares the shape \(20, 18, 5\) of uint16"),
        (declare(npy(VALUES), (20, 18, 50)), [0, 1], r"is truncated: .* \(20, 18, 50\)"),
        (declare(npy(VALUES), (10**6, 10**6, 5)), [0, 1], "has 5,000,000 million values; the limit is"),
        (declare(npy(VALUES), (-20, 18, 5)), [0, 1], "is truncated"),
        (npy(np.array([{}])), [0, 1], "holds Python objects, which are never loaded"),
        (npy(VALUES).replace(b"NUMPY\x01", b"NUMPY\x07"), [0, 1], "has version 7.0 of the format"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason(img: object, limits: list[float] | None, reason: str):
    with pytest.raises(BadImage, match=reason):
        read_bands(img, 5, limits)


@pytest.mark.parametrize("policy", ["stretch", "crop", "pad"])
def test_each_band_is_resized_as_a_grey_image(policy: str):
    image = Image(size=[7, 9], channels=5, range=[0, 10_000], resize=policy, background=[0, 0, 0])
    pixels = decode(VALUES, image)
    assert pixels.shape == (7, 9, 5)
    assert np.array_equal(decode_fast(npy(VALUES), image), pixels)
    for band in range(5):
        grey = read_bands(VALUES, 5, [0, 10_000])[..., band]
        alone = decode(grey, Image(size=[7, 9], channels=1, resize=policy, background=[0, 0, 0]))
        assert np.array_equal(pixels[..., band], alone[..., 0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"channels": 2}, "image.channels"),
        ({"channels": 3, "range": [0, 1]}, "range is for images of 4 to 16 channels"),
        ({"channels": 4, "range": [5, 5]}, "expected [low, high] with low < high"),
        ({"channels": 4, "scale": "imagenet"}, 'scale "imagenet" is for 3 channels'),
        ({"channels": 4, "scale": {"mean": [1, 2, 3]}}, "scale.mean has 3 values, and the image 4 channels"),
    ],
)
def test_a_section_that_does_not_fit_together_is_refused(tmp_path: Path, image: dict, message: str):
    with pytest.raises(SpecError, match=re.escape(message)):
        kerasimg.load(spec(tmp_path, image))


def test_an_augmentation_of_colours_is_refused(tmp_path: Path):
    with pytest.raises(SpecError, match=r"RandomHue changes colours and needs 3 channels; image\.channels is 4"):
        kerasimg.load(spec(tmp_path, {"channels": 4}, augment=[{"layer": "RandomHue", "factor": 0.1}]))


def spec(folder: Path, image: dict, **sections: object) -> Path:
    path = folder / "bands.json"
    model = [
        {"layer": "Conv2D", "filters": 4, "kernel_size": 3, "activation": "relu"},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "units": "=head_units", "activation": "=head_activation"},
    ]
    content = {"kerasimg": 1, "name": "bands", "params": {"num_classes": 2}, "image": image, "model": model}
    path.write_text(json.dumps(content | sections))
    return path


@pytest.mark.parametrize(
    ("channels", "expected", "message"),
    [
        (5, 5, None),
        (4, 4, None),
        (4, 3, "an array does not say what the fourth is"),
        (5, 3, "set image.channels to 5"),
        (3, 5, r"expected 5 channels \(image.channels\) at the end of the shape"),
        (17, 3, "expected 1 or 3 channels"),
    ],
)
@pytest.mark.parametrize("kind", ["arrays", "npz", "list"])
def test_arrays_of_bands_are_read_where_the_spec_has_as_many_channels(
    channels: int, expected: int, message: str | None, kind: str, tmp_path: Path
):
    bands = np.random.default_rng(0).integers(0, 256, (4, 6, 5, channels), np.uint8)
    labels = np.array([0, 1, 0, 1])
    data: object = (list(bands) if kind == "list" else bands, labels)
    if kind == "npz":
        data = str(tmp_path / "bands.npz")
        np.savez(data, x=bands, y=labels)
    image = Image(size=[6, 5], channels=expected)
    if message is None:
        source = open_source(data)
        assert np.array_equal(Loader(source, np.arange(4), image, None).load(np.arange(4)), bands)
        assert scan(source, image) == []
    else:
        for read in (lambda source: Loader(source, np.arange(4), image, None), lambda source: scan(source, image)):
            with pytest.raises(DataError, match=message):
                read(open_source(data))


def test_four_bands_train_evaluate_predict_and_are_exported(tmp_path: Path):
    draws = np.random.default_rng(1)
    arrays = []
    for number in range(40):
        values = draws.integers(0, 3000, (20, 18, 4)).astype(np.uint16)
        arrays.append(values)
        values[..., 3] += 5000 * (number % 2)  # only the fourth band differs
        path = tmp_path / "data" / ("dry", "wet")[number % 2] / f"{number:02}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff(values, photometric="rgb", extrasamples=["unspecified"]))
    scale = {"mean": [40, 40, 40, 100], "std": [30, 30, 30, 60]}
    path = spec(
        tmp_path,
        {"size": [12, 12], "channels": 4, "range": [0, 10_000], "scale": scale},
        augment=[{"layer": "RandomFlip", "mode": "horizontal"}],
        fit={"batch_size": 8, "stages": [{"epochs": 6}]},
    )
    run = kerasimg.train(path, data=tmp_path / "data", out=tmp_path / "run", lr=0.05, verbose=0)
    assert kerasimg.evaluate(run, verbose=0).figures["accuracy"] == 1
    predictions = kerasimg.predict(run, [tmp_path / "data" / "dry" / "00.tif", tmp_path / "data" / "wet" / "01.tif"])
    assert [prediction.label for prediction in predictions] == ["dry", "wet"]
    in_memory = (np.stack(arrays), np.array(["dry", "wet"] * 20))
    assert kerasimg.evaluate(run, data=in_memory, verbose=0).figures["accuracy"] == 1
    for given in (arrays[1], arrays[1:2], np.stack(arrays[1:2])):  # one image, a list, a batch
        assert [each.probabilities for each in kerasimg.predict(run, given)] == [predictions[1].probabilities]
    for target, data in (("litert", None), ("onnx", in_memory)):
        (bundle,) = kerasimg.export(run, target, out=tmp_path / target, data=data)
        assert all(vector.passed for vector in kerasimg.verify(bundle).vectors)
    assert len(list((tmp_path / "onnx").rglob("vectors/[0-4].npy"))) == 5
    pack = kerasimg.pack(run, tmp_path / "bands.kerasimg")
    [prediction] = kerasimg.predict(pack, str(tmp_path / "data" / "wet" / "01.tif"))
    assert prediction.label == "wet"
    with pytest.raises(CallError, match="grey or RGB images, and these have 4 channels"):
        kerasimg.explain(run, str(tmp_path / "data" / "wet" / "01.tif"))
    PIL.Image.new("RGB", (20, 18)).save(tmp_path / "rgb.tif")
    with pytest.raises(DataError, match=r"rgb\.tif.*has the shape 18 x 20 x 3; expected height x width x 4"):
        kerasimg.predict(run, str(tmp_path / "rgb.tif"))
