"""The specs of the steps of `auto`, made from the recipe `transfer`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from kerasimg import catalog
from kerasimg.data.starter_spec import Choices, make_spec
from kerasimg.data.summary import Summary
from kerasimg.deploy.targets import target
from kerasimg.errors import CallError
from kerasimg.spec.document import Task
from kerasimg.spec.lint import unused_names
from kerasimg.spec.reader import read
from kerasimg.tuning.candidates import Candidate

Device = Literal["phone", "browser", "server", "microcontroller"]
TARGET: Final[Mapping[str, str]] = {
    "phone": "litert",
    "browser": "web",
    "server": "onnx",
    "microcontroller": "embedded",
}
"""Device -> the target of its export."""
RECIPE: Final = "recipes/transfer"
PER_STEP = 6
"""Trials of a step that are compared with those of other steps, and averaged."""
INT8_SHARE = 0.3
"""Size of a model in int8, in sizes of it in float32."""
AUGMENT = (
    {"layer": "RandomFlip", "mode": "horizontal"},
    {"layer": "RandomRotation", "factor": 10 / 360},
    {"layer": "RandomZoom", "height_factor": [-0.2, 0.2]},
    {"layer": "RandomTranslation", "height_factor": 0.1, "width_factor": 0.1},
)
"""The augmentation of fine-tuning, that of recipes/finetune."""
STEPS: Final[Mapping[str, str]] = {
    "recipe": "the recipe transfer as it is: a head on EfficientNet-Lite0, frozen, four views of each image",
    "heads": "other heads on the same features: dropout, learning rate, a hidden layer",
    "late": "one small model, since the machine became slower than at the start",
    "scratch": "a small network from scratch",
    "smaller": "smaller images, for less latency",
    "finetune": "all layers of the best so far, with lower rates in earlier blocks",
}
"""Step -> what it does; a step with the name of a backbone trains heads on it."""


class Limits(NamedTuple):
    """What the exported model may take."""

    max_ms: float | None = None
    max_mb: float | None = None
    device: Device = "phone"

    def check(self) -> None:
        """CallError if a limit is none, or the target of the device is not installed."""
        for name, most in (("max_ms", self.max_ms), ("max_mb", self.max_mb)):
            if most is not None and not most > 0:
                raise CallError(f"{name}: expected a number above 0, got {most:g}")
        if self.device not in TARGET:
            raise CallError(f"device: expected one of {', '.join(TARGET)}, got '{self.device}'")
        target(TARGET[self.device]).require()

    def beyond(self, row: Mapping[str, Any]) -> list[str]:
        """Returns which figures of a model (bytes, latency_ms) are beyond the limits."""
        figures = []
        if self.max_mb is not None and row["bytes"] > self.max_mb * 1e6:
            figures.append(f"{row['bytes'] / 1e6:.1f} MB")
        if self.max_ms is not None and row.get("latency_ms", math.inf) > self.max_ms:
            figures.append(f"{row['latency_ms']:.1f} ms" if "latency_ms" in row else "no latency known here")
        return figures

    @property
    def tuned(self) -> dict[str, Any]:
        """The limits of a trial, `tune.limits`: in float32, of which int8 takes about a quarter."""
        limits: dict[str, Any] = {}
        if self.max_ms is not None:
            limits["latency_ms"] = float(self.max_ms)
        if self.max_mb is not None:
            limits["litert_bytes"] = int(self.max_mb * 1e6 / INT8_SHARE)
        return limits


class Specs:
    """Makes the specs of one `auto`."""

    def __init__(self, recipe: str, task: Task, classes: tuple[str, ...], limits: Limits) -> None:
        """recipe: a head on a frozen backbone."""
        self.recipe, self.task, self.classes, self.limits = recipe, task, classes, limits
        self.parent: dict[str, Any] = read(catalog.locate(recipe).path)

    def plain(self, name: str, **tune_settings: Any) -> dict[str, Any]:
        """Returns the recipe as it is."""
        return {
            "kerasimg": 1,
            "name": name,
            "extends": self.recipe,
            **self._of_task(),
            "tune": self.tune(**tune_settings),
        }

    def _of_task(self) -> dict[str, Any]:
        document: dict[str, Any] = {} if self.task == "multiclass" else {"task": self.task}
        return document | ({"positive_class": self.classes[1]} if self.task == "binary" else {})

    def tune(self, **settings: Any) -> dict[str, Any]:
        """Returns the section `tune` of a step."""
        # The loss differs between trials where the accuracy does not, and is what chooses their best epoch.
        usual = {"tuner": "bayesian", "objective": "val_loss", "keep": PER_STEP, "limits": self.limits.tuned}
        return {**usual, **settings}

    def heads(self, name: str, *, augmented: bool = True, size: Any = None, backbone: Any = None) -> dict[str, Any]:
        """Returns the recipe with a search over its head.  augmented: whether its features are those of four views."""
        base, *middle, classes = self.parent["model"]
        hidden = {"layer": "Dense", "name": "hidden", "units": 256, "activation": "relu", "when": "=hidden == 1"}
        pool, rest = middle[:1], middle[1:]
        document: dict[str, Any] = {
            **self.plain(name),
            "about": STEPS.get(name, name),
            "params": {"hidden": {"$choice": [0, 1], "default": 0}},
            "model": [backbone or base, *pool, hidden, *rest, classes],
            "expect": {"params": None},  # that of the recipe is without a hidden layer
        }
        if size is not None:
            document["params"]["size"] = size
        if not augmented:
            document["augment"] = []
            if "views" in self.parent["params"]:
                document["params"]["views"] = 1
        return document

    def scratch(self, summary: Summary, recipe: Any) -> dict[str, Any]:
        """Returns the spec of a recipe that trains from scratch, with the split of the other steps."""
        document = make_spec("scratch", summary, Choices(recipe=recipe, task=self.task))
        of_transfer = self.parent.get("fit", {})
        splits = {name: of_transfer.get(name, 0.15) for name in ("validation_split", "test_split")}
        return {**document, "fit": {**document.get("fit", {}), **splits}, "tune": self.tune()}

    def fine_tuning(self, best: Candidate) -> dict[str, Any]:
        """Returns the spec of a candidate with all of its layers trained."""
        document = dict(best.spec.document)
        document["params"] = {
            **{name: value for name, value in best.spec.params.items() if name in document["params"]},
            "epochs": 1,
            "tuning_lr": {"$float": [1e-4, 1e-3], "log": True, "default": 3e-4},
        }
        document["params"]["num_classes"] = None
        stage = {"epochs": "=epochs", "unfreeze": {"base": 0}, "learning_rate": "=tuning_lr", "warmup_epochs": 0.5}
        stage |= {"decay": "cosine", "layer_decay": 0.9, "keep": "best", "monitor": "val_loss"}
        document |= {"name": "finetune", "about": STEPS["finetune"], "augment": list(AUGMENT)}
        document["compile"] = {**document.get("compile", {}), "optimizer": {"type": "AdamW", "weight_decay": 0.01}}
        document["fit"] = {"batch_size": 32, "stages": [stage]}
        document["tune"] = self.tune()
        document = {
            key: value for key, value in document.items() if key not in ("expect", "card", "$schema", "extends")
        }
        # Some params of the recipe, as the number of views, are of what was replaced.
        unused = {path[1] for path, _ in unused_names(document) if path[0] == "params"}
        document["params"] = {name: value for name, value in document["params"].items() if name not in unused}
        return document
