"""What a server is installed with: its licences are known, and the table of them is complete."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.test_dockerfile import PROJECT
from tests.live_server import ROOT

TABLE = dict(
    re.findall(
        r"^\| ([\w.-]+) +\| (.+?) +\|$", (ROOT / "docs" / "licenses.md").read_text("utf-8"), re.M
    )
)
LICENSES = {str(canonicalize_name(name)): text for name, text in TABLE.items() if name != "Name"}
PERMISSIVE = re.compile(
    r"Apache|\bMIT\b|\bBSD\b|\b0?BSD\b|BSL-1\.0|\bISC\b|\bPSF|Python Software|Zlib|CC0|CNRI|Unlicense|HPND"
)
READ = {"tqdm": "MPL-2.0 AND MIT"}
"""Not all permissive, and read: docs/licenses.md says what follows."""


def closure(requirements: list[str]) -> set[str]:
    """The names of what they install on this machine, dependencies of dependencies included."""
    pending = [Requirement(line) for line in requirements]
    found: set[str] = set()
    while pending:
        requirement = pending.pop()
        name = str(canonicalize_name(requirement.name))
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        pending += [Requirement(line) for line in metadata.distribution(name).requires or []]
    return found


def is_permissive(text: str) -> bool:
    """Whether one of what may be chosen, and there all of what applies, is known to be permissive."""
    return any(
        all(PERMISSIVE.search(part) for part in re.split(r" AND ", choice))
        for choice in re.split(r" OR |; ", text)
    )


def test_every_package_is_in_the_table() -> None:
    torch_brings = {
        name for name in closure(PROJECT["dependencies"]) if re.match(r"nvidia|cuda|triton", name)
    }
    missing = (
        closure(PROJECT["dependencies"]) - torch_brings - set(LICENSES) - {"setuptools", "pip"}
    )
    assert not missing, "run make licenses"


@pytest.mark.parametrize("name", sorted(LICENSES))
def test_a_licence_is_permissive(name: str) -> None:
    assert is_permissive(LICENSES[name]) or READ.get(name) == LICENSES[name]


@pytest.mark.parametrize(
    "text", ["GPL-3.0", "MIT AND GPL-3.0-only", "UNKNOWN", "LGPL-2.1", "AGPL-3.0; SSPL"]
)
def test_another_licence_is_noticed(text: str) -> None:
    assert not is_permissive(text)


def test_there_is_a_way_to_report_a_weakness() -> None:
    policy = (ROOT / "SECURITY.md").read_text("utf-8")
    for heading in (
        "## Report a vulnerability",
        "## What is supported",
        "## What the server trusts",
    ):
        assert heading in policy
