"""A training run: a directory that holds its state, its log, its curves and its sample sheets.

A run can be stopped at any moment and continued to the same result: the state holds the step, the weights, the
optimizer and the random state, the data are a pure function of the step, and the state is replaced atomically.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image

from star_model.host_memory import keep_freed_memory

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def learning_rate(step: int, *, peak: float, warmup: int, total: int, final: float = 0.02) -> float:
    """Linear warm-up to ``peak``, then a cosine to ``final * peak`` at ``total`` steps."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def write_atomically(path: Path, save: Any) -> None:
    """Call ``save(temporary path)`` and move the result to ``path``, so that a reader never sees half a file."""
    temporary = path.with_name(path.name + ".partial")
    save(temporary)
    os.replace(temporary, path)


class Run:
    """One training run in ``directory``.

    Args:
        directory: created when missing; an existing state in it is continued.
        settings: what defines the run; continuing with other settings is refused.
        total_steps: where the run ends, for the estimate of the time left.
        history: what the first ``n`` updates did, as a function of ``n``. A run may be continued with another future,
            longer for example, but not with another past.
        minutes: where the run ends in place of ``total_steps``, if not 0.

    Raises:
        SystemExit: when the directory holds a run with other settings, or another past.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict[str, Any],
        total_steps: int,
        history: Callable[[int], Any] = lambda _: None,
        minutes: float = 0.0,
    ) -> None:
        self.directory = directory
        self.total_steps = total_steps
        self._minutes = minutes
        self.stopping = False
        directory.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._history = history
        self._state = directory / "state.pt"
        self._log = directory / "log.jsonl"
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._first_step = 0
        keep_freed_memory()
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True  # the loop finishes its step, saves and leaves

    def resume(self) -> dict[str, Any] | None:
        """The saved state, or None when the run is new."""
        if not self._state.exists():
            self._log.unlink(missing_ok=True)
            return None
        state: dict[str, Any] = torch.load(self._state, weights_only=True)
        if state["settings"] != self._settings:
            changed = sorted(
                k for k in self._settings if state["settings"].get(k) != self._settings[k]
            )
            raise SystemExit(
                f"{self.directory} holds a run with other settings ({', '.join(changed)}); "
                "give another --run directory, or the settings it was started with"
            )
        if state.get("history") != self._history(state["step"]):
            raise SystemExit(
                f"the first {state['step']} updates of {self.directory} were made by another schedule; "
                "only what lies ahead may be changed"
            )
        torch.set_rng_state(state["rng"])
        self._seconds_before = state["seconds"]
        self._first_step = state["step"]
        kept = [line for line in self.log() if line["step"] <= state["step"]]
        self._log.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return state

    def save(self, step: int, **state: Any) -> None:
        """Replace the saved state by that after ``step`` steps."""
        state |= {
            "step": step, "settings": self._settings, "history": self._history(step),
            "rng": torch.get_rng_state(), "seconds": self.seconds,
        }  # fmt: skip
        write_atomically(self._state, lambda path: torch.save(state, path))

    @property
    def seconds(self) -> float:
        """Wall-clock spent on this run so far, interruptions not counted."""
        return self._seconds_before + time.monotonic() - self._started

    def record(self, step: int, **values: float) -> None:
        """Append a line to the log and print it with the time left."""
        line = {
            "step": step,
            "seconds": round(self.seconds, 1),
            **{k: round(v, 5) for k, v in values.items()},
        }
        with self._log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        done = step - self._first_step
        pace = (time.monotonic() - self._started) / max(done, 1)
        left = pace * (self.total_steps - step)
        of = f"/{self.total_steps}"
        if self._minutes:
            left, of = max(0.0, 60 * self._minutes - self.seconds), ""
        shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
        print(
            f"step {step}{of}  {shown}  {pace:.2f} s/step  {left / 60:.0f} min left",
            flush=True,
        )

    def log(self) -> list[dict[str, float]]:
        """All lines recorded so far."""
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def draw_curves(self, names: Sequence[str]) -> None:
        """Write ``curves.png``: one panel for each of ``names`` over the steps."""
        figure, panels = plt.subplots(1, len(names), figsize=(5 * len(names), 3.5), squeeze=False)
        for panel, name in zip(panels[0], names, strict=True):
            points = [(line["step"], line[name]) for line in self.log() if name in line]
            panel.plot([p[0] for p in points], [p[1] for p in points], linewidth=1)
            panel.set_title(name)
            panel.set_xlabel("step")
            panel.grid(alpha=0.3)
        figure.tight_layout()
        write_atomically(
            self.directory / "curves.png", lambda path: figure.savefig(path, format="png", dpi=100)
        )
        plt.close(figure)

    def write_sheet(
        self, name: str, images: np.ndarray[Any, np.dtype[np.uint8]], columns: int
    ) -> None:
        """Write ``images`` (N, H, W, 3) as one picture ``name.png`` with ``columns`` columns."""
        n, h, w, _ = images.shape
        rows = math.ceil(n / columns)
        sheet = np.full((rows * h, columns * w, 3), 255, np.uint8)
        for i, image in enumerate(images):
            y, x = divmod(i, columns)
            sheet[y * h : (y + 1) * h, x * w : (x + 1) * w] = image
        write_atomically(
            self.directory / f"{name}.png",
            lambda path: Image.fromarray(sheet).save(path, format="png"),
        )


def batches(
    dataset: torch.utils.data.Dataset[Any],
    *,
    start: int,
    stop: int,
    batch_size: int,
    workers: int = 1,
) -> Iterator[Any]:
    """Batches ``start`` to ``stop`` of ``dataset``: batch ``i`` holds the items ``i * batch_size`` and following.

    Worker processes prepare them ahead; what a batch holds depends on its number alone.
    """
    indices = range(start * batch_size, stop * batch_size)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=6,
        worker_init_fn=_leave_signals_to_parent,
    )
    return iter(loader)


def _leave_signals_to_parent(_worker: int) -> None:
    # Ctrl-C reaches the whole process group; the parent finishes its step and saves, then the worker goes with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
