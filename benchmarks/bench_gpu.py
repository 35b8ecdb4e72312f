"""The published model on a GPU, against its floor: ``python -m benchmarks.bench_gpu --output results``.

One command for any CUDA machine: nothing is fetched, the weights are random. First the tests that need a GPU, then
each way to run the networks (:mod:`benchmarks.gpu_variant`): for one image and for eight, milliseconds of each scale
and of the decoder beside the floor (:mod:`star_model.cost`), whether the tokens are those of the plain way, where
the host waited for the device, and memory, predicted and used.

Each part is a process of its own with a limit of time, so that one that hangs, or breaks the device's context,
takes nothing else with it. What a part found is written to the output folder before the next begins: a line of
``gpu.jsonl``, and all it said in a log of its own. The tables are made of those lines; ``--tables`` makes them again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_variant import VARIANTS, add_arguments, reason_to_skip

RESULTS = "gpu.jsonl"
TABLES = "gpu.txt"
TESTS = "tests"
_LAST_LINES = 15

Found = dict[str, Any]


def run_part(name: str, command: Sequence[str], output: Path, timeout: float) -> Found:
    """What a part found, which is its last line of JSON; or how it ended instead.

    Args:
        name: of the part.
        command: to run.
        output: folder of its log.
        timeout: seconds after which it is killed.
    """
    log = output / f"{name}.log"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        try:
            ended = subprocess.run(
                command, check=False, stdout=file, stderr=subprocess.STDOUT, timeout=timeout
            )
            code = ended.returncode
            error = f"exit code {code}" if code else None
        except subprocess.TimeoutExpired:
            error = f"took longer than {timeout:g} s"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found: Found = {"benchmark": "gpu", "part": name}
    if error is None and name == TESTS:
        found["summary"] = lines[-1] if lines else ""
    elif error is None:
        found |= json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    else:
        found |= {"error": error, "tail": lines[-_LAST_LINES:]}
    return {**found, "seconds": round(time.monotonic() - started, 1)}


def commands(arguments: argparse.Namespace) -> Iterable[tuple[str, list[str] | str]]:
    """Each part that was asked for, with its command, or with the reason why it is left out."""
    for name in arguments.parts:
        if name == TESTS:
            yield name, [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/pure/star_model"]
        elif reason := reason_to_skip(VARIANTS[name]):
            yield name, reason
        else:
            command = [
                sys.executable,
                "-m",
                "benchmarks.gpu_variant",
                name,
                "--preset",
                arguments.preset,
            ]
            command += ["--batch", *map(str, arguments.batch), "--repeats", str(arguments.repeats)]
            command += [
                "--device",
                arguments.device,
                *(["--gpu", arguments.gpu] if arguments.gpu else []),
            ]
            yield name, command


def tables(parts: Sequence[Found]) -> str:
    """The parts' findings for people: one table for each size of batch, then the rest, a line a part."""
    measured = [part for part in parts if "batches" in part]
    texts = []
    if measured:
        first = measured[0]
        texts.append(
            f"{first['model']} on {first['gpu']}, floor of {first['floor_of'] or 'no known GPU'}"
        )
        texts += [_table(measured, batch) for batch in first["batches"]]
    texts.append("\n".join(_rest(part) for part in parts))
    return "\n\n".join(texts)


def _table(parts: Sequence[Found], batch: str) -> str:
    """Milliseconds of a batch by stage; behind the best of each row, its share of the floor."""
    floor = parts[0]["batches"][batch]["floor"]
    columns = {
        part["part"]: part["batches"][batch]["milliseconds"]
        for part in parts
        if batch in part["batches"]
    }
    width = max(map(len, columns)) + 2
    head = f"{f'batch {batch}, ms':14}{'floor':>9}{'share':>8}"
    lines = [head + "".join(name.rjust(width) for name in columns)]
    for stage in next(iter(columns.values())):
        values = [times[stage] for times in columns.values()]
        bound = floor.get(stage)
        share = f"{bound:9.2f}{100 * bound / min(values):6.0f} %" if bound is not None else " " * 17
        lines.append(f"{stage:14}{share}" + "".join(f"{value:{width}.2f}" for value in values))
    each = [times["image"] / int(batch) for times in columns.values()]
    bound = floor.get("image")
    share = f"{bound / int(batch):9.2f}{' ' * 8}" if bound is not None else " " * 17
    lines.append(f"{'per image':14}{share}" + "".join(f"{value:{width}.2f}" for value in each))
    return "\n".join(lines)


def _rest(part: Found) -> str:
    if "skipped" in part:
        return f"{part['part']}: left out, {part['skipped']}"
    if "error" in part:
        return "\n    ".join([f"{part['part']}: FAILED, {part['error']}", *part["tail"]])
    if "summary" in part:
        return f"{part['part']}: {part['summary']}"
    gib = part["memory_gib"]
    said = [f"start {part['start_seconds']:.1f} s", f"memory {gib['predicted']:.2f} GiB predicted"]
    if gib["used"] is not None:
        error = 100 * (gib["predicted"] / gib["used"] - 1)
        said.append(f"{gib['used']:.2f} used ({error:+.1f} %)")
    if "waits" in part:
        said.append(
            f"{len(part['waits'])} waits" + "".join(f"\n    {where}" for where in part["waits"][:5])
        )
    if "same_tokens" in part:
        shares = ", ".join(f"{100 * s:.2f} % at {b}" for b, s in part["same_tokens"].items())
        said.append(f"tokens as without: {shares}")
    return f"{part['part']}: " + ", ".join(said)


def main() -> None:
    """Parse the command line, run the parts, print the tables."""
    parser = argparse.ArgumentParser(
        description="Time a published model with random weights against its floor, in all ways it can be run."
    )
    add_arguments(parser)
    known = [TESTS, *VARIANTS]
    parser.add_argument(
        "--parts", nargs="+", choices=known, default=known, metavar="PART", help=", ".join(known)
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/gpu"), help="folder of the results"
    )
    parser.add_argument(
        "--timeout", type=float, default=400.0, help="seconds that each part may take"
    )
    parser.add_argument(
        "--tables", action="store_true", help="run nothing; print what is in the folder"
    )
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = arguments.output / RESULTS
    if not arguments.tables:
        with results.open("w", encoding="utf-8") as lines:
            for name, command in commands(arguments):
                print(f"{name} ...", file=sys.stderr, flush=True)
                if isinstance(command, str):
                    found: Found = {"benchmark": "gpu", "part": name, "skipped": command}
                else:
                    found = run_part(name, command, arguments.output, arguments.timeout)
                print(json.dumps(found), file=lines, flush=True)
    parts = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    text = tables(parts)
    (arguments.output / TABLES).write_text(text + "\n", encoding="utf-8")
    print(text)
    print(json.dumps({"benchmark": "gpu", "parts": parts}))
    sys.exit(any("error" in part for part in parts))


if __name__ == "__main__":
    main()
