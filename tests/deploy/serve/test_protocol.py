"""The Open Inference Protocol, version 2."""

import base64
import io
import json
from typing import Any

import numpy as np
import PIL.Image
import pytest

SIZE = 24
COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
INFER = "/v2/models/tiny/infer"


def encoded(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """An image of one colour, as a file."""
    file = io.BytesIO()
    PIL.Image.new("RGB", size, COLOURS[colour]).save(file, kind)
    return file.getvalue()


def pixels(*names: str) -> np.ndarray:
    return np.stack([np.full((SIZE, SIZE, 3), COLOURS[name], np.uint8) for name in names])


def tensor(data: Any, shape: Any, datatype: str = "UINT8", **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": datatype, "shape": shape, "data": data} | more]}


def outputs(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {entry["name"]: entry for entry in answer.json()["outputs"]}


def test_the_server_and_the_model_have_metadata(shared: Any):
    server = shared()
    assert server.get("/v2").json().keys() == {"name", "version", "extensions"}
    assert server.get("/v2/health/live").json() == {"live": True}
    assert server.get("/v2/health/ready").json() == {"ready": True}
    metadata = server.get("/v2/models/tiny").json()
    assert (metadata["name"], metadata["platform"], len(metadata["versions"])) == ("tiny", "onnx_float32", 1)
    (image,) = metadata["inputs"]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "UINT8", [-1, SIZE, SIZE, 3])
    assert [(entry["name"], entry["datatype"], entry["shape"]) for entry in metadata["outputs"]] == [
        ("probabilities", "FP32", [-1, 3]),
        ("label", "BYTES", [-1]),
    ]
    assert metadata["parameters"]["classes"] == ["red", "green", "blue"]
    version = metadata["versions"][0]
    for path in ("/v2/models/tiny/ready", f"/v2/models/tiny/versions/{version}/ready"):
        assert server.get(path).json() == {"name": "tiny", "ready": True}


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_pixels_get_probabilities_and_labels(shared: Any, flat: bool, datatype: str):
    given = pixels("blue", "red").astype("uint8" if datatype == "UINT8" else "float32")
    asked = tensor((given.ravel() if flat else given).tolist(), list(given.shape), datatype) | {"id": "mine"}
    answer = shared().post(INFER, json=asked)
    metadata = outputs(answer)
    assert (answer.json()["id"], answer.json()["model_name"]) == ("mine", "tiny")
    assert (metadata["probabilities"]["shape"], metadata["probabilities"]["datatype"]) == ([2, 3], "FP32")
    assert np.argmax(np.reshape(metadata["probabilities"]["data"], (2, 3)), axis=1).tolist() == [2, 0]
    assert (metadata["label"]["data"], metadata["label"]["shape"]) == (["blue", "red"], [2])


def test_encoded_images_get_the_answer_of_predict(shared: Any):
    server, image = shared(), encoded("green", "JPEG")
    data = [base64.b64encode(image).decode()]
    metadata = outputs(server.post(INFER, json=tensor(data, [1], "BYTES")))
    own = server.post("/predict", content=image).json()["predictions"][0]["classes"]
    assert np.float32(max(metadata["probabilities"]["data"])) == np.float32(own[0]["probability"])


def test_only_requested_outputs_are_returned(shared: Any):
    asked = tensor(pixels("red").ravel().tolist(), [1, SIZE, SIZE, 3]) | {"outputs": [{"name": "label"}]}
    assert list(outputs(shared().post(INFER, json=asked))) == ["label"]


def test_a_binary_model_returns_both_classes_and_a_multilabel_model_all_labels(shared: Any):
    asked = tensor(pixels("green").ravel().tolist(), [1, SIZE, SIZE, 3])
    two = outputs(shared("binary").post(INFER, json=asked))
    assert two["probabilities"]["shape"] == [1, 2]
    assert sum(two["probabilities"]["data"]) == pytest.approx(1)
    many = outputs(shared("multilabel", (0.5, 0.5, 0.001)).post(INFER, json=asked))
    assert many["label"]["data"] == ["green|blue"]


ONE = [1, SIZE, SIZE, 3]
FLAT = [0] * (SIZE * SIZE * 3)
WRONG: dict[str, tuple[Any, int, str]] = {
    "a list": ([], 400, "expected an object"),
    "no inputs": ({}, 400, "inputs: expected a list of one tensor"),
    "two inputs": ({"inputs": tensor(FLAT, ONE)["inputs"] * 2}, 400, "list of one"),
    "another name": (tensor(FLAT, ONE, name="x"), 400, "expected 'image', got 'x'"),
    "another type": (tensor(FLAT, ONE, "INT64"), 400, "expected UINT8, FP32 or BYTES, got 'INT64'"),
    "another size": (tensor(FLAT, [1, SIZE, 3, SIZE]), 400, f"expected the shape [N, {SIZE}, {SIZE}, 3]"),
    "too few numbers": (tensor(FLAT[1:], ONE), 400, "or flat, got"),
    "negative sizes": (tensor(FLAT, [-1, SIZE, SIZE, 3]), 400, "positive integers"),
    "enormous sizes": (tensor(FLAT, [2, 2**30, 2**30, 3]), 400, "or flat"),
    "no sizes": (tensor(FLAT, None), 400, "shape"),
    "ragged lists": (tensor([[1, 2], [3]], ONE), 400, "differ in length"),
    "texts": (tensor(["a"] * len(FLAT), ONE), 400, "other values"),
    "truths": (tensor([True] * len(FLAT), ONE), 400, "other values"),
    "fractions as bytes": (tensor([0.5] * len(FLAT), ONE), 400, "other values"),
    "large numbers": (tensor([300] * len(FLAT), ONE), 400, "0 to 255"),
    "huge numbers": (tensor([10**40] * len(FLAT), ONE), 400, "other values"),
    "negative numbers": (tensor([-1.0] * len(FLAT), ONE, "FP32"), 400, "0 to 255"),
    "another output": (tensor(FLAT, ONE) | {"outputs": [{"name": "lable"}]}, 400, "did you mean 'label'"),
    "an id of a kind": (tensor(FLAT, ONE) | {"id": 3}, 400, "id: expected a string"),
    "a long id": (tensor(FLAT, ONE) | {"id": "a" * 201}, 400, "at most 200 characters"),
    "too many": (tensor(FLAT, [33, SIZE, SIZE, 3]), 413, "more than 32"),
    "an address": (tensor(["http://x/a.png"], [1], "BYTES"), 400, "not fetched"),
    "no image": (tensor(["aaaa"], [1], "BYTES"), 415, "[0] is not an image"),
    "fewer images": (tensor(["aaaa"], [2], "BYTES"), 400, "expected [1]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_have_the_format_of_the_protocol(shared: Any, case: str):
    document, status, message = WRONG[case]
    answer = shared().post(INFER, json=document)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"]


def test_unknown_models_and_versions_have_the_error_format_of_the_protocol(shared: Any):
    server = shared()
    for path in ("/v2/models/tony", "/v2/models/tiny/versions/7", "/v2/models/tiny/versions/7/ready", "/v2/nope"):
        answer = server.get(path)
        assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert server.post("/v2/models/tony/infer", json={}).status_code == 404
    assert server.post(INFER, content=b"{").status_code == 400


LENGTH = "inference-header-content-length"


def in_binary(head: dict[str, Any], *tensors: bytes) -> dict[str, Any]:
    text = json.dumps(head).encode()
    return {"content": text + b"".join(tensors), "headers": {LENGTH: str(len(text))}}


def elements(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def binary_input(data: bytes, shape: Any, datatype: str, **more: Any) -> dict[str, Any]:
    about = {"name": "image", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    return in_binary({"inputs": [about], **more}, data)


@pytest.mark.parametrize("datatype", ["UINT8", "FP32", "BYTES"])
def test_binary_tensors_get_the_answer_of_json_tensors(shared: Any, datatype: str):
    server, given = shared(), pixels("blue", "red")
    expected = outputs(server.post(INFER, json=tensor(given.ravel().tolist(), list(given.shape))))
    if datatype == "BYTES":
        files = [encoded("blue", size=(SIZE, SIZE)), encoded("red", size=(SIZE, SIZE))]
        asked = binary_input(elements(*files), [2], datatype)
    else:
        data = given.astype("u1" if datatype == "UINT8" else "<f4").tobytes()
        asked = binary_input(data, list(given.shape), datatype)
    found = outputs(server.post(INFER, **asked))
    assert found["label"] == expected["label"]
    assert np.allclose(found["probabilities"]["data"], expected["probabilities"]["data"], atol=1e-6)


@pytest.mark.parametrize("by_default", [True, False])
def test_outputs_are_binary_on_request(shared: Any, by_default: bool):
    given = pixels("blue", "red")
    names = ("probabilities", "label")
    more: dict[str, Any] = (
        {"parameters": {"binary_data_output": True}}
        if by_default
        else {"outputs": [{"name": name, "parameters": {"binary_data": True}} for name in names]}
    )
    answer = shared().post(INFER, **binary_input(given.tobytes(), list(given.shape), "UINT8", **more))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    head = int(answer.headers[LENGTH])
    metadata, rest = json.loads(answer.content[:head]), answer.content[head:]
    sizes = {entry["name"]: entry["parameters"]["binary_data_size"] for entry in metadata["outputs"]}
    assert sum(sizes.values()) == len(rest)
    rows = np.frombuffer(rest[: sizes["probabilities"]], "<f4").reshape(2, 3)
    assert rows.argmax(1).tolist() == [2, 0]
    assert rest[sizes["probabilities"] :] == elements(b"blue", b"red")


UNFIT = {
    "a length beyond the body": {"content": b"{}", "headers": {LENGTH: "3"}},
    "a length of text": {"content": b"{}", "headers": {LENGTH: "x"}},
    "too few bytes": binary_input(b"abc", [1, SIZE, SIZE, 3], "UINT8"),
    "another size": in_binary(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}]},
        b"abc",
    ),
    "bytes of no tensor": in_binary(tensor([0], [1]), b"abc"),
    "an element beyond the end": binary_input(b"\xff\xff\xff\xffabc", [1], "BYTES"),
    "a size of a kind": in_binary(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": "3"}}]},
        b"abc",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_invalid_binary_tensors_are_refused(shared: Any, case: str):
    answer = shared().post(INFER, **UNFIT[case])
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_the_binary_extension_is_listed(shared: Any):
    assert shared().get("/v2").json()["extensions"] == ["binary_tensor_data"]
