"""What a scene may be called: a small grammar of captions, and the plain caption that says everything.

A caption leaves things out as people do, and says nothing untrue. Its parts are the subject (the objects and
how they are arranged), the style and the background; they come in several orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from training.backdrops import BACKDROPS
from training.concepts import Concept, with_article, without_article
from training.scene import Background, PlacedObject, Scene

#: Background colour -> the words for it, the plain one first.
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "white": ("white",),
    "black": ("black",),
    "gray": ("gray", "grey"),
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "turquoise": ("turquoise", "teal"),
    "light blue": ("light blue", "sky blue"),
    "blue": ("blue",),
    "navy": ("navy", "dark blue", "navy blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "brown": ("brown",),
    "beige": ("beige", "cream"),
}

#: Style -> phrases before the subject, phrases after it, and an adjective if one is natural.
_STYLES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "flat": (
        (
            "flat drawing of",
            "a flat drawing of",
            "a flat illustration of",
            "flat icon of",
            "flat design of",
        ),
        ("flat style", "in flat style", "flat design", "flat"),
        None,
    ),
    "3d": (
        ("3d render of", "a 3d render of", "a 3d rendering of", "3D model of", "a 3d image of"),
        ("3d style", "in 3d", "in 3d style", "3d render", "3D"),
        "3d",
    ),
    "cartoon": (
        ("cartoon of", "a cartoon of", "a cartoon drawing of", "a cartoon picture of"),
        ("cartoon style", "in cartoon style", "cartoon", "as a cartoon"),
        "cartoon",
    ),
}
_UNSTYLED = ("a picture of", "an image of", "an illustration of", "picture of")
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
_NUMERALS = ("half", "two", "three")

_PLAIN_SPREAD = 0.5  # weight of a colour's plain word when it has others

# How often a training caption leaves something out or is unusual.
_NO_STYLE, _NO_BACKGROUND, _NO_ARRANGEMENT, _NO_SIZE = 0.2, 0.15, 0.15, 0.25
_SYNONYM, _BARE, _KIND_ONLY, _AS_TAGS = 0.3, 0.08, 0.02, 0.06


def plain_caption(scene: Scene, *, name: str | None = None) -> str:
    """The canonical caption, which leaves nothing out: "a red apple, flat style, on a blue background".

    Args:
        scene: the scene to describe.
        name: a noun phrase for the first object in place of its usual one, as for held-out synonyms.
    """
    names = [placed.concept.phrase for placed in scene.objects]
    if name is not None:
        names[0] = name
    if len(names) == 1 and (word := scene.objects[0].size_word) is not None:
        names[0] = _with_adjective(names[0], word)
    suffix = _STYLES.get(scene.style, ((), (f"{scene.style} style",), None))[1][0]
    words = [_words_of(colour)[0] for colour in scene.background.colours]
    subject = _plain_subject(names, scene.arrangement)
    return f"{subject}, {suffix}, {_plain_background(scene.background, words)}"


def _plain_subject(names: list[str], arrangement: str | None) -> str:
    if arrangement == "left of":
        return f"{names[0]} to the left of {names[1]}"
    if arrangement == "above":
        return f"{names[0]} above {names[1]}"
    if arrangement == "row":
        return f"{names[0]}, {names[1]} and {names[2]} in a row"
    return names[0] if arrangement is None else f"{names[0]} in the {arrangement} corner"


def _plain_background(background: Background, words: list[str]) -> str:
    if background.kind == "backdrop":
        return BACKDROPS[background.colours[0]][0]
    if background.kind == "gradient":
        return f"on a gradient from {words[0]} to {words[1]}"
    return f"on {with_article(words[0])} background"


def caption_of(scene: Scene, rng: Random, *, avoid: Mapping[str, str]) -> str:
    """A caption in varied words.

    Args:
        scene: the scene to describe; its own caption is not read.
        rng: decides the words; the same state gives the same caption.
        avoid: label -> the synonym that must not be used.
    """
    style: str | None = None if rng.random() < _NO_STYLE else scene.style
    colours: list[str] | None = None
    if rng.random() >= _NO_BACKGROUND:
        colours = [_colour_word(rng, colour) for colour in scene.background.colours]
    if rng.random() < _AS_TAGS:
        text = _tags(scene, rng, style, colours)
    else:
        text = _sentence(scene, rng, style, colours, avoid)
    if rng.random() < 0.12:
        text = text[0].upper() + text[1:] + rng.choice(("", ".", "."))
    return text


def _sentence(
    scene: Scene,
    rng: Random,
    style: str | None,
    colours: list[str] | None,
    avoid: Mapping[str, str],
) -> str:
    default = ((f"a {style} drawing of",), (f"{style} style",), None)
    prefixes, suffixes, adjective = _STYLES.get(style or "", default)
    form = "none"
    if style is not None:
        form = rng.choices(("prefix", "suffix", "adjective"), (4, 5, 2 if adjective else 0))[0]
    subject = _subject(scene, rng, avoid, adjective if form == "adjective" else None)
    if form == "prefix":
        subject = f"{rng.choice(prefixes)} {subject}"
    elif form == "none" and rng.random() < 0.15:
        subject = f"{rng.choice(_UNSTYLED)} {subject}"
    suffix = _first_often(rng, suffixes) if form == "suffix" else None
    if colours is None:
        return subject if suffix is None else f"{subject}, {suffix}"
    if form in ("none", "suffix") and rng.random() < 0.15:
        scenery = _background_noun(scene.background, colours, rng)
        return (
            f"{scenery} with {subject}" if suffix is None else f"{scenery} with {subject}, {suffix}"
        )
    phrase = _background_phrase(scene.background, colours, rng)
    if suffix is None:
        return f"{subject}{rng.choice((' ', ' ', ', '))}{phrase}"
    if rng.random() < 0.6:
        return f"{subject}, {suffix}, {phrase}"
    return f"{subject} {phrase}, {suffix}"


def _tags(scene: Scene, rng: Random, style: str | None, colours: list[str] | None) -> str:
    """A list of key words, as some people write prompts: "fox, animal, flat, blue background"."""
    parts = [without_article(placed.concept.phrase) for placed in scene.objects]
    if len(scene.objects) == 1:
        concept = scene.objects[0].concept
        more = [*concept.keywords, *([concept.kind] if concept.kind else [])]
        parts += rng.sample(more, min(len(more), rng.randint(0, 2)))
    if style is not None:
        parts.append(style)
    if colours is not None:
        parts.append(f"{' to '.join(colours)} {'gradient' if len(colours) == 2 else 'background'}")
    return ", ".join(parts)


def _subject(scene: Scene, rng: Random, avoid: Mapping[str, str], adjective: str | None) -> str:
    """The objects and, unless it is left out, how they are arranged; `adjective` goes to the first."""
    alone = len(scene.objects) == 1
    names = [_name(placed, rng, avoid, alone=alone) for placed in scene.objects]
    if adjective is not None:
        names[0] = _with_adjective(names[0], adjective)
    said = rng.random() >= _NO_ARRANGEMENT
    if scene.arrangement in ("left of", "above"):
        first, second = names
        if not said:
            return f"{first} and {second}" if rng.random() < 0.5 else f"{second} and {first}"
        if scene.arrangement == "left of":
            forms = (
                f"{first} to the left of {second}",
                f"{first} left of {second}",
                f"{second} to the right of {first}",
                f"{first} next to {second}",
                f"{first} on the left and {second} on the right",
            )
        else:
            forms = (
                f"{first} above {second}",
                f"{second} below {first}",
                f"{second} under {first}",
                f"{first} over {second}",
                f"{first} at the top and {second} at the bottom",
            )
        return rng.choice(forms)
    if scene.arrangement == "row":
        listed = f"{names[0]}, {names[1]} and {names[2]}"
        return f"{listed} {rng.choice(('in a row', 'side by side'))}" if said else listed
    if scene.arrangement is not None and said:
        place = rng.choice(("in the {} corner", "in the {}", "at the {}")).format(scene.arrangement)
        return f"{names[0]} {place}"
    return names[0]


def _name(placed: PlacedObject, rng: Random, avoid: Mapping[str, str], *, alone: bool) -> str:
    """A noun phrase for an object: its usual one, a synonym, seldom a bare noun or only its kind."""
    concept = placed.concept
    synonyms = [name for name in concept.synonyms if name != avoid.get(concept.label)]
    chance = rng.random()
    name = concept.phrase
    if chance < _KIND_ONLY and alone and concept.kind is not None:
        name = with_article(concept.kind)
    elif chance < _KIND_ONLY + _SYNONYM and synonyms:
        name = rng.choice(synonyms)
    if alone and placed.size_word is not None and rng.random() >= _NO_SIZE:
        name = _with_adjective(_countable(name, concept), rng.choice(_SIZE_WORDS[placed.size_word]))
    return without_article(name) if rng.random() < _BARE else name


def _countable(name: str, concept: Concept) -> str:
    """`name`, or the usual phrase if an adjective cannot stand before it ("half an avocado")."""
    return concept.phrase if name.split()[0] in _NUMERALS else name


def _with_adjective(phrase: str, adjective: str) -> str:
    """Put an adjective into a noun phrase: ("an apple", "small") -> "a small apple"."""
    if (bare := without_article(phrase)) == phrase:
        return f"{adjective} {phrase}"
    return f"the {adjective} {bare}" if phrase.startswith("the ") else f"a {adjective} {bare}"


def _first_often(rng: Random, choices: tuple[str, ...]) -> str:
    return choices[0] if rng.random() < _PLAIN_SPREAD else rng.choice(choices)


def _colour_word(rng: Random, colour: str) -> str:
    return _first_often(rng, _words_of(colour))


def _words_of(background: str) -> tuple[str, ...]:
    """Words for a colour, or the name of a backdrop."""
    return COLOUR_WORDS.get(background, (background,))


def _background_phrase(background: Background, words: list[str], rng: Random) -> str:
    if background.kind == "backdrop":
        return _first_often(rng, BACKDROPS[background.colours[0]])
    if background.kind == "gradient":
        first, second = words
        forms = (
            f"on a gradient from {first} to {second}",
            f"on a gradient from {first} to {second}",
            f"on a background fading from {first} to {second}",
            f"on {with_article(first)} to {second} gradient",
            f"with {with_article(first)} to {second} gradient background",
            f"on {with_article(first)} and {second} gradient background",
        )
    else:
        article = with_article(words[0])
        forms = (
            f"on {article} background",
            f"on {article} background",
            f"on {words[0]}",
            f"against {article} background",
            f"with {article} background",
            f"in front of {article} background",
        )
    return rng.choice(forms)


def _background_noun(background: Background, words: list[str], rng: Random) -> str:
    if background.kind == "backdrop":
        return f"a scene {rng.choice(BACKDROPS[background.colours[0]])}"
    if background.kind == "gradient":
        first, second = words
        return rng.choice(
            (f"a gradient from {first} to {second}", f"{with_article(first)} to {second} gradient")
        )
    return rng.choice((f"{with_article(words[0])} background", f"{words[0]} background"))
