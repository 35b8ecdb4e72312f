"""Structured logs of this package and of libraries: one JSON object per line, or a console format."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import ExcInfo

from server.escaping import escaped, escaped_json, escaped_lines
from server.log_stream import UnblockedHandler

_QUIET = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "asyncio",
    "httpx",
    "transformers",
    "huggingface_hub",
)
"""Loggers of libraries that are too verbose for an operator at ``info``."""


def configure_logging(level: str, log_format: str) -> None:
    """Send all logs of this process to stderr in one format.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``json``, ``console``, or ``auto``: console on a terminal, JSON elsewhere.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = UnblockedHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(log_format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    set_log_level(level)


def set_log_level(level: str) -> None:
    """Log what has at least this level, from now on.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _rendering(log_format: str) -> list[Any]:
    """Return the processors that turn an event into a line."""
    if log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()):
        return [
            # Tracebacks without local variables: a prompt could be among them.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            _json_line,
        ]
    return [
        _escape_values,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=_write_traceback
        ),
    ]


_JSON = structlog.processors.JSONRenderer(ensure_ascii=False)
_OF_LINES = ("exception", "stack")


def _json_line(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
    """Return the event as JSON that shows no direction marks and controls to whoever prints the line."""
    return escaped_json(str(_JSON(logger, name, event)))


def _escape_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what a caller may have put into texts; other values are shown by ``repr``, which escapes too."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = escaped_lines(value) if key in _OF_LINES else escaped(value)
    return event


def _write_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    """Write a plain traceback; the text of an exception may quote a caller."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(escaped_lines(text.getvalue()))
