"""Loading: from settings to a warm engine."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
import torch

from server.messages import ImageShape, Job, LoadPhase, ModelInfo
from server.model_settings import ModelSettings, WorkerSettings
from server.worker.processors import threads_for
from server.worker.room import require_room
from server.worker.scheduler import Policy, resolve_max_step, token_shares
from server.worker.star_engine import StarEngine
from star_model import Engine, Sampling, StarModel, load_model, resolve_model
from star_model.engine.compilation import compile_networks, restore_networks
from star_model.engine.engine import Mode, default_mode
from star_model.engine.graphs import Capture, choose_capture
from star_model.errors import CaptureError, ConfigError
from star_model.host_memory import keep_freed_memory
from star_model.networks.precision import is_imitated

_PROGRESS_SECONDS = 2.0
_WARM_UP_PROMPT = ""  # the one prompt that every model can read, class-conditional ones included

Report = Callable[[LoadPhase], None]
"""Called when the next phase of loading begins."""


class Announce(Protocol):
    """Called when a step of loading begins, for the log."""

    def __call__(self, step: str, **details: object) -> None: ...


def open_model(
    settings: ModelSettings,
    say: Callable[[str], None],
    *,
    announce: Announce = lambda step, **details: None,
    index: int = 0,
    workers: int = 1,
    check: Callable[[Path, str], None] | None = None,
) -> StarModel:
    """Resolve and load the model that the settings name, fetching and converting it if need be.

    Args:
        settings: name the model and the device.
        say: receives a sentence about each thing that takes long, or will.
        announce: see :class:`Announce`.
        index: of this worker; on several GPUs it decides which one.
        workers: workers that share this machine's processors.
        check: called with the model's directory and the device before anything of it is loaded.

    Raises:
        star_model.errors.StarError: the text says what is missing or damaged, and what to do.
    """
    keep_freed_memory()
    device = choose_device(settings.device, index)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)  # so that whatever names no device means this one
    sharing = 1 if device.startswith("cuda") else workers
    torch.set_num_threads(settings.threads or threads_for(torch.get_num_threads(), sharing))
    path = resolve_model(
        settings.model,
        cache_dir=settings.cache_dir,
        offline=settings.offline,
        allow_unsafe_pickle=settings.allow_unsafe_pickle,
        progress=say,
    )
    if check is not None:
        check(path, device)
    attention = None if settings.attention == "auto" else settings.attention
    size = sum(f.stat().st_size for f in path.rglob("*.safetensors"))
    announce("reading weights and text encoder", directory=str(path), megabytes=round(size / 1e6))
    model = load_model(path, device=device, dtype=settings.dtype, attention=attention)
    if is_imitated(model.device, model.dtype):
        say(
            f"this processor has no {settings.dtype} arithmetic and emulates it; float32 is many times faster"
        )
    return model


def count_devices(device: str) -> int:
    """Return the number of workers that there are devices for: one per visible GPU, or one on the CPU.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    return 1 if device == "cpu" else max(1, torch.cuda.device_count())


def choose_device(device: str, index: int) -> str:
    """Return the device of one worker, as PyTorch names it: workers take the visible GPUs in turn.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        index: of the worker.
    """
    if device == "cpu" or not torch.cuda.is_available():
        return device
    return f"cuda:{index % torch.cuda.device_count()}"


def resolve_mode(mode: str, device: str) -> Mode:
    """Resolve ``auto``; see :func:`star_model.engine.engine.default_mode`."""
    if mode == "auto":
        return default_mode(device)
    return "fast" if mode == "fast" else "deterministic"


def make_policy(settings: WorkerSettings, patch_nums: Sequence[int], mode: Mode) -> Policy:
    """Return the scheduling policy of a worker."""
    max_step = resolve_max_step(settings.max_step, mode)
    return Policy(
        scale_costs=token_shares(patch_nums),
        max_batch=settings.largest_batch,
        max_step=max_step,
    )


def warm_up(engine: StarEngine, sampling: Sampling) -> float:
    """Generate one image, so that the first request does not pay for what happens once.

    Args:
        engine: with a free slot.
        sampling: the model's defaults.

    Returns:
        seconds that the image took.
    """
    job = Job("warm-up", _WARM_UP_PROMPT, "", (0,), sampling)
    text = engine.encode(job.prompt)
    started = time.monotonic()
    sequence = engine.prepare(text, None, job, 0)
    for _ in range(engine.num_scales - sampling.draft):
        engine.step([sequence])
    engine.finish([sequence]).wait()
    return time.monotonic() - started


