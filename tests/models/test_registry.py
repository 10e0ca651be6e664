import sys

import keras
import numpy as np
import pytest

from kerasimg import objects
from kerasimg.errors import CallError, SpecError
from kerasimg.models import registry
from kerasimg.models.build import build
from kerasimg.models.to_spec import to_spec
from kerasimg.spec import arguments


@pytest.fixture(autouse=True)
def _registered_nothing(monkeypatch):
    from collections import defaultdict

    monkeypatch.setattr(arguments, "_registered", defaultdict(dict))


def make_layer_class(name="Twice"):
    def __init__(self, factor: float = 2.0, **kwargs):
        keras.layers.Layer.__init__(self, **kwargs)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    body = {"__init__": __init__, "call": call, "__doc__": "Multiply.", "__module__": __name__}
    return type(name, (keras.layers.Layer,), body)


def spec(*nodes):
    return {
        "kerasimg": 1,
        "name": "own",
        "params": {"num_classes": 3},
        "image": {"size": [8, 8], "channels": 3},
        "model": [*nodes, {"layer": "GlobalAveragePooling2D"}, {"layer": "Dense", "units": "=num_classes"}],
    }


def test_a_spec_can_name_what_was_registered():
    with pytest.raises(SpecError, match="no layer 'Twice'"):
        build(spec({"layer": "Twice"}))
    cls = make_layer_class()
    assert registry.register(cls) is cls
    built = build(spec({"layer": "Twice", "name": "more", "factor": 3}))
    layer = built.get_layer("more")
    assert type(layer) is cls
    assert layer.factor == 3


def test_its_arguments_are_checked_like_those_of_keras():
    registry.register(make_layer_class(), argument_kinds={"factor": "float>0"})
    with pytest.raises(SpecError, match=r"factor: expected a number > 0, got -1"):
        build(spec({"layer": "Twice", "factor": -1}))
    with pytest.raises(SpecError, match="no such argument; did you mean 'factor'"):
        build(spec({"layer": "Twice", "facto": 1}))


def test_a_spec_still_cannot_name_code():
    registry.register(make_layer_class())
    for name in ("tests.models.test_registry.Twice", f"{__name__}>Twice", "kerasimg>Twice", "os.system", "Lambda"):
        with pytest.raises(SpecError, match="layer"):
            build(spec({"layer": name}))
    with pytest.raises(SpecError):
        build(spec({"layer": "Twice", "factor": {"class_name": "Twice", "config": {}}}))


@pytest.mark.parametrize(
    ("base", "group"),
    [
        (keras.metrics.Metric, "metrics"),
        (keras.callbacks.Callback, "callbacks"),
        (keras.losses.Loss, "losses"),
        (keras.initializers.Initializer, "initializers"),
        (keras.optimizers.schedules.LearningRateSchedule, "schedules"),
    ],
)
def test_the_group_follows_from_the_base_class(base, group):
    cls = type("Own", (base,), {"__init__": lambda self: None})
    registry.register(cls)
    assert objects.find(group, "Own") is cls


def test_it_works_as_a_decorator():
    @registry.register
    class Plain(keras.callbacks.Callback):
        """Does nothing."""

    @registry.register(argument_kinds={"depth": "int>0"})
    class Deep(keras.callbacks.Callback):
        """Does nothing, deeply."""

        def __init__(self, depth):
            super().__init__()

    assert objects.find("callbacks", "Plain") is Plain
    assert arguments.entry("callbacks", "Deep")["args"] == {"depth": {"kind": "int>0", "required": True}}
    assert Deep.argument_kinds == {"depth": "int>0"}


def test_a_name_that_specs_have_is_refused_unless_it_shall_be_replaced():
    mine = make_layer_class("Dense")
    with pytest.raises(CallError, match="layers have a 'Dense' already; rename the class, or say replace=True"):
        registry.register(mine)
    assert objects.find("layers", "Dense") is keras.layers.Dense
    registry.register(mine, replace=True)
    assert objects.find("layers", "Dense") is mine


def test_a_cell_that_runs_again_replaces_its_class():
    registry.register(make_layer_class())
    again = make_layer_class()
    registry.register(again)
    assert objects.find("layers", "Twice") is again


