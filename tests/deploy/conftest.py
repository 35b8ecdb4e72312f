"""``--deploy-report``: at the end, what was checked, and what was not and why."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deploy-report", action="store_true", help="say what was checked, and what not and why"
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not config.getoption("deploy_report", False):
        return
    ran: dict[str, int] = defaultdict(int)
    skipped: dict[str, set[str]] = defaultdict(set)
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            ran[report.nodeid.split("::")[0]] += 1
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[report.nodeid.split("::")[0]].add(reason.removeprefix("Skipped: "))
    terminalreporter.section("deploy-check: what ran")
    for name in sorted(ran):
        terminalreporter.line(f"{ran[name]:4} {name}: {_subject(config.rootpath / name)}")
    terminalreporter.section("deploy-check: what was skipped, and why")
    for name in sorted(skipped):
        for reason in sorted(skipped[name]):
            terminalreporter.line(f"     {name}: {reason}")
    if not skipped:
        terminalreporter.line("     nothing")


def _subject(path: Path) -> str:
    """The first line of a file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")[0]
