"""API keys: who may call the server, and within which limits.

Keys come from the setting ``api_keys`` and from the file ``api_key_file``. That file has one key a line, or it is YAML
or JSON that gives each key a name, limits and an end, and knows only the hash of it:

    keys:
      - name: web-shop
        hash: sha256:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
        requests_per_minute: 60
        images_in_flight: 8
        expires: 2027-01-01

The hash is plain SHA-256: keys are long and random (:func:`new_key`), so there is nothing to guess that a slow hash
would protect, and each request has to compute it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from server.messages import BATCH, INTERACTIVE
from server.settings import Settings
from server.settings_file import SettingsFileError
from server.validation import complaints, unknown

_FORM = re.compile(r"[\x21-\x7e]{16,512}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_STRUCTURED = re.compile(r"keys:(\s|$)|\{")
"""How the first line of YAML or JSON begins; a line that is a key does not."""

_LARGEST_FILE = 8 << 20
_MOST_HASHES = 8
_CLASSES = {"interactive": INTERACTIVE, "batch": BATCH}


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, by what it stands for.

    Args:
        name: in logs and metrics; also the tenant that its requests belong to.
        priority: class of its requests.
        requests_per_minute, images_per_minute: None is the server's own limit, 0 is none.
        images_in_flight: images that may be waiting or painted at a time; None is no limit.
        expires: from then on it is refused; None never.
    """

    name: str
    priority: int = INTERACTIVE
    requests_per_minute: int | None = None
    images_per_minute: int | None = None
    images_in_flight: int | None = None
    expires: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Tell whether it is refused at this time."""
        return self.expires is not None and now >= self.expires


@dataclass(frozen=True)
class KeyRing:
    """All keys of a server, found by their hash."""

    keys: Mapping[str, ApiKey] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, given: str) -> ApiKey | None:
        """Return the key that a request came with; None if it is not one of these."""
        return self.keys.get(hash_of(given))


def hash_of(key: str) -> str:
    """Return the hash of a key, as the file has it."""
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


def new_key() -> str:
    """Make a key: 256 random bits, with a beginning by which scanners for secrets find it."""
    return f"star-{secrets.token_urlsafe(32)}"


def read_keys(settings: Settings) -> KeyRing:
    """Read the keys of the settings and of the file that they name.

    Raises:
        SettingsFileError: the file cannot be read or holds no key, or a key in it is not valid.
    """
    ring: dict[str, ApiKey] = {}
    plain = [secret.get_secret_value() for secret in settings.api_keys]
    if settings.api_key_file is not None:
        text = read_key_file("API keys", settings.api_key_file)
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            raise SettingsFileError(
                f"The file of API keys {settings.api_key_file} is empty; write one key a line."
            )
        if _STRUCTURED.match(lines[0]):
            ring |= _parse(settings.api_key_file, text)
        else:
            plain += lines
    for number, key in enumerate(plain, 1):
        check_key(f"API key {number}", key)
        ring.setdefault(hash_of(key), ApiKey(_name_of(key)))
    return KeyRing(ring)


def _name_of(key: str) -> str:
    """Return a name for a key that has none. It stays the same wherever the key stands."""
    return f"key-{hash_of(key).partition(':')[2][:8]}"


def check_key(what: str, key: str) -> None:
    """Refuse a key that is short, long, or has characters that a header cannot have.

    Raises:
        SettingsFileError: the text begins with ``what``, and does not have the key.
    """
    if not _FORM.fullmatch(key):
        raise SettingsFileError(
            f"{what} must be 16 to 512 printable ASCII characters without spaces; it has {len(key)} characters. "
            "`star-server key NAME` makes one."
        )


def read_key_file(what: str, path: Path) -> str:
    """Return the text of a file with keys, which the setting of ``what`` names.

    Raises:
        SettingsFileError: it cannot be read, is no text, or is larger than 8 MiB.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsFileError(f"The file of {what} {path} cannot be read: {reason}.") from error
    if len(content) > _LARGEST_FILE:
        raise SettingsFileError(
            f"The file of {what} {path} is larger than {_LARGEST_FILE >> 20} MiB."
        )
    return text.removeprefix("\ufeff")