def load_engine(
    settings: WorkerSettings, report: Report, *, index: int = 0
) -> tuple[StarEngine, ModelInfo, Policy]:
    """Load and warm the model.

    Args:
        settings: what to load and how to run it.
        report: see :data:`Report`.
        index: of this worker.

    Raises:
        star_model.errors.StarError: see :func:`open_model`.
    """
    log = structlog.get_logger("star.worker")
    model = open_model(
        settings,
        lambda sentence: log.info(sentence, model=settings.model),
        announce=_announce,
        index=index,
        workers=max(settings.workers, 1) * settings.models,
        check=partial(require_room, settings=settings) if settings.beside_others else None,
    )
    model = with_defaults(model, settings)
    mode = resolve_mode(settings.mode, model.device.type)
    policy = make_policy(settings, model.config.patch_nums, mode)
    engine, seconds = _prepare(model, settings, mode, policy, report)
    return engine, _describe(model, engine, mode, seconds), policy


def with_defaults(model: StarModel, settings: WorkerSettings) -> StarModel:
    """Return the model with the sampling parameters that the settings put in the place of its own.

    Raises:
        ConfigError: one does not fit the model.
    """
    changes = {"unguided_scales": settings.unguided_scales, "draft": settings.draft}
    scales = len(model.config.schedule)
    for name, count in changes.items():
        if count is not None and count > scales - (name == "draft"):
            raise ConfigError(
                f"{name} must be at most {scales - (name == 'draft')} for {model.config.name}, "
                f"which has {scales} scales; got {count}"
            )
    sampling = model.config.sampling.changed(changes)
    return replace(model, config=replace(model.config, sampling=sampling))


def _prepare(
    model: StarModel, settings: WorkerSettings, mode: Mode, policy: Policy, report: Report
) -> tuple[StarEngine, float]:
    """Build and warm an engine, compiled if the settings say so and that works.

    Returns:
        the engine, and the seconds that one image took.
    """
    if settings.compile:
        _announce("compiling networks, which may take minutes")
        compile_networks(model)
        try:
            engine = _build_engine(model, settings, mode, policy, report)
            warm_up(
                engine, model.sampling_defaults
            )  # compiles, which must not count as the time of an image
            return engine, warm_up(engine, model.sampling_defaults)
        except Exception as error:  # whatever a compiler, or its absence, raises
            structlog.get_logger("star.worker").warning(
                "the networks could not be compiled; going on without, which is slower",
                reason=_first_line(error),
            )
            restore_networks(model)
    gc.collect()  # after a failed compilation: the error no longer holds on to the first engine and its memory
    engine = _build_engine(model, settings, mode, policy, report)
    return engine, warm_up(engine, model.sampling_defaults)


def _build_engine(
    model: StarModel, settings: WorkerSettings, mode: Mode, policy: Policy, report: Report
) -> StarEngine:
    """Build an engine, and capture its graphs if the settings ask for them; without them it is slower, not wrong."""
    _announce("allocating slots", slots=settings.slots)
    capture: Capture | None = choose_capture(model.device, settings.cuda_graphs)
    engine = Engine(
        model,
        slots=settings.slots,
        mode=mode,
        capture=capture,
        largest_batches=[policy.batch_limit(scale) for scale in range(len(model.config.schedule))],
    )
    if capture is not None:
        report("capturing")
        _capture_graphs(engine)
    report("warming")
    _announce("generating one image to warm up")
    return StarEngine(engine)


def _announce(step: str, **details: object) -> None:
    """Log that a step of loading begins."""
    structlog.get_logger("star.worker").info("loading", step=step, **details)


def _capture_graphs(engine: Engine) -> None:
    log = structlog.get_logger("star.worker")
    started, logged_at = time.monotonic(), -math.inf

    def progress(done: int, of: int) -> None:
        nonlocal logged_at
        if done == of or time.monotonic() - logged_at > _PROGRESS_SECONDS:
            logged_at = time.monotonic()
            log.info("capturing graphs", done=done, of=of, seconds=round(logged_at - started, 1))

    try:
        engine.warm_up(progress)
    except CaptureError as error:
        log.warning(
            "no graphs could be captured; going on without, which is slower",
            reason=_first_line(error),
        )


def _describe(model: StarModel, engine: StarEngine, mode: Mode, seconds: float) -> ModelInfo:
    return ModelInfo(
        name=model.config.name,
        image_size=model.config.image_size,
        patch_nums=tuple(model.config.patch_nums),
        parameters=model.num_parameters,
        sampling=model.sampling_defaults,
        slots=engine.total_slots,
        device=model.device.type,
        dtype=model.dtype_name,
        mode=mode,
        seconds_per_image=seconds,
        description=model.about.description,
        examples=model.about.examples,
        num_classes=model.config.transformer.num_classes,
        gallery=model.gallery,
        vocabulary=model.reader.vocabulary if model.reader is not None else None,
        other_shapes=tuple(
            ImageShape(width, height, schedule.num_tokens)
            for (height, width), schedule in zip(
                model.config.sizes[1:], model.config.schedules[1:], strict=True
            )
        ),
        guidance=model.config.guidance,
        license=model.about.license,
        can_encode=model.vqvae.can_encode,
    )


def _first_line(error: Exception) -> str:
    """Return the first line of an error's text, which may be a compiler's whole output."""
    return (str(error) or repr(error)).strip().splitlines()[0]
