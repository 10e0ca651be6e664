"""Malicious packs and model files with valid hashes: each is refused by one error that names the member."""

import json
import resource
import runpy
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.boundary import LIMITS
from kerasimg.errors import CallError, KerasimgError, WeightsError
from kerasimg.models.classifier import Classifier

FUZZ = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "fuzz_packs.py")))
MOST_MB = 100
ZEROS = b"0" * 300_000_000


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    made: dict[str, bytes] = FUZZ.members_of()
    return made


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(content: bytes, change: Callable[[dict[str, Any]], None], length: int | None = None) -> bytes:
    header, data = header_of(content)
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def first(header: dict[str, Any], **facts: Any) -> None:
    header[min(name for name in header if name != "__metadata__")].update(facts)


def beside(name: str) -> dict[str, bytes]:
    return {"beside.json": json.dumps({name: {"kerasimg": 1, "model": []}}).encode()}


BESIDE = {
    "no JSON": b"{",
    "not UTF-8": b'{"\xff\xfe": 1}',
    "nested 500,000 deep": b"[" * 500_000,
    "a list": b"[]",
    "NaN": b'{"a.json": NaN}',
    "a key twice": b'{"a.json": {}, "a.json": {}}',
    "half a character": b'{"\\ud800.json": {}}',
    "too many values": b"[" + b"0," * 400_000 + b"0]",
}
NAMES = [
    "a\0.json",
    "a" * 300 + ".json",
    "../a.json",
    "/tmp/a.json",
    "a/../../b.json",
    "C:/a.json",
    "a\\b.json",
    "a.txt",
]
NAMES += ["", "spec.json", "\n.json", "a/" * 20 + "a.json", "\u202ea.json"]


def test_valid_pack_of_the_fuzzer_opens(members: dict[str, bytes], tmp_path: Path):
    assert Classifier.open(FUZZ.write_pack(tmp_path / "a.kerasimg", members)).classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("before", "after", "message"), [(b"#!/bin/sh\n", b"", "10 bytes are before"), (b"", b"<script>", "8 bytes follow")]
)
def test_bytes_around_the_archive_are_refused(members: Any, tmp_path: Path, before: bytes, after: bytes, message: str):
    pack = FUZZ.write_pack(tmp_path / "a.kerasimg", members)
    pack.write_bytes(before + pack.read_bytes() + after)
    with pytest.raises(CallError, match=message):
        kerasimg.load(pack)


@pytest.mark.parametrize("case", BESIDE)
def test_included_specs_that_are_not_json_are_refused(members: dict[str, bytes], tmp_path: Path, case: str):
    pack = FUZZ.write_pack(tmp_path / "a.kerasimg", members | {"beside.json": BESIDE[case]})
    with pytest.raises(CallError, match=r"a\.kerasimg' .*: beside\.json: "):
        kerasimg.load(pack)


@pytest.mark.parametrize("name", NAMES)
def test_included_specs_with_invalid_names_are_refused(members: dict[str, bytes], tmp_path: Path, name: str):
    pack = FUZZ.write_pack(tmp_path / "a.kerasimg", members | beside(name))
    with pytest.raises(CallError, match=r"beside\.json: '") as caught:
        kerasimg.load(pack)
    assert "\0" not in str(caught.value)


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "a length beyond the file": lambda content: struct.pack("<Q", 2**62) + content[8:],
    "a length of 0": lambda content: struct.pack("<Q", 0) + content[8:],
    "nothing": lambda content: b"",
    "a header that is a list": lambda content: struct.pack("<Q", 2) + b"[]",
    "a header nested deep": lambda content: struct.pack("<Q", 10_000) + b"[" * 10_000,
    "an unknown type": lambda content: with_header(content, lambda header: first(header, dtype="F8_E5M2")),
    "complex numbers": lambda content: with_header(content, lambda header: first(header, dtype="C64")),
    "a type that is a list": lambda content: with_header(content, lambda header: first(header, dtype=[])),
    "another shape": lambda content: with_header(content, lambda header: first(header, shape=[10**9])),
    "a negative shape": lambda content: with_header(content, lambda header: first(header, shape=[-3, -3, 3, 4])),
    "a shape of text": lambda content: with_header(content, lambda header: first(header, shape="3")),
    "offsets beyond": lambda content: with_header(content, lambda header: first(header, data_offsets=[0, 9**9])),
    "offsets that overlap": lambda content: with_header(content, lambda header: first(header, data_offsets=[4, 436])),
    "one offset": lambda content: with_header(content, lambda header: first(header, data_offsets=[0])),
    "bytes that nobody names": lambda content: content + b"0000",
    "missing bytes": lambda content: content[:-4],
    "NaN": lambda content: content[:-4] + struct.pack("<f", float("nan")),
    "infinity": lambda content: content[:-4] + struct.pack("<f", float("inf")),
}


