"""Engine interface that the worker loop drives.

The real one is :class:`server.worker.star_engine.StarEngine`; tests have a fake.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from server.messages import Job, Pixels
from server.worker.pending import Pending
from star_model.reading import Reading

Diagnosis = Literal["out_of_memory", "error", "fatal"]
"""Meaning of an exception: the batch did not fit; the batch failed; the process cannot recover."""


class Text(Protocol):
    """An encoded prompt."""

    @property
    def truncated(self) -> str:
        """End of the prompt beyond the encoder's window; empty if all of it fitted."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what is drawn otherwise than it was asked for; mostly none."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens that the encoder read."""
        ...


class ScaledSequence(Protocol):
    """An image in the engine."""

    @property
    def scale(self) -> int:
        """The scale that the next step predicts, from 0; the number of scales when all are done."""
        ...

    @property
    def shape(self) -> int:
        """Number of the image's shape; images of different shapes neither step nor are decoded together."""
        ...


TextT = TypeVar("TextT", bound=Text)
SequenceT = TypeVar("SequenceT", bound=ScaledSequence)


class SteppingEngine(Protocol[TextT, SequenceT]):
    """A model with slots, whose images advance by one scale at a time."""

    @property
    def num_scales(self) -> int: ...

    @property
    def free_slots(self) -> int: ...

    @property
    def total_slots(self) -> int: ...

    def sides(self, shape: int) -> Sequence[int]:
        """Return the longer side of each scale's token map, for images of a shape."""
        ...

    def read(self, prompt: str) -> Reading:
        """Tell what would be drawn of a prompt."""
        ...

    def encode(self, prompt: str, *, literal: bool = False) -> TextT:
        """Encode one prompt as it is read; ``literal`` ones, such as negative prompts, as they stand."""
        ...

    def prepare(self, text: TextT, negative: TextT | None, job: Job, seed: int) -> SequenceT:
        """Give an image of the job a slot."""
        ...

    def step(self, sequences: Sequence[SequenceT]) -> Pending[None]:
        """Advance sequences at one scale by that scale."""
        ...

    def preview(self, sequences: Sequence[SequenceT]) -> Pending[list[Pixels]]:
        """Decode unfinished sequences."""
        ...

    def finish(self, sequences: Sequence[SequenceT]) -> Pending[list[Pixels]]:
        """Decode sequences whose scales are all done, and free their slots."""
        ...

    def release(self, sequence: SequenceT) -> None:
        """Free the sequence's slot if it still has one."""
        ...

    def memory(self) -> tuple[int, int]:
        """Return bytes of device memory allocated and reserved; zeros on a CPU. Any thread may call it."""
        ...

    def diagnose(self, error: Exception) -> Diagnosis:
        """Clean up after an exception from this engine, and tell what it means."""
        ...
