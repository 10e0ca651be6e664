import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerasimg
from kerasimg.models.classifier import Classifier

QUIET: dict[str, Any] = {"verbose": 0, "report": False}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Path:
    folder: Path = images(tmp_path_factory.mktemp("pack") / "colours", {"red": 12, "blue": 12})
    return folder


@pytest.fixture(scope="module")
def run(colours: Path, tiny: Any) -> Any:
    return kerasimg.train(tiny(), data=colours, out=colours.parent / "runs", **QUIET)


@pytest.fixture(scope="module")
def packed(run: Any, colours: Path) -> Path:
    return kerasimg.pack(run, colours.parent / "tiny.kerasimg")


def copy_with_change(
    packed: Path, into: Path, change: Callable[[str, bytes], bytes | None], stored: bool = True
) -> Path:
    """Copies a pack with changed members; None removes a member."""
    compression = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(into, "w", compression) as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return into


def with_manifest(packed: Path, into: Path, **facts: Any) -> Path:
    def change(name: str, content: bytes) -> bytes:
        return json.dumps(json.loads(content) | facts).encode() if name == "pack.json" else content

    return copy_with_change(packed, into, change)


def test_pack_predicts_like_its_run(run: Any, packed: Path, colours: Path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype("float32")
    original, unpacked = Classifier.open(run), Classifier.open(packed)
    assert np.array_equal(original.probabilities(images), unpacked.probabilities(images))
    assert (unpacked.classes, unpacked.spec.resolved["model"]) == (original.classes, original.spec.resolved["model"])
    files = [colours / "red" / "00.png"]
    assert kerasimg.predict(packed, files) == kerasimg.predict(run, files)
    assert kerasimg.evaluate(packed, data=colours)["accuracy"] == 1.0


def test_packing_is_deterministic(run: Any, packed: Path, tmp_path: Path):
    again = kerasimg.pack(run, tmp_path / "again.kerasimg")
    assert again.read_bytes() == packed.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.kerasimg"]


def test_pack_contains_only_text_and_numbers_and_the_scores(packed: Path):
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("pack.json"))
    assert names == ["pack.json", "spec.json", "vectors.json", "weights.safetensors"]
    assert (manifest["classes"], manifest["figures"]["accuracy"]) == (["blue", "red"], 1.0)


def test_unpacked_folder_opens_in_keras_and_run(run: Any, packed: Path, tmp_path: Path):
    opened = kerasimg.unpack(packed, tmp_path / "unpacked")
    assert sorted(path.name for path in opened.folder.iterdir()) == ["classes.json", "model.keras", "spec.json"]
    for actual, expected in zip(opened.model.weights, run.model.weights, strict=True):
        assert np.array_equal(actual.numpy(), expected.numpy())
    with pytest.raises(kerasimg.CallError, match="already exists"):
        kerasimg.unpack(packed, tmp_path / "unpacked")


def test_training_starts_from_the_weights_of_a_pack_with_a_new_head_for_other_classes(
    packed: Path, colours: Path, tmp_path: Path, images: Any
):
    assert np.array_equal(kerasimg.build(packed).weights[0], Classifier.open(packed).model.weights[0])
    still = {"fit.stages": [{"epochs": 1, "learning_rate": 1e-12}]}
    same = kerasimg.train(packed, data=colours, out=tmp_path, overrides=still, **QUIET)
    assert np.allclose(same.model.weights[0], Classifier.open(packed).model.weights[0], atol=1e-6)
    three = images(tmp_path / "three", {"red": 8, "blue": 8, "green": 8})
    assert kerasimg.train(packed, data=three, out=tmp_path, **QUIET).model.output_shape == (None, 3)


def test_pack_includes_temperature_and_thresholds(run: Any, tmp_path: Path):
    folder = tmp_path / "warm"
    shutil.copytree(run.folder, folder)
    kerasimg.calibrate(folder)
    sent = Classifier.open(kerasimg.pack(folder, tmp_path / "warm.kerasimg"))
    assert sent.temperature == Classifier.open(folder).temperature != 1.0


@pytest.mark.parametrize("member", ["spec.json", "weights.safetensors"])
def test_changed_or_missing_member_is_refused(packed: Path, tmp_path: Path, member: str):
    damaged = copy_with_change(
        packed, tmp_path / "a.kerasimg", lambda name, body: body[:-1] + b" " if name == member else body
    )
    with pytest.raises(kerasimg.CallError, match="its SHA-256 differs"):
        Classifier.open(damaged)
    lacking = copy_with_change(packed, tmp_path / "b.kerasimg", lambda name, body: None if name == member else body)
    with pytest.raises(kerasimg.CallError, match=member):
        Classifier.open(lacking)


