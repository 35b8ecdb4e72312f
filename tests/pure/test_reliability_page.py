"""``docs/reliability.md`` has every cell of the fault matrix, with the outcomes that the tests check."""

from __future__ import annotations

import re

import pytest

from tests.faults.matrix import FAULTS, OUTCOMES, PHASES, FaultName, NoMeaning, Phase
from tests.faults.page import BEGIN, END, PAGE, describe, rows_of, write_table


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_cell_says_what_is_seen_or_why_nothing_is(fault: FaultName, phase: Phase) -> None:
    seen, seconds = rows_of(PAGE.read_text("utf-8"))[fault, phase]
    match OUTCOMES[fault][phase]:
        case NoMeaning(because):
            assert because.endswith(".")
            assert seen == f"no meaning: {because}"
        case expected:
            assert expected.outcomes
            assert seen == describe(expected.outcomes)
            assert re.fullmatch(r"(ended )?after \d+\.\d s", seconds)


def test_the_page_has_no_other_cell() -> None:
    rows = rows_of(PAGE.read_text("utf-8"))
    assert set(rows) == {(fault, phase) for fault in FAULTS for phase in PHASES}


def test_a_table_is_read_as_it_is_written() -> None:
    table = write_table("hang", dict.fromkeys(PHASES, 1.25))
    rows = rows_of(f"before\n{BEGIN}{table}{END}after")
    assert list(rows) == [("hang", phase) for phase in PHASES]
    assert rows["hang", "painting"][1] == "after 1.2 s"
    assert rows_of(table) == {}, "outside of its place"
