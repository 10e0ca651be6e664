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
from typing import TYPE_CHECKING, Any, cast

from kerasimg import catalog, log, notebook
from kerasimg.catalog import Reference
from kerasimg.errors import CallError, counted
from kerasimg.escaping import command
from kerasimg.files import read_object, write_text
from kerasimg.log import Verbose
from kerasimg.results import (
    Comparison,
    Evaluation,
    KnownImages,
    Result,
    Results,
    Robustness,
    accuracy_key,
    figure_words,
    table,
)
from kerasimg.run_folder import AUTO, CLASSES, EVALUATION, METRICS, REPORT, SPEC, RunFolder
from kerasimg.spec import load as pure
from kerasimg.spec.diff import Difference, differences
from kerasimg.spec.formatting import dumps
from kerasimg.spec.nodes import NAME
from kerasimg.tuning.journal import AUTO_RESULT, BEST, CALL, FRONT, WINNER
from kerasimg.tuning.time_budget import search_began

if TYPE_CHECKING:
    import keras

    from kerasimg.data.audit.data_check import DataCheck
    from kerasimg.data.cache import CacheKind
    from kerasimg.data.images import Images
    from kerasimg.data.readable import OnBadImage
    from kerasimg.data.sources import Data
    from kerasimg.deploy.bundle import Bundle
    from kerasimg.deploy.learning import Learned
    from kerasimg.deploy.shrink import Shrunk
    from kerasimg.evaluation import Method
    from kerasimg.evaluation.add_class import AddedClass
    from kerasimg.evaluation.embed import Embeddings, Neighbour
    from kerasimg.evaluation.explain import Explanation
    from kerasimg.evaluation.predict import Prediction
    from kerasimg.models.classifier import ClassifierReference
    from kerasimg.models.weights import Weights
    from kerasimg.spec.document import Task
    from kerasimg.tuning.auto_specs import Device

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
        from kerasimg.models.build import build

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
        files = self._files
        if (found := files.evaluation.metrics()) is None:
            how = f"for metrics: {command('evaluate', self.folder)} --data DATA"
            raise CallError(files.interrupted or f"the run '{self.folder}' has no {EVALUATION}/{METRICS}; {how}")
        return Evaluation.of(found)

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
        from kerasimg.deploy.predict import predict

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
        from kerasimg.evaluation.evaluate import evaluate

        return evaluate(self, data=data, part=part, out=out, on_bad_image=on_bad_image, verbose=verbose)

    def explain(
        self,
        images: Images,
        method: Method = "grad_cam",
        target: str | Sequence[str] | None = None,
        *,
        out: PathLike | None = None,
        on_bad_image: OnBadImage = "fail",
        **options: Any,
    ) -> Results[Explanation]:
        """Show where in images the run sees a class; see `kerasimg.explain`.

        Args:
            images: as for `kerasimg.predict`.
            method: as for `kerasimg.explain`.
            target: as for `kerasimg.explain`.
            out: as for `kerasimg.explain`.
            on_bad_image: as for `kerasimg.explain`.
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
        from kerasimg.evaluation.explain import explain

        return explain(self, images, method, target, out=out, on_bad_image=on_bad_image, **options)

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
        from kerasimg.reporting.report import report

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
        from kerasimg.deploy.export import export

        return export(self, to, verbose=verbose, **options)

    def shrink(self, *, to_kb: float | None = None, to_ms: float | None = None, **options: Any) -> Shrunk:
        """Find the smallest export within limits of size, time and accuracy, and write it; see `kerasimg.shrink`.

        Args:
            to_kb: as for `kerasimg.shrink`.
            to_ms: as for `kerasimg.shrink`.
            **options: further arguments of `kerasimg.shrink`.

        Returns:
            The bundle that was written, and every rung that was tried.

        Raises:
            GateError: if no model is within the limits.

        Example:
            >>> kerasimg.Run("runs/photos-1").shrink(to_kb=100, verbose=0).chosen.share
            1.0
        """
        from kerasimg.deploy.shrink import shrink

        return shrink(self, to_kb=to_kb, to_ms=to_ms, **options)

    def learn(self, page: PathLike, *, out: PathLike | None = None, data: Data | None = None) -> Learned:
        """Make a classifier of the classes that a page exported from this run has learned; see `kerasimg.learn`.

        Args:
            page: the JSON file that the page saved.
            out: as for `kerasimg.learn`.
            data: labelled images that are further examples.

        Returns:
            The `.keras` file, and its classes.

        Raises:
            CallError: if the file is not valid, or was saved by a page of another model.

        Example:
            >>> kerasimg.Run("runs/photos-1").learn("photos-learned.json").classes
            ('cat', 'dog')
        """
        from kerasimg.deploy.learning import learn

        return learn(self, page, out=out, data=data)

    def known(self, share: float = 0.05, **options: Any) -> KnownImages:
        """Fit the rule by which `predict` says that an image is unlike the training images; see `kerasimg.known`.

        Args:
            share: the largest share of images like the training images that is flagged as unknown.
            **options: further arguments of `kerasimg.known`.

        Returns:
            The rule, the share of false alarms that it promises, and that of the run's test images.

        Raises:
            CallError: with too few images, or an argument out of range.

        Example:
            >>> kerasimg.Run("runs/photos-1").known(undo=True).rule is None
            True
        """
        from kerasimg.evaluation.known import known

        return known(self, share, **options)

    def add_class(self, name: str, images: Images) -> AddedClass:
        """Add a class from a few images, without training again; see `kerasimg.add_class`.

        Args:
            name: the name of the new class.
            images: images of it, as for `kerasimg.predict`.

        Returns:
            How well the new images are recognised, and how far the accuracy of the old classes moved.

        Raises:
            CallError: if the task is not multiclass, the last layer is no Dense, or the class exists.

        Example:
            >>> kerasimg.Run("runs/photos-1").add_class("badger", "photo.jpg").classes
            ('cat', 'dog', 'badger')
        """
        from kerasimg.evaluation.add_class import add_class

        return add_class(self, name, images)

    def robustness(self, **options: Any) -> Robustness:
        """Measure the accuracy on corrupted images: noise, blur, weather, digital; see `kerasimg.robustness`.

        Args:
            **options: further arguments of `kerasimg.robustness`.

        Returns:
            The accuracy without corruption, and for each corruption and severity.

        Raises:
            CallError: for an unknown corruption, or if there are no such images.

        Example:
            >>> kerasimg.Run("runs/photos-1").robustness(corruptions=["fog"], images=50).n <= 50
            True
        """
        from kerasimg.evaluation.robustness import robustness

        return robustness(self, **options)

    def embed(self, images: Images, *, out: PathLike | None = None, on_bad_image: OnBadImage = "fail") -> Embeddings:
        """Compute the features of images; see `kerasimg.embed`.

        Args:
            images: as for `kerasimg.predict`.
            out: a file to write them to, `.npz` or `.parquet`. None: they are only returned.
            on_bad_image: as for `kerasimg.embed`.

        Returns:
            The names of the images and their features, (N, d) float32.

        Raises:
            DataError: if an image cannot be read.
            CallError: if the model has no single last layer with weights, or `out` has another ending.

        Example:
            >>> kerasimg.Run("runs/photos-1").embed("photo.jpg").files
            ['photo.jpg']
        """
        from kerasimg.evaluation.embed import embed

        return embed(self, images, out=out, on_bad_image=on_bad_image)

    def similar(self, image: Images, count: int = 5, *, data: Data | None = None) -> Results[Neighbour]:
        """Find the training images that are most similar to an image; see `kerasimg.similar`.

        Args:
            image: one image, as for `kerasimg.predict`.
            count: number of images to return.
            data: the images to search. None: the training images of the run.

        Returns:
            A `Neighbour` for each, the most similar first.

        Raises:
            CallError: if `image` is not one image, or the model has no single last layer with weights.

        Example:
            >>> kerasimg.Run("runs/photos-1").similar("photo.jpg", 3)[0].label in ("cat", "dog")
            True
        """
        from kerasimg.evaluation.embed import similar

        return similar(self, image, count, data=data)

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
        from kerasimg.deploy.sharing import pack

        return pack(self, out)

    def compare(self, *others: ClassifierReference, data: Data | None = None, part: str | None = None) -> Comparison:
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
        from kerasimg.evaluation.compare import compare

        return compare(self, *others, data=data, part=part)

    def __str__(self) -> str:
        if self._files.evaluation.metrics() is None:
            return f"{self.folder} (not evaluated yet)"
        scores = self.scores
        headline = (accuracy_key(scores.task), "macro_f1", "f1")
        figures = ", ".join(
            f"{figure_words(name)} {scores.figures[name]:.3f}" for name in headline if name in scores.figures
        )
        kind = "image" if scores.part == "all" else f"{scores.part} image"
        return f"{self.folder} ({figures}, on {counted(scores.n, kind)})"

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


@dataclass(frozen=True)
class FrontSpec(Result, os.PathLike[str]):
    """A spec on the front of a search over several objectives. It is the path of the spec, and can be passed as one."""

    number: int
    """The trial."""
    figures: Mapping[str, float]
    """Each objective, by name."""
    values: Mapping[str, Any]
    """The hyperparameters, by name."""
    file: Path

    def __fspath__(self) -> str:
        return str(self.file)


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
            again = command("tune", "--resume", self.folder)
            raise CallError(f"the search in '{self.folder}' has not ended; to resume: {again}")
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
    def front(self) -> Results[FrontSpec]:
        """The specs that no other beats in every objective, the best in the first one first; the best one if it is one.

        CallError while the search has not ended.
        """
        winner = self._winner
        rows = winner.get("front") or [
            {"trial": winner["trial"], "figures": {winner["objective"]: self.score}, "values": winner["values"]}
        ]
        return Results(
            FrontSpec(int(row["trial"]), row["figures"], row["values"], self._front_file(row["trial"])) for row in rows
        )

    def _front_file(self, trial: str) -> Path:
        file = self.folder / FRONT / f"{trial}.json"
        return file if file.is_file() else self.folder / BEST

    @property
    def run(self) -> Run:
        """The run of the best spec; CallError unless `tune.train_best` is true and the search has ended."""
        name = self._winner.get("run")
        if name is None:
            raise CallError(f"the search in '{self.folder}' has trained no best spec: tune.train_best is false")
        return Run(self.folder / name)

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


@dataclass(frozen=True, repr=False)
class Auto(os.PathLike[str]):
    """What `kerasimg.auto` has made, as its folder holds it. It is the path of the best spec, and can be passed as one.

    Args:
        folder: as `kerasimg.auto` made it.

    Raises:
        CallError: if the folder holds none.

    Example:
        >>> Auto("runs/photos-auto-1").run.classes  # doctest: +SKIP
        ['cat', 'dog']
    """

    folder: Path

    def __init__(self, folder: PathLike) -> None:
        """See the class."""
        object.__setattr__(self, "folder", Path(folder))
        if not (self.folder / AUTO).is_file():
            raise CallError(f"'{self.folder}' is not the folder of an auto: it holds no {AUTO}")

    def __fspath__(self) -> str:
        return str(self.folder / BEST)

    @property
    def result(self) -> dict[str, Any]:
        """Everything that was tried, decided and measured; CallError while it has not ended."""
        path = self.folder / AUTO_RESULT
        if not path.is_file():
            raise CallError(f"'{self.folder}' has not ended; to resume: {command('auto', '--resume', self.folder)}")
        return read_object(path)

    @property
    def best(self) -> Spec:
        """The best spec, ready to train again."""
        self.result  # noqa: B018 - raises it
        return load(self)

    @property
    def run(self) -> Run:
        """The run of the best model."""
        return Run(self.folder / self.result["run"])

    @property
    def score(self) -> float:
        """The accuracy on the validation images, or the macro F1 of multilabel ones."""
        return float(self.result["score"])

    @property
    def front(self) -> list[dict[str, Any]]:
        """The step, size, score, latency_ms and bytes of each model that no other beats in score, latency and size."""
        return [row for row in self.result["front"] if row["front"]]

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / REPORT

    def __str__(self) -> str:
        result = self.result
        return f"{self.run} from the step {result['step']} in {result['used_s'] / 60:.1f} minutes"

    def __repr__(self) -> str:
        return f"Auto({str(self.folder)!r})"


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
    given = catalog.merged_params(params, more_params)
    return Spec.of(catalog.load_with(spec, params=given, edits=overrides, chosen=chosen, partial=partial))


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
    track: str | Sequence[str] | None = None,
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
        track: one or several trackers that log the run: "mlflow", "wandb", "trackio" or "tensorboard"; see
            docs/training.md.
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
    from kerasimg.data.starter_spec import starter_spec

    with log.verbosity(verbose):
        values = catalog.merged_params(params, more_params)
        first = starter_spec(data, values.get("task"), log.progress) if spec is None else None
        loaded = load(cast(Reference, spec or first), overrides=overrides, params=values, partial=True)
        from kerasimg.reporting.report import write_report
        from kerasimg.training.train import train as begin  # loads Keras; a wrong spec is reported before

        trackers = [track] if isinstance(track, str) else list(track or ())
        run = begin(
            loaded,
            data=data,
            out=out,
            weights=weights,
            limits=limits,
            on_bad_image=on_bad_image,
            cache=cache,
            on_finished=write_report if report else None,
            tensorboard=tensorboard or "tensorboard" in trackers,
            track=[name for name in trackers if name != "tensorboard"],
            first_spec=first,
            verbose=verbose,
        )
        _finish_tracking(run)
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
    from kerasimg.reporting.report import write_report
    from kerasimg.training.train import resume as continue_

    with log.verbosity(verbose):
        done = continue_(Path(run), data=data, cache=cache, on_finished=write_report, verbose=verbose)
        _finish_tracking(done)
    return Run(done)


def _finish_tracking(run: RunFolder) -> None:
    """Logs the report and the model of a finished run to its trackers, if it has any."""
    if run.finished and run.tracking() is not None:
        from kerasimg.callbacks.track_run import finish_tracking

        finish_tracking(run)


def tune(
    spec: Reference,
    *,
    data: Data,
    out: PathLike = "runs",
    workers: int = 1,
    chief: str | None = None,
    token: str | None = None,
    warm_start: PathLike | Sequence[PathLike] | None = None,
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
        token: what workers on other machines must show. None: `$KERASIMG_TOKEN`, else a new one, which is printed.
        warm_start: earlier searches, `Search` objects or folders: the trials after the first have their best values.
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
        KerasimgError: if no trial works, with the reason of the first, or `tune.minutes` end before one has an epoch.

    Example:
        >>> search = kerasimg.tune("search.json", data="photos/", verbose=0)
        >>> sorted(search.values)
        ['lr']
    """
    began = search_began()
    from kerasimg.reporting.report import write_report
    from kerasimg.reporting.search_page import write_search_page
    from kerasimg.tuning.search import tune as search

    with log.verbosity(verbose):
        done = search(
            spec,
            data=data,
            out=out,
            workers=workers,
            chief=chief,
            token=token,
            weights=weights,
            limits=limits,
            on_bad_image=on_bad_image,
            cache=cache,
            on_finished=write_search_page if report else None,
            on_trained=write_report if report else None,
            warm_start=warm_start,
            began=began,
            overrides=overrides,
            **catalog.merged_params(params, more_params),
        )
    return Search(done)


