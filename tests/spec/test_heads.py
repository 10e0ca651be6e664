"""Task and head against each other: what `check` refuses, what to write instead, and recipes that follow the task."""

from typing import Any

import pytest

import kerasimg
from kerasimg.catalog import zoo_names
from kerasimg.errors import SpecError

DENSE = {"layer": "Dense", "units": 3}
GAP = {"layer": "GlobalAveragePooling2D"}


def load(*nodes: dict[str, Any], task: str = "multiclass", **sections: Any) -> Any:
    return kerasimg.load({"kerasimg": 1, "name": "tiny", "task": task, "model": [GAP, *nodes], **sections})


def head(activation: str | None, task: str = "multiclass", units: int = 3) -> Any:
    return load({"layer": "Dense", "units": units, "activation": activation}, task=task)


@pytest.mark.parametrize("activation", ["softmax", "linear", None, "log_softmax"])
def test_heads_for_one_class_of_several(activation):
    assert head(activation)


@pytest.mark.parametrize("activation", ["sigmoid", "linear", None])
def test_heads_for_labels_that_each_stand_for_themselves(activation):
    assert head(activation, "multilabel")
    assert head(activation, "binary", 1)


RIGHT = {"multiclass": "softmax", "binary": "sigmoid", "multilabel": "sigmoid"}


@pytest.mark.parametrize("task", RIGHT)
@pytest.mark.parametrize(
    "activation",
    ["relu", "relu6", "tanh", "exponential", "softplus", "hard_sigmoid", "sparsemax", "log_sigmoid", "gelu"],
)
def test_an_activation_that_gives_neither_probabilities_nor_scores_is_refused(task, activation):
    with pytest.raises(SpecError) as caught:
        head(activation, task, 1 if task == "binary" else 3)
    assert str(caught.value) == (
        f"tiny: model[1] (Dense).activation: {activation} gives neither probabilities nor scores of both signs; "
        f'for the task \'{task}\' write "{RIGHT[task]}" (or "=head_activation", which follows the task)'
    )


@pytest.mark.parametrize(
    ("task", "activation", "units", "message"),
    [
        ("multilabel", "softmax", 3, 'softmax makes the labels of an image exclude one another; .* write "sigmoid"'),
        ("binary", "softmax", 1, 'softmax of one number is always 1, and .* write "units": 1 and "sigmoid"'),
        ("binary", "softmax", 2, 'softmax of one number is always 1, .* or for two outputs "task": "multiclass"'),
        (
            "multiclass",
            "sigmoid",
            3,
            'sigmoid gives each .* write "softmax" .*or for several labels per image',
        ),
    ],
)
def test_a_head_of_another_task_is_refused_with_what_to_write(task, activation, units, message):
    with pytest.raises(SpecError, match=rf"^tiny: model\[1\] \(Dense\)\.activation: {message}"):
        head(activation, task, units)


def test_binary_has_one_output():
    with pytest.raises(SpecError, match=r"model\[1\] \(Dense\)\.units: the task 'binary' has one output, .* got 2"):
        head("sigmoid", "binary", 2)


SIGMOID, SOFTMAX = ({**DENSE, "activation": name} for name in ("sigmoid", "softmax"))


@pytest.mark.parametrize(
    ("nodes", "refused"),
    [
        ([DENSE, {"layer": "Softmax"}], True),
        ([DENSE, {"layer": "Activation", "activation": "softmax"}], True),
        ([SOFTMAX, {"layer": "Dropout", "rate": 0.1}], True),
        ([SOFTMAX, {"layer": "Activation", "activation": "linear"}], True),
        ([DENSE, {"layer": "ReLU"}], True),
        ([DENSE, {"layer": "GELU"}], True),
        ([{**DENSE, "name": "d", "activation": "softmax"}, {"reuse": "d"}], True),
        ([{**SOFTMAX, "name": "a"}, {**SOFTMAX, "inputs": "in"}, {"layer": "Average", "inputs": ["a", "prev"]}], True),
        ([SOFTMAX, SIGMOID], False),
        ([{**SOFTMAX, "when": False}, SIGMOID], False),
        ([SOFTMAX, DENSE], False),
    ],
)
def test_the_head_is_found_wherever_it_is(nodes, refused):
    if not refused:
        assert load(*nodes, task="multilabel")
        return
    with pytest.raises(SpecError, match="for the task 'multilabel' write \"sigmoid\""):
        load(*nodes, task="multilabel")


@pytest.mark.parametrize("name", ["Rescaling", "Dropout", "GaussianNoise"])
def test_a_layer_that_changes_probabilities_is_refused_after_the_activation(name):
    layer = {"layer": name, {"Rescaling": "scale", "Dropout": "rate", "GaussianNoise": "stddev"}[name]: 0.5}
    with pytest.raises(SpecError, match=rf"\({name}\): {name} of softmax gives neither probabilities"):
        load(SOFTMAX, layer)
    assert load(layer, SOFTMAX)
    assert load(SIGMOID, layer, SOFTMAX)


