"""The machine that a step of training runs on, and how long it may take."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

import torch

from star_model.networks.precision import choose_device


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the flags ``--device``, ``--threads`` and ``--minutes``."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="stop after so long; 0 does the whole recipe"
    )


def use_machine(arguments: argparse.Namespace) -> torch.device:
    """Set the threads that :func:`add_machine_flags` says; returns the device."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return choose_device(arguments.device)


def loader_workers(device: torch.device) -> int:
    """Processes that draw scenes ahead: a CPU that trains has one to spare, a GPU waits for all that there are."""
    return 1 if device.type == "cpu" else max(1, (os.cpu_count() or 2) - 2)


@dataclass(frozen=True)
class Budget:
    """Length of a training, in updates or in time.

    Args:
        steps: updates, if there is no limit in time.
        minutes: of wall-clock; 0 for none. Learning rates then follow the clock.
    """

    steps: int
    minutes: float = 0.0

    def progress(self, step: int, seconds: float) -> float:
        """Share of the training, 0 to 1, that is done after ``step`` updates and ``seconds``."""
        done = seconds / (60 * self.minutes) if self.minutes else step / max(1, self.steps)
        return min(1.0, done)
