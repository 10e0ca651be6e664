"""Several models in one server, bundles that are replaced while it runs, devices."""

import asyncio
import io
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.serve.app import create_app
from kerasimg.deploy.serve.reload import Reloader, Source
from kerasimg.deploy.serve.server import _names
from kerasimg.deploy.serve.service import Service
from kerasimg.deploy.serve.session import Model
from kerasimg.deploy.serve.settings import Settings
from kerasimg.deploy.targets import open_runtime
from kerasimg.errors import CallError

SETTINGS = Settings(log=False, threads=2)


def red() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (30, 30), (250, 10, 10)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(bundles: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles(), tmp_path / "served"))


def answer(folders: dict[str, Path], ask: Callable[[httpx.AsyncClient, Service, Reloader], Awaitable[Any]]) -> Any:
    """Serves bundles in this process by their names."""
    sources = {name: Source(folder) for name, folder in folders.items()}
    models = [Model.open(Bundle.open(folder), SETTINGS, name) for name, folder in folders.items()]
    service = Service(models, SETTINGS)

    async def run() -> Any:
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await ask(client, service, Reloader(service, sources))

    try:
        return asyncio.run(run())
    finally:
        service.close()


def replace_folder(folder: Path, by: Path) -> None:
    """As an export does it: the new folder is complete before it has the name."""
    shutil.copytree(by, folder.with_name("new"))
    folder.rename(folder.with_name("old"))
    folder.with_name("new").rename(folder)
    shutil.rmtree(folder.with_name("old"))


def test_each_of_several_models_is_asked_by_its_name(bundles: Callable[..., Path]):
    async def ask(client: httpx.AsyncClient, service: Service, reloader: Reloader) -> None:
        first = (await client.post("/predict", content=red())).json()
        second = (await client.post("/predict?model=pair&top=9", content=red())).json()
        assert (first["model"]["name"], first["predictions"][0]["label"]) == ("colours", "red")
        assert [entry["name"] for entry in second["predictions"][0]["classes"]] == ["other", "green"]
        none = await client.post("/predict?model=cats", content=red())
        assert (none.status_code, none.json()["error"]["reason"]) == (404, "route")
        assert "(this server has: colours, pair)" in none.json()["error"]["message"]
        shape = (await client.get("/v2/models/pair")).json()["outputs"][0]["shape"]
        assert shape == [-1, 2]
        pixels = {"name": "image", "datatype": "UINT8", "shape": [1, 24, 24, 3], "data": [0] * (24 * 24 * 3)}
        for name, version in (("pair", service.served("pair").model.version), ("colours", service.model.version)):
            reply = await client.post(f"/v2/models/{name}/versions/{version}/infer", json={"inputs": [pixels]})
            assert (reply.status_code, reply.json()["model_name"]) == (200, name)
        assert [model["name"] for model in (await client.get("/about")).json()["models"]] == ["colours", "pair"]
        metrics = (await client.get("/metrics")).text
        assert 'kerasimg_images_total{model="pair"} 2.0' in metrics

    answer({"colours": bundles(), "pair": bundles("binary")}, ask)


def test_two_models_of_one_name_are_refused_and_names_are_parts_of_addresses(bundles: Callable[..., Path]):
    bundle = Bundle.open(bundles())
    assert _names([bundle, bundle], ["a", "b"]) == ["a", "b"]
    with pytest.raises(CallError, match="2 models have the name 'tiny'; give each another: --name A --name B"):
        _names([bundle, bundle], [])
    for name in ("a/b", "", "\x1b[31m", "a\nb", "\u202ea"):
        with pytest.raises(CallError, match="name: expected printable characters without '/'"):
            _names([bundle], [name])


def test_a_replaced_bundle_is_served_and_requests_in_progress_get_the_old_model(
    bundles: Callable[..., Path], folder: Path
):
    async def ask(client: httpx.AsyncClient, service: Service, reloader: Reloader) -> None:
        old = service.model
        run = old.runtime.run

        def slow(pixels: np.ndarray) -> np.ndarray:
            time.sleep(0.3)
            return run(pixels)

        old.runtime.run = slow  # type: ignore[method-assign]
        object.__setattr__(old, "quick", False)
        assert not await reloader.look("m")
        replace_folder(folder, bundles("binary"))
        assert not await reloader.look("m")  # it may still be written to
        before = asyncio.create_task(client.post("/predict", content=red()))
        await asyncio.sleep(0.05)
        assert await reloader.look("m")
        reply = (await before).json()
        assert (reply["model"]["version"], reply["predictions"][0]["label"]) == (old.version, "red")
        after = (await client.post("/predict", content=red())).json()
        assert (after["model"]["version"] != old.version, after["predictions"][0]["label"]) == (True, "other")
        assert not await reloader.look("m")
        assert 'kerasimg_reloads_total{model="m",outcome="served"} 1.0' in (await client.get("/metrics")).text
        gone = await client.get(f"/v2/models/m/versions/{old.version}")
        assert gone.status_code == 404

    answer({"m": folder}, ask)


@pytest.mark.parametrize("fault", ["changed", "missing", "manifest", "folder"])
def test_a_broken_bundle_is_refused_and_the_old_model_stays(
    folder: Path, fault: str, capsys: pytest.CaptureFixture[str]
):
    async def ask(client: httpx.AsyncClient, service: Service, reloader: Reloader) -> None:
        if fault == "changed":
            (folder / "model.onnx").write_bytes(b"no model")
        elif fault == "missing":
            (folder / "classes.json").unlink()
        elif fault == "manifest":
            (folder / "manifest.json").write_text("{}")
        else:
            shutil.rmtree(folder)
        for _ in range(3):
            assert not await reloader.look("m")
        assert (await client.post("/predict", content=red())).json()["predictions"][0]["label"] == "red"

    answer({"m": folder}, ask)
    refused = capsys.readouterr().out
    assert refused.count('"outcome": "refused"') == (fault != "folder")


def test_a_bundle_may_be_overwritten_in_place_while_it_is_served(bundles: Callable[..., Path], folder: Path):
    async def ask(client: httpx.AsyncClient, service: Service, reloader: Reloader) -> None:
        for path in bundles("binary").rglob("*"):
            shutil.copyfile(path, folder / path.name)
        assert (await client.post("/predict", content=red())).json()["predictions"][0]["label"] == "red"
        assert [await reloader.look("m") for _ in range(2)] == [False, True]
        assert (await client.post("/predict", content=red())).json()["predictions"][0]["label"] == "other"

    answer({"m": folder}, ask)


def test_a_gpu_that_is_not_here_is_an_error_that_says_what_to_install(bundles: Callable[..., Path]):
    bundle = Bundle.open(bundles())
    with pytest.raises(CallError, match=r"has no provider for a GPU that starts here .*onnxruntime-gpu"):
        open_runtime(bundle, device="gpu")
    with pytest.raises(CallError, match="runs in litert, on the CPU alone; export for onnx: kerasimg export RUN"):
        open_runtime(bundle, bundle.models[0].model_copy(update={"runtime": "litert"}), device="gpu")
    with pytest.raises(CallError, match="device: expected cpu or gpu, got 'tpu'"):
        Settings(device="tpu")
