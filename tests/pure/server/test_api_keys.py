"""Keys from settings and files, and the entries that ``star-server key`` prints."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from server.api_keys import ApiKey, hash_of, new_key, read_keys
from server.commands.cli import main
from server.messages import BATCH
from server.settings import Settings
from server.settings_file import SettingsFileError

KEY, OTHER = "sk-test-0123456789-a", "sk-test-0123456789-b"
HASH = hash_of(KEY)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def read(file: Path, text: str) -> dict[str, ApiKey]:
    file.write_text(text, encoding="utf-8")
    return dict(read_keys(Settings(api_key_file=file)).keys)


def entries(*fields: dict[str, Any]) -> str:
    return str(yaml.safe_dump({"keys": list(fields)}))


def test_keys_come_from_the_settings_and_from_a_file(file: Path) -> None:
    file.write_text(f"# the app's\n\n  {OTHER}  \n")
    ring = read_keys(Settings(api_keys=[SecretStr(KEY)], api_key_file=file))
    assert set(ring.keys) == {HASH, hash_of(OTHER)}
    found = ring.find(KEY)
    assert found is not None
    assert found.name == f"key-{HASH[7:15]}"
    assert ring.find(KEY + "x") is None
    assert not read_keys(Settings())


def test_a_file_in_yaml_gives_names_and_limits(file: Path) -> None:
    text = f"""\
# of the shop
keys:
  - name: web-shop
    hash: {HASH}
    priority: batch
    requests_per_minute: 0
    images_per_minute: 120
    images_in_flight: 8
    expires: 2027-01-01
"""
    end = datetime(2027, 1, 1, tzinfo=UTC)
    assert read(file, text) == {HASH: ApiKey("web-shop", BATCH, 0, 120, 8, end)}


def test_a_file_in_json_is_read_alike(file: Path) -> None:
    keys = [{"name": "a", "hash": [HASH, hash_of(OTHER)], "expires": "2027-01-01T12:00:00+02:00"}]
    ring = read(file, json.dumps({"keys": keys}, indent=1))
    assert set(ring) == {HASH, hash_of(OTHER)}
    assert {key.name for key in ring.values()} == {"a"}
    assert ring[HASH].expires == datetime(2027, 1, 1, 10, tzinfo=UTC)


def test_a_key_ends_at_its_time() -> None:
    key = ApiKey("a", expires=datetime(2027, 1, 1, tzinfo=UTC))
    assert not key.expired(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert key.expired(datetime(2027, 1, 1, tzinfo=UTC))
    assert not ApiKey("b").expired(datetime.max.replace(tzinfo=UTC))


GOOD = {"name": "a", "hash": HASH}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", "is empty"),
        ("short\n", "API key 1 must be 16 to 512 .* it has 5 characters"),
        (f"{KEY}\nwith a space in it 12345\n", "API key 2 must be"),
        ("keys: []\n", "keys must be a list of at least one key"),
        ("keys:\n", "keys must be a list of at least one key"),
        ("keys: {a: b\n", "not valid YAML at line"),
        (f"keys:\n- name: a\n  hash: {HASH}\nkey: 1\n", "Unknown field key; did you mean keys?"),
        (
            entries(GOOD, {"name": "b"}),
            "key 2: hash is required: sha256: and 64 hexadecimal digits",
        ),
        ("keys: [with a space in it]", "key 1 must have fields"),
        (entries(GOOD | {"hash": KEY}), "key 1: hash: must be sha256: and 64 hexadecimal"),
        (entries(GOOD | {"hash": HASH.upper()}), "key 1: hash: must be"),
        (entries(GOOD | {"hash": []}), "key 1: hash: must be"),
        (entries(GOOD | {"name": "a b"}), "key 1: name: must be 1 to 64 letters"),
        (entries(GOOD | {"name": "1"}), "key 1: name: must be .* begin with a letter"),
        (entries(GOOD | {"images_per_minute": -1}), "images_per_minute must be an integer from 0"),
        (entries(GOOD | {"image_per_minute": 1}), "did you mean images_per_minute?"),
        (entries(GOOD | {"priority": "high"}), 'priority must be one of "interactive", "batch"'),
        (entries(GOOD | {"expires": "soon"}), "expires: must be a date such as 2027-01-01"),
        (entries(GOOD | {"expires": "2027-01-01T12:00:00"}), "expires: must be a date"),
        (entries(GOOD, GOOD | {"hash": hash_of(OTHER)}), "key 2: the name a is taken"),
        (entries(GOOD, GOOD | {"name": "b"}), r"key 2 \(b\) has a hash that a has too"),
    ],
)
def test_a_file_of_keys_that_is_no_good_is_refused(file: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsFileError, match=message) as refused:
        read(file, text)
    assert str(file) in str(refused.value) or "API key" in str(refused.value)
    assert "space in it" not in str(refused.value)
    assert KEY not in str(refused.value)


def test_a_file_of_keys_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsFileError, match=r"keys.* cannot be read"):
        read_keys(Settings(api_key_file=tmp_path / "keys"))


def test_keys_are_long_random_and_valid() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(len(key) >= 48 and key.startswith("star-") for key in made)
    assert len(read_keys(Settings(api_keys=[SecretStr(key) for key in made]))) == 100


def test_the_command_prints_a_key_and_its_entry(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    limits = ("--images-in-flight", "8", "--priority", "batch", "--expires", "2099-01-01")
    assert main(["key", "web-shop", *limits]) == 0
    key, empty, *entry = capsys.readouterr().out.splitlines()
    assert empty == ""
    ring = read(file, "\n".join(["keys:", *entry]))
    end = datetime(2099, 1, 1, tzinfo=UTC)
    expected = ApiKey("web-shop", BATCH, images_in_flight=8, expires=end)
    assert ring == {hash_of(key): expected}
    assert key not in "\n".join(entry)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["web shop"], "name: must be 1 to 64 letters"),
        (["a", "--expires", "soon"], "expires: must be a date"),
        (["a", "--expires", "2020-01-01"], "expires must lie in the future; got 2020-01-01"),
        (["a", "--images-per-minute", "-1"], "images_per_minute must be an integer from 0"),
    ],
)
def test_the_command_explains_mistakes(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["key", *arguments]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert not shown.out
