"""Adapter from :class:`star_model.Engine` to the worker's main loop: jobs in, bytes out, nothing awaited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from server.messages import ImageEdit, Job, Pixels
from server.worker.engine_protocol import Diagnosis
from server.worker.pending import Done, Pending
from star_model import Engine, ImageSequence
from star_model.engine.editing import Edit, make_edit
from star_model.errors import UnknownThingError
from star_model.networks.text_encoder import Conditioning
from star_model.reading import Reading, cannot_draw
from star_model.transfer import ToHost

_KEPT_EDITS = 8


@dataclass(frozen=True, slots=True)
class PixelsInFlight:
    """Images that are being copied from the device."""

    images: ToHost

    @property
    def done(self) -> bool:
        return self.images.done

    def wait(self) -> list[Pixels]:
        images = self.images.wait()
        _, height, width, _ = images.shape  # (B, H, W, 3)
        return [Pixels(width, height, image.numpy().tobytes()) for image in images]


@dataclass(frozen=True, slots=True)
class StepInFlight:
    """A step queued on a GPU."""

    end: torch.cuda.Event

    @property
    def done(self) -> bool:
        return bool(self.end.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        self.end.synchronize()


class StarEngine:
    """A :class:`server.worker.engine_protocol.SteppingEngine`.

    Args:
        engine: the engine to drive.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._device = engine.model.device
        # An image to edit is encoded once, for all seeds of its request and for later requests.
        self._edit = lru_cache(maxsize=_KEPT_EDITS)(self._make_edit)

    @property
    def num_scales(self) -> int:
        return self._engine.num_scales

    @property
    def free_slots(self) -> int:
        return self._engine.free_slots

    @property
    def total_slots(self) -> int:
        return self._engine.total_slots

    def sides(self, shape: int) -> Sequence[int]:
        return [max(size) for size in self._engine.model.config.schedules[shape].sizes]

    def read(self, prompt: str) -> Reading:
        return self._engine.model.read_prompt(prompt)

    def require_known(self, prompt: str, otherwise: str) -> None:
        """Raise :class:`UnknownThingError` if the model does not know what ``prompt`` asks for."""
        model = self._engine.model
        if (reading := model.read_prompt(prompt)).unknown:
            raise UnknownThingError(cannot_draw(model.config.name, reading, otherwise))

    def encode(self, prompt: str, *, literal: bool = False) -> Conditioning:
        model = self._engine.model
        if literal:  # need not be something that the model can draw
            return model.text_encoder.encode([prompt])[0]
        return model.encode_prompt(prompt)

    def prepare(
        self, text: Conditioning, negative: Conditioning | None, job: Job, seed: int
    ) -> ImageSequence:
        edit = self._edit(job.edit) if job.edit is not None else None
        return self._engine.prepare(
            text, job.sampling, seed=seed, negative=negative, edit=edit, shape=job.shape
        )

    def step(self, sequences: Sequence[ImageSequence]) -> Pending[None]:
        self._engine.step(sequences)
        if self._device.type != "cuda":
            return Done(None)
        end = torch.cuda.Event()  # type: ignore[no-untyped-call]
        end.record()
        return StepInFlight(end)

    def preview(self, sequences: Sequence[ImageSequence]) -> Pending[list[Pixels]]:
        return _to_host(self._engine.preview(sequences))

    def finish(self, sequences: Sequence[ImageSequence]) -> Pending[list[Pixels]]:
        return _to_host(self._engine.finish(sequences))

    def release(self, sequence: ImageSequence) -> None:
        self._engine.release(sequence)

    def memory(self) -> tuple[int, int]:
        if self._device.type != "cuda":
            return 0, 0
        # The current device belongs to a thread, and heartbeats come from one of their own: name the device.
        return torch.cuda.memory_allocated(self._device), torch.cuda.memory_reserved(self._device)

    def diagnose(self, error: Exception) -> Diagnosis:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            return "out_of_memory"
        if isinstance(
            error, torch.AcceleratorError
        ):  # the context is lost: every later call would fail too
            return "fatal"
        return "error"

    def _make_edit(self, edit: ImageEdit) -> Edit:
        shape = edit.image.height, edit.image.width
        # A bytearray, since tensors are writable and bytes are not.
        image = torch.frombuffer(bytearray(edit.image.data), dtype=torch.uint8).view(*shape, 3)
        mask = None
        if edit.mask is not None:
            mask = torch.frombuffer(bytearray(edit.mask), dtype=torch.uint8).view(shape) > 0
        return make_edit(
            self._engine.model,
            image,
            mask,
            keep_scales=edit.keep_scales,
            erase=edit.erase,
            focus=edit.focus,
            feather=edit.feather,
        )


def _to_host(images: Tensor) -> Pending[list[Pixels]]:
    return PixelsInFlight(ToHost(images))
