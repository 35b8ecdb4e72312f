"""All pages: their links lead somewhere, and the files, settings and flags in them exist."""

from __future__ import annotations

import re

import pytest

from server.settings import Settings
from tests.live_server import ROOT
from tests.markdown_blocks import check_diagram, read_blocks

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "deploy/*.md", "benchmarks/*.md", "weights/*/*.md")
    for path in ROOT.glob(pattern)
)
HISTORY = {"CHANGELOG.md", "benchmarks/LOG.md", "docs/training-log.md"}
"""Pages that may name what is gone; their links must lead somewhere all the same."""
PARTS = "benchmarks|deploy|docs|server|star_model|tests|training"
FLAGS = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
OF_COMPOSE = {"STAR_BIND", "STAR_PUBLISH", "STAR_TAG"}
"""Variables of deploy/compose/compose.yaml, not of the server."""


def anchors(markdown: str) -> set[str]:
    """The headings, as links name them."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def wrong(name: str, text: str) -> list[str]:
    """What a page names and the repository does not have."""
    page = ROOT / name
    found = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        there = (
            anchors(text if target == page else target.read_text("utf-8"))
            if anchor and target.exists()
            else {""}
        )
        if not target.exists() or anchor not in there:
            found.append(link)
    found += [
        path
        for path in re.findall(rf"`((?:{PARTS})/[\w./-]+)`", text)
        if name not in HISTORY and not (ROOT / path).exists()
    ]
    variables = set(re.findall(r"\bSTAR_[A-Z_]+\b", text)) - OF_COMPOSE
    found += sorted(variables - {f"STAR_{name.upper()}" for name in Settings.model_fields})
    for command in re.findall(r"star-server serve([^`\n]*)", text):
        found += [
            flag for flag in re.findall(r"--[a-z-]+", command) if flag not in FLAGS | {"--help"}
        ]
    return found


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_exists(name: str) -> None:
    written = {"deploy/compose/star.env"}  # by the reader
    assert set(wrong(name, (ROOT / name).read_text("utf-8"))) <= written


def test_diagrams_are_complete() -> None:
    blocks = [b for name in PAGES for b in read_blocks((ROOT / name).read_text("utf-8"))]
    diagrams = [block.text for block in blocks if block.language == "mermaid"]
    assert len(diagrams) >= 5
    for diagram in diagrams:
        check_diagram(diagram)


def test_what_does_not_exist_is_found() -> None:
    text = "[a](gone.md) [b](#nowhere) `docs/gone.md` STAR_SLOT `star-server serve --slot 3`\n# Here\n[c](#here)"
    assert wrong("docs/operations.md", text) == [
        "gone.md",
        "#nowhere",
        "docs/gone.md",
        "STAR_SLOT",
        "--slot",
    ]
