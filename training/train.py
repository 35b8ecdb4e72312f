"""Train the default model from prepared data to a model directory: ``python -m training.train``.

The steps run one after the other, each in a process of its own; those that are done are recognised and skipped, so the
same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def steps(data: Path, runs: Path, out: Path, threads: int) -> list[list[str]]:
    """The modules to run and their arguments, in order."""
    inputs = ["--data", str(data)]
    tokenizer = ["--tokenizer", str(runs / "tokenizer")]
    tokens, transformer = str(runs / "tokens"), str(runs / "transformer")
    cores = ["--threads", str(threads)]
    commands = [["training.train_tokenizer", *inputs, "--run", str(runs / "tokenizer"), *cores]]
    commands += [
        ["training.tokenize", *inputs, *tokenizer, "--out", tokens, *cores],
        [
            "training.train_transformer",
            *inputs,
            *tokenizer,
            "--tokens",
            tokens,
            "--run",
            transformer,
            *cores,
        ],
        ["training.export", *inputs, *tokenizer, "--transformer", transformer, "--out", str(out)],
    ]
    return commands


def main() -> None:
    """Parse the command line and run what is left to do; a failing step ends it with its status."""
    parser = argparse.ArgumentParser(
        description="Train the default model; stop and start it as you like."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where the steps keep their state"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("weights/star-mini"), help="the model directory"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    arguments = parser.parse_args()
    for module, *flags in steps(arguments.data, arguments.runs, arguments.out, arguments.threads):
        print(f"== {module}", flush=True)
        status = subprocess.run([sys.executable, "-m", module, *flags], check=False).returncode
        if status:
            raise SystemExit(status)


if __name__ == "__main__":
    main()
