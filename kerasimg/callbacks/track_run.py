"""Runs in an experiment tracker: MLflow, Weights & Biases or trackio, on this machine unless set otherwise.

A tracker shows what the run folder holds: the settings of the spec as params, the rows of history.csv epoch by epoch,
and, when the run is finished, the scores, the report, the model card, the spec and the model. `tracking.json` in the
run folder says which run of the tracker it is, so that a resumed training continues it and no epoch is logged twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

import keras

from kerasimg.errors import CallError, nearest
from kerasimg.escaping import deep, one_line, tracker_key
from kerasimg.results import Evaluation
from kerasimg.run_folder import RunFolder

PROJECT = "kerasimg"
"""The experiment of MLflow, the project of the others."""
NO_METRICS = ("stage", "epoch")
MAX_PARAM = 500
"""Characters of a param."""
MAX_PARAMS = 100
"""Params that MLflow takes at once."""


class TrackRun(keras.callbacks.Callback):
    """Logs a run to trackers while it trains.

    Args:
        run: the folder of the run. Its history.csv is read after every epoch, so the callback that writes it must come
            first.
        names: of the trackers: "mlflow", "wandb", "trackio". Only a program or the command line can set them: a spec of
            someone else must not send data anywhere.

    Raises:
        CallError: if there is no such tracker, or its package is not installed.
    """

    in_specs: ClassVar[bool] = False

    def __init__(self, run: RunFolder, names: Sequence[str]):
        super().__init__()
        self.run = run
        self._trackers = [TRACKERS[name](run) for name in names]

    def on_train_begin(self, logs: Any = None) -> None:
        """Log the epochs that the run already has: of earlier stages, or before it was interrupted."""
        self._log()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the epoch."""
        self._log()

    def _log(self) -> None:
        for tracker in self._trackers:
            tracker.log(self.run.history())


def check_trackers(names: Sequence[str]) -> None:
    """CallError if there is no such tracker, or its package is not installed; before anything is trained."""
    for name in names:
        if name not in TRACKERS:
            raise CallError(f"track: no tracker '{name}'{nearest(name, TRACKERS)}; {', '.join(TRACKERS)}, tensorboard")
        TRACKERS[name].load()


def finish_tracking(run: RunFolder) -> None:
    """Log the scores, the report and the model of a finished run to its trackers, once."""
    for name, state in (run.tracking() or {}).items():
        if not state.get("finished"):
            TRACKERS[name](run).finish()


