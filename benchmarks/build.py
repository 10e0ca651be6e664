"""What `kerasimg.build` costs above the same layers typed by hand in Keras, for each spec of the zoo.

    python benchmarks/build.py [NAME ...] [--repeat 7] [--json OUT.json]

"By hand" is source text: one line a layer, as `x7 = keras.layers.Conv2D(filters=32, ..., name="stem")(x6)`, and the
`keras.Model` at the end. It is recorded while kerasimg builds the spec, compiled once, and found to make the same
model: equal classes and configurations of layers, equal shapes of weights, and, with equal weights, equal outputs.

Timed are `kerasimg.build(name, weights=None)`, which reads the file, checks it and makes the model, and the call of
the compiled function. Both make and initialize every weight. They run in one process, one after the other in turn,
the order changing each time, each after `clear_session` and a collection of garbage; imports and the first call of
both are not counted. Printed are the medians, the median of the ratios of the pairs, and their quartiles.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasimg
import kerasimg.layers
from kerasimg.catalog import load, zoo_names
from kerasimg.models import graph as graph_module
from kerasimg.models import objects

LIMIT = 1.10
NUM_CLASSES = 10
"""For specs that want it said."""


class Recorder:
    """Writes the layers that kerasimg makes as the lines of a function `make()`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[int, str] = {}
        self.kept: list[Any] = []  # so that no id is used twice
        self.arguments: dict[int, str] = {}
        self.modules: dict[str, Any] = {"keras": keras, "kerasimg": kerasimg}

    def source_of(self, name: str, **params: Any) -> str:
        """The source of the function that makes what `kerasimg.build(name, weights=None, **params)` does."""
        keep = mock.patch.multiple
        with (
            keep(graph_module, make_layer=self._layer, functional=self._model),
            keep(graph_module.backbones, application=self._application),
            keep(graph_module.scaling, standardize=self._standardize, SCALES=self._scales()),
            mock.patch.object(keras.layers.Layer, "__call__", self._call(keras.layers.Layer.__call__)),
            mock.patch.object(keras, "Input", self._input(keras.Input)),
            mock.patch("kerasimg.models.build.functional", self._model),
        ):
            kerasimg.build(name, weights=None, **params)
        return "def make():\n" + "\n".join(f"    {line}" for line in self.lines) + "\n"
