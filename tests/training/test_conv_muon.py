"""The optimizer ConvMuon: orthogonal steps for filters, Nesterov SGD for all other weights."""

import keras
import numpy as np
import pytest

from kerasimg.optimizers import ConvMuon

ops = keras.ops


def variable(*shape: int, seed: int = 0) -> keras.Variable:
    return keras.Variable(np.random.default_rng(seed).normal(size=shape).astype("float32"))


def array(value: object) -> np.ndarray:
    return ops.convert_to_numpy(value)


@pytest.mark.parametrize("shape", [(3, 3, 2, 8), (2, 2, 1, 6)])
def test_filters_take_an_orthogonal_step_from_a_fixed_norm(shape: tuple[int, ...]):
    kernel, gradient = variable(*shape), variable(*shape, seed=1)
    before = array(kernel)
    ConvMuon(0.1, ns_steps=12).apply([gradient.value], [kernel])
    step = (before * np.sqrt(shape[-1]) / np.linalg.norm(before) - array(kernel)) / 0.1
    rows, along = step.reshape(-1, shape[-1]), array(gradient).reshape(-1, shape[-1])
    # The iteration brings singular values to between 0.7 and 1.2.
    sizes = np.linalg.svd(rows, compute_uv=False)
    assert (sizes > 0.65).all()
    assert (sizes < 1.25).all()
    u, _, v = np.linalg.svd(along, full_matrices=False)
    assert np.sum(rows * (u @ v)) / np.linalg.norm(rows) / np.linalg.norm(u @ v) > 0.97


def test_other_weights_move_as_under_nesterov_sgd():
    shapes = [(3, 4), (5,), (3, 3, 2, 1)]
    ours, theirs = ([variable(*shape, seed=k) for k, shape in enumerate(shapes)] for _ in range(2))
    both = [
        (ConvMuon(0.1, sgd_lr_ratio=2.0, sgd_momentum=0.8), ours),
        (keras.optimizers.SGD(0.2, momentum=0.8, nesterov=True), theirs),
    ]
    for step in range(3):
        for optimizer, weights in both:
            optimizer.apply([ops.sin(weight.value + step) for weight in weights], weights)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(array(one), array(other), rtol=1e-5)
