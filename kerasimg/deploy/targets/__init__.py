"""Export targets. One class per target defines everything about it; the registry finds the classes.

To add one: a module in this package with a `Target`, or in a package of your own a `Target` that the entry point group
`kerasimg.targets` names. Its name in the command line, its README, its runtime for comparing, measuring and
serving follow from the class.
"""

from __future__ import annotations

import inspect
import itertools
import pkgutil
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.manifest import ModelFile, Output, Precision
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.runtimes import Runtime
from kerasimg.errors import CallError, listed, nearest

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Exporting, Options

GROUP = "kerasimg.targets"
"""The entry point group through which other packages add targets: `name = module:Class`."""

Images = Callable[[], Iterator[list[np.ndarray]]]
"""Returns the inputs of each call of int8 calibration, float32: one array for each input of the model."""


class Target(ABC):
    """A format to export to, with all its facts.

    Example:
        class Coffee(Target):
            name, about, runtime = "coffee", "a .bean file, for Coffee Runtime", CoffeeRuntime
            file = "model.bean"
            packages, extra = ("coffee",), "coffee"

            def convert(self, model, signature, path, precision, options, images):
                coffee.from_keras(model).save(path)
    """

    name: ClassVar[str]
    """Name in the command line, in the manifest, and of the bundle's folder."""
    about: ClassVar[str]
    """One-line description for the user."""
    runtime: ClassVar[type[Runtime]]
    """Class that runs its models."""
    file: ClassVar[str]
    """File name of a model; `{precision}` is replaced."""
    precisions: ClassVar[tuple[Precision, ...]] = ("float32",)
    """Supported precisions; the first is the default."""
    batch: ClassVar[int | None] = None
    """Default batch size; None: any."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages required, except TensorFlow."""
    extra: ClassVar[str] = ""
    """Extra of kerasimg that installs them."""
    integers_only: ClassVar[bool] = False
    """Whether an int8 model computes in integers wherever it can."""
    needs_tensorflow: ClassVar[bool] = True
    """Whether it converts with TensorFlow; under JAX and PyTorch this is done in a process of its own."""
    learns: ClassVar[bool] = False
    """Whether what is exported can learn new classes."""
    p_values: ClassVar[tuple[Precision, ...]] = ()
    """Precisions in which models also give the p-values of images, if the classifier has a rule for them. `convert`
    then gets a model whose outputs are a dict, "probabilities" and "p_value", and writes them in this order."""
    measured: ClassVar[bool] = True
    """Whether `measure` includes it by default if it is installed."""
    snippets: ClassVar[Mapping[str, str]] = {}
    """Heading in the bundle's README -> Jinja template of the code below it. Templates are in `templates/` beside the
    class's module, or in `kerasimg/deploy/templates`."""
    files: ClassVar[Mapping[str, str]] = {}
    """Further files of a bundle -> Jinja template of each."""

    def convert(
        self,
        model: keras.Model,
        signature: Sequence[Any],
        path: Path,
        precision: Precision,
        options: Options,
        images: Images,
    ) -> None:
        """Writes a Keras model to a file and checks that the runtime opens it.

        Args:
            model: float32, without augmentation.
            signature: input signature, as for `keras.Model.export`.
            path: the file, or folder, to write.
            precision: one of `precisions`.
            options: the caller's options.
            images: returns the inputs of each call of int8 calibration, one array for each input of the model.

        Raises:
            Exception: whatever the converter or the runtime raises; `write` turns it into a CallError that names the
                layer and the operation.
        """
        raise NotImplementedError

    def write(self, exporting: Exporting, folder: Path, precision: Precision) -> ModelFile:
        """Writes the model of one precision into a bundle's folder and describes it.

        Raises:
            CallError: if the target has no operation for one of the layers; the message names layer and operation.
        """
        path = self.path_of(precision)
        self.convert_exporting(exporting, folder / path, precision)
        return self.describe(path, precision, exporting)

    def convert_exporting(self, exporting: Exporting, path: Path, precision: Precision) -> None:
        """As `convert`, for the exported classifier; errors name the layer that cannot be written."""
        from kerasimg.deploy.unsupported import name_layer_in_errors

        options = self.options_for(exporting, precision)

        def convert_layer(layer: keras.Model) -> None:
            with TemporaryDirectory() as scratch:
                self.convert_model(
                    layer, Path(scratch) / path.name, precision, replace(options, batch=None, fallback=None)
                )

        model = self.model_of(exporting, precision)
        with name_layer_in_errors(self.name, model, convert_layer, self.advice(options)), silence(lambda error: True):
            signature = exporting.signature(exporting.batch)
            batches = exporting.representative
            self.convert(model, signature, path, precision, options, lambda: ([x] for x in batches(exporting.batch)))

    def convert_model(
        self, model: keras.Model, path: Path, precision: Precision, options: Options, values: Sequence[Any] = ()
    ) -> None:
        """As `convert`, for any model with float32 inputs and outputs; calibrates on `values`, by default random."""
        from kerasimg.deploy.unsupported import signature_of

        random = np.random.default_rng(0)
        inputs = list(values) or [
            random.normal(size=(1, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs
        ]
        self.convert(
            model,
            signature_of(model),
            path,
            precision,
            replace(options, input_dtype="float32"),
            lambda: iter([inputs] if len(inputs) > 1 else [[inputs[0][k : k + 1]] for k in range(len(inputs[0]))]),
        )

    def path_of(self, precision: Precision) -> str:
        """Returns the file name of the model of one precision."""
        return self.file.format(precision=precision)

    def options_for(self, exporting: Exporting, precision: Precision) -> Options:
        """Returns the options for one precision. int8 and int4 may leave operations in float32, except on a
        microcontroller.
        """
        chosen = precision in ("int8", "int4") and not self.integers_only
        return replace(exporting.options, fallback=exporting.fallback(exporting.batch) if chosen else None)

    def model_of(self, exporting: Exporting, precision: Precision) -> keras.Model:
        """Returns the model to convert, from pixels (0-255) to probabilities."""
        outputs = self.outputs_of(exporting, precision)
        return exporting.model if len(outputs) == 1 else exporting.model_with(outputs)

    def outputs_of(self, exporting: Exporting, precision: Precision) -> list[Output]:
        """Returns the names of the outputs of the model of one precision, in their order."""
        given = precision in self.p_values and exporting.classifier.known is not None
        return ["probabilities", "p_value"] if given else ["probabilities"]

    def describe(self, path: str, precision: Precision, exporting: Exporting) -> ModelFile:
        """Returns the manifest entry for a written file."""
        return ModelFile(
            path=path,
            runtime=self.runtime.kind,
            precision=precision,
            input_dtype="float32",
            batch=exporting.batch,
            outputs=self.outputs_of(exporting, precision),
        )

    def advice(self, options: Options) -> str:
        """Returns the advice for a layer that cannot be written."""
        return "use another target"

    def fallback(self) -> Target | None:
        """Returns a target whose runtime can run the same file if this one's runtime is not installed."""
        return None

    def fit(self, options: Options) -> Options:
        """Returns the options with the target's defaults.

        Raises:
            CallError: if the target does not support the options, or a package is not installed.
        """
        self.require()
        unfit = [precision for precision in options.precisions if precision not in self.precisions]
        if unfit:
            raise CallError(f"{self.name}: no precision {listed(unfit)} (available: {', '.join(self.precisions)})")
        if options.trainable and not self.learns:
            raise CallError(f"{self.name}: only a page can learn new classes (trainable): export to web")
        return replace(
            options,
            precisions=options.precisions or self.precisions[:1],
            batch=self.batch if options.batch is None else options.batch,
        )

    def missing(self) -> list[str]:
        """Returns the packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def require(self) -> None:
        """Raises a CallError that says what to install if a package is missing."""
        if missing := self.missing():
            raise CallError(f'{self.name} needs {", ".join(missing)}: pip install "kerasimg[{self.extra}]"')


def names() -> tuple[str, ...]:
    """Returns the names of all targets, without importing one."""
    return tuple(sorted({*_own_names(), *REGISTERED, *(point.name for point in entry_points(group=GROUP))}))


def _own_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


REGISTERED: dict[str, type[Target]] = {}
"""Targets that `register` added."""


def register(cls: type[Target]) -> type[Target]:
    """Adds a target for this process; the entry point group `kerasimg.targets` adds one for good."""
    REGISTERED[cls.name] = cls
    return cls


def target(name: str) -> Target:
    """Returns the target with a name.

    Raises:
        CallError: if there is none, or the package that adds it cannot be loaded.
    """
    if name in REGISTERED:
        return REGISTERED[name]()
    if name in _own_names():
        classes = [cls for cls in vars(import_module(f"{__name__}.{name}")).values() if inspect.isclass(cls)]
        return next(cls() for cls in classes if issubclass(cls, Target) and getattr(cls, "name", None) == name)
    for point in entry_points(group=GROUP, name=name):
        try:
            cls = point.load()
        except Exception as error:
            raise CallError(f"target '{name}': {point.value} cannot be loaded: {error}") from error
        if not (inspect.isclass(cls) and issubclass(cls, Target)):
            raise CallError(f"target '{name}': {point.value} is not a subclass of {__name__}.Target")
        return cls()
    raise CallError(f"no target '{name}'{nearest(name, names())} (targets: {', '.join(names())})")


def targets() -> Iterator[Target]:
    """Yields every target, sorted by name."""
    yield from map(target, names())


def target_of(model: ModelFile) -> Target:
    """Returns the target whose runtime runs a model.

    Raises:
        CallError: if none does.
    """
    here = sorted({*REGISTERED, *_own_names()})
    # To look for other packages takes longer than to open a small model.
    for each in itertools.chain(map(target, here), (target(name) for name in names() if name not in here)):
        if each.runtime.kind == model.runtime:
            return each
    raise CallError(f"'{model.path}' runs in '{model.runtime}', which no installed export target provides")


def served() -> tuple[str, ...]:
    """Returns the names of the targets whose models run without TensorFlow, so that a server can run them.

    Those that compute several images at once come first.
    """
    able = [each for each in targets() if each.runtime.package is not None]
    return tuple(each.name for each in sorted(able, key=lambda each: not each.runtime.in_batches))


def open_runtime(
    bundle: Bundle, model: ModelFile | str | None = None, *, threads: int | None = None, device: str = "cpu"
) -> Runtime:
    """Opens a model of a bundle.

    Args:
        bundle: an open bundle.
        model: one of the bundle's models, its path or its precision; None: the first.
        threads: number of threads per call; None: one per core.
        device: "cpu" or "gpu".

    Raises:
        CallError: if the runtime is not installed, or does not run on that device; says what to install or export.
        WeightsError: if the file is damaged.
    """
    chosen = model if isinstance(model, ModelFile) else bundle.model(model)
    where = bundle.model_path(chosen)
    runtime: Any = target_of(chosen).runtime
    if device == "cpu":
        return runtime(where, chosen, threads).for_bundle(bundle)
    if device not in runtime.devices:
        able = [each.name for each in targets() if device in each.runtime.devices]
        raise CallError(
            f"device {device}: '{where.name}' runs in {runtime.kind}, on the CPU alone; "
            f"export for {listed(able)}: kerasimg export RUN --to {able[0]}"
        )
    return runtime(where, chosen, threads, device).for_bundle(bundle)


def open_here(bundle: Bundle, model: ModelFile) -> Runtime:
    """As `open_runtime`, with the fallback runtime if the target's is not installed."""
    fallback = target_of(model).fallback()
    return open_runtime(
        bundle, model if fallback is None else model.model_copy(update={"runtime": fallback.runtime.kind})
    )
