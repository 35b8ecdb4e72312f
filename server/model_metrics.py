"""The metrics of one model's engine, under the label of the model where several are served."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prometheus_client.metrics import MetricWrapperBase

from server.errors import ServerError
from server.messages import ModelInfo, Timing
from server.metrics import Metrics

M = TypeVar("M", bound=MetricWrapperBase)


class ModelMetrics:
    """The metrics of one engine.

    Counters and histograms go on when another engine takes over under the same label. Gauges, and what describes the
    model, are those of the engine that is shown.

    Args:
        service: of the whole server.
        label: of the model.
        shown: whether gauges are exported from the start; else once :meth:`show` is called.

    Attributes:
        labels: of the model, by name; none where there is one model.
    """

    def __init__(self, service: Metrics, label: str, *, shown: bool = True) -> None:
        self.service = service
        self.labels = {"model": label} if service.by_model else {}
        self._shown = shown
        self._watched: list[tuple[str, Callable[[], float], dict[str, str]]] = []
        self._model: ModelInfo | None = None
        self.cancellations = service.cancellations
        self.queue_duration = self.labelled(service.queue_duration)
        self.first_preview = self.labelled(service.first_preview)
        self.text_encode = self.labelled(service.text_encode)
        self.vae_decode = self.labelled(service.vae_decode)
        self.batch_size = self.labelled(service.batch_size)

    def labelled(self, metric: M, **labels: str) -> M:
        """Return the series of a metric that is about this model.

        Args:
            metric: of the service.
            labels: its labels beside the model's.
        """
        labels |= self.labels
        return metric.labels(**labels) if labels else metric

    def watch(self, name: str, value: Callable[[], float], **labels: str) -> None:
        """Read a gauge from a function; see :meth:`server.metrics.Metrics.watch`."""
        self._watched.append((name, value, labels | self.labels))
        if self._shown:
            self.service.watch(name, value, **labels, **self.labels)

    def show(self) -> None:
        """Export the gauges, and what describes the model, from now on."""
        self._shown = True
        for name, value, labels in self._watched:
            self.service.watch(name, value, **labels)
        if self._model is not None:
            self.describe_model(self._model)

    def hide(self) -> None:
        """Take the gauges back, and what describes the model: another engine takes over."""
        self._shown = False
        for name, _, labels in self._watched:
            if labels:
                self.service.gauges[name].remove_by_labels(labels)
        self._forget_model()

    def describe_model(self, model: ModelInfo) -> None:
        """Export the properties of the loaded model."""
        for scale in range(len(model.patch_nums)):
            self.labelled(self.service.scale_step, scale=str(scale))
        if self._shown:
            self._forget_model()
            self.service.model_info.labels(*_described(model)).set(1)
        self._model = model

    def reject(self, error: ServerError) -> None:
        """Count a request that was refused before any work."""
        self.service.reject(error)

    def observe(self, timing: Timing, exemplar: dict[str, str] | None = None) -> None:
        """Record a duration that a worker measured.

        Args:
            timing: the duration.
            exemplar: ids of a trace that has it.
        """
        match timing.stage:
            case "scale_step":
                steps = self.labelled(self.service.scale_step, scale=str(timing.scale))
                steps.observe(timing.seconds, exemplar)
                self.batch_size.observe(timing.batch, exemplar)
            case "text_encode":
                self.text_encode.observe(timing.seconds, exemplar)
            case "vae_decode" | "preview_decode":
                self.vae_decode.observe(timing.seconds, exemplar)

    def _forget_model(self) -> None:
        if self._model is not None:
            self.service.model_info.remove(*_described(self._model))


def _described(model: ModelInfo) -> tuple[str, ...]:
    return model.name, model.device, model.dtype, model.mode, str(model.image_size)
