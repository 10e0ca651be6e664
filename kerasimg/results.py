"""What the public functions return: dataclasses with a readable `repr`, an HTML form for notebooks, and `to_dict()`.

Standard library only, so that any layer can use it. `Record` is for results that are also written as a JSON file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from html import escape
from os import PathLike, fspath
from typing import Any, Self, TypeVar

LONGEST = 60
"""Characters of a value in a `repr` or in a table cell; longer ones are cut."""
ROWS = 50
"""Rows of a list that a notebook shows."""
CELL = "text-align:left;vertical-align:top;padding:2px 14px 2px 0"

T = TypeVar("T")

_WORDS = {"f1": "F1", "roc": "ROC", "auc": "AUC", "mcc": "MCC", "brier": "Brier"}


def accuracy_key(task: str) -> str:
    """The figure that counts images with a correct answer; of several labels, those with every label correct."""
    return "subset_accuracy" if task == "multilabel" else "accuracy"


def epoch_figure(name: str, task: str) -> str:
    """The name of a figure of an epoch: Keras' "accuracy" of several labels counts labels, not images."""
    return "label_accuracy" if task == "multilabel" and name == "accuracy" else name


def figure_words(name: str) -> str:
    """The name of a figure as a person writes it: "subset accuracy", "macro F1"."""
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


class Result:
    """Base of the result dataclasses."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain dicts, lists, strings and numbers, ready for `json.dump`.

        Returns:
            One entry per field.
        """
        return {name: plain(value) for name, value in self._shown().items()}

    def _shown(self) -> dict[str, Any]:
        """Name -> value of the fields that `repr`, HTML and `to_dict` show."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.repr}  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={short(value)}' for name, value in self._shown().items())})"

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self._shown())


@dataclass(frozen=True, repr=False)
class Record(Result):
    """A result that is also a JSON file of a run. `result["key"]` reads any entry of that file."""

    content: Mapping[str, Any] = field(repr=False)
    """Everything, as the JSON file has it."""

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def __contains__(self, name: object) -> bool:
        return name in self.content

    def get(self, name: str, default: Any = None) -> Any:
        """One entry of the file.

        Args:
            name: its key.
            default: the value where there is no such key.

        Returns:
            The value.
        """
        return self.content.get(name, default)

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file, as a copy.

        Returns:
            Plain dicts, lists, strings and numbers.
        """
        return deepcopy(dict(self.content))


class Results(list[T]):
    """A list of results, which a notebook shows as a table."""

    def to_dict(self) -> dict[str, Any]:
        """The results as plain values, ready for `json.dump`.

        Returns:
            One entry, `rows`: a list with a dict per result.
        """
        return {"rows": [plain(row) for row in self]}

    def _repr_html_(self) -> str:
        shown = [row._shown() if isinstance(row, Result) else {"": row} for row in self[:ROWS]]
        names = list(dict.fromkeys(name for row in shown for name in row))
        head = "".join(f'<th style="{CELL}">{escape(name)}</th>' for name in names)
        body = "".join(
            "<tr>" + "".join(f'<td style="{CELL}">{cell(row.get(name))}</td>' for name in names) + "</tr>"
            for row in shown
        )
        more = f"<p>and {len(self) - ROWS:,} more</p>" if len(self) > ROWS else ""
        return f'<div><table style="border-collapse:collapse"><tr>{head}</tr>{body}</table>{more}</div>'


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, Result):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # NumPy
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return value


