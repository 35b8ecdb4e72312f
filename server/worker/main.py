"""The process that holds the model: loads it, warms it, and hands it to the main loop.

It reports every step of its start, then a heartbeat each second from a thread of its own, in which stands
when the main loop last came round; so a parent can tell a dead process, a hanging one and a long step
apart. It ends when it is told to, when its engine is of no more use, and when its parent is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import structlog

from server.logs import configure_logging
from server.messages import (
    Devices,
    FromWorker,
    Heartbeat,
    Job,
    LoadFailed,
    Loading,
    LoadPhase,
    ModelInfo,
    Ready,
    Sampling,
    ToWorker,
    WorkerOptions,
)
from server.worker.engine_loop import EngineLoop
from server.worker.processors import threads_for
from server.worker.scheduler import Policy, Scheduler, token_shares
from server.worker.star_engine import EncodedText, StarEngine

if TYPE_CHECKING:
    from star_model import StarModel
    from star_model.engine.graphs import Capture
    from star_model.engine.sequence import ImageSequence

HEARTBEAT_SECONDS = 1.0
_PROGRESS_SECONDS = 2.0
_WARM_UP_PROMPT = ""  # which every model can read, also one whose prompts are names of classes
_DETERMINISTIC_MAX_STEP = 0.2
_FAST_MAX_STEP = 1.0


def open_model(options: WorkerOptions, say: Callable[[str], None]) -> StarModel:
    """Resolve and load the model that the options name, fetching and converting it if need be.

    Args:
        options: what to load, and where to.
        say: is told what takes long, or will, in a sentence.

    Raises:
        star_model.errors.StarError: its text says what is missing or damaged, and what to do.
    """
    import torch

    from star_model import load_model, resolve_model
    from star_model.host_memory import keep_freed_memory
    from star_model.networks.precision import is_imitated

    keep_freed_memory()
    device = choose_device(options.device, options.index)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)  # so that what names no device means this one
    sharing = 1 if device.startswith("cuda") else options.workers
    torch.set_num_threads(options.threads or threads_for(torch.get_num_threads(), sharing))
    path = resolve_model(
        options.model,
        cache_dir=options.cache_dir,
        offline=options.offline,
        allow_unsafe_pickle=options.allow_unsafe_pickle,
        progress=say,
    )
    attention = None if options.attention == "auto" else options.attention
    model = load_model(path, device=device, dtype=options.dtype, attention=attention)
    if is_imitated(model.device, model.dtype):
        say(
            f"This processor has no arithmetic of {options.dtype} and imitates it: float32 is many times faster"
        )
    return model


def count_devices(device: str) -> int:
    """For how many workers there are devices: one for each visible GPU, or one on the CPU.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    import torch

    return 1 if device == "cpu" else max(1, torch.cuda.device_count())


def choose_device(device: str, index: int) -> str:
    """The device of one worker, as PyTorch names it: the workers take the visible GPUs in turn.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        index: of the worker.
    """
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return device
    return f"cuda:{index % torch.cuda.device_count()}"


def resolve_mode(mode: str, device: str) -> str:
    """``auto`` made concrete: exact where that costs nothing, which is on a CPU."""
    return mode if mode != "auto" else "deterministic" if device == "cpu" else "fast"


def resolve_max_step(max_step: float, mode: str) -> float:
    """0 made concrete: small where the engine steps one image at a time, so that batches gain nothing.

    Elsewhere large scales gain little from a batch, and all in it wait for the whole: docs/capacity.md has the numbers.
    """
    return max_step or (_DETERMINISTIC_MAX_STEP if mode == "deterministic" else _FAST_MAX_STEP)


def warm_up(engine: StarEngine, defaults: Sampling) -> float:
    """Paint one image, so that the first request does not pay for what happens once.

    Args:
        engine: with a free slot.
        defaults: of the model.

    Returns:
        seconds that the image took.
    """
    job = Job("warm-up", _WARM_UP_PROMPT, "", (0,), defaults, 0, float("inf"))
    text = engine.encode(job.prompt)
    started = time.monotonic()
    sequence = engine.prepare(text, None, job, 0)
    for _ in range(engine.num_scales):
        engine.step([sequence])
    engine.finish([sequence]).wait()
    return time.monotonic() - started


def make_policy(options: WorkerOptions, patch_nums: Sequence[int], mode: str) -> Policy:
    """What the scheduler of a worker decides by."""
    return Policy(
        scale_costs=token_shares(patch_nums),
        max_batch=min(options.max_batch, options.slots),
        catch_up=options.catch_up,
        patience=options.patience,
        max_step=resolve_max_step(options.max_step, mode),
    )


def build_engine(
    model: StarModel,
    options: WorkerOptions,
    mode: str,
    report: Callable[[LoadPhase], None],
    capture: Capture | None,
) -> StarEngine:
    """An engine as the options say, with its graphs, if there are to be any, captured.

    What is only for speed and does not work here is left out, and the log says so once.

    Args:
        model: to run.
        options: how.
        mode: ``deterministic`` or ``fast``.
        report: is told when the next phase begins.
        capture: how graphs are captured; None for none.
    """
    from star_model import Engine
    from star_model.errors import CaptureError

    log = structlog.get_logger("star.worker")
    policy = make_policy(options, model.config.patch_nums, mode)
    engine = Engine(
        model,
        slots=options.slots,
        mode="fast" if mode == "fast" else "deterministic",
        capture=capture,
        largest_batches=[policy.batch_limit(scale) for scale in range(len(model.config.schedule))],
    )
    if capture is not None:
        report("capturing")
        started, told = time.monotonic(), -math.inf

        def progress(done: int, of: int) -> None:
            nonlocal told
            if done == of or time.monotonic() - told > _PROGRESS_SECONDS:
                told = time.monotonic()
                log.info("capturing graphs", done=done, of=of, seconds=round(told - started, 1))

        try:
            engine.warm_up(progress)
        except CaptureError as error:
            log.warning(
                "no graphs could be captured; going on without, slower", reason=_line(error)
            )
    return StarEngine(engine)


