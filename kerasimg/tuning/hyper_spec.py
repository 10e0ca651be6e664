"""`kerasimg.HyperSpec`: a spec for those who have KerasTuner code of their own."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import keras_tuner
import numpy as np

from kerasimg.catalog import Reference, load_with
from kerasimg.data.cache import Cache
from kerasimg.data.source import Source
from kerasimg.data.sources import open_source
from kerasimg.errors import CallError
from kerasimg.keras_internals import skip_tensorboard
from kerasimg.models.build import Built
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.spec.load import Spec
from kerasimg.training.auto_settings import Choices, Probe
from kerasimg.training.distillation import check_teacher_place
from kerasimg.training.engine import Engine, Hooks, total_epochs
from kerasimg.training.objective import make_objective
from kerasimg.training.optimizer import learning_rate, make_optimizer
from kerasimg.training.prepare import Experiment, Models, Sized, check_images, make_models, prepare, weights_of
from kerasimg.training.splits import Parts
from kerasimg.tuning.space import declare, resolve, space_of


class HyperSpec(keras_tuner.HyperModel):
    """The models that a spec with search values can be, for any tuner of KerasTuner.

    Each search value is a hyperparameter named by its path, in conditional scopes; `build` gives a compiled model, and
    `fit` trains it as `kerasimg.train` would. tensorboard is needed only for its own callback.

    Args:
        spec: a zoo name, the path of a spec, a `.kerasimg` file, a dict, or a loaded spec.
        weights: as for `kerasimg.build`.
        limits: as for `kerasimg.build`.
        overrides: edits by path.
        params: values of the spec's params.
        **more_params: values of the spec's params, as keywords.

    Raises:
        SpecError: if the spec is wrong.

    Example:
        >>> import keras_tuner
        >>> hyper = kerasimg.HyperSpec("search.json", num_classes=2)
        >>> tuner = keras_tuner.RandomSearch(hyper, objective="val_loss", max_trials=1, directory="by_tuner")
        >>> tuner.search("photos/", verbose=0)
        >>> sorted(tuner.get_best_hyperparameters()[0].values)
        ['lr']
    """

    def __init__(
        self,
        spec: Reference,
        *,
        weights: Any = AS_THE_SPEC_SAYS,
        limits: Mapping[str, int] | None = None,
        overrides: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        **more_params: Any,
    ) -> None:
        """See the class."""
        self.spec = load_with(spec, params={**(params or {}), **more_params}, edits=overrides)
        check_teacher_place(self.spec)
        self.space = space_of(self.spec)
        super().__init__(name=self.spec.name)
        self.weights = weights_of(spec, weights)
        self.limits = limits
        self._built_models: WeakKeyDictionary[Any, _Entry] = WeakKeyDictionary()
        self._opened: tuple[tuple[Any, Any], Source, Parts | None] | None = None
        self._cache = Cache("auto")
        self._choices = Choices(limits)

    def resolve(self, hp: Any) -> Spec:
        """Returns the spec with the values of a `keras_tuner.HyperParameters`, without search values."""
        declare(self.space, hp)
        return resolve(self.spec, self.space.values(hp.values))

    def build(self, hp: Any) -> keras.Model:
        """Returns the model for these values, compiled for its first stage."""
        _spare_tensorboard()
        spec = self.resolve(hp)
        # The number of classes does not affect the time of a step.
        spec, _ = self._choices.settle_precision(spec, Probe(spec, 2, False, self.limits))
        sized = dict(make_models(spec, self.weights, self.limits))
        sized_spec, built = sized.pop((spec.image.size[0], spec.image.size[1]))
        model = built.model
        # The entry must not refer to the model, or it would never be released.
        self._built_models[model] = sized_spec, built.members, built.inside, sized
        classes = int(spec.params.get("num_classes") or model.output_shape[-1])
        objective = make_objective(spec, model, classes)
        optimizer = make_optimizer(spec, learning_rate(spec.fit.stages[0]), model=model)
        model.compile(optimizer=optimizer, loss=objective.loss, metrics=objective.metrics)
        return model

    def fit(self, hp: Any, model: keras.Model, *data: Any, **kwargs: Any) -> Any:
        """Train a model of `build` by the stages of the spec; return a `keras.callbacks.History`.

        data: (x, y) as arrays, or a folder or file as for `kerasimg.train`; the metrics are those of `train`. Anything
        else, for example a tf.data.Dataset, is passed to `model.fit`.
        validation_data: (x, y) as arrays; default: a share of the images, `fit.validation_split`.
        epochs, initial_epoch, callbacks, verbose: as for `model.fit`; default epochs: those of the stages.
        The callbacks run after those of the spec, and see the whole model.
        """
        if model not in self._built_models:
            raise CallError("fit: the model was not made by this object's build")
        spec, members, inside, others = self._built_models[model]
        if not _is_ours(data):
            return model.fit(*data, **{"epochs": total_epochs(spec), **kwargs})
        size = (spec.image.size[0], spec.image.size[1])
        sized: Models = {size: Sized(spec, Built(model, members, inside)), **others}
        return self._fit(spec, sized, data, **kwargs)

    def _fit(
        self,
        spec: Spec,
        sized: Models,
        data: Sequence[Any],
        *,
        validation_data: Any = None,
        epochs: int | None = None,
        initial_epoch: int = 0,
        callbacks: Sequence[Any] = (),
        verbose: int | str = "auto",
    ) -> Any:
        last = total_epochs(spec) if epochs is None else epochs
        if initial_epoch >= last:
            raise CallError("fit: no epoch is left to be trained")
        source, parts = self._source(spec, data, validation_data)
        experiment = prepare(
            spec,
            source,
            limits=self.limits,
            on_bad_image=None,
            cache=self._cache,
            parts=parts,
            choices=self._choices,
            make=lambda spec: sized,
            distribute=False,
        )
        engine = Engine(
            experiment,
            hooks=_Tuner(callbacks, experiment),
            first=initial_epoch,
            last=last,
            verbose=verbose,
        )
        engine.train()
        return _as_keras(engine.rows, experiment.built.model)

    def _source(self, spec: Spec, data: Sequence[Any], validation: Any) -> tuple[Source, Parts | None]:
        """Returns the images and, if there is validation data, their parts; they are opened and checked once."""
        arrays = data[0], None if validation is None else validation[0]
        if self._opened is None or any(old is not new for old, new in zip(self._opened[0], arrays, strict=True)):
            images = data[0] if len(data) == 1 else tuple(data)
            source, parts = open_source(images, spec.task, positive=spec.positive_class), None
            if validation is not None:
                source, parts = _with_validation(spec, data, validation)
            self._opened = arrays, check_images(source, spec, "fail", self._cache), parts
        return self._opened[1:]


_Entry = tuple[Spec, Any, Any, Models]
"""The spec of a model, its members and those inside its backbones, and the models of other image sizes."""


class _Tuner(Hooks):
    """The callbacks of a tuner, or of the caller of `HyperSpec.fit`."""

    def __init__(self, callbacks: Sequence[Any], experiment: Experiment) -> None:
        self.given, self.experiment = list(callbacks or ()), experiment

    def callbacks(self, model: Any, whole: keras.Model) -> list[Any]:
        """Returns callbacks that see the built model, also if a part of it, or a copy of another size, is trained."""
        built = self.experiment.built.model
        return self.given if model is built else [_OnBuilt(self.given, built, whole)] if self.given else []


class _OnBuilt(keras.callbacks.CallbackList):
    """Runs callbacks on the built model while its trainable part, or a copy of another image size, is trained."""

    def __init__(self, callbacks: Sequence[Any], built: keras.Model, whole: keras.Model) -> None:
        """whole: the model of the stage, `built` or a copy of another image size."""
        self.built, self.whole = built, whole
        super().__init__(callbacks)

    def set_model(self, model: Any) -> None:
        """Give the callbacks the built model instead of the trained one."""
        if model is None:
            return
        self.trained = model
        super().set_model(self.built)
        self.built.optimizer, self.built.stop_training = model.optimizer, False

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Run the callbacks with the weights of this epoch; they may change the weights or end the training."""
        self._on_weights(super().on_epoch_end, epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Run the callbacks with the weights at the end of a stage."""
        self._on_weights(super().on_train_end, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Run the callbacks, which may end the training."""
        super().on_train_batch_end(batch, logs)
        self.trained.stop_training |= self.built.stop_training

    def _on_weights(self, event: Callable[..., None], *arguments: Any) -> None:
        if self.whole is not self.built:
            self.built.set_weights(self.whole.get_weights())
        event(*arguments)
        self.trained.stop_training |= self.built.stop_training
        if self.whole is not self.built:
            self.whole.set_weights(self.built.get_weights())


def _is_ours(data: Sequence[Any]) -> bool:
    if len(data) == 1:
        return isinstance(data[0], str | os.PathLike)
    return len(data) == 2 and all(isinstance(item, np.ndarray | list) for item in data)


def _with_validation(spec: Spec, data: Sequence[Any], validation: Any) -> tuple[Source, Parts]:
    """Returns both as one source, with the second as its validation part."""
    (x, y), (x_val, y_val) = data, validation
    images = np.concatenate([x, x_val]), np.concatenate([y, y_val])
    source = open_source(images, spec.task, positive=spec.positive_class)
    return source, {"train": np.arange(len(x)), "validation": np.arange(len(x), len(x) + len(x_val))}


def _as_keras(rows: Sequence[Mapping[str, Any]], model: keras.Model) -> keras.callbacks.History:
    """Returns the rows of the epochs as the history that `model.fit` returns."""
    history = keras.callbacks.History()
    history.set_model(model)
    history.epoch = [int(row["epoch"]) - 1 for row in rows]
    names = [name for name in rows[-1] if name not in ("stage", "epoch", "seconds", "learning_rate")]
    history.history = {name: [row[name] for row in rows if name in row] for name in names}
    return history


def _spare_tensorboard() -> None:
    """Let the tuner that builds this model work without tensorboard if that is not installed.

    KerasTuner 1.4.8 imports it before every trial, even without a TensorBoard callback, and the trial fails. A tuner
    builds a model before its first trial. Only that tuner object is changed, not KerasTuner.
    """
    if importlib.util.find_spec("tensorboard") is not None:
        return
    frame = inspect.currentframe()
    while frame is not None:
        tuner = frame.f_locals.get("self")
        if isinstance(tuner, keras_tuner.Tuner):
            skip_tensorboard(tuner, _without_tensorboard)
            return
        frame = frame.f_back


def _without_tensorboard(callbacks: Sequence[Any], trial: Any, execution: int = 0) -> None:
    if any(type(callback).__name__ == "TensorBoard" for callback in callbacks):
        raise CallError("the callback TensorBoard needs tensorboard: pip install 'kerasimg[tensorboard]'")