def short(value: Any) -> str:
    """A value in at most a line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"array{tuple(value.shape)}"
    if isinstance(value, PathLike):
        return repr(fspath(value))
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key!r}: {short(item)}" for key, item in _first(value.items())) + "}"
        return text if len(text) <= LONGEST else f"<{len(value)} entries>"
    if isinstance(value, (list, tuple)):
        text = ", ".join(short(item) for item in _first(value))
        return f"[{text}]" if len(text) <= LONGEST and len(value) <= ROWS else f"<{len(value)} items>"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def table(title: str, rows: Mapping[str, Any]) -> str:
    """A table with a row per entry; it loads nothing from elsewhere."""
    body = "".join(
        f'<tr><th scope="row" style="{CELL}">{escape(name.replace("_", " "))}</th>'
        f'<td style="{CELL}">{cell(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f'<div><strong>{escape(title)}</strong><table style="border-collapse:collapse">{body}</table></div>'


def cell(value: Any) -> str:
    """A value as HTML: what has a form of its own in that, else text."""
    if isinstance(value, (Result, Results)):
        return value._repr_html_()
    if isinstance(value, Mapping) and value:
        shown = "".join(
            f'<tr><td style="{CELL}">{escape(str(key))}</td><td style="{CELL}">{cell(item)}</td></tr>'
            for key, item in _first(value.items(), ROWS)
        )
        return f"<table>{shown}</table>"
    return escape(value if isinstance(value, str) else short(value))


def _first(items: Iterable[T], count: int = 20) -> Iterator[T]:
    for place, item in enumerate(items):
        if place == count:
            return
        yield item


@dataclass(frozen=True, repr=False)
class Evaluation(Record):
    """The figures of a classifier on labelled images, as `evaluation/metrics.json` holds them."""

    task: str
    """multiclass, binary or multilabel."""
    data: str
    """Where the images are."""
    part: str
    """train, validation, test or all."""
    n: int
    """Number of images."""
    classes: tuple[str, ...]
    figures: Mapping[str, float]
    """Name -> value of every figure that is one number: accuracy, macro_f1, log_loss, ..."""
    intervals: Mapping[str, tuple[float, float]]
    """Name -> 95 % interval of a figure."""
    per_class: Mapping[str, Mapping[str, float | None]] = field(repr=False)
    """Class -> precision, recall, f1, support, roc_auc, average_precision."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of what a metrics.json holds.

        Args:
            content: the JSON object.

        Returns:
            The evaluation.
        """
        return cls(
            content,
            task=content["task"],
            data=content.get("data", ""),
            part=content.get("part", "all"),
            n=content["n"],
            classes=tuple(content["classes"]),
            figures={name: value for name, value in content.items() if _is_figure(name, value)},
            intervals={name: (low, high) for name, (low, high) in _pairs(content.get("intervals", {}))},
            per_class=content["per_class"],
        )

    @property
    def accuracy(self) -> float:
        """Share of images that are classified correctly; multilabel: with every label correct."""
        return self.figures[accuracy_key(self.task)]


def _is_figure(name: str, value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and name not in ("n", "temperature")


def _pairs(content: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, float]]]:
    return ((name, pair) for name, pair in content.items() if pair is not None)


@dataclass(frozen=True, repr=False)
class Calibration(Record):
    """A fitted temperature and what it changes, as `calibration.json` holds them."""

    temperature: float
    """1 leaves the probabilities as they are; above 1 makes them less sure."""
    parts: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Part -> n, before, after: log loss and calibration error, with 95 % intervals."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of what a calibration.json holds.

        Args:
            content: the JSON object.

        Returns:
            The calibration.
        """
        return cls(content, content["temperature"], content.get("parts", {}))

    def _shown(self) -> dict[str, Any]:
        errors = {
            f"{part}_calibration_error": tuple(row[when]["calibration_error"] for when in ("before", "after"))
            for part, row in self.parts.items()
        }
        return {"temperature": self.temperature, **errors}


@dataclass(frozen=True, repr=False)
class Flips(Record):
    """Whether a classifier averages its answers over each image and its mirror image, and what that gains."""

    applied: bool
    """Whether it does so from now on, at twice the time for each image."""
    gain: float | None
    """How much higher the figure is with flips; None if none was measured."""
    interval: tuple[float, float] | None
    """Its paired 95 % interval; None if no image is decided otherwise."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of its JSON object.

        Args:
            content: the JSON object.

        Returns:
            The decision.
        """
        reach = content.get("interval")
        return cls(content, content["applied"], content.get("gain"), None if reach is None else (reach[0], reach[1]))


@dataclass(frozen=True, repr=False)
class Thresholds(Record):
    """Chosen decision thresholds, as `thresholds.json` holds them."""

    aim: str | None
    """The aim they were chosen for; None: they were reset to 0.5."""
    thresholds: Mapping[str, float]
    """Label -> threshold."""
    labels: Mapping[str, Mapping[str, Any]]
    """Label -> precision, recall, f1, support and whether the aim is met, on the images of the choice."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of what a thresholds.json holds.

        Args:
            content: the JSON object.

        Returns:
            The thresholds.
        """
        return cls(content, content.get("aim"), content["thresholds"], content.get("labels", {}))


