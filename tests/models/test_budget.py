import resource
from typing import Any

import keras
import pytest

import kerasimg
from kerasimg.errors import SpecError
from kerasimg.models.budget import deferred_variables


def tiny(*nodes: dict[str, Any], size: int = 8) -> dict[str, Any]:
    return {"kerasimg": 1, "name": "tiny", "image": {"size": [size, size]}, "model": [*nodes]}


FLAT = {"layer": "Flatten"}
HUGE = {"layer": "Dense", "units": 10**10}


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_model_of_a_million_million_parameters_is_refused_at_once_and_unallocated():
    kerasimg.build(tiny(FLAT))
    before = peak_kib()
    with pytest.raises(SpecError) as caught:
        kerasimg.build(tiny(FLAT, {**HUGE, "use_bias": False}))
    assert peak_kib() - before < 50_000
    assert str(caught.value) == (
        "tiny: model[1] (Dense): 1,920,000,000,000 parameters, and the limit is 1,000,000,000; "
        'if that is meant, raise it: limits={"params": 1920000000000}, or --limit params=1920000000000'
    )


def test_what_was_refused_is_forgotten():
    with pytest.raises(SpecError):
        kerasimg.build(tiny(FLAT, HUGE))
    before = peak_kib()
    assert kerasimg.build(tiny(FLAT, {"layer": "Dense", "units": 2})).count_params() == 386
    assert peak_kib() - before < 50_000


def test_a_tensor_that_is_too_large_is_refused():
    with pytest.raises(SpecError, match=r"model\[0\] \(UpSampling2D\): 19,200,000,000 values in one tensor"):
        kerasimg.build(tiny({"layer": "UpSampling2D", "size": 10_000}))


def test_a_tensor_inside_of_a_backbone_counts():
    document = tiny({"backbone": "VGG16"}, size=32)
    with pytest.raises(SpecError, match=r"65,536 values in one tensor, and the limit is 60,000"):
        kerasimg.build(document, limits={"tensor": 60_000})


def test_parameters_add_up_over_the_layers():
    dense = {"layer": "Dense", "units": 10, "use_bias": False}
    document = tiny(FLAT, dense, dense, dense)
    assert kerasimg.build(document, limits={"params": 2120}).count_params() == 2120
    with pytest.raises(SpecError, match=r"model\[3\] \(Dense\): 2,120 parameters, and the limit is 2,119"):
        kerasimg.build(document, limits={"params": 2119})


def test_parameters_of_a_reused_layer_count_once():
    square = {"layer": "Dense", "name": "square", "units": 192, "use_bias": False}
    document = tiny(FLAT, square, {"reuse": "square"}, {"reuse": "square"})
    assert kerasimg.build(document, limits={"params": 192 * 192}).count_params() == 192 * 192


def test_parameters_of_a_spec_as_a_backbone_count_once(tmp_path):
    (tmp_path / "inner.json").write_text(
        '{"kerasimg": 1, "model": [{"layer": "Conv2D", "filters": 2, "kernel_size": 1}, {"layer": "Flatten"}]}'
    )
    (tmp_path / "outer.json").write_text(
        '{"kerasimg": 1, "image": {"size": [8, 8]}, "model": [{"backbone": "inner.json"}]}'
    )
    assert kerasimg.build(tmp_path / "outer.json", limits={"params": 8}).count_params() == 8


def test_variables_have_their_values_when_the_block_ends():
    with deferred_variables():
        layer = keras.layers.Dense(3)
        layer.build((None, 2))
    assert layer.kernel.numpy().shape == (2, 3)
    assert layer.kernel.numpy().any()


def test_variables_of_a_block_that_fails_stay_without():
    def fail() -> None:
        keras.layers.Dense(10**9).build((None, 10**9))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), deferred_variables():
        fail()
    before = peak_kib()
    with deferred_variables():
        keras.layers.Dense(3).build((None, 2))
    assert peak_kib() - before < 50_000
