"""The confusion matrix in TensorBoard."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import PIL.Image

from kerasimg.figures import confusion_figure, image_figure, save_figure


class ConfusionToTensorBoard(keras.callbacks.Callback):
    """Write the confusion matrix, and misclassified images, to TensorBoard when an epoch ends.

    Needs `pip install "kerasimg[tensorboard]"`, but no TensorFlow.
    batches: of (images, labels, ...), images (N, H, W, C) 0-255, labels as numbers or one-hot; read once per writing.
    classes: their names, in the order of the outputs; with two, the model may have one output, that of the second.
    folder: of TensorBoard's logs; only a program can set it, not a spec.
    samples: number of images, the most confident mistakes.  every: number of epochs between two writings.
    """

    in_specs: ClassVar[bool] = False

    def __init__(
        self,
        batches: Iterable[Any],
        classes: Sequence[str],
        folder: str | Path,
        samples: int = 16,
        every: int = 1,
    ):
        super().__init__()
        if len(classes) < 2:
            raise ValueError(f"ConfusionToTensorBoard: classes must be 2 or more, got {list(classes)}")
        if samples < 0:
            raise ValueError(f"ConfusionToTensorBoard: samples must be 0 or more, got {samples}")
        if every < 1:
            raise ValueError(f"ConfusionToTensorBoard: every must be 1 or more, got {every}")
        self.batches = batches
        self.classes = list(classes)
        self.folder = Path(folder)
        self.samples = samples
        self.every = every
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the log."""
        try:
            writers = import_module("tensorboard.summary.writer.event_file_writer")
        except ImportError:
            message = 'ConfusionToTensorBoard needs TensorBoard: pip install "kerasimg[tensorboard]"'
            raise ImportError(message) from None
        self._writer = writers.EventFileWriter(str(self.folder))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the matrix and the images."""
        if (epoch + 1) % self.every:
            return
        confusion, mistaken = self._look()
        self._write("confusion", confusion_figure(confusion, self.classes), epoch)
        for place, (_, image, label, guess) in enumerate(mistaken):
            title = f"{self.classes[label]}, taken for {self.classes[guess]}"
            self._write(f"mistaken/{place}", image_figure(image, title), epoch)

    def on_train_end(self, logs: Any = None) -> None:
        """Close the log."""
        self._writer.close()

    def _look(self) -> tuple[np.ndarray, list[tuple[float, np.ndarray, int, int]]]:
        """Returns the matrix, rows for labels, and the mistakes (confidence, image, label, guess), sorted."""
        confusion = np.zeros((len(self.classes),) * 2, dtype=int)
        mistaken: list[tuple[float, np.ndarray, int, int]] = []
        for images, labels, *_ in self.batches:
            outputs = keras.ops.convert_to_numpy(self.model.predict_on_batch(images)).astype("float32")
            outputs = np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs
            numbers = keras.ops.convert_to_numpy(labels)
            one_hot = numbers.ndim == 2 and numbers.shape[1] > 1
            numbers = numbers.argmax(axis=1) if one_hot else numbers.reshape(-1).astype(int)
            guesses = outputs.argmax(axis=1)
            np.add.at(confusion, (numbers, guesses), 1)
            shown = keras.ops.convert_to_numpy(images)
            mistaken += [
                (float(outputs[row].max()), shown[row], int(numbers[row]), int(guesses[row]))
                for row in np.flatnonzero(guesses != numbers)
            ]
            mistaken = sorted(mistaken, key=lambda mistake: -mistake[0])[: self.samples]
        return confusion, mistaken

    def _write(self, tag: str, figure: Any, epoch: int) -> None:
        Event = import_module("tensorboard.compat.proto.event_pb2").Event
        Summary = import_module("tensorboard.compat.proto.summary_pb2").Summary
        buffer = io.BytesIO()
        save_figure(figure, buffer, fit=True)
        width, height = PIL.Image.open(buffer).size
        image = Summary.Image(encoded_image_string=buffer.getvalue(), width=width, height=height, colorspace=4)
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._writer.add_event(Event(step=epoch + 1, wall_time=time.time(), summary=summary))
