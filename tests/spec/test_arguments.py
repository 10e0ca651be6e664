import math
import subprocess
import sys

import pytest

from kerasimg.spec import arguments, kinds
from kerasimg.spec.expressions import UNKNOWN


class Faults(list):
    """Collects what is reported, as (path, message)."""

    def __call__(self, path, message):
        self.append((path, message))


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def own_layer():
    """A layer that the program registered, for one test."""
    arguments.register_entry("layers", "Blur", {"args": {"size": {"kind": "int>0", "default": 3}}, "object": dict})
    yield "Blur"
    arguments._registered["layers"].pop("Blur")


CHOICES = [
    # kind, values that fit, values that do not
    ("int", [0, -3, 2.0], ["1", 1.5, True, None, math.nan, math.inf, [1]]),
    ("int>0", [1, 7.0], [0, -1, 0.5, 10**400]),
    ("int>=2", [2], [1]),
    ("int[1,8]", [1, 8], [0, 9]),
    ("float", [0, 1.5, -1e9], ["0", False, -math.inf, None]),
    ("float[0,1)", [0, 0.999], [1, -0.001]),
    ("float(0,1]", [1, 0.001], [0, 1.001]),
    ("float(0,1)", [0.5], [0, 1]),
    ("bool", [True, False], [0, 1, "true", None]),
    ("str", ["", "a"], [1, None]),
    ("null", [None], [0, False, ""]),
    ("'valid'|'same'", ["valid", "same"], ["Same", "", None, 0]),
    ("'avg'|null", ["avg", None], ["max"]),
    ("[int>0]", [[1], [1, 2]], [[], [0], 1, "12", None]),
    ("int>0|[2 int>0]", [3, [3, 5]], [[3], [3, 5, 7], [3, 0], [3, "5"]]),
    ("int>=0|[2 int>=0|[2 int>=0]]", [1, [1, 2], [[0, 1], [0, 1]]], [[[0, 1]], [[0], [1]], [[-1, 0], [0, 1]]]),
    ("[int>0|null]", [[None, 1]], [[0]]),
    ("dtype", ["float32", "mixed_bfloat16"], ["float", "int8"]),
]


@pytest.mark.parametrize(("kind", "good", "bad"), CHOICES, ids=[choice[0] for choice in CHOICES])
def test_a_kind_takes_what_it_says_and_refuses_the_rest(kind, good, bad):
    parsed = kinds.parse(kind)
    assert [parsed.match(value) for value in good] == good
    assert [parsed.match(value) for value in bad] == [kinds.MISMATCH] * len(bad)


def test_every_kind_of_the_table_can_be_read_described_and_put_into_a_schema():
    found = {
        argument["kind"]
        for group in arguments.MODULES
        for name in arguments.known(group)
        for argument in arguments.entry(group, name)["args"].values()
    }
    assert len(found) > 50
    for kind in found:
        assert kinds.parse(kind).words(), kind
        assert set(arguments.schema(kind)) & {"type", "const", "enum", "anyOf", "$ref"}, kind


def test_every_default_of_the_table_fits_its_kind(faults):
    for group in arguments.MODULES:
        for name in arguments.known(group):
            takes = arguments.entry(group, name)["args"]
            defaults = {key: takes[key]["default"] for key in takes if "default" in takes[key]}
            required = {key for key in takes if key not in defaults}
            arguments.check_arguments(group, name, defaults | dict.fromkeys(required, UNKNOWN), faults)
    assert faults == []


def test_a_kind_that_cannot_be_read_is_an_error():
    with pytest.raises(ValueError, match="not a kind: 'int>'"):
        kinds.parse("int>")


def test_an_unknown_argument_is_named_with_the_nearest_one(faults):
    arguments.check_arguments("layers", "Conv2D", {"fliters": 8, "filters": 8, "kernel_size": 3}, faults)
    assert faults == [(("fliters",), "no such argument; did you mean 'filters'?")]


def test_every_fault_of_a_layer_is_reported_at_once(faults):
    arguments.check_arguments("layers", "Conv2D", {"kernel_size": "x", "padding": "sam", "strides": [1, 0]}, faults)
    assert faults == [
        (("kernel_size",), 'expected an integer > 0 or a list of 2 integers > 0, got "x"'),
        (
            ("padding",),
            "expected 'valid', 'same', 'symmetric', an integer >= 0 or a list of 2 integers >= 0, "
            "got \"sam\"; did you mean 'same'?",
        ),
        (("strides",), "expected an integer > 0 or a list of 2 integers > 0, got [1, 0]"),
        (("filters",), "missing; Conv2D needs 'filters', an integer > 0"),
    ]


