import inspect
import json

import keras
import pytest

from kerasimg import objects
from kerasimg.models import backbone_table, keras_kinds, keras_table
from kerasimg.spec import arguments

COMMITTED = json.loads(arguments.TABLE_FILE.read_text())

REQUIRED = {
    "activation": "relu",
    "axes": 1,
    "boundaries": [10, 20],
    "dims": [2, 1],
    "equation": "ab,bc->ac",
    "factor": 0.1,
    "groups": 2,
    "initial_learning_rate": 0.1,
    "decay_rate": 0.5,
    "layer": "base",
    "num_classes": 3,
    "patch_size": 4,
    "rate": 0.5,
    "RandomPosterization.factor": 4,
    "seconds": 60.0,
    "target_shape": [-1, 4],
    "values": [0.1, 0.01, 0.001],
    **dict.fromkeys(("stddev", "height_factor", "width_factor", "scale"), 0.2),
    **dict.fromkeys(("specificity", "sensitivity", "recall", "precision"), 0.5),
    **dict.fromkeys(("filters", "units", "kernel_size", "pool_size", "output_size", "height", "width"), 2),
    **dict.fromkeys(("n", "input_dim", "output_dim", "num_heads", "key_dim", "output_shape"), 2),
    **dict.fromkeys(("head_dim", "num_query_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("decay_steps", "first_decay_steps"), 100),
}
"""A value for each argument that has no default; "Class.argument" goes first."""

CLASSES = [(group, name) for group in keras_table.CLASSES for name in COMMITTED[group]]


@pytest.fixture(scope="module")
def made():
    return keras_table.make_classes()


def test_the_committed_table_is_what_the_installed_keras_yields(made):
    assert made == {key: COMMITTED[key] for key in made}, "run python -m kerasimg.models.keras_table"


def test_the_file_is_written_as_the_generator_writes_it():
    assert keras_table.dumps(COMMITTED) == arguments.TABLE_FILE.read_text()


def test_no_name_is_in_two_tables():
    for group, reasons in COMMITTED["refused"].items():
        others = {**COMMITTED["synonyms"].get(group, {}), **COMMITTED["renamed"].get(group, {})}
        assert not set(reasons) & (set(COMMITTED[group]) | set(others)), group
        assert not set(others) & set(COMMITTED[group]), group
        assert set(others.values()) <= set(COMMITTED[group]), group


def test_every_refused_name_exists():
    for group, reasons in keras_kinds.REFUSED.items():
        module = inspect.getmodule(keras.optimizers.schedules.CosineDecay) if group == "schedules" else None
        public = vars(module or getattr(keras, group))
        assert set(reasons) <= set(public), group


@pytest.mark.parametrize(("group", "name"), CLASSES, ids=[f"{group}.{name}" for group, name in CLASSES])
def test_every_class_is_made_from_its_required_arguments_and_defaults(group, name):
    takes = arguments.entry(group, name)["args"]
    given = {
        key: takes[key]["default"] if "default" in takes[key] else REQUIRED.get(f"{name}.{key}", REQUIRED.get(key))
        for key in takes
    }
    faults = []
    checked = arguments.check_arguments(group, name, given, lambda *fault: faults.append(fault))
    assert faults == []
    made = objects.make(group, {"type": name, **checked})
    assert isinstance(made, objects.find(group, name))


@pytest.mark.parametrize(
    ("group", "synonyms"),
    [
        ("activations", ["swish", "hard_swish"]),
        ("initializers", ["he_normal", "uniform", "zeros", "one", "truncated_normal"]),
        ("regularizers", ["l2", "l1l2", "orthogonal_regularizer"]),
        ("constraints", ["max_norm", "non_neg"]),
        ("optimizers", ["adam", "sgd", "rmsprop", "adamw"]),
        ("losses", ["binary_crossentropy", "mse", "kld", "sparse_categorical_crossentropy"]),
        ("metrics", ["auc", "f1_score", "sparse_categorical_accuracy", "bce"]),
    ],
)
def test_a_synonym_means_what_it_means_in_keras(group, synonyms):
    for synonym in synonyms:
        meant, made = getattr(keras, group).get(synonym), objects.make(group, synonym)
        name = getattr(meant, "__name__", type(meant).__name__)
        assert COMMITTED["synonyms"][group][synonym] == getattr(made, "__name__", type(made).__name__)
        # Of a loss, Keras gives the function where kerasimg gives the class.
        assert name.replace("_", "").lower() == COMMITTED["synonyms"][group][synonym].replace("_", "").lower()


def test_layers_with_several_inputs_name_them():
    assert COMMITTED["layers"]["MultiHeadAttention"]["inputs"] == ["query", "value", "key"]
    assert COMMITTED["layers"]["GroupQueryAttention"]["inputs"] == ["query", "value", "key"]
    assert {name for name, entry in COMMITTED["layers"].items() if "merge" in entry} == {
        *("Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract"),
        *("Attention", "AdditiveAttention"),
    }


def test_image_layers_that_vary_images_are_marked():
    marked = {name for name, entry in COMMITTED["layers"].items() if "augment" in entry}
    assert {"RandomFlip", "RandAugment", "MixUp", "CutMix", "Equalization", "Solarization"} <= marked
    assert not marked & {"Resizing", "CenterCrop", "Rescaling", "Dropout", "Conv2D"}


def test_an_argument_of_unknown_kind_stops_the_generator():
    class Odd(keras.layers.Layer):
        """A layer that takes anything."""

        def __init__(self, thing):
            super().__init__()

    with pytest.raises(ValueError, match=r"layers: Odd\.thing: of unknown kind"):
        keras_table.describe("layers", Odd)


def test_a_class_may_say_what_its_arguments_take():
    class Squeeze(keras.layers.Layer):
        """Squeeze. And more."""

        argument_kinds = {"ratio": "float(0,1]"}  # noqa: RUF012

        def __init__(self, ratio=0.25, times=2, **kwargs):
            super().__init__(**kwargs)

    entry = keras_table.describe("layers", Squeeze)
    assert entry["args"]["ratio"] == {"kind": "float(0,1]", "default": 0.25}
    assert entry["args"]["times"] == {"kind": "int", "default": 2}
    assert entry["doc"] == "Squeeze."


def test_keras_has_forty_backbones():
    assert backbone_table.names() == sorted(COMMITTED["backbones"])
    assert len(COMMITTED["backbones"]) == 40


def test_a_backbone_is_described_as_committed():
    for name in backbone_table.names():
        entry = {key: value for key, value in COMMITTED["backbones"][name].items() if not key.startswith("imagenet")}
        assert backbone_table.describe(name) == entry, name


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("MobileNet", {"alpha": 0.25, "rows": 128}),
        ("MobileNetV2", {"alpha": 1.4, "rows": 96}),
        ("MobileNetV3Small", {"alpha": 1.0, "minimalistic": True}),
        ("VGG16", {}),
        ("EfficientNetV2B0", {}),
    ],
)
def test_the_imagenet_file_of_a_backbone_is_the_one_that_keras_fetches(name, variant):
    (file,) = backbone_table.weight_files(name, [variant])
    assert file in COMMITTED["backbones"][name]["imagenet"]


def test_every_imagenet_file_is_listed_once():
    files = [file["file"] for entry in COMMITTED["backbones"].values() for file in entry["imagenet"]]
    assert len(files) == len(set(files)) == 36 + 16 + 30 + 6


def test_looking_at_backbones_leaves_no_variables_behind():
    from keras.src.backend.common import global_state

    list(backbone_table.weight_files("MobileNetV2", [{"alpha": 0.35, "rows": 96}]))
    assert not global_state.get_global_attribute("uninitialized_variables")


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0", "MobileNetV2"])
def test_a_backbone_takes_its_smallest_size_and_nothing_below(name):
    smallest = COMMITTED["backbones"][name]["min_size"]
    build = getattr(keras.applications, name)
    with keras.StatelessScope(initialize_variables=False):
        with pytest.raises(ValueError, match="at least"):
            build(weights=None, include_top=False, input_shape=(smallest - 1, smallest, 3))
        model = build(weights=None, include_top=False, input_shape=(smallest, smallest, 3))
    assert model.output_shape[1:3] == (1, 1)
