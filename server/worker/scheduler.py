"""Which images step together: pure policy.

There is no clock, no torch and no asyncio here: time and capacity are arguments, so a policy is tested in
milliseconds. Every image here holds a slot of the engine; who gets one is :mod:`server.dispatch.dispatcher`'s affair.

**Cohorts.** Only images at the same scale can step together: a cohort. An image joins at any scale boundary,
so several cohorts are under way at a time, and every tick one of them steps.

**Turns.** The image whose turn it is leads, and its cohort with it. Turns come in the order of arrival, but
an image gives up ``max_batch`` places for each image of its own job that is there before it. So ten images
of one job do not stand between a job for one and its turn, while no stream of newcomers can hold any of the
ten back for ever: the number that may overtake it is fixed when it arrives. Where a cohort fits into one
batch, and steps and ends together, nobody notices.

**Catching up.** The leading cohort waits for the cohort behind it only where that is worth it: when its next
batch has room, and when catching up costs each newcomer at most ``catch_up`` of an image. The first seven of
ten scales are 14 % of the tokens of a 512 pixel image, so newcomers meet a cohort that is still among those,
and both go on as one; a cohort that is further on is let go. What others' catching up costs is charged to
each image that waits, up to ``patience`` images' work in its life.

**Steps.** ``max_step`` bounds the work of a batch. Where the cost of a step grows with the batch, as that of
the large scales does, a larger batch finishes nothing sooner: eight images that share every step are all
done at the end, while the same steps in turn finish the first after an eighth of the time. Small scales are
batched all the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """One image of one job."""

    job_id: str
    image: int


@dataclass(frozen=True)
class Policy:
    """What the scheduler decides by.

    Args:
        scale_costs: share of an image's work that each scale is; positive, sums to 1.
        max_batch: most images in one step, at least 1.
        catch_up: most of an image's work, in ``[0, 1]``, that a newcomer may need to catch up for those
            ahead to wait. 0 never waits, which is plain batching by arrival.
        patience: most of others' work, in images, that one image waits for in its life.
        max_step: most work in one step, in images; a step of a single image may be more.
    """

    scale_costs: tuple[float, ...]
    max_batch: int
    catch_up: float = 0.15
    patience: float = 1.0
    max_step: float = math.inf

    def __post_init__(self) -> None:
        if not self.scale_costs or min(self.scale_costs) <= 0:
            raise ValueError("scale_costs must hold a positive number for each scale")
        if self.max_batch < 1:
            raise ValueError("max_batch must be at least 1")
        if not 0 <= self.catch_up <= 1 or self.patience < 0:
            raise ValueError("catch_up must be in [0, 1] and patience not negative")
        if not self.max_step > 0:
            raise ValueError("max_step must be positive")

    def batch_limit(self, scale: int) -> int:
        """Most images in a step of this scale."""
        images = self.max_step / self.scale_costs[scale]
        return self.max_batch if images >= self.max_batch else max(1, int(images))


def token_shares(patch_nums: Sequence[int]) -> tuple[float, ...]:
    """What share of an image's tokens each scale is: its cost, to a first approximation."""
    tokens = sum(side * side for side in patch_nums)
    return tuple(side * side / tokens for side in patch_nums)


@dataclass(slots=True)
class _Running:
    key: Key
    turn: int
    deadline: float
    scale: int = 0
    waited: float = 0.0


class Scheduler:
    """The images that hold a slot, and how far each of them is.

    Args:
        policy: see :class:`Policy`.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._running: dict[Key, _Running] = {}  # in order of arrival
        self._arrivals = itertools.count()

    @property
    def idle(self) -> bool:
        """There is nothing to step."""
        return not self._running

    def add(self, key: Key, deadline: float) -> None:
        """Take an image that has got a slot; it starts at scale 0.

        Args:
            key: of the image.
            deadline: the time at which :meth:`expired` names its job.

        Raises:
            ValueError: it is here already.
        """
        if key in self._running:
            raise ValueError(f"image {key.image} of job {key.job_id} is already scheduled")
        before = sum(other.job_id == key.job_id for other in self._running)
        turn = next(self._arrivals) + before * self.policy.max_batch
        self._running[key] = _Running(key, turn, deadline)

    def remove(self, job_id: str) -> list[Key]:
        """Forget a job, whatever became of it.

        Returns:
            its images that were here; empty if the job is unknown.
        """
        removed = [key for key in self._running if key.job_id == job_id]
        for key in removed:
            del self._running[key]
        return removed

    def expired(self, now: float) -> list[str]:
        """The jobs whose deadline has come; they stay until they are removed."""
        return list(
            dict.fromkeys(i.key.job_id for i in self._running.values() if i.deadline <= now)
        )

    def next_batch(self) -> tuple[Key, ...]:
        """The images that step next, all at one scale; empty when there are none.

        Those that wait for them to catch up are charged, so call it once for each step.
        """
        cohorts = self._cohorts()
        if not cohorts:
            return ()
        leader = chosen = min(range(len(cohorts)), key=lambda i: cohorts[i][0].turn)
        while chosen + 1 < len(cohorts) and self._worth_waiting(cohorts[leader : chosen + 2]):
            chosen += 1
        batch = cohorts[chosen][: self.policy.batch_limit(cohorts[chosen][0].scale)]
        cost = self.policy.scale_costs[batch[0].scale] * len(batch)
        for cohort in cohorts[leader:chosen]:
            for image in cohort:
                image.waited += cost
        return tuple(image.key for image in batch)

    def advance(self, batch: Sequence[Key]) -> list[Key]:
        """Record that a batch has been stepped.

        Returns:
            those of it that have all their scales; they are here no longer.
        """
        done: list[Key] = []
        for key in batch:
            image = self._running[key]
            image.scale += 1
            if image.scale == len(self.policy.scale_costs):
                done.append(key)
                del self._running[key]
        return done

    def _cohorts(self) -> list[list[_Running]]:
        """Images by scale, the highest first, each cohort in the order of turns."""
        by_scale: dict[int, list[_Running]] = {}
        for image in sorted(self._running.values(), key=lambda image: image.turn):
            by_scale.setdefault(image.scale, []).append(image)
        return [by_scale[scale] for scale in sorted(by_scale, reverse=True)]

    def _worth_waiting(self, cohorts: Sequence[list[_Running]]) -> bool:
        """Whether all cohorts but the last, which is behind them, let it catch up with the last but one."""
        *_, ahead, behind = cohorts
        if len(ahead) >= self.policy.batch_limit(ahead[0].scale):
            return False
        distance = sum(self.policy.scale_costs[behind[0].scale : ahead[0].scale])
        waited = max(image.waited for cohort in cohorts[:-1] for image in cohort)
        return (
            distance <= self.policy.catch_up
            and waited + distance * len(behind) <= self.policy.patience
        )
