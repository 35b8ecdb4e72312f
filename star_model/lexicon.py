"""Words of prompts and what they stand for in a vocabulary: names, backdrops, styles, colours, kinds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from star_model.english import ARTICLES, EMPTY, SIZES, is_foreign
from star_model.everyday import everyday_words
from star_model.vocabulary import Vocabulary

T = TypeVar("T")

Key = tuple[str, ...]
"""Words in lower case, without articles; parts of hyphened words are words of their own."""

_TOKEN = re.compile(r"\w+(?:['’]\w+)*")
_BREAK = re.compile(r"[,;:.!?()\n]|\s[-–—]\s")
_LEAST_TYPO = 4  # letters of a word that may be a misspelt one
_CLOSE = 0.8  # difflib's ratio of a misspelt word and what it was to be


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a prompt.

    Args:
        word: in lower case.
        start: of it in the prompt.
        end: of it in the prompt.
        breaks: whether punctuation stands before it.
        article: start of its article, or of itself.
    """

    word: str
    start: int
    end: int
    breaks: bool
    article: int


def tokens_of(text: str) -> list[Token]:
    """The words of ``text`` without articles; a word remembers where its article began."""
    tokens: list[Token] = []
    end, breaks, article = 0, False, None
    for found in _TOKEN.finditer(text):
        breaks = breaks or bool(_BREAK.search(text, end, found.start()))
        end = found.end()
        word = found.group().lower()
        if word in ARTICLES:
            article = found.start() if article is None or breaks else article
            continue
        start = found.start()
        tokens.append(Token(word, start, end, breaks, start if article is None else article))
        breaks, article = False, None
    return tokens


def key_of(text: str) -> Key:
    """The words of a phrase, to look it up by."""
    return tuple(token.word for token in tokens_of(text))


