"""Admission, cancellation, deadlines and supervision, with workers that are threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from server.dispatch.engine_client import EngineClient
from server.dispatch.ticket import Ticket
from server.errors import (
    DeadlineExceeded,
    Draining,
    EngineDead,
    InternalError,
    ModelLoading,
    OutOfMemory,
    QueueFull,
    ServerError,
)
from server.messages import (
    BATCH,
    Heartbeat,
    Job,
    Painted,
    Pixels,
    Preview,
)
from server.worker.pending import Pending
from tests.server.fakes import FakeEngine, FakeSequence, held_engine, make_job, paint
from tests.server.service import Service, serve_fake, until

pytestmark = pytest.mark.anyio


def submit(service: Service, job: Job, timeout: float = 60.0) -> Ticket:
    return service.client.submit(job, service.client.clock() + timeout)


async def outcome(ticket: Ticket) -> list[Painted] | ServerError:
    with ticket:
        try:
            return [event async for event in ticket.events() if isinstance(event, Painted)]
        except ServerError as error:
            return error


async def test_a_job_is_painted(service: Service) -> None:
    images = await outcome(submit(service, make_job("a", [7, 8])))
    assert isinstance(images, list)
    assert [p.pixels for p in images] == [paint(7, 10), paint(8, 10)]
    assert service.client.idle


async def test_times_add_up(service: Service) -> None:
    before = time.monotonic()
    ticket = submit(service, make_job("a"))
    await outcome(ticket)
    assert ticket.queue_seconds >= 0
    assert ticket.queue_seconds + ticket.inference_seconds <= time.monotonic() - before


async def test_a_request_has_left_the_queue_when_its_first_image_has() -> None:
    async with serve_fake(make_engine=lambda: FakeEngine(slots=1, step_seconds=0.005)) as service:
        ticket = submit(service, make_job("a", range(3)))
        await until(lambda: ticket.started_at is not None)
        first = ticket.started_at
        await outcome(ticket)
        assert ticket.started_at == first
        assert ticket.inference_seconds >= 30 * 0.005


async def test_who_comes_next_is_sent_while_the_last_is_decoded() -> None:
    class SlowDecoder(FakeEngine):
        def finish(self, sequences: Sequence[FakeSequence]) -> Pending[list[Pixels]]:
            decoding.set()
            decoded.wait()
            return super().finish(sequences)

    decoding, decoded = threading.Event(), threading.Event()
    async with serve_fake(make_engine=lambda: SlowDecoder(slots=1)) as service:
        ticket = submit(service, make_job("a", [1, 2]))
        await until(decoding.is_set)
        worker = service.worker()
        try:
            await until(lambda: worker.inbox.qsize() == 1)
        finally:
            decoded.set()
        assert isinstance(await outcome(ticket), list)


async def test_the_queue_is_bounded_in_images() -> None:
    async with serve_fake(make_engine=held_engine, queue_capacity=4) as service:
        tickets = [
            submit(service, make_job(f"{i}", range(6))) for i in range(2)
        ]  # 12 = 4 + 8 slots
        with pytest.raises(QueueFull, match="12 images") as refused:
            submit(service, make_job("more"))
        assert refused.value.retry_after is not None
        assert 1 <= refused.value.retry_after <= 120
        assert service.models.metrics.registry.get_sample_value(
            "star_rejections_total", {"reason": "queue_full"}
        )
        service.engine.gate.set()
        for ticket in tickets:
            assert isinstance(await outcome(ticket), list)
        assert isinstance(await outcome(submit(service, make_job("again"))), list)


async def test_a_tenant_that_fills_the_queue_leaves_others_their_share() -> None:
    async with serve_fake(make_engine=held_engine, queue_capacity=4) as service:  # and 8 slots
        tickets = [submit(service, make_job("a", range(12), tenant="many"))]
        few = [make_job(f"b{i}", [i], tenant="few") for i in range(6)]
        tickets += [submit(service, job) for job in few]
        for tenant in ("many", "few"):
            with pytest.raises(QueueFull):
                submit(service, make_job("more", [1], tenant=tenant))
        tickets.append(submit(service, make_job("c", range(4), tenant="third")))
        service.engine.gate.set()
        assert all([isinstance(await outcome(ticket), list) for ticket in tickets])


async def test_batch_work_takes_no_room_from_others_and_is_not_in_their_figures() -> None:
    async with serve_fake(make_engine=held_engine, queue_capacity=4) as service:
        batch = submit(service, make_job("batch", range(12), priority=BATCH))
        with pytest.raises(QueueFull):
            submit(service, make_job("more batch", priority=BATCH))
        read = service.models.metrics.registry.get_sample_value
        assert (read("star_requests_waiting"), read("star_requests_running")) == (0, 0)
        interactive = submit(service, make_job("interactive", range(12)))
        assert (read("star_requests_waiting") or 0) + (read("star_requests_running") or 0) == 1
        service.engine.gate.set()
        for ticket in (interactive, batch):
            assert isinstance(await outcome(ticket), list)
        assert read("star_queue_duration_seconds_count") == 1


async def test_an_interactive_image_does_not_wait_for_batch_work_that_fills_all_slots() -> None:
    async with serve_fake(make_engine=lambda: held_engine(slots=2)) as service:
        batch = submit(service, make_job("batch", range(6), priority=BATCH, tenant="nightly"))
        await until(lambda: len(service.engine.steps) > 0)
        interactive = submit(service, make_job("now", [77, 78, 79]))
        service.engine.gate.set()
        assert isinstance(await outcome(interactive), list)
        images = await outcome(batch)
        assert isinstance(images, list)
        assert {image.image: image.pixels for image in images} == {
            i: paint(i, 10) for i in range(6)
        }
        assert service.engine.free_slots == 2
        first, *others = [min(step.seeds) >= 77 for step in service.engine.steps]
        assert not first
        assert others == sorted(others, reverse=True), "batch work went on beside it"


async def test_an_idle_server_takes_a_request_of_any_size() -> None:
    async with serve_fake(queue_capacity=1) as service:
        images = await outcome(submit(service, make_job("a", range(10))))
        assert isinstance(images, list)
        assert len(images) == 10


async def test_leaving_a_ticket_cancels_it_and_frees_its_room() -> None:
    async with serve_fake(make_engine=held_engine) as service:
        with submit(service, make_job("a", range(3))):
            await until(lambda: bool(service.engine.steps))
            assert service.client.outstanding == 3
        assert service.client.outstanding == 0
        service.engine.gate.set()
        await until(lambda: service.engine.free_slots == 8)
        assert len(service.engine.steps) == 1, (
            "a further scale was computed for a client that had left"
        )
        value = service.models.metrics.registry.get_sample_value(
            "star_cancellations_total", {"stage": "running"}
        )
        assert value == 1


async def test_a_deadline_is_answered_even_while_a_step_is_long() -> None:
    async with serve_fake(make_engine=held_engine) as service:
        ticket = submit(service, make_job("a"), timeout=0.05)
        error = await outcome(ticket)
        assert isinstance(error, DeadlineExceeded)
        assert "while it was running; raise timeout_s" in error.message
        service.engine.gate.set()
        await until(lambda: service.engine.free_slots == 8)


async def test_a_deadline_that_passes_in_the_queue_says_so() -> None:
    async with serve_fake(make_engine=lambda: held_engine(slots=1)) as service:
        with submit(service, make_job("running")):
            error = await outcome(submit(service, make_job("waiting"), timeout=0.05))
        assert isinstance(error, DeadlineExceeded)
        assert "in the queue; raise timeout_s" in error.message


@pytest.mark.parametrize(("word", "kind"), [("explode", InternalError), ("oom", OutOfMemory)])
async def test_a_failed_batch_is_the_only_one_that_fails(
    service: Service, word: str, kind: type[ServerError]
) -> None:
    assert isinstance(await outcome(submit(service, make_job("bad", prompt=word))), kind)
    assert isinstance(await outcome(submit(service, make_job("good"))), list)


async def test_before_the_model_is_loaded_requests_are_refused() -> None:
    async with serve_fake(loaded=threading.Event(), wait=False) as service:
        with pytest.raises(ModelLoading) as refused:
            submit(service, make_job("a"))
        assert refused.value.retry_after is not None


async def test_a_dead_worker_fails_what_it_painted_and_its_successor_serves_what_waited() -> None:
    engines = [held_engine(slots=1), FakeEngine()]
    async with serve_fake(make_engine=lambda: engines.pop(0)) as service:
        running = submit(service, make_job("running", [1]))
        waiting = submit(service, make_job("waiting", [3]))
        await until(lambda: running.started_at is not None)
        service.worker().kill()
        error = await outcome(running)
        assert isinstance(error, EngineDead)
        assert error.retry_after is not None
        images = await outcome(waiting)
        assert isinstance(images, list)
        assert images[0].pixels == paint(3, 10)
        assert len(service.engines) == 2
        assert (
            service.models.metrics.registry.get_sample_value(
                "star_engine_restarts_total", {"worker": "0"}
            )
            == 1
        )


async def test_two_workers_share_one_queue() -> None:
    async with serve_fake(make_engine=held_engine, workers=2) as service:
        await until(lambda: service.client.workers.slots == 16)
        ticket = submit(service, make_job("a", range(10)))
        await until(lambda: all(len(engine.steps) == 1 for engine in service.engines))
        for engine in service.engines:
            engine.gate.set()
        images = await outcome(ticket)
        assert isinstance(images, list)
        assert sorted((p.image, p.pixels) for p in images) == [(i, paint(i, 10)) for i in range(10)]
        read = service.models.metrics.registry.get_sample_value
        assert [read("star_images_total", {"worker": str(w)}) for w in (0, 1)] == [5, 5]


async def test_a_worker_that_dies_takes_nothing_with_it_but_what_it_had_begun() -> None:
    async with serve_fake(
        make_engine=lambda: held_engine(slots=1), workers=2, restart_backoff_s=60
    ) as service:
        client = service.client
        await until(lambda: client.workers.slots == 2)
        tickets = [submit(service, make_job(name, [i])) for i, name in enumerate("abcd")]
        await until(lambda: all(ticket.started_at is not None for ticket in tickets[:2]))
        service.worker(1).kill()
        assert isinstance(await outcome(tickets[1]), EngineDead)
        assert client.phase == "ready"
        client.check_ready()
        for engine in service.engines:
            engine.gate.set()
        for i in (0, 2, 3):
            images = await outcome(tickets[i])
            assert isinstance(images, list)
            assert images[0].pixels == paint(i, 10)


async def test_a_job_that_is_spread_over_workers_ends_with_one_of_them() -> None:
    async with serve_fake(make_engine=held_engine, workers=2) as service:
        await until(lambda: service.client.workers.slots == 16)
        ticket = submit(service, make_job("a", range(4)))
        await until(lambda: all(engine.steps for engine in service.engines))
        service.worker(0).kill()
        assert isinstance(await outcome(ticket), EngineDead)
        for engine in service.engines:
            engine.gate.set()
        await until(lambda: service.engines[1].free_slots == 8)
        assert len(service.engines[1].steps) == 1, "the other worker went on painting for nobody"


@pytest.mark.parametrize(("workers", "expected"), [(0, 3), (1, 1), (2, 2)])
async def test_there_are_as_many_workers_as_devices_unless_told_otherwise(
    workers: int, expected: int
) -> None:
    async with serve_fake(workers=workers, devices=3) as service:
        await until(lambda: service.client.workers.slots == 8 * expected)
        assert len(service.engines) == expected


async def test_a_worker_that_cannot_load_does_not_end_a_service_that_has_another() -> None:
    errors = [None, "no memory is left on the device"]
    async with serve_fake(load_errors=errors, workers=2) as service:
        failed = service.client.workers.supervisors[1]
        await until(lambda: failed.phase == "failed")
        assert service.client.workers.fatal is None
        assert isinstance(await outcome(submit(service, make_job("a"))), list)
        assert service.client.workers.alive


async def test_the_wait_for_a_worker_counts_its_backoff_and_its_load() -> None:
    async with serve_fake(restart_backoff_s=30) as service:
        service.worker().kill()
        await until(lambda: service.client.phase == "restarting")
        with pytest.raises(EngineDead) as refused:
            submit(service, make_job("a"))
        assert refused.value.retry_after is not None
        assert 25 <= refused.value.retry_after <= 60


async def test_while_the_worker_is_started_again_requests_are_refused() -> None:
    async with serve_fake(restart_backoff_s=60) as service:
        service.worker().kill()
        await until(lambda: service.client.phase == "restarting")
        with pytest.raises(EngineDead):
            submit(service, make_job("a"))
        assert service.client.workers.alive


async def test_a_model_that_cannot_be_loaded_at_first_is_fatal() -> None:
    async with serve_fake(load_errors=["config.json is missing"], wait=False) as service:
        await until(lambda: service.client.workers.fatal is not None)
        assert service.client.workers.fatal == "config.json is missing"
        await until(lambda: service.client.phase == "failed")


async def test_a_model_that_cannot_be_loaded_again_is_tried_again() -> None:
    async with serve_fake(load_errors=[None, "the disk is gone"]) as service:
        service.worker().kill()
        await until(lambda: len(service.engines) == 3 and service.client.phase == "ready")
        assert service.client.workers.fatal is None


@pytest.mark.parametrize(
    ("beat", "limits"),
    [
        ({"idle": True}, {"heartbeat_timeout_s": 0.1}),
        ({"idle": False, "turned_at": 0.0}, {"stall_timeout_s": 0.1}),
    ],
)
async def test_a_silent_or_hanging_worker_is_replaced(
    beat: dict[str, Any], limits: dict[str, Any]
) -> None:
    async with serve_fake(**limits) as service:
        supervisor = service.client.workers.supervisors[0]
        now = service.client.clock()
        message = Heartbeat(**({"turned_at": now} | beat))
        supervisor._hear(supervisor._generation, message)
        await until(lambda: len(service.engines) == 2)


async def test_draining_finishes_what_runs_and_refuses_the_rest() -> None:
    async with serve_fake(make_engine=lambda: held_engine(slots=1)) as service:
        running = submit(service, make_job("running"))
        waiting = submit(service, make_job("waiting"))
        await until(lambda: running.started_at is not None)
        service.client.begin_drain()
        refused = await outcome(waiting)
        assert isinstance(refused, Draining)
        assert refused.outcome == "rejected"
        with pytest.raises(Draining):
            submit(service, make_job("new"))
        service.engine.gate.set()
        assert isinstance(await outcome(running), list)
        assert service.client.idle


async def test_closing_fails_what_is_left_and_ends_the_worker() -> None:
    client: EngineClient
    async with serve_fake(make_engine=held_engine) as service:
        client = service.client
        ticket = submit(service, make_job("a", range(10)))
        await until(lambda: ticket.started_at is not None)
        worker = service.worker()
        await client.close()
        failed = await outcome(ticket)
        assert isinstance(failed, Draining)
        assert (failed.code, failed.outcome) == ("draining", "error"), (
            "it was not refused, it was given up"
        )
        assert worker.join(0)
        assert client.phase == "stopped"


async def test_a_slow_reader_loses_previews_but_no_image(service: Service) -> None:
    job = make_job("a", range(4), partial_images=3)
    with submit(service, job) as ticket:
        await until(lambda: ticket.over)
        events = [event async for event in ticket.events()]
    assert sum(isinstance(e, Painted) for e in events) == 4
    assert [(e.image, e.index) for e in events if isinstance(e, Preview)] == [
        (2, 2),
        (3, 2),
    ]  # the latest


async def test_a_reader_is_told_of_silence() -> None:
    async with serve_fake(make_engine=held_engine) as service:
        with submit(service, make_job("a")) as ticket, anyio.fail_after(5):
            async for event in ticket.events(silence=0.01):
                if event is None:
                    service.engine.gate.set()
                else:
                    break
        assert isinstance(event, Painted)
