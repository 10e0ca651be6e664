from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.catalog import load
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError, KerasimgError
from kerasimg.run_folder import RunFolder
from kerasimg.training import auto_settings, engine

Train = Callable[..., Run]


def machine(
    fits: int, fixed_s: float = 0.01, image_s: Callable[[int], float] = lambda size: 0.001
) -> auto_settings.Measure:
    """Returns the measure of a machine with memory for `fits` images, and a fixed time per step and image."""

    def step_s(size: int) -> float:
        if size > fits:
            raise MemoryError
        return fixed_s + size * image_s(size)

    return step_s


def test_the_largest_batch_that_fits_and_is_not_slower_is_chosen():
    size, times, why = auto_settings.largest(machine(fits=100), [16, 32, 64, 128])
    assert (size, sorted(times), why) == (64, [16, 32, 64], "128 images do not fit in memory")


def test_a_batch_in_which_an_image_takes_longer_is_too_large():
    slow = machine(fits=1000, image_s=lambda size: 0.001 if size < 64 else 0.002)
    size, _, why = auto_settings.largest(slow, [16, 32, 64, 128])
    assert size == 32
    assert why.startswith("with 64 an image takes 1.")


def test_if_the_first_size_does_not_fit_its_halves_are_tried():
    assert auto_settings.largest(machine(fits=5), [16, 32])[0] == 4


def test_an_error_is_raised_if_not_one_image_fits():
    with pytest.raises(CallError, match="not even one image fits in memory"):
        auto_settings.largest(machine(fits=0), [16])


def test_other_errors_are_not_mistaken_for_out_of_memory():
    def broken(size: int) -> float:
        raise ValueError("shapes")

    with pytest.raises(ValueError, match="shapes"):
        auto_settings.largest(broken, [16])


def test_candidates_are_powers_of_two_that_fit_by_estimate():
    assert auto_settings.candidates(100, 1) == [16, 32, 64]
    assert auto_settings.candidates(100, 10**15) == [16]


def test_an_out_of_memory_error_of_tensorflow_is_recognized():
    import tensorflow as tf

    assert auto_settings.is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"))
    assert not auto_settings.is_out_of_memory(ValueError("no"))


def test_open_settings_are_chosen_recorded_and_stored_in_the_spec_of_the_run(
    listen: Any, train: Train, tiny: Any, colours: Any, tmp_path: Path
):
    messages: list[str] = []
    listen(messages.append)
    spec = tiny(fit={"batch_size": "auto", "precision": "auto", "stages": [{"epochs": 1}]})
    run = train(spec, data=colours, out=tmp_path)
    fit, tried = RunFolder.of(run).required("spec.json")["fit"], RunFolder.of(run).required("training.json")["tried"]
    assert fit["batch_size"] == tried["batch_size"]["chosen"] == 16  # of 36 images, more would be too few steps
    assert fit["precision"] == tried["precision"]["chosen"]
    assert fit["precision"] in ("float32", "mixed_bfloat16", "mixed_float16")
    assert [line.partition(":")[0] for line in messages[1:3]] == ["precision", "batch size"]


def test_xla_is_not_tried_for_convolutions_without_a_graphics_processor(
    listen: Any, train: Train, tiny: Any, colours: Any, tmp_path: Path
):
    convolution = {"layer": "Conv2D", "filters": 2, "kernel_size": 3}
    compile = {"jit_compile": "auto"}
    stages = {"stages": [{"epochs": 1}], "batch_size": 8}
    messages: list[str] = []
    listen(messages.append)
    train(
        tiny(model=[convolution, *tiny()["model"]], compile=compile, fit=stages),
        data=colours,
        out=tmp_path,
    )
    assert messages[1] == "XLA: off, it makes convolutions slower on a CPU"


def test_xla_is_probed_only_if_the_spec_says_auto(train: Train, tiny: Any, colours: Any, tmp_path: Path):
    stages = {"stages": [{"epochs": 1}], "batch_size": 8}
    run = train(tiny(compile={"jit_compile": "auto"}, fit=stages), data=colours, out=tmp_path)
    tried = RunFolder.of(run).required("training.json")["tried"]["jit_compile"]
    assert tried["batch_size"] == 8
    assert sorted(tried["step_ms"]) == ["with", "without"]
    assert RunFolder.of(run).required("spec.json")["compile"]["jit_compile"] is tried["chosen"]
    plain = train(tiny(fit=stages), data=colours, out=tmp_path)
    assert RunFolder.of(plain).required("spec.json")["compile"]["jit_compile"] is None
    assert "tried" not in RunFolder.of(plain).required("training.json")


def test_a_model_that_xla_cannot_compile_is_left_to_keras(tiny: Any, colours: Any):
    kerasimg.register(Outside)
    spec = load(tiny(model=[{"layer": "Outside"}, *tiny()["model"]], fit={"batch_size": 8}), num_classes=3)
    chosen, found = auto_settings.Probe(spec, 3, False, None).compilation(spec)
    assert not chosen
    assert found["why"].startswith("it cannot compile the model (")


class Outside(keras.layers.Layer):
    """Something that runs outside of TensorFlow's graph."""

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return tf.ensure_shape(tf.numpy_function(lambda pixels: pixels, [x], tf.float32), x.shape)


def test_a_probe_does_not_change_the_training(train: Train, tiny: Any, colours: Any, tmp_path: Path):
    stages = {"stages": [{"epochs": 1}]}
    tried = train(tiny(fit={"batch_size": "auto", **stages}), data=colours, out=tmp_path)
    given = train(tiny(fit={"batch_size": 16, **stages}), data=colours, out=tmp_path)
    assert "tried" not in RunFolder.of(given).required("training.json")
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history] for run in (tried, given)]
    assert rows[0] == rows[1]


def test_a_spec_without_open_settings_is_not_probed(tiny: Any, colours: Any):
    spec = load(tiny(), num_classes=3)
    assert auto_settings.Choices(None).settle(spec, open_source(colours)) == (spec, {})


def test_a_later_out_of_memory_error_suggests_a_batch_size(
    train: Train, tiny: Any, colours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import tensorflow as tf

    def no_room(*arguments: Any) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(engine.KerasFit, "run", no_room)
    with pytest.raises(KerasimgError, match=r"out of memory at batch size 8: .*--set fit\.batch_size=4, or auto\)"):
        train(tiny(fit={"batch_size": 8, "stages": [{"epochs": 1}]}), data=colours, out=tmp_path)
