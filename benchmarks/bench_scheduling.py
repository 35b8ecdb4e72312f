"""What batching by scale is worth on this machine: ``python -m benchmarks.bench_scheduling``.

Measures the steps of the default model at a few sizes of batch, and gives them to the simulation of the real
scheduler (``star-server plan --compare``): Poisson arrivals at 30, 60, 90 and 120 % of capacity, batched one at a
time, by whole generations, by scale, and packed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.bench_engine import run
from benchmarks.workload import (
    add_batch_arguments,
    add_model_arguments,
    clock,
    conditions,
    heading,
    open_model,
    print_json,
)


def main() -> None:
    """Parse the command line, measure, simulate, print."""
    parser = argparse.ArgumentParser(description="Simulate ways of batching with measured step times.")
    add_model_arguments(parser)
    add_batch_arguments(parser, mode="fast", repeats=5)
    parser.set_defaults(batch=[1, 4])
    parser.add_argument("--requests", type=int, default=4000)
    arguments = parser.parse_args()
    model = open_model(arguments)
    tick = clock(arguments)
    measured = {
        b: run(model, batch=b, mode=arguments.mode, repeats=arguments.repeats, tick=tick)
        for b in arguments.batch
    }
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "step-times.json"
        times.write_text(json.dumps({"milliseconds": measured}))
        command = [
            sys.executable,
            "-m",
            "server",
            "plan",
            "--compare",
            "--model",
            arguments.preset or arguments.model,
        ]
        command += ["--step-times", str(times), "--requests", str(arguments.requests)]
        print(f"{heading(model)}, {arguments.mode}; simulated with measured step times")
        print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, end="")
        found = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    print_json("scheduling", **conditions(model), mode=arguments.mode, simulated=json.loads(found))


if __name__ == "__main__":
    main()
