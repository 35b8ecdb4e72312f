"""The metrics of several replicas as one text; each series is labelled with its replica."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for replica, text in sorted(self._texts.items()):
            for family in text_string_to_metric_families(text):
                one = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                one.samples += [
                    sample._replace(labels=sample.labels | {"replica": replica})
                    for sample in family.samples
                ]
        return families.values()


def merge_metrics(texts: Mapping[str, str]) -> bytes:
    """Return Prometheus' text for all replicas; each series has the additional label ``replica``.

    Args:
        texts: the metrics of each replica, by its id.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return generate_latest(registry)
