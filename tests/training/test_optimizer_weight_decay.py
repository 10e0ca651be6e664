"""Weight decay as applied to the weights, compared with the papers' recursions in NumPy."""

import functools
import json
from collections.abc import Collection
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.catalog import load, load_to_build, zoo_names
from kerasimg.objects import make_layer
from kerasimg.spec.arguments import entry, known
from kerasimg.training.optimizer import Rates, excluded_weights, make_optimizer, weight_kind

STEPS = 300
MODEL = [
    {"layer": "Conv2D", "name": "conv", "filters": 2, "kernel_size": 1},
    {"layer": "BatchNormalization", "name": "norm"},
    {"layer": "DepthwiseConv2D", "name": "depthwise", "kernel_size": 1, "use_bias": False},
    {"layer": "LayerScale", "name": "scale"},
    {"layer": "PatchEmbed", "name": "patches", "units": 4, "patch_size": 2, "use_bias": False},
    {"layer": "ClassToken", "name": "token"},
    {"layer": "PositionEmbedding", "name": "position", "extra_tokens": 1},
    {"layer": "MultiHeadAttention", "name": "attention", "inputs": {"query": "prev", "value": "prev"},
     "num_heads": 2, "key_dim": 2},
    {"layer": "LayerNormalization", "name": "norm_2"},
    {"layer": "TakeToken"},
    {"layer": "Dense", "name": "classes", "units": 2, "activation": "softmax"},
]  # fmt: skip


def spec_of(optimizer: dict[str, Any], **compiled: Any) -> kerasimg.Spec:
    image = {"size": [4, 4], "channels": 1}
    return load({"kerasimg": 1, "image": image, "model": MODEL, "compile": {"optimizer": optimizer, **compiled}})


@functools.cache
def built() -> keras.Model:
    """The model, which all optimizers share: every use sets its weights."""
    return kerasimg.build(spec_of({"type": "SGD"}))


def factors(
    spec: kerasimg.Spec,
    steps: int,
    rates: Rates = Rates(),  # noqa: B008 - frozen
    only: Collection[str] = (),
) -> dict[str, float]:
    """The factor by which each weight of 1 is multiplied after some steps without gradient.  only: paths of weights."""
    model = built()
    optimizer = make_optimizer(spec, None, rates, model=model)
    variables = [variable for variable in model.trainable_variables if not only or variable.path in only]
    for variable in variables:
        variable.assign(keras.ops.ones(variable.shape))
    optimizer.build(variables)
    zeros = [keras.ops.zeros(variable.shape) for variable in variables]
    for _ in range(steps):
        optimizer.apply(zeros, variables)
    return {variable.path: float(keras.ops.convert_to_numpy(variable).mean()) for variable in variables}


def papers_factor(optimizer: dict[str, Any], mode: str, steps: int, rate: float) -> float:
    """Returns the same factor by the recursion of the paper or of the authors' code, on one number."""
    decay, momentum = optimizer.get("weight_decay") or 0.0, optimizer.get("momentum", 0.0)
    weight, moved, squares = 1.0, 0.0, 0.0
    for _ in range(steps):
        if mode == "decoupled":
            weight -= rate * decay * weight
            continue
        gradient = decay * weight
        if optimizer["type"] == "RMSprop":
            rho = optimizer.get("rho", 0.9)
            squares = rho * squares + (1 - rho) * gradient**2
            gradient /= np.sqrt(squares + optimizer.get("epsilon", 1e-7))
        moved = momentum * moved + gradient
        weight -= rate * ((gradient + momentum * moved) if optimizer.get("nesterov") else moved)
    return weight


