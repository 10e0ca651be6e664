"""Prometheus metrics: `GET /metrics`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasimg.deploy.serve.session import Model

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder through which server processes share metrics; set before they start."""


class Metrics:
    """Metrics of one process; those of several server processes are summed on request."""

    def __init__(self, model: Model) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("kerasimg_requests", "Requests, by route and status.", ("route", "status"), **own)
        self.seconds = Histogram("kerasimg_request_seconds", "Request latency.", ("route",), buckets=SECONDS, **own)
        self.refused = Counter("kerasimg_refused", "Requests refused, by reason.", ("reason",), **own)
        self.images = Counter("kerasimg_images", "Images classified.", **own)
        self.batch_size = Histogram("kerasimg_batch_size", "Images per model call.", buckets=SIZES, **own)
        self.model_seconds = Histogram("kerasimg_model_seconds", "Model latency per batch.", buckets=SECONDS, **own)
        self.decode_seconds = Histogram("kerasimg_decode_seconds", "Decoding time per image.", buckets=SECONDS, **own)
        across = {"multiprocess_mode": "livesum", **own}
        self.in_work = Gauge("kerasimg_in_work_images", "Images in progress.", **across)
        self.waiting = Gauge("kerasimg_queue_images", "Images waiting for the model.", **across)
        about = Gauge(
            "kerasimg_model_info",
            "Always 1; the labels identify the model.",
            ("name", "version", "runtime", "precision"),
            **(across | {"multiprocess_mode": "livemax"}),
        )
        about.labels(model.name, model.version, model.file.runtime, model.file.precision).set(1)

    def batched(self, size: int, seconds: float) -> None:
        """Records a batch."""
        self.batch_size.observe(size)
        self.model_seconds.observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """Returns all metrics in the Prometheus text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        if os.environ.get(MULTIPROCESS_DIR):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST
