"""The explanation of a server is the occlusion map of `kerasimg.explain`."""

import asyncio
import base64
import io
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from kerasimg.errors import CallError
from kerasimg.evaluation.explain_overlay import as_shares, overlay
from kerasimg.evaluation.occlusion import occlusion
from tests.deploy.serve.conftest import Within, write_bundle


def half_red() -> np.ndarray:
    """Red at the left, grey at the right, of the model's size."""
    pixels = np.full((24, 24, 3), 100, np.uint8)
    pixels[:, :12] = (250, 60, 60)
    return pixels


def as_file(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_the_explanation_is_the_occlusion_map_and_highlights_the_class(within: Any):
    server = within()
    answer = server.post("/predict?explain=1", content=as_file(half_red())).json()["predictions"][0]["explanation"]
    shown = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(answer["overlay"].partition(",")[2]))))
    runtime = server.service.model.runtime

    def ask(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = runtime(np.rint(images).astype(np.uint8))
        return found

    values = occlusion(ask, half_red()[np.newaxis].astype("float32"), np.array([0]))[0]
    assert as_shares(values)[:, :8].mean() > 2 * as_shares(values)[:, 16:].mean()
    assert np.array_equal(shown, np.asarray(overlay(PIL.Image.fromarray(half_red()), as_shares(values))))


@pytest.mark.parametrize(("task", "target"), [("multilabel", "red"), ("binary", "other")])
def test_the_decided_or_most_likely_class_is_explained(within: Any, task: str, target: str):
    server = within(task)
    answer = server.post("/predict?explain=1", content=as_file(half_red())).json()
    assert answer["predictions"][0]["explanation"]["class"] == target


def test_the_number_of_waiting_explanations_is_limited(within: Any):
    server = within()

    async def ask(client: Any) -> list[int]:
        image = as_file(half_red())
        answers = await asyncio.gather(*[client.post("/predict?explain=1", content=image) for _ in range(9)])
        return sorted(answer.status_code for answer in answers)

    codes = server.together(ask)
    assert codes.count(200) >= 4
    assert set(codes) <= {200, 429}


def test_a_cancelled_explanation_stops_early(within: Any):
    server = within(max_batch=1)
    explainer = server.service.served().explainer

    class Stopped:
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 3

    with pytest.raises(CancelledError):
        explainer._explain(half_red(), 0, Stopped())


def test_an_empty_map_is_reported_as_empty(within: Any):
    one_colour = np.full((24, 24, 3), (250, 60, 60), np.uint8)
    server = within()
    found = [
        server.post("/predict?explain=1", content=as_file(pixels)).json()["predictions"][0]["explanation"]
        for pixels in (one_colour, half_red())
    ]
    assert [(one["fall"] > 1e-5, "empty" in one["note"]) for one in found] == [(False, True), (True, False)]


def test_images_of_five_channels_are_served_as_tensors(tmp_path: Path):
    server = Within(write_bundle(tmp_path / "bands", channels=5), None, lambda model: model, {"log": False})
    pixels = np.zeros((1, 24, 24, 5), np.uint8)
    pixels[..., 1] = 200

    def infer(array: np.ndarray, datatype: str) -> Any:
        tensor = {"name": "image", "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
        return server.post("/v2/models/tiny/infer", json={"inputs": [tensor]})

    for array, datatype in ((pixels, "UINT8"), (pixels.astype(np.float32), "FP32")):
        assert infer(array, datatype).json()["outputs"][1]["data"] == ["green"]
    wrong = infer(pixels[..., :3], "UINT8")
    assert (wrong.status_code, wrong.json()["error"]) == (400, "expected the shape [N, 24, 24, 5], got [1, 24, 24, 3]")
    for content in (as_file(half_red()), b"II*\0" + bytes(99), b"\x93NUMPY" + bytes(99)):
        refused = server.post("/predict", content=content)
        assert (refused.status_code, "are sent as tensors" in refused.text) == (422, True), refused.text
    runtime = server.service.model.runtime
    assert runtime.answer(pixels).probabilities.argmax() == 1
    with pytest.raises(CallError, match=r"expected pixels \(N, 24, 24, 5\) uint8, got \(1, 24, 24, 3\)"):
        runtime.answer(pixels[..., :3])
    server.service.close()
