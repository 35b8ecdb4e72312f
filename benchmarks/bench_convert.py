"""Time and memory of a conversion: ``python -m benchmarks.bench_convert --depth 16``.

Writes files laid out as STAR publishes its models, of a chosen size: the weights under ``trainer`` and ``var_wo_ddp``
beside the state of AdamW, which is twice as large and is not read; the tokenizer; the text encoder. Converts them in a
process of its own, under a limit on its memory, and reports the most that the process held: the kernel's ``VmHWM``, in
which everything counts, PyTorch itself and pages of files too. ``--depth 30`` is the published size, 20 GB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import print_json
from star_model.checkpoints.published import (
    convert_published,
    transformer_sources,
    vqvae_sources,
)
from star_model.config import ModelConfig, TransformerConfig
from star_model.families.var import SIDES_512

MIB = 2**20
VOCABULARY = 49_408
"""Of the published text encoder."""


def star_config(depth: int) -> ModelConfig:
    """A STAR of this depth, at 512 pixels."""
    transformer = TransformerConfig(
        depth=depth, num_heads=depth, text_dim=1024, cross_attention_rows="conditional"
    )
    return ModelConfig(f"star-d{depth}", SIDES_512, transformer)


def write_files(folder: Path, config: ModelConfig, text_layers: int) -> None:
    """Write ``star.pth``, ``vae.pth`` and ``CLIP``; values do not matter, but are finite."""
    weights, vqvae = (
        {
            name: torch.full(shape, 0.01)
            for source in sources.values()
            for name, shape in source.published.items()
        }
        for sources in (transformer_sources(config), vqvae_sources(config))
    )
    optimizer = {
        "state": {
            i: {"step": i, "exp_avg": torch.zeros_like(w), "exp_avg_sq": torch.zeros_like(w)}
            for i, w in enumerate(weights.values())
        },
        "param_groups": [{"lr": 1e-4, "params": list(range(len(weights)))}],
    }
    trainer = {"config": {"depth": config.transformer.depth}, "var_wo_ddp": weights}
    content: dict[str, Any] = {"epoch": 1, "trainer": {**trainer, "var_opt": optimizer}}
    torch.save(content, folder / "star.pth")
    torch.save(vqvae, folder / "vae.pth")
    write_clip(folder / "CLIP", text_layers)


def write_clip(folder: Path, layers: int) -> None:
    """Write a text encoder of the published width, with a vocabulary of single characters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    characters = [chr(c) for c in range(33, 127)]
    words = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(folder / "tokenizer")
    with torch.device("meta"):
        model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=VOCABULARY,
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=layers,
                num_attention_heads=16,
                bos_token_id=len(words) - 2,
                eos_token_id=len(words) - 1,
            )
        )
    model = model.to_empty(device="cpu")
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    for tensor in tensors:
        tensor.data.zero_()
    model.save_pretrained(folder / "text_encoder")


def memory_mib(kind: str) -> float:
    """``VmHWM``, the most that this process has held, or ``VmRSS``, what it holds."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def convert(folder: Path, config: ModelConfig, limit_mib: int, results: Any) -> None:
    """Convert the files in ``folder``; in a process of its own."""
    import transformers  # noqa: F401, so that it counts before and not as part of the conversion

    if limit_mib:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mib * MIB, limit_mib * MIB))
    before, started = memory_mib("VmRSS"), time.perf_counter()
    convert_published(
        transformer=folder / "star.pth",
        vqvae=folder / "vae.pth",
        text_encoder=folder / "CLIP",
        out=folder / "native",
        preset=config,
        dtype="float16",
    )
    seconds = time.perf_counter() - started
    results.put(
        {"seconds": seconds, "before_mib": round(before), "peak_mib": round(memory_mib("VmHWM"))}
    )


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Measure time and memory of a conversion.")
    parser.add_argument("--depth", type=int, default=16, help="of the STAR; 30 is the published")
    parser.add_argument(
        "--text-layers", type=int, default=23, help="of the text encoder; 23 is the published"
    )
    parser.add_argument(
        "--limit-mib",
        type=int,
        default=3072,
        help="end the conversion if it takes more private memory (RLIMIT_DATA); 0 is no limit",
    )
    parser.add_argument("--folder", type=Path, help="for the files; by default a temporary one")
    arguments = parser.parse_args()
    config = star_config(arguments.depth)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_files(folder, config, arguments.text_layers)
        sizes = {
            file: round((folder / file).stat().st_size / MIB)
            for file in ("star.pth", "vae.pth", "CLIP/text_encoder/model.safetensors")
        }
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        process = context.Process(
            target=convert, args=(folder, config, arguments.limit_mib, results)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit("the conversion failed; its error is above")
        measured = results.get()
        written = sum(f.stat().st_size for f in (folder / "native").rglob("*") if f.is_file())
    print(f"{config.name}, converted to float16 under a limit of {arguments.limit_mib} MiB")
    for file, size in sizes.items():
        print(f"{file:40}{size:8} MiB")
    print(f"{'written':40}{round(written / MIB):8} MiB")
    print(
        f"{'process before, at most':40}{measured['before_mib']:8} MiB {measured['peak_mib']} MiB"
    )
    print(f"{'seconds':40}{measured['seconds']:8.1f}")
    print_json("convert", model=config.name, files_mib=sizes, **measured)


if __name__ == "__main__":
    main()
