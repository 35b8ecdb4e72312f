"""Settings: three sources, one order, and names that are checked."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from server.setting_groups import GROUPS, example_file
from server.settings import Settings
from server.settings_file import SettingsFileError
from server.validation import complaints
from tests.live_server import ROOT


def test_flags_go_before_the_environment_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "star.yaml"
    file.write_text("port: 1\nhost: from-file\nslots: 3\nlog_prompts: true\n")
    monkeypatch.setenv("STAR_PORT", "2")
    monkeypatch.setenv("STAR_HOST", "from-environment")
    monkeypatch.setenv("STAR_CONFIG", str(file))
    settings = Settings(port=3)
    assert (settings.port, settings.host, settings.slots, settings.log_prompts) == (
        3,
        "from-environment",
        3,
        True,
    )


def test_a_file_named_by_a_flag_goes_before_one_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"model: {name}")
    monkeypatch.setenv("STAR_CONFIG", str(tmp_path / "one"))
    assert Settings(config=tmp_path / "two").model == ["two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot: 5", r"Unknown setting prot; did you mean port\?"),
        ("keepalive_s: 5", r"The setting keepalive_s is called stream_comment_s now\."),
        ("nonsense: 5", "Unknown setting nonsense; known are model, "),
        ("config: other.yaml", "Unknown setting config"),
        ("- a\n- b", "keys and values"),
        ("port: 1\na: [", "not valid YAML at line 2, column 5: expected the node content"),
        ("a: b: c", "not valid YAML at line 1, column 5: mapping values are not allowed here"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "star.yaml"
    file.write_text(text)
    with pytest.raises(SettingsFileError, match=message):
        Settings(config=file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsFileError, match=r"nothing.yaml cannot be read"):
        Settings(config=tmp_path / "nothing.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SettingsFileError, match="not UTF-8"):
        Settings(config=tmp_path / "binary")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "star.yaml"
    file.write_text("# nothing\n")
    assert Settings(config=file).model_copy(update={"config": None}) == Settings()


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_QUEUE_CAPACTY", "5")
    with pytest.raises(
        SettingsFileError, match=r"STAR_QUEUE_CAPACTY; did you mean STAR_QUEUE_CAPACITY\?"
    ):
        Settings()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("port", 70_000, "port must be an integer from 0 to 65535; got 70000."),
        ("port", "http", 'port must be an integer from 0 to 65535; got "http".'),
        ("mode", "quick", 'mode must be one of "auto", "deterministic", "fast"; got "quick".'),
        ("slots", 0, "slots must be an integer from 1 to 1024; got 0."),
        ("max_step", float("nan"), "max_step must be a finite number from 0 to 1000; got NaN."),
        (
            "drain_timeout_s",
            -1,
            "drain_timeout_s must be a finite number above 0 and up to 86400; got -1.",
        ),
        ("model", "", "model: must be the name or the directory of a model; got nothing."),
        ("api_keys", [12345678901234567890], "api_keys must be a list of strings."),
        ("api_keys", {"name": "a secret, not to be shown"}, "api_keys must be a list of strings."),
        (
            "cors_origins",
            ["app.example.org"],
            "cors_origins: must be an address such as https://images.example.org; got app.example.org.",
        ),
        (
            "cors_origins",
            ["https://a.example.org/"],
            "cors_origins: must name origins such as https://app.example.org, or *; got https://a.example.org/.",
        ),
        (
            "public_url",
            "ftp://example.org",
            "public_url: must be an address such as https://images.example.org; got ftp://example.org.",
        ),
    ],
)
def test_a_value_out_of_range_is_explained(name: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**{name: value})  # type: ignore[arg-type]
    assert [c.message for c in complaints(refused.value.errors(), Settings)] == [message]


@pytest.mark.parametrize("text", ["one,two", " one , two,", '["one", "two"]'])
def test_a_list_is_written_with_commas(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def values(settings: Settings) -> list[str]:
        return [key.get_secret_value() for key in settings.api_keys]

    monkeypatch.setenv("STAR_API_KEYS", text)
    assert values(Settings()) == ["one", "two"]
    monkeypatch.delenv("STAR_API_KEYS")
    (tmp_path / "star.yaml").write_text("api_keys: [one, two]")
    assert values(Settings(config=tmp_path / "star.yaml")) == ["one", "two"]


def test_an_address_ends_without_a_slash() -> None:
    assert (
        Settings(public_url="https://images.example.org/star/").public_url
        == "https://images.example.org/star"
    )


def test_timeouts_must_agree() -> None:
    with pytest.raises(ValidationError, match=r"must not exceed max_timeout_s"):
        Settings(default_timeout_s=100, max_timeout_s=10)


def test_a_batch_is_as_large_as_the_slots_unless_it_is_set() -> None:
    assert Settings(slots=5).largest_batch == 5
    assert Settings(slots=5, max_batch=2).largest_batch == 2
    assert Settings(slots=5, max_batch=9).largest_batch == 5


def test_the_workers_part_is_frozen_and_holds_no_secrets() -> None:
    given = Settings(api_keys=["a-secret-key"], slots=5, dtype="float16", text_cache=9)  # type: ignore[list-item]
    part = pickle.loads(pickle.dumps(given.for_worker()))
    assert (part.slots, part.dtype, part.text_cache) == (5, "float16", 9)
    assert not hasattr(part, "api_keys")
    assert b"a-secret-key" not in pickle.dumps(part)
    with pytest.raises(ValidationError, match="frozen"):
        part.slots = 6
    with pytest.raises(ValidationError, match="frozen"):
        given.slots = 6


def test_a_worker_starts_whatever_variables_its_parent_did_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its settings are those it was sent: the environment is not read again."""
    part = Settings(slots=5).for_worker()
    monkeypatch.setenv("STAR_SLOTS", "7")
    monkeypatch.setenv("STAR_PROT", "1")
    assert pickle.loads(pickle.dumps(part)).slots == 5


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


# ---- groups, and the example file --------------------------------------------------------------------------
def test_every_setting_is_in_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(Settings.model_fields) - {"config"}


def test_the_example_in_the_repository_is_up_to_date() -> None:
    """`star-server settings > deploy/star.example.yaml` writes it anew."""
    assert (ROOT / "deploy" / "star.example.yaml").read_text("utf-8") == example_file()


def test_the_example_changes_nothing_as_it_is_nor_with_all_its_lines_in_force(
    tmp_path: Path,
) -> None:
    file = tmp_path / "star.yaml"
    file.write_text(example_file(), "utf-8")
    assert Settings(config=file) == Settings().model_copy(update={"config": file})
    lines = [re.sub(r"^#(?=[a-z_0-9]+: )", "", line) for line in example_file().splitlines()]
    file.write_text("\n".join(lines), "utf-8")
    assert set(yaml.safe_load(file.read_text("utf-8"))) == set(Settings.model_fields) - {"config"}
    assert Settings(config=file) == Settings().model_copy(update={"config": file})
