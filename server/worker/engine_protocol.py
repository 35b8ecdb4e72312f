"""What the worker's loop needs of a model. The real one is :mod:`server.worker.star_engine`; tests have a fake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from server.messages import Job, Pixels
from server.worker.pending import Pending

Diagnosis = Literal["out_of_memory", "error", "fatal"]
"""What an exception means: the batch did not fit; the batch failed; the process is of no more use."""


class Text(Protocol):
    """An encoded prompt."""

    @property
    def truncated(self) -> str:
        """The end of the prompt that did not fit into the encoder's window; empty if it all did."""
        ...

    @property
    def read_as(self) -> str:
        """What was read in place of the prompt, if the model knows too little for it; else empty."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens that the encoder read."""
        ...


TextT = TypeVar("TextT", bound=Text)
SequenceT = TypeVar("SequenceT")


class Engine(Protocol[TextT, SequenceT]):
    """What the loop needs of the model: slots, and images that advance by one scale at a time."""

    @property
    def num_scales(self) -> int: ...

    @property
    def free_slots(self) -> int: ...

    @property
    def total_slots(self) -> int: ...

    def encode(self, prompt: str, *, negative: bool = False) -> TextT:
        """Encode one prompt, or a negative one."""
        ...

    def prepare(self, text: TextT, negative: TextT | None, job: Job, seed: int) -> SequenceT:
        """Give an image of the job a slot."""
        ...

    def step(self, sequences: Sequence[SequenceT]) -> Pending[None]:
        """Advance sequences that are at one scale by that scale."""
        ...

    def preview(self, sequences: Sequence[SequenceT]) -> Pending[list[Pixels]]:
        """Decode what is painted so far."""
        ...

    def finish(self, sequences: Sequence[SequenceT]) -> Pending[list[Pixels]]:
        """Decode sequences that have all their scales, and free their slots."""
        ...

    def release(self, sequence: SequenceT) -> None:
        """Free the sequence's slot if it still has one."""
        ...

    def memory(self) -> tuple[int, int]:
        """Bytes of device memory allocated and reserved; zeros on a CPU."""
        ...

    def diagnose(self, error: Exception) -> Diagnosis:
        """What an exception from this engine means, after cleaning up behind it."""
        ...
