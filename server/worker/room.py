"""Whether a model has room beside others of the same server: what it needs, and the memory that is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from server.model_settings import WorkerSettings
from server.worker.control_groups import control_groups
from star_model.checkpoints.native import read_config
from star_model.cost import peak_bytes
from star_model.errors import ConfigError
from star_model.native_files import TEXT_ENCODER
from star_model.networks.precision import choose_device, choose_precision, parse_dtype

_ROOT = Path("/")


def require_room(
    directory: Path, device: str, *, settings: WorkerSettings, root: Path = _ROOT
) -> None:
    """Refuse a model for which the memory that is left is too little; nothing of it has been loaded yet.

    Args:
        directory: of the native model.
        device: as PyTorch names it, or ``auto``.
        settings: number of slots, size of batches, type of the weights.
        root: of the file system.

    Raises:
        ConfigError: the text says what it needs and what is left.
    """
    place = choose_device(device)
    needed = bytes_needed(directory, place, settings)
    left = bytes_left(place, root)
    if left is not None and needed > left:
        where = "GPU" if place.type == "cuda" else "machine"
        raise ConfigError(
            f"{settings.model} needs up to {needed / 2**30:.1f} GiB for {settings.slots} slots beside what is loaded, "
            f"and the {where} has {left / 2**30:.1f} GiB left; lower slots, or use a device with more memory"
        )


def bytes_needed(directory: Path, place: torch.device, settings: WorkerSettings) -> int:
    """Return the bytes that a model takes at most: weights, slots and working memory; captured graphs take more."""
    config = read_config(directory)
    given = None if settings.dtype == "auto" else parse_dtype(settings.dtype)
    precision = choose_precision(place, given)
    size = precision.transformer.itemsize
    encoder = sum(f.stat().st_size for f in (directory / TEXT_ENCODER).rglob("*.safetensors"))
    largest = settings.largest_batch
    return encoder + peak_bytes(config, settings.slots, largest, bytes_per_value=size)


def bytes_left(place: torch.device, root: Path = _ROOT) -> int | None:
    """Return the bytes of memory that a device has left; None if the system does not tell.

    On a CPU it is the least that the system and the limits of this process's control groups leave; memory that only
    caches files counts as left.
    """
    if place.type == "cuda":
        free, _ = torch.cuda.mem_get_info(place)
        return int(free)
    return min(_left_on_cpu(root), default=None)


def _left_on_cpu(root: Path) -> Iterator[int]:
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield 1024 * int(line.split()[1])
    except OSError:  # not Linux
        return
    for group in control_groups("memory", root):
        try:
            limit = (group / "memory.max").read_text(encoding="ascii").strip()
            if limit == "max":
                continue
            used = int((group / "memory.current").read_text(encoding="ascii"))
            stat = (group / "memory.stat").read_text(encoding="ascii").splitlines()
            cached = sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
            yield max(int(limit) - used + cached, 0)
        except (OSError, ValueError):
            continue
