"""What the benchmarks of the engine have in common: which model, which prompts, how an image is painted."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.stopwatch import Stopwatch
from star_model import (
    PRESETS,
    Engine,
    ImageSequence,
    ModelConfig,
    StarModel,
    TextConditioning,
)
from star_model.checkpoints.hub import resolve_model
from star_model.checkpoints.native import load_model
from star_model.engine.engine import Mode
from star_model.host_memory import keep_freed_memory
from star_model.networks.precision import choose_device, choose_precision, parse_dtype
from star_model.networks.text_encoder import ClassEncoder, Conditioning, TextEncoder
from star_model.networks.tokenizers import build_tokenizer
from star_model.networks.transformer import StarTransformer

PROMPTS = (
    "a red apple on a blue background",
    "a fox, flat style",
    "3d render of a rocket",
    "a cartoon penguin on white",
    "a guitar",
    "a castle on an orange background",
    "a snail, 3d style, on a pink background",
    "a trophy",
)


class RandomText:
    """Stands in for a text encoder when random weights are timed."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    def encode(self, prompts: Sequence[str]) -> list[TextConditioning]:
        """Features (T, D) of nothing in particular."""
        tokens, t = self.config.text_encoder.max_tokens, self.config.transformer
        mask = torch.ones(tokens, dtype=torch.bool)
        return [
            TextConditioning(torch.randn(tokens, t.text_dim), mask, torch.randn(t.pooled_width))
            for _ in prompts
        ]


def random_model(
    config: ModelConfig, device: torch.device, dtype: torch.dtype | None = None
) -> StarModel:
    """A model of ``config`` with untrained weights: speed does not depend on their values."""
    precision = choose_precision(device, dtype)
    with torch.device(device):
        transformer = StarTransformer(config).eval().requires_grad_(False)
        for parameter in transformer.parameters():
            parameter.data = parameter.data.to(precision.transformer)
        vqvae = build_tokenizer(config).eval().requires_grad_(False)
    vqvae.set_decoder_format(precision.decoder)
    classes = config.transformer.num_classes
    encoder: TextEncoder = ClassEncoder(classes) if classes else RandomText(config)
    return StarModel(config, transformer, vqvae, encoder, device, precision.transformer)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that say what is measured, and where."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", default="star-mini", help="a model's name or directory")
    source.add_argument(
        "--preset", choices=sorted(PRESETS), help="random weights of this shape instead"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--dtype", default="auto", help="of the transformer; auto is what the server takes"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count this process's processor time, with --threads 1, where others use the machine too",
    )


def add_batch_arguments(parser: argparse.ArgumentParser, *, mode: Mode, repeats: int) -> None:
    """Flags that say how many images step together, how, and how often that is measured."""
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images together")
    parser.add_argument("--mode", choices=("deterministic", "fast"), default=mode)
    parser.add_argument("--repeats", type=int, default=repeats)


def clock(arguments: argparse.Namespace) -> Callable[[], float]:
    """What the flags of :func:`add_model_arguments` measure by."""
    return time.process_time if arguments.cpu_time else time.perf_counter


def open_model(arguments: argparse.Namespace) -> StarModel:
    """The model that the flags of :func:`add_model_arguments` name."""
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if not arguments.preset:
        return load_model(
            resolve_model(arguments.model), device=arguments.device, dtype=arguments.dtype
        )
    device = choose_device(arguments.device)
    dtype = None if arguments.dtype == "auto" else parse_dtype(arguments.dtype)
    return random_model(PRESETS[arguments.preset], device, dtype)


def encode(model: StarModel, first: int = 0, count: int = 1) -> Sequence[Conditioning]:
    """The conditioning of ``count`` prompts, or classes, from number ``first`` on; the prompts repeat."""
    numbers = [i % len(PROMPTS) for i in range(first, first + count)]
    by_class = model.config.transformer.num_classes > 0
    return model.text_encoder.encode([str(i) if by_class else PROMPTS[i] for i in numbers])


def prepare(
    engine: Engine, texts: Sequence[Conditioning], seeds: Sequence[int], **changes: float
) -> list[ImageSequence]:
    """Start one image for each seed, with ``texts`` in turn and ``changes`` of the model's sampling parameters."""
    sampling = engine.model.config.sampling.changed(changes)
    return [
        engine.prepare(texts[i % len(texts)], sampling, seed=seed) for i, seed in enumerate(seeds)
    ]


def paint(engine: Engine, sequences: Sequence[ImageSequence]) -> None:
    """Step through all scales."""
    for _ in range(engine.num_scales):
        engine.step(sequences)


def paint_in_stages(
    watch: Stopwatch, engine: Engine, texts: Sequence[Conditioning], seeds: Sequence[int]
) -> None:
    """Paint images and decode them, timing ``prepare``, each scale, as ``scale 16x16``, and ``decode``."""
    sequences = watch.time("prepare", lambda: prepare(engine, texts, seeds))
    for label in engine.schedules[0].labels:
        watch.time(f"scale {label}", lambda: engine.step(sequences))
    watch.time("decode", lambda: engine.finish(sequences))


def conditions(model: StarModel) -> dict[str, Any]:
    """Under what a measurement was taken, for its line of JSON."""
    return {
        "model": model.config.name,
        "device": str(model.device),
        "dtype": model.dtype_name,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }


def heading(model: StarModel) -> str:
    """The same, for people."""
    c = conditions(model)
    return f"{c['model']}, {c['dtype']}, {c['device']}, {c['threads']} threads, torch {c['torch']}"


def print_json(benchmark: str, **values: Any) -> None:
    """The last line of every benchmark."""
    print(json.dumps({"benchmark": benchmark, **values}))
