"""What the soak has found: tables, and what is wrong."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.growth import COUNTED, Sample, judge, print_table
from benchmarks.metrics_page import MetricsPage
from benchmarks.peers.clients import percentile
from benchmarks.tenants.batch_chain import BatchChain
from benchmarks.tenants.callers import IMAGES, LEFT, QUEUE_FULL, RATE_LIMIT, Tenant, misjudged
from benchmarks.tenants.pictures import Pictures
from benchmarks.tenants.terms import (
    BY_DAY,
    BY_NIGHT,
    FORMER,
    FORMER_IMAGES_PER_MINUTE,
    NIGHTLY,
    SLOTS,
)
from benchmarks.tenants.traffic import Traffic

MOST_DIFFERENCE: Final = SLOTS + 2
"""Images by which two tenants may differ in a window. Their images take turns, and those in the slots at its beginning
and its end are counted in part."""

MOST_WAIT: Final = 2 * (len(BY_DAY) - 1) + SLOTS
"""Images of others that may be finished while an occasional one waits: each of the four other tenants goes first once
for a slot and once for the steps, and what is in the slots may end. The flood's queue is several times as long."""

EXPECTED_ERRORS: Final = {
    "swap failed, the old model goes on",
    "settings refused, the old ones stay in force",
    "keys not read, those before stay valid",
}
"""Errors in the log that the operator brings about."""


