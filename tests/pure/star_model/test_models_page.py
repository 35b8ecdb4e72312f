"""``docs/models.md`` says of the published models what their configurations say."""

from __future__ import annotations

import re
from pathlib import Path

from star_model.families.registry import PRESETS

ROOT = Path(__file__).parents[3]


def test_the_page_of_models_has_their_tokens() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "models.md").read_text("utf-8").splitlines()
        if line.startswith("| `") and "published" in line
    ]
    told = {
        name: row[-1].split(" of ")[0].replace(",", "")
        for row in rows
        for name in re.findall(r"`([\w-]+)`", row[0])
    }
    tuned = {name for name in PRESETS if name.endswith("-cca")}  # their row says "the same"
    counted = {
        name: str(PRESETS[name].schedule.num_tokens) for name in PRESETS if name not in tuned
    }
    assert {name: told.get(name) for name in counted} == counted