def test_a_coupled_sgd_with_momentum_shrinks_a_weight_ten_times_as_fast():
    optimizer = {"type": "SGD", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    two = ("classes/kernel", "norm/gamma")
    coupled = factors(spec_of(optimizer, weight_decay_mode="coupled"), STEPS, only=two)
    expected = papers_factor(optimizer, "coupled", STEPS, 0.1)
    assert list(coupled.values()) == pytest.approx([expected] * len(coupled), rel=1e-4)
    assert coupled["classes/kernel"] == pytest.approx(0.741, abs=5e-3)
    decoupled = factors(spec_of(optimizer), STEPS, only=two)
    assert decoupled["classes/kernel"] == pytest.approx(0.970, abs=1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"type": "SGD", "momentum": 0.9, "nesterov": True},
        {"type": "RMSprop", "momentum": 0.9, "epsilon": 1e-3},
        {"type": "RMSprop", "epsilon": 1.0},
        {"type": "Adam"},
        {"type": "Lion"},
    ],
    ids=lambda optimizer: str(optimizer["type"]),
)
def test_a_coupled_decay_is_the_gradient_of_an_l2_loss(optimizer: dict[str, Any]):
    written = {**optimizer, "learning_rate": 0.01}
    spec = spec_of({**written, "weight_decay": 0.1}, weight_decay_mode="coupled")
    coupled = factors(spec, 20, only=("classes/kernel",))
    plain = make_optimizer(spec_of(written), None)
    variable = keras.Variable(np.ones((2, 2), "float32"))
    for _ in range(20):
        plain.apply([variable * 0.1], [variable])
    expected = float(keras.ops.convert_to_numpy(variable).mean())
    assert coupled["classes/kernel"] == pytest.approx(expected, rel=1e-5)
    assert expected < 1


def test_each_kind_of_weight_can_be_excluded_from_decay():
    optimizer = {"type": "SGD", "learning_rate": 1.0, "weight_decay": 0.5}
    excluded_names = {
        "bias": {"conv/bias", "classes/bias"} | {f"attention/{name}/bias" for name in
                 ("query", "key", "value", "attention_output")},
        "norm": {"norm/gamma", "norm/beta", "norm_2/gamma", "norm_2/beta"},
        "layer_scale": {"scale/gamma"},
        "token": {"token/token"},
        "position": {"position/embedding"},
        "depthwise": {"depthwise/kernel"},
    }  # fmt: skip
    for mode in ("coupled", "decoupled"):
        for kind, names in excluded_names.items():
            spec = spec_of(optimizer, weight_decay_mode=mode, exclude_from_weight_decay=[kind])
            after = factors(spec, 1)
            assert {name for name, factor in after.items() if factor == 1.0} == names
            assert {factor for name, factor in after.items() if name not in names} == {0.5}


def test_excluded_weights_stay_excluded_under_rates_that_change():
    optimizer = {"type": "SGD", "learning_rate": 1.0, "momentum": 0.5, "weight_decay": 0.5}
    spec = spec_of(optimizer, weight_decay_mode="coupled", exclude_from_weight_decay=["bias"])
    after = factors(spec, 1, Rates(warmup_steps=2))
    assert (after["classes/kernel"], after["classes/bias"]) == (0.75, 1.0)


def test_the_relative_positions_of_a_window_are_positions():
    spec = load("swin", size=32, depths=[1, 1], width=24)
    model = kerasimg.build(spec)
    excluded = excluded_weights(model, ["position"])
    paths = [variable.path for variable in model.trainable_variables if id(variable) in excluded]
    assert [path.rsplit("/", 1)[-1] for path in paths] == ["relative_position_bias"] * 2


@pytest.mark.parametrize(
    ("layer", "arguments"), [("GeMPooling2D", {}), ("PReLU", {}), ("CosineHead", {"units": 3, "learn_scale": True})]
)
def test_the_numbers_that_a_layer_learns_are_excluded_with_the_norms(layer: str, arguments: dict[str, Any]):
    made = make_layer(layer, arguments)
    made.build((2, 3) if layer == "CosineHead" else (2, 4, 4, 3))
    kinds = {weight.name: weight_kind(layer, weight.name) for weight in made.trainable_weights}
    kernels = {name: kinds.pop(name) for name in ("kernel",) if name in kinds}
    assert (set(kinds.values()), set(kernels.values())) == ({"norm"}, {None} & set(kernels.values()))


def test_weights_inside_a_backbone_are_included():
    backbone = {"backbone": "MobileNetV2", "name": "base"}
    head = [{"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": 2, "activation": "softmax"}]
    image = {"size": [32, 32]}
    model = kerasimg.build({"kerasimg": 1, "image": image, "model": [backbone, *head]}, weights=None)
    norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers[-3].layers)
    assert len(excluded_weights(model, ["norm"]) & {id(weight) for weight in model.trainable_variables}) == 2 * norms


def test_an_unknown_kind_is_an_error_of_check():
    with pytest.raises(kerasimg.SpecError, match=r"exclude_from_weight_decay\[0\]: .*; did you mean 'bias'"):
        spec_of({"type": "SGD"}, exclude_from_weight_decay=["biases"])


