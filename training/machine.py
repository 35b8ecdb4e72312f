"""The machine that a step of training runs on, and how long it may take."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch

from star_model.errors import StarError
from star_model.networks.precision import choose_device


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Return a command's ``main`` that ends in a sentence and exit code 1 where a file or a value is wrong."""

    @wraps(main)
    def run() -> None:
        try:
            main()
        except BrokenPipeError:
            raise SystemExit(141) from None  # as of a program that SIGPIPE ends
        except (OSError, ValueError, StarError) as error:
            spec = main.__globals__.get("__spec__")
            print(f"{spec.name if spec else main.__module__}: {_sentence(error)}", file=sys.stderr)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return run


def _sentence(error: Exception) -> str:
    """Return an error's text; of one of the system's, the file and the reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error) or repr(error)


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