class Tracker:
    """A tracker for one run.

    Args:
        run: the folder of the run.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    installation: ClassVar[str]
    """The command that installs the package."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.library = self.load()
        self.state: dict[str, Any] = (run.tracking() or {}).get(self.name, {})
        if not self.state:
            self.note(**self.create())

    @classmethod
    def load(cls) -> Any:
        """The tracker's package; CallError if it is not installed."""
        try:
            return import_module(cls.package)
        except ImportError:
            raise CallError(f"track: {cls.name} is not installed: {cls.installation}") from None

    def note(self, **facts: Any) -> None:
        """Store facts about this tracker in the run folder."""
        self.state = {**self.state, **facts}
        self.run.write_tracking({**(self.run.tracking() or {}), self.name: self.state})

    def log(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log the rows of epochs that are not logged yet.

        A resumed run trains epochs after its checkpoint again, with the same result: they are logged already.
        """
        logged = self.logged()
        for row in rows:
            epoch = int(row["epoch"])
            if epoch > logged:
                self.note(logged=epoch)  # first: after a kill in between, an epoch is missing rather than doubled
                self.write(epoch, {tracker_key(name): value for name, value in row.items() if name not in NO_METRICS})

    def finish(self) -> None:
        """Log what a finished run has."""
        self.log(self.run.history())
        metrics = self.run.evaluation.metrics()
        figures = {} if metrics is None else Evaluation.of(metrics).figures
        scores = {
            tracker_key(f"test {name}"): value for name, value in figures.items() if isinstance(value, int | float)
        }
        files = (self.run.report_file, self.run.card_file, self.run.spec_file, self.run.model_file)
        self.end(scores, [file for file in files if file.is_file()])
        self.note(finished=True)

    def logged(self) -> int:
        """The last epoch that is logged, 0 before the first."""
        return int(self.state.get("logged", 0))

    def create(self) -> dict[str, Any]:
        """Make a run of the tracker; returns what identifies it."""
        raise NotImplementedError

    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log an epoch."""
        raise NotImplementedError

    def end(self, scores: dict[str, float], files: Sequence[Path]) -> None:
        """Log scores and files, and mark the run as finished."""
        raise NotImplementedError


class MLflow(Tracker):
    """MLflow: at `$MLFLOW_TRACKING_URI`, or else in the folder `mlruns` beside the run."""

    name = "mlflow"
    package = "mlflow"
    installation = 'pip install "kerasimg[mlflow]"'

    @property
    def client(self) -> Any:
        """The client of the store."""
        store = self.state.get("store") or os.environ.get("MLFLOW_TRACKING_URI")
        # A folder needs no database. MLflow has it in maintenance and refuses it otherwise.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        return self.library.MlflowClient(store or (self.run.path.absolute().parent / "mlruns").as_uri())

    def create(self) -> dict[str, Any]:
        """Make a run in the experiment `kerasimg`."""
        client = self.client
        found = client.get_experiment_by_name(PROJECT)
        experiment = client.create_experiment(PROJECT) if found is None else found.experiment_id
        made = client.create_run(experiment, run_name=one_line(self.run.path.name))
        param = self.library.entities.Param
        params = [param(name, str(value)[:MAX_PARAM]) for name, value in params_of(self.run)]
        for start in range(0, len(params), MAX_PARAMS):
            client.log_batch(made.info.run_id, params=params[start : start + MAX_PARAMS])
        return {"run": made.info.run_id, "store": client.tracking_uri}

    def logged(self) -> int:
        """The last epoch that the store has."""
        history = self.client.get_metric_history(self.state["run"], "loss")
        return max((point.step for point in history), default=0)

    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log an epoch, in one request."""
        self._log(metrics, epoch)

    def end(self, scores: dict[str, float], files: Sequence[Path]) -> None:
        """Log scores and files, and mark the run as finished."""
        self._log(scores, 0)
        for file in files:
            self.client.log_artifact(self.state["run"], str(file))
        self.client.set_terminated(self.state["run"])

    def _log(self, metrics: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        rows = [self.library.entities.Metric(name, value, now, step) for name, value in metrics.items()]
        self.client.log_batch(self.state["run"], metrics=rows)


class WandB(Tracker):
    """Weights & Biases: offline in the run folder, for `wandb sync` later, unless `$WANDB_MODE` says otherwise."""

    name = "wandb"
    package = "wandb"
    installation = 'pip install "kerasimg[wandb]"'
    _open: Any = None

    def create(self) -> dict[str, Any]:
        """Make a run in the project `kerasimg`."""
        identity = os.urandom(4).hex()
        self._begin(identity)
        return {"run": identity}

    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log an epoch."""
        self._begin(self.state["run"]).log(metrics, step=epoch, commit=True)

    def end(self, scores: dict[str, float], files: Sequence[Path]) -> None:
        """Log scores, and the files as an artifact, and end the run."""
        opened = self._begin(self.state["run"])
        opened.summary.update(scores)
        artifact = self.library.Artifact(f"model-{self.state['run']}", type="model")
        for file in files:
            artifact.add_file(str(file))
        opened.log_artifact(artifact)
        opened.finish()

    def _begin(self, identity: str) -> Any:
        if self._open is None:
            active = self.library.run
            if active is not None and active.id == identity:
                self._open = active
            else:
                self._open = self.library.init(
                    project=PROJECT,
                    id=identity,
                    name=one_line(self.run.path.name),
                    dir=str(self.run.path),
                    config=dict(params_of(self.run)),
                    resume="allow",
                    mode=os.environ.get("WANDB_MODE", "offline"),
                    settings=self.library.Settings(silent=True),
                )
        return self._open


class Trackio(Tracker):
    """trackio: in its folder on this machine (`$TRACKIO_DIR`); `trackio show` shows it."""

    name = "trackio"
    package = "trackio"
    # It asks for a Pillow older than that of kerasimg, whose pixels differ; it works with the newer one.
    installation = 'pip install "kerasimg[trackio]" && pip install --no-deps "trackio>=0.43"'
    _open: Any = None

    def create(self) -> dict[str, Any]:
        """Make a run in the project `kerasimg`."""
        name = f"{one_line(self.run.path.name)}-{os.urandom(4).hex()}"
        self._begin(name)
        return {"run": name}

    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log an epoch."""
        self._begin(self.state["run"]).log(metrics, step=epoch)

    def end(self, scores: dict[str, float], files: Sequence[Path]) -> None:
        """Log scores and files, and end the run."""
        opened = self._begin(self.state["run"])
        if scores:
            opened.log(scores, step=self.logged())
        artifact = self.library.Artifact(f"model-{self.state['run']}", type="model")
        for file in files:
            artifact.add_file(str(file))
        opened.log_artifact(artifact)
        opened.finish()

    def _begin(self, name: str) -> Any:
        if self._open is None:
            self._open = self.library.init(
                project=PROJECT,
                name=name,
                config=dict(params_of(self.run)),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return self._open


TRACKERS: Final[Mapping[str, type[Tracker]]] = {tracker.name: tracker for tracker in (MLflow, WandB, Trackio)}


def params_of(run: RunFolder) -> Iterator[tuple[str, Any]]:
    """The settings of a run's spec as (path, value), without the nodes of the model; and the number of images."""
    spec = run.spec() or {}
    for section in ("name", "task", "params", "image", "compile", "fit"):
        yield from _flat(section, spec.get(section))
    images = (run.data() or {"images": []})["images"]
    for part in ("train", "validation", "test"):
        yield f"images.{part}", sum(image["part"] == part for image in images)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _flat(f"{path}.{name}", member)
    elif isinstance(value, list) and any(isinstance(member, Mapping) for member in value):
        for place, member in enumerate(value):
            yield from _flat(f"{path}.{place}", member)
    elif value is not None:
        yield tracker_key(path.replace("//", "")), deep(value)
