"""Memory as ``star-server info`` predicts it, and as it is: ``python -m benchmarks.bench_memory --slots 8``.

Counts the bytes of all tensors that are alive, after every operation: those of the networks and the slots, and at
most while an image is painted.
"""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.workload import (
    PROMPTS,
    add_model_arguments,
    conditions,
    encode,
    heading,
    open_model,
    paint,
    prepare,
    print_json,
)
from star_model import Engine, StarModel
from star_model.cost import peak_bytes


class Allocations(TorchDispatchMode):
    """Bytes of the tensors that were made inside, now and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in given:
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        self._alive = {
            key: (ref, size)
            for key, (ref, size) in self._alive.items()
            if not ref.expired()  # type: ignore[no-untyped-call]
        }
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def measure(model: StarModel, slots: int, batch: int) -> dict[str, tuple[int, int]]:
    """Bytes predicted and found: of a slot, and of the process's tensors at most, the text encoder left out."""
    networks = sum(
        p.numel() * p.element_size()
        for m in (model.transformer, model.vqvae)
        for p in m.parameters()
    )
    engine = Engine(model, slots=slots, mode="fast")
    cache = engine.cache
    stored = sum(t.numel() * t.element_size() for t in (cache.image, cache.text, cache.modulation))
    texts = encode(model, count=len(PROMPTS))
    with Allocations() as allocations:
        sequences = prepare(engine, texts, range(batch))
        paint(engine, sequences)
        engine.finish(sequences)
    size = model.dtype.itemsize
    return {
        "slot": (model.config.memory_per_slot_bytes(size), stored // slots),
        "peak": (
            peak_bytes(model.config, slots, batch, bytes_per_value=size),
            networks + stored + allocations.peak,
        ),
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Compare predicted and used memory.")
    add_model_arguments(parser)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    if arguments.dtype == "auto":
        arguments.dtype = "float32"
    model = open_model(arguments)
    results = {batch: measure(model, arguments.slots, batch) for batch in arguments.batch}

    print(f"{heading(model)}, {arguments.slots} slots; MiB, the text encoder not counted")
    print(f"{'batch':>6}{'what':>8}{'predicted':>12}{'found':>10}{'error':>9}")
    for batch, found in results.items():
        for what, (predicted, used) in found.items():
            error = 100 * (predicted / used - 1)
            print(f"{batch:6}{what:>8}{predicted / 2**20:12.1f}{used / 2**20:10.1f}{error:8.1f} %")
    print_json("memory", **conditions(model), slots=arguments.slots, batches=results)


if __name__ == "__main__":
    main()
