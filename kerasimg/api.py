"""The public functions, and the public `Run`, `Spec` and `Search`: thin over the layers below.

A `Run` and a `Search` are paths: what takes the folder of a run or the file of a spec takes them as well. A `Spec` is
the checked spec of `kerasimg.spec` with methods. Nothing heavy is imported before a function needs it: `load` and
`Spec` work without Keras, TensorFlow and NumPy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from kerasimg import catalog, log, notebook
from kerasimg.catalog import Reference
from kerasimg.errors import CallError
from kerasimg.files import read_object, write_text
from kerasimg.log import Verbose
from kerasimg.results import (
    Calibration,
    Comparison,
    Evaluation,
    LabelErrors,
    Measurement,
    Result,
    Results,
    Thresholds,
    table,
)
from kerasimg.run_folder import CLASSES, EVALUATION, METRICS, REPORT, SPEC, RunFolder
from kerasimg.spec import load as pure
from kerasimg.spec.diff import Difference, differences
from kerasimg.spec.formatting import dumps
from kerasimg.spec.nodes import NAME
from kerasimg.tuning.journal import BEST, CALL, WINNER

if TYPE_CHECKING:
    import keras
    import numpy as np
    import PIL.Image

    from kerasimg.data.audit.data_check import DataCheck
    from kerasimg.data.items import Part
    from kerasimg.data.readable import OnBadImage
    from kerasimg.data.sources import Data
    from kerasimg.deploy.bundle import Bundle
    from kerasimg.deploy.manifest import InputType, Precision
    from kerasimg.deploy.verify import Verified
    from kerasimg.evaluation.explain import Explanation
    from kerasimg.evaluation.predict import Prediction
    from kerasimg.evaluation.predictions import Predictions
    from kerasimg.models.classifier import Classifier
    from kerasimg.spec.document import Task
    from kerasimg.training.lr_find import RateSweep

    RunReference = str | os.PathLike[str] | Classifier
    """A `Run`, the folder of one, a `model.keras` or `.kerasimg` file, or a spec that brings its weights."""
    Images = str | os.PathLike[str] | bytes | PIL.Image.Image | np.ndarray | Sequence[Any]
    """A path of an image or a folder, an image as bytes, PIL.Image or array (H, W, C), or several of them."""
    Weights = str | os.PathLike[str] | Mapping[str, Any] | None
    """"spec": as the spec says. None: random. "imagenet", or the path of a `.weights.h5` or `.kerasimg` file."""
    CacheKind = Literal["auto", "memory", "disk", "off"]
    Method = Literal["grad_cam", "grad_cam_pp", "hires_cam", "integrated_gradients", "smooth_grad", "occlusion"]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, repr=False)
class Spec(pure.Spec):
    """A checked spec with every value resolved, as `kerasimg.load` returns it.

    Its sections are attributes: `image`, `augment`, `compile`, `fit`, `tune`, `params`, ...

    Example:
        >>> spec = kerasimg.load("simple_cnn", num_classes=3)
        >>> spec.fit.batch_size
        32
        >>> spec.params["num_classes"]
        3
    """

    @classmethod
    def of(cls, spec: pure.Spec) -> Spec:
        """The public form of a spec.

        Args:
            spec: a checked spec.

        Returns:
            The same spec, with methods.
        """
        return spec if isinstance(spec, cls) else cls(**{each.name: getattr(spec, each.name) for each in fields(spec)})

    def build(self, *, weights: Weights = "spec", limits: Mapping[str, int] | None = None) -> keras.Model:
        """Build the Keras model of the spec.

        Args:
            weights: as for `kerasimg.build`.
            limits: as for `kerasimg.build`.

        Returns:
            A plain functional `keras.Model`.

        Raises:
            SpecError: if the model is too large.
            WeightsError: if weights are missing or do not fit.

        Example:
            >>> kerasimg.load("simple_cnn", num_classes=3).build().output_shape
            (None, 3)
        """
        return build(self, weights=weights, limits=limits)

    def to_json(self) -> str:
        """The text of the spec, laid out as a person would write it.

        Returns:
            JSON text that `kerasimg.load` reads as this spec: as written, with parents, edits and given params merged.

        Example:
            >>> kerasimg.load("simple_cnn", num_classes=3).to_json().startswith('{')
            True
        """
        document = {**self.document, "name": self.name} if NAME.fullmatch(self.name) else dict(self.document)
        if self.given:
            document["params"] = {**document.get("params", {}), **self.given}
        return dumps(document)

    def save(self, path: PathLike) -> Path:
        """Write the spec to a file.

        Args:
            path: the `.json` file; one that exists is replaced.

        Returns:
            The path.

        Raises:
            CallError: if the folder does not exist.

        Example:
            >>> path = kerasimg.load("simple_cnn", num_classes=3).save("mine.json")
            >>> kerasimg.load(path).params["num_classes"]
            3
        """
        file = Path(path)
        if not file.parent.is_dir():
            raise CallError(f"path: no folder '{file.parent}'; create it first")
        write_text(file, self.to_json())
        return file

    def diff(self, other: Reference) -> Results[Difference]:
        """Compare the spec with another, with all defaults filled in.

        Args:
            other: a spec, a zoo name, a path or a dict.

        Returns:
            One `Difference` per value that differs: `path`, `before` (here), `after` (there).

        Raises:
            SpecError: if the other spec is wrong.

        Example:
            >>> spec = kerasimg.load("simple_cnn", num_classes=3)
            >>> print(*spec.diff(kerasimg.load(spec, overrides={"fit.batch_size": 8})))
              fit.batch_size: 32 -> 8
        """
        specs = (self, catalog.load(other, partial=True))
        before, after = ({"name": spec.name, **spec.resolved} for spec in specs)
        return Results(differences(before, after))

    def train(self, *, data: Data, out: PathLike = "runs", verbose: Verbose = 1, **options: Any) -> Run:
        """Train the spec.

        Args:
            data: labelled images, as for `kerasimg.train`.
            out: the folder in which the run gets its own folder.
            verbose: 0, 1 or 2, as for `kerasimg.train`.
            **options: further arguments of `kerasimg.train`.

        Returns:
            The finished run.

        Raises:
            KerasimgError: what `kerasimg.train` raises.

        Example:
            >>> kerasimg.load("photos.json", num_classes=2).train(data="photos/", verbose=0).finished
            True
        """
        return train(self, data=data, out=out, verbose=verbose, **options)


@dataclass(frozen=True, repr=False)
class Run(os.PathLike[str]):
    """A training run, as its folder holds it. It can be passed wherever a folder of a run can.

    Args:
        folder: the folder of the run, as `kerasimg.train` made it.

    Raises:
        CallError: if the folder holds no run.

    Example:
        >>> run = kerasimg.Run("runs/photos-1")
        >>> run.classes
        ['cat', 'dog']
        >>> run.predict("photo.jpg")[0].label in run.classes
        True
    """

    folder: Path

    def __init__(self, folder: PathLike) -> None:
        """See the class."""
        object.__setattr__(self, "folder", RunFolder.open(folder).path)

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def _files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def spec(self) -> Spec:
        """The spec that was trained, with every value resolved."""
        return load(self._files.spec_file)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model's outputs."""
        return list(self._files.required(CLASSES))

    @property
    def history(self) -> list[dict[str, float]]:
        """One row per epoch, with stage, epoch, seconds, learning_rate and the metrics."""
        return self._files.history()

    @property
    def scores(self) -> Evaluation:
        """The stored evaluation on the held-out images; CallError where there is none."""
        return Evaluation.of(self._files.required(f"{EVALUATION}/{METRICS}"))

    @property
    def finished(self) -> bool:
        """Whether the training is complete; if not, `kerasimg.resume` continues it."""
        return self._files.finished

    @property
    def model(self) -> keras.Model:
        """The trained model, a plain `keras.Model`."""
        from kerasimg.models.classifier import Classifier

        return Classifier.open(self.folder).model

    def predict(
        self, images: Images, *, on_bad_image: OnBadImage = "fail", verbose: Verbose = 1
    ) -> Results[Prediction]:
        """Classify images; see `kerasimg.predict`.

        Args:
            images: as for `kerasimg.predict`.
            on_bad_image: as for `kerasimg.predict`.
            verbose: 0, 1 or 2.

        Returns:
            One `Prediction` per image, in order.

        Raises:
            DataError: if an image cannot be read.

        Example:
            >>> [prediction] = kerasimg.Run("runs/photos-1").predict("photo.jpg")
            >>> sorted(prediction.probabilities)
            ['cat', 'dog']
        """
        return predict(self, images, on_bad_image=on_bad_image, verbose=verbose)

    def evaluate(
        self,
        data: Data | None = None,
        *,
        part: str | None = None,
        out: PathLike | None = None,
        on_bad_image: OnBadImage = "fail",
        verbose: Verbose = 1,
    ) -> Evaluation:
        """Compute the metrics of the run on labelled images; see `kerasimg.evaluate`.

        Args:
            data: as for `kerasimg.evaluate`; default: the run's held-out images.
            part: as for `kerasimg.evaluate`.
            out: as for `kerasimg.evaluate`.
            on_bad_image: as for `kerasimg.evaluate`.
            verbose: 0, 1 or 2.

        Returns:
            An `Evaluation`.

        Raises:
            DataError: if an image is missing, unreadable or has changed.

        Example:
            >>> 0 <= kerasimg.Run("runs/photos-1").evaluate().accuracy <= 1
            True
        """
        return evaluate(self, data=data, part=part, out=out, on_bad_image=on_bad_image, verbose=verbose)

    def explain(
        self,
        images: Images,
        method: Method = "grad_cam",
        target: str | Sequence[str] | None = None,
        *,
        out: PathLike | None = None,
        **options: Any,
    ) -> Results[Explanation]:
        """Show where in images the run sees a class; see `kerasimg.explain`.

        Args:
            images: as for `kerasimg.predict`.
            method: as for `kerasimg.explain`.
            target: as for `kerasimg.explain`.
            out: as for `kerasimg.explain`.
            **options: as for `kerasimg.explain`.

        Returns:
            One `Explanation` per image, in order.

        Raises:
            CallError: if the method does not fit the model.

        Example:
            >>> [explanation] = kerasimg.Run("runs/photos-1").explain("photo.jpg", "occlusion", window=4)
            >>> explanation.map.shape
            (8, 8)
        """
        return explain(self, images, method, target, out=out, **options)

    def report(self, *, out: PathLike | None = None) -> Path:
        """Write `report.html` and `MODEL_CARD.md`; see `kerasimg.report`.

        Args:
            out: another file for the page.

        Returns:
            The path of the page.

        Raises:
            CallError: if a file of the run is damaged.

        Example:
            >>> kerasimg.Run("runs/photos-1").report().name
            'report.html'
        """
        return report(self, out=out)

    def export(self, to: str | Sequence[str] = "litert", *, verbose: Verbose = 1, **options: Any) -> Results[Bundle]:
        """Export the trained model; see `kerasimg.export`.

        Args:
            to: one or several targets.
            verbose: 0, 1 or 2.
            **options: further arguments of `kerasimg.export`.

        Returns:
            One `Bundle` per target.

        Raises:
            GateError: if an exported model disagrees with the trained one.

        Example:
            >>> [bundle] = kerasimg.Run("runs/photos-1").export("keras", verbose=0)
            >>> bundle.folder.name
            'keras'
        """
        return export(self, to, verbose=verbose, **options)

    def pack(self, out: PathLike | None = None) -> Path:
        """Write the run as one file to share; see `kerasimg.pack`.

        Args:
            out: the file, which ends in `.kerasimg`.

        Returns:
            The path of the file.

        Raises:
            CallError: if there is no trained model.

        Example:
            >>> str(kerasimg.Run("runs/photos-1").pack("photos.kerasimg"))
            'photos.kerasimg'
        """
        return pack(self, out)

    def compare(self, *others: RunReference, data: Data | None = None, part: str | None = None) -> Comparison:
        """Compare the run with others on the same images; see `kerasimg.compare`.

        Args:
            *others: runs or their folders.
            data: as for `kerasimg.compare`.
            part: as for `kerasimg.compare`.

        Returns:
            A `Comparison` of each of the others with this run.

        Raises:
            CallError: if the runs have no image or no classes in common.

        Example:
            >>> kerasimg.Run("runs/photos-1").compare("runs/photos-1").n
            6
        """
        return compare(self, *others, data=data, part=part)

    def __str__(self) -> str:
        if self._files.evaluation.metrics() is None:
            return f"{self.folder} (not evaluated yet)"
        scores = self.scores
        headline = ("accuracy", "subset_accuracy", "macro_f1", "f1")
        figures = ", ".join(f"{name} {scores.figures[name]:.3f}" for name in headline if name in scores.figures)
        return f"{self.folder} ({figures}, on {scores.n:,} images)"

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        return notebook.as_html(self._files)