def load_engine(
    options: WorkerOptions, report: Callable[[LoadPhase], None]
) -> tuple[StarEngine, ModelInfo]:
    """Load and warm the model.

    Args:
        options: what to load.
        report: is told when the next phase begins.

    Raises:
        star_model.errors.StarError: see :func:`open_model`.
    """
    from star_model.engine.compilation import compile_networks, restore_networks
    from star_model.engine.graphs import choose_capture

    log = structlog.get_logger("star.worker")
    model = open_model(options, lambda sentence: log.info(sentence, model=options.model))
    mode = resolve_mode(options.mode, model.device.type)
    defaults = Sampling(**dataclasses.asdict(model.sampling_defaults))

    def prepare() -> tuple[StarEngine, float]:
        capture = choose_capture(model.device, options.cuda_graphs)
        engine = build_engine(model, options, mode, report, capture)
        report("warming")
        if options.compile:
            warm_up(engine, defaults)  # compiles, which is not to be taken for the time of an image
        return engine, warm_up(engine, defaults)

    if options.compile:
        compile_networks(model)
        try:
            engine, seconds = prepare()
        except Exception as error:  # whatever a compiler, or its absence, raises
            log.warning(
                "the networks could not be compiled; going on without, slower", reason=_line(error)
            )
            restore_networks(model)
            options = dataclasses.replace(options, compile=False)
    if (
        not options.compile
    ):  # and not while the error still holds on to the first engine and its memory
        gc.collect()
        engine, seconds = prepare()
    info = ModelInfo(
        name=model.config.name,
        image_size=model.config.image_size,
        patch_nums=tuple(model.config.patch_nums),
        vocab_size=model.config.tokenizer.vocab_size,
        parameters=model.num_parameters,
        sampling=defaults,
        slots=engine.total_slots,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        mode=mode,
        seconds_per_image=seconds,
        description=model.about.description,
        examples=model.about.examples,
        num_classes=model.config.transformer.num_classes,
    )
    return engine, info


class Outbox:
    """The sending end of the connection, shared by the main loop and the heartbeat.

    Args:
        connection: to the parent.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: FromWorker) -> None:
        """Send a message; with the parent gone there is nobody to work for, and the process ends."""
        with self._lock:
            try:
                self._connection.send(message)
            except OSError:
                os._exit(0)


def worker_main(connection: Connection, options: WorkerOptions) -> None:
    """Entry point of the process.

    Args:
        connection: duplex, to the parent.
        options: what to load and how to run it.
    """
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the parent decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logging(options.log_level, options.log_format)
    structlog.contextvars.bind_contextvars(worker=options.index)
    log = structlog.get_logger("star.worker")
    inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    outbox = Outbox(connection)
    threading.Thread(target=_receive, args=(connection, inbox), name="inbox", daemon=True).start()

    try:
        outbox.send(Loading("loading"))
        outbox.send(Devices(count_devices(options.device)))
        engine, info = load_engine(options, lambda phase: outbox.send(Loading(phase)))
    except Exception as error:
        if not _is_explained(error):
            log.error("the model cannot be loaded", exc_info=error)
        outbox.send(LoadFailed(_explanation(error)))
        return
    policy = make_policy(options, info.patch_nums, info.mode)
    loop = EngineLoop(engine, Scheduler(policy), inbox, outbox.send, text_cache=options.text_cache)
    threading.Thread(
        target=_beat, args=(loop, engine, outbox), name="heartbeat", daemon=True
    ).start()
    outbox.send(Ready(info))
    loop.run()


def _receive(connection: Connection, inbox: queue.SimpleQueue[ToWorker]) -> None:
    """Empty the connection as it fills, so that the parent's sends never block; end with the parent."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            inbox.put(connection.recv())
    os._exit(0)


def _beat(loop: EngineLoop[EncodedText, ImageSequence], engine: StarEngine, outbox: Outbox) -> None:
    while True:
        allocated, reserved = engine.memory()
        beat: Heartbeat = dataclasses.replace(
            loop.state, at=time.monotonic(), memory_allocated=allocated, memory_reserved=reserved
        )
        outbox.send(beat)
        time.sleep(HEARTBEAT_SECONDS)


def _line(error: Exception) -> str:
    """The first line of what an error says, which may be a compiler's whole output."""
    return (str(error) or repr(error)).strip().splitlines()[0]


def _is_explained(error: Exception) -> bool:
    from star_model.errors import StarError

    return isinstance(error, StarError)


def _explanation(error: Exception) -> str:
    """A sentence for the user: the package's own, or the kind of an unforeseen error."""
    text = str(error) or repr(error)
    return (
        text
        if _is_explained(error)
        else f"The model cannot be loaded ({type(error).__name__}: {text})"
    )
