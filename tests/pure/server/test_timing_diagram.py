"""The timing diagram of docs/architecture.md shows the steps that the scheduler chooses."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from server.messages import Key
from server.worker.scheduler import Policy, Scheduler, token_shares
from tests.markdown_blocks import read_blocks

ROOT = Path(__file__).parents[3]
STAR_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
ARRIVALS = {0: [Key("A", 0), Key("A", 1), Key("A", 2)], 5: [Key("B", 0)], 7: [Key("C", 0)]}
"""Step -> the images that arrive before it."""


def drawn_steps(gantt: str) -> dict[str, set[int]]:
    """Section of the diagram -> its steps; bars of images that wait, marked ``done``, are left out."""
    steps: dict[str, set[int]] = defaultdict(set)
    section = ""
    for line in gantt.splitlines():
        if named := re.match(r"\s*section (.+)", line):
            section = named[1]
        elif bar := re.match(r".* : (\d+), (\d+)$", line):
            steps[section].update(range(int(bar[1]), int(bar[2])))
    return dict(steps)


def scheduled_steps() -> dict[str, set[int]]:
    """The same as the scheduler has it, with the defaults of fast mode."""
    scheduler = Scheduler(Policy(token_shares(STAR_512), max_batch=8, max_step=1.0))
    scales: dict[Key, int] = {}
    steps: dict[str, set[int]] = defaultdict(set)
    for step in range(100):
        for key in ARRIVALS.get(step, []):
            scheduler.add(key)
            scales[key] = 0
        for key in scheduler.next_batch(scales):
            section = f"A, image {key.image + 1}" if key.job_id == "A" else key.job_id
            steps[section].add(step)
            scales[key] += 1
            if scales[key] == len(STAR_512):
                scheduler.remove(key)
    return dict(steps)


def test_the_diagram_is_what_the_scheduler_does() -> None:
    blocks = read_blocks((ROOT / "docs" / "architecture.md").read_text("utf-8"))
    (gantt,) = [block.text for block in blocks if block.text.startswith("gantt")]
    assert drawn_steps(gantt) == scheduled_steps()
