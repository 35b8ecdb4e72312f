"""Reading prompts for a model that knows few things: by the thing that a prompt asks for, not by its words.

A model that was trained on the names of a few hundred things paints a mixture for any other. So the thing is looked
for in four steps: by its name; by what sort of thing it is ("a bird"); by a name that is misspelt; and by meaning,
which is the likeness of what is asked for to each name, a cosine of the text encoder's features. Below
:attr:`~star_model.vocabulary.Vocabulary.least_likeness` the thing is unknown: what is nearest is not what was meant.

A prompt that is wholly understood is encoded as it stands. Any other is encoded as the plain prompt for what is
drawn, and :attr:`~star_model.reading.Reading.notes` say what was left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from textwrap import shorten

from star_model.english import COUNTS, OTHER_HEADS, SCENERY, is_foreign, spelled
from star_model.lexicon import Lexicon, key_of, lookup
from star_model.nearest_name import NearestName, Pooled
from star_model.people import NO_THING, neutral_things, refusal_of, refusal_of_unknown
from star_model.prompt_parts import Clause, Parts
from star_model.reading import ENGLISH_ONLY, Reading
from star_model.vocabulary import Vocabulary, with_article, without_article

_SUGGESTIONS = 3
_LEAST_RELATED = 0.5  # cosine from which on the nearest thing is worth a suggestion
_LISTED = 8  # names in a sentence
_LONGEST = 80  # characters of what is unknown
_KEPT = 64  # readings
_MOST_CHARACTERS = 2000  # of a prompt; reading takes time, and one thing needs no more words

_CHANGING = re.compile(
    r"^\s*(?:please )?(?:(?P<background>(?:change|make|turn|set|replace) (?:the|its) background"
    r"(?: to be| to| into| with| by| as)?\b|background:)|(?:put|place|set) (?:it|them|this|that)\b)\s*",
    re.IGNORECASE,
)
"""What a prompt for an edit may begin with, of the background or of where a thing is to be."""


@dataclass
class _Draft:
    """A reading in the making."""

    parts: Parts
    things: list[str] = field(default_factory=list)
    joined: str = "and"
    modifier: str = ""
    unknown: str = ""
    refused: str = ""
    near: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: list[str] = field(default_factory=list)
    is_exact: bool = True


class PromptReader:
    """Reads prompts by a vocabulary.

    Args:
        vocabulary: of the model.
        pooled: features of texts.
        is_word: tells whether a word is one of the language; only what is not is taken for a typing error.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        pooled: Pooled,
        is_word: Callable[[str], bool] = lambda word: False,
    ) -> None:
        self.vocabulary = vocabulary
        self._lexicon = Lexicon(vocabulary, is_word)
        names = {thing: (thing, *others) for thing, others in vocabulary.names.items()}
        self._nearest = NearestName(names, pooled)
        # A request's prompt is read when it arrives, to refuse what cannot be drawn, and again to be encoded.
        self._read = lru_cache(maxsize=_KEPT)(self._read_anew)

    def read(self, prompt: str) -> Reading:
        """Read the first 2,000 characters of ``prompt``; a prompt of spaces asks for nothing, and is read as it is."""
        if not prompt.strip():
            return Reading(prompt)
        if len(prompt) > _MOST_CHARACTERS:
            reading = self._read(prompt.lstrip()[:_MOST_CHARACTERS])
            cut = f"Only the first {_MOST_CHARACTERS:,} characters of the prompt are read."
            return replace(reading, notes=(*reading.notes, cut))
        return self._read(prompt)

    def _read_anew(self, prompt: str) -> Reading:
        text, named = spelled(self._without_instruction(prompt))
        text, typed = self._lexicon.corrected(text)
        draft = _Draft(Parts(text, self._lexicon))
        typed = named | typed
        for wrong, right in typed.items():
            self._note(draft, f'Read "{wrong}" as "{right}".')
        subject = self._subject(draft.parts)
        self._find_thing(draft, subject)
        for clause in draft.parts.clauses:
            if clause is not subject:
                self._read_clause(draft, clause)
        self._note_left_out(draft)
        return self._finish(draft, prompt)

    def _without_instruction(self, prompt: str) -> str:
        """What is to be seen: "change the background to blue" is "blue background"."""
        found = _CHANGING.match(prompt)
        if found is None:
            return prompt
        rest = prompt[found.end() :]
        is_colour = found["background"] and key_of(rest) in self._lexicon.colours
        return f"{rest} background" if is_colour else rest

    # The thing.

    def _subject(self, parts: Parts) -> Clause | None:
        """The clause that says what is to be drawn: the first that names something, places last."""
        naming = [c for c in parts.clauses if parts.things_in(c.body) or parts.loose(c.body)]
        naming.sort(key=parts.is_place)
        if not naming:
            return None
        first, *others = naming
        if self._kind_of(parts, first) and not parts.things_in(first.body):
            # In a list of key words a kind may stand before its thing: "animal, fox".
            listed = (c for c in others if not c.connective and parts.things_in(c.body))
            return next(listed, first)
        return first

    def _find_thing(self, draft: _Draft, subject: Clause | None) -> None:
        parts = draft.parts
        body = subject.body if subject is not None else []
        things, loose = parts.things_in(body), parts.loose(body)
        loose = [i for i in loose if not _is_count(parts.words[i])]
        loose = [i for i in loose if (parts.words[i],) not in self._lexicon.colours]
        if refused := self._refused(parts, subject, body):
            self._refuse(draft, body, refused)
        elif things and self._is_about(parts, body, loose):
            self._take_known(draft, body, loose, things[-1])
        elif subject is not None and (kind := self._kind_of(parts, subject)):
            self._take_kind(draft, kind, parts.shown(body))
        else:
            self._take_nearest(draft, body, loose, is_other=bool(things))
        self._note_manner(draft, body)

    def _refused(self, parts: Parts, subject: Clause | None, body: list[int]) -> str:
        kind = partial(self._kind_of, parts, subject) if subject is not None else tuple
        return refusal_of(parts, body, kind)

    def _refuse(self, draft: _Draft, body: list[int], why: str) -> None:
        """Draw nothing, not even what is nearest, and suggest what is like nothing that was asked for."""
        parts = draft.parts
        draft.near, draft.refused, draft.is_exact = neutral_things(self.vocabulary), why, False
        asked = parts.shown([i for i in body if parts.marks[i] in (None, "thing")])
        asked = asked or " ".join(parts.text.split())
        draft.unknown = shorten(without_article(asked), _LONGEST, placeholder=" ...")

    def _is_about(self, parts: Parts, body: list[int], loose: list[int]) -> bool:
        """Whether a noun phrase with a thing is about it: "a cat sits", but not "a cat collar"."""
        last = max(i for i in body if parts.marks[i] == "thing")
        if max(body) > last and parts.words[max(body)] in OTHER_HEADS:
            return False
        if not any(i > last for i in loose):
            return True
        called = " ".join(parts.words[i] for i in body if last >= i and parts.marks[i] == "thing")
        after = " ".join(parts.words[i] for i in loose if i > last)
        as_thing, as_other = self._nearest.likeness(
            parts.shown(body), [with_article(called), with_article(after)]
        )
        return as_thing >= max(as_other, self.vocabulary.least_likeness)

    def _take_known(self, draft: _Draft, body: list[int], loose: list[int], thing: str) -> None:
        parts = draft.parts
        draft.things.append(thing)
        draft.left_out += [parts.words[i] for i in loose]
        start = max(i for i in body if i in parts.things)
        draft.left_out += [
            " ".join(parts.words[i : i + parts.things[i][0]])
            for i in body
            if i in parts.things and parts.things[i][1] != thing
        ]
        words = tuple(parts.words[start : start + parts.things[start][0]])
        counts = [i for i in body if parts.marks[i] is None and _is_count(parts.words[i])]
        if words not in self._lexicon.things or counts:
            shown = parts.shown([*counts, *range(start, start + len(words))])
            self._note(draft, f'Each thing is drawn once: "{shown}" as "{thing}".')
        elif words in self._lexicon.synonyms:
            self._note(draft, f'"{" ".join(words)}" is read as "{thing}".')
        sizes = [parts.words[i] for i in body if parts.words[i] in self._lexicon.sizes]
        draft.modifier = " ".join(s for s in sizes if s not in words)

    def _kind_of(self, parts: Parts, clause: Clause) -> tuple[str, ...]:
        """Things of the kind that a clause names, or ()."""
        words = tuple(parts.words[i] for i in clause.body if parts.marks[i] != "filler")
        tails = (words[start:] for start in range(len(words)))
        kinds = (lookup(self._lexicon.kinds, tail) for tail in tails)
        return next((tuple(kind) for kind in kinds if kind), ())

    def _take_kind(self, draft: _Draft, kind: Sequence[str], shown: str) -> None:
        order = [one.thing for one in self._nearest.order(shown) if one.thing in kind]
        draft.things.append(order[0])
        draft.near = order[1:]
        self._note(draft, f'"{shown}" may be many things; "{order[0]}" is drawn.')

    def _take_nearest(
        self, draft: _Draft, body: list[int], loose: list[int], *, is_other: bool
    ) -> None:
        """Take the thing that is most like what is asked for; ``is_other``: than the thing that is named in it."""
        parts = draft.parts
        asked = " ".join(parts.words[i] for i in body if i in loose or parts.marks[i] == "thing")
        if not is_other and self._is_scenery(parts, body):
            self._refuse(draft, body, NO_THING)
            return
        if refused := refusal_of_unknown(parts, asked):
            self._refuse(draft, body, refused)
            return
        order = self._nearest.order(with_article(asked))
        draft.near = [one.thing for one in order]
        if order[0].value < _LEAST_RELATED:  # what is least unlike is no better than any other
            draft.near = neutral_things(self.vocabulary)
        draft.is_exact = False
        is_other = is_other or self._lexicon.is_another(asked)
        if not is_other and order[0].value >= self.vocabulary.least_likeness:
            draft.things.append(draft.near.pop(0))
            draft.notes.append(
                f'The model does not know "{asked}"; "{draft.things[0]}" is drawn, the nearest match.'
            )
            return
        draft.unknown = shorten(asked, _LONGEST, placeholder=" ...")

    def _is_scenery(self, parts: Parts, body: list[int]) -> bool:
        """Whether what is asked for is a background alone, such as "a beach"; the background is taken then."""
        words = [parts.words[i] for i in body]
        name = self._lexicon.landscape(words) if words else None
        if words and words[-1] in SCENERY:
            others = [word for word in parts.words if word not in SCENERY]
            name = self._lexicon.backdrop_like(others) if others else None
        elif name is None:
            return False
        if not (parts.colours or parts.backdrop) and name is not None:
            parts.backdrop = name
        return bool(words)

    def _note_manner(self, draft: _Draft, body: list[int]) -> None:
        """Note colours that the thing was to have."""
        parts = draft.parts
        free = [i for i in body if parts.marks[i] is None]
        colours = [parts.words[i] for i in free if (parts.words[i],) in self._lexicon.colours]
        draft.is_exact &= "filler" not in parts.marks
        own = self._lexicon.own_colours.get(draft.things[0], ()) if draft.things else ()
        draft.is_exact &= not colours
        colours = [colour for colour in colours if colour not in own]
        if colours and draft.things:
            self._note(draft, f"Things are drawn in their own colours: {_left_out(colours)}.")

    # The other clauses.

    def _read_clause(self, draft: _Draft, clause: Clause) -> None:
        parts = draft.parts
        things, loose = parts.things_in(clause.body), parts.loose(clause.body)
        if not things and not loose:
            return
        if self._takes_as_backdrop(draft, clause):
            return
        colours = [parts.words[i] for i in loose if (parts.words[i],) in self._lexicon.colours]
        if len(colours) == len(loose) and not things:
            self._note(draft, f"{_left_out(colours)}: a colour of nothing in particular.")
        elif things and parts.is_pairing(clause):
            self._pair(draft, clause, things, loose)
        elif not things and not clause.connective and self._is_kind_of(draft, clause):
            return
        elif parts.is_place(clause):
            self._note(draft, f"{_left_out([parts.shown(clause.words)])}: {self._backgrounds()}.")
        elif self.vocabulary.max_things == 1 and [parts.words[i] for i in clause.connective] == [
            "and"
        ]:
            draft.seconds.append(parts.shown(clause.body))
        else:
            draft.left_out.append(parts.shown(clause.words))

    def _takes_as_backdrop(self, draft: _Draft, clause: Clause) -> bool:
        """Whether a clause about a place names a backdrop, in other words than captions do."""
        parts = draft.parts
        if parts.backdrop or parts.colours or not parts.is_place(clause):
            return False
        words = [parts.words[i] for i in clause.body]
        if (name := self._lexicon.backdrop_like(words)) is None:
            return False
        parts.backdrop = name
        plain = self.vocabulary.backdrops[name][0]
        self._note(draft, f'"{parts.shown(clause.words)}" is drawn as "{plain}".')
        return True

    def _pair(self, draft: _Draft, clause: Clause, things: list[str], loose: list[int]) -> None:
        parts = draft.parts
        fresh = [thing for thing in things if thing not in draft.things]
        if not fresh:
            return
        if not draft.unknown and len(draft.things) < self.vocabulary.max_things:
            draft.things.append(fresh[-1])
            words = [parts.words[i] for i in clause.connective]
            draft.joined = _relation(words) if set(words) <= self._lexicon.captions else "and"
            draft.left_out += [parts.words[i] for i in loose]
            draft.is_exact &= not loose
        else:
            draft.seconds.append(parts.shown(clause.body))

    def _is_kind_of(self, draft: _Draft, clause: Clause) -> bool:
        """Whether a key word only says what sort of thing the thing is: "fox, animal"."""
        kind = self._kind_of(draft.parts, clause)
        return any(thing in kind for thing in draft.things)

    # What is said of it.

    def _note(self, draft: _Draft, sentence: str) -> None:
        draft.notes.append(sentence)
        draft.is_exact = False

    def _note_left_out(self, draft: _Draft) -> None:
        parts, most = draft.parts, self.vocabulary.max_things
        if draft.seconds:
            many = "One thing is" if most == 1 else f"At most {most} things are"
            self._note(draft, f"{many} drawn in a picture: {_left_out(draft.seconds)}.")
        if parts.unknown_background:
            colours = _listed(self.vocabulary.colours) or "not known to the model"
            left = _left_out([parts.unknown_background])
            self._note(draft, f"{left}: the colours of backgrounds are {colours}.")
        if parts.media and self.vocabulary.styles:
            styles = _listed(self.vocabulary.styles)
            self._note(draft, f"{_left_out(parts.media)}: the styles are {styles}.")
        if draft.left_out:
            self._note(draft, f"{_left_out(draft.left_out)}.")
        if is_foreign(parts.text, parts.words) and not draft.is_exact:
            self._note(draft, ENGLISH_ONLY)

    def _backgrounds(self) -> str:
        """What can be behind a thing, as the end of a sentence."""
        places, colours = self.vocabulary.backdrops, self.vocabulary.colours
        if places:
            return f"the backdrops are {_listed(places)}"
        return "backgrounds are plain colours" if colours else "the model draws no backgrounds"

    def _finish(self, draft: _Draft, prompt: str) -> Reading:
        parts = draft.parts
        wanted = [*draft.things, *draft.near][: _SUGGESTIONS + 1]
        if draft.unknown:
            draft.things = [draft.near[0]]
            draft.notes.insert(0, draft.refused or self._unknown(draft))
        plain = self._plain(draft, draft.things)
        background = _background_phrase(parts, self.vocabulary)
        reading = Reading(
            prompt if draft.is_exact else plain,
            () if draft.refused else tuple(draft.things),
            parts.style,
            background,
            draft.unknown,
            notes=tuple(draft.notes),
            refused=draft.refused,
        )
        if draft.is_exact:
            return reading
        if not draft.unknown:
            wanted = wanted[1:] if draft.near else []
        return replace(
            reading, suggestions=tuple(self._plain(draft, [t]) for t in wanted[:_SUGGESTIONS])
        )

    def _unknown(self, draft: _Draft) -> str:
        return (
            f'The model knows nothing like "{draft.unknown}"; "{draft.things[0]}" is drawn instead.'
        )

    def _plain(self, draft: _Draft, things: Sequence[str]) -> str:
        """The plain prompt for what is drawn."""
        parts = draft.parts
        first = things[0]
        if draft.modifier:
            first = with_article(f"{draft.modifier} {without_article(first)}")
        subject = f" {draft.joined} ".join([first, *things[1:]])
        background = _background_phrase(parts, self.vocabulary)
        if parts.style:
            return ", ".join(filter(None, (subject, f"{parts.style} style", background)))
        return f"{subject} {background}".strip()


