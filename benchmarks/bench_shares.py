"""What callers of one server get, by simulation: shares of tenants, and batch work beside interactive work.

python -m benchmarks.bench_shares [--model star-512] [--gpu h200] [--step-times FILE]

Steps are computed for a GPU as ``star-server plan`` does, or measured by ``benchmarks.bench_engine``. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from server.commands.capacity import CountedTimes, capacity, read_times
from server.commands.plan import Plan
from server.commands.simulation import StepTimes
from server.commands.tenant_simulation import Caller, TenantSimulation
from star_model.config import ModelConfig
from star_model.cost import DEVICES
from star_model.families.registry import PRESETS

_IMAGES = 2000
"""Images that the server can finish in the simulated time."""


def scenes(rate: float) -> dict[str, list[Caller]]:
    """Return the loads to simulate.

    Args:
        rate: images per second that the server can finish.
    """
    one = Caller("one", rate=0.1 * rate)
    return {
        "one alone": [one],
        "beside one that queues 2000": [one, Caller("many", at_once=2000)],
        "beside three that queue": [
            one,
            *(Caller(f"queue {i}", images=10, at_once=100) for i in range(3)),
        ],
        "beside batch work": [one, Caller("batch", images=10, at_once=200, priority=1)],
    }


def simulate(times: StepTimes, config: ModelConfig, slots: int) -> list[dict[str, Any]]:
    """Simulate each load; return a row for each caller."""
    policy = Plan(slots=slots).policy(config)
    rate = capacity(times, policy, slots)
    rows = []
    for name, callers in scenes(rate).items():
        simulation = TenantSimulation(times, policy, slots=slots)
        shares = simulation.run(callers, seconds=_IMAGES / rate)
        rows += [
            {
                "load": name,
                "caller": caller.tenant,
                "share": shares[caller.tenant].images / _IMAGES,
                "p50_ms": 1000 * shares[caller.tenant].percentile(50),
                "p99_ms": 1000 * shares[caller.tenant].percentile(99),
            }
            for caller in callers
        ]
    return rows


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="star-512", choices=sorted(PRESETS))
    parser.add_argument("--gpu", default="h200", choices=sorted(DEVICES))
    parser.add_argument("--step-times", type=Path, help="output of benchmarks.bench_engine")
    parser.add_argument("--slots", type=int, default=8)
    given = parser.parse_args()
    config: ModelConfig = PRESETS[given.model]
    times: StepTimes = CountedTimes(config, DEVICES[given.gpu], efficiency=0.5)
    if given.step_times is not None:
        times = read_times(given.step_times, config).times
    rows = simulate(times, config, given.slots)
    print(f"{'load':30}{'caller':10}{'share':>7}{'p50 ms':>9}{'p99 ms':>9}")
    for row in rows:
        print(
            f"{row['load']:30}{row['caller']:10}{100 * row['share']:6.1f}%"
            f"{row['p50_ms']:9.0f}{row['p99_ms']:9.0f}"
        )
    print(json.dumps({"model": given.model, "slots": given.slots, "rows": rows}))


if __name__ == "__main__":
    main()
