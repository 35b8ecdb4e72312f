"""The policy that decides which images step together.

It is pure: no clock, no torch, no asyncio. Capacity and the scale of each image are arguments, so a policy test takes
milliseconds, and the simulation of :mod:`server.commands.simulation` runs this very code. All images here hold a slot
of the engine; :mod:`server.dispatch.dispatcher` decides who gets one.

**Cohorts.** Only images of the same shape at the same scale can step together: a cohort. An image joins at any scale
boundary, so several cohorts are in flight at a time, and each step advances one of them.

**Turns.** The image with the lowest turn leads, and its cohort steps. Turns are given in order of arrival, but an
image yields ``max_batch`` places for each image of its own job that arrived before it. So ten images of one job do
not stand between a job for one image and its turn, while no stream of newcomers can hold back any of the ten for
ever: the number of images that may overtake one is fixed when it arrives. In a cohort that fits into one batch, all
images step and end together, and the order does not matter.

**Tenants.** That is the order within one tenant. Between tenants, the first image of each goes before the second of
any, and so on: an image alone waits for one image of each other tenant at most (:mod:`server.fair_turns`).

**Classes.** While an image of a higher class is here, those of lower classes do not step, not even beside it.

**Steps.** ``max_step`` bounds the work of a batch. Where the cost of a step grows in proportion to the batch, as at
the large scales, a larger batch finishes nothing sooner: eight images that share every step all end at the end, while
in turn the first ends after an eighth of the time. Small scales are batched in any case. With fewer images in flight
than ``max_batch`` nobody waits for a slot, so there is no throughput to gain, and half of ``max_step`` bounds the work:
docs/capacity.md has the numbers.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.fair_turns import FairTurns
from server.messages import INTERACTIVE, Key

_DETERMINISTIC_MAX_STEP = 0.2
_FAST_MAX_STEP = 1.0
_QUIET_SHARE = 0.5


@dataclass(frozen=True)
class Policy:
    """Parameters of the scheduler.

    Args:
        scale_costs: share of an image's work at each scale; positive, sums to 1.
        max_batch: images in one step at most, at least 1.
        max_step: work of one step at most, in images, and half of it while fewer than ``max_batch`` are in flight; a
            step of a single image may be more.
    """

    scale_costs: tuple[float, ...]
    max_batch: int
    max_step: float = math.inf

    def __post_init__(self) -> None:
        if not self.scale_costs or min(self.scale_costs) <= 0:
            raise ValueError("scale_costs must hold a positive number for each scale")
        if self.max_batch < 1:
            raise ValueError("max_batch must be at least 1")
        if not self.max_step > 0:
            raise ValueError("max_step must be positive")

    def batch_limit(self, scale: int, in_flight: int | None = None) -> int:
        """Return the largest number of images in a step of this scale.

        Args:
            scale: its index.
            in_flight: images that hold a slot; as many as can if not given.
        """
        quiet = in_flight is not None and in_flight < self.max_batch
        step = self.max_step * (_QUIET_SHARE if quiet else 1)
        images = step / self.scale_costs[scale]
        return self.max_batch if images >= self.max_batch else max(1, int(images))


def token_shares(patch_nums: Sequence[int]) -> tuple[float, ...]:
    """Return each scale's share of an image's tokens, which approximates its cost."""
    tokens = sum(side * side for side in patch_nums)
    return tuple(side * side / tokens for side in patch_nums)


def resolve_max_step(max_step: float, mode: str) -> float:
    """Resolve 0: small in deterministic mode, where the engine steps one image at a time and batches gain nothing.

    In fast mode, large scales gain little from a batch, and all its images wait for the whole: docs/capacity.md has
    the numbers.
    """
    return max_step or (_DETERMINISTIC_MAX_STEP if mode == "deterministic" else _FAST_MAX_STEP)


@dataclass(slots=True)
class _Line:
    """The images of one tenant in one class.

    Attributes:
        turns: of its images, among each other.
        shares: turns of the tenant among the others, one for each image, ascending.
    """

    turns: dict[Key, int] = field(default_factory=dict)
    shares: list[int] = field(default_factory=list)

    def places(self) -> list[tuple[int, int, Key]]:
        """Return share, turn and key of each image: the first image takes the tenant's first share."""
        ordered = sorted(self.turns, key=self.turns.__getitem__)
        return [
            (share, self.turns[key], key) for share, key in zip(self.shares, ordered, strict=True)
        ]

    def remove(self, key: Key) -> None:
        """Remove an image with the share whose place it has."""
        self.shares.remove(next(share for share, _, here in self.places() if here == key))
        del self.turns[key]


class Scheduler:
    """The order of the images that hold a slot.

    The scale of an image is not kept here: callers pass it to :meth:`next_batch`.

    Args:
        policy: see :class:`Policy`.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._lines: dict[tuple[int, str], _Line] = {}  # of class and tenant; none is empty
        self._line_of: dict[Key, tuple[int, str]] = {}
        self._fair: defaultdict[int, FairTurns] = defaultdict(FairTurns)  # of each class
        self._arrivals = itertools.count()

    def add(self, key: Key, tenant: str = "", priority: int = INTERACTIVE) -> None:
        """Add an image that has got a slot.

        Args:
            key: of the image.
            tenant: whose job it is.
            priority: class of the job; the lowest number is the highest class.

        Raises:
            ValueError: the image is here already.
        """
        if key in self._line_of:
            raise ValueError(f"image {key.image} of job {key.job_id} is already scheduled")
        fair = self._fair[priority]
        if served := [line.shares[0] for (p, _), line in self._lines.items() if p == priority]:
            fair.serve(min(served))
        line = self._lines.setdefault((priority, tenant), _Line())
        before = sum(other.job_id == key.job_id for other in line.turns)
        line.turns[key] = next(self._arrivals) + before * self.policy.max_batch
        line.shares.append(fair.take(tenant))
        self._line_of[key] = (priority, tenant)

    def remove(self, key: Key) -> None:
        """Remove an image that is finished, cancelled or failed; an unknown one is ignored."""
        if (name := self._line_of.pop(key, None)) is None:
            return
        line = self._lines[name]
        line.remove(key)
        if not line.turns:
            del self._lines[name]
            if not any(priority == name[0] for priority, _ in self._lines):
                del self._fair[name[0]]  # nobody waits, so nobody is owed anything

    def next_batch(
        self, scales: Mapping[Key, int], shapes: Mapping[Key, int] | None = None
    ) -> tuple[Key, ...]:
        """Choose the images that step next: the leader's cohort, up to the policy's limit.

        Args:
            scales: the next scale of each image here; others are ignored.
            shapes: the number of each one's shape; all have the same if not given.

        Returns:
            images of one class and shape at one scale in the order of their turns; empty when there are none.
        """
        if not self._lines:
            return ()
        ordered = self._order()
        leader = ordered[0]
        cohort = [
            key
            for key in ordered
            if scales[key] == scales[leader] and (shapes is None or shapes[key] == shapes[leader])
        ]
        return tuple(cohort[: self.policy.batch_limit(scales[leader], in_flight=len(ordered))])

    def _order(self) -> list[Key]:
        """Return the images of the highest class that has any, in the order of their turns."""
        highest = min(priority for priority, _ in self._lines)
        places = [
            place
            for (priority, _), line in self._lines.items()
            if priority == highest
            for place in line.places()
        ]
        return [key for _, _, key in sorted(places, key=lambda place: place[:2])]