@pytest.mark.parametrize("case", HEADERS)
def test_weights_with_an_invalid_header_are_refused(members: dict[str, bytes], tmp_path: Path, case: str):
    weights = HEADERS[case](members["weights.safetensors"])
    pack = FUZZ.write_pack(tmp_path / "a.kerasimg", members | {"weights.safetensors": weights})
    with pytest.raises(CallError, match=r"a\.kerasimg' .*: weights\.safetensors: "):
        Classifier.open(pack)


def test_weights_in_bfloat16_are_read(members: dict[str, bytes], tmp_path: Path):
    header, data = header_of(members["weights.safetensors"])
    values = np.frombuffer(data, "<f4")
    halves = (values.view("<u4") >> 16).astype("<u2")
    for about in header.values():
        if "dtype" in about:
            about.update(dtype="BF16", data_offsets=[place // 2 for place in about["data_offsets"]])
    text = json.dumps(header).encode()
    weights = struct.pack("<Q", len(text)) + text + halves.tobytes()
    model = Classifier.open(FUZZ.write_pack(tmp_path / "a.kerasimg", members | {"weights.safetensors": weights})).model
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    found = np.concatenate([keras.ops.convert_to_numpy(weight).ravel() for weight in model.weights])
    assert np.array_equal(found, expected)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "three classes of one name": ({"classes": ["a", "a", "a"]}, "classes: 'a' is listed twice"),
    "a class without a name": ({"classes": ["a", " ", "b"]}, "classes: a class has no name"),
    "names that look alike": ({"classes": ["e\u0301", "\u00e9", "b"]}, "classes: '\u00e9' is listed twice"),
    "two classes": ({"classes": ["a", "b"]}, "classes: .*2, one for each class; the last node gives 3"),
    "four classes": ({"classes": ["a", "b", "c", "d"]}, "classes: .*4, one for each class"),
    "another task": ({"task": "binary", "classes": ["a", "b"]}, "task: 'binary', and its spec has 'multiclass'"),
    "one threshold": ({"thresholds": [0.5]}, "thresholds: expected none for multiclass, found 1"),
    "an infinite temperature": ({"temperature": 1e300}, "temperature: "),
    "a temperature of nearly 0": ({"temperature": 1e-300}, "temperature: "),
    "a class that is a number": ({"classes": ["a", "b", 3]}, r"classes\.2: "),
    "no classes": ({"classes": []}, "classes: "),
    "another version": ({"kerasimg_pack": 2}, "kerasimg_pack: "),
    "one more key": ({"code": "x"}, "code: "),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_manifest_that_contradicts_its_model_is_refused(members: dict[str, bytes], tmp_path: Path, case: str):
    facts, message = CONTRADICTIONS[case]
    pack = FUZZ.write_pack(tmp_path / "a.kerasimg", members, FUZZ.manifest_of(members, **facts))
    with pytest.raises(CallError, match=rf"a\.kerasimg'.*pack\.json: {message}"):
        Classifier.open(pack)


@pytest.mark.parametrize("member", ["pack.json", "spec.json", "beside.json", "MODEL_CARD.md", "weights.safetensors"])
@pytest.mark.parametrize("lies", [False, True])
def test_zip_bomb_is_refused_without_unpacking(members: dict[str, bytes], tmp_path: Path, member: str, lies: bool):
    path = tmp_path / "a.kerasimg"
    manifest = json.dumps(FUZZ.manifest_of(members)).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"pack.json": manifest, **members}.items():
            kind = zipfile.ZIP_DEFLATED if name == member else zipfile.ZIP_STORED
            archive.writestr(name, ZEROS if name == member else content, kind)
    if lies:  # the central directory tells of 100 bytes
        data = path.read_bytes()
        path.write_bytes(data.replace(struct.pack("<L", len(ZEROS)), struct.pack("<L", 100)))
    before = peak_mb()
    with pytest.raises(CallError, match=f"{member} is compressed"):
        kerasimg.load(path)
    assert peak_mb() - before < MOST_MB


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_corrupt_streams_of_compressed_members_are_refused(members: dict[str, bytes], tmp_path: Path, kind: int):
    path = FUZZ.write_pack(tmp_path / "a.kerasimg", members, compression=kind)
    data = bytearray(path.read_bytes())
    data[60:200] = b"\xff" * 140
    path.write_bytes(data)
    with pytest.raises(CallError, match=r"a\.kerasimg' "):
        kerasimg.load(path)


def test_directory_with_a_million_members_is_not_read(tmp_path: Path):
    entry = b"PK\x01\x02" + bytes(42)
    directory = entry * 1_000_000
    end = b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 16_960, 16_960, len(directory), 0, 0)
    (tmp_path / "a.kerasimg").write_bytes(directory + end)
    before = peak_mb()
    with pytest.raises(CallError, match="its list of members is larger than 65,536 bytes"):
        kerasimg.load(tmp_path / "a.kerasimg")
    assert peak_mb() - before < 200  # the bytes themselves, written above