def test_member_path_outside_the_folder_is_refused(packed: Path, tmp_path: Path):
    beside = json.dumps({"../evil.json": {"kerasimg": 1}}).encode()
    with zipfile.ZipFile(packed) as old:
        files = json.loads(old.read("pack.json"))["files"] | {"beside.json": hashlib.sha256(beside).hexdigest()}
    bad = with_manifest(packed, tmp_path / "bad.kerasimg", files=files)
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr("beside.json", beside)
    with pytest.raises(kerasimg.CallError, match=r"beside\.json: .*is outside of its folder"):
        kerasimg.load(bad)
    strange = with_manifest(packed, tmp_path / "strange.kerasimg", files=files | {"model.pkl": "0" * 64})
    with pytest.raises(kerasimg.CallError, match="no member of a pack"):
        kerasimg.load(strange)


def test_compressed_weights_are_refused(packed: Path, tmp_path: Path):
    squeezed = copy_with_change(packed, tmp_path / "s.kerasimg", lambda name, body: body, stored=False)
    with pytest.raises(kerasimg.CallError, match="is compressed"):
        Classifier.open(squeezed)


def test_weights_of_another_model_are_refused(packed: Path, tmp_path: Path):
    def change(name: str, content: bytes) -> bytes:
        return (
            content.replace(b'"units": "=num_classes"', b'"units": "=num_classes + 1"')
            if name == "spec.json"
            else content
        )

    other = copy_with_change(packed, tmp_path / "draft.kerasimg", change)
    with zipfile.ZipFile(other) as archive:
        manifest = json.loads(archive.read("pack.json"))
        manifest["files"]["spec.json"] = hashlib.sha256(archive.read("spec.json")).hexdigest()
    other = with_manifest(other, tmp_path / "other.kerasimg", files=manifest["files"])
    with pytest.raises(kerasimg.WeightsError, match="expected an array of shape"):
        Classifier.open(other)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"PK\x05\x06" + bytes(18)])
def test_error_names_a_file_that_is_not_a_pack(content: bytes, tmp_path: Path):
    path = tmp_path / "x.kerasimg"
    path.write_bytes(content)
    with pytest.raises(kerasimg.CallError, match="not a valid kerasimg pack"):
        Classifier.open(path)
    with pytest.raises(kerasimg.CallError, match=r"x\.kerasimg"):
        kerasimg.load(path)


def test_pack_refuses_invalid_paths(run: Any, tmp_path: Path):
    with pytest.raises(kerasimg.CallError, match=r"ends in \.kerasimg"):
        kerasimg.pack(run, tmp_path / "x.zip")
    with pytest.raises(kerasimg.CallError, match="no folder"):
        kerasimg.pack(run, tmp_path / "none" / "x.kerasimg")
    with pytest.raises(kerasimg.CallError):
        kerasimg.pack(tmp_path)


def test_export_of_a_pack_is_compared_on_its_test_vectors(packed: Path, tmp_path: Path):
    (bundle,) = kerasimg.export(packed, "litert", out=tmp_path)
    (row,) = bundle.manifest.parity
    assert (row.passed, row.images, row.same_decision) == (True, 5, 1.0)


def with_vectors(packed: Path, into: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    with zipfile.ZipFile(packed) as old:
        vectors = json.loads(old.read("vectors.json"))
        facts = json.loads(old.read("pack.json"))
    change(vectors)
    content = json.dumps(vectors).encode()
    facts["files"]["vectors.json"] = hashlib.sha256(content).hexdigest()
    members = {"pack.json": json.dumps(facts).encode(), "vectors.json": content}
    return copy_with_change(packed, into, lambda name, body: members.get(name, body))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda vectors: vectors.update(images=["%"] * 5), kerasimg.CallError),
        (lambda vectors: vectors.update(images=vectors["images"] * 100), kerasimg.CallError),
        (lambda vectors: vectors.update(probabilities=[[1e300] * 2] * 5), kerasimg.CallError),
        (lambda vectors: vectors.update(probabilities="x"), kerasimg.CallError),
        (lambda vectors: vectors.pop("images"), kerasimg.CallError),
        (
            lambda vectors: vectors.update(probabilities=[row[::-1] for row in vectors["probabilities"]]),
            kerasimg.GateError,
        ),
        (
            lambda vectors: vectors.update(probabilities=[row * 2 for row in vectors["probabilities"]]),
            kerasimg.GateError,
        ),
    ],
)
def test_invalid_test_vectors_are_refused(packed: Path, tmp_path: Path, change: Any, error: type[Exception]):
    invalid = with_vectors(packed, tmp_path / "a.kerasimg", change)
    with pytest.raises(error, match=r"vectors\.json"):
        kerasimg.export(invalid, "litert", out=tmp_path)
