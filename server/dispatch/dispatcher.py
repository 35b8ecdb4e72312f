"""Which waiting image goes to which worker: pure policy.

One queue stands before all workers. An image leaves it when a worker has a slot free for it, and not before:
a slow worker hoards nothing, and one that dies takes with it only what it had begun.

**Fairness.** A free slot goes to the waiting job that holds the fewest slots, the earliest of them on a tie;
so a job for ten images neither starves a job for one nor is starved by a stream of them.

**Images, not jobs.** The images of a job are placed one by one, each with the worker that has the most free
slots. Every image draws from a random stream of its own, so it does not matter where it is painted, and a
job for ten uses all workers. The price is that a job is lost with any of the workers that paint it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from server.worker.scheduler import Key


class Placement(NamedTuple):
    """An image is to be painted by a worker."""

    worker: int
    key: Key


@dataclass(slots=True)
class _Placed:
    worker: int
    begun: bool = False
    holds_slot: bool = True


@dataclass(slots=True)
class _Job:
    id: str
    waiting: deque[int]
    placed: dict[int, _Placed] = field(default_factory=dict)

    @property
    def slots_held(self) -> int:
        return sum(image.holds_slot for image in self.placed.values())


class Dispatcher:
    """The jobs that are not painted, the slots that the workers have, and which image is where."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}  # in order of arrival
        self._slots: dict[int, int] = {}
        self._free: dict[int, int] = {}

    @property
    def slots(self) -> int:
        """Slots of all workers, free or not."""
        return sum(self._slots.values())

    @property
    def waiting(self) -> int:
        """Images that are with no worker."""
        return sum(len(job.waiting) for job in self._jobs.values())

    def submit(self, job_id: str, images: int) -> None:
        """Queue a job of at least one image.

        Raises:
            ValueError: the id is in use, or there is nothing to paint.
        """
        if job_id in self._jobs:
            raise ValueError(f"job {job_id} is already queued")
        if images < 1:
            raise ValueError(f"job {job_id} asks for {images} images")
        self._jobs[job_id] = _Job(job_id, deque(range(images)))

    def remove(self, job_id: str) -> set[int]:
        """Forget a job, whatever became of it.

        Returns:
            the workers that have images of it, and are to be told; their slots count as free from now on.
        """
        job = self._jobs.pop(job_id, None)
        if job is None:
            return set()
        for image in job.placed.values():
            self._vacate(image)
        return {image.worker for image in job.placed.values()}

    def open(self, worker: int, slots: int) -> None:
        """A worker is ready, with all of its slots free."""
        self._slots[worker] = self._free[worker] = slots

    def close(self, worker: int) -> list[str]:
        """A worker is gone; harmless for one that never was.

        Returns:
            the jobs of which it had begun an image, to be removed. What else it had been given waits again.
        """
        self._slots.pop(worker, None)
        self._free.pop(worker, None)
        lost = []
        for job in self._jobs.values():
            here = {
                image: placed for image, placed in job.placed.items() if placed.worker == worker
            }
            if any(placed.begun for placed in here.values()):
                lost.append(job.id)
            else:
                job.waiting.extendleft(sorted(here, reverse=True))
                for image in here:
                    del job.placed[image]
        return lost

    def place(self) -> list[Placement]:
        """Give free slots to waiting images, until there are none of the one or of the other.

        Returns:
            which image goes where; from now on they hold a slot there.
        """
        placements: list[Placement] = []
        free = sum(self._free.values())
        waiting = [job for job in self._jobs.values() if job.waiting] if free else []
        while waiting and len(placements) < free:
            job = min(waiting, key=lambda j: j.slots_held)  # the first of the least served
            worker = max(self._free, key=lambda w: (self._free[w], -w))
            image = job.waiting.popleft()
            job.placed[image] = _Placed(worker)
            self._free[worker] -= 1
            placements.append(Placement(worker, Key(job.id, image)))
            if not job.waiting:
                waiting.remove(job)
        return placements

    def begun(self, key: Key) -> None:
        """The image's worker works on it: from now on it is lost with that worker."""
        if (image := self._find(key)) is not None:
            image.begun = True

    def vacated(self, key: Key) -> None:
        """The image's slot is free; its pixels are still to come."""
        if (image := self._find(key)) is not None:
            self._vacate(image)

    def painted(self, key: Key) -> None:
        """The image is done."""
        if (image := self._find(key)) is not None:
            self._vacate(image)
            job = self._jobs[key.job_id]
            del job.placed[key.image]
            if not job.placed and not job.waiting:
                del self._jobs[job.id]

    def _find(self, key: Key) -> _Placed | None:
        job = self._jobs.get(key.job_id)  # None when it has been removed meanwhile
        return job.placed.get(key.image) if job is not None else None

    def _vacate(self, image: _Placed) -> None:
        if image.holds_slot and image.worker in self._free:
            self._free[image.worker] += 1
        image.holds_slot = False