def resume_search(
    search: PathLike,
    *,
    data: Data | None = None,
    workers: int | None = None,
    chief: str | None = None,
    token: str | None = None,
    cache: CacheKind | None = None,
    verbose: Verbose = 1,
) -> Search:
    """Continue a search that was interrupted. Trials that have ended are not trained again.

    Args:
        search: a `Search` or its folder.
        data: the images, where they were arrays or have been moved.
        workers: as for `kerasimg.tune`; None: as before.
        chief: as for `kerasimg.tune`; None: as before.
        token: as for `kerasimg.tune`.
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
    began = search_began()
    from kerasimg.reporting.report import write_report
    from kerasimg.reporting.search_page import write_search_page
    from kerasimg.tuning.search import resume_search as continue_

    folder = search.folder if isinstance(search, Search) else Path(search)
    with log.verbosity(verbose):
        how: dict[str, Any] = {"workers": workers, "chief": chief, "token": token, "cache": cache, "began": began}
        done = continue_(folder, data=data, on_finished=write_search_page, on_trained=write_report, **how)
    return Search(done)


def auto(
    data: Data,
    *,
    minutes: float = 10.0,
    max_ms: float | None = None,
    max_mb: float | None = None,
    device: Device = "phone",
    task: Task | None = None,
    out: PathLike = "runs",
    on_bad_image: OnBadImage = "fail",
    cache: CacheKind = "auto",
    verbose: Verbose = 1,
) -> Auto:
    """Find the best classifier for images in some minutes, and export it.

    It looks at the images, trains the recipe `transfer`, searches heads on its features, a small network from scratch
    where images are tiny, other backbones that are on this machine, and fine-tunes the best with what is left of the
    time. The weights of good trials are averaged if that gains. If the recipe fits in the time, the result is no worse
    on the validation images.

    Args:
        data: labelled images, as for `kerasimg.train`.
        minutes: wall time for everything, the export included.
        max_ms: milliseconds for one image that the exported model may take, measured on this machine.
        max_mb: size of the exported model in MB (10^6 bytes); int8 is used if float32 is larger.
        device: what it is exported for: "phone" (LiteRT), "browser", "server" (ONNX) or "microcontroller".
        task: "multiclass", "binary" or "multilabel". None: the one that fits the labels.
        out: the folder in which a folder `<name>-auto-<k>` is made.
        on_bad_image: as for `kerasimg.train`.
        cache: as for `kerasimg.train`.
        verbose: 0: silent. 1 or 2: messages.

    Returns:
        An `Auto`: `run`, `best` (the spec), `front`, `report` (a page).

    Raises:
        KerasimgError: if no model could be trained in that time.
        DataError: if the data is wrong.

    Example:
        >>> found = kerasimg.auto("photos/", minutes=10)  # doctest: +SKIP
        >>> found.run.predict("photo.jpg")  # doctest: +SKIP
    """
    began = search_began()
    from kerasimg.reporting.auto_page import write_auto_page
    from kerasimg.reporting.report import write_report
    from kerasimg.reporting.search_page import write_search_page
    from kerasimg.tuning.auto import auto as search
    from kerasimg.tuning.auto_specs import Limits

    pages: dict[str, Any] = {"on_searched": write_search_page, "on_trained": write_report, "began": began}
    with log.verbosity(verbose):
        folder = search(
            data,
            minutes=minutes,
            limits=Limits(max_ms, max_mb, device),
            task=task,
            out=out,
            on_bad_image=on_bad_image,
            cache=cache,
            on_finished=write_auto_page,
            **pages,
        )
    return Auto(folder)


def resume_auto(folder: PathLike, *, data: Data | None = None, verbose: Verbose = 1) -> Auto:
    """Continue an `auto` that was interrupted, with what is left of its minutes. Finished steps are not repeated.

    Args:
        folder: an `Auto` or its folder.
        data: the images, where they were arrays or have been moved.
        verbose: 0, 1 or 2.

    Returns:
        The finished `Auto`.

    Raises:
        CallError: if the folder holds none.

    Example:
        >>> kerasimg.resume_auto("runs/photos-auto-1")  # doctest: +SKIP
    """
    began = search_began()
    from kerasimg.reporting.auto_page import write_auto_page
    from kerasimg.reporting.report import write_report
    from kerasimg.reporting.search_page import write_search_page
    from kerasimg.tuning.auto import resume_auto as continue_

    pages: dict[str, Any] = {"on_searched": write_search_page, "on_trained": write_report, "began": began}
    path = folder.folder if isinstance(folder, Auto) else Path(folder)
    with log.verbosity(verbose):
        return Auto(continue_(path, data=data, on_finished=write_auto_page, **pages))


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
        task: "multiclass", "binary" or "multilabel"; None: that of the spec, else that of the labels:
            multilabel where an image has several, else multiclass.
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

    find_label_errors: Any = None
    if labels:
        from kerasimg.evaluation import label_errors as by_confident_learning

        find_label_errors = by_confident_learning.find_label_errors
    with log.verbosity(verbose):
        return check(data, spec, task=task, find_label_errors=find_label_errors, threads=threads, progress=log.progress)


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


def to_spec(model: keras.Model, name: str | None = None, *, blocks: bool = True) -> Spec:
    """Describe a Keras model as a spec that builds the same graph.

    Weights are not part of a spec. Preprocessing that is not in the model must be added by hand: `scale` is "none".

    Args:
        model: a functional or sequential model of one image (N, height, width, 1 or 3) with one output.
        name: of the spec. None: the model's.
        blocks: describe repeated structures by blocks and tables; False: one node per layer.

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

    return Spec.of(describe(model, name, blocks=blocks))


_COLUMNS = frozenset({"trial", "status", "seconds", "epochs", "best_epoch", "goes_on_from", "host", "reason"})
"""Columns of trials.csv besides the objective and the hyperparameters."""


def _trial(row: Mapping[str, Any], hyperparameters: Set[str]) -> Trial:
    values = {name: value for name, value in row.items() if name in hyperparameters}
    objectives = [value for name, value in row.items() if name not in hyperparameters | _COLUMNS]
    return Trial(int(row["trial"]), row["status"], objectives[0], values, row["seconds"], row)
