"""Every fault of the matrix in every phase of a real server's work; ``docs/reliability.md`` is written from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.matrix import FAULTS, OUTCOMES, PHASES, Expected, FaultName
from tests.faults.page import Servers, describe
from tests.server.processes import needs_proc

pytestmark = needs_proc

GENEROUS_S = 600.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("faults")) as servers:
        yield servers


@pytest.mark.parametrize("fault", FAULTS)
def test_each_caller_sees_what_the_page_says(servers: Servers, fault: FaultName) -> None:
    for phase in PHASES:
        expected = OUTCOMES[fault][phase]
        if isinstance(expected, Expected):
            seen = servers.run(fault, phase)
            assert describe(seen.outcomes) == describe(expected.outcomes), phase
            assert 0 <= seen.seconds < GENEROUS_S