def singular(word: str) -> Iterator[str]:
    """What ``word`` may be the plural of, the likeliest last; nothing for a word that does not end like a plural."""
    for plural, one in (("men", "man"), ("ves", "f"), ("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(plural) and len(word) > len(plural) + 1:
            yield word.removesuffix(plural) + one


class Lexicon:
    """Looks up words and phrases of a vocabulary.

    Args:
        vocabulary: of the model.
        is_word: tells whether a word is one of the language at all: only what is not is taken for a typing error.

    Attributes:
        vocabulary: of the model.
        things: key of a name -> phrase for its thing.
        synonyms: those of the names that are not the vocabulary's, but everyday words.
        others: keys of names that are never read by meaning.
        own_colours: phrase for a thing -> colours that it is drawn in.
        backdrops: key of a phrase -> name of its backdrop.
        styles: key of a style -> its name.
        colours: key of a colour -> its name.
        kinds: key of a kind -> phrases of its things.
        sizes: words that captions use for the size of a thing.
        longest: number of words of the longest phrase.
    """

    def __init__(self, vocabulary: Vocabulary, is_word: Callable[[str], bool]) -> None:
        self.vocabulary = vocabulary
        names = ((name, thing) for thing, others in vocabulary.names.items() for name in others)
        self.things: dict[Key, str] = {key_of(name): thing for name, thing in names}
        self.things |= {key_of(thing): thing for thing in vocabulary.names}
        self.things.pop((), None)
        everyday = everyday_words()
        said = ((key_of(n), t) for t in vocabulary.names for n in everyday.names.get(t, ()))
        self.synonyms = {key: thing for key, thing in said if lookup(self.things, key) is None}
        self.things |= self.synonyms
        self.others = frozenset(map(key_of, everyday.others)) - self.things.keys()
        self.own_colours = {thing: everyday.colours.get(thing, ()) for thing in vocabulary.names}
        phrases = [(phrase, name) for name, said in vocabulary.backdrops.items() for phrase in said]
        self.backdrops = {key_of(phrase): name for phrase, name in phrases}
        self._landscapes = {
            word: name for name in vocabulary.backdrops for word in everyday.places.get(name, ())
        }
        self._places = [(_stems(key_of(f"{name} {phrase}")), name) for phrase, name in phrases]
        self.styles = {key_of(style): style for style in vocabulary.styles}
        self.colours = {key_of(colour): colour for colour in vocabulary.colours}
        self.kinds = {key_of(kind): things for kind, things in vocabulary.kinds.items()}
        self.captions = frozenset(part for word in vocabulary.words for part in key_of(word))
        self.sizes = SIZES & self.captions
        tables: tuple[Mapping[Key, object], ...] = (
            self.things, self.backdrops, self.styles, self.colours, self.kinds
        )  # fmt: skip
        self.naming = frozenset(word for table in tables for key in table for word in key)
        self.naming -= EMPTY
        self._longest = {id(table): max(map(len, table), default=0) for table in tables}
        self.longest = max(self._longest.values())
        self._is_word = is_word

    def match(self, table: Mapping[Key, str], words: Sequence[str]) -> tuple[int, str] | None:
        """Number of words and meaning of the longest phrase of ``table`` that ``words`` begin with."""
        for length in range(min(self._longest[id(table)], len(words)), 0, -1):
            if (meaning := lookup(table, tuple(words[:length]))) is not None:
                return length, meaning
        return None

    def backdrop_like(self, words: Sequence[str]) -> str | None:
        """The backdrop whose phrases share most words with ``words``, such as "beach"; None if none does."""
        asked = _stems(words)
        if (name := self.landscape(words)) is not None:
            return name
        best = max(self._places, key=lambda place: len(asked & place[0]), default=None)
        return best[1] if best is not None and asked & best[0] else None

    def is_another(self, name: str) -> bool:
        """Tell whether ``name``, or what its last words name, is never read by meaning: "a little cup"."""
        key = key_of(name)
        table = dict.fromkeys(self.others, True)
        return any(lookup(table, key[start:]) for start in range(len(key)))

    def landscape(self, words: Sequence[str]) -> str | None:
        """The backdrop that the last of ``words`` is a word for, such as "ocean"; None if there is none."""
        last = list(_stems(words[-1:]))
        return self._landscapes.get(words[-1]) or (self._landscapes.get(last[0]) if last else None)

    def corrected(self, text: str) -> tuple[str, dict[str, str]]:
        """``text`` with words that are none replaced by the words of the vocabulary that they look like.

        Returns:
            the text, and each word as it was typed -> as it was meant.
        """
        typed: dict[str, str] = {}
        if is_foreign(text, [token.word for token in tokens_of(text)]):
            return text, typed
        for token in reversed(tokens_of(text)):
            if meant := self._meant(token.word):
                typed[text[token.start : token.end]] = meant
                text = text[: token.start] + meant + text[token.end :]
        return text, dict(reversed(typed.items()))

    def _meant(self, word: str) -> str | None:
        if len(word) < _LEAST_TYPO or not word.isascii() or not word.isalpha():
            return None
        if word in self.naming or word in self.captions or self._is_word(word):
            return None
        if any(one in self.naming or self._is_word(one) for one in singular(word)):
            return None
        # What goes on after a known word is derived from it ("starry"), not misspelt.
        likely = [w for w in self.naming if w[0] == word[0] and not word.startswith(w)]
        return next(iter(difflib.get_close_matches(word, sorted(likely), 1, _CLOSE)), None)


def lookup(table: Mapping[Key, T], key: Key) -> T | None:
    """The meaning of a phrase, also if its last word is a plural."""
    if key in table:
        return table[key]
    ones = ((*key[:-1], one) for one in singular(key[-1]))
    return next((table[one] for one in ones if one in table), None)


def _stems(words: Iterable[str]) -> frozenset[str]:
    """The words that say something, plurals as singulars."""
    said = [word for word in words if word not in EMPTY]
    return frozenset(next(iter([*singular(word)][::-1]), word) for word in said)


def span(text: str, tokens: Iterable[Token]) -> str:
    """What ``text`` has from the first of ``tokens``, its article included, to the last of them."""
    chosen = list(tokens)
    return text[chosen[0].article : chosen[-1].end] if chosen else ""
