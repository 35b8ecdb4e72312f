"""What ``/metrics`` of a live server says, as numbers."""

from __future__ import annotations

import time

import httpx

from benchmarks import metrics_page
from tests.live_server import LiveServer


class MetricsPage(metrics_page.MetricsPage):
    """One scrape.

    Args:
        text: of the page.
    """

    @property
    def steps(self) -> float:
        """Scales computed so far, a batch counted as one."""
        return self.total("scale_step_duration_seconds_count")

    @property
    def at_rest(self) -> bool:
        """Whether nothing waits, runs, or holds a slot."""
        return not any(
            self.total(n) for n in ("requests_running", "requests_waiting", "slots_in_use")
        )


def scrape(server: LiveServer) -> MetricsPage:
    """Read the page."""
    return MetricsPage(httpx.get(f"{server.url}/metrics", timeout=30).raise_for_status().text)


def settled(server: LiveServer, seconds: float = 0.3) -> MetricsPage:
    """The page once no further scale has been reported for a while: what was on its way has arrived."""
    page = scrape(server)
    while True:
        time.sleep(seconds)
        before, page = page, scrape(server)
        if page.steps == before.steps:
            return page