def test_refused_pack_leaves_no_folder(members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(CallError):
        kerasimg.load(FUZZ.write_pack(tmp_path / "a.kerasimg", members | beside("../x.json")))
    assert not list((tmp_path / "temporary").iterdir())


def test_fuzzer_finds_only_our_errors_in_a_sample():
    found = FUZZ.run(seconds=20, first=1_000, most=150)
    assert found["foreign"] == []
    assert sum(found["ends"].values()) == found["cases"] >= 20
    assert "unprintable message" not in found["ends"]


# HDF5 weights


DENSE = {"kerasimg": 1, "image": {"size": [4, 4]}, "model": [{"layer": "Flatten"}, {"layer": "Dense", "units": 3}]}


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    kerasimg.build(DENSE).save_weights(tmp_path / "net.weights.h5")
    return tmp_path / "net.weights.h5"


def replace_kernel(file: Path, **how: Any) -> None:
    with h5py.File(file, "r+") as opened:
        place = next(name for name in _datasets(opened) if opened[name].ndim == 2)
        del opened[place]
        opened.create_dataset(place, **how)


def _datasets(opened: Any) -> list[str]:
    found: list[str] = []
    opened.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


KERNELS: dict[str, tuple[dict[str, Any], str]] = {
    "compressed": (
        {"shape": (10**9,), "dtype": "f4", "chunks": (1000,), "compression": "gzip"},
        "compressed",
    ),
    "of nothing, in chunks": ({"shape": (3 * 10**8,), "dtype": "f4", "chunks": (1000,)}, "declares the shape"),
    "of nothing": ({"shape": (10**9,), "dtype": "f4"}, "declares the shape"),
    "one chunk that is huge": (
        {"shape": (48, 3), "dtype": "f4", "chunks": (10**5, 3000), "maxshape": (None, None)},
        "declares",
    ),
    "complex": ({"data": np.zeros((48, 3), "c8")}, "not real numbers"),
    "text": ({"data": [["a"] * 3] * 48, "dtype": h5py.string_dtype()}, "not real numbers"),
    "another shape": ({"data": np.zeros((3, 48), "f4")}, ""),
    "NaN": ({"data": np.full((48, 3), np.nan, "f4")}, "not all finite"),
    "elsewhere": ({"shape": (48, 3), "dtype": "f4", "external": [("/etc/passwd", 0, 576)]}, "another file"),
}


@pytest.mark.parametrize("case", KERNELS)
def test_hdf5_weights_with_wrong_shapes_are_refused_before_they_are_read(weights_file: Path, case: str):
    how, message = KERNELS[case]
    replace_kernel(weights_file, **how)
    before = peak_mb()
    with pytest.raises(WeightsError, match=rf"net\.weights\.h5' do not fit .*{message}"):
        kerasimg.build(DENSE, weights=str(weights_file))
    assert peak_mb() - before < MOST_MB


@pytest.mark.parametrize("link", [h5py.ExternalLink("/etc/x.h5", "/"), h5py.SoftLink("/layers")])
def test_hdf5_links_are_not_followed(weights_file: Path, link: Any):
    with h5py.File(weights_file, "r+") as opened:
        opened["more"] = link
    with pytest.raises(WeightsError, match=r"/more is a link"):
        kerasimg.build(DENSE, weights=str(weights_file))


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 2000])
def test_file_that_is_not_hdf5_is_one_error(weights_file: Path, content: bytes):
    weights_file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"net\.weights\.h5"):
        kerasimg.build(DENSE, weights=str(weights_file))