@dataclass(frozen=True)
class Trial(Result):
    """A trial of a search that has ended."""

    number: int
    status: str
    """completed, stopped (early), infeasible or failed."""
    score: float | None
    values: Mapping[str, Any]
    """The hyperparameters, by name."""
    seconds: float | None
    row: Mapping[str, Any]
    """Everything, as trials.csv has it."""


@dataclass(frozen=True, repr=False)
class Search(os.PathLike[str]):
    """A hyperparameter search, as its folder holds it. It is the path of the best spec, and can be passed as a spec.

    Args:
        folder: the folder of the search, as `kerasimg.tune` made it.

    Raises:
        CallError: if the folder holds no search.

    Example:
        >>> search = kerasimg.Search("runs/photos-tune-1")
        >>> len(search.trials)
        2
        >>> search.best.name
        'photos'
    """

    folder: Path

    def __init__(self, folder: PathLike) -> None:
        """See the class."""
        object.__setattr__(self, "folder", Path(folder))
        if not (self.folder / CALL).is_file():
            raise CallError(f"'{self.folder}' is not the folder of a search: it holds no {CALL}")

    def __fspath__(self) -> str:
        return str(self.folder / BEST)

    @property
    def _winner(self) -> dict[str, Any]:
        path = self.folder / WINNER
        if not path.is_file():
            raise CallError(f"the search in '{self.folder}' has not ended; to go on: kerasimg tune --resume")
        return read_object(path)

    @property
    def best(self) -> Spec:
        """The best spec, ready to train; CallError while the search has not ended."""
        self._winner  # noqa: B018 - raises it
        return load(self)

    @property
    def values(self) -> dict[str, Any]:
        """The best hyperparameters, by name."""
        return dict(self._winner["values"])

    @property
    def score(self) -> float:
        """The objective of the best trial."""
        return float(self._winner["score"])

    @property
    def trials(self) -> Results[Trial]:
        """The trials that have ended, in order."""
        from kerasimg.tuning.search import trial_rows

        names = {value.name for value in load(self.folder / SPEC, partial=True).search}
        return Results(_trial(row, names) for row in trial_rows(self.folder))

    @property
    def report(self) -> Path:
        """The page that shows the search; CallError where there is none."""
        page = self.folder / REPORT
        if not page.is_file():
            raise CallError(f"the search in '{self.folder}' has no {REPORT}: it has not ended, or report was False")
        return page

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.values.items())
        return f"{os.fspath(self)} ({self._winner['objective']} {self.score:.4g}: {values})"

    def __repr__(self) -> str:
        return f"Search({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        try:
            facts: dict[str, Any] = {"score": self.score, **self.values}
        except CallError:
            facts = {"status": "not ended"}
        return table(str(self.folder), facts) + self.trials._repr_html_()


