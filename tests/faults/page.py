"""The fault matrix as it stands in ``docs/reliability.md``: ``python -m tests.faults.page``.

It makes every fault happen and writes what was seen into the page. With ``--fault`` or ``--phase`` it only shows it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.cells import NOTICED_BY_TIME, Cell, Seen, SlowServer, slow_server
from tests.faults.matrix import (
    ABOUT_FAULTS,
    ABOUT_PHASES,
    ABOUT_ROLES,
    FAULTS,
    OUTCOMES,
    PHASES,
    Expected,
    FaultName,
    NoMeaning,
    Phase,
    Role,
)
from tests.live_server import ROOT

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- fault matrix: begin -->\n", "<!-- fault matrix: end -->\n"

_ROW = re.compile(r"^\| (\w+) \| (.+?) \| (.+?) \|$")
_HEADING = re.compile(r"^### (.+)$")


class Servers:
    """Servers that cells share, as far as a fault leaves them whole.

    Args:
        directory: takes their files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._shared: dict[bool, SlowServer] = {}
        self._count = 0

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, fault: FaultName, phase: Phase) -> Seen:
        """Run a cell: on a server of its own if it ends the server, else on one that has served others.

        Raises:
            AssertionError: something did not happen within minutes, or the server logged a traceback.
        """
        with self._server(fault, phase) as server:
            seen = Cell(server, fault, phase).run()
            assert "Traceback" not in server.live.written, server.live.written[-5000:]
        return seen

    @contextlib.contextmanager
    def _server(self, fault: FaultName, phase: Phase) -> Iterator[SlowServer]:
        self._count += 1
        directory = self._directory / str(self._count)
        if phase == "draining":
            with slow_server(directory, fault) as server:
                yield server
            return
        strict = fault in NOTICED_BY_TIME
        if strict not in self._shared:
            self._shared[strict] = self._stack.enter_context(slow_server(directory, fault))
        yield self._shared[strict]


def describe(outcomes: dict[Role, str]) -> str:
    """What each role sees, as it stands in a row."""
    return "; ".join(f"{role}: `{outcomes[role]}`" for role in ABOUT_ROLES if role in outcomes)


def write_table(fault: FaultName, seconds: dict[Phase, float]) -> str:
    """The section about a fault.

    Args:
        fault: which.
        seconds: measured, of each phase in which it has a meaning.
    """
    lines = [
        f"### {fault}\n",
        f"{ABOUT_FAULTS[fault]}\n",
        "| phase | who sees what | whole again |",
        "| --- | --- | --- |",
    ]
    for phase in PHASES:
        match OUTCOMES[fault][phase]:
            case NoMeaning(because):
                lines.append(f"| {phase} | no meaning: {because} | at once |")
            case Expected(outcomes):
                verb = "ended after" if phase == "draining" else "after"
                lines.append(f"| {phase} | {describe(outcomes)} | {verb} {seconds[phase]:.1f} s |")
    return "\n".join(lines) + "\n"


def rows_of(text: str) -> dict[tuple[str, str], tuple[str, str]]:
    """The rows of a page: what is seen, and how long it takes, by fault and phase."""
    rows, fault = {}, ""
    for line in text.partition(BEGIN)[2].partition(END)[0].splitlines():
        if heading := _HEADING.match(line):
            fault = heading[1]
        elif (row := _ROW.match(line)) and row[1] != "phase":
            rows[fault, row[1]] = (row[2], row[3])
    return rows


def run_all(
    faults: Collection[FaultName], phases: Collection[Phase]
) -> dict[FaultName, dict[Phase, float]]:
    """Make these faults happen; return the seconds of each.

    Raises:
        AssertionError: something else was seen than the matrix says.
    """
    measured: dict[FaultName, dict[Phase, float]] = {fault: {} for fault in faults}
    with TemporaryDirectory() as directory, Servers(Path(directory)) as servers:
        for fault in faults:
            for phase in phases:
                expected = OUTCOMES[fault][phase]
                if isinstance(expected, NoMeaning):
                    continue
                seen = servers.run(fault, phase)
                print(
                    f"{fault:15} {phase:10} {seen.seconds:6.1f} s  {describe(seen.outcomes)}",
                    flush=True,
                )
                assert seen.outcomes == expected.outcomes, (
                    f"expected: {describe(expected.outcomes)}"
                )
                measured[fault][phase] = seen.seconds
    return measured


def main() -> None:
    """Run the matrix, and write it into the page."""
    parser = argparse.ArgumentParser(description="Run the fault matrix of docs/reliability.md.")
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--phase", action="append", choices=PHASES)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    measured = run_all(arguments.fault or FAULTS, arguments.phase or PHASES)
    if arguments.fault or arguments.phase:
        return
    tables = "\n".join(write_table(fault, seconds) for fault, seconds in measured.items())
    phases = "\n".join(f"| {name} | {about} |" for name, about in ABOUT_PHASES.items())
    roles = "\n".join(f"| {name} | {about} |" for name, about in ABOUT_ROLES.items())
    head, begin, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{PAGE} has no place for the matrix: {BEGIN!r}, {END!r}")
    after = os.getloadavg()[0]
    machine = (
        f"Seen on a machine of {os.cpu_count()} cores, with a load of {load:.0f} before the run and "
        f"{after:.0f} after it."
    )
    legend = f"{machine}\n\n| phase | meaning |\n| --- | --- |\n{phases}\n\n| who | is |\n| --- | --- |\n{roles}\n"
    PAGE.write_text(f"{head}{begin}\n{legend}\n{tables}\n{end}{tail}", "utf-8")


if __name__ == "__main__":
    main()
