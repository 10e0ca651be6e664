"""Dockerfile for serving a bundle without TensorFlow or Keras."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from kerasimg.deploy.bundle import Bundle
from kerasimg.deploy.targets import served, target_of
from kerasimg.errors import CallError

SERVER_PACKAGES = (
    *("numpy", "pillow", "simplejpeg", "pydantic", "typer"),
    *("fastapi", "uvicorn", "uvloop", "httptools", "prometheus-client"),
)
"""Packages that the server needs with every runtime."""

FILE = "Dockerfile"

TEMPLATE = """\
# The server of this bundle, without TensorFlow:  docker build -t {name} . && docker run -p 8000:8000 {name}
FROM python:{python}-slim
ENV PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
RUN pip install --no-cache-dir \\
    {requirements}
COPY . /bundle
# Without its dependencies, kerasimg does not install TensorFlow. To install a wheel from this folder:
# --build-arg KERASIMG=/bundle/kerasimg-{version}-py3-none-any.whl
ARG KERASIMG=kerasimg=={version}
RUN pip install --no-cache-dir --no-deps "$KERASIMG" && useradd --system --no-create-home kerasimg
USER kerasimg
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", \\
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
# The server listens on every address of the container. To require a key: -e KERASIMG_API_KEY=...
ENTRYPOINT ["kerasimg", "serve", "/bundle", "--host", "0.0.0.0", "--port", "8000"]
"""


def requirements(bundle: Bundle) -> list[str]:
    """Returns the requirements of the server of a bundle, besides kerasimg itself.

    Versions are pinned to those installed here, with which the export was compared; a package that is not installed
    is not pinned.

    Raises:
        CallError: if the bundle has no model that can be served.
    """
    runtimes = [package for model in bundle.models if (package := target_of(model).runtime.package) is not None]
    if not runtimes:
        raise CallError(f"'{bundle.folder}' has no model that `kerasimg serve` runs ({', '.join(served())})")
    packages = dict.fromkeys((*SERVER_PACKAGES, *runtimes))
    return [f"{name}=={pinned}" if (pinned := _installed(name)) else name for name in packages]


def dockerfile(bundle: Bundle) -> str:
    """Returns the text of the Dockerfile for a bundle's folder."""
    name = "".join(letter if letter.isalnum() else "-" for letter in bundle.manifest.name.lower()).strip("-") or "model"
    packages_text = " \\\n    ".join(requirements(bundle))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"  # the pinned versions are for this one
    kerasimg_version = bundle.manifest.versions.get("kerasimg") or version("kerasimg")
    return TEMPLATE.format(name=name, python=python, requirements=packages_text, version=kerasimg_version)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
