"""What the command line does without a server: paint into files, describe a model, convert a checkpoint."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server import __version__
from server.images.encode import ImageFormat, encode_image
from server.messages import Job, Pixels, Sampling, WorkerOptions
from server.worker.engine_loop import text_warnings
from server.worker.main import open_model, resolve_max_step, resolve_mode
from server.worker.scheduler import Policy, token_shares

if TYPE_CHECKING:
    from star_model.config import ModelConfig

_SUFFIXES: dict[str, ImageFormat] = {
    ".png": "png",
    ".webp": "webp",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
}
_BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}
SEEDS = 2**32
_SLOTS = 8  # of the peak memory that is told; what `serve` has by default

Progress = Callable[[int, int], None]
"""Told how many scales are painted, and of how many images at once."""


class UsageError(Exception):
    """The command cannot be carried out as it was given; the text is a sentence for the user."""


@dataclass(frozen=True)
class Picture:
    """What ``generate`` is to paint.

    Args:
        prompt: what to paint.
        negative_prompt: what to lead away from; empty for none.
        seed: of the first image, 0 to 2**32 - 1; None for a random one.
        n: images, at least 1.
        sampling: fields of :class:`server.messages.Sampling` in place of the model's defaults; None is the default.
        quality: of WebP and JPEG, 1 to 100; None for the default.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int | None = None
    n: int = 1
    sampling: Mapping[str, float | None] = field(default_factory=dict)
    quality: int | None = None


def output_paths(output: Path, n: int) -> list[Path]:
    """Where ``n`` images go: ``apple.png``, or ``apple-1.png``, ``apple-2.png``, ...

    Raises:
        UsageError: the directory is missing or not writable, the suffix is no image format, or a directory
            is in the way.
    """
    if output.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{output} must end in {', '.join(_SUFFIXES)}, which names the format.")
    if not output.parent.is_dir():
        raise UsageError(
            f"The directory {output.parent} does not exist; create it or name another output."
        )
    paths = [output] if n == 1 else [output.with_stem(f"{output.stem}-{i + 1}") for i in range(n)]
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a directory; name a file in it.")
    probe = output.parent / f".star-{secrets.token_hex(8)}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UsageError(f"Nothing can be written to {output.parent}: {error.strerror}.") from error
    return paths


def generate(
    picture: Picture,
    output: Path,
    options: WorkerOptions,
    begin: Callable[[int, int], Progress],
    say: Callable[[str], None],
) -> tuple[list[tuple[Path, int]], list[str]]:
    """Paint images and write them to files.

    Args:
        picture: what to paint.
        output: see :func:`output_paths`.
        options: which model, and how many images at a time.
        begin: given the number of scales and of images, returns what is told of the progress.
        say: is told what else takes long, in a sentence.

    Returns:
        each file with its seed, and warnings.

    Raises:
        UsageError: the output cannot be written; nothing has been painted.
        star_model.errors.StarError: the model cannot be loaded.
    """
    paths = output_paths(output, picture.n)
    if picture.quality is not None and _SUFFIXES[output.suffix.lower()] == "png":
        raise UsageError("--quality is for webp and jpeg; png is lossless.")
    from server.worker.star_engine import StarEngine
    from star_model import Engine

    model = open_model(options, say)
    mode = resolve_mode(options.mode, model.device.type)
    sampling = Sampling(**asdict(model.sampling_defaults)).changed(picture.sampling)
    if picture.negative_prompt and not sampling.guidance_scale:
        raise UsageError(
            "--negative-prompt needs guidance to lead away from it, and here that is 0; "
            "give --guidance-scale, 2 for example."
        )
    engine = StarEngine(
        Engine(
            model,
            slots=min(options.slots, picture.n),
            mode="fast" if mode == "fast" else "deterministic",
        )
    )
    first = picture.seed if picture.seed is not None else secrets.randbelow(SEEDS)
    job = Job(
        id="generate",
        prompt=picture.prompt,
        negative_prompt=picture.negative_prompt,
        seeds=tuple((first + i) % SEEDS for i in range(picture.n)),
        sampling=sampling,
        partial_images=0,
        deadline=float("inf"),
    )
    text = engine.encode(job.prompt)
    negative = engine.encode(job.negative_prompt, negative=True) if job.negative_prompt else None
    progress = begin(engine.num_scales, picture.n)
    for start in range(0, picture.n, engine.total_slots):
        batch = range(start, min(start + engine.total_slots, picture.n))
        sequences = [engine.prepare(text, negative, job, job.seeds[i]) for i in batch]
        for _ in range(engine.num_scales):
            engine.step(sequences).wait()
            progress(1, len(sequences))
        for i, pixels in zip(batch, engine.finish(sequences).wait(), strict=True):
            _write(paths[i], pixels, job, i, model.config.name, picture.quality)
    return list(zip(paths, job.seeds, strict=True)), list(text_warnings(text, negative))


