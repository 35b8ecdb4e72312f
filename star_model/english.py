"""Closed classes of English words that the reader of prompts goes by, in lower case."""

from __future__ import annotations

import unicodedata


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


ARTICLES = _words("a an the")
SIZES = _words("small little tiny big large huge")
COUNTS = _words("two three four five six seven eight nine ten several many few pair couple")
GROUPING = _words("couple pair group bunch flock herd pack lot lots crowd pile row")
"""Nouns before "of" that say how many of something there are."""

FILLERS = _words(
    "please draw paint make create generate show give me us i i'd want would like to see can could you",
    "my your his her our their this these those some any it its very really just scene plain solid",
)
"""Words that ask for nothing: "draw me a fox, please"."""

SCENERY = _words("sky landscape landscapes scenery nature skyline wallpaper")
"""Nouns for what is behind things."""

OTHER_HEADS = _words(
    "tree juice pie tart soup salad sauce jam bread house shop store costume hat collar tail farm plantation field",
    "orchard garden bush oil skin leash cage nest egg eggs food toy statue cookie cutter case stand factory",
)
"""Nouns that make another thing of one before them: "an apple tree"."""

PLACES = _words(
    "on in at inside into onto under underneath beneath below behind near by along across among amid",
    "around through over above outside against between before during upon within",
)
"""Prepositions that begin a place: "on the moon"."""

JOINING = _words(
    "and or & plus with of from for beside alongside while who which where that is are made as without"
)
"""Other words that begin a clause."""

PAIRING = _words("and beside alongside above below under over plus &")
"""Words that put a further thing beside the first, for a model that draws several."""

AROUND = _words("left right top bottom middle center centre corner row")
"""Words for where in a picture a thing is."""

NOT_DOING = _words(
    "building ceiling wedding clothing string spring evening morning pudding earring railing dumpling",
    "lightning stocking starling duckling herring darling sibling",
)
"""Words that end like "jumping" and say nothing that a thing does."""

MEDIA = _words(
    "photo photograph photography picture image portrait painting drawing illustration sketch render",
    "rendering model icon design view poster logo emoji sticker clipart shot closeup art artwork style",
    "watercolor watercolour doodle etching engraving woodcut mosaic mural comic anime manga pastel",
    "gouache lithograph collage",
)
"""Words for what a picture may be: "a photo of a fox" asks for no camera."""

PLAIN_MEDIA = _words(
    "picture image illustration icon style design drawing art artwork emoji clipart sticker"
)
"""Those that any picture is."""

OF_MEDIA = _words(
    "oil watercolor watercolour pencil ink charcoal digital pixel realistic vector line acrylic black",
    "white vintage professional studio close up macro hd 4k",
)
"""Words before those for a picture: "oil painting"."""

EMPTY = _words("on in at of with under above from by front among inside bottom top day and")
"""Words of phrases for places that do not tell one place from another."""

_SELECTORS = "\N{VARIATION SELECTOR-15}\N{VARIATION SELECTOR-16}\N{ZERO WIDTH JOINER}"
_DARKEST = "\N{EMOJI MODIFIER FITZPATRICK TYPE-6}"

_OTHER_LANGUAGES = _words(
    "un una uno el los las une der die das ein eine einen einer mit auf und il gli lo sur avec dans con",
    "sobre em uma een het op met og på et ett med du des les del della dos",
)


def is_foreign(text: str, words: list[str]) -> bool:
    """Tell whether ``text`` looks like another language than English: by its letters, or by articles and the like.

    Args:
        text: any.
        words: its words in lower case.
    """
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters)
    return 2 * foreign > len(letters) or not _OTHER_LANGUAGES.isdisjoint(words)


def spelled(text: str) -> tuple[str, dict[str, str]]:
    """``text`` with the names of pictographs in their place, as Unicode has them: "\N{RED APPLE}" is "red apple".

    Returns:
        the text, and each pictograph -> its name.
    """
    names: dict[str, str] = {}
    parts = []
    for letter in text:
        if letter in _SELECTORS or "\N{EMOJI MODIFIER FITZPATRICK TYPE-1-2}" <= letter <= _DARKEST:
            continue
        if unicodedata.category(letter) == "So" and (name := unicodedata.name(letter, "")):
            names[letter] = name.lower()
            letter = f" {name.lower()} "
        parts.append(letter)
    return ("".join(parts), names) if names else (text, names)
