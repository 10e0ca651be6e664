"""The trained model of a run in a process of its own, which answers while the page is open.

The studio stays small, and a crash of the model's libraries does not end it. Requests and answers are pickled over
pipes; only the studio and its own process write to them.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from kerasimg.backend import load_keras
from kerasimg.errors import CallError, KerasimgError
from kerasimg.run_folder import RunFolder

NEAREST = 6
"""Training images that are shown beside an image."""
COMPARED = 5_000
"""Training images among which the nearest are sought, at most; evenly taken."""


class ModelProcess(AbstractContextManager["ModelProcess"]):
    """The process of the run that was asked last; another run replaces it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._key: tuple[str, int] | None = None
        # TensorFlow writes code there that a killed process does not remove.
        self._temporary = tempfile.TemporaryDirectory(prefix="kerasimg-", ignore_cleanup_errors=True)

    def __exit__(self, *_: object) -> None:
        self._close()
        self._temporary.cleanup()

    def ask(self, run: RunFolder, task: str, *arguments: Any) -> Any:
        """Ask the model of a run.

        Args:
            run: the run.
            task: "predict", "explain", "nearest" or "label_next".
            *arguments: those of the function of that name.

        Returns:
            What the function returns.

        Raises:
            KerasimgError: as the function raises it, or if the process has died.
        """
        if not run.model_file.is_file():
            raise CallError(f"{run.path.name}: has no trained model yet")
        key = str(run.path), run.model_file.stat().st_mtime_ns
        with self._lock:
            if self._key != key or self._process is None or self._process.poll() is not None:
                self._close()
                self._process, self._key = _start(run.path, self._temporary.name), key
            try:
                pickle.dump((task, arguments), _pipe(self._process.stdin), protocol=5)
                _pipe(self._process.stdin).flush()
                ok, result = pickle.load(_pipe(self._process.stdout))
            except (EOFError, OSError, pickle.UnpicklingError):
                self._close()
                raise CallError(f"{run.path.name}: the process of the model ended unexpectedly; ask again") from None
        if not ok:
            raise result
        return result

    def _close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    _pipe(pipe).close()
        self._process = self._key = None


def _start(run: Path, temporary: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from kerasimg.studio.model_process import main; main()", str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": temporary},
        start_new_session=True,
    )


def _pipe(pipe: Any) -> Any:
    if pipe is None:
        raise RuntimeError("a process without pipes")
    return pipe


# In the process of the model


def main() -> None:
    """Answers until the studio closes the pipe."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # libraries may print
    model: Model | None = None
    while True:
        try:
            task, arguments = pickle.load(stdin)
        except EOFError:
            return
        try:
            model = model or Model(Path(sys.argv[1]))
            answer = True, getattr(model, task)(*arguments)
        except KerasimgError as error:
            answer = False, error
        except Exception as error:
            answer = False, CallError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(answer, stdout, protocol=5)
            stdout.flush()


class Model:
    """The trained model of a run, with the features of its training images once they are needed."""

    def __init__(self, run: Path) -> None:
        load_keras()
        from kerasimg.models.classifier import Classifier

        self.run = RunFolder(run)
        self.classifier = Classifier.open(run)
        self._training: tuple[list[str], np.ndarray] | None = None

    def predict(self, image: bytes) -> dict[str, Any]:
        """The classes of an image, the most likely first, and its set where the run has a rule for one."""
        from kerasimg.evaluation.predict import answer, require_all

        [prediction] = require_all(answer(self.classifier, image))
        ranked = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])
        return {**prediction.to_dict(), "probabilities": ranked[:10]}

    def explain(self, image: bytes, target: str | None = None) -> dict[str, Any]:
        """Where in an image the model sees a class, as a PNG over the image."""
        from kerasimg.evaluation.explain import explain

        [explanation] = explain(self.classifier, image, "grad_cam", target)
        content = io.BytesIO()
        shown = explanation.overlay_on_original()
        shown.thumbnail((640, 640))
        shown.save(content, "PNG")
        data = base64.b64encode(content.getvalue()).decode()
        return {"target": explanation.target, "image": f"data:image/png;base64,{data}"}

    def nearest(self, image: bytes) -> list[tuple[str, float]]:
        """The training images whose features are nearest to an image's: path in the data, cosine."""
        from kerasimg.evaluation.embed import embed, most_similar

        if self._training is None:
            record = self.run.data()
            names = [] if record is None else [row["id"] for row in record["images"] if row["part"] == "train"]
            names = names[:: max(1, -(-len(names) // COMPARED))]
            where = Path("" if record is None else record["where"]).parent
            files = [where / name for name in names]
            parts = [
                (self.classifier.values(pixels).required_features(), places) for pixels, places in self._batches(files)
            ]
            if not parts:
                return []
            readable = [names[place] for _, places in parts for place in places]
            self._training = readable, np.concatenate([features for features, _ in parts])
        names, features = self._training
        best, cosines = most_similar(features, embed(self.classifier, image).features[0], NEAREST)
        return [(names[place], float(cosine)) for place, cosine in zip(best, cosines, strict=True)]

    def label_next(self, files: Sequence[str], count: int) -> list[tuple[int, float, str]]:
        """Images to label next: those that the model is least sure of, and unlike each other.

        By the greedy choice of a facility location over features, weighted by uncertainty: the next image is the one
        with the largest uncertainty times the distance to those chosen (Sener, Savarese 2018, arXiv:1708.00489, with
        the margin of Scheffer et al. 2001 as the weight).

        Returns:
            (place in `files`, margin between the two most likely classes, the most likely class) in order.
        """
        from kerasimg.evaluation.embed import directions

        classifier = self.classifier
        parts = [(classifier.values(pixels), batch) for pixels, batch in self._batches(files)]
        if not parts:
            return []
        places = [place for _, batch in parts for place in batch]
        probabilities = classifier.probabilities_of(np.concatenate([values.outputs for values, _ in parts]))
        features = directions(np.concatenate([values.required_features() for values, _ in parts]))
        if probabilities.shape[1] == 1:
            probabilities = np.hstack([1 - probabilities, probabilities])
        ranked = np.sort(probabilities, axis=1)
        margins = ranked[:, -1] - ranked[:, -2]
        uncertainty = 1.0 - margins + 1e-3
        distance = np.ones(len(places))
        chosen: list[int] = []
        for _ in range(min(count, len(places))):
            best = int(np.argmax(uncertainty * distance))
            chosen.append(best)
            distance = np.minimum(distance, 1.0 - features @ features[best])
            distance[chosen] = -1.0
        classes = self.classifier.classes
        return [(places[place], float(margins[place]), classes[int(probabilities[place].argmax())]) for place in chosen]

    def _batches(self, images: Sequence[str | Path]) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Batches of the images that can be read, float32 (N, H, W, C), with their places."""
        from kerasimg.data.decode import decode
        from kerasimg.data.image_files import BadImage
        from kerasimg.models.compiled_predict import BATCH_SIZE

        for start in range(0, len(images), BATCH_SIZE):
            rows, places = [], []
            for place, image in enumerate(images[start : start + BATCH_SIZE], start):
                with contextlib.suppress(BadImage, OSError):
                    rows.append(decode(os.fspath(image), self.classifier.spec.image))
                    places.append(place)
            if rows:
                yield np.stack(rows).astype(np.float32), places
