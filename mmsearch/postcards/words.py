"""The words of the captions: names of kinds, colours, skies and lands in English and Chinese.

Every entry has *common* words, used everywhere, and *rare* ones. Training meets a rare word only in
captions of at most two attributes (`captions.RARE_MOST`); the "test" wording puts it into full
sentences. So a rare word is never wholly unknown to a model that starts from nothing, but every use
the evaluation makes of it is new.
"""

from __future__ import annotations

from dataclasses import dataclass

#: pseudo-values: words whose meaning is a set of kinds or skies. No `Query` of the evaluation has
#: them (a `Query` names one kind), but people type them, so training captions do.
GROUPS: dict[str, tuple[str, ...]] = {
    "boat": ("sailboat", "rowboat"),
    "animal": ("cat", "dog", "horse", "cow", "sheep"),
    "vehicle": ("car", "bus", "tractor", "bicycle"),
    "building": ("house", "castle", "church", "lighthouse", "windmill"),
}
SKY_GROUPS: dict[str, tuple[str, ...]] = {"night": ("stars", "moon")}


@dataclass(frozen=True, slots=True)
class Noun:
    """`common` and `rare` English singulars (plural by rule or by IRREGULAR); Chinese with its
    measure word."""

    common: tuple[str, ...]
    rare: tuple[str, ...]
    measure: str
    zh: tuple[str, ...]
    zh_rare: tuple[str, ...]


def _noun(en: str, rare: str, measure: str, zh: str, zh_rare: str) -> Noun:
    def split(words: str) -> tuple[str, ...]:
        return tuple(w.strip() for w in words.split(",") if w.strip())

    return Noun(split(en), split(rare), measure, split(zh), split(zh_rare))


