"""What a vocabulary has no name for, and which of its things is drawn then: the one with the nearest name.

People ask for more than 120 things. A model that has met only the names of those finds nothing for "a kangaroo", and
paints a mixture. So some captions of training name something else, or say more than a name ("a portrait of a woman in
the rain"), and their scene shows the thing whose name is nearest to that for the text encoder. What a word is nearest
to is a fact about the frozen encoder, so the transformer can learn it from some thousand words for all others; a tenth
of them are held out to see whether it did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from star_model.imagenet import imagenet_classes
from star_model.networks.text_encoder import TextConditioning
from star_model.vocabulary import NearestName
from training.concepts import Concept, held_out_keywords, stable_hash, with_article, without_article

Encode = Callable[[Sequence[str]], Sequence[TextConditioning]]
"""A frozen text encoder."""

HELD_OUT_WORDS = 0.1
"""Share of the words that no caption of training uses."""

MOST_POSITIONS = 12
"""Positions of the text encoder that a phrase may take, so that a caption around it stays within its window."""

_LONGEST_WORD = 3  # in words
_ARTICLES = frozenset(("a", "an", "the"))

# How often a phrase begins with a medium, ends with a circumstance, is about two words, is about a known thing.
_MEDIUM, _CIRCUMSTANCE, _TWO, _KNOWN = 0.25, 0.35, 0.15, 0.15

_MEDIA = (
    "a photo of", "a photograph of", "a portrait of", "a painting of", "a drawing of", "a sketch of", "a close-up of",
    "an oil painting of", "a watercolor of", "a picture of", "a poster of", "a statue of", "a view of", "a scene with",
)  # fmt: skip
_CIRCUMSTANCES = (
    "in the rain", "in the snow", "at night", "at sunset", "at dawn", "in the morning", "in the sun", "in the fog",
    "on a beach", "by the sea", "under water", "in a forest", "in a garden", "in the desert", "on a mountain",
    "in a city", "on the street", "on the moon", "in space", "in the sky", "on a table", "in a kitchen", "in a room",
    "on a chair", "in a box", "by a window", "in a field", "on ice", "at a party", "in winter", "in summer",
    "in autumn", "in spring", "on fire", "with a hat", "with a smile", "in love", "playing music", "eating lunch",
    "sleeping", "dancing", "running fast", "reading a book", "in the future", "long ago",
)  # fmt: skip
_BETWEEN = (
    "and",
    "with",
    "next to",
    "on",
    "under",
    "holding",
    "eating",
    "riding",
    "made of",
    "in front of",
)


@dataclass(frozen=True)
class Phrase:
    """Something that a person may ask for.

    Args:
        text: the whole phrase.
        subject: the phrase without the medium ("a photo of" is no camera): what its thing is chosen by.
        label: the thing of the vocabulary that it names, if it names one.
    """

    text: str
    subject: str
    label: str | None = None


def load_words(
    data: Path, concepts: Iterable[Concept], *, held_out: bool = False
) -> tuple[str, ...]:
    """Nouns and other words that name nothing in the vocabulary, in alphabetic order.

    They are emojibase's labels and keywords (people, faces and feelings too) and the classes of ImageNet. Left out is
    what the vocabulary itself is called, and what has a word of a name that `held_out_keywords` keeps from training.

    Args:
        data: what `training.prepare` wrote.
        concepts: the vocabulary.
        held_out: the words that training never uses, instead of those that it does.

    Raises:
        FileNotFoundError: the data has no words yet.
    """
    path = data / "words.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run `python -m training.prepare --out {data}` again")
    concepts = tuple(concepts)
    kept_away = {
        part for name in held_out_keywords(concepts).values() for part in name.split()
    } - _ARTICLES
    own = {
        without_article(name).lower() for c in concepts for name in (c.label, c.phrase, *c.synonyms)
    }
    classes = {name.lower() for c in imagenet_classes() for name in c.names[:1]}

    def usable(word: str) -> bool:
        parts = word.replace("-", " ").split()
        return (
            len(word) > 2
            and len(parts) <= _LONGEST_WORD
            and all(part.replace("'", "").isalpha() and part.isascii() for part in parts)
            and word not in own
            and not any(part.startswith(away) for part in parts for away in kept_away)
        )

    words = filter(usable, {*json.loads(path.read_text(encoding="utf-8")), *classes})
    return tuple(
        sorted(w for w in words if (stable_hash("other word", w) < HELD_OUT_WORDS) == held_out)
    )


def make_phrase(rng: Random, words: Sequence[str], concepts: Sequence[Concept] = ()) -> Phrase:
    """A phrase about some of the ``words``, or now and then about one of the ``concepts`` in unusual circumstances."""
    if concepts and rng.random() < _KNOWN:
        concept = rng.choice(concepts)
        return _said(rng, concept.phrase, concept.label, circumstance=1.0)
    about = with_article(rng.choice(words))
    if rng.random() < _TWO:
        about = f"{about} {rng.choice(_BETWEEN)} {with_article(rng.choice(words))}"
    return _said(rng, about, None, circumstance=_CIRCUMSTANCE)


def _said(rng: Random, about: str, label: str | None, *, circumstance: float) -> Phrase:
    subject = f"{about} {rng.choice(_CIRCUMSTANCES)}" if rng.random() < circumstance else about
    medium = rng.random() < _MEDIUM
    return Phrase(f"{rng.choice(_MEDIA)} {subject}" if medium else subject, subject, label)


def nearest_name(encode: Encode, concepts: Sequence[Concept]) -> NearestName:
    """Tells the label of the concept that a text is nearest to; names that are kept from training do not count."""
    away = held_out_keywords(concepts)
    names = {
        c.label: [n for n in (c.phrase, *c.synonyms) if n != away.get(c.label)] for c in concepts
    }
    return NearestName(
        names, lambda texts: torch.stack([text.pooled.float().cpu() for text in encode(texts)])
    )


def label_phrases(
    encode: Encode,
    concepts: Sequence[Concept],
    words: Sequence[str],
    *,
    count: int,
    seed: int,
) -> dict[str, list[str]]:
    """Label of a thing -> phrases that it is drawn for, from ``count`` phrases without those that are too long.

    A thing that is nearest to none of them is left out.
    """
    rng, nearest = Random(f"other words {seed}"), nearest_name(encode, concepts)
    found: dict[str, list[str]] = {}
    for first in range(0, count, 100):
        phrases = [make_phrase(rng, words, concepts) for _ in range(min(100, count - first))]
        labels = [nearest.of(phrase.subject) for phrase in phrases]
        for phrase, text, label in zip(
            phrases, encode([p.text for p in phrases]), labels, strict=True
        ):
            if text.num_tokens <= MOST_POSITIONS:
                found.setdefault(phrase.label or label, []).append(phrase.text)
    return found