def test_arguments_come_back_as_keras_wants_them(faults):
    given = {"units": 32.0, "kernel_initializer": "he_normal", "activation": "swish", "// why": "a comment"}
    checked = arguments.check_arguments("layers", "Dense", given, faults)
    assert checked == {"units": 32, "kernel_initializer": "HeNormal", "activation": "silu"}
    assert isinstance(checked["units"], int)
    # Keras refuses an integer as learning rate.
    rate = arguments.check_arguments("optimizers", "SGD", {"learning_rate": 1}, faults)["learning_rate"]
    assert isinstance(rate, float)
    assert faults == []


def test_what_only_the_built_model_knows_is_accepted_anywhere(faults):
    given = {"filters": UNKNOWN, "kernel_size": [UNKNOWN, 3], "activation": UNKNOWN, "padding": UNKNOWN}
    assert arguments.check_arguments("layers", "Conv2D", given, faults) == given
    assert faults == []


def test_an_object_inside_an_argument_is_checked_with_its_path(faults):
    given = {"units": 1, "kernel_regularizer": {"type": "L2", "l2": -1}, "bias_initializer": {"type": "HeNormla"}}
    arguments.check_arguments("layers", "Dense", given, faults)
    assert faults == [
        (("kernel_regularizer", "l2"), "expected a number >= 0, got -1"),
        (("bias_initializer", "type"), "no initializer 'HeNormla'; did you mean 'HeNormal'?"),
    ]


def test_a_schedule_may_replace_a_learning_rate(faults):
    schedule = {"type": "CosineDecay", "initial_learning_rate": 1e-3, "decay_steps": 1000}
    assert arguments.check_named("optimizers", {"type": "adam", "learning_rate": schedule}, faults) == {
        "type": "Adam",
        "learning_rate": schedule,
    }
    assert arguments.check_named("schedules", 0.01, faults) == 0.01
    assert faults == []
    arguments.check_named("schedules", 0, faults)
    arguments.check_arguments("optimizers", "Adam", {"learning_rate": "1e-3"}, faults)
    assert faults == [
        ((), "expected a number > 0 or a schedule, got 0"),
        (("learning_rate",), 'expected a number > 0 or a schedule, got "1e-3"'),
    ]


def test_a_bare_name_that_needs_arguments_says_which(faults):
    arguments.check_named("schedules", "ExponentialDecay", faults)
    assert [path for path, _ in faults] == [("initial_learning_rate",), ("decay_steps",), ("decay_rate",)]


@pytest.mark.parametrize("key", ["module", "class_name", "config", "registered_name"])
def test_a_keras_config_never_passes(faults, key):
    for value in ({key: "os"}, {"type": "L2", key: {}}):
        arguments.check_arguments("layers", "Dense", {"units": 1, "kernel_regularizer": value}, faults)
    message = f"expected {{\"type\": name, argument: value}}: got the key '{key}' of a Keras config"
    assert faults == [(("kernel_regularizer",), message)] * 2


@pytest.mark.parametrize(
    ("group", "name", "given", "path", "message"),
    [
        (
            "initializers",
            "RandomUniform",
            {"minval": 1, "maxval": -1},
            ("maxval",),
            "'minval' is 1.0, and 'maxval' -1.0",
        ),
        ("initializers", "RandomUniform", {"minval": 1}, ("minval",), "which is smaller"),
        ("initializers", "GlorotUniform", {"input_axes": [0]}, ("output_axes",), "go together"),
        ("constraints", "MinMaxNorm", {"min_value": 3}, ("min_value",), "which is smaller"),
        ("layers", "GridMask", {"cell": [9, 4]}, ("cell",), "the least and the most"),
        ("layers", "RandomHue", {"factor": 0.1, "value_range": [1, 1]}, ("value_range",), "rising numbers"),
        ("layers", "RandomGaussianBlur", {"kernel_size": [3, 4]}, ("kernel_size",), "odd numbers"),
        ("schedules", "PiecewiseConstantDecay", {"boundaries": [2, 1], "values": [1, 2, 3]}, ("boundaries",), "rising"),
        ("schedules", "PiecewiseConstantDecay", {"boundaries": [1, 2], "values": [1, 2]}, ("values",), "3 values"),
        ("layers", "UnitNormalization", {"axis": [1, 1]}, ("axis",), "different axes"),
        ("losses", "CategoricalCrossentropy", {"axis": 0}, ("axis",), "expected 1 or -1"),
        ("optimizers", "Lion", {"beta_1": 0}, ("beta_1",), "in (0, 1)"),
        ("optimizers", "Ftrl", {"learning_rate_power": 0.5}, ("learning_rate_power",), "in [-10, 0]"),
        (
            "schedules",
            "CosineDecayRestarts",
            {"initial_learning_rate": 1, "first_decay_steps": 2, "t_mul": 0.5},
            ("t_mul",),
            ">= 1",
        ),
        (
            "schedules",
            "ExponentialDecay",
            {"initial_learning_rate": 1, "decay_steps": 1e30, "decay_rate": 1},
            ("decay_steps",),
            "> 0",
        ),
    ],
)
def test_arguments_that_no_backend_can_use_are_refused_at_their_place(faults, group, name, given, path, message):
    arguments.check_arguments(group, name, given, faults)
    assert [place for place, _ in faults] == [path]
    assert message in faults[0][1]


