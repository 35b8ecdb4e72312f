"""The engine of :mod:`star_model` as the worker's main loop wants it: jobs in, bytes out, nothing waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from server.messages import ImageEdit, Job, Pixels
from server.worker.engine_protocol import Diagnosis
from server.worker.pending import Done, Pending

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from star_model import Engine
    from star_model.engine.editing import Edit
    from star_model.engine.sequence import ImageSequence
    from star_model.networks.text_encoder import Conditioning
    from star_model.transfer import ToHost

_KEPT_EDITS = 8


@dataclass(frozen=True, slots=True, eq=False)
class EncodedText:
    """A prompt's conditioning, and what the caller is told of it."""

    conditioning: Conditioning
    num_tokens: int

    @property
    def truncated(self) -> str:
        return self.conditioning.truncated

    @property
    def read_as(self) -> str:
        return self.conditioning.read_as


@dataclass(frozen=True, slots=True)
class Arriving:
    """Images on their way from the device."""

    images: ToHost

    @property
    def done(self) -> bool:
        return self.images.done

    def wait(self) -> list[Pixels]:
        images = self.images.wait()
        _, height, width, _ = images.shape  # (B, H, W, 3)
        return [Pixels(width, height, image.numpy().tobytes()) for image in images]


@dataclass(frozen=True, slots=True)
class Stepping:
    """A step that a GPU has been given."""

    end: torch.cuda.Event

    @property
    def done(self) -> bool:
        return bool(self.end.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        self.end.synchronize()


class StarEngine:
    """A :class:`server.worker.engine_protocol.Engine`.

    Args:
        engine: the engine to drive.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._on_cuda = engine.model.device.type == "cuda"
        # One image is encoded once, for all seeds of its request and for the next ones.
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

    def encode(self, prompt: str, *, negative: bool = False) -> EncodedText:
        model = self._engine.model
        # What is not wanted need not be drawn, so it may be anything.
        conditioning = (
            model.text_encoder.encode([prompt])[0] if negative else model.encode_prompt(prompt)
        )
        return EncodedText(conditioning, conditioning.num_tokens)

    def prepare(
        self, text: EncodedText, negative: EncodedText | None, job: Job, seed: int
    ) -> ImageSequence:
        from star_model import SamplingParams

        params = SamplingParams(seed=seed, **asdict(job.sampling))
        against = negative.conditioning if negative is not None else None
        edit = self._edit(job.edit) if job.edit is not None else None
        return self._engine.prepare(text.conditioning, params, negative=against, edit=edit)

    def step(self, sequences: Sequence[ImageSequence]) -> Pending[None]:
        self._engine.step(sequences)
        if not self._on_cuda:
            return Done(None)
        import torch

        end = torch.cuda.Event()  # type: ignore[no-untyped-call]
        end.record()
        return Stepping(end)

    def preview(self, sequences: Sequence[ImageSequence]) -> Pending[list[Pixels]]:
        return self._arriving(self._engine.preview(sequences))

    def finish(self, sequences: Sequence[ImageSequence]) -> Pending[list[Pixels]]:
        return self._arriving(self._engine.finish(sequences))

    def release(self, sequence: ImageSequence) -> None:
        self._engine.release(sequence)

    def memory(self) -> tuple[int, int]:
        if not self._on_cuda:
            return 0, 0
        import torch

        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    def diagnose(self, error: Exception) -> Diagnosis:
        import torch

        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            if self._on_cuda:
                torch.cuda.empty_cache()
            return "out_of_memory"
        if isinstance(
            error, torch.AcceleratorError
        ):  # the context is lost: every later call would fail too
            return "fatal"
        return "error"

    def _make_edit(self, edit: ImageEdit) -> Edit:
        import torch

        from star_model.engine.editing import make_edit

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

    def _arriving(self, images: Tensor) -> Pending[list[Pixels]]:
        from star_model.transfer import ToHost

        return Arriving(ToHost(images))
