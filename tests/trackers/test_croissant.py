"""The card of a run's data, read by the library of MLCommons (`tox -e trackers`)."""

from pathlib import Path
from typing import Any

import pytest

import kerasimg
from kerasimg.deploy.croissant import data_card


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlcroissant", "ignore:ConjunctiveGraph:DeprecationWarning")
def test_mlcroissant_finds_no_fault_and_reads_every_image(tiny: Any, images: Any, tmp_path: Path):
    mlcroissant = pytest.importorskip("mlcroissant")
    data = images(tmp_path / "colours", {"red": 10, "green": 10})
    run = kerasimg.train(tiny(), data=data, out=tmp_path / "runs", report=False, verbose=0)
    card = mlcroissant.Dataset(jsonld=data_card(run, "https://example.org/tiny"))
    issues = card.metadata.issues
    assert not issues.errors
    # Whose images they are, and under which licence, is not in a run.
    assert sorted(warning.split('"')[1].rpartition("/")[2] for warning in map(str, issues.warnings)) == [
        "citeAs",
        "license",
    ]
    rows = list(card.records("images"))
    assert len(rows) == 20
    assert {str(row["images/labels"]) for row in rows} == {"red", "green"}
