import numpy as np
import pytest

import kerasimg
from kerasimg.errors import CallError, DataError
from kerasimg.models.classifier import Classifier


def solid(*colour):
    return np.full((4, 4, 3), colour, np.uint8)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_features_are_what_the_last_layer_takes_and_are_read_back(make_run, tmp_path, ending):
    run = make_run("multiclass")
    images = [solid(255, 0, 51), solid(0, 102, 0)]
    path = tmp_path / f"features.{ending}"
    result = kerasimg.embed(run, images, out=path)
    assert result.features == pytest.approx(np.array([[1, 0, 0.2], [0, 0.4, 0]]), abs=1e-6)
    if ending == "npz":
        with np.load(path, allow_pickle=False) as stored:
            files, features = stored["files"].tolist(), stored["features"]
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path).to_pydict()
        files, features = table["file"], np.array(table["features"])
    assert files == result.files == ["[0]", "[1]"]
    assert np.array_equal(features.astype(np.float32), result.features)


def test_the_most_similar_training_images_are_those_of_the_closest_direction(make_run, lists):
    run = make_run("multiclass")
    folder = lists("multiclass").parent
    query = solid(250, 60, 60)
    rows = kerasimg.similar(run, query, 4)
    files = sorted(folder.glob("train-*.png"))
    features = kerasimg.embed(run, files).features
    centred, own = features - features.mean(axis=0), query[0, 0] / 255 - features.mean(axis=0)
    cosines = centred @ own / np.linalg.norm(centred, axis=1) / np.linalg.norm(own)
    best = np.argsort(-cosines)[:4]
    assert [row.file for row in rows] == [files[k].name for k in best]
    assert [row.similarity for row in rows] == pytest.approx(cosines[best], abs=1e-5)
    assert {row.label for row in rows} <= {"red", "green", "blue"}
    trained = kerasimg.similar(run, folder / rows[0].file, 1, data=str(lists("multiclass")))
    assert (trained[0].file, trained[0].similarity) == (rows[0].file, pytest.approx(1))


def test_wrong_calls_are_named(make_run, tmp_path):
    run = make_run("multiclass")
    with pytest.raises(CallError, match=r"out: expected a file that ends in \.npz or \.parquet"):
        kerasimg.embed(run, solid(0, 0, 0), out=tmp_path / "a.csv")
    with pytest.raises(CallError, match="expected one image, got 2"):
        kerasimg.similar(run, [solid(0, 0, 0), solid(9, 9, 9)])
    with pytest.raises(CallError, match="count: expected 1 or more, got 0"):
        kerasimg.similar(run, solid(0, 0, 0), 0)
    (tmp_path / "broken.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"broken\.png"):
        kerasimg.embed(Classifier.open(run), tmp_path / "broken.png", on_bad_image="skip")
    images = [str(tmp_path / "broken.png"), solid(255, 0, 51)]
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read"):
        kerasimg.embed(run, images)
    assert kerasimg.embed(run, images, on_bad_image="skip").files == ["[1]"]