DECAYED = [
    "resnet",
    "resnet_v2",
    "small_resnet",
    "wide_resnet",
    "densenet",
    "regnet",
    "repvgg",
    "vgg",
    "squeezenet",
    "shufflenet_v2",
    "ghostnet",
    "xception",
    "efficientnet",
    "efficientnet_lite",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_v2",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
]
"""Whose papers add the decay to the gradient."""


@functools.cache
def decayed(compiled: str) -> dict[str, float]:
    """The factors of some weights after 20 steps with these settings, which many specs share."""
    return factors(spec_of(**json.loads(compiled)), 20, only=("conv/kernel", *KINDS))


KINDS = {
    "norm/gamma": "norm",
    "conv/bias": "bias",
    "scale/gamma": "layer_scale",
    "token/token": "token",
    "position/embedding": "position",
    "depthwise/kernel": "depthwise",
}
"""Weights of `MODEL`, and what `exclude_from_weight_decay` calls them."""


@pytest.mark.parametrize("name", zoo_names())
def test_a_zoo_spec_decays_its_weights_as_its_paper_does(name: str):
    compiled = load_to_build(name).compile
    optimizer = compiled.optimizer if isinstance(compiled.optimizer, dict) else {"type": compiled.optimizer}
    coupled = name in DECAYED
    assert compiled.weight_decay_mode == ("coupled" if coupled else "decoupled")
    if coupled:
        assert optimizer["weight_decay"]
    given = {**optimizer, "learning_rate": 0.05}
    settings = {key: getattr(compiled, key) for key in ("weight_decay_mode", "exclude_from_weight_decay")}
    after = decayed(json.dumps({"optimizer": given, **settings}, sort_keys=True))
    expected = papers_factor(given, compiled.weight_decay_mode, 20, 0.05)
    filters = 1.0 if optimizer["type"] == "ConvMuon" else expected  # there they have a fixed norm
    assert after["conv/kernel"] == pytest.approx(filters, rel=1e-4)
    for path, kind in KINDS.items():
        assert (after[path] == 1.0) == (kind in compiled.exclude_from_weight_decay or not optimizer.get("weight_decay"))


@pytest.mark.parametrize("name", ["deit", "swin", "convnext"])
def test_transformers_of_the_zoo_decay_only_matrices(name: str):
    small = {
        "deit": {"size": 32, "variant": "tiny_distilled", "depth": 1, "width": 24},
        "swin": {"size": 32, "depths": [1, 1], "width": 24},
        "convnext": {"size": 32, "depths": [1, 1, 1, 1], "channels": [8, 16, 32, 64]},
    }[name]
    spec = load(name, **small)
    model = kerasimg.build(spec)
    excluded = excluded_weights(model, spec.compile.exclude_from_weight_decay)
    decayed = {variable.name for variable in model.trainable_variables if id(variable) not in excluded}
    assert decayed == {"kernel"}
    assert {variable.name for variable in model.trainable_variables} > {"kernel", "bias", "gamma"}


def test_every_weight_that_a_layer_of_a_spec_can_have_is_a_matrix_or_of_a_kind():
    others = {
        ("CosineHead", "scale"),
        ("GeMPooling2D", "p"),
        ("PReLU", "alpha"),
        ("Embedding", "embeddings"),
        ("ReversibleEmbedding", "embeddings"),
    }
    matrices = {"kernel", "pointwise_kernel", "recurrent_kernel"}
    for name in known("layers"):
        for weight in _weights(name):
            assert weight in matrices or weight_kind(name, weight) or (name, weight) in others, (name, weight)


def _weights(name: str) -> set[str]:
    """The names of the trainable weights of a layer at its smallest."""
    given: dict[str, Any] = {
        "filters": 2, "kernel_size": 1, "units": 2, "patch_size": 1, "num_heads": 1, "key_dim": 2, "groups": 1,
        "input_dim": 2, "output_dim": 2, "equation": "abc,cd->abd", "output_shape": [None, 2], "bias_axes": "d",
        "learn_scale": True, "head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    takes = (entry("layers", name) or {})["args"]
    wanted = {
        key: given[key]
        for key, argument in takes.items()
        if key in given and (argument.get("required") or key in ("learn_scale", "bias_axes"))
    }
    if any(argument.get("required") and key not in wanted for key, argument in takes.items()):
        return set()
    layer = make_layer(name, wanted)
    result: set[str] = set()
    for shape in ((1, 4, 4, 2), (1, 4, 2), (1, 2), (1, 2, 2, 2, 2)):
        try:
            layer.build(shape)
        except Exception:
            continue
        result |= {weight.name for weight in layer.trainable_variables}
        if result:
            break
    return result
