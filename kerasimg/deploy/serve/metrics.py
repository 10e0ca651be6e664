"""Prometheus metrics: `GET /metrics`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasimg.deploy.serve.alarm import ShiftAlarm
    from kerasimg.deploy.serve.session import Model

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder through which server processes share metrics; set before they start."""


class Metrics:
    """Metrics of one process; those of several server processes are summed on request."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.shared = bool(os.environ.get(MULTIPROCESS_DIR))
        """Whether other server processes have metrics as well, and any of them may be asked for all."""
        self._by_route: dict[tuple[str, int | str], tuple[Any, Any]] = {}
        self._by_model: dict[str, Any] = {}
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("kerasimg_requests", "Requests, by route and status.", ("route", "status"), **own)
        self.seconds = Histogram("kerasimg_request_seconds", "Request latency.", ("route",), buckets=SECONDS, **own)
        self.refused = Counter("kerasimg_refused", "Requests refused, by reason.", ("reason",), **own)
        by_model: dict[str, Any] = {"labelnames": ("model",), **own}
        self.images = Counter("kerasimg_images", "Images classified.", **by_model)
        self.unknown = Counter("kerasimg_unknown_images", "Images unlike the training images, by p-value.", **by_model)
        self.batch_size = Histogram("kerasimg_batch_size", "Images per model call.", buckets=SIZES, **by_model)
        self.model_seconds = Histogram(
            "kerasimg_model_seconds", "Model latency per batch.", buckets=SECONDS, **by_model
        )
        self.reloads = Counter(
            "kerasimg_reloads", "Bundles that were replaced on disk, by outcome.", ("model", "outcome"), **own
        )
        self.decode_seconds = Histogram("kerasimg_decode_seconds", "Decoding time per image.", buckets=SECONDS, **own)
        across = {"multiprocess_mode": "livesum", **own}
        self.in_work = Gauge("kerasimg_in_work_images", "Images in progress.", **across)
        self.waiting = Gauge("kerasimg_queue_images", "Images waiting for the model.", **across)
        most = {"multiprocess_mode": "livemax", **by_model}
        self.evidence = Gauge(
            "kerasimg_shift_evidence",
            "Capital of a bet that images have become unlike the training images; 1 at the start.",
            **most,
        )
        self.alarm = Gauge("kerasimg_shift_alarm", "1 if that capital has reached the limit of the alarm.", **most)
        self.about = Gauge(
            "kerasimg_model_info",
            "1 while the model is served; the labels identify it.",
            ("name", "version", "runtime", "precision"),
            **(across | {"multiprocess_mode": "livemax"}),
        )

    def serves(self, model: Model, value: int = 1) -> None:
        """Records that a model is served, or (0) no longer."""
        self.about.labels(model.name, model.version, model.file.runtime, model.file.precision).set(value)

    def count(self, route: str, status: int | str, seconds: float, record: Mapping[str, Any]) -> None:
        """Records a request that was answered; `record` is what its line in the log says."""
        if (meters := self._by_route.get((route, status))) is None:
            meters = self.requests.labels(route, str(status)), self.seconds.labels(route)
            self._by_route[route, status] = meters
        meters[0].inc()
        meters[1].observe(seconds)
        if reason := record.get("reason"):
            self.refused.labels(reason).inc()
        elif images := record.get("images"):
            if (counter := self._by_model.get(model := record["model"])) is None:
                counter = self._by_model[model] = self.images.labels(model)
            counter.inc(images)

    def watched(self, model: str, alarm: ShiftAlarm) -> None:
        """Records the state of a model's alarm."""
        self.evidence.labels(model).set(alarm.capital)
        self.alarm.labels(model).set(alarm.raised_at is not None)

    def on_batch(self, model: str) -> Callable[[int, float], None]:
        """Returns what records a batch of a model: its size and its seconds."""
        sizes, latencies = self.batch_size.labels(model), self.model_seconds.labels(model)

        def record(size: int, seconds: float) -> None:
            sizes.observe(size)
            latencies.observe(seconds)

        return record

    def text(self) -> tuple[bytes, str]:
        """Returns all metrics in the Prometheus text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        if self.shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST
