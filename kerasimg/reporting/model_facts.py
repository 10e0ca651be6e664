"""What a report needs of the trained model: its size and speed, and explanations."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from kerasimg.data.image_files import ImageInput
from kerasimg.errors import KerasimgError
from kerasimg.evaluation.explain import explain
from kerasimg.evaluation.explain_layers import map_layer
from kerasimg.evaluation.explain_methods import Method
from kerasimg.models.classifier import Classifier
from kerasimg.models.compiled_predict import forward
from kerasimg.reporting.images import SMALL, Example
from kerasimg.run_folder import RunFolder

BATCH = 32
SECONDS = 0.1
"""Spent at most on measuring each size of batch."""
WITHOUT_MAPS = 8
"""Images that are explained where no class activation map is to be had, for the other methods take far longer."""
LAYERS = 40


class Facts(NamedTuple):
    """A model in figures."""

    params: int
    trainable: int
    bytes: int
    layers: list[tuple[str, str, str, int]]
    """(name, kind, shape of its output, parameters) of each layer, of the first 40."""
    more: int
    """Layers beyond."""
    speed: Mapping[str, Any]
    """ms_single, ms_batch: milliseconds an image, alone and in batches of 32; measured on: machine, cores, backend."""


def model_facts(classifier: Classifier, folder: Path) -> Facts:
    """Measures a model. The speed is measured once and stored in the run."""
    model = classifier.model
    files = RunFolder(folder)
    speed = files.evaluation.speed()
    if speed is None:
        speed = measure(classifier)
        files.evaluation.write_speed(speed)
    layers = [
        (layer.name, type(layer).__name__, _shape(layer), int(layer.count_params()))
        for layer in model.layers
        if type(layer).__name__ != "InputLayer"
    ]
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    size = files.model_file.stat().st_size
    return Facts(model.count_params(), trained, size, layers[:LAYERS], max(0, len(layers) - LAYERS), speed)


def measure(classifier: Classifier) -> dict[str, Any]:
    """Milliseconds that an image takes, without reading it: medians over a moment, after a first call."""
    import keras

    ask = forward(classifier.model)
    height, width = classifier.spec.image.size
    images = np.random.default_rng(0).integers(0, 256, (BATCH, height, width, classifier.spec.image.channels))
    found: dict[str, Any] = {}
    for key, count in (("ms_single", 1), ("ms_batch", BATCH)):
        some = images[:count].astype("float32")
        ask(some)
        times: list[float] = []
        until = time.perf_counter() + SECONDS
        while len(times) < 3 or (time.perf_counter() < until and len(times) < 30):
            start = time.perf_counter()
            ask(some)
            times.append(time.perf_counter() - start)
        found[key] = round(1000 * float(np.median(times)) / count, 3)
    machine = platform.machine()
    return {**found, "batch": BATCH, "backend": keras.backend.backend(), "machine": machine, "cores": os.cpu_count()}


def explain_all(
    classifier: Classifier | None, examples: Sequence[Example], images: Mapping[str, ImageInput]
) -> tuple[dict[tuple[str, str], PIL.Image.Image], str | None]:
    """(image, class) -> the overlay that explains it; and the method.

    images: those that can be read, by name.
    By Grad-CAM; where a model keeps no map, the first few by integrated gradients.
    """
    if classifier is None:
        return {}, None
    asked = [one for one in examples if one.id in images]
    method, options = _method(classifier)
    if method != "grad_cam":
        asked = asked[:WITHOUT_MAPS]
    if not asked:
        return {}, None
    explained = explain(classifier, [images[one.id] for one in asked], method, [one.target for one in asked], **options)
    maps = {}
    for one, each in zip(asked, explained, strict=True):
        tiny = max(each.seen.shape) <= SMALL
        maps[one.id, one.target] = each.overlay() if tiny else each.overlay_on_original()
    return maps, method


def _method(classifier: Classifier) -> tuple[Method, dict[str, Any]]:
    try:
        map_layer(classifier.model)
    except KerasimgError:
        return "integrated_gradients", {"steps": 16}
    return "grad_cam", {}


def _shape(layer: Any) -> str:
    try:
        return " × ".join("?" if side is None else str(side) for side in layer.output.shape[1:])
    except (AttributeError, ValueError):
        return ""
