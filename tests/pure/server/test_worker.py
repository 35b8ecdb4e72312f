"""The worker's own start and main loop, in this process, with a model so small that it takes no time."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import torch

from server.messages import (
    Accept,
    FromWorker,
    LoadPhase,
    ModelInfo,
    Paint,
    Painted,
    Shutdown,
    ToWorker,
)
from server.model_settings import WorkerSettings
from server.settings import Settings
from server.worker import loading
from server.worker.engine_loop import EngineLoop
from server.worker.scheduler import Scheduler
from server.worker.star_engine import StarEngine
from star_model.engine import compilation
from star_model.errors import ConfigError
from star_model.networks import precision
from star_model.sampling import Sampling
from tests.server.fakes import make_job
from tests.star_model.captures import BrokenCapture, ForgetfulCapture, RecordingCapture
from tests.star_model.tiny import write_tiny_model

PROMPTS = ["a red apple", "a cat", "a green apple on blue", "", "a cat"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def threads() -> object:
    """Puts back what the worker sets for its whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def options(model: Path, **changes: object) -> WorkerSettings:
    values = {"device": "cpu", "mode": "fast", "slots": 4, "threads": 1, **changes}
    return Settings(model=str(model), **values).for_worker()  # type: ignore[arg-type]


def load(given: WorkerSettings) -> tuple[StarEngine, ModelInfo, list[LoadPhase]]:
    phases: list[LoadPhase] = []
    engine, info, policy = loading.load_engine(given, phases.append)
    assert policy == loading.make_policy(given, info.patch_nums, "fast")
    return engine, info, phases


def paint(engine: StarEngine, given: WorkerSettings, info: ModelInfo) -> dict[str, bytes]:
    """The pixels of a few jobs that come together, more than there are slots."""
    inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    painted: dict[str, bytes] = {}

    def publish(message: FromWorker) -> None:
        if isinstance(message, Painted):
            painted[message.job_id] = message.pixels.data
            if len(painted) == len(PROMPTS):
                inbox.put(Shutdown())

    for i, prompt in enumerate(PROMPTS):
        sampling = Sampling(
            guidance_scale=4.0,
            top_k=[0, 5, 20, 0, 1][i],
            top_p=[1.0, 1.0, 0.7, 0.5, 1.0][i],
            smooth_scales=i % 2,
        )
        job = make_job(str(i), [i], prompt=prompt, sampling=sampling)
        inbox.put(Accept(job))
        inbox.put(Paint(job.id, 0))
    policy = loading.make_policy(given, info.patch_nums, "fast")
    EngineLoop(engine, Scheduler(policy), inbox, publish).run()
    return painted


def test_settings_stand_in_for_the_models_own_sampling(tiny: Path, threads: object) -> None:
    _, info, _ = load(options(tiny, draft=1, unguided_scales=2))
    assert (info.sampling.draft, info.sampling.unguided_scales) == (1, 2)
    _, info, _ = load(options(tiny))
    assert (info.sampling.draft, info.sampling.unguided_scales) == (0, 0)
    with pytest.raises(ConfigError, match=r"unguided_scales must be at most 4 for tiny.*got 5"):
        load(options(tiny, unguided_scales=5))


def captured_by(monkeypatch: pytest.MonkeyPatch, capture: RecordingCapture) -> None:
    def choose(device: torch.device, wanted: bool) -> RecordingCapture | None:
        return capture if wanted else None

    monkeypatch.setattr(loading, "choose_capture", choose)


@pytest.mark.usefixtures("threads")
def test_images_are_the_same_with_graphs(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = RecordingCapture()
    captured_by(monkeypatch, capture)
    plain, info, phases = load(options(tiny))
    assert phases == ["warming"]
    expected = paint(plain, options(tiny), info)
    assert capture.captured == 0
    given = options(tiny, cuda_graphs=True)
    with structlog.testing.capture_logs() as logs:
        graphed, info, phases = load(given)
    assert phases == ["capturing", "warming"]
    told = [log for log in logs if log["event"] == "capturing graphs"]
    assert (told[0]["done"], told[-1]["done"], told[-1]["of"]) == (
        0,
        capture.captured,
        capture.captured,
    )
    # Of the 79 tokens of an image, 49 are the last scale's: a step of more than one image would be more than
    # an image's work, so there is one graph for it, three for the scale before, and four for each other.
    assert capture.captured == 4 + 4 + 3 + 1
    before = capture.replayed
    assert paint(graphed, given, info) == expected
    assert capture.captured == 12
    assert capture.replayed > before


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("broken", [BrokenCapture, ForgetfulCapture])
def test_without_graphs_where_they_do_not_work(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[[], RecordingCapture]
) -> None:
    captured_by(monkeypatch, broken())
    given = options(tiny, cuda_graphs=True)
    with structlog.testing.capture_logs() as logs:
        engine, info, _ = load(given)
    (warning,) = [log for log in logs if log["log_level"] == "warning"]
    assert warning["event"] == "no graphs could be captured; going on without, which is slower"
    assert "the graph of scale" in warning["reason"]
    plain, _, _ = load(options(tiny))
    assert paint(engine, given, info) == paint(plain, options(tiny), info)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("fast", [True, False])
def test_a_precision_that_is_imitated_is_said(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: fast)
    said: list[str] = []
    loading.open_model(options(tiny, dtype="bfloat16"), said.append)
    assert ["emulates it; float32" in sentence for sentence in said] == [True] * (not fast)


@pytest.mark.usefixtures("threads", "fresh_compiler")
def test_not_compiled_where_there_is_no_compiler(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(graph: object, inputs: object) -> Callable[..., object]:
        raise RuntimeError("no compiler\nand all that it said")

    compile_networks = compilation.compile_networks
    monkeypatch.setattr(loading, "compile_networks", lambda model: compile_networks(model, refused))
    given = options(tiny, compile=True)
    with structlog.testing.capture_logs() as logs:
        engine, info, phases = load(given)
    (warning,) = [log for log in logs if log["log_level"] == "warning"]
    assert (
        warning["event"] == "the networks could not be compiled; going on without, which is slower"
    )
    assert "\n" not in warning["reason"]
    assert phases == ["warming", "warming"]
    plain, _, _ = load(options(tiny))
    assert paint(engine, given, info) == paint(plain, options(tiny), info)


@pytest.mark.usefixtures("threads", "fresh_compiler")
def test_what_is_compiled_is_used(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    compile_networks = compilation.compile_networks
    monkeypatch.setattr(loading, "compile_networks", lambda model: compile_networks(model, backend))
    given = options(tiny, compile=True)
    engine, info, _ = load(given)
    assert compiled
    plain, _, _ = load(options(tiny))
    assert paint(engine, given, info) == paint(plain, options(tiny), info)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("given", "workers", "expected"), [(0, 1, 6), (0, 3, 2), (0, 100, 1), (5, 3, 5)]
)
def test_threads_are_those_that_are_asked_for_or_a_share(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, given: int, workers: int, expected: int
) -> None:
    monkeypatch.setattr(loading, "threads_for", lambda wished, sharing: max(1, 6 // sharing))
    loading.open_model(options(tiny, threads=given), lambda sentence: None, workers=workers)
    assert torch.get_num_threads() == expected