# .keras files


def keras_file(folder: Path, model: keras.Model, **members: bytes) -> Path:
    """A file as `train` writes it, by a stranger."""
    path = folder / "model.keras"
    model.save(path)
    content = {"kerasimg": 1, "classes": ["a", "b", "c"], "spec": DENSE, "beside": {}}
    with zipfile.ZipFile(path) as archive:
        every = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (every | {"kerasimg.json": json.dumps(content).encode()} | members).items():
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if len(data) > 10**8 else zipfile.ZIP_STORED)
    return path


def dense_model(*layers: Any) -> keras.Model:
    pixels = keras.Input((4, 4, 3))
    output = pixels
    for layer in (*layers, keras.layers.Flatten(), keras.layers.Dense(3)):
        output = layer(output)
    return keras.Model(pixels, output)


def test_keras_file_of_another_program_opens(tmp_path: Path):
    assert Classifier.open(keras_file(tmp_path, dense_model())).classes == ("a", "b", "c")


def test_error_names_a_lambda_in_a_keras_file(tmp_path: Path):
    file = keras_file(tmp_path, dense_model(keras.layers.Lambda(lambda pixels: pixels * 2)))
    with pytest.raises(CallError, match=r"model\.keras' cannot be loaded: it has a layer Lambda, which can run code"):
        Classifier.open(file)


def test_class_of_another_module_in_a_keras_file_is_refused(tmp_path: Path):
    file = keras_file(tmp_path, dense_model())
    with zipfile.ZipFile(file) as archive:
        config = archive.read("config.json").replace(b'"module": "keras.layers"', b'"module": "this_module_runs"')
    with pytest.raises(CallError, match=r"it names 'this_module_runs\.\w+', which this program has not registered"):
        Classifier.open(keras_file(tmp_path, dense_model(), **{"config.json": config}))


FACTS = {
    "no JSON": b"{",
    "nested": b"[" * 100_000,
    "a bomb": ZEROS,
    "not UTF-8": b"\xff",
    "a class twice": json.dumps({"classes": ["a", "a", "a"], "spec": DENSE, "beside": {}}).encode(),
    "classes of text": json.dumps({"classes": "abc", "spec": DENSE, "beside": {}}).encode(),
    "a name outside": json.dumps({"classes": ["a", "b", "c"], "spec": DENSE, "beside": {"../a.json": {}}}).encode(),
    "thresholds": json.dumps({"classes": ["a", "b", "c"], "spec": DENSE, "beside": {}, "thresholds": [0.5]}).encode(),
}


@pytest.mark.parametrize("case", FACTS)
def test_metadata_that_contradicts_the_model_of_a_keras_file_is_refused(tmp_path: Path, case: str):
    file = keras_file(tmp_path, dense_model(), **{"kerasimg.json": FACTS[case]})
    before = peak_mb()
    with pytest.raises(CallError, match=r"model\.keras'.*kerasimg\.json"):
        Classifier.open(file)
    assert peak_mb() - before < MOST_MB


def test_invalid_weights_in_a_keras_file_are_refused(tmp_path: Path):
    file = keras_file(tmp_path, dense_model())
    with zipfile.ZipFile(file) as archive:
        (tmp_path / "w.h5").write_bytes(archive.read("model.weights.h5"))
    replace_kernel(tmp_path / "w.h5", **KERNELS["compressed"][0])
    weights = (tmp_path / "w.h5").read_bytes()
    with pytest.raises(CallError, match=r"model\.keras' cannot be loaded: .* is compressed"):
        Classifier.open(keras_file(tmp_path, dense_model(), **{"model.weights.h5": weights}))


@pytest.mark.parametrize("cut", [10, 100, 1000])
def test_truncated_keras_file_is_one_error(tmp_path: Path, cut: int):
    file = keras_file(tmp_path, dense_model())
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(KerasimgError):
        Classifier.open(file)


def test_docs_list_the_limits_in_one_table():
    from kerasimg.boundary import table

    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    assert table() in page
    assert all(limit.kind in ("size", "count", "depth", "time") for limit in LIMITS.values())
