"""Log formats."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re

import pytest
import structlog

from server.log_stream import UnblockedHandler
from server.logs import configure_logging


def test_json_is_one_object_a_line_for_everybody(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    structlog.get_logger("star.test").info("event", prompt="a\n🐸", n=1)
    logging.getLogger("some.library").warning("careful: %d", 3)
    try:
        raise ValueError("broken")
    except ValueError as error:
        structlog.get_logger("star.test").error("failed", exc_info=error)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["level"], line["event"]) for line in lines] == [
        ("star.test", "info", "event"),
        ("some.library", "warning", "careful: 3"),
        ("star.test", "error", "failed"),
    ]
    assert lines[0]["prompt"] == "a\n🐸"
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert lines[2]["exception"][0]["exc_value"] == "broken"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_tells_no_values(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configure_logging("info", log_format)
    prompt = "a secret " + "frog"
    try:
        raise RuntimeError(len(prompt))
    except RuntimeError as error:
        structlog.get_logger("star.test").error("failed", exc_info=error)
    output = capsys.readouterr().err
    assert "RuntimeError" in output
    assert "secret frog" not in output


def test_what_is_below_the_level_or_chatty_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "console")
    structlog.get_logger("star.test").debug("hidden")
    logging.getLogger("uvicorn.error").info("hidden too")
    structlog.get_logger("star.test").info("shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert "shown" in line


HOSTILE = "\x1b]0;x\x07\x1b[2J \x7f\x9b31m \u202egpj.exe \u2066\u2028\r\nfaked line \ufeff"
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_control_characters_and_direction_marks_are_escaped(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    configure_logging("info", log_format)
    log = structlog.get_logger("star.test")
    log.info("request", path=HOSTILE, names=[HOSTILE], text="苹果 🐸")
    logging.getLogger("some.library").warning(HOSTILE)
    output = capsys.readouterr().err
    assert not RAW.search(output)
    assert len(output.splitlines()) == 2
    assert "苹果 🐸" in output
    assert r"\u202egpj.exe" in output
    if log_format == "json":
        assert json.loads(output.splitlines()[0])["path"] == HOSTILE


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_text_of_an_exception_is_escaped(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    configure_logging("info", log_format)
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        structlog.get_logger("star.test").error("failed", exc_info=error)
        logging.getLogger("some.library").error("failed", exc_info=error)
    output = capsys.readouterr().err
    assert "ValueError" in output
    assert not RAW.search(output)


def test_a_log_that_nobody_reads_holds_up_nobody() -> None:
    """A pipe takes what it can hold; the rest is dropped, and said once it is read again."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    with os.fdopen(write, "w") as stream, os.fdopen(read, "rb") as reader:
        handler = UnblockedHandler(stream)
        log = logging.Logger("test")
        log.addHandler(handler)
        for number in range(500):
            log.info("%d %s", number, "x" * 5000)
        first = reader.read()
        assert first.startswith(b"0 xxx")
        assert len(first) < 200_000, "of two and a half million"
        log.info("after")
        *_, said, last = reader.read().decode().splitlines()
        assert re.fullmatch(r"4\d\d log lines were dropped: .*", said)
        assert last == "after"


def test_a_log_whose_reader_is_gone_raises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    handler = UnblockedHandler(stream)
    handler.handle(logging.LogRecord("test", logging.INFO, __file__, 1, "lost", None, None))
    with contextlib.suppress(BrokenPipeError):
        stream.close()
    assert "BrokenPipeError" in capsys.readouterr().err, "logging's own complaint, and no more"