NOUNS: dict[str, Noun] = {
    "balloon": _noun("balloon, hot-air balloon", "hot air balloon", "只", "热气球", "气球"),
    "kite": _noun("kite", "paper kite", "只", "风筝", "纸鸢"),
    "bird": _noun("bird, seagull", "gull, flying bird", "只", "鸟, 小鸟", "海鸥, 飞鸟"),
    "airplane": _noun("airplane, plane", "aeroplane, aircraft", "架", "飞机", "客机"),
    "butterfly": _noun("butterfly", "flying butterfly", "只", "蝴蝶", "彩蝶"),
    "house": _noun("house, cottage", "home, hut", "座", "房子, 小屋", "屋子, 房屋"),
    "castle": _noun("castle, fortress", "palace", "座", "城堡", "古堡"),
    "church": _noun("church, chapel", "church building", "座", "教堂", "礼拜堂"),
    "lighthouse": _noun("lighthouse, light tower", "beacon", "座", "灯塔", "航标灯塔"),
    "windmill": _noun("windmill", "wind mill, mill", "座", "风车", "磨坊风车"),
    "tent": _noun("tent, camping tent", "camp tent", "顶", "帐篷, 露营帐篷", "营帐"),
    "car": _noun("car, automobile", "motor car, motorcar", "辆", "汽车, 小汽车", "轿车, 车"),
    "bus": _noun("bus, coach", "motor bus", "辆", "公交车, 巴士", "公共汽车"),
    "bicycle": _noun("bicycle, bike", "cycle, push bike", "辆", "自行车, 单车", "脚踏车"),
    "tractor": _noun("tractor, farm tractor", "farm vehicle", "辆", "拖拉机", "农用拖拉机"),
    "umbrella": _noun(
        "umbrella, parasol", "beach umbrella, sunshade", "把", "伞, 雨伞", "阳伞, 遮阳伞"
    ),
    "bench": _noun("bench, park bench", "wooden bench, seat", "张", "长椅, 长凳", "公园长椅"),
    "tree": _noun("tree, leafy tree", "broad tree", "棵", "树, 大叶树", "树木"),
    "palm": _noun("palm tree, palm", "coconut palm, coconut tree", "棵", "棕榈树, 棕榈", "椰子树"),
    "pine": _noun("pine tree, pine", "fir tree, fir", "棵", "松树, 青松", "冷杉, 杉树"),
    "cactus": _noun("cactus", "cactus plant, desert cactus", "株", "仙人掌", "仙人柱"),
    "flower": _noun("flower, blossom", "bloom", "朵", "花, 花朵", "鲜花"),
    "mushroom": _noun("mushroom, toadstool", "fungus", "朵", "蘑菇", "菌菇"),
    "campfire": _noun("campfire, bonfire", "camp fire, fire", "堆", "篝火, 营火", "火堆"),
    "snowman": _noun("snowman", "snow man, man of snow", "个", "雪人", "雪堆人"),
    "person": _noun("person, man, woman", "human, figure", "个", "人, 行人", "人物"),
    "cat": _noun("cat, kitty", "kitten, pussycat", "只", "猫, 小猫", "猫咪"),
    "dog": _noun("dog, hound", "puppy, doggy", "只", "狗, 小狗", "犬, 狗狗"),
    "horse": _noun("horse, pony", "stallion", "匹", "马, 马儿", "骏马"),
    "cow": _noun("cow", "cattle cow, bull", "头", "牛, 奶牛", "母牛"),
    "sheep": _noun("sheep, lamb", "woolly sheep", "只", "羊, 绵羊", "小羊"),
    "sailboat": _noun("sailboat, sailing boat", "yacht, sail boat", "艘", "帆船", "帆艇"),
    "rowboat": _noun("rowboat, rowing boat", "dinghy, row boat", "条", "划艇, 小船", "木船"),
    "whale": _noun("whale", "big sea whale, sea whale", "头", "鲸鱼, 鲸", "巨鲸"),
    "duck": _noun("duck", "duckling, water duck", "只", "鸭子", "小鸭, 野鸭"),
    "bridge": _noun("bridge, footbridge", "foot bridge, crossing", "座", "桥, 桥梁", "拱桥"),
    "boat": _noun("boat", "ship, vessel", "艘", "船", "船只"),
    "animal": _noun("animal", "beast", "只", "动物", "牲畜"),
    "vehicle": _noun("vehicle", "road vehicle", "辆", "车辆", "车子"),
    "building": _noun("building", "built house", "座", "建筑", "建筑物"),
}
IRREGULAR: dict[str, str] = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "man of snow": "men of snow",
    "sheep": "sheep",
    "aircraft": "aircraft",
    "cactus": "cacti",
    "fungus": "fungi",
    "snowman": "snowmen",
    "fir": "firs",
    "beach": "beaches",
    "church": "churches",
    "bench": "benches",
    "coach": "coaches",
    "bus": "buses",
    "fortress": "fortresses",
    "foot bridge": "foot bridges",
}