def _background_phrase(parts: Parts, vocabulary: Vocabulary) -> str:
    """What captions say for a background: "on a blue background", or ""."""
    if parts.backdrop:
        return vocabulary.backdrops[parts.backdrop][0]
    if len(parts.colours) == 2:
        return f"on a gradient from {parts.colours[0]} to {parts.colours[1]}"
    return f"on {with_article(parts.colours[0])} background" if parts.colours else ""


def _is_count(word: str) -> bool:
    return word in COUNTS or word.isdigit()


def _relation(words: Sequence[str]) -> str:
    """A connective with its article: ("to", "left", "of") -> "to the left of"."""
    return (
        " ".join(f"the {w}" if w in ("left", "right") and "to" in words else w for w in words)
        or "and"
    )


def _left_out(texts: Sequence[str]) -> str:
    """The beginning of a sentence: '"cute" was left out'."""
    quoted = ", ".join(f'"{shorten(text, _LONGEST, placeholder=" ...")}"' for text in texts)
    return f"{quoted} {'was' if len(texts) == 1 else 'were'} left out"


def _listed(names: Iterable[str]) -> str:
    """Names in a sentence, the first of them if they are many."""
    known = list(names)
    if len(known) < 2:
        return "".join(known)
    if len(known) > _LISTED:
        return f"{', '.join(known[:_LISTED])} and {len(known) - _LISTED} more"
    return f"{', '.join(known[:-1])} and {known[-1]}"