@pytest.mark.parametrize(
    ("thing", "more", "message"),
    [
        (3, {}, "expected a class, got 3"),
        (dict, {}, "dict is no Layer, Metric, Callback"),
        (keras.layers.Dense, {"group": "layer"}, "no group 'layer'; did you mean 'layers'"),
        (keras.layers.Dense, {"group": "metrics"}, "Dense is no Metric, as 'metrics' are"),
    ],
)
def test_a_class_that_cannot_be_registered_is_refused(thing, more, message):
    with pytest.raises(CallError, match=message):
        registry.register(thing, **more)


def test_a_foreign_layer_is_registered_by_its_config_and_goes_through_to_spec():
    class Foreign(keras.layers.Layer):
        """Says what its arguments are only in its config."""

        def __init__(
            self,
            width,
            mode,
            sizes=None,
            padding=(1, 1),
            kernel_size=3,
            act="relu",
            kernel_initializer="ones",
            **kwargs,
        ):
            super().__init__(**kwargs)
            self.given = {"width": width, "mode": mode, "sizes": sizes, "padding": padding, "kernel_size": kernel_size}
            self.given["act"] = act
            self.kernel_initializer = keras.initializers.get(kernel_initializer)

        def call(self, inputs):
            return inputs * self.given["width"]

        def get_config(self):
            initializer = keras.initializers.serialize(self.kernel_initializer)
            return {**super().get_config(), **self.given, "kernel_initializer": initializer}

    registry.register(Foreign)
    inputs = keras.Input((4, 4, 3))
    made = keras.Model(inputs, Foreign(2, "fast", sizes=[[1, 2], [3, 4]], kernel_size=5)(inputs))
    spec = to_spec(made)
    assert spec.document["model"] == [
        {"layer": "Foreign", "width": 2, "mode": "fast", "sizes": [[1, 2], [3, 4]], "kernel_size": 5}
    ]
    pixels = np.ones((1, 4, 4, 3), "float32")
    assert np.array_equal(build(spec)(pixels), 2 * pixels)


def test_two_names_of_one_activation_are_equal_and_a_failing_config_is_reported():
    class Block(keras.layers.Layer):
        def __init__(self, activation="relu", broken=False, **kwargs):
            super().__init__(**kwargs)
            self.activation, self.broken = activation, broken

        def call(self, inputs):
            return keras.activations.get(self.activation)(inputs)

        def get_config(self):
            if self.broken:
                raise TypeError("no such thing")
            return {**super().get_config(), "activation": self.activation, "broken": self.broken}

    registry.register(Block)
    inputs = keras.Input((4, 4, 3))
    spec = to_spec(keras.Model(inputs, Block("hard_swish")(inputs)))
    assert spec.document["model"] == [{"layer": "Block", "activation": "hard_swish"}]
    with pytest.raises(SpecError, match="is a Block whose get_config fails: no such thing"):
        to_spec(keras.Model(inputs, Block(broken=True)(inputs)))


def test_all_arguments_of_unknown_kind_are_named_at_once():
    class Odd(keras.layers.Layer):
        def __init__(self, thing, other, units=3):
            super().__init__()

    with pytest.raises(CallError) as caught:
        registry.register(Odd)
    assert str(caught.value) == (
        "register: layers: Odd.thing, Odd.other: of unknown kind; say what they take, "
        'argument_kinds={name: "int>0", ...}, or give the class a get_config'
    )


def test_an_argument_of_unknown_kind_is_an_error_that_says_what_to_do():
    class Odd(keras.layers.Layer):
        def __init__(self, thing):
            super().__init__()

    with pytest.raises(CallError, match=r"Odd\.thing: of unknown kind.*argument_kinds"):
        registry.register(Odd)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a package whose plugin is the given text, under the given name."""

    def install(name, text, entry):
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[kerasimg.plugins]\n{name} = {module}{entry}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    monkeypatch.syspath_prepend(tmp_path)
    return install


PLUGIN = """
import keras
from kerasimg.models.registry import register

class {name}(keras.layers.Layer):
    '''From a package.'''

def load():
    register({name})