#: colour → common adjectives, rare adjectives, common Chinese (without 的), rare Chinese
COLOUR_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]]
COLOUR_WORDS = {
    "red": (("red",), ("scarlet", "crimson"), ("红色", "红"), ("大红色", "鲜红色")),
    "orange": (("orange",), ("orange-coloured", "tangerine"), ("橙色", "橘色"), ("橘红色",)),
    "yellow": (("yellow",), ("golden", "bright yellow"), ("黄色", "黄"), ("金黄色",)),
    "green": (("green",), ("emerald", "bright green"), ("绿色", "绿"), ("翠绿色",)),
    "blue": (("blue",), ("azure", "bright blue"), ("蓝色", "蓝"), ("湛蓝色", "天蓝色")),
    "purple": (("purple", "violet"), ("lilac",), ("紫色", "紫"), ("深紫色",)),
    "pink": (("pink",), ("rosy", "rose-coloured"), ("粉色", "粉红色"), ("桃红色",)),
    "white": (("white",), ("snow-white", "pure white"), ("白色", "白"), ("雪白色",)),
    "black": (("black",), ("jet-black", "pitch black"), ("黑色", "黑"), ("漆黑色",)),
    "brown": (("brown",), ("chestnut", "dark brown"), ("棕色", "褐色"), ("深棕色", "咖啡色")),
}
SIZE_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "small": (("small", "little", "tiny"), ("miniature", "very small"), ("小", "小小"), ("微小",)),
    "large": (("large", "big", "huge"), ("enormous", "giant"), ("大", "巨大"), ("硕大",)),
}


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A sky or a land: phrases that can follow a noun, and nouns that can stand alone."""

    phrases: tuple[str, ...]
    nouns: tuple[str, ...]
    rare_phrases: tuple[str, ...]
    rare_nouns: tuple[str, ...]
    zh_phrases: tuple[str, ...]
    zh_nouns: tuple[str, ...]
    zh_rare_phrases: tuple[str, ...]
    zh_rare_nouns: tuple[str, ...]


def _backdrop(text: str) -> Backdrop:
    rows = [
        tuple(w.strip() for w in row.split(",") if w.strip()) for row in text.strip().split("\n")
    ]
    return Backdrop(*rows)


SKY_WORDS: dict[str, Backdrop] = {
    "clear": _backdrop("""
        on a sunny day, under a clear sky, under a blue sky, in the sunshine
        clear sky, sunny day
        on a bright sunny day, under a cloudless sky
        cloudless sky, fine weather
        晴空下, 阳光下, 晴天里
        晴天, 晴空
        万里无云的天空下, 阳光明媚时
        万里无云, 好天气"""),
    "cloudy": _backdrop("""
        on a cloudy day, under a cloudy sky, under the clouds
        cloudy sky, cloudy day
        under a sky full of clouds, on an overcast day
        overcast sky, clouds
        多云的天空下, 阴天里, 云朵下
        多云, 阴天
        满天云朵下, 多云时
        白云, 云层"""),
    "sunset": _backdrop("""
        at sunset, at dusk, in the evening glow
        sunset, dusk
        while the sun is setting, under a sunset sky
        sunset sky, setting sun
        日落时分, 夕阳下, 黄昏时
        日落, 夕阳
        太阳落山时, 晚霞中
        晚霞, 落日"""),
    "stars": _backdrop("""
        under the stars, under a starry sky, on a starry night
        starry sky, starry night
        beneath a sky full of stars, by starlight
        stars at night, sky full of stars
        星空下, 繁星下, 星夜里
        星空, 星夜
        满天繁星下, 满天星星下
        满天星星, 繁星"""),
    "moon": _backdrop("""
        in the moonlight, under the moon, on a moonlit night
        moonlit night, moonlight
        under a bright moon, by the light of the moon
        moon at night, moonlit sky
        月光下, 月亮下, 月夜里
        月夜, 月光
        明月下, 在明亮的月光下
        明月, 月亮"""),
    "storm": _backdrop("""
        in a storm, in a thunderstorm, under lightning
        storm, thunderstorm
        in stormy weather, while lightning strikes
        stormy weather, lightning storm
        暴风雨中, 雷雨中, 闪电下
        暴风雨, 雷雨
        电闪雷鸣时, 在闪电的雷雨中
        电闪雷鸣, 闪电"""),
    "rainbow": _backdrop("""
        under a rainbow, with a rainbow in the sky, with a rainbow
        rainbow, rainbow in the sky
        beneath a colourful rainbow, below a rainbow
        colourful rainbow, rainbow sky
        彩虹下, 有彩虹的天空下
        彩虹, 天上的彩虹
        一道彩虹下, 在绚丽的彩虹下
        一道彩虹, 彩虹天空"""),
    "snowfall": _backdrop("""
        in the falling snow, in snowfall, while it is snowing
        snowfall, falling snow
        on a snowy day, as snow is falling
        snowing, snowflakes
        下雪时, 飘雪中, 雪花中
        下雪, 飘雪
        下雪天里, 雪花飘落时
        下雪天, 雪花"""),
    "rain": _backdrop("""
        in the rain, on a rainy day, while it is raining
        rain, rainy day
        in rainy weather, as rain is falling
        rainy weather, raining
        雨中, 下雨时, 雨天里
        下雨, 雨天
        细雨中, 下雨天里
        细雨, 下雨天"""),
    "night": _backdrop("""
        at night, in the night, by night
        night, night sky
        at night time, in the dark of night
        night time, dark night
        夜里, 夜晚, 晚上
        夜晚, 夜空
        夜空下, 夜色中
        夜色, 黑夜"""),
}
LAND_WORDS: dict[str, Backdrop] = {
    "sea": _backdrop("""
        at sea, on the sea, on the ocean
        sea, ocean
        out on the open sea, on the wide ocean
        open sea, wide ocean
        海上, 大海上, 海洋上
        大海, 海洋
        茫茫大海上, 海面上
        海面, 茫茫大海"""),
    "beach": _backdrop("""
        on the beach, at the beach, on a sandy beach, on the seashore
        beach, sandy beach, seashore
        on a beach by the sea, at the seaside
        seaside, beach by the sea
        海滩上, 沙滩上
        海滩, 沙滩
        海边沙滩上, 海边
        海边沙滩, 海边"""),
    "lake": _backdrop("""
        at the lake, by a lake, at a lakeside
        lake, lakeside
        on the shore of a lake, by the lake water
        lake shore, lake water
        湖边, 湖畔
        湖, 湖泊
        湖水边, 湖岸上
        湖水, 湖岸"""),
    "desert": _backdrop("""
        in the desert, in a sandy desert, among the dunes
        desert, sand dunes
        between desert dunes, in the desert sand
        desert sand, desert dunes
        沙漠里, 沙漠中, 沙丘间
        沙漠, 沙丘
        大漠中, 茫茫沙漠里
        大漠, 茫茫沙漠"""),
    "meadow": _backdrop("""
        in a meadow, on the grass, on a green meadow
        meadow, grassland
        on a grassy meadow, in the green grass
        grassy meadow, green grass
        草地上, 草原上
        草地, 草原
        青草地上, 绿草地上
        青草地, 绿草地"""),
    "forest": _backdrop("""
        in the forest, in the woods, at the edge of a forest
        forest, woods
        among the trees of a forest, in a woodland
        woodland, deep forest
        森林里, 树林里
        森林, 树林
        林间, 密林里
        密林, 林间"""),
    "mountains": _backdrop("""
        in the mountains, below snowy mountains, at the foot of the mountains
        mountains, snowy mountain range
        before a snowy mountain range, below mountain peaks
        mountain peaks, mountain range
        山里, 雪山下, 群山间
        群山, 雪山
        高山下, 雪山脚下
        高山, 山峰"""),
    "city": _backdrop("""
        in the city, before a city skyline, in town
        city, city skyline
        in front of tall city buildings, in a big town
        big town, tall city buildings
        城市里, 都市里, 城市天际线前
        城市, 都市
        高楼前, 城里
        高楼, 城市天际线"""),
    "farmland": _backdrop("""
        on a farm, in the fields, on farmland
        farm, farmland, fields
        in the fields of a farm, in farm fields
        farm fields, fields of a farm
        农田里, 田野上, 农场里
        农田, 田野
        田地里, 农家田野上
        田地, 农场"""),
    "snowfield": _backdrop("""
        on a snowfield, on snowy ground, on a snowy plain
        snowfield, snowy plain
        on snow-covered ground, on a plain covered with snow
        snow-covered ground, plain covered with snow
        雪地上, 雪原上
        雪地, 雪原
        白雪覆盖的雪地上, 茫茫雪原上
        茫茫雪原, 白雪"""),
}


def plural(noun: str) -> str:
    """The English plural of a noun phrase whose last word is the head (or in IRREGULAR whole)."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    head, _, last = noun.rpartition(" ")
    if last in IRREGULAR:
        changed = IRREGULAR[last]
    elif last.endswith("y") and last[-2] not in "aeiou":
        changed = last[:-1] + "ies"
    elif last.endswith(("s", "x", "ch", "sh")):
        changed = last + "es"
    else:
        changed = last + "s"
    return f"{head} {changed}" if head else changed


def article(phrase: str) -> str:
    """ "a" or "an" before `phrase`."""
    return "an" if phrase[0] in "aeiou" else "a"
