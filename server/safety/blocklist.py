"""An example of a safety hook: a list of words and phrases that prompts may not have.

It shows how a hook is written. A list does not understand a prompt: whoever wants to gets around it, with a synonym,
another language or a spelling that it does not have.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from server.safety.check import Check, Refusal

_WORD = re.compile(r"\w+")


class Blocklist:
    """Refuses prompts with certain words. Negative prompts and images pass.

    Words are compared whole, without regard to capitals, accents, punctuation and invisible characters.

    Args:
        phrases: words, or several words in a row.
        category: that a refusal names.
    """

    def __init__(self, phrases: Iterable[str], category: str = "blocklist") -> None:
        folded = {" ".join(words_of(phrase)) for phrase in phrases} - {""}
        self._phrases = [f" {phrase} " for phrase in sorted(folded)]
        self._refusal = Refusal((category,))

    @classmethod
    def read(cls, path: str | Path, category: str = "blocklist") -> Blocklist:
        """Read a UTF-8 file with a phrase on each line; lines that begin with # are comments.

        Raises:
            OSError: it cannot be read.
        """
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return cls((line for line in lines if not line.lstrip().startswith("#")), category)

    def __call__(self, check: Check) -> Refusal | None:
        """Answer a check."""
        if check.stage != "input":
            return None
        prompt = f" {' '.join(words_of(check.prompt))} "
        return self._refusal if any(phrase in prompt for phrase in self._phrases) else None


def words_of(text: str) -> list[str]:
    """Return the words of a text in a form in which spellings of one word are the same."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = (c for c in folded if unicodedata.category(c) not in ("Mn", "Cf"))
    return _WORD.findall("".join(kept).replace("_", " "))