@dataclass
class Findings:
    """What was seen.

    Args:
        tenants: by name.
        pictures: all images.
        chain: the batches.
        traffic: shares and waits.

    Attributes:
        seconds: at which each sample was taken.
        curves: samples of server and worker.
        changes: number of the period, seconds, and what the operator did.
        last_change: number of the last period with a change.
        page: the metrics at the end.
    """

    tenants: Mapping[str, Tenant]
    pictures: Pictures
    chain: BatchChain
    traffic: Traffic
    seconds: list[float] = field(default_factory=list)
    curves: dict[str, list[Sample]] = field(default_factory=lambda: {"server": [], "worker": []})
    changes: list[tuple[int, float, str]] = field(default_factory=list)
    last_change: int = 0
    page: MetricsPage = field(default_factory=lambda: MetricsPage(""))

    def wrong(self, log: Path) -> list[str]:
        """Return what is not as it should be, a sentence each."""
        return [
            *self._outcomes(),
            *misjudged(self.tenants[FORMER], FORMER_IMAGES_PER_MINUTE),
            *self.pictures.verdict(),
            *(f"{count} times in a batch: {what}" for what, count in self.chain.wrong.items()),
            *self._shares(),
            *self._sums(),
            *self._growth(),
            *unexpected(log),
        ]

    def _outcomes(self) -> Iterator[str]:
        for name, tenant in self.tenants.items():
            for what, count in tenant.wrong.items():
                yield f"{name}, {count} times: {what}"
            for outcome in sorted(BY_DAY[name] | BY_NIGHT[name]):
                if not tenant.outcomes[outcome]:
                    yield f"{name} was to have {outcome}, and never had"
        if not self.chain.batches:
            yield "no batch was completed"

    def _shares(self) -> Iterator[str]:
        for number, window in enumerate(self.traffic.windows, 1):
            if window.difference > MOST_DIFFERENCE:
                yield f"window {number}: {window.images} differ by more than {MOST_DIFFERENCE}"
            if window.batch:
                yield f"window {number}: a batch got {window.batch} images while others waited"
        total = self.images_in_windows
        for name, images in total.items():
            if abs(images / sum(total.values()) - 1 / len(total)) > self.tolerance:
                yield f"{name} got {images} of {total}, further from an even share than {self.tolerance:.3f}"
        if not total:
            yield "no shares were measured"
        if (waited := percentile(self.traffic.waits, 95)) > MOST_WAIT:
            yield f"an occasional image waited for {waited:g} of others, more than {MOST_WAIT}"

    def _sums(self) -> Iterator[str]:
        """Compare what the server has counted for each key with what its clients have."""
        for name, tenant in self.tenants.items():
            of_key = {
                outcome: self.page.total("key_requests_total", key=name, outcome=outcome)
                for outcome in ("ok", "cancelled", "rejected")
            }
            total = self.page.total("key_requests_total", key=name)
            refused = tenant.outcomes[QUEUE_FULL] + tenant.outcomes[RATE_LIMIT]
            served, left = tenant.outcomes[IMAGES], tenant.outcomes[LEFT]
            images = self.page.total("key_images_total", key=name)
            # Who leaves may do so before the server knows of the request, or after it has been answered.
            known = served + refused + tenant.others
            if not (
                known <= total <= known + left
                and of_key["ok"] >= served + tenant.others
                and of_key["rejected"] >= refused
                and total == sum(of_key.values())
                and tenant.images <= images <= tenant.images + tenant.left_behind
            ):
                yield f"{name}: the server counts {of_key}, {total:g} in all, and {images:g} images"
        requests = self.page.total("key_requests_total", key=NIGHTLY)
        images = self.page.total("key_images_total", key=NIGHTLY)
        lines = self.page.total("batch_requests_total", result="done")
        counted = (requests, lines, images)
        if counted != (self.chain.requests, self.chain.answered, self.chain.images):
            yield f"{NIGHTLY}: the server counts {counted} requests, lines and images"

    def _growth(self) -> list[str]:
        """Judge the end, after the last change, and what the changes have left."""
        end = {name: curve[self.last_change :] for name, curve in self.curves.items()}
        server = self.curves["server"]
        if not end["server"]:
            return ["no samples were taken after the last change"]
        found = judge(end)
        before = statistics.median(s.descriptors for s in server[:2])
        after = statistics.median(s.descriptors for s in end["server"])
        if after > before + COUNTED:
            found.append(f"the changes left {after - before:g} open files")
        return found

    # ---- for people, and for programs
    def print(self) -> None:
        """Print all tables."""
        print(f"{'tenant':<12}{'asked':>7}{'images':>8}{'left':>6}  refused")
        for name, tenant in self.tenants.items():
            refusals = Counter(tenant.outcomes)
            left = refusals.pop(LEFT, 0)
            refusals.pop(IMAGES, 0)
            asked = tenant.outcomes.total()
            print(f"{name:<12}{asked:>7}{tenant.images:>8}{left:>6}  {dict(refusals)}")
        chain, lines = self.chain, self.traffic.batch_lines
        print(
            f"{NIGHTLY}: {chain.batches} batches, {chain.answered} lines, {chain.images} images; one under way for "
            f"{chain.under_way_s:.0f} s; {lines['crowd']} lines beside others, {lines['pause']} in pauses"
        )
        for number, took, what in self.changes:
            print(f"period {number:>2}, {took:5.1f} s: {what}")
        total = self.images_in_windows
        print(
            f"shares in {len(self.traffic.windows)} windows: {total}, allowed to differ from a third by "
            f"{self.tolerance:.3f}; most difference in a window {self.most_difference}, allowed {MOST_DIFFERENCE}"
        )
        print(
            f"images of others beside an occasional one: {len(self.traffic.waits)} times, median "
            f"{percentile(self.traffic.waits, 50):g}, 95 %: {percentile(self.traffic.waits, 95):g}, most "
            f"{max(self.traffic.waits, default=0)}, allowed: {MOST_WAIT}"
        )
        compared, across = self.pictures.compared, self.pictures.compared_across
        print(f"{compared} images compared with the first of their request, {across} across a swap")
        print_table(self.seconds, self.curves)

    @property
    def images_in_windows(self) -> dict[str, int]:
        """The images of each tenant in all windows."""
        total = Counter[str]()
        for window in self.traffic.windows:
            total.update(window.images)
        return dict(total)

    @property
    def tolerance(self) -> float:
        """By how much the share of a tenant in all windows may differ from a third: 0.02, or an image a window."""
        few = max(MOST_DIFFERENCE, len(self.traffic.windows))
        return max(0.02, few / max(sum(self.images_in_windows.values()), 1))

    @property
    def most_difference(self) -> int:
        """The largest difference between two tenants in a window."""
        return max((window.difference for window in self.traffic.windows), default=0)

    def figures(self) -> dict[str, Any]:
        """Return the same as the tables, for JSON."""
        return {
            "tenants": {
                name: {"images": tenant.images, "outcomes": dict(tenant.outcomes)}
                for name, tenant in self.tenants.items()
            },
            "batches": self.chain.batches,
            "batch_lines": self.chain.answered,
            "batch_lines_when": dict(self.traffic.batch_lines),
            "changes": self.changes,
            "windows": [dict(window.images) for window in self.traffic.windows],
            "waits": sorted(self.traffic.waits),
            "compared": self.pictures.compared,
            "compared_across_swaps": self.pictures.compared_across,
        }


def unexpected(log: Path) -> list[str]:
    """Return the lines of a server's log that are errors, and not the operator's."""
    found = []
    for line in log.read_text("utf-8", "replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            event = {"level": "error", "event": line}
        if event["level"] in ("error", "critical") and event["event"] not in EXPECTED_ERRORS:
            found.append(f"the log has: {line[:300]}")
    return found
