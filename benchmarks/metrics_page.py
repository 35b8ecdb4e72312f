"""What ``/metrics`` of a server says, as numbers."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


class MetricsPage:
    """One scrape.

    Args:
        text: of the page.
    """

    def __init__(self, text: str) -> None:
        self.samples: list[Sample] = [
            s for f in text_string_to_metric_families(text) for s in f.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of that name, without the prefix, that have these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"star_{name}" and labels.items() <= sample.labels.items()
        )
