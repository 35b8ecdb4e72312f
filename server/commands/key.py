"""``star-server key``: a new API key, and its entry for the file of keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import yaml
from pydantic import Field
from pydantic_settings import CliPositionalArg

from server.api_keys import KeyName, KeyTerms, hash_of, new_key
from server.errors import UsageError


class MakeKey(KeyTerms):
    """Make an API key. Prints the key, which is kept nowhere, then its entry for the file `api_key_file`."""

    name: CliPositionalArg[KeyName] = Field(
        description="for logs and metrics: letters, digits, dots, hyphens, underscores"
    )

    def cli_cmd(self) -> None:
        """Print key and entry, with an empty line between them.

        Raises:
            UsageError: it would have expired already.
        """
        if self.expires is not None and self.expires <= datetime.now(UTC):
            raise UsageError(
                f"expires must lie in the future; got {self.expires:%Y-%m-%d %H:%M} UTC."
            )
        key = new_key()
        print(f"{key}\n\n{entry_of(self, key)}", end="")


def entry_of(terms: KeyTerms, key: str) -> str:
    """Return the entry of a key, as an item of the list ``keys`` in the file."""
    fields: dict[str, Any] = {"name": terms.name, "hash": hash_of(key)}
    for name, value in terms.model_dump(exclude_defaults=True).items():
        fields[name] = value.isoformat() if isinstance(value, datetime) else value
    text: str = yaml.safe_dump([fields], sort_keys=False)
    return "".join(f"  {line}\n" for line in text.splitlines())
