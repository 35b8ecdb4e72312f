"""Keeping freed memory: what the kernel is asked for falls, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from star_model.host_memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
torch.set_num_threads(1)
def work():
    for _ in range(10):
        blocks = [torch.ones(2**22) for _ in range(6)]  # 96 MiB, as activations come and go
        del blocks
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[str, int]:
    command = [sys.executable, "-c", SCRIPT, mode]
    kept, count = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return kept, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_blocks_that_are_freed_are_not_faulted_in_again() -> None:
    _, usual = faults("usual")
    kept, few = faults("keep")
    if kept == "False":
        pytest.skip("the C library is not glibc")
    if usual < 1000:
        pytest.skip(f"this kernel counts no page faults: {usual} for 1,000 MiB of fresh blocks")
    assert few < usual / 10