def load(
    spec: Reference,
    *,
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
    partial: bool = False,
    **more_params: Any,
) -> Spec:
    """Read and check a spec, without Keras and TensorFlow.

    Args:
        spec: a zoo name ("mobilenet", "zoo/mobilenet.json"), the path of a file, a dict, or a loaded spec.
        overrides: edits by path, such as `{"fit.batch_size": 64}`.
        params: values of the spec's params.
        chosen: values of hyperparameters, by name.
        partial: allow required params to be missing.
        **more_params: values of the spec's params, as keywords.

    Returns:
        The checked spec.

    Raises:
        SpecError: with every error of the spec, each with its place.
        CallError: if there is no such spec.

    Example:
        >>> kerasimg.load("simple_cnn", num_classes=3, overrides={"fit.batch_size": 64}).fit.batch_size
        64
    """
    given = _params(params, more_params)
    how = {"params": given, "edits": overrides, "chosen": chosen, "partial": partial}
    return Spec.of(catalog.load_with(spec, **how))


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
    from kerasimg.models.build import construct

    if weights == "spec":
        weights = catalog.own_weights(spec) or weights
    how: dict[str, Any] = {"params": _params(params, more_params), "edits": overrides, "other_options": False}
    return construct(catalog.load_with(spec, **how), weights=weights, limits=limits).model


def dataset(
    spec: Reference,
    data: Data,
    part: Part = "train",
    *,
    cache: CacheKind = "auto",
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    **more_params: Any,
) -> Any:
    """The batches that `model.fit` takes, for a training loop of your own.

    Images are split, decoded, resized and, in the train part, shuffled and augmented as the spec says; labels have the
    form that the spec's loss takes, and samples are weighted as `fit.class_weight` says.

    Args:
        spec: a zoo name, the path of a spec, a dict, or a loaded spec.
        data: labelled images, as for `kerasimg.train`.
        part: "train", "validation" or "test".
        cache: where decoded images are cached: "auto", "memory", "disk" or "off".
        overrides: edits by path.
        params: values of the spec's params.
        **more_params: values of the spec's params, as keywords.

    Returns:
        A `tf.data.Dataset` of `(images, labels)` or `(images, labels, weights)`: one epoch, images float32 of 0-255.

    Raises:
        SpecError: if the spec is wrong.
        DataError: if the data cannot be read.
        CallError: if the data has no such part.

    Example:
        >>> images, labels = next(iter(kerasimg.dataset("photos.json", "photos/")))
        >>> tuple(images.shape), tuple(labels.shape)
        ((8, 8, 8, 3), (8,))
    """
    from kerasimg.training.dataset import dataset as batches

    given = load(spec, overrides=overrides, params=_params(params, more_params), partial=True)
    return batches(given, data, part, cache=cache)