def test_the_head_in_a_block_is_found():
    blocks = {"top": {"args": {"act": "softmax"}, "nodes": [{**DENSE, "activation": "=act"}]}}
    with pytest.raises(SpecError, match=r"blocks\.top\.nodes\[0\] \(Dense\)\.activation: softmax makes the labels"):
        load({"block": "top"}, task="multilabel", blocks=blocks)
    assert load({"block": "top", "act": "sigmoid"}, task="multilabel", blocks=blocks)


def test_each_option_of_a_search_is_checked_for_the_task():
    choice = {"$choice": ["softmax", "relu"], "default": "softmax"}
    with pytest.raises(SpecError, match="relu gives neither probabilities nor scores"):
        load({**DENSE, "activation": choice})


def test_what_serves_as_a_backbone_has_no_head_to_check():
    nodes = [{"layer": "Conv2D", "filters": 4, "kernel_size": 3, "activation": "relu"}]
    assert kerasimg.load({"kerasimg": 1, "model": nodes})
    assert load({**DENSE, "name": "embedding", "activation": "relu"}, features="embedding")


@pytest.mark.parametrize(
    ("loss", "task", "message"),
    [
        ("CategoricalCrossentropy", "multilabel", "takes one class of several per image; for this task write"),
        ("SparseCategoricalCrossentropy", "binary", "takes one class of several per image; for this task write"),
        ("BinaryCrossentropy", "multiclass", "treats each class by itself; for one class per image write"),
        ({"type": "BinaryFocalCrossentropy", "from_logits": True}, "binary", "the model gives sigmoid probabilities"),
        ("KLDivergence", "binary", None),
    ],
)
def test_a_loss_of_another_task_is_found_by_the_check(loss, task, message):
    nodes = {"layer": "Dense", "units": 1 if task == "binary" else 3, "activation": RIGHT[task]}
    if message is None:
        assert load(nodes, task=task, compile={"loss": loss})
        return
    with pytest.raises(SpecError, match=rf"^tiny: compile\.loss: .*{message}"):
        load(nodes, task=task, compile={"loss": loss})


def test_expressions_name_the_head_that_the_task_wants():
    nodes = [GAP, {"layer": "Dense", "units": "=head_units", "activation": "=head_activation"}]
    document = {
        "kerasimg": 1,
        "params": {"num_classes": 5},
        "model": nodes,
        "compile": {"loss": {"type": "=head_loss"}},
    }
    found = {}
    for task in RIGHT:
        spec = kerasimg.load({**document, "task": task})
        model = kerasimg.build(spec)
        found[task] = model.output_shape[1], model.layers[-1].activation.__name__, spec.compile.loss["type"]
    assert found == {
        "multiclass": (5, "softmax", "CategoricalCrossentropy"),
        "binary": (1, "sigmoid", "BinaryCrossentropy"),
        "multilabel": (5, "sigmoid", "BinaryCrossentropy"),
    }


def test_a_param_of_the_name_goes_before_what_the_task_wants():
    nodes = [GAP, {"layer": "Dense", "units": 3, "activation": "=head_activation"}]
    spec = kerasimg.load({"kerasimg": 1, "params": {"head_activation": "linear"}, "model": nodes})
    assert kerasimg.build(spec).layers[-1].activation.__name__ == "linear"


def test_without_num_classes_there_is_no_number_of_outputs():
    with pytest.raises(SpecError, match="unknown name 'head_units'"):
        load({"layer": "Dense", "units": "=head_units"})


NOT_FOR_SEVERAL = ("recipes/imbalanced", "recipes/multilabel")
"""One names BalancedAccuracy, which is for one class per image; the other is for several labels alone."""


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("name", [name for name in zoo_names() if name not in NOT_FOR_SEVERAL])
def test_every_spec_that_ships_follows_the_task(name, task):
    classes = 2 if task == "binary" else 7
    spec = kerasimg.load({"kerasimg": 1, "name": "child", "extends": name, "task": task}, num_classes=classes)
    assert spec.task == task


def test_a_positive_class_is_for_binary_and_is_in_the_resolved_spec():
    spec = kerasimg.load({"kerasimg": 1, "extends": "recipes/transfer", "task": "binary", "positive_class": "defect"})
    assert (spec.positive_class, spec.resolved["positive_class"]) == ("defect", "defect")
    with pytest.raises(SpecError, match="positive_class: is for the task 'binary', and the task is 'multiclass'"):
        load(DENSE, positive_class="defect")