def _is_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 letters, digits, dots, hyphens or underscores, and begin with a letter."
        )
    return value


def _are_hashes(value: Any) -> Any:
    """Check one hash or a list of them. Messages do not repeat the value: it could be a key."""
    hashes = value if isinstance(value, list) else [value]
    if not 1 <= len(hashes) <= _MOST_HASHES or not all(
        isinstance(item, str) and _HASH.fullmatch(item) for item in hashes
    ):
        raise ValueError(
            f"must be sha256: and 64 hexadecimal digits, as `star-server key` prints it, or a list of up to "
            f"{_MOST_HASHES} of them."
        )
    return hashes


def _is_time(value: Any) -> Any:
    """Check the end of a key: a date is its beginning in UTC, a time must name its zone."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value) if len(value) > 10 else date.fromisoformat(value)
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime.combine(value, time(), UTC)
    except ValueError:
        pass
    raise ValueError("must be a date such as 2027-01-01, or a time such as 2027-01-01T12:00:00Z.")


KeyName = Annotated[str, AfterValidator(_is_name)]
_Limit = Annotated[int, Field(ge=0, le=1_000_000)]


class KeyTerms(BaseModel):
    """What the file says of a key, beside its hash."""

    model_config = ConfigDict(extra="forbid")

    name: KeyName = Field(description="for logs and metrics")
    priority: Literal["interactive", "batch"] = Field(
        "interactive", description="batch waits while there is interactive work"
    )
    requests_per_minute: _Limit | None = Field(
        None, description="the server's own limit when left out; 0 is none"
    )
    images_per_minute: _Limit | None = Field(
        None, description="the server's own limit when left out; 0 is none"
    )
    images_in_flight: _Limit | None = Field(
        None, description="images waiting or being painted at most; 0 or left out is no limit"
    )
    expires: Annotated[datetime, BeforeValidator(_is_time)] | None = Field(
        None, description="date (its beginning, UTC) or time from which on the key is refused"
    )


class _Entry(KeyTerms):
    """A key in the file."""

    hash: Annotated[list[str], BeforeValidator(_are_hashes)] = Field(
        description="sha256: and 64 hexadecimal digits, as `star-server key` prints it"
    )

    def key(self) -> ApiKey:
        return ApiKey(
            self.name,
            _CLASSES[self.priority],
            self.requests_per_minute,
            self.images_per_minute,
            self.images_in_flight or None,
            self.expires,
        )


def _parse(path: Path, text: str) -> dict[str, ApiKey]:
    """Return the keys of a YAML or JSON file by their hashes.

    Raises:
        SettingsFileError: it is not valid; the text names the entry, its field, and what it must be.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        raise SettingsFileError(
            f"The file of API keys {path} is not valid YAML{place}."
        ) from error  # without the line itself, which could hold a key
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise SettingsFileError(f"{path}: keys must be a list of at least one key.")
    if more := [str(name) for name in document if name != "keys"]:
        raise SettingsFileError(f"{path}: {unknown('field', more[0], ['keys'])}")
    return _keys_by_hash(path, entries)


def _keys_by_hash(path: Path, entries: list[object]) -> dict[str, ApiKey]:
    ring: dict[str, ApiKey] = {}
    names: set[str] = set()
    for number, entry in enumerate(entries, 1):
        parsed = _entry(f"{path}: key {number}", entry)
        if parsed.name in names:
            raise SettingsFileError(f"{path}: key {number}: the name {parsed.name} is taken.")
        names.add(parsed.name)
        key = parsed.key()
        for digest in parsed.hash:
            if ring.setdefault(digest, key) is not key:
                raise SettingsFileError(
                    f"{path}: key {number} ({key.name}) has a hash that {ring[digest].name} has too."
                )
    return ring


def _entry(place: str, entry: object) -> _Entry:
    if not isinstance(entry, dict):
        raise SettingsFileError(f"{place} must have fields such as name and hash.")
    fields: Iterable[tuple[object, object]] = entry.items()
    try:
        return _Entry.model_validate({str(name): value for name, value in fields})
    except ValidationError as error:
        (first, *_) = complaints(error.errors(), _Entry)
        raise SettingsFileError(f"{place}: {first.message}") from error
