"""All Prometheus metrics of the service, in a registry of their own.

Names have the prefix ``star_`` and base units; labels have few values and never hold a prompt or a user.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from itertools import product
from typing import Final, Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics_text

from server import __version__
from server.errors import (
    Draining,
    EngineDead,
    InvalidApiKey,
    ModelLoading,
    Outcome,
    Overloaded,
    QueueFull,
    RateLimitExceeded,
    ServerError,
    TooManyUploads,
    UploadReason,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS_TYPE: Final = CONTENT_TYPE_LATEST

_LONG = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_REASONS = (
    *(QueueFull, RateLimitExceeded, TooManyUploads),
    *(ModelLoading, Draining, EngineDead, Overloaded, InvalidApiKey),
)
Refusal = Literal[
    "accept_failed",
    "connection_limit",
    "evicted",
    "flood",
    "header_timeout",
    "header_too_large",
    "malformed",
]
"""Reason of ``star_connections_refused_total``."""
_STAGES = ("queued", "running")
_STORE_OPERATIONS = ("put", "get", "sweep")
_VERDICTS = ("passed", "refused", "timeout", "error")
_READ_RESULTS = ("ok", "failed")
_MOST_KEYS = 100
"""Names of keys that have series of their own; those beyond share one, ``other``."""
_BATCH_ENDS = ("completed", "failed", "expired", "cancelled")
_BATCH_RESULTS = ("done", "failed")
_BATCH_OPERATIONS = ("write", "read", "list", "remove")
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """The metrics of one app. Each object has its own registry, so tests do not share counts.

    Where several models are served, what is about one of them has the label ``model``: see
    :class:`server.model_metrics.ModelMetrics`, which writes it.

    ``rate()`` misses the first event of a series that begins with 1, so series whose labels are known in advance are
    exported as 0 from the start.

    Args:
        by_model: whether several models are served.
    """

    def __init__(self, by_model: bool = False) -> None:
        self.by_model = by_model
        self._of_model = ("model",) if by_model else ()
        # These are extra series with the start time of each, which no reader of this text format uses.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.gauges = self._add_gauges()
        self.model_info = self._gauge(
            "model_info",
            "Always 1; the labels describe the loaded model.",
            *("model", "device", "dtype", "mode", "image_size"),
        )
        build = self._gauge(
            "build_info",
            "Always 1; the labels give the versions of the server and of Python.",
            *("version", "python"),
        )
        build.labels(__version__, platform.python_version()).set(1)
        self._keys: set[str] = set()
        self._add_counters()
        self._add_counters_of_keys()
        self._add_counters_of_changes()
        self._add_batch_counters()
        self._add_histograms()
        self._add_histograms_of_models()

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"star_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"star_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"star_{name}", text, labels, registry=self.registry, buckets=buckets)

    def _add_gauges(self) -> dict[str, Gauge]:
        return {
            "requests_running": self._gauge(
                "requests_running",
                "Interactive requests with at least one image that has left the queue.",
                *self._of_model,
            ),
            "requests_waiting": self._gauge(
                "requests_waiting",
                "Interactive requests waiting for their first slot.",
                *self._of_model,
            ),
            "connections": self._gauge("connections", "Open connections of clients."),
            "api_keys": self._gauge("api_keys", "API keys that the server knows."),
            "queue_capacity": self._gauge(
                "queue_capacity", "Images that may wait for a slot.", *self._of_model
            ),
            "batches_running": self._gauge("batches_running", "Batches that this server works at."),
            "engine_phase": self._gauge(
                "engine_phase",
                "1 for the phase that the worker is in, else 0.",
                *("worker", "phase", *self._of_model),
            ),
            **{
                name: self._gauge(name, text, "worker", *self._of_model)
                for name, text in {
                    "slots_in_use": "Slots that hold an image.",
                    "slots_total": "Slots of the worker.",
                    "engine_up": "1 if the worker is ready, else 0.",
                    "engine_heartbeat_age_seconds": "Seconds since the worker's last message.",
                    "gpu_memory_allocated_bytes": "Device memory in tensors, in bytes.",
                    "gpu_memory_reserved_bytes": "Device memory held by the worker process, in bytes.",
                }.items()
            },
        }

    def _add_counters_of_keys(self) -> None:
        self.key_requests = self._counter(
            "key_requests", "Answered requests that came with an API key.", "key", "outcome"
        )
        self.key_images = self._counter("key_images", "Finished images of an API key.", "key")
        self.key_file_reads = self._counter(
            "key_file_reads", "Times that the API keys were read again.", "result"
        )
        for result in _READ_RESULTS:
            self.key_file_reads.labels(result)

    def _add_counters(self) -> None:
        self.requests = self._counter("requests", "Answered requests.", "endpoint", "outcome")
        self.images = self._counter("images", "Finished images.", "worker", *self._of_model)
        self.rejections = self._counter("rejections", "Requests refused before any work.", "reason")
        self.connections_refused = self._counter(
            "connections_refused",
            "Connections closed by the server for what the client did, or for want of room.",
            "reason",
        )
        self.cancellations = self._counter(
            "cancellations", "Requests whose client disconnected.", "stage"
        )
        self.engine_restarts = self._counter(
            "engine_restarts",
            "Number of times that a worker ended and was restarted.",
            *("worker", *self._of_model),
        )
        self.engine_exits = self._counter(
            "engine_exits",
            "Processes of a worker that have ended.",
            *("worker", "cause", *self._of_model),
        )
        self.image_store_errors = self._counter(
            "image_store_errors", "Failed operations of the image store.", "operation"
        )
        self.uploads_refused = self._counter(
            "uploads_refused", "Uploaded images that were refused.", "reason"
        )
        self.safety_checks = self._counter(
            "safety_checks", "Checks by the safety hook.", "stage", "verdict"
        )
        for stage, verdict in product(("input", "output"), _VERDICTS):
            self.safety_checks.labels(stage, verdict)
        for cause in get_args(UploadReason):
            self.uploads_refused.labels(cause)
        for operation in _STORE_OPERATIONS:
            self.image_store_errors.labels(operation)
        for error in _REASONS:
            self.rejections.labels(error.code)
        for reason in get_args(Refusal):
            self.connections_refused.labels(reason)
        for stage in _STAGES:
            self.cancellations.labels(stage)

    def _add_counters_of_changes(self) -> None:
        self.model_swaps = self._counter(
            "model_swaps", "Models that were to take over from another one.", "outcome"
        )
        for outcome in ("done", "failed"):
            self.model_swaps.labels(outcome)
        self.reloads = self._counter(
            "reloads", "Times that the settings were read again.", "outcome"
        )
        for outcome in ("done", "refused"):
            self.reloads.labels(outcome)

    def _add_batch_counters(self) -> None:
        self.batches = self._counter("batches", "Batches that have ended.", "status")
        self.batch_requests = self._counter(
            "batch_requests", "Requests of batches that have a result.", "result"
        )
        self.batch_store_errors = self._counter(
            "batch_store_errors", "Failed operations of the store of batches.", "operation"
        )
        for status in _BATCH_ENDS:
            self.batches.labels(status)
        for result in _BATCH_RESULTS:
            self.batch_requests.labels(result)
        for operation in _BATCH_OPERATIONS:
            self.batch_store_errors.labels(operation)

    def _add_histograms(self) -> None:
        self.request_duration = self._histogram(
            "request_duration_seconds",
            "Seconds from the arrival of a request to the end of its answer.",
            _LONG,
            "endpoint",
        )
        self.image_encode = self._histogram(
            "image_encode_duration_seconds", "Seconds to encode one PNG, WebP or JPEG file.", _SHORT
        )
        self.image_decode = self._histogram(
            "image_decode_duration_seconds",
            "Seconds to inspect and decode the uploaded files of one edit.",
            _SHORT,
        )
        self.safety_check_duration = self._histogram(
            "safety_check_duration_seconds",
            "Seconds of one check by the safety hook, waiting included.",
            _SHORT,
            "stage",
        )

    def _add_histograms_of_models(self) -> None:
        self.queue_duration = self._histogram(
            "queue_duration_seconds",
            "Seconds from admission to the first slot, of interactive requests.",
            (0.01, 0.05, *_LONG),
            *self._of_model,
        )
        self.first_preview = self._histogram(
            "time_to_first_preview_seconds",
            "Seconds from admission to the first preview.",
            (0.05, *_LONG),
            *self._of_model,
        )
        self.scale_step = self._histogram(
            "scale_step_duration_seconds",
            "Seconds of one step of the engine.",
            _SHORT,
            "scale",
            *self._of_model,
        )
        self.text_encode = self._histogram(
            "text_encode_duration_seconds", "Seconds to encode one prompt.", _SHORT, *self._of_model
        )
        self.vae_decode = self._histogram(
            "vae_decode_duration_seconds",
            "Seconds to decode one batch of images.",
            _SHORT,
            *self._of_model,
        )
        self.batch_size = self._histogram(
            "batch_size", "Images in one step of the engine.", _COUNTS, *self._of_model
        )

    def watch(self, name: str, value: Callable[[], float], **labels: str) -> None:
        """Read a gauge from a function whenever the metrics are scraped.

        Args:
            name: of the gauge, without the prefix.
            value: returns its value; cheap, and safe to call in any thread.
            labels: of the gauge, if it has any.
        """
        gauge = self.gauges[name]
        (gauge.labels(**labels) if labels else gauge).set_function(value)

    def expect(self, endpoints: Iterable[str]) -> None:
        """Export the series of these endpoints as 0."""
        for endpoint in endpoints:
            self.request_duration.labels(endpoint)
            for outcome in get_args(Outcome):
                self.requests.labels(endpoint, outcome)

    def reject(self, error: ServerError) -> None:
        """Count a request that was refused before any work."""
        self.rejections.labels(error.code).inc()

    def count_store_error(self, operation: str) -> None:
        """Count an operation of the image store that failed."""
        self.image_store_errors.labels(operation).inc()

    def count_key_request(self, name: str, outcome: Outcome) -> None:
        """Count an answered request of a key."""
        self.key_requests.labels(self._key_label(name), outcome).inc()

    def count_key_image(self, name: str) -> None:
        """Count a finished image of a key."""
        self.key_images.labels(self._key_label(name)).inc()

    def _key_label(self, name: str) -> str:
        if name not in self._keys and len(self._keys) < _MOST_KEYS:
            self._keys.add(name)
        return name if name in self._keys else "other"

    def render(self, *, open_metrics: bool = False) -> bytes:
        """Return the text that Prometheus scrapes.

        Args:
            open_metrics: in OpenMetrics' format, with exemplars.
        """
        if open_metrics:
            return bytes(open_metrics_text(self.registry))  # type: ignore[no-untyped-call]
        return generate_latest(self.registry)