def train(
    spec: Reference | None = None,
    *,
    data: Data,
    out: PathLike = "runs",
    weights: Weights = "spec",
    limits: Mapping[str, int] | None = None,
    on_bad_image: OnBadImage = "fail",
    cache: CacheKind = "auto",
    report: bool = True,
    tensorboard: bool = False,
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    verbose: Verbose = 1,
    **more_params: Any,
) -> Run:
    """Train a classifier, evaluate it on held-out images, and store everything in a new folder.

    Args:
        spec: a zoo name, the path of a spec, a `.kerasimg` file, whose weights the training starts from, a dict, or a
            loaded spec. None: a spec is chosen by looking at the images, as `kerasimg init` does, and stored with the
            run as `first_spec.json`.
        data: a folder with a folder per class, a manifest (.csv, .jsonl), an .npz, `(images, labels)`, or "sample"; see
            the page on data.
        out: the folder in which the run gets its own folder, `<name>-<k>`.
        weights: as for `kerasimg.build`.
        limits: as for `kerasimg.build`.
        on_bad_image: "fail" reports every unreadable image before the first epoch; "skip" leaves them out.
        cache: where decoded images are cached: "auto", "memory", "disk" or "off".
        report: write `report.html` and `MODEL_CARD.md` at the end.
        tensorboard: write the curves to `RUN/tensorboard` during training; needs the extra of that name.
        overrides: edits of the spec by path, such as `{"fit.batch_size": 64}`.
        params: values of the spec's params.
        verbose: 0: silent. 1: messages and progress bars. 2: messages and a line per epoch.
        **more_params: values of the spec's params, as keywords.

    Returns:
        The finished run.

    Raises:
        SpecError: if the spec is wrong; before the first epoch.
        DataError: if the data is wrong; before the first epoch.
        WeightsError: if weights are missing or do not fit; before the first epoch.
        KerasimgError: if the loss becomes NaN or the training cannot go on; `kerasimg.resume` continues it.

    Example:
        >>> run = kerasimg.train("photos.json", data="photos/", verbose=0)
        >>> run.finished, sorted(run.scores.figures)[0]
        (True, 'accuracy')
    """
    from kerasimg.data.starter_spec import spec_for
    from kerasimg.training.train import train as begin

    with log.verbosity(verbose):
        values = _params(params, more_params)
        first = spec_for(data, values.get("task"), log.progress) if spec is None else None
        loaded = load(cast(Reference, spec or first), overrides=overrides, params=values, partial=True)
        run = begin(
            loaded,
            data=data,
            out=out,
            weights=weights,
            limits=limits,
            on_bad_image=on_bad_image,
            cache=cache,
            report=report,
            tensorboard=tensorboard,
            first_spec=first,
            verbose=verbose,
        )
    return Run(run)


def resume(run: PathLike, *, data: Data | None = None, cache: CacheKind | None = None, verbose: Verbose = 1) -> Run:
    """Continue a training that was interrupted. It ends as if it had not been.

    On one machine, on the CPU in float32, the result is bit for bit the same. A finished run is left as it is.

    Args:
        run: a `Run` or its folder.
        data: the images, where they were arrays or have been moved; their content must be the same.
        cache: as for `kerasimg.train`; None: as before.
        verbose: 0, 1 or 2, as for `kerasimg.train`.

    Returns:
        The finished run.

    Raises:
        CallError: if the folder holds no run.
        DataError: if an image is missing or has changed.
        WeightsError: if a weights file that is still needed is missing or has changed.

    Example:
        >>> kerasimg.resume("runs/photos-1", verbose=0).finished
        True
    """
    from kerasimg.training.train import resume as continue_

    with log.verbosity(verbose):
        done = continue_(Path(run), data=data, cache=cache, verbose=verbose)
    return Run(done)


def find_learning_rate(
    spec: Reference,
    *,
    data: Data,
    stage: int = 1,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    out: PathLike | None = None,
    weights: Weights = "spec",
    limits: Mapping[str, int] | None = None,
    on_bad_image: OnBadImage = "fail",
    cache: CacheKind = "auto",
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    verbose: Verbose = 1,
    **more_params: Any,
) -> RateSweep:
    """Suggest a learning rate by a sweep from `low` to `high` (Smith 2017, arXiv:1506.01186).

    Images, augmentation, frozen parts, optimizer and loss are as in `train`. No run is made. The sweep ends early where
    the loss is four times its minimum.

    Args:
        spec: as for `kerasimg.train`.
        data: as for `kerasimg.train`.
        stage: which of `fit.stages`, from 1.
        low: the first rate.
        high: the last rate.
        steps: number of steps.
        out: a file for the plot (.png, .svg, .pdf).
        weights: as for `kerasimg.build`.
        limits: as for `kerasimg.build`.
        on_bad_image: as for `kerasimg.train`.
        cache: as for `kerasimg.train`.
        overrides: edits by path.
        params: values of the spec's params.
        verbose: 0, 1 or 2.
        **more_params: values of the spec's params, as keywords.

    Returns:
        A `RateSweep` with the suggestion, and the loss at each rate.

    Raises:
        CallError: if the arguments make no sweep.
        KerasimgError: if the loss never falls.

    Example:
        >>> sweep = kerasimg.find_learning_rate("photos.json", data="photos/", steps=30, verbose=0)
        >>> 1e-6 < sweep.suggestion < 10
        True
    """
    from kerasimg.training.lr_find import find_learning_rate as sweep

    with log.verbosity(verbose):
        return sweep(
            load(spec, overrides=overrides, params=_params(params, more_params), partial=True),
            data=data,
            stage=stage,
            low=low,
            high=high,
            steps=steps,
            out=out,
            weights=weights,
            limits=limits,
            on_bad_image=on_bad_image,
            cache=cache,
        )


def tune(
    spec: Reference,
    *,
    data: Data,
    out: PathLike = "runs",
    workers: int = 1,
    chief: str | None = None,
    weights: Weights = "spec",
    limits: Mapping[str, int] | None = None,
    on_bad_image: OnBadImage = "fail",
    cache: CacheKind = "auto",
    report: bool = True,
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    verbose: Verbose = 1,
    **more_params: Any,
) -> Search:
    """Search the hyperparameters that a spec leaves open, as its section `tune` says.

    Args:
        spec: a zoo name, the path of a spec, a dict, or a loaded spec.
        data: labelled images, as for `kerasimg.train`.
        out: the folder in which the search gets its own folder, `<name>-tune-<k>`.
        workers: processes on this machine that train trials at the same time; 0 with `chief` only.
        chief: HOST:PORT to listen at for workers on other machines, `kerasimg tune SPEC --data DIR --worker HOST:PORT`.
        weights: as for `kerasimg.build`.
        limits: as for `kerasimg.build`.
        on_bad_image: as for `kerasimg.train`.
        cache: as for `kerasimg.train`.
        report: write `report.html` at the end.
        overrides: edits of the spec by path.
        params: values of the spec's params.
        verbose: 0: silent. 1 or 2: a line per trial.
        **more_params: values of the spec's params, as keywords.

    Returns:
        The search; it can be passed wherever a spec can.

    Raises:
        SpecError: if the spec is wrong; before the first trial.
        DataError: if the data is wrong; before the first trial.
        KerasimgError: if no trial works, with the reason of the first.

    Example:
        >>> search = kerasimg.tune("search.json", data="photos/", verbose=0)
        >>> sorted(search.values)
        ['lr']
    """
    from kerasimg.tuning.search import tune as search

    with log.verbosity(verbose):
        done = search(
            spec,
            data=data,
            out=out,
            workers=workers,
            chief=chief,
            weights=weights,
            limits=limits,
            on_bad_image=on_bad_image,
            cache=cache,
            report=report,
            overrides=overrides,
            **_params(params, more_params),
        )
    return Search(done)


def resume_search(
    search: PathLike,
    *,
    data: Data | None = None,
    workers: int | None = None,
    chief: str | None = None,
    cache: CacheKind | None = None,
    verbose: Verbose = 1,
) -> Search:
    """Continue a search that was interrupted. Trials that have ended are not trained again.

    Args:
        search: a `Search` or its folder.
        data: the images, where they were arrays or have been moved.
        workers: as for `kerasimg.tune`; None: as before.
        chief: as for `kerasimg.tune`; None: as before.
        cache: as for `kerasimg.tune`; None: as before.
        verbose: 0, 1 or 2.

    Returns:
        The finished search.

    Raises:
        CallError: if the folder holds no search.
        DataError: if the data has changed.

    Example:
        >>> len(kerasimg.resume_search("runs/photos-tune-1", verbose=0).trials)
        2
    """
    from kerasimg.tuning.search import resume_search as continue_

    folder = search.folder if isinstance(search, Search) else Path(search)
    with log.verbosity(verbose):
        done = continue_(folder, data=data, workers=workers, chief=chief, cache=cache)
    return Search(done)


def cross_val_predict(
    spec: Reference,
    *,
    data: Data,
    folds: int = 5,
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    verbose: Verbose = 1,
    **more_params: Any,
) -> Predictions:
    """Predict every image by a model that was not trained on it (cross-validation).

    The spec is trained `folds` times; within each fold its validation share is drawn from the training images. The runs
    are not kept.

    Args:
        spec: as for `kerasimg.train`.
        data: as for `kerasimg.train`; a split that the data names is ignored.
        folds: number of folds, 2 or more.
        overrides: edits by path.
        params: values of the spec's params.
        verbose: 0, 1 or 2, as for `kerasimg.train`.
        **more_params: values of the spec's params, as keywords.

    Returns:
        The `Predictions` in the order of the data.

    Raises:
        CallError: if a class has fewer images than there are folds.

    Example:
        >>> predictions = kerasimg.cross_val_predict("photos.json", data="photos/", folds=2, verbose=0)
        >>> predictions.probabilities.shape
        (24, 2)
    """
    from kerasimg.training.folds import cross_val_predict as cross_validate

    with log.verbosity(verbose):
        return cross_validate(
            load(spec, overrides=overrides, params=_params(params, more_params), partial=True),
            data=data,
            folds=folds,
            verbose=verbose,
        )


def evaluate(
    run: RunReference,
    *,
    data: Data | None = None,
    part: str | None = None,
    out: PathLike | None = None,
    on_bad_image: OnBadImage = "fail",
    verbose: Verbose = 1,
) -> Evaluation:
    """Compute the metrics of a classifier on labelled images, with 95 % intervals.

    Args:
        run: a `Run`, its folder, or a `model.keras` or `.kerasimg` file.
        data: labelled images, as for `kerasimg.train`; their classes are matched to the model's by name. None: the
            images of the run.
        part: "train", "validation", "test" or "all". None: the test part, where there is one, else all; of the run's
            own images those that it held out.
        out: a folder for metrics.json and predictions.csv. None: the run's, for the images that it held out.
        on_bad_image: "fail" reports every unreadable image; "skip" leaves them out.
        verbose: 0, 1 or 2.

    Returns:
        An `Evaluation`: `figures`, `intervals`, `per_class`; `result["confusion"]` reads any entry of metrics.json.

    Raises:
        DataError: if an image is missing, unreadable or has changed since the training.
        CallError: if there is no such part.

    Example:
        >>> result = kerasimg.evaluate("runs/photos-1", data="photos/", verbose=0)
        >>> result.n, 0 <= result.accuracy <= 1
        (24, True)
    """
    from kerasimg.evaluation.evaluate import evaluate as compute

    with log.verbosity(verbose):
        return Evaluation.of(compute(run, data=data, part=part, out=out, on_bad_image=on_bad_image))


def predict(
    run: RunReference, images: Images, *, on_bad_image: OnBadImage = "fail", verbose: Verbose = 1
) -> Results[Prediction]:
    """Classify images.

    Args:
        run: a `Run`, its folder, a `model.keras` or `.kerasimg` file, or a zoo spec that brings its weights.
        images: the path of an image or of a folder (all images below it), an image as bytes, `PIL.Image` or array
            (H, W, C), several images as an array (N, H, W, C), or a list of any of these.
        on_bad_image: "fail" reports every unreadable image; "skip" leaves them out.
        verbose: 0, 1 or 2.

    Returns:
        One `Prediction` per image, in order.

    Raises:
        DataError: if an image cannot be read.
        CallError: if there is no trained model, or no image.

    Example:
        >>> [prediction] = kerasimg.predict("runs/photos-1", "photo.jpg")
        >>> prediction.label in ("cat", "dog")
        True
    """
    from kerasimg.evaluation.predict import predict as classify

    with log.verbosity(verbose):
        return Results(classify(run, cast(Any, images), on_bad_image=on_bad_image, progress=log.progress))