def _write(
    path: Path, pixels: Pixels, job: Job, image: int, model: str, quality: int | None
) -> None:
    text = {
        "prompt": job.prompt,
        "seed": str(job.seeds[image]),
        "model": model,
        "parameters": json.dumps(asdict(job.sampling)),
        "Software": f"star-server {__version__}",
    }
    data = encode_image(pixels, _SUFFIXES[path.suffix.lower()], quality, text)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def describe(name: str, cache_dir: Path | None) -> dict[str, Any]:
    """A model's architecture, parameters, scales and memory, from its configuration: no weights are read.

    Args:
        name: of a model, fetched or not, or the directory of a native one.
        cache_dir: where fetched models are kept; None for the default.

    Returns:
        JSON-ready data; ``path`` is None for a model that has not been fetched.

    Raises:
        star_model.errors.StarError: there is no such model, or its configuration is damaged.
    """
    from star_model.cost import graphs_bytes, peak_bytes

    config, path = find_config(name, cache_dir)
    policy = Policy(token_shares(config.patch_nums), _SLOTS, max_step=resolve_max_step(0.0, "fast"))
    largest = [policy.batch_limit(scale) for scale in range(len(config.patch_nums))]
    transformer, tokenizer = count_parameters(config)
    return {
        "name": config.name,
        "path": str(path) if path is not None else None,
        "image_size": config.image_size,
        "scales": list(config.patch_nums),
        "tokens_per_image": sum(side * side for side in config.patch_nums),
        "parameters": {
            "transformer": transformer,
            "vqvae": tokenizer,
            "total": transformer + tokenizer,
        },
        "memory_per_slot_bytes": {
            dtype: config.memory_per_slot_bytes(size) for dtype, size in _BYTES_PER_VALUE.items()
        },
        "peak_memory_bytes": {
            dtype: peak_bytes(config, _SLOTS, bytes_per_value=size)
            for dtype, size in _BYTES_PER_VALUE.items()
        },
        "cuda_graphs_bytes": {
            dtype: graphs_bytes(config, largest, bytes_per_value=size)
            for dtype, size in _BYTES_PER_VALUE.items()
        },
        "config": config.to_dict(),
    }


def find_config(name: str, cache_dir: Path | None) -> tuple[ModelConfig, Path | None]:
    """The configuration of a model, and where the model is; None if it has not been fetched.

    Raises:
        star_model.errors.StarError: there is no such model, or its configuration is damaged.
    """
    from star_model import PRESETS, resolve_model
    from star_model.checkpoints.native import read_config
    from star_model.errors import ModelNotFoundError

    try:
        path = resolve_model(name, cache_dir=cache_dir, offline=True)
    except ModelNotFoundError:
        if name not in PRESETS:
            raise
        return PRESETS[name], None
    return read_config(path), path


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """Parameters of the transformer and of the VQVAE; nothing is allocated."""
    import torch

    from star_model.networks.transformer import StarTransformer
    from star_model.networks.vqvae import VQVAE

    with torch.device("meta"):
        modules = StarTransformer(config), VQVAE(config.tokenizer, config.schedule)
    transformer, tokenizer = (sum(p.numel() for p in module.parameters()) for module in modules)
    return transformer, tokenizer


def description_text(info: Mapping[str, Any]) -> str:
    """What :func:`describe` found, for people."""
    config = info["config"]
    parameters, memory = info["parameters"], info["memory_per_slot_bytes"]
    side = info["image_size"]
    lines = [
        ("model", info["name"]),
        ("path", info["path"] or "not fetched yet; `star-server serve --model` fetches it"),
        ("image", f"{side}x{side} pixels"),
        ("scales", f"{len(info['scales'])}: " + " ".join(str(side) for side in info["scales"])),
        (
            "tokens",
            f"{info['tokens_per_image']:,} an image, of {config['tokenizer']['vocab_size']:,} kinds",
        ),
        (
            "parameters",
            f"{parameters['total'] / 1e6:,.1f} M (transformer {parameters['transformer'] / 1e6:,.1f} M, "
            f"VQVAE {parameters['vqvae'] / 1e6:,.1f} M; the text encoder is not counted)",
        ),
        (
            "memory per slot",
            ", ".join(f"{size / 2**20:,.1f} MiB in {dtype}" for dtype, size in memory.items()),
        ),
        (
            f"with {_SLOTS} slots",
            ", ".join(
                f"{size / 2**20:,.0f} MiB in {dtype}"
                for dtype, size in info["peak_memory_bytes"].items()
            )
            + ", at most, the text encoder not counted",
        ),
        (
            "with graphs",
            ", ".join(
                f"{size / 2**20:,.0f} MiB in {dtype}"
                for dtype, size in info["cuda_graphs_bytes"].items()
            )
            + " more (serve --cuda-graphs)",
        ),
        *((part.replace("_", " "), _inline(config[part])) for part in ("transformer", "tokenizer")),
        ("text encoder", _inline(config["text_encoder"])),
        ("sampling", _inline(config["sampling"])),
    ]
    width = max(len(label) for label, _ in lines) + 2
    return "\n".join(f"{label:<{width}}{text}" for label, text in lines)


def _inline(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
