"""What the server counts of itself, for Prometheus: `GET /metrics`."""

from __future__ import annotations

import os
from typing import Any

from kerasimg.deploy.serve.session import Model

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)

SEVERAL = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which worker processes share what they count; set before the first is started."""


class Meters:
    """Counters of one process; of several workers they are added up when they are asked for."""

    def __init__(self, model: Model) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter(
            "kerasimg_requests", "Requests answered, by route and status.", ("route", "status"), **own
        )
        self.seconds = Histogram(
            "kerasimg_request_seconds", "From a request to its answer.", ("route",), buckets=SECONDS, **own
        )
        self.refused = Counter("kerasimg_refused", "Requests refused, by reason.", ("reason",), **own)
        self.images = Counter("kerasimg_images", "Images answered.", **own)
        self.batch_size = Histogram("kerasimg_batch_size", "Images the model is asked at once.", buckets=SIZES, **own)
        self.model_seconds = Histogram(
            "kerasimg_model_seconds", "What the model takes for a batch.", buckets=SECONDS, **own
        )
        self.decode_seconds = Histogram(
            "kerasimg_decode_seconds", "What an image takes to decode.", buckets=SECONDS, **own
        )
        across = {"multiprocess_mode": "livesum", **own}
        self.in_work = Gauge("kerasimg_in_work_images", "Images read, decoded or waited for.", **across)
        self.waiting = Gauge("kerasimg_queue_images", "Images that wait for the model.", **across)
        about = Gauge(
            "kerasimg_model_info",
            "1; the labels tell which model.",
            ("name", "version", "runtime", "precision"),
            **(across | {"multiprocess_mode": "livemax"}),
        )
        about.labels(model.name, model.version, model.file.runtime, model.file.precision).set(1)

    def batched(self, size: int, seconds: float) -> None:
        """A batch was answered."""
        self.batch_size.observe(size)
        self.model_seconds.observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """Everything counted, in the form of Prometheus, and that form's content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        if os.environ.get(SEVERAL):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST
