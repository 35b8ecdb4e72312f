"""Files of requests: read in any pieces, with every mistake at its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.batches.lines import LineReader, body_of
from tests.server.batch_files import URL, jsonl, line

ALL = 10**9


def read(data: bytes, size: int = ALL, most: int = 100, longest: int = 10_000) -> LineReader:
    """A reader of these bytes, given in pieces of a size."""
    reader = LineReader(URL, most, longest)
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
    reader.end()
    return reader


texts = st.text(st.characters(exclude_categories=()), min_size=1, max_size=20)
requests = st.lists(texts, min_size=1, max_size=8, unique=True)


@given(ids=requests, end=st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]), size=st.integers(1, 200))
def test_each_request_is_found_where_it_is(ids: list[str], end: str, size: int) -> None:
    bodies = {name: {"prompt": name, "n": number} for number, name in enumerate(ids)}
    lines = [{**line(name), "body": body} for name, body in bodies.items()]
    data = end.join(map(json.dumps, lines)).encode()
    reader = read(data, size)
    assert reader.problems == []
    assert [found.custom_id for found in reader.lines] == ids
    for found in reader.lines:
        part = data[found.start : found.start + found.length]
        assert json.loads(body_of(part)) == bodies[found.custom_id]


@given(data=st.binary(max_size=400), size=st.integers(1, 100))
def test_whatever_is_sent_has_requests_or_problems(data: bytes, size: int) -> None:
    reader, whole = read(data, size), read(data)
    assert (reader.lines, reader.problems) == (whole.lines, whole.problems)
    assert reader.lines or reader.problems


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert read(b"\xef\xbb\xbf" + jsonl(line("1"))).problems == []


def test_a_line_without_an_end_is_not_kept() -> None:
    reader = LineReader(URL, 100, 1000)
    reader.feed(jsonl(line("1")))
    for _ in range(50):
        if not reader.stopped:
            reader.feed(b"x" * 400)
    reader.end()
    assert [(p.code, p.line) for p in reader.problems] == [("line_too_long", 2)]


def test_the_first_mistakes_are_told() -> None:
    reader = read(b"{\n" * 1000)
    assert len(reader.problems) == 50
    assert [problem.line for problem in reader.problems] == list(range(1, 51))
    assert all(problem.message.endswith(".") for problem in reader.problems)


@pytest.mark.parametrize(("count", "good"), [(100, True), (101, False)])
def test_the_number_of_requests_is_bounded(count: int, good: bool) -> None:
    reader = read(jsonl(*(line(str(i)) for i in range(count))))
    assert [p.code for p in reader.problems] == ([] if good else ["too_many_requests"])
