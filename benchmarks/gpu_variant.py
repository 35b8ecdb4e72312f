"""One way to run a published model on a GPU, measured in a process of its own.

    python -m benchmarks.gpu_variant graphs-bfloat16 --preset star-512 --batch 1 8

It is what :mod:`benchmarks.bench_gpu` runs for each variant; alone it prints one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import time
import warnings
from typing import Any

import torch

from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import (
    conditions,
    encode,
    paint,
    paint_in_stages,
    prepare,
    print_json,
    random_model,
)
from star_model import PRESETS, Engine, StarModel
from star_model.config import ModelConfig
from star_model.cost import DEVICES, decode_work, graphs_bytes, peak_bytes, step_work
from star_model.engine.compilation import compile_networks, restore_networks
from star_model.engine.graphs import Capture, choose_capture
from star_model.networks.attention import choose_backend
from star_model.networks.attention_layers import CosineAttention
from star_model.networks.precision import choose_device, parse_dtype


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the networks are run.

    Args:
        dtype: of the transformer; ``float32``, ``bfloat16`` or ``float16``.
        graphs: captured.
        compiled: by ``torch.compile``.
        attention: backend.
    """

    dtype: str
    graphs: bool = False
    compiled: bool = False
    attention: str = "sdpa"

    @property
    def name(self) -> str:
        """``compiled+graphs-bfloat16``, say; ``eager-`` where nothing is done."""
        ways = [self.attention] if self.attention != "sdpa" else []
        ways += [
            way for way, is_on in (("compiled", self.compiled), ("graphs", self.graphs)) if is_on
        ]
        return f"{'+'.join(ways) or 'eager'}-{self.dtype}"


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("bfloat16"),
        Variant("bfloat16", graphs=True),
        Variant("bfloat16", compiled=True),
        Variant("bfloat16", graphs=True, compiled=True),
        Variant("float16"),
        Variant("float16", graphs=True),
        Variant("bfloat16", graphs=True, attention="xformers"),
        Variant("float32"),
    )
}
"""By name, in the order of what one wants to know first."""


def floors(config: ModelConfig, batch: int, gpu: str | None) -> dict[str, float]:
    """Milliseconds of each stage of ``batch`` images below which the GPU cannot be; empty for an unknown one."""
    if gpu is None:
        return {}
    found = {
        f"scale {label}": 1000 * step_work(config, scale, batch).floor(DEVICES[gpu])
        for scale, label in enumerate(config.schedule.labels)
    }
    found["decode"] = 1000 * decode_work(config, batch).floor(DEVICES[gpu])
    return {**found, "image": sum(found.values())}


