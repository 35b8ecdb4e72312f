"""Parts of the safety hook without a server: the blocklist, and how a hook is found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.safety.blocklist import Blocklist
from server.safety.check import Check, Refusal
from server.safety.http_hook import HttpHook
from server.safety.loading import load_hook
from server.settings import Settings
from server.settings_file import SettingsFileError


def asked(prompt: str, negative_prompt: str = "") -> Check:
    return Check("input", "request", "model", prompt, negative_prompt)


# ---- the blocklist -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "prompt",
    [
        "gore",
        "A lot of GORE, please",
        "a scene (gore)",
        "góre",
        "go\u200bre",
        "ｇｏｒｅ",
        "_gore_",
        "a severed   head",
        "a severed-head",
    ],
)
def test_a_blocked_phrase_is_found_however_it_is_written(prompt: str) -> None:
    check = Blocklist(["Gore", "severed head"], category="violence")
    assert check(asked(prompt)) == Refusal(("violence",))


@pytest.mark.parametrize("prompt", ["gorey", "a head", "head severed", "forego re", "", "..."])
def test_words_are_compared_whole(prompt: str) -> None:
    assert Blocklist(["gore", "severed head"])(asked(prompt)) is None


def test_a_negative_prompt_and_images_pass() -> None:
    check = Blocklist(["gore"])
    assert check(asked("a fox", "gore")) is None
    assert check(Check("output", "request", "model", "gore")) is None


def test_lines_of_a_file_are_phrases(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# violence\ngore\n\n  severed head\n...\n", "utf-8")
    check = Blocklist.read(file)
    assert check(asked("gore")) is not None
    assert check(asked("a severed head")) is not None
    assert check(asked("violence ...")) is None


# ---- from the setting to the hook --------------------------------------------------------------------------
def test_a_module_in_the_current_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hook_of_this_test.py").write_text(
        "from server.safety.blocklist import Blocklist\n"
        "class Checks:\n    words = Blocklist(['gore'])\nchecks = Checks()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    hook = load_hook(Settings(safety_hook="hook_of_this_test:checks.words"))
    assert hook(asked("gore")) == Refusal(("blocklist",))
    assert sys.path[-1] == str(tmp_path), "after all else, so that it hides no installed module"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:check", "the module no_such_module cannot be imported: ModuleNotFound"),
        ("server.safety.blocklist:check", "server.safety.blocklist has no check"),
        ("server.safety.blocklist:Blocklist.nothing", "has no Blocklist.nothing"),
        ("server.safety.blocklist:Blocklist", "Blocklist must be a function that takes a Check"),
        ("server.safety.blocklist:__doc__", "__doc__ must be a function that takes a Check"),
    ],
)
def test_a_hook_that_cannot_be_loaded_is_explained(name: str, message: str) -> None:
    with pytest.raises(SettingsFileError, match=message):
        load_hook(Settings(safety_hook=name))


def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_hook_of_this_test.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsFileError, match="imported: ZeroDivisionError: division by zero"):
        load_hook(Settings(safety_hook="broken_hook_of_this_test:check"))


def test_an_address_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(safety_hook="http://localhost:9000/check?tenant=one")
    assert isinstance(load_hook(settings), HttpHook)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(SettingsFileError, match=r"pip install 'star-server\[safety\]'"):
        load_hook(settings)


@pytest.mark.parametrize("value", ["check", "a:b:c", "a b:c", "ftp://host/check", "http://", ""])
def test_a_setting_that_names_no_hook_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="must be a function such as my_checks:check"):
        Settings(safety_hook=value)


def test_uploads_are_seen_with_the_input() -> None:
    with pytest.raises(ValidationError, match="safety_uploads needs input among safety_stages"):
        Settings(safety_uploads=True, safety_stages=["output"])
