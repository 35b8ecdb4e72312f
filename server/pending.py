"""Work that a device has been given and need not have done yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """Work under way, of which something comes."""

    @property
    def done(self) -> bool:
        """Whether :meth:`wait` returns at once."""
        ...

    def wait(self) -> T_co:
        """Wait for what comes of it.

        Raises:
            Exception: the work failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """Work that was done when it was given, as on a CPU."""

    result: T
    done: bool = True

    def wait(self) -> T:
        return self.result
