"""The Dockerfile of a bundle installs what the server imports, and neither TensorFlow nor Keras."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import pytest

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.serve.dockerfile import dockerfile, requirements
from kerasimg.deploy.targets import served, target
from kerasimg.errors import CallError


def test_every_served_runtime_has_a_package():
    packages = {name: target(name).runtime.package for name in served()}
    assert packages == {
        "litert": "ai-edge-litert",
        "onnx": "onnxruntime",
        "openvino": "openvino",
        "ncnn": "ncnn",
    }


def test_installed_packages_are_pinned_and_exclude_tensorflow(bundles: Callable[..., Path]):
    needed = requirements(Bundle.open(bundles()))
    assert f"onnxruntime=={version('onnxruntime')}" in needed
    assert f"fastapi=={version('fastapi')}" in needed
    assert not [one for one in needed if re.match("tensorflow|keras", one)]


def test_the_container_has_every_package_that_the_server_imports(bundles: Callable[..., Path]):
    code = "import sys, kerasimg.deploy.serve.server, kerasimg.deploy.serve.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    owners = packages_distributions()
    imported = {canonical(owners[name][0]) for name in loaded if name in owners} - {"kerasimg"}
    installed, rest = set(), [re.split("==", name)[0] for name in requirements(Bundle.open(bundles()))]
    while rest:
        name = canonical(rest.pop())
        if name not in installed:
            installed.add(name)
            rest += [re.split(r"[^\w.-]", line)[0] for line in _needs(name) if "extra ==" not in line]
    # by FastAPI, AnyIO, the start of any Python, and for small PNGs, which Pillow decodes as well
    used_if_installed = {"orjson", "python-multipart", "sniffio", "setuptools", "opencv-python-headless"}
    assert imported - used_if_installed <= installed


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needs(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # for another platform
        return []


def test_the_container_serves_its_folder_without_privileges(bundles: Callable[..., Path]):
    text = dockerfile(Bundle.open(bundles()))
    assert "-t tiny ." in text
    assert f"ARG KERASIMG=kerasimg=={version('kerasimg')}\n" in text
    assert 'pip install --no-cache-dir --no-deps "$KERASIMG"' in text
    assert "USER kerasimg" in text
    assert 'ENTRYPOINT ["kerasimg", "serve", "/bundle", "--host", "0.0.0.0", "--port", "8000"]' in text


def test_a_bundle_that_cannot_be_served_has_no_dockerfile(bundles: Callable[..., Path]):
    bundle = Bundle.open(bundles())
    (file,) = bundle.models
    other = bundle.manifest.model_copy(update={"models": [file.model_copy(update={"runtime": "browser"})]})
    with pytest.raises(CallError, match="has no model that `kerasimg serve` runs"):
        dockerfile(replace(bundle, manifest=other))
