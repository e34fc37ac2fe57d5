"""English sentences for queries."""

from __future__ import annotations

from mmsearch.postcards.phrasing import Choice
from mmsearch.postcards.scene import Query, ThingSpec
from mmsearch.postcards.words import (
    COLOUR_WORDS,
    LAND_WORDS,
    NOUNS,
    SIZE_WORDS,
    SKY_WORDS,
    article,
    plural,
)

_ONE = ("one", "a single", "just one", "exactly one")
_MANY = {
    2: (("two", "2", "a pair of", "two"), ("a set of two", "a group of two")),
    3: (("three", "3", "a trio of", "three"), ("a set of three", "a group of three")),
    4: (("four", "4", "a foursome of", "four"), ("a set of four", "a group of four")),
}
_PLACES = {
    "left": (
        ("on the left", "at the left", "on the left side", "to the left"),
        ("on the left-hand side", "in the left half", "at far left"),
    ),
    "middle": (
        ("in the middle", "in the centre", "in the center", "at the center"),
        ("in the central part", "in the very middle"),
    ),
    "right": (
        ("on the right", "at the right", "on the right side", "to the right"),
        ("on the right-hand side", "in the right half", "at far right"),
    ),
}
# {a} stands left of {b}
_RELATIONS_TRAIN = (
    "{a} left of {b}",
    "{a} to the left of {b}",
    "{a} on the left of {b}",
    "{b} right of {a}",
    "{b} to the right of {a}",
    "{b} on the right of {a}",
    "{b} with {a} on its left",
    "{a} with {b} on its right",
)
_RELATIONS_TEST = (
    "{a} at the left of {b}",
    "{b} at the right of {a}",
    "{b} with {a} to its left",
    "{a} with {b} to its right",
    "to the left of {b}, {a}",
    "to the right of {a}, {b}",
)
_OPENINGS = (
    "",
    "",
    "",
    "",
    "",
    "a photo of ",
    "a picture of ",
    "a postcard of ",
    "photo of ",
    "postcard: ",
    "a drawing of ",
    "there is ",
    "i can see ",
    "an image of ",
    "showing ",
)
# {s} things, {l} and {k} phrases of land and sky, {L} and {K} their nouns
_TRAIN = {
    "s": ("{s}",),
    "l": ("{l}", "{L}", "{L}", "the {L}", "a {L} scene"),
    "k": ("{k}", "{K}", "{K}", "the {K}", "a scene {k}"),
    "lk": ("{l} {k}", "{k} {l}", "{L} {k}", "{L}, {K}", "{K}, {L}", "{K} and {L}", "{L} with {K}"),
    "sl": ("{s} {l}", "{l}, {s}", "{s}, {L}", "{L}, {s}", "{L} with {s}", "{s} and {L}"),
    "sk": ("{s} {k}", "{k}, {s}", "{s}, {K}", "{K}, {s}", "{K} with {s}", "{s} and {K}"),
    "slk": (
        "{s} {l} {k}",
        "{s} {k} {l}",
        "{k}, {s} {l}",
        "{l}, {s} {k}",
        "{L} {k} with {s}",
        "{s}, {L}, {K}",
        "{K}, {L}, {s}",
        "{L}, {K}, {s}",
        "{L} with {s}, {K}",
    ),
}
_TEST = {
    "s": ("an image showing {s}", "you can see {s}", "a scene with {s}", "a view of {s}"),
    "l": ("an image showing {L}", "a view {l}", "scene {l}", "{L} postcard"),
    "k": ("an image showing {K}", "a view {k}", "{K} scene", "{K} postcard"),
    "lk": ("a view {l}, {k}", "{K} scene {l}", "a postcard showing {K} and {L}", "{K}: {L}"),
    "sl": ("{L}: {s}", "a view {l} with {s}", "{L} scene showing {s}", "you can see {s}, {l}"),
    "sk": ("{K}: {s}", "a view {k} with {s}", "{K} scene showing {s}", "you can see {s}, {k}"),
    "slk": (
        "a scene {l} {k} showing {s}",
        "{K} and {L}, and {s}",
        "an image showing {s}: {L}, {K}",
        "{k} and {l} you can see {s}",
        "a view {k}: {s}, {L}",
        "{L} postcard with {s}, {k}",
    ),
}


def sentence(query: Query, choice: Choice) -> str:
    """`query` in English: no full stop, sometimes a capital; "" if it names nothing."""
    bare = choice.chance(0.3)
    things = [_thing(spec, choice, bare=bare) for spec in query.things]
    if query.left_of:
        relation = choice.form(_RELATIONS_TRAIN, _RELATIONS_TEST)
        things[:2] = [relation.format(a=things[0], b=things[1])]
    parts = {"s": _joined(things, choice)} if things else {}
    for letter, words in (
        ("l", LAND_WORDS[query.land] if query.land else None),
        ("k", SKY_WORDS[query.sky] if query.sky else None),
    ):
        if words is not None:
            parts[letter] = choice.word(words.phrases, words.rare_phrases)
            parts[letter.upper()] = choice.word(words.nouns, words.rare_nouns)
    shape = "".join(letter for letter in "slk" if letter in parts)
    if not shape:
        return ""
    form = choice.form(_TRAIN[shape], _TEST[shape])
    text = form.format(**parts)
    if choice.wording == "train" and form.startswith(("{s}", "{L}", "{K}")):
        text = choice.rng.choice(_OPENINGS) + text
    if choice.chance(0.15):
        return text[0].upper() + text[1:]
    return text.upper() if choice.chance(0.02) else text


def _joined(things: list[str], choice: Choice) -> str:
    if len(things) == 1:
        return things[0]
    comma = ", ".join(things[:-1])
    last = choice.form((" and ", ", ", " with ", " and ", ", and "), (" plus ", " together with "))
    return comma + last + things[-1]


def _thing(spec: ThingSpec, choice: Choice, *, bare: bool) -> str:
    """The noun phrase of a group, `bare` without an article, and where it is."""
    noun = NOUNS[spec.kind]
    name = choice.word(noun.common, noun.rare)
    many = spec.count is not None and spec.count > 1
    # Who searches for "balloons" is content with one: an unnumbered plural says "at least one".
    loose = spec.count is None and choice.chance(0.08)
    if many or loose:
        name = plural(name)
    size = choice.word(*SIZE_WORDS[spec.size][:2]) if spec.size else ""
    colour = choice.word(*COLOUR_WORDS[spec.colour][:2]) if spec.colour else ""
    adjectives = [size, colour]
    if size and colour and choice.chance(0.1):
        adjectives.reverse()
    after = ""
    if colour and choice.chance(0.06 if choice.wording == "train" else 0.2):
        adjectives.remove(colour)
        after = choice.form(
            (" that is {}", " in {}"), (" coloured {}", ", {} ones," if many else ", {},")
        )
        after = after.format(colour)
    words = " ".join(w for w in (*adjectives, name) if w) + after
    if many:
        assert spec.count is not None
        words = f"{choice.word(*_MANY[spec.count])} {words}"
    elif spec.count == 1:
        words = f"{choice.word(_ONE, ('only one', 'one lone'))} {words}"
    elif loose:
        words = f"some {words}" if choice.chance(0.4) else words
    elif not bare:
        words = f"{article(words)} {words}"
    return f"{words} {choice.word(*_PLACES[spec.place])}" if spec.place else words
