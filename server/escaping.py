"""Characters that change what a terminal or a reader sees, written as escapes."""

from __future__ import annotations

import re

_MISLEADING = "\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
"""Delete and C1 controls, direction marks, line separators, invisible characters, halves of surrogate pairs."""

_UNSAFE = re.compile(f"[\x00-\x1f{_MISLEADING}]")
_UNSAFE_IN_JSON = re.compile(f"[{_MISLEADING}]")


def escaped(text: str) -> str:
    r"""Return a text in one line of harmless characters: ESC becomes ``\x1b``, a direction mark ``\u202e``."""
    return _UNSAFE.sub(_escape, text)


def escaped_lines(text: str) -> str:
    """Return a text of several lines, each as :func:`escaped` returns it."""
    return "\n".join(map(escaped, text.split("\n")))


def escaped_json(line: str) -> str:
    """Return an equal JSON document; ``json.dumps`` escapes only C0 controls when it keeps other alphabets."""
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    named = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}.get(code)
    return named or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
