"""Warnings about how a model read the texts of a request."""

from __future__ import annotations

from server.worker.engine_protocol import Text


def text_warnings(prompt: Text, negative: Text | None) -> tuple[str, ...]:
    """Return sentences about text that was cut off or read as something else; mostly none."""
    warnings = [
        f"The {name} is longer than the text encoder reads; this end of it was left out: {text.truncated!r}"
        for name, text in (("prompt", prompt), ("negative_prompt", negative))
        if text is not None and text.truncated
    ]
    return (*prompt.notes, *warnings)
