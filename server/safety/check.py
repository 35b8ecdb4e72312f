"""The interface of a safety hook: what it is shown, and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.messages import Pixels

Stage = Literal["input", "output"]
"""What is checked: a request before anything is painted, or an image before anyone sees it."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question to a safety hook.

    Args:
        stage: ``input``, once for each request; ``output``, once for each image.
        request_id: as in the log and in the header ``x-request-id``.
        model: name of the loaded model.
        prompt: describes the images.
        negative_prompt: what guidance leads away from; empty for none.
        image: of ``output``, the painted image. Of ``input``, the picture to edit, as it lies on the model's canvas;
            None without one, or unless ``safety_uploads`` asks for it.
        image_index: which of the request's images, from 0; 0 for ``input``.
        partial: the image is a preview, not finished.
    """

    stage: Stage
    request_id: str
    model: str
    prompt: str
    negative_prompt: str = ""
    image: Pixels | None = None
    image_index: int = 0
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer of a hook that refuses. The caller gets the categories, and the log has them: put no prompt there.

    Args:
        categories: what was found, such as ``violence``; may be empty.
    """

    categories: tuple[str, ...] = ()


Answer: TypeAlias = Refusal | None
"""None lets it pass."""

Hook: TypeAlias = Callable[[Check], Answer] | Callable[[Check], Awaitable[Answer]]
"""A safety hook. A plain function is called in threads, several at once; an async one on an event loop of its own."""