@dataclass(frozen=True, repr=False)
class PredictionSets(Record):
    """The rule of prediction sets and what its sets hold, as `sets.json` has them."""

    rule: Mapping[str, Any] | None
    """Its method, coverage and limits; None: it was removed."""
    expected: tuple[float, float] | None
    """The coverage lies in or above this range in 95 % of choices of the images; per class: of the rarest class."""
    parts: Mapping[str, Mapping[str, Any]]
    """Part -> n, coverage with its 95 % interval, sizes of sets, each class, and the risk-coverage curve."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of what a sets.json holds.

        Args:
            content: the JSON object.

        Returns:
            The rule and its sets.
        """
        low_high = content.get("expected")
        return cls(
            content, content["rule"], None if low_high is None else (low_high[0], low_high[1]), content.get("parts", {})
        )


@dataclass(frozen=True, repr=False)
class KnownImages(Record):
    """The rule that finds unknown images and what it flags, as `known.json` has them."""

    rule: Mapping[str, Any] | None
    """Its method and share; None: it was removed."""
    expected: tuple[float, float] | None
    """The share of false alarms lies in this range for 95 % of choices of the held-out images."""
    parts: Mapping[str, Mapping[str, Any]]
    """Part -> n, the share that is unknown with its 95 % interval, and each class."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of what a known.json holds.

        Args:
            content: the JSON object.

        Returns:
            The rule and what it flags.
        """
        low_high = content.get("expected")
        return cls(
            content, content["rule"], None if low_high is None else (low_high[0], low_high[1]), content.get("parts", {})
        )


@dataclass(frozen=True, repr=False)
class Robustness(Record):
    """The accuracy on corrupted images, as `evaluation/robustness.json` has it."""

    n: int
    """Number of images; each is corrupted in every way."""
    clean: Mapping[str, Any]
    """Without corruption: accuracy, its 95 % interval, the mean confidence, and the share that is unknown."""
    mean: float
    """The mean accuracy over all corruptions and severities."""
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    """Corruption -> the same figures for each severity, 1 to 5."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of what a robustness.json holds.

        Args:
            content: the JSON object.

        Returns:
            The figures.
        """
        return cls(content, content["n"], content["clean"], content["mean"], content["rows"])


@dataclass(frozen=True, repr=False)
class Comparison(Record):
    """Two or more runs on the same images, each against the first."""

    runs: tuple[str, ...]
    """Folders."""
    n: int
    """Number of images in common."""
    figures: Mapping[str, Sequence[float | None]]
    """Name -> one value per run."""
    against_first: Sequence[Mapping[str, Any]] = field(repr=False)
    """For each further run: differences with 95 % intervals, McNemar's test, the images fixed, broken and changed."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of what `compare` writes.

        Args:
            content: the JSON object.

        Returns:
            The comparison.
        """
        figures = {name: tuple(values) for name, values in content["figures"].items()}
        return cls(content, tuple(content["runs"]), content["n"], figures, content["against_first"])


@dataclass(frozen=True)
class LabelError(Result):
    """An image whose label is probably wrong."""

    file: str
    given: str
    """The label."""
    suggested: str
    """The class that is more likely."""
    p_given: float
    p_suggested: float
    part: str | None = None


@dataclass(frozen=True, repr=False)
class LabelErrors(Record):
    """Images whose labels are probably wrong, the most likely error first."""

    n: int
    """Number of images examined."""
    rows: Results[LabelError]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of what a label_errors.json holds.

        Args:
            content: the JSON object.

        Returns:
            The label errors.
        """
        names = {each.name for each in fields(LabelError)}
        rows = ({name: value for name, value in row.items() if name in names} for row in content["rows"])
        return cls(content, content["n"], Results(LabelError(**row) for row in rows))


@dataclass(frozen=True, repr=False)
class Measurement(Record):
    """What a model costs on this machine."""

    name: str
    parameters: int
    macs: int
    """Multiply-accumulate operations for one image."""
    machine: Mapping[str, Any]
    runtimes: Sequence[Mapping[str, Any]]
    """One row per model: target, precision, runtime, bytes, p50_ms and p95_ms of one image, per_second in batches."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The result of what `measure` finds.

        Args:
            content: the JSON object.

        Returns:
            The measurement.
        """
        return cls(content, *(content[name] for name in ("name", "parameters", "macs", "machine", "runtimes")))
