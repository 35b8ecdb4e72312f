"""The policy that decides which waiting image goes to which worker: pure.

One queue stands before all workers. An image leaves it only when a worker has a slot free for it: a slow worker
hoards nothing, and one that dies takes with it only the images it had begun.

**Fairness.** A free slot goes to the highest class that waits, there to the tenant whose turn comes first
(:mod:`server.fair_turns`), and of this tenant's jobs to the one that holds the fewest slots, the earliest of them on a
tie. So a thousand images of one tenant keep another's one waiting for one image at most, and a job for ten images
neither starves a job for one nor is starved by a stream of such jobs.

**Classes.** An image that finds no free slot takes one back from a lower class: the latest of its images is asked back
from its worker and waits again, in front. So work of a lower class may fill all slots, and still delays no other. It
may wait for as long as there is work of a higher class.

**Images, not jobs.** The images of a job are placed one by one, each with the worker that has the most free slots.
Every image has a random stream of its own, so its worker does not matter, and a job for ten uses all workers. The
price is that a job is lost with any of the workers that generate it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from server.fair_turns import FairTurns
from server.messages import Job, Key

_Name: TypeAlias = tuple[int, str]
"""Class and tenant of jobs."""


class Placement(NamedTuple):
    """An image that a worker is to generate.

    Attributes:
        worker: index of the worker.
        job: of the image.
        image: index in the job's seeds.
        first: the worker has no image of this job yet.
    """

    worker: int
    job: Job
    image: int
    first: bool


@dataclass(slots=True)
class _Entry:
    """A job and the whereabouts of its images; finished images are in none of these.

    Attributes:
        waiting: images that are with no worker.
        placed: worker of each image that is with one.
        begun: placed images that are lost if their worker dies.
        in_slot: placed images that still hold a slot.
        recalled: those of them that have been asked back.
        accepted_by: workers that have been sent the job.
    """

    job: Job
    waiting: deque[int]
    placed: dict[int, int] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    in_slot: set[int] = field(default_factory=set)
    recalled: set[int] = field(default_factory=set)
    accepted_by: set[int] = field(default_factory=set)


class Dispatcher:
    """The unfinished jobs, the free slots of the workers, and the place of each image."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}  # in order of arrival
        self._in_class: Counter[int] = Counter()  # jobs of each class
        self._fair: defaultdict[int, FairTurns] = defaultdict(FairTurns)  # of each class
        self._slots: dict[int, int] = {}
        self._free: dict[int, int] = {}

    @property
    def slots(self) -> int:
        """Slots of all workers, free or not."""
        return sum(self._slots.values())

    @property
    def waiting(self) -> int:
        """Number of images that are with no worker."""
        return sum(len(entry.waiting) for entry in self._entries.values())

    def submit(self, job: Job) -> None:
        """Queue a job of at least one image.

        Raises:
            ValueError: the id is in use, or there is nothing to generate.
        """
        if job.id in self._entries:
            raise ValueError(f"job {job.id} is already queued")
        if not job.seeds:
            raise ValueError(f"job {job.id} asks for no image")
        self._entries[job.id] = _Entry(job, deque(range(len(job.seeds))))
        self._in_class[job.priority] += 1

    def remove(self, job_id: str) -> set[int]:
        """Forget a job, finished or not; its slots count as free from now on.

        Returns:
            the workers that have the job and must be told.
        """
        entry = self._entries.pop(job_id, None)
        if entry is None:
            return set()
        self._in_class[entry.job.priority] -= 1
        for image in list(entry.in_slot):
            self._free_slot(entry, image)
        return entry.accepted_by

    def open(self, worker: int, slots: int) -> None:
        """Add a worker that is ready, with all its slots free."""
        self._slots[worker] = self._free[worker] = slots

    def close(self, worker: int) -> list[str]:
        """Remove a worker that is gone; one that was never ready is ignored.

        Returns:
            the jobs of which it had begun an image, which must be removed. Other images placed there wait again.
        """
        self._slots.pop(worker, None)
        self._free.pop(worker, None)
        lost = []
        for entry in self._entries.values():
            entry.accepted_by.discard(worker)
            here = [image for image, at in entry.placed.items() if at == worker]
            if entry.begun.intersection(here):
                lost.append(entry.job.id)
                continue
            entry.waiting.extendleft(sorted(here, reverse=True))
            entry.in_slot.difference_update(here)
            entry.recalled.difference_update(here)
            for image in here:
                del entry.placed[image]
        return lost

    def place(self) -> list[Placement]:
        """Give free slots to waiting images until one or the other runs out.

        Returns:
            the placements; each image holds a slot of its worker from now on.
        """
        placements: list[Placement] = []
        free = sum(self._free.values())
        waiting, held = self._by_tenant() if free else ({}, Counter())
        while waiting and len(placements) < free:
            name = min(waiting, key=lambda n: (n[0], self._fair[n[0]].next(n[1]), held[n]))
            # The earliest of those served least.
            entry = min(waiting[name], key=lambda e: len(e.in_slot))
            priority, tenant = name
            self._fair[priority].serve(self._fair[priority].take(tenant))
            held[name] += 1
            worker = max(self._free, key=lambda w: (self._free[w], -w))
            image = entry.waiting.popleft()
            first = worker not in entry.accepted_by
            entry.placed[image] = worker
            entry.in_slot.add(image)
            entry.accepted_by.add(worker)
            self._free[worker] -= 1
            placements.append(Placement(worker, entry.job, image, first))
            if not entry.waiting:
                waiting[name].remove(entry)
                if not waiting[name]:
                    del waiting[name]
        return placements

    def _by_tenant(self) -> tuple[dict[_Name, list[_Entry]], Counter[_Name]]:
        """Return the waiting jobs of each tenant, in order of arrival, and the slots that each tenant holds."""
        waiting: dict[_Name, list[_Entry]] = {}
        held: Counter[_Name] = Counter()
        for entry in self._entries.values():
            name = (entry.job.priority, entry.job.tenant)
            held[name] += len(entry.in_slot)
            if entry.waiting:
                waiting.setdefault(name, []).append(entry)
        return waiting, held

    def recall(self) -> list[tuple[int, Key]]:
        """Choose images that are to give up their slots to higher classes, whose images still wait after :meth:`place`.

        Returns:
            worker and key of each image that is to be asked back; none is named twice before it has answered.
        """
        if len(+self._in_class) < 2:
            return []
        waiting: Counter[int] = Counter()
        for entry in self._entries.values():
            waiting[entry.job.priority] += len(entry.waiting)
        asked = sum(len(entry.recalled) for entry in self._entries.values())
        recalls = []
        entries = list(reversed(self._entries.values())) if waiting.total() else []
        for entry in sorted(entries, key=lambda e: -e.job.priority):  # the latest of the lowest
            wanted = sum(n for priority, n in waiting.items() if priority < entry.job.priority)
            held = sorted(entry.in_slot - entry.recalled, reverse=True)
            for image in held[: max(wanted - asked, 0)]:
                entry.recalled.add(image)
                recalls.append((entry.placed[image], Key(entry.job.id, image)))
                asked += 1
        return recalls

    def withdrawn(self, key: Key) -> None:
        """Note that a worker has given an image back: it waits again, before others of its job."""
        if (entry := self._find(key)) is not None:
            self._free_slot(entry, key.image)
            entry.begun.discard(key.image)
            del entry.placed[key.image]
            entry.waiting.appendleft(key.image)

    def begun(self, key: Key) -> None:
        """Note that the image's worker works on it: from now on it is lost with that worker."""
        if (entry := self._find(key)) is not None:
            entry.begun.add(key.image)

    def vacated(self, key: Key) -> None:
        """Note that the image's slot is free; its pixels are still to come."""
        if (entry := self._find(key)) is not None:
            self._free_slot(entry, key.image)

    def painted(self, key: Key) -> None:
        """Note that the image is finished. The job stays until it is removed."""
        if (entry := self._find(key)) is not None:
            self._free_slot(entry, key.image)
            entry.begun.discard(key.image)
            del entry.placed[key.image]

    def _find(self, key: Key) -> _Entry | None:
        """Return the job of a placed image; None if it has been removed meanwhile."""
        entry = self._entries.get(key.job_id)
        return entry if entry is not None and key.image in entry.placed else None

    def _free_slot(self, entry: _Entry, image: int) -> None:
        if image in entry.in_slot:
            entry.in_slot.remove(image)
            entry.recalled.discard(image)
            if (worker := entry.placed[image]) in self._free:
                self._free[worker] += 1