"""


def test_a_plugin_is_loaded_only_when_it_is_asked_for(installed):
    installed("one", PLUGIN.format(name="FromOne"), ":load")
    installed("two", PLUGIN.format(name="FromTwo") + "load()\n", "")
    assert "one" not in sys.modules
    with pytest.raises(SpecError, match="no layer 'FromOne'"):
        build(spec({"layer": "FromOne"}))
    assert registry.load_plugins(["one"]) == ["one"]
    assert arguments.entry("layers", "FromOne")["doc"] == "From a package."
    assert "two" not in sys.modules
    assert set(registry.load_plugins()) >= {"one", "two"}
    assert arguments.entry("layers", "FromTwo")


def test_a_plugin_that_is_not_there_is_named(installed):
    installed("one", PLUGIN.format(name="FromOne"), ":load")
    with pytest.raises(CallError, match=r"no plugin 'onne'; did you mean 'one'\? \(installed: .*one"):
        registry.load_plugins(["onne"])


def test_a_plugin_that_fails_is_named(installed):
    installed("broken", "raise RuntimeError('no luck')", "")
    with pytest.raises(CallError, match=r"plugin 'broken' \(broken\): RuntimeError: no luck"):
        registry.load_plugins(["broken"])


def test_of_a_registered_layer_of_several_outputs_a_node_has_the_first():
    class Both(keras.layers.Layer):
        def __init__(self, extra=None, **kwargs):
            super().__init__(**kwargs)
            self.extra = extra
            self.layers = [keras.layers.Dense(2)]  # never called

        def build(self, shape):
            self.layers[0].build(shape)

        def call(self, inputs):
            return inputs * 2, inputs * 3

        def get_config(self):
            return {**super().get_config(), **({"inner": 1} if self.extra else {})}

    inputs = keras.Input((4, 4, 3))
    made = keras.Model(inputs, Both()(inputs)[0], name="made")
    with pytest.raises(SpecError, match=r"gives 2 outputs, and a node has one: rewrite it .*, or register it"):
        to_spec(made)
    registry.register(Both)
    spec = to_spec(made)
    assert spec.document["model"] == [{"layer": "Both"}]
    pixels = np.ones((1, 4, 4, 3), "float32")
    assert np.array_equal(build(spec)(pixels), made(pixels))
    with pytest.raises(SpecError, match="gives 2 outputs"):
        to_spec(keras.Model(inputs, Both()(inputs)[1]))
    with pytest.raises(SpecError, match="a Both whose get_config gives inner, which its constructor does not take"):
        to_spec(keras.Model(inputs, Both(extra=1)(inputs)[0]))


def test_activations_in_the_config_of_a_foreign_layer_are_named_whichever_way_they_are_serialized():
    class Activated(keras.layers.Layer):
        def __init__(self, activation="relu", **kwargs):
            super().__init__(**kwargs)
            self.activation = activation

        def call(self, inputs):
            return keras.activations.get(self.activation)(inputs)

        def get_config(self):
            activation = self.activation
            if callable(activation):  # a dict {"class_name": "function", "config": "relu"}, as KerasHub writes
                activation = keras.saving.serialize_keras_object(activation)
            return {**super().get_config(), "activation": activation}

    registry.register(Activated)
    inputs = keras.Input((4, 4, 3))
    serialized = keras.saving.serialize_keras_object(keras.activations.gelu)
    assert serialized["class_name"] == "function"
    for activation in ("gelu", keras.activations.gelu, serialized):
        made = keras.Model(inputs, Activated(activation)(inputs))
        spec = to_spec(made)
        assert spec.document["model"] == [{"layer": "Activated", "activation": "gelu"}]
        pixels = np.linspace(-3, 3, 48, dtype="float32").reshape(1, 4, 4, 3)
        assert np.array_equal(build(spec)(pixels), made(pixels))
    for activation, label in ((twice, "'twice'"), (lambda x: x, "a lambda")):
        with pytest.raises(
            SpecError, match=f"has an activation of its own, {label}, which is not in keras.activations"
        ):
            to_spec(keras.Model(inputs, Activated(activation)(inputs), name="made"))


def twice(inputs):
    return 2 * inputs
