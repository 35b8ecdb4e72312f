"""Every Prometheus metric of the service, in a registry of its own.

Names have the prefix ``star_`` and base units; labels are bounded and never hold a prompt or a user.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from server import __version__
from server.errors import (
    Draining,
    EngineDead,
    ModelLoading,
    Outcome,
    QueueFull,
    RateLimitExceeded,
    ServerError,
)
from server.messages import ModelInfo, Timing

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LONG = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_REASONS = (QueueFull, RateLimitExceeded, ModelLoading, Draining, EngineDead)
_STAGES = ("queued", "running")
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """The metrics of one app; a fresh object has a registry of its own, so tests do not share counts.

    A series that begins with 1 has no increase yet, so ``rate()`` would miss the first event: all that can be known
    before is shown as 0.
    """

    def __init__(self) -> None:
        # When each series began, as a series of its own: in this text format nobody reads it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"star_{name}", text, labels, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"star_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"star_{name}", text, labels, registry=self.registry, buckets=buckets)

        self.gauges = {
            "requests_running": gauge(
                "requests_running", "Requests of which at least one image has left the queue."
            ),
            "requests_waiting": gauge(
                "requests_waiting", "Requests that wait for their first slot."
            ),
            "queue_capacity": gauge("queue_capacity", "Images that may wait for a slot."),
            **{
                name: gauge(name, text, "worker")
                for name, text in {
                    "slots_in_use": "Slots that hold an image.",
                    "slots_total": "Slots of the engine.",
                    "engine_up": "1 when the worker is ready.",
                    "engine_heartbeat_age_seconds": "Seconds since the worker was last heard of.",
                    "gpu_memory_allocated_bytes": "Device memory in tensors.",
                    "gpu_memory_reserved_bytes": "Device memory held by the worker.",
                }.items()
            },
        }
        build = Gauge(
            "star_build_info",
            "Always 1; the labels say what runs.",
            ("version", "python"),
            registry=self.registry,
        )
        build.labels(__version__, platform.python_version()).set(1)
        self._model_info = Gauge(
            "star_model_info",
            "Always 1; the labels describe the loaded model.",
            ("model", "device", "dtype", "mode", "image_size"),
            registry=self.registry,
        )
        self.requests = counter("requests", "Answered requests.", "endpoint", "outcome")
        self.images = counter("images", "Finished images.", "worker")
        self.rejections = counter("rejections", "Requests refused before any work.", "reason")
        self.cancellations = counter("cancellations", "Requests whose client left.", "stage")
        self.engine_restarts = counter(
            "engine_restarts", "Times that a worker ended and was started again.", "worker"
        )
        self.request_duration = histogram(
            "request_duration_seconds",
            "From the request's arrival to the end of the answer.",
            _LONG,
            "endpoint",
        )
        self.queue_duration = histogram(
            "queue_duration_seconds", "From admission to the first slot.", (0.01, 0.05, *_LONG)
        )
        self.first_preview = histogram(
            "time_to_first_preview_seconds", "From admission to the first preview.", (0.05, *_LONG)
        )
        self.scale_step = histogram(
            "scale_step_duration_seconds", "One step of the engine.", _SHORT, "scale"
        )
        self.text_encode = histogram("text_encode_duration_seconds", "Encoding one prompt.", _SHORT)
        self.vae_decode = histogram(
            "vae_decode_duration_seconds", "Decoding one batch of images.", _SHORT
        )
        self.image_encode = histogram(
            "image_encode_duration_seconds", "Writing one PNG, WebP or JPEG file.", _SHORT
        )
        self.batch_size = histogram("batch_size", "Images in one step of the engine.", _COUNTS)
        for error in _REASONS:
            self.rejections.labels(error.code)
        for stage in _STAGES:
            self.cancellations.labels(stage)

    def watch(self, name: str, value: Callable[[], float], **labels: str) -> None:
        """Read a gauge from ``value`` whenever the metrics are scraped.

        Args:
            name: without the prefix.
            value: cheap, and safe to call in any thread.
            labels: of the gauge, if it has any.
        """
        gauge = self.gauges[name]
        (gauge.labels(**labels) if labels else gauge).set_function(value)

    def expect(self, endpoints: Iterable[str]) -> None:
        """Show the requests of these endpoints, none so far."""
        for endpoint in endpoints:
            self.request_duration.labels(endpoint)
            for outcome in get_args(Outcome):
                self.requests.labels(endpoint, outcome)

    def reject(self, error: ServerError) -> None:
        """Count a request that was refused before any work."""
        self.rejections.labels(error.code).inc()

    def describe_model(self, model: ModelInfo) -> None:
        """Publish what is loaded."""
        for scale in range(len(model.patch_nums)):
            self.scale_step.labels(str(scale))
        self._model_info.clear()
        self._model_info.labels(
            model.name, model.device, model.dtype, model.mode, str(model.image_size)
        ).set(1)

    def observe(self, timing: Timing) -> None:
        """Count a duration that the worker measured."""
        match timing.stage:
            case "scale_step":
                self.scale_step.labels(str(timing.scale)).observe(timing.seconds)
                self.batch_size.observe(timing.batch)
            case "text_encode":
                self.text_encode.observe(timing.seconds)
            case "vae_decode":
                self.vae_decode.observe(timing.seconds)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
