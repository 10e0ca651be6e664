"""Spec -> keras.Model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import keras

from kerasimg.boundary import reason_of
from kerasimg.catalog import Reference, load_to_build, merged_params, own_weights
from kerasimg.compile_cache import open_compile_cache
from kerasimg.errors import CallError, Fault, SpecError
from kerasimg.models import weights as weights_files
from kerasimg.models.budget import Budget, NoInitialValue, deferred_variables
from kerasimg.models.checkpoint_files import load_hub_weights
from kerasimg.models.graph import AS_THE_SPEC_SAYS, Applied, Graph, functional
from kerasimg.models.weights import Weights
from kerasimg.spec.load import Spec
from kerasimg.spec.pack import is_pack


class Built(NamedTuple):
    """A model, and which of its layers belong to which node of the spec."""

    model: keras.Model
    members: Mapping[str, Sequence[str]]
    inside: Mapping[str, Mapping[str, Sequence[str]]] = {}
    """The same of each backbone that is a spec, by the name of its layer."""


def build(
    spec: Reference,
    *,
    weights: Weights = "spec",
    limits: Mapping[str, int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    **more_params: Any,
) -> keras.Model:
    """Build the Keras model of a spec.

    Args:
        spec: a zoo name, the path of a spec or of a `.kerasimg` file, a dict, or a loaded spec.
        weights: "spec": as the spec says. None: random. "imagenet" or the path of a `.weights.h5` file: for the
            backbone, or for the whole model where there is no backbone; for several backbones `{node name: weights}`.
            The path of a `.kerasimg` file: for the whole model, except a head for other classes.
        limits: `{"params": n, "tensor": n}`, beyond which nothing is allocated.
        overrides: edits by path.
        params: values of the spec's params.
        **more_params: values of the spec's params, as keywords.

    Returns:
        A plain functional `keras.Model`, which takes images of 0-255, (N, height, width, channels).

    Raises:
        SpecError: if the spec is wrong or its model too large.
        WeightsError: if weights are missing or do not fit.

    Example:
        >>> kerasimg.build("simple_cnn", num_classes=3).output_shape
        (None, 3)
    """
    if weights == AS_THE_SPEC_SAYS:
        weights = own_weights(spec) or weights
    loaded = load_to_build(spec, overrides=overrides, params=merged_params(params, more_params))
    return construct(loaded, weights=weights, limits=limits).model


def construct(
    spec: Spec,
    *,
    weights: Any = AS_THE_SPEC_SAYS,
    limits: Mapping[str, int] | None = None,
    visitor: type[Graph] = Graph,
    inspect: Callable[[keras.Model], None] | None = None,
) -> Built:
    """As `build`, and the layers of each node.

    visitor: makes them.  inspect: called with the model before its variables have values.
    """
    open_compile_cache()
    packed = Path(weights) if is_pack(weights) else None
    graph = visitor(spec, Budget(limits), None if packed else weights)
    with _naming(spec), deferred_variables() as from_file:
        image = keras.Input(shape=(*spec.image.size, spec.image.channels), name="image")
        model = functional(spec, image, graph.make(image), spec.name)
        _check_expectation(spec, model)
        _check_penalties(spec, model)
        whole = None if packed else _check_given_weights(graph, weights)
        if inspect is not None:
            inspect(model)
        from_file += graph.from_file
        if packed is not None or whole is not None:
            # The head stays as it is drawn if the file has one for other classes.
            own = {id(variable) for variable in weights_files.head_of(model).weights}
            from_file += [variable for variable in model.weights if id(variable) not in own]
    for backbone, target, source in graph.from_hub:
        load_hub_weights(backbone, target, source, construct_without_weights)
    for finish in graph.later:
        finish()
    if packed is not None:
        weights_files.load_pack(model, packed, but_the_head=True)
    elif whole is not None:
        weights_files.load_into(model, whole, but_the_head=weights == AS_THE_SPEC_SAYS)
    return Built(model, graph.members, graph.inside)


def construct_without_weights(spec: Spec, inspect: Callable[[keras.Model], None]) -> keras.Model:
    """Builds the model of a spec without its weights. inspect: as for `construct`."""
    return construct(spec, weights=None, inspect=inspect).model


@contextmanager
def _naming(spec: Spec) -> Iterator[None]:
    """An initializer that fails is a fault of the spec."""
    try:
        yield
    except NoInitialValue as error:
        raise SpecError([Fault(spec.file, "model", str(error))]) from None


def leaves(layers: Iterable[Any]) -> Iterator[Any]:
    """The layers, with those of nested models in place of the models."""
    for layer in layers:
        if isinstance(layer, keras.Model):
            yield from leaves([inner for inner in layer.layers if not isinstance(inner, keras.layers.InputLayer)])
        else:
            yield layer


def _check_given_weights(graph: Graph, weights: Any) -> Path | None:
    """The file with the weights of the whole model, if the caller named one; CallError for what cannot be meant."""
    names = graph.backbone_names
    if isinstance(weights, Mapping):
        if unknown := weights.keys() - set(names):
            raise CallError(f"weights: no backbone {sorted(unknown)} (backbones: {', '.join(names) or 'none'})")
        return None
    if weights == AS_THE_SPEC_SAYS:
        return weights_files.own_file(graph.spec) if not names else None
    if weights is None:
        return None
    if len(names) > 1:
        raise CallError(f"weights: the spec has several backbones; say which: {{{names[0]!r}: ...}}")
    if names:
        return None
    if weights == "imagenet":
        image = graph.spec.image
        return weights_files.pretrained_file(graph.spec, (image.size[0], image.size[1]), image.channels, top=True)
    return weights_files.local_file(weights, graph.spec.folder, anywhere=True)


def _check_penalties(spec: Spec, model: keras.Model) -> None:
    """SpecError for a regularizer or a constraint that does not fit the shape of its variable."""
    checked = set()
    for variable in model.trainable_variables:
        for name in ("regularizer", "constraint"):
            function = getattr(variable, name)
            key = (name, repr(function and function.get_config()), type(function), len(variable.shape))
            if function is None or key in checked:
                continue
            checked.add(key)
            applied = Applied(function)
            try:
                applied.compute_output_spec(keras.KerasTensor(variable.shape, variable.dtype))
            except Exception as error:
                shape = "x".join(map(str, variable.shape))
                reason = reason_of(applied.error or error)
                message = f"the {name} of {variable.path} does not take its shape, {shape}: {reason}"
                raise SpecError([Fault(spec.file, "model", message)]) from None


def _check_expectation(spec: Spec, model: keras.Model) -> None:
    if not spec.expect_holds:
        return
    found = {"params": model.count_params(), "output": list(model.output_shape)}
    faults = [
        Fault(spec.file, f"expect.{key}", f"expected {expected}, built {found[key]}")
        for key, expected in spec.expect.model_dump().items()
        if expected is not None and expected != found[key]
    ]
    if faults:
        raise SpecError(faults)
