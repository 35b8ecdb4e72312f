"""The fenced code blocks of a Markdown file, and the commands of a shell block."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass

FENCE = re.compile(r"^(?P<indent>\s*)(?P<marks>`{3,}|~{3,})\s*(?P<language>[^\s`]*).*$")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: the word after the opening fence, or empty.
        text: what stands between the fences, without their indentation.
        line: of the opening fence, counted from 1.
    """

    language: str
    text: str
    line: int

    @property
    def name(self) -> str:
        """``bash-line-12``."""
        return f"{self.language or 'plain'}-line-{self.line}"


def read_blocks(markdown: str) -> list[Block]:
    """Every fenced block, in order.

    Raises:
        ValueError: a fence is never closed; the message has its line.
    """
    found: list[Block] = []
    opening: re.Match[str] | None = None
    start, body = 0, list[str]()
    for number, line in enumerate(markdown.splitlines(), 1):
        fence = FENCE.match(line)
        if opening is None:
            if fence:
                opening, start, body = fence, number, []
        elif fence and not fence["language"] and fence["marks"].startswith(opening["marks"]):
            found.append(Block(opening["language"], textwrap.dedent("\n".join(body)), start))
            opening = None
        else:
            body.append(line)
    if opening is not None:
        raise ValueError(f"the code block that opens at line {start} is never closed")
    return found


def read_commands(shell: str) -> list[str]:
    """The commands of a shell block: comments left out, lines that go on in the next one joined.

    Raises:
        ValueError: the last command is not complete (an open quote, or a backslash at the end).
    """
    commands: list[str] = []
    pending = ""
    for line in shell.splitlines():
        pending = f"{pending}\n{line}" if pending else line
        if line.endswith("\\") or not complete(pending):
            continue
        if shlex.split(pending, comments=True):
            commands.append(pending.strip())
        pending = ""
    if pending:
        raise ValueError(f"not a complete command: {pending}")
    return commands


def complete(command: str) -> bool:
    """Whether every quote that opens in ``command`` also closes."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


OPENS = {
    "flowchart": re.compile(r"^\s*subgraph\b", re.M),
    "sequenceDiagram": re.compile(r"^\s*(loop|opt|alt|par)\b", re.M),
    "gantt": re.compile(r"(?!)"),  # has no groups
}
"""Kind of Mermaid diagram -> beginning of a group of lines that `end` closes."""
ENDS = re.compile(r"^\s*end\s*$", re.M)


def check_diagram(mermaid: str) -> None:
    """Check what breaks most easily in a Mermaid diagram, without drawing it.

    Raises:
        ValueError: the kind of diagram is unknown, or a group, bracket or quote never closes.
    """
    kind = mermaid.split(maxsplit=1)[0] if mermaid.strip() else ""
    if kind not in OPENS:
        raise ValueError(f"no kind of diagram: {kind!r}")
    if len(OPENS[kind].findall(mermaid)) != len(ENDS.findall(mermaid)):
        raise ValueError("a group of the diagram never ends, or ends twice")
    if any(mermaid.count(a) != mermaid.count(b) for a, b in ("[]", "()")) or mermaid.count('"') % 2:
        raise ValueError("a bracket or a quote of the diagram never closes")
