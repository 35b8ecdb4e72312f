"""What the processes of a server hold, sample by sample, and whether it grows."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server_process import numbers_of

MEMORY_SHARE, MEMORY_MB = 0.05, 10.0
COUNTED = 2.0
"""Growth that is taken for noise, over all periods that count: of memory in MB, of descriptors and threads."""

DECODER_DESCRIPTORS = 3
"""Files that a server holds open for each of its decoding processes, which come and go: two pipes and a socket."""


@dataclass(frozen=True)
class Sample:
    """A process, or several of a kind, at rest.

    Args:
        rss_mb: resident memory.
        pss_mb: the same, with pages that are shared counted in part.
        descriptors: open files, sockets and pipes, without those to decoding processes.
        threads: of the process.
    """

    rss_mb: float
    pss_mb: float
    descriptors: float
    threads: float


def sample(pid: int, decoders: int = 0) -> Sample:
    """Sample a process of this machine, which must be Linux; ``decoders`` is how many decoding processes it has."""
    of_memory = numbers_of(Path(f"/proc/{pid}/smaps_rollup"))
    return Sample(
        rss_mb=of_memory["Rss"] / 1024,
        pss_mb=of_memory["Pss"] / 1024,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")) - DECODER_DESCRIPTORS * decoders,
        threads=numbers_of(Path(f"/proc/{pid}/status"))["Threads"],
    )


def least(samples: Sequence[Sample]) -> Sample:
    """The least of several samples of a process, of each quantity: what is open only for a moment is not in all."""
    return Sample(*(min(getattr(each, q) for each in samples) for q in Sample.__dataclass_fields__))


def children_of(pid: int) -> list[int]:
    """Ids of the Python processes that a server has started, the oldest first: its worker, then its decoders."""
    found: dict[int, int] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, (thread / "children").read_text().split()):
                folder = Path(f"/proc/{child}")
                if b"spawn_main" in (folder / "cmdline").read_bytes():
                    # The ticks at which it was started: ids begin anew, so they tell no age.
                    found[child] = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
    return sorted(found, key=found.__getitem__)


def growth(values: Sequence[float]) -> float:
    """How much a series grows from its first value to its last, by the median of all slopes between two values."""
    pairs = itertools.combinations(enumerate(values), 2)
    slopes = [(later - earlier) / (j - i) for (i, earlier), (j, later) in pairs]
    return statistics.median(slopes) * (len(values) - 1) if slopes else 0.0


def judge(curves: Mapping[str, Sequence[Sample]]) -> list[str]:
    """What grows, a sentence each; the first third of each curve is warm-up and does not count."""
    found = []
    for name, curve in curves.items():
        late = curve[len(curve) // 3 :]
        for quantity in ("rss_mb", "pss_mb", "descriptors", "threads"):
            values = [float(getattr(each, quantity)) for each in late]
            noise = COUNTED
            if quantity.endswith("_mb"):
                noise = MEMORY_MB + MEMORY_SHARE * statistics.median(values)
            if (grown := growth(values)) > noise:
                found.append(f"{name}: {quantity} grew by {grown:.1f}, more than {noise:.1f}")
    return found


def print_table(seconds: Sequence[float], curves: Mapping[str, Sequence[Sample]]) -> None:
    """A row for each sample, and the growth after the warm-up below."""
    head = "".join(f"{name:>9} RSS MB  PSS MB  files threads" for name in curves)
    print(f"seconds{head}")
    for row, at in enumerate(seconds):
        print(f"{at:7.0f}" + "".join(_cells(curve[row]) for curve in curves.values()))
    late = {name: curve[len(curve) // 3 :] for name, curve in curves.items()}
    grown = [
        Sample(*(growth([getattr(s, q) for s in curve]) for q in Sample.__dataclass_fields__))
        for curve in late.values()
    ]
    print(" growth" + "".join(map(_cells, grown)))


def _cells(s: Sample) -> str:
    return f"{s.rss_mb:16.1f}{s.pss_mb:8.1f}{s.descriptors:7.1f}{s.threads:8.1f}"
