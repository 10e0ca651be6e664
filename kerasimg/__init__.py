"""Image classification with Keras from one JSON file: build, train, judge, search, export and serve.

    model = kerasimg.build("zoo/mobilenet.json", num_classes=5)
    run = kerasimg.train("zoo/mobilenet.json", data="photos/")

The verbs are loaded when they are first used, so that `import kerasimg` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasimg.catalog import load as load

_WHERE = {
    "load": "kerasimg.catalog",
    "Spec": "kerasimg.spec.load",
    "to_spec": "kerasimg.models.to_spec",
    "register": "kerasimg.models.registry",
    "load_plugins": "kerasimg.models.registry",
    "build": "kerasimg.models.build",
    "check_data": "kerasimg.data.quality.data_check",
    "train": "kerasimg.training.train",
    "resume": "kerasimg.training.train",
    "find_learning_rate": "kerasimg.training.lr_find",
    "Run": "kerasimg.training.run",
    "tune": "kerasimg.tuning.search",
    "resume_search": "kerasimg.tuning.search",
    "Search": "kerasimg.tuning.search",
    "HyperSpec": "kerasimg.tuning.hyper_spec",
    "evaluate": "kerasimg.evaluation.evaluate",
    "predict": "kerasimg.evaluation.predict",
    "calibrate": "kerasimg.evaluation.calibrate",
    "choose_thresholds": "kerasimg.evaluation.thresholds",
    "compare": "kerasimg.evaluation.compare",
    "label_errors": "kerasimg.evaluation.label_errors",
    "cross_val_predict": "kerasimg.training.folds",
    "explain": "kerasimg.evaluation.explain",
    "report": "kerasimg.evaluation.report",
    "serve": "kerasimg.deploy.serve.server",
    "pack": "kerasimg.deploy.sharing",
    "unpack": "kerasimg.deploy.sharing",
    "push": "kerasimg.deploy.hub",
    "pull": "kerasimg.deploy.hub",
    "export": "kerasimg.deploy.export",
    "verify": "kerasimg.deploy.verify",
    "measure": "kerasimg.deploy.measure",
    "KerasimgError": "kerasimg.errors",
    "CallError": "kerasimg.errors",
    "SpecError": "kerasimg.errors",
    "DataError": "kerasimg.errors",
    "WeightsError": "kerasimg.errors",
    "GateError": "kerasimg.errors",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kerasimg")
    if name not in _WHERE:
        raise AttributeError(f"module 'kerasimg' has no attribute {name!r}")
    where = _WHERE[name]
    if where.split(".")[1] not in ("catalog", "spec", "errors"):
        import_module("kerasimg.backend").check_backend()
    return getattr(import_module(where), name)


def __dir__() -> list[str]:
    return sorted(__all__)
