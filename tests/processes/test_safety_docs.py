"""The safety hook of docs/operations.md, as an operator sets it up: its files, its flag, a real server and client."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI

from tests.live_server import ROOT, running_server
from tests.star_model.tiny import write_tiny_model

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")


def test_the_example_of_the_page_refuses_what_its_list_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = PAGE.partition("\n## Check prompts and images")[2].partition("\n## ")[0]
    files = dict(re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", section, re.S | re.M))
    assert set(files) == {"checks.py", "blocklist.txt"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    model = write_tiny_model(tmp_path / "model")
    flags = ("--model", str(model), "--threads", "1", "--log-format", "json")
    with (
        running_server(*flags, "--safety-hook", "checks:check", log=tmp_path / "log") as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert client.images.generate(prompt="a fox").data
        with pytest.raises(BadRequestError) as refused:
            client.images.generate(prompt="A Severed Head")
        lines = [json.loads(line) for line in server.written.splitlines()]
    assert (refused.value.code, refused.value.type) == (
        "moderation_blocked",
        "image_generation_user_error",
    )
    checks = [line for line in lines if line["event"] == "safety check"]
    assert [(line["stage"], line["verdict"]) for line in checks] == [
        ("input", "passed"),
        ("output", "passed"),
        ("input", "refused"),
    ]
    assert "severed" not in server.written.lower()