def explain(
    run: RunReference,
    images: Images,
    method: Method = "grad_cam",
    target: str | Sequence[str] | None = None,
    *,
    out: PathLike | None = None,
    **options: Any,
) -> Results[Explanation]:
    """Show where in images a classifier sees a class.

    Args:
        run: a `Run`, its folder, a `model.keras` file, or a zoo spec that brings its weights.
        images: as for `kerasimg.predict`.
        method: "grad_cam", "grad_cam_pp", "hires_cam", "integrated_gradients", "smooth_grad" or "occlusion".
        target: a class, or one per image. None: the predicted class; multilabel: the most likely.
        out: a folder for two PNG files per image, the map over the image and over what the model sees of it.
        **options: of the method: layer, steps, baseline, samples, noise, seed, window, stride.

    Returns:
        One `Explanation` per image, in order.

    Raises:
        CallError: if the method does not fit the model.
        DataError: if an image cannot be read.

    Example:
        >>> [explanation] = kerasimg.explain("runs/photos-1", "photo.jpg", "integrated_gradients")
        >>> explanation.map.shape
        (8, 8)
    """
    from kerasimg.evaluation.explain import explain as find

    return Results(find(run, cast(Any, images), method, target, out=out, **options))


def calibrate(
    run: RunReference, *, data: Data | None = None, part: str | None = None, undo: bool = False
) -> Calibration:
    """Calibrate the probabilities of a trained classifier by temperature scaling (Guo et al. 2017, arXiv:1706.04599).

    The temperature is stored in the model file, so every later prediction, evaluation and export uses it.

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        data: labelled images to fit on; None: those of the run.
        part: the part to fit on; None: validation.
        undo: restore the uncalibrated model instead.

    Returns:
        A `Calibration`: the temperature, and the calibration error before and after, with 95 % intervals.

    Raises:
        KerasimgError: if no temperature fits, because too few predictions are wrong.

    Example:
        >>> kerasimg.calibrate("runs/photos-1", undo=True).temperature
        1.0
    """
    from kerasimg.evaluation.calibrate import calibrate as fit

    return Calibration.of(fit(run, data=data, part=part, undo=undo))


def choose_thresholds(
    run: RunReference,
    aim: str = "f1",
    *,
    data: Data | None = None,
    part: str | None = None,
    false_positive: float = 1.0,
    false_negative: float = 1.0,
    undo: bool = False,
) -> Thresholds:
    """Choose the decision threshold of each label of a binary or multilabel classifier.

    The thresholds are stored in the model file, so every later prediction, evaluation and export uses them.

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        aim: "f1"; "precision>=0.95", the highest recall with that precision; "recall>=0.9", the highest precision with
            that recall; "youden", the highest true less false positive rate; "cost", the lowest cost.
        data: labelled images to choose by; None: those of the run.
        part: the part to choose by; None: validation.
        false_positive: cost of a false positive, for "cost".
        false_negative: cost of a false negative, for "cost".
        undo: restore thresholds of 0.5 instead.

    Returns:
        The `Thresholds`, with precision, recall and F1 of each label.

    Raises:
        GateError: if no label can meet the aim.
        CallError: for a multiclass classifier, which has no thresholds.

    Example:
        >>> kerasimg.choose_thresholds("runs/binary-1", "f1").aim
        'f1'
    """
    from kerasimg.evaluation.thresholds import choose_thresholds as choose

    costs = {"false_positive": false_positive, "false_negative": false_negative}
    return Thresholds.of(choose(run, aim, data=data, part=part, **costs, undo=undo))


