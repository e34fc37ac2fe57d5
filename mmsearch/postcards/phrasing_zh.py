"""Chinese sentences for queries."""

from __future__ import annotations

from mmsearch.postcards.phrasing import Choice
from mmsearch.postcards.scene import Query, ThingSpec
from mmsearch.postcards.words import COLOUR_WORDS, LAND_WORDS, NOUNS, SIZE_WORDS, SKY_WORDS

_COUNTS = {
    1: (("一", "1", "只有一", "单独一"), ("仅仅一", "共一")),
    2: (("两", "2", "两"), ("一共两", "共2")),
    3: (("三", "3", "三"), ("一共三", "共3")),
    4: (("四", "4", "四"), ("一共四", "共4")),
}
_PLACES = {
    "left": (("左边", "左侧", "画面左边"), ("左手边", "左方")),
    "middle": (("中间", "中央", "画面中间"), ("正中间", "中部")),
    "right": (("右边", "右侧", "画面右边"), ("右手边", "右方")),
}
# {a} stands left of {b}
_RELATIONS_TRAIN = (
    "{a}在{b}的左边",
    "{a}在{b}左侧",
    "{b}在{a}的右边",
    "{b}在{a}右侧",
    "{b}的左边有{a}",
    "{a}的右边有{b}",
    "{b}左边的{a}",
)
_RELATIONS_TEST = (
    "{a}在{b}左边",
    "{b}在{a}右边",
    "在{b}的左侧有{a}",
    "在{a}的右侧有{b}",
    "{a}右边的{b}",
)
_OPENINGS = ("", "", "", "", "", "一张明信片：", "照片：", "图片：", "画着", "一幅画：", "这里有")
# {s} things, {l} and {k} phrases of land and sky, {L} and {K} their nouns
_TRAIN = {
    "s": ("{s}",),
    "l": ("{l}", "{L}", "{L}", "{L}的照片"),
    "k": ("{k}", "{K}", "{K}", "{K}的照片"),
    "lk": ("{k}的{L}", "{k}，{l}", "{L}，{K}", "{K}，{L}", "{l}，{K}", "{K}{L}"),
    "sl": ("{l}有{s}", "{l}的{s}", "{s}，{L}", "{L}，{s}", "{s}在{l}", "{l}，{s}"),
    "sk": ("{k}有{s}", "{k}的{s}", "{s}，{K}", "{K}，{s}", "{s}，{k}", "{k}，{s}"),
    "slk": (
        "{k}，{l}有{s}",
        "{k}的{L}，有{s}",
        "{l}有{s}，{K}",
        "{s}，{L}，{K}",
        "{K}，{L}，{s}",
        "{k}{l}的{s}",
        "{l}，{k}，{s}",
    ),
}
_TEST = {
    "s": ("图片里有{s}", "画面：{s}", "{s}的明信片"),
    "l": ("画着{l}", "这里是{L}", "{L}的明信片"),
    "k": ("画着{k}", "这里是{K}", "{K}的明信片"),
    "lk": ("画着{l}，{k}", "这里是{K}和{L}", "{L}和{K}的明信片"),
    "sl": ("{L}上画着{s}", "{L}：{s}", "{l}的照片，有{s}", "{L}和{s}"),
    "sk": ("{K}：{s}", "{k}画着{s}", "{k}的照片，有{s}", "{K}和{s}"),
    "slk": (
        "{K}，{l}画着{s}",
        "{L}，{k}有{s}",
        "照片里{s}，{k}，{l}",
        "{K}和{L}：{s}",
        "{k}的照片，{l}，{s}",
    ),
}


def sentence(query: Query, choice: Choice) -> str:
    """`query` in Chinese, without a full stop; "" if it names nothing."""
    things = [_thing(spec, choice) for spec in query.things]
    if query.left_of:
        relation = choice.form(_RELATIONS_TRAIN, _RELATIONS_TEST)
        things[:2] = [relation.format(a=things[0], b=things[1])]
    join = choice.form(("和", "，", "、", "，还有"), ("，有", "与"))
    parts = {"s": join.join(things)} if things else {}
    for letter, words in (
        ("l", LAND_WORDS[query.land] if query.land else None),
        ("k", SKY_WORDS[query.sky] if query.sky else None),
    ):
        if words is not None:
            parts[letter] = choice.word(words.zh_phrases, words.zh_rare_phrases)
            parts[letter.upper()] = choice.word(words.zh_nouns, words.zh_rare_nouns)
    shape = "".join(letter for letter in "slk" if letter in parts)
    if not shape:
        return ""
    text = choice.form(_TRAIN[shape], _TEST[shape]).format(**parts)
    if choice.wording == "train":
        text = choice.rng.choice(_OPENINGS) + text
    return text


def _thing(spec: ThingSpec, choice: Choice) -> str:
    """Number, measure word, colour, size and noun, with where it is before or behind."""
    noun = NOUNS[spec.kind]
    words = choice.word(noun.zh, noun.zh_rare)
    colour = choice.word(*COLOUR_WORDS[spec.colour][2:]) if spec.colour else ""
    size = choice.word(*SIZE_WORDS[spec.size][2:]) if spec.size else ""
    if len(colour) == 1 and size:
        # "大红" is a colour of its own, so a big red thing is 红色的大…
        colour += "色"
    if colour and (len(colour) > 1 and choice.chance(0.6)):
        colour += "的"
    if len(size) == 1:
        words = f"{colour}{size}{words}"
    elif size:
        words = f"{size}的{colour}{words}"
    else:
        words = colour + words
    if spec.count is not None:
        words = choice.word(*_COUNTS[spec.count]) + noun.measure + words
    if spec.place:
        place = choice.word(*_PLACES[spec.place])
        pattern = choice.form(
            ("{p}有{w}", "{w}在{p}", "{p}的{w}", "{p}{w}"), ("在{p}的{w}", "{p}是{w}")
        )
        words = pattern.format(p=place, w=words)
    return words