def time_batch(engine: Engine, batch: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of each stage, and of ``image``, all of them without a wait between, after a warm-up."""
    watch = Stopwatch(engine.model.device)
    texts = encode(engine.model)

    paint_in_stages(watch, engine, texts, range(batch))
    watch = Stopwatch(engine.model.device)
    for _ in range(repeats):
        paint_in_stages(watch, engine, texts, range(batch))
        watch.time("image", lambda: tokens(engine, batch))
    return watch.medians()


def tokens(engine: Engine, batch: int) -> list[torch.Tensor]:
    """All tokens of a batch of images, which are decoded, too."""
    sequences = prepare(engine, encode(engine.model), range(batch))
    paint(engine, sequences)
    engine.finish(sequences)
    return [torch.cat(s.tokens) for s in sequences]


def waits(engine: Engine, batch: int) -> list[str]:
    """Where the host waits for the device between the first step and the pixels; empty if it is as it should be."""
    sequences = prepare(engine, encode(engine.model), range(batch))
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            paint(engine, sequences)
            engine.finish(sequences)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}: {w.message}" for w in caught]


def memory(model: StarModel, slots: int, graphs: bool) -> dict[str, float | None]:
    """GiB that networks, slots, one step and graphs need as ``star-server info`` counts them, and used at most."""
    size = model.dtype.itemsize
    predicted = peak_bytes(model.config, slots, bytes_per_value=size)
    if graphs:
        predicted += graphs_bytes(
            model.config, [slots] * len(model.config.schedule), bytes_per_value=size
        )
    on_gpu = model.device.type == "cuda"
    used = torch.cuda.max_memory_allocated(model.device) / 2**30 if on_gpu else None
    return {"predicted": predicted / 2**30, "used": used}


def measure(
    model: StarModel,
    variant: Variant,
    *,
    batches: list[int],
    repeats: int,
    capture: Capture | None,
    gpu: str | None,
) -> dict[str, Any]:
    """All of one variant: for each batch milliseconds and floors by stage; start, memory, waits, equal tokens.

    Args:
        model: with weights that need not be trained, in the variant's type and with its attention.
        capture: for a variant with graphs.
        gpu: whose floor; None for none.
    """
    slots = max(batches)
    if variant.compiled:
        compile_networks(model)
    started = time.perf_counter()
    engine = Engine(model, slots=slots, mode="fast", capture=capture if variant.graphs else None)
    engine.warm_up()
    for batch in batches:
        tokens(engine, batch)
    found: dict[str, Any] = {"start_seconds": time.perf_counter() - started}
    found["batches"] = {
        batch: {
            "milliseconds": time_batch(engine, batch, repeats),
            "floor": floors(model.config, batch, gpu),
        }
        for batch in batches
    }
    found["memory_gib"] = memory(model, slots, variant.graphs)
    if model.device.type == "cuda":
        found["waits"] = waits(engine, slots)
    if variant.graphs or variant.compiled:
        fast = {batch: tokens(engine, batch) for batch in batches}
        restore_networks(model)
        eager = Engine(model, slots=slots, mode="fast")
        found["same_tokens"] = {
            batch: share(fast[batch], tokens(eager, batch)) for batch in batches
        }
    return found


def share(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """How much of the tokens is the same."""
    return torch.stack([(x == y).float().mean() for x, y in zip(a, b, strict=True)]).mean().item()


def random_variant(config: ModelConfig, device: torch.device, variant: Variant) -> StarModel:
    """Weights at random, the same for all variants of a type.

    Raises:
        ConfigError: the variant's attention is not to be had.
    """
    attend = choose_backend(device, variant.attention)
    torch.manual_seed(0)
    model = random_model(config, device, parse_dtype(variant.dtype))
    for module in model.transformer.modules():
        if isinstance(module, CosineAttention):
            module.attend = attend
    return model


def reason_to_skip(variant: Variant) -> str | None:
    """Why a variant cannot be measured here, in a few words."""
    if variant.attention == "xformers" and importlib.util.find_spec("xformers") is None:
        return "the extra xformers is not installed"
    return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that all variants are measured with."""
    parser.add_argument("--preset", choices=sorted(PRESETS), default="star-512")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--gpu", choices=sorted(DEVICES), help="whose floor; by the device's name if not given"
    )


def main() -> None:
    """Parse the command line, measure, print a line."""
    parser = argparse.ArgumentParser(
        description="Measure one way to run a model, with random weights."
    )
    parser.add_argument("variant", choices=list(VARIANTS))
    add_arguments(parser)
    arguments = parser.parse_args()
    variant, place = VARIANTS[arguments.variant], choose_device(arguments.device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
    gpu = arguments.gpu or next((known for known in DEVICES if known in name.lower()), None)
    model = random_variant(PRESETS[arguments.preset], place, variant)
    found = measure(
        model,
        variant,
        batches=arguments.batch,
        repeats=arguments.repeats,
        capture=choose_capture(place, variant.graphs),
        gpu=gpu,
    )
    print_json("gpu", part=variant.name, **conditions(model), gpu=name, floor_of=gpu, **found)


if __name__ == "__main__":
    main()
