"""The ladder of `shrink`: precisions first, then pruned and distilled models, each measured in its runtime."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.targets import target
from kerasimg.errors import CallError, GateError, Interrupted


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Run:
    """The run in a folder of its own, beside which pruned runs are written."""
    return Run(shutil.copytree(run, tmp_path / "runs" / "tiny-1", ignore=shutil.ignore_patterns("export")))


def test_the_smallest_precision_within_the_limits_is_written(copied: Run, listen: Callable[..., None]):
    messages: list[str] = []
    listen(messages.append)
    shrunk = copied.shrink(to_kb=3.5, to="onnx", verbose=1)
    assert messages[:5] == [
        "exporting tiny-1 (as trained, 100%), and comparing it on 9 test images",
        *(f"onnx: writing {precision}" for precision in ("float32", "float16", "int8", "int4")),
    ]
    assert [(row.precision, row.share) for row in shrunk.rungs] == [
        ("float32", 1),
        ("float16", 1),
        ("int8", 1),
        ("int4", 1),
    ]
    held = [row for row in shrunk.rungs if row.holds]
    assert held == [row for row in shrunk.rungs if row.bytes <= 3500]
    assert shrunk.chosen == min(held, key=lambda row: row.bytes)
    bundle = Bundle.open(copied.folder / "export" / "onnx")
    assert [model.precision for model in bundle.models] == [shrunk.chosen.precision]
    assert bundle.model_bytes(bundle.models[0]) == shrunk.chosen.bytes


def test_a_model_that_cannot_be_made_smaller_fails_with_the_table(copied: Run, listen: Any):
    said: list[str] = []
    listen(said.append)
    with pytest.raises(
        GateError, match=r"no model within 0.1 kB loses at most 0.01 of the accuracy:\nmodel .*\ntiny-1"
    ) as caught:
        copied.shrink(to_kb=0.1, to="keras", verbose=0)  # its 8 channels are the smallest multiple
    assert re.search(r"^tiny-1 in float32 loses no more: --to-kb \d+$", str(caught.value), re.MULTILINE)
    assert all(line.startswith("warning: ") for line in said)  # nor does what it calls say anything


def test_an_interruption_says_what_is_left(copied: Run, monkeypatch: pytest.MonkeyPatch):
    def press(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kerasimg.deploy.shrink.export", press)
    with pytest.raises(Interrupted, match="interrupted; smaller models that were trained are runs in "):
        copied.shrink(to_kb=3.5, to="onnx", verbose=0)


def test_a_pruned_model_is_a_run_that_keeps_the_split(tiny: Any, images: Any, tmp_path: Path):
    data = images(tmp_path / "colours", {"red": 20, "green": 20, "blue": 20})
    model = [
        {"layer": "Conv2D", "filters": 64, "kernel_size": 3, "activation": "relu"},
        {"layer": "Conv2D", "filters": 64, "kernel_size": 3},
        {"layer": "BatchNormalization", "momentum": 0.999},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
    ]
    spec = tiny(model=model, compile={"optimizer": {"type": "Adam", "learning_rate": 0.01}})
    run = kerasimg.train(spec, data=data, out=tmp_path / "runs", report=False, verbose=0)
    size = (run.folder / "model.keras").stat().st_size
    shrunk = kerasimg.shrink(run, to_kb=0.75 * size / 1000, to="keras", max_drop=1.0, epochs=1, verbose=0)
    assert [(row.method, row.share) for row in shrunk.rungs] == [("as trained", 1.0), ("pruned", 0.75)]
    pruned = Run(shrunk.bundle.folder.parent.parent)
    assert pruned.folder.name == shrunk.chosen.model
    assert [node["filters"] for node in pruned.spec.document["model"] if "filters" in node] == [48, 48]
    assert pruned.spec.fit.teacher is not None
    assert [node["momentum"] for node in pruned.spec.document["model"] if "momentum" in node] == [0.9]
    parts = [{image["id"]: image["part"] for image in each._files.data()["images"]} for each in (run, pruned)]
    assert parts[0] == parts[1]


def rungs_of(copied: Run, **limits: Any) -> list[tuple[str, float]]:
    """The methods and shares of the rungs of a ladder on which none holds."""
    with pytest.raises(GateError) as error:
        copied.shrink(epochs=1, verbose=0, **limits)
    lines = [line for line in str(error.value).splitlines()[2:] if line[48:50].endswith("%")]  # without the advice
    return [(line[24:44].strip(), float(line[44:50].strip(" %")) / 100) for line in lines]


def test_a_model_whose_integers_do_not_hold_is_trained_with_their_rounding(
    copied: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(type(target("onnx")), "precisions", ("float32", "int8"))
    rungs = rungs_of(copied, to_ms=1e-6, to="onnx")
    assert rungs == [("as trained", 1.0)] * 2 + [("quantization-aware", 1.0)] * 2
    assert Run(copied.folder.parent / "tiny-rounded-1").spec.fit.quantization_aware


def test_a_model_that_cannot_be_pruned_gets_smaller_variants_of_its_spec(tiny: Any, images: Any, tmp_path: Path):
    data = images(tmp_path / "colours", {"red": 20, "green": 20})
    model = [
        {"layer": "Conv2D", "filters": "=width", "kernel_size": 3, "activation": "relu"},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
    ]
    spec = tiny(model=model, params={"num_classes": None, "width": 8})
    run = kerasimg.train(spec, data=data, out=tmp_path / "runs", report=False, verbose=0)
    size = (run.folder / "model.keras").stat().st_size
    shrunk = run.shrink(to_kb=0.99 * size / 1000, to="keras", max_drop=1.0, epochs=1, verbose=0)
    assert [(row.method, row.share) for row in shrunk.rungs] == [("as trained", 1.0), ("variant", 0.5)]
    variant = Run(tmp_path / "runs" / shrunk.chosen.model)
    assert variant.spec.resolved["params"]["width"] == 4
    assert variant.spec.fit.teacher is not None


def test_shrink_needs_a_limit(copied: Run):
    with pytest.raises(CallError, match="needs a limit"):
        kerasimg.shrink(copied, verbose=0)
