"""The Dockerfile of a bundle: an image of the server that holds neither TensorFlow nor Keras."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from kerasimg.deploy.bundle import Bundle
from kerasimg.errors import CallError

SERVER = (
    *("numpy", "pillow", "pydantic", "typer"),
    *("fastapi", "uvicorn", "uvloop", "httptools", "python-multipart", "prometheus-client"),
)
"""Packages that the server needs, whatever the runtime."""

RUNTIME = {"litert": "ai-edge-litert", "onnx": "onnxruntime", "openvino": "openvino"}
"""`runtime` of a model file -> the package that runs it."""

FILE = "Dockerfile"

TEMPLATE = """\
# The server of this bundle, without TensorFlow:  docker build -t {name} . && docker run -p 8000:8000 {name}
FROM python:{python}-slim
ENV PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
RUN pip install --no-cache-dir \\
    {requirements}
COPY . /bundle
# Of kerasimg only what serves is used; without its dependencies TensorFlow stays out. Of a wheel that lies in this
# folder: --build-arg KERASIMG=/bundle/kerasimg-{version}-py3-none-any.whl
ARG KERASIMG=kerasimg=={version}
RUN pip install --no-cache-dir --no-deps "$KERASIMG" && useradd --system --no-create-home kerasimg
USER kerasimg
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", \\
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
# The image listens at every address of its container; ask for a key with -e KERASIMG_API_KEY=...
ENTRYPOINT ["kerasimg", "serve", "/bundle", "--host", "0.0.0.0", "--port", "8000"]
"""


def requirements(bundle: Bundle) -> list[str]:
    """What the server of a bundle needs installed, besides kerasimg itself, as `pip` reads it.

    Versions are those installed here, so that the image runs what the export was compared with; what is not installed
    stands without one. CallError where the bundle has no model that is served.
    """
    runtimes = [model.runtime for model in bundle.models if model.runtime in RUNTIME]
    if not runtimes:
        raise CallError(f"'{bundle.folder}' has no model that `kerasimg serve` runs ({', '.join(RUNTIME)})")
    packages = dict.fromkeys((*SERVER, *(RUNTIME[name] for name in runtimes)))
    return [f"{name}=={found}" if (found := _installed(name)) else name for name in packages]


def dockerfile(bundle: Bundle) -> str:
    """The text of the Dockerfile that stands in a bundle's folder."""
    name = "".join(letter if letter.isalnum() else "-" for letter in bundle.manifest.name.lower()).strip("-") or "model"
    needed = " \\\n    ".join(requirements(bundle))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"  # for which those versions are
    own = bundle.manifest.versions.get("kerasimg") or version("kerasimg")
    return TEMPLATE.format(name=name, python=python, requirements=needed, version=own)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
