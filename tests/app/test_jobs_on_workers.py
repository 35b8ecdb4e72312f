"""The messages that carry a job to its workers: once to each, again to a successor, and an end for all of them."""

from __future__ import annotations

import asyncio

import pytest

from server.dispatch.ticket import Ticket
from server.errors import EngineDead
from server.messages import Accept, Cancel, ImageEdit, Job, Paint, Painted, Pixels, ToWorker
from tests.server.fakes import FakeEngine, ThreadWorker, held_engine, make_job, paint
from tests.server.service import Service, serve_fake, until

pytestmark = pytest.mark.anyio

EDIT = ImageEdit(
    Pixels(512, 512, bytes(3 * 512 * 512)), None, keep_scales=3, erase=False, focus=False, feather=False
)  # fmt: skip


def submit(service: Service, job: Job) -> Ticket:
    return service.client.submit(job, service.client.clock() + 60)


async def images(ticket: Ticket) -> list[Painted]:
    with ticket:
        return [event async for event in ticket.events() if isinstance(event, Painted)]


def about(worker: ThreadWorker, name: str) -> list[ToWorker]:
    """The messages about a job that a worker was sent."""
    return [
        message
        for message in worker.sent
        if (isinstance(message, Accept) and message.job.id == name)
        or (isinstance(message, Paint | Cancel) and message.job_id == name)
    ]


def jobs_of(worker: ThreadWorker) -> dict[str, Job]:
    assert worker.loop is not None
    return worker.loop._jobs


async def test_a_job_with_an_edit_crosses_to_a_worker_once() -> None:
    async with serve_fake(make_engine=lambda: held_engine(slots=2)) as service:
        job = make_job("a", range(5), edit=EDIT)
        ticket = submit(service, job)
        service.engine.gate.set()
        assert [p.pixels for p in sorted(await images(ticket), key=lambda p: p.image)] == [
            paint(seed, 10) for seed in range(5)
        ]
        worker = service.worker()
        assert about(worker, "a") == [Accept(job), *(Paint("a", i) for i in range(5)), Cancel("a")]
        await until(lambda: not jobs_of(worker))


async def test_each_worker_that_has_images_of_a_job_is_sent_it_once_and_its_end() -> None:
    async with serve_fake(make_engine=lambda: held_engine(slots=2), workers=2) as service:
        await until(lambda: service.client.workers.slots == 4)
        job = make_job("a", range(6), edit=EDIT)
        with submit(service, job):
            await until(lambda: all(engine.steps for engine in service.engines))
            workers = [service.worker(index) for index in (0, 1)]
            for worker in workers:
                sent = about(worker, "a")
                assert sent[0] == Accept(job)
                assert [type(message) for message in sent[1:]] == [Paint, Paint]
        for worker in workers:  # the client has left
            assert about(worker, "a")[-1] == Cancel("a")
        for engine in service.engines:
            engine.gate.set()
        await until(lambda: not any(jobs_of(worker) for worker in workers))
        await until(lambda: all(engine.free_slots == 2 for engine in service.engines))


async def test_a_worker_without_an_image_of_a_job_hears_nothing_of_it() -> None:
    async with serve_fake(make_engine=lambda: held_engine(slots=2), workers=2) as service:
        await until(lambda: service.client.workers.slots == 4)
        with submit(service, make_job("a")):
            await until(lambda: any(engine.steps for engine in service.engines))
        heard = [bool(about(service.worker(index), "a")) for index in (0, 1)]
        assert sorted(heard) == [False, True]


async def test_the_successor_of_a_worker_is_sent_the_job_again_once() -> None:
    """A job of which nothing was begun is not lost with its worker."""
    engines = [held_engine(slots=3), FakeEngine(slots=3)]
    async with serve_fake(make_engine=lambda: engines.pop(0)) as service:
        with submit(service, make_job("begun")) as begun:
            await until(lambda: bool(service.engine.steps))  # the loop reads nothing until it ends
            job = make_job("placed", [3, 4], edit=EDIT)
            ticket = submit(service, job)
            first = service.worker()
            assert about(first, "placed") == [Accept(job), Paint("placed", 0), Paint("placed", 1)]
            first.kill()
            finished = await images(ticket)
            assert [p.pixels for p in finished] == [paint(3, 10), paint(4, 10)]
            with pytest.raises(EngineDead):
                await asyncio.wait_for(anext(begun.events()), 10)
        second = service.worker()
        assert second is not first
        assert about(second, "placed") == [
            Accept(job), Paint("placed", 0), Paint("placed", 1), Cancel("placed"),
        ]  # fmt: skip
        assert about(second, "begun") == []
        await until(lambda: not jobs_of(second))


@pytest.mark.parametrize("prompt", ["explode", "unreadable", "oom"])
async def test_a_job_that_fails_is_forgotten_by_all_its_workers(prompt: str) -> None:
    async with serve_fake(workers=2) as service:
        await until(lambda: service.client.workers.slots == 16)
        answer = await service.generate(prompt=prompt, n=10)
        assert answer.status_code in (500, 503)
        workers = [service.worker(index) for index in (0, 1)]
        await until(lambda: not any(jobs_of(worker) for worker in workers))
        await until(lambda: all(engine.free_slots == 8 for engine in service.engines))