def compare(
    *runs: RunReference,
    data: Data | None = None,
    part: str | None = None,
    out: PathLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two or more runs on the same images, each with the first.

    Args:
        *runs: runs or their folders.
        data: labelled images that all runs predict; None: the test images that all runs have stored predictions for,
            matched by SHA-256.
        part: the part of `data`.
        out: a file for the result as JSON.
        resamples: bootstrap resamples for the intervals.
        seed: of the bootstrap.

    Returns:
        A `Comparison`: figures, differences with 95 % intervals, McNemar's test, and the images that changed.

    Raises:
        CallError: if the runs have no image or no classes in common.

    Example:
        >>> kerasimg.compare("runs/photos-1", "runs/photos-2").n
        6
    """
    from kerasimg.evaluation.compare import compare as against

    return Comparison.of(against(*runs, data=data, part=part, out=out, resamples=resamples, seed=seed))


def label_errors(
    run: RunReference, *, data: Data | None = None, part: str | None = None, out: PathLike | None = None
) -> LabelErrors:
    """Find images whose labels are probably wrong, by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        data: labelled images that the run was not trained on; None: its validation and test parts.
        part: the part of the data.
        out: a file for the result as JSON. None: `evaluation/label_errors.json` of the run, for its own images.

    Returns:
        The `LabelErrors`, the most likely first.

    Raises:
        CallError: if the run held out no images.

    Example:
        >>> kerasimg.label_errors("runs/photos-1").n
        12
    """
    from kerasimg.evaluation.label_errors import label_errors as find

    return LabelErrors.of(find(run, data=data, part=part, out=out))


def report(run: PathLike, *, out: PathLike | None = None) -> Path:
    """Write `report.html` and `MODEL_CARD.md` of a run.

    What the run does not hold (no model yet, no evaluation) is left out of the page.

    Args:
        run: a `Run` or its folder.
        out: another file for the page.

    Returns:
        The path of the page.

    Raises:
        CallError: if the folder holds no run.

    Example:
        >>> kerasimg.report("runs/photos-1").name
        'report.html'
    """
    from kerasimg.reporting.report import report as write

    return write(Path(run), out=out)


def check_data(
    data: Data,
    spec: Reference | None = None,
    *,
    task: Task | None = None,
    labels: bool = False,
    threads: int | None = None,
    verbose: Verbose = 1,
) -> DataCheck:
    """Check a data set: unreadable, duplicate, blank, mislabelled images, leaks between parts. Nothing is changed.

    Args:
        data: labelled images, as for `kerasimg.train`.
        spec: with a spec, the split is the one that training makes, and the result shows what `image` does.
        task: "multiclass", "binary" or "multilabel"; None: that of the spec, else "multiclass".
        labels: also find labels that may be wrong, by a simple classifier.
        threads: None: one per core.
        verbose: 0, 1 or 2.

    Returns:
        A `DataCheck`; `ok` is False where something must be corrected.

    Raises:
        DataError: if the data cannot be listed.
        SpecError: if the spec is wrong.

    Example:
        >>> kerasimg.check_data("photos/", verbose=0).ok
        True
    """
    from kerasimg.data.audit.data_check import check_data as check

    judge: Any = None
    if labels:
        from kerasimg.evaluation import label_errors as by_confident_learning

        judge = by_confident_learning.find_label_errors
    with log.verbosity(verbose):
        return check(data, spec, task=task, judge_labels=judge, threads=threads, progress=log.progress)


def export(
    run: RunReference,
    to: str | Sequence[str] = "litert",
    *,
    precision: Precision | Sequence[Precision] | None = None,
    batch: int | None = None,
    out: PathLike | None = None,
    data: Data | None = None,
    tolerance: float | None = None,
    same: float | None = None,
    accuracy_drop: float | None = None,
    images: int | None = None,
    input_dtype: InputType = "uint8",
    allow_flex: bool = False,
    allow_uncompared: bool = False,
    flash_bytes: int | None = None,
    arena_bytes: int | None = None,
    verbose: Verbose = 1,
) -> Results[Bundle]:
    """Export a trained classifier, and compare every exported model with the trained one on the test images.

    Args:
        run: a `Run`, its folder, a `model.keras` or `.kerasimg` file, or a zoo spec that brings its weights.
        to: "savedmodel", "litert", "onnx", "openvino", "keras", "web", "embedded"; one or several.
        precision: "float32", "float16", "dynamic" (int8 weights), "int8"; one or several. None: the target's default.
        batch: fixed batch size. None: any, where the target can.
        out: the folder in which each target gets its own. None: `export/` in the run's folder.
        data: other images to compare on than the run's.
        tolerance: greatest difference of a probability. None: by precision.
        same: share of images that must get the same decision. None: by precision.
        accuracy_drop: greatest loss of accuracy. None: by precision.
        images: number of images to compare on. None: the whole test part.
        input_dtype: of an int8 model: "uint8" (pixels as they are) or "int8".
        allow_flex: let a .tflite hold operations that only TensorFlow has.
        allow_uncompared: accept an export for which there are no test images to compare on.
        flash_bytes: of an embedded model: most bytes of flash.
        arena_bytes: of an embedded model: most bytes of memory.
        verbose: 0: silent. 1 or 2: messages.

    Returns:
        One `Bundle` per target.

    Raises:
        GateError: if a model is beyond its tolerance, or there is nothing to compare it on; its bundle is written
            all the same, and marked.
        CallError: for an unknown target, or one that is not installed.

    Example:
        >>> [bundle] = kerasimg.export("runs/photos-1", "keras", verbose=0)
        >>> bundle.manifest.target
        'keras'
    """
    from kerasimg.deploy.export import export as write

    with log.verbosity(verbose):
        return Results(
            write(
                run,
                to,
                precision=precision,
                batch=batch,
                out=out,
                data=data,
                tolerance=tolerance,
                same=same,
                accuracy_drop=accuracy_drop,
                images=images,
                input_dtype=input_dtype,
                allow_flex=allow_flex,
                allow_uncompared=allow_uncompared,
                flash_bytes=flash_bytes,
                arena_bytes=arena_bytes,
            )
        )


def verify(
    bundle: PathLike | Bundle,
    *,
    data: Data | None = None,
    expected: PathLike | None = None,
    tolerance: float | None = None,
    same: float | None = None,
    accuracy_drop: float | None = None,
    verbose: Verbose = 1,
) -> Verified:
    """Check that an exported bundle still gives the right answers on this machine, without Keras and TensorFlow.

    Args:
        bundle: a `Bundle` or its folder.
        data: labelled images to compare on besides the bundle's own; their test part, or all.
        expected: the predictions.csv of the trained model on `data`. None: that of the run that the bundle belongs to.
        tolerance: as for `kerasimg.export`; None: as exported.
        same: as for `kerasimg.export`; None: as exported.
        accuracy_drop: as for `kerasimg.export`; None: as exported.
        verbose: 0: silent. 1 or 2: messages.

    Returns:
        What was compared, as `Verified`.

    Raises:
        GateError: if a model, or the decoder of images, gives other answers.
        WeightsError: if a file was changed.
        CallError: if there is no bundle, or its runtime is not installed.

    Example:
        >>> [bundle] = kerasimg.export("runs/photos-1", "keras", verbose=0)
        >>> kerasimg.verify(bundle, verbose=0).pixels
        0
    """
    from kerasimg.deploy.verify import verify as check

    bounds = {"tolerance": tolerance, "same": same, "accuracy_drop": accuracy_drop}
    with log.verbosity(verbose):
        return check(bundle, data=data, expected=expected, **bounds)


def measure(
    run: RunReference,
    to: str | Sequence[str] | None = None,
    *,
    precision: Precision | Sequence[Precision] | None = None,
    batch: int | None = None,
    data: Data | None = None,
    verbose: Verbose = 1,
) -> Measurement:
    """Measure what a trained classifier costs on this machine: parameters, multiplications, size, time.

    It is exported into a temporary folder and not compared.

    Args:
        run: as for `kerasimg.export`.
        to: targets to measure. None: those that are installed.
        precision: for all of them. None: float32, and int8 for LiteRT where there are training images.
        batch: images at a time. None: any number.
        data: images for the calibration of int8, other than the run's.
        verbose: 0: silent. 1 or 2: messages.

    Returns:
        A `Measurement` with a row per model.

    Raises:
        CallError: if Keras does not run on TensorFlow.

    Example:
        >>> kerasimg.measure("runs/photos-1", "savedmodel", verbose=0).parameters
        62
    """
    from kerasimg.deploy.measure import measure as find

    with log.verbosity(verbose):
        return Measurement.of(find(run, to, precision=precision, batch=batch, data=data))


def serve(
    source: PathLike,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    api_key: str | None = None,
    verbose: Verbose = 1,
    **settings: Any,
) -> None:
    """Serve an exported model over HTTP, until the process is told to end (SIGTERM, Ctrl-C).

    Args:
        source: the folder of a bundle or of a run, or a `.kerasimg` file; where there is no export for LiteRT, ONNX or
            OpenVINO yet, one for LiteRT is made first.
        host: address to listen at; 127.0.0.1 is this machine alone.
        port: 0: any free port.
        workers: processes.
        api_key: a key that requests must bring; None: `$KERASIMG_API_KEY`, and no key where that is not set.
        verbose: 0: silent. 1 or 2: messages.
        **settings: limits and options as on the page on serving: threads, model, name, top, max_bytes, timeout_s, ...

    Raises:
        CallError: if the source cannot be served, a setting does not exist, or a package is missing.

    Example:
        >>> kerasimg.serve("runs/photos-1", port=8000)  # doctest: +SKIP
    """
    from kerasimg.deploy.serve.server import serve as listen

    with log.verbosity(verbose):
        listen(source, api_key=api_key, host=host, port=port, workers=workers, **settings)


def pack(run: RunReference, out: PathLike | None = None) -> Path:
    """Write a trained classifier as one file to share: spec, classes, weights, model card, hashes; no code, no pickle.

    Args:
        run: a `Run`, its folder, or a `model.keras` file.
        out: the file, which ends in `.kerasimg`; one that exists is replaced. None: `<name>.kerasimg` in this folder.

    Returns:
        The path of the file; `build`, `train`, `evaluate`, `predict`, `export` and `serve` take it.

    Raises:
        CallError: if there is no trained model.

    Example:
        >>> str(kerasimg.pack("runs/photos-1", "photos.kerasimg"))
        'photos.kerasimg'
    """
    from kerasimg.deploy.sharing import pack as write

    return write(run, out)


def unpack(file: PathLike, out: PathLike | None = None) -> Run:
    """Write the content of a `.kerasimg` file to a folder: spec, classes, `model.keras`, model card.

    Args:
        file: the file.
        out: a folder that does not exist or is empty. None: the file's name without its ending.

    Returns:
        The folder as a `Run`.

    Raises:
        CallError: if the file is damaged, or the folder is not empty.

    Example:
        >>> kerasimg.unpack(kerasimg.pack("runs/photos-1", "photos.kerasimg"), "unpacked").classes
        ['cat', 'dog']
    """
    from kerasimg.deploy.sharing import unpack as read

    return Run(read(file, out))


def push(run: RunReference, repo: str, *, private: bool = False, message: str | None = None) -> str:
    """Upload a classifier to the Hugging Face Hub, as a new commit.

    Needs `pip install "kerasimg[hub]"` and a token that may write.

    Args:
        run: a `Run`, its folder, a `model.keras` or a `.kerasimg` file.
        repo: `owner/name`; created where it does not exist.
        private: whether a repository that is created is private.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        CallError: if there is no trained model, or the hub refuses.

    Example:
        >>> kerasimg.push("runs/photos-1", "owner/photos", private=True)  # doctest: +SKIP
    """
    from kerasimg.deploy.hub import push as upload

    return upload(run, repo, private=private, message=message)


def pull(repo: str, out: PathLike | None = None, *, revision: str | None = None) -> Path:
    """Download a classifier from the Hugging Face Hub as a `.kerasimg` file, which cannot run code, and check it.

    Args:
        repo: `owner/name`.
        out: the file, which must not exist. None: `<name>.kerasimg` in this folder.
        revision: a branch, a tag or a commit. None: `main`.

    Returns:
        The path of the file.

    Raises:
        CallError: if there is no such model, the file is damaged, or `out` exists.

    Example:
        >>> kerasimg.pull("owner/photos", revision="main")  # doctest: +SKIP
    """
    from kerasimg.deploy.hub import pull as download

    return download(repo, out, revision=revision)


def to_spec(model: keras.Model, name: str | None = None, *, folded: bool = True) -> Spec:
    """Describe a Keras model as a spec that builds the same graph.

    Weights are not part of a spec. Preprocessing that is not in the model must be added by hand: `scale` is "none".

    Args:
        model: a functional or sequential model of one image (N, height, width, 1 or 3) with one output.
        name: of the spec. None: the model's.
        folded: describe repeated structures by blocks and tables; False: one node per layer.

    Returns:
        The spec; `Spec.save` writes it.

    Raises:
        CallError: if the model is not of that kind.
        SpecError: for each layer that a spec cannot describe.

    Example:
        >>> spec = kerasimg.to_spec(kerasimg.build("simple_cnn", num_classes=3))
        >>> spec.build().count_params() == kerasimg.build("simple_cnn", num_classes=3).count_params()
        True
    """
    from kerasimg.models.to_spec import to_spec as describe

    return Spec.of(describe(model, name, folded=folded))


def copy_weights(model: keras.Model, built: keras.Model) -> None:
    """Copy the weights of a model into the one that its spec builds.

    Args:
        model: the model that `kerasimg.to_spec` described.
        built: what `kerasimg.build` made of that spec.

    Raises:
        CallError: if the two do not have the same layers.

    Example:
        >>> model = kerasimg.build("simple_cnn", num_classes=3)
        >>> built = kerasimg.to_spec(model).build()
        >>> kerasimg.copy_weights(model, built)
        >>> bool((model.get_weights()[0] == built.get_weights()[0]).all())
        True
    """
    from kerasimg.models.to_spec import copy_weights as copy

    copy(model, built)


def _params(params: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a call; CallError where one is given twice."""
    given = dict(params or {})
    if twice := sorted(given.keys() & more.keys()):
        raise CallError(f"params: '{twice[0]}' is given twice, in params and as a keyword")
    return {**given, **more}


_COLUMNS = frozenset({"trial", "status", "seconds", "epochs", "best_epoch", "goes_on_from", "host", "reason"})
"""Columns of trials.csv besides the objective and the hyperparameters."""


def _trial(row: Mapping[str, Any], hyperparameters: Set[str]) -> Trial:
    values = {name: value for name, value in row.items() if name in hyperparameters}
    (score,) = (value for name, value in row.items() if name not in hyperparameters | _COLUMNS)
    return Trial(int(row["trial"]), row["status"], score, values, row["seconds"], row)
