"""Image classification with Keras from one JSON file: build, train, evaluate, search, export and serve.

    model = kerasimg.build("zoo/mobilenet.json", num_classes=5)
    run = kerasimg.train("zoo/mobilenet.json", data="photos/")

Each name is loaded when it is first used, so that `import kerasimg` takes milliseconds. Type checkers and editors read
the imports under TYPE_CHECKING; a test keeps them and the table of lazy names the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasimg.api import Auto as Auto
    from kerasimg.api import Run as Run
    from kerasimg.api import Search as Search
    from kerasimg.api import Spec as Spec
    from kerasimg.api import auto as auto
    from kerasimg.api import check_data as check_data
    from kerasimg.api import load as load
    from kerasimg.api import resume as resume
    from kerasimg.api import resume_auto as resume_auto
    from kerasimg.api import resume_search as resume_search
    from kerasimg.api import to_spec as to_spec
    from kerasimg.api import train as train
    from kerasimg.api import tune as tune
    from kerasimg.api import unpack as unpack
    from kerasimg.deploy.export import export as export
    from kerasimg.deploy.hub import pull as pull
    from kerasimg.deploy.hub import push as push
    from kerasimg.deploy.learning import learn as learn
    from kerasimg.deploy.measure import measure as measure
    from kerasimg.deploy.predict import predict as predict
    from kerasimg.deploy.serve.server import serve as serve
    from kerasimg.deploy.sharing import pack as pack
    from kerasimg.deploy.shrink import shrink as shrink
    from kerasimg.deploy.verify import verify as verify
    from kerasimg.errors import CallError as CallError
    from kerasimg.errors import DataError as DataError
    from kerasimg.errors import GateError as GateError
    from kerasimg.errors import Interrupted as Interrupted
    from kerasimg.errors import KerasimgError as KerasimgError
    from kerasimg.errors import SpecError as SpecError
    from kerasimg.errors import WeightsError as WeightsError
    from kerasimg.evaluation.add_class import add_class as add_class
    from kerasimg.evaluation.calibrate import calibrate as calibrate
    from kerasimg.evaluation.compare import compare as compare
    from kerasimg.evaluation.embed import embed as embed
    from kerasimg.evaluation.embed import similar as similar
    from kerasimg.evaluation.evaluate import evaluate as evaluate
    from kerasimg.evaluation.explain import explain as explain
    from kerasimg.evaluation.flips import flips as flips
    from kerasimg.evaluation.known import known as known
    from kerasimg.evaluation.label_errors import label_errors as label_errors
    from kerasimg.evaluation.prediction_sets import prediction_sets as prediction_sets
    from kerasimg.evaluation.robustness import robustness as robustness
    from kerasimg.evaluation.thresholds import choose_thresholds as choose_thresholds
    from kerasimg.models.build import build as build
    from kerasimg.models.import_checkpoint import import_checkpoint as import_checkpoint
    from kerasimg.models.registry import load_plugins as load_plugins
    from kerasimg.models.registry import register as register
    from kerasimg.models.to_spec import copy_weights as copy_weights
    from kerasimg.reporting.report import report as report
    from kerasimg.studio.server import open_studio as open_studio
    from kerasimg.training.dataset import dataset as dataset
    from kerasimg.training.folds import cross_val_predict as cross_val_predict
    from kerasimg.training.lr_find import find_learning_rate as find_learning_rate
    from kerasimg.tuning.hyper_spec import HyperSpec as HyperSpec

    __version__: str

_MODULES = {
    "kerasimg.api": (
        *("load", "Spec", "to_spec", "check_data", "train", "resume", "Run"),
        *("tune", "resume_search", "Search", "auto", "resume_auto", "Auto", "unpack"),
    ),
    "kerasimg.models.build": ("build",),
    "kerasimg.models.to_spec": ("copy_weights",),
    "kerasimg.models.import_checkpoint": ("import_checkpoint",),
    "kerasimg.models.registry": ("register", "load_plugins"),
    "kerasimg.training.dataset": ("dataset",),
    "kerasimg.training.lr_find": ("find_learning_rate",),
    "kerasimg.training.folds": ("cross_val_predict",),
    "kerasimg.tuning.hyper_spec": ("HyperSpec",),
    "kerasimg.evaluation.evaluate": ("evaluate",),
    "kerasimg.evaluation.explain": ("explain",),
    "kerasimg.evaluation.add_class": ("add_class",),
    "kerasimg.evaluation.calibrate": ("calibrate",),
    "kerasimg.evaluation.thresholds": ("choose_thresholds",),
    "kerasimg.evaluation.prediction_sets": ("prediction_sets",),
    "kerasimg.evaluation.robustness": ("robustness",),
    "kerasimg.evaluation.flips": ("flips",),
    "kerasimg.evaluation.known": ("known",),
    "kerasimg.evaluation.embed": ("embed", "similar"),
    "kerasimg.evaluation.compare": ("compare",),
    "kerasimg.evaluation.label_errors": ("label_errors",),
    "kerasimg.reporting.report": ("report",),
    "kerasimg.deploy.export": ("export",),
    "kerasimg.deploy.shrink": ("shrink",),
    "kerasimg.deploy.verify": ("verify",),
    "kerasimg.deploy.learning": ("learn",),
    "kerasimg.deploy.measure": ("measure",),
    "kerasimg.deploy.predict": ("predict",),
    "kerasimg.deploy.serve.server": ("serve",),
    "kerasimg.deploy.sharing": ("pack",),
    "kerasimg.studio.server": ("open_studio",),
    "kerasimg.deploy.hub": ("push", "pull"),
    "kerasimg.errors": (
        *("KerasimgError", "CallError", "SpecError", "DataError", "WeightsError", "GateError", "Interrupted"),
    ),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kerasimg")
    if name not in _WHERE:
        raise AttributeError(f"module 'kerasimg' has no attribute {name!r}")
    where = _WHERE[name]
    if where != "kerasimg.errors" and name not in ("load", "Spec", "Run", "Search", "Auto"):
        import_module("kerasimg.backend").check_backend()
    elif name in ("Run", "Search", "Auto"):  # their methods load Keras later
        import_module("kerasimg.backend").quiet_libraries()
    return getattr(import_module(where), name)


def __dir__() -> list[str]:
    return sorted(__all__)