def test_arguments_in_their_order_are_accepted(faults):
    for low, high in ((-1, 1), (0, 0), (UNKNOWN, -1)):
        arguments.check_arguments("initializers", "RandomUniform", {"minval": low, "maxval": high}, faults)
    schedule = {"boundaries": [1, 2], "values": [1, 2, 3]}
    arguments.check_arguments("schedules", "PiecewiseConstantDecay", schedule, faults)
    assert not faults


@pytest.mark.parametrize("value", [3, None, ["relu"], True])
def test_a_value_that_is_not_a_name_is_refused(faults, value):
    arguments.check_named("activations", value, faults)
    assert len(faults) == 1
    assert faults[0][1].startswith('expected the name of an activation or {"type": name, ...}, got')


def test_further_strings_may_be_allowed_and_are_offered(faults):
    assert arguments.check_named("metrics", "accuracy", faults, also=("accuracy", "f1")) == "accuracy"
    assert faults == []
    arguments.check_named("metrics", "acuracy", faults, also=("accuracy", "f1"))
    assert faults == [((), "no metric 'acuracy'; did you mean 'accuracy'?")]


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("layers", "Conv2d", "no layer 'Conv2d'; did you mean 'Conv2D'?"),
        ("layers", "AvgPool2D", "no layer 'AvgPool2D'; write 'AveragePooling2D', of which it is another name"),
        ("layers", "conv_2d", "no layer 'conv_2d'; did you mean 'Conv2D'?"),
        ("activations", "Relu", "no activation 'Relu'; did you mean 'relu'?"),
        ("layers", "xyzzy", "no layer 'xyzzy'"),
        ("layers", 3, "expected the name of a layer, got 3"),
        ("losses", "crossentropy", "no loss 'crossentropy'; did you mean 'binary_crossentropy'?"),
        (
            "layers",
            "Lambda",
            "layer 'Lambda' cannot stand in a spec: it runs code that the spec would have to bring "
            "(a class of your own: kerasimg.register)",
        ),
        ("backbones", "MobilNetV2", "no backbone 'MobilNetV2'; did you mean 'MobileNetV2'?"),
    ],
)
def test_a_name_that_does_not_exist_says_why_and_what_does(group, name, message):
    assert arguments.unknown_name(group, name) == message


@pytest.mark.parametrize("name", ["Lambda", "TFSMLayer", "StringLookup", "TextVectorization", "AvgPool2D", "LSTM"])
def test_a_layer_that_could_run_code_or_read_files_has_no_entry(name):
    assert arguments.entry("layers", name) is None


def test_a_registered_name_is_known_checked_and_goes_first(faults, own_layer):
    assert own_layer in arguments.known("layers")
    assert arguments.check_arguments("layers", own_layer, {"size": 5}, faults) == {"size": 5}
    arguments.check_arguments("layers", own_layer, {"size": 0}, faults)
    assert faults == [(("size",), "expected an integer > 0, got 0")]


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("int>0", {"type": "integer", "exclusiveMinimum": 0}),
        ("float[0,1)", {"type": "number", "minimum": 0, "exclusiveMaximum": 1}),
        ("'a'|'b'", {"enum": ["a", "b"]}),
        ("'a'|null", {"anyOf": [{"enum": ["a"]}, {"type": "null"}]}),
        ("[2 float]", {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
        ("initializer|null", {"anyOf": [{"$ref": "#/$defs/initializers"}, {"type": "null"}]}),
    ],
)
def test_a_kind_is_also_a_json_schema(kind, schema):
    assert arguments.schema(kind) == schema


def test_checking_imports_no_keras():
    code = (
        "import sys; from kerasimg.spec import arguments; arguments.known('layers');"
        "sys.exit(any(name in sys.modules for name in ('keras', 'tensorflow', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
