"""Export targets. One class per target defines everything about it; the registry finds the classes.

To add one: a module in this package with a `Target`, or in a package of your own a `Target` that the entry point group
`kerasimg.targets` names. Its name in the command line, its rows in the docs, its README, its runtime for comparing,
measuring and serving follow from the class.
"""

from __future__ import annotations

import functools
import inspect
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
from kerasimg.deploy.manifest import ModelFile, Precision
from kerasimg.deploy.quiet import silence
from kerasimg.deploy.runtimes import Runtime
from kerasimg.errors import CallError, listed, nearest

if TYPE_CHECKING:
    import keras

    from kerasimg.deploy.export_context import Exporting, Options

GROUP = "kerasimg.targets"
"""The entry point group through which other packages add targets: `name = module:Class`."""

Images = Callable[[], Iterator[np.ndarray]]
"""Returns batches of images, float32, for int8 calibration."""


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
    needs_tensorflow: ClassVar[bool] = True
    """Whether it converts with TensorFlow; under JAX and PyTorch this is done in a process of its own."""
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
            images: returns batches for int8 calibration.

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
        path = self.file.format(precision=precision)
        self.convert_exporting(exporting, folder / path, precision)
        return self.describe(path, precision, exporting)

    def convert_exporting(self, exporting: Exporting, path: Path, precision: Precision) -> None:
        """As `convert`, for the exported classifier; errors name the layer that cannot be written."""
        from kerasimg.deploy.unsupported import name_layer_in_errors

        options = self.options_for(exporting, precision)

        def convert_layer(layer: keras.Model) -> None:
            with TemporaryDirectory() as scratch:
                self.convert_model(
                    layer, Path(scratch) / path.name, precision, replace(options, batch=None, activation=None)
                )

        model = self.model_of(exporting, precision)
        with name_layer_in_errors(self.name, model, convert_layer, self.advice(options)), silence(lambda error: True):
            images = functools.partial(exporting.representative, exporting.batch)
            self.convert(model, exporting.signature(exporting.batch), path, precision, options, images)

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
            lambda: iter([inputs] if len(inputs) > 1 else [inputs[0][k : k + 1] for k in range(len(inputs[0]))]),
        )

    def options_for(self, exporting: Exporting, precision: Precision) -> Options:
        """Returns the options for one precision."""
        return exporting.options

    def model_of(self, exporting: Exporting, precision: Precision) -> keras.Model:
        """Returns the model to convert, from pixels (0-255) to probabilities."""
        return exporting.model

    def describe(self, path: str, precision: Precision, exporting: Exporting) -> ModelFile:
        """Returns the manifest entry for a written file."""
        return ModelFile(
            path=path, runtime=self.runtime.kind, precision=precision, input_dtype="float32", batch=exporting.batch
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
    own = [module.name for module in pkgutil.iter_modules(__path__)]
    return tuple(sorted({*own, *REGISTERED, *(point.name for point in entry_points(group=GROUP))}))


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
    if name in (module.name for module in pkgutil.iter_modules(__path__)):
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
    for each in targets():
        if each.runtime.kind == model.runtime:
            return each
    raise CallError(f"'{model.path}' runs in '{model.runtime}', which no installed export target provides")


def served() -> tuple[str, ...]:
    """Returns the names of the targets whose models run without TensorFlow, so that a server can run them."""
    return tuple(each.name for each in targets() if each.runtime.package is not None)


def open_runtime(bundle: Bundle, model: ModelFile | str | None = None, *, threads: int | None = None) -> Runtime:
    """Opens a model of a bundle.

    Args:
        bundle: an open bundle.
        model: one of the bundle's models, its path or its precision; None: the first.
        threads: number of threads per call; None: one per core.

    Raises:
        CallError: if the runtime is not installed; names the package.
        WeightsError: if the file is damaged.
    """
    chosen = model if isinstance(model, ModelFile) else bundle.model(model)
    where = bundle.model_path(chosen)
    return target_of(chosen).runtime(where, chosen, threads).for_bundle(bundle)


def open_here(bundle: Bundle, model: ModelFile) -> Runtime:
    """As `open_runtime`, with the fallback runtime if the target's is not installed."""
    fallback = target_of(model).fallback()
    return open_runtime(
        bundle, model if fallback is None else model.model_copy(update={"runtime": fallback.runtime.kind})
    )
