"""The trace that a histogram's bucket links to: that of the request which is being served."""

from __future__ import annotations

from contextvars import ContextVar

Exemplar = dict[str, str]
"""``trace_id`` and ``span_id``, in hexadecimal."""

CURRENT: ContextVar[Exemplar | None] = ContextVar("exemplar", default=None)
"""Of the request that this task serves; None when its trace is not recorded."""
