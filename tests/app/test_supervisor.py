"""What a supervisor does about workers that are silent, slow to load, stuck, or cannot be started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest
import structlog

from server.dispatch import supervisor as module
from server.dispatch.supervisor import Supervisor, SupervisorCallbacks
from server.dispatch.worker_state import WorkerEnd
from server.messages import Exited, FromWorker, Heartbeat, Loading, Ready, ToWorker
from server.settings import Settings
from tests.server.fakes import MODEL
from tests.server.service import serve_fake, until

pytestmark = pytest.mark.anyio


@dataclass
class StubWorker:
    """Says what a test tells it to say, and ends when it is killed."""

    deliver: Callable[[FromWorker], None]
    killed: bool = False

    def send(self, message: ToWorker) -> None:
        pass

    def kill(self) -> None:
        if not self.killed:
            self.killed = True
            self.deliver(Exited("SIGKILL", killed=True))

    def join(self, timeout: float) -> bool:
        self.kill()
        return True


@dataclass
class Launches:
    """Starts stub workers; the first launches raise these errors, where there are any."""

    errors: list[Exception | None] = field(default_factory=list)
    workers: list[StubWorker] = field(default_factory=list)
    ends: list[WorkerEnd] = field(default_factory=list)
    lost: int = 0
    now: float = 1000.0

    def launch(self, index: int, deliver: Callable[[FromWorker], None]) -> StubWorker:
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        self.workers.append(StubWorker(deliver))
        return self.workers[-1]

    def count_loss(self) -> None:
        self.lost += 1


@asynccontextmanager
async def supervised(launches: Launches, **settings: Any) -> AsyncIterator[Supervisor]:
    """A supervisor of stub workers, on a clock that a test sets."""
    callbacks = SupervisorCallbacks(
        devices=lambda count: None,
        ready=lambda model: None,
        ended=launches.ends.append,
        lost=launches.count_loss,
        work=lambda message: None,
    )
    given = Settings(**{"restart_backoff_s": 0.001, **settings})
    supervisor = Supervisor(0, launches.launch, given, callbacks, lambda: launches.now)
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.close()


@pytest.fixture(autouse=True)
def _watch_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WATCH_SECONDS", 0.005)


async def started(supervisor: Supervisor, launches: Launches, number: int) -> StubWorker:
    """The worker of this number, once it runs."""
    await until(lambda: len(launches.workers) == number and supervisor.worker is not None)
    return launches.workers[-1]


async def ready(supervisor: Supervisor, launches: Launches, number: int) -> StubWorker:
    """The worker of this number, once it has loaded the model."""
    worker = await started(supervisor, launches, number)
    worker.deliver(Ready(MODEL))
    await until(lambda: supervisor.phase == "ready")
    return worker


async def test_a_worker_that_is_silent_while_it_loads_is_replaced() -> None:
    launches = Launches()
    async with supervised(launches, heartbeat_timeout_s=30) as supervisor:
        (await ready(supervisor, launches, 1)).kill()
        silent = await started(supervisor, launches, 2)
        silent.deliver(Loading("loading"))
        await until(lambda: supervisor.heard_at == launches.now)
        launches.now += 29
        assert supervisor._hang() is None
        launches.now += 2
        await until(lambda: silent.killed)
        await ready(supervisor, launches, 3)
        assert launches.lost == 2
        assert [end.cause for end in launches.ends] == ["killed", "silent"]


async def test_a_worker_that_loads_for_too_long_is_replaced_though_it_beats() -> None:
    launches = Launches()
    async with supervised(launches, heartbeat_timeout_s=30, load_timeout_s=100) as supervisor:
        (await ready(supervisor, launches, 1)).kill()
        slow = await started(supervisor, launches, 2)
        begun = launches.now
        for _ in range(5):
            launches.now += 20
            slow.deliver(Heartbeat(turned_at=begun, idle=False))
            await until(lambda: supervisor.heard_at == launches.now)
            assert not slow.killed
        launches.now += 1
        await until(lambda: slow.killed)
        await ready(supervisor, launches, 3)
        assert launches.ends[-1].cause == "load_timeout"


async def test_a_first_load_that_hangs_says_why_nothing_can_be_served() -> None:
    launches = Launches()
    async with supervised(launches, heartbeat_timeout_s=30) as supervisor:
        worker = await started(supervisor, launches, 1)
        launches.now += 31
        await until(lambda: supervisor.phase == "failed")
        assert worker.killed
        assert supervisor.fatal == "The model could not be loaded: it was silent for 31 s."
        assert supervisor.alive


@pytest.mark.parametrize(
    ("idle", "turned", "hangs"), [(False, -601, True), (False, -599, False), (True, -601, False)]
)
async def test_a_loop_that_is_busy_for_too_long_hangs_and_one_that_waits_does_not(
    idle: bool, turned: float, hangs: bool
) -> None:
    """A prompt that is never encoded, or a step that never ends; both leave the start of the turn behind."""
    launches = Launches()
    timeouts = {"heartbeat_timeout_s": 3600, "stall_timeout_s": 600}
    async with supervised(launches, **timeouts) as supervisor:
        worker = await ready(supervisor, launches, 1)
        launches.now += 900  # a turn counts from when the worker was ready
        beat = Heartbeat(turned_at=launches.now + turned, idle=idle)
        worker.deliver(beat)
        if hangs:
            await until(lambda: worker.killed)
            await started(supervisor, launches, 2)
            assert launches.ends[-1].cause == "stalled"
        else:
            await until(lambda: supervisor.beat == beat)
            assert supervisor._hang() is None


async def test_the_beats_of_the_load_do_not_count_once_the_model_is_loaded() -> None:
    launches = Launches()
    timeouts = {"heartbeat_timeout_s": 3600, "stall_timeout_s": 600}
    async with supervised(launches, **timeouts) as supervisor:
        worker = await started(supervisor, launches, 1)
        begun = launches.now
        launches.now += 900  # longer than a step may take, and not too long for a load
        worker.deliver(Heartbeat(turned_at=begun, idle=False))
        worker.deliver(Ready(MODEL))
        await until(lambda: supervisor.phase == "ready")
        assert supervisor._hang() is None


async def test_a_launch_that_fails_is_tried_again() -> None:
    full = OSError(24, "Too many open files")
    launches = Launches([None, full, full])
    async with supervised(launches) as supervisor:
        (await ready(supervisor, launches, 1)).kill()
        await ready(supervisor, launches, 2)
        assert launches.errors == []
        assert launches.lost == 3
        assert [end.cause for end in launches.ends] == ["killed", "not_started", "not_started"]
        assert supervisor.state.restarts == 3
        assert supervisor.alive


async def test_a_first_launch_that_fails_says_why() -> None:
    launches = Launches([OSError(24, "Too many open files")])
    async with supervised(launches) as supervisor:
        await until(lambda: supervisor.phase == "failed")
        assert supervisor.fatal == (
            "The model could not be loaded: "
            "the worker could not be started (OSError: [Errno 24] Too many open files)."
        )
        assert supervisor.alive


async def test_the_service_recovers_from_launches_that_fail() -> None:
    full = OSError(24, "Too many open files")
    async with serve_fake(launch_errors=[None, full, full]) as service:
        assert (await service.generate()).status_code == 200
        service.worker().kill()
        await until(lambda: len(service.engines) == 2 and service.client.phase == "ready")
        assert (await service.generate()).status_code == 200
        restarts = service.models.metrics.registry.get_sample_value(
            "star_engine_restarts_total", {"worker": "0"}
        )
        assert restarts == 3


async def test_the_next_start_waits_and_the_end_before_it_is_logged() -> None:
    launches = Launches()
    async with supervised(launches, restart_backoff_s=30) as supervisor:
        with structlog.testing.capture_logs() as logs:
            (await ready(supervisor, launches, 1)).kill()
            await until(lambda: supervisor.phase == "restarting")
            await anyio.sleep(0.02)
        assert len(launches.workers) == 1
        assert supervisor.seconds_to_ready > 29
    (line,) = [line for line in logs if line["event"] == "worker exited"]
    assert (line["log_level"], line["cause"], line["restart_s"]) == ("error", "killed", 30)


async def test_a_fault_of_the_supervision_itself_does_not_end_it() -> None:
    launches = Launches()

    def broken(end: WorkerEnd) -> None:
        launches.ends.append(end)
        if len(launches.ends) == 1:
            raise KeyError("a bug")

    async with supervised(launches) as supervisor:
        supervisor._callbacks = replace(supervisor._callbacks, ended=broken)
        with structlog.testing.capture_logs() as logs:
            (await ready(supervisor, launches, 1)).kill()
            await ready(supervisor, launches, 2)
        assert supervisor.alive
    assert [line for line in logs if line["event"] == "supervision failed, and goes on"]


async def test_a_worker_that_cannot_be_killed_at_once_is_killed_later() -> None:
    launches = Launches()
    async with supervised(launches, heartbeat_timeout_s=30) as supervisor:
        worker = await ready(supervisor, launches, 1)
        kill, tries = worker.kill, [PermissionError(1, "not permitted")] * 2

        def refused() -> None:
            if tries:
                raise tries.pop()
            kill()

        worker.kill = refused  # type: ignore[method-assign]
        launches.now += 31
        await until(lambda: not tries)
        launches.now += 31
        await started(supervisor, launches, 2)
        assert supervisor.alive


async def test_the_backoff_doubles_up_to_a_minute_and_never_overflows() -> None:
    async with supervised(Launches(), restart_backoff_s=1) as supervisor:
        assert [supervisor._backoff(failures) for failures in range(1, 8)] == [
            1,
            2,
            4,
            8,
            16,
            32,
            60,
        ]
        assert supervisor._backoff(1025) == 60
        assert supervisor._backoff(10**9) == 60


async def test_a_start_may_be_silent_for_longer_than_a_running_worker() -> None:
    launches = Launches()
    async with supervised(launches, heartbeat_timeout_s=3) as supervisor:
        worker = await started(supervisor, launches, 1)
        launches.now += 29
        assert supervisor._hang() is None
        launches.now += 2
        await until(lambda: worker.killed)


async def test_a_long_load_is_reported_in_the_log() -> None:
    launches = Launches()
    async with supervised(launches) as supervisor:
        with structlog.testing.capture_logs() as logs:
            worker = await started(supervisor, launches, 1)
            worker.deliver(Loading("loading"))
            await until(lambda: supervisor.phase == "loading")
            launches.now += 10
            await until(lambda: any(line["event"] == "still loading" for line in logs))
            worker.deliver(Ready(MODEL))
            await until(lambda: supervisor.phase == "ready")
            launches.now += 10
            await until(lambda: supervisor._reported_at == launches.now)
    (line,) = [line for line in logs if line["event"] == "still loading"]
    assert (line["phase"], line["seconds"]) == ("loading", 10)
