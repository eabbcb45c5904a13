"""Captions, and what is known to be in their pictures -> how often they name objects that are not there (CHAIR).

As Rohrbach et al. 2018 define it over the 80 categories of COCO: the words of a caption that name an object are looked
up in a table and compared with the categories annotated in the picture, and with what people's captions of it mention.
Any other list of categories works too; an object is then found by its category's own name and plural.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from showtell.errors import DataError
from showtell.text import tokenise

# The categories of COCO and everyday words for each, in the singular. A word in several lines means any of them: a bike
# is right beside a motorcycle. Left out are words that mean something else as often (glass, bag, board, plant, seat).
COCO_WORDS: dict[str, str] = {
    "person": "people, human, man, woman, boy, girl, guy, lady, gentleman, child, kid, toddler, baby, infant, "
    "newborn, adult, teen, teenager, youth, male, female, someone, somebody, friend, couple, crowd, mother, mom, "
    "father, dad, daddy, parent, son, daughter, brother, sister, husband, wife, grandmother, grandfather, grandma, "
    "grandpa, bride, groom, player, ball player, ballplayer, batter, hitter, catcher, umpire, referee, goalie, "
    "outfielder, athlete, skier, snowboarder, snow boarder, skateboarder, skate boarder, skater, surfer, swimmer, "
    "rider, cyclist, bicyclist, biker, motorcyclist, jockey, racer, runner, jogger, hiker, pedestrian, passenger, "
    "commuter, driver, pilot, soldier, police officer, officer, policeman, policewoman, cop, fireman, firefighter, "
    "worker, workman, employee, businessman, businesswoman, chef, waiter, waitress, vendor, customer, shopper, "
    "tourist, student, teacher, doctor, nurse, farmer, fisherman, cowboy, cowgirl, sailor, musician, spectator, "
    "onlooker, audience, individual, family, boarder, surfboarder, baseball pitcher, opponent",
    "bicycle": "bike, cycle, tricycle, push bike",
    "car": "automobile, sedan, suv, jeep, taxi, taxicab, cab, convertible, hatchback, minivan, mini van, limousine, "
    "limo, van",
    "motorcycle": "motorbike, motor bike, motor cycle, moped, scooter, vespa, dirt bike, bike",
    "airplane": "plane, aeroplane, air plane, aircraft, air craft, jet, airliner, jetliner, biplane, seaplane",
    "bus": "minibus, double decker, tram, trolley, trolly, streetcar, street car, cable car",
    "train": "locomotive, subway, steam engine, tram, trolley, trolly, streetcar, street car, cable car, trolley "
    "car, train car, train engine, subway car, rail car, railcar, railroad car, railway car, passenger car, box car, "
    "boxcar, monorail",
    "truck": "lorry, pickup truck, pick up truck, firetruck, fire engine, semi, van, suv, jeep",
    "boat": "ship, canoe, kayak, sailboat, yacht, ferry, raft, rowboat, tugboat, dinghy, barge, speedboat, "
    "motorboat, catamaran, vessel, houseboat",
    "traffic light": "traffic signal, stop light, stoplight, street signal, signal light",
    "fire hydrant": "hydrant, fireplug, fire plug",
    "stop sign": "stopsign",
    "parking meter": "meter",
    "bench": "pew",
    "bird": "duck, duckling, goose, gosling, swan, parrot, pigeon, seagull, gull, owl, eagle, hawk, falcon, hen, "
    "rooster, peacock, flamingo, penguin, ostrich, emu, pelican, heron, egret, stork, sparrow, crow, raven, "
    "parakeet, hummingbird, robin, finch, dove, vulture, woodpecker, cockatoo, cockatiel, macaw, puffin, toucan, "
    "blackbird",
    "cat": "kitten, kitty, feline, tabby",
    "dog": "puppy, pup, doggy, doggie, canine, poodle, bulldog, bull dog, pit bull, pitbull, terrier, labrador, "
    "retriever, german shepherd, beagle, chihuahua, dachshund, husky, corgi, collie, pug, dalmatian, greyhound, "
    "hound, mutt, spaniel, rottweiler, doberman, sheepdog, sheep dog, wiener dog, weiner dog",
    "horse": "pony, foal, mare, stallion, colt, filly",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, bull, calf, ox, heifer, bovine, longhorn",
    "elephant": "",
    "bear": "cub, panda, grizzly",
    "zebra": "",
    "giraffe": "giraff",
    "backpack": "back pack, rucksack, knapsack, bookbag, book bag, luggage",
    "umbrella": "parasol",
    "handbag": "hand bag, purse, pocketbook, tote bag, shoulder bag, luggage",
    "tie": "necktie, neck tie, bow tie, bowtie",
    "suitcase": "suit case, luggage, briefcase, brief case",
    "frisbee": "frisbe, frizbee, flying disc, flying disk",
    "skis": "skiis",
    "snowboard": "snow board",
    "sports ball": "ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "baseball mitt, mitt",
    "skateboard": "skate board, longboard",
    "surfboard": "surf board, boogie board, body board",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "",
    "wine glass": "wineglass, goblet, glass of wine, glasses of wine, glass of red wine, glasses of red wine, glass "
    "of white wine, glasses of white wine, champagne glass, champagne flute",
    "cup": "mug, teacup, goblet",
    "fork": "silverware, utensil, cutlery",
    "knife": "silverware, utensil, cutlery",
    "spoon": "silverware, utensil, cutlery, teaspoon, tea spoon, tablespoon",
    "bowl": "",
    "banana": "",
    "apple": "",
    "sandwich": "burger, hamburger, cheeseburger, panini, hoagie, sandwhich",
    "orange": "tangerine, clementine, mandarin",
    "broccoli": "brocolli, brocoli",
    "carrot": "",
    "hot dog": "hotdog, frankfurter, chili dog, chilli dog, cheese dog, chili cheese dog",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake, cup cake, cheesecake, shortcake, carrot cake, coffee cake",
    "chair": "armchair, arm chair, stool, barstool, recliner, highchair",
    "couch": "sofa, loveseat, love seat, futon",
    "potted plant": "houseplant, house plant, flower pot, flowerpot",
    "bed": "mattress, cot, crib, futon",
    "dining table": "table",
    "toilet": "commode, urinal, toilet seat, toilet bowl, toilet tank, toilet lid, toilette",
    "tv": "television, flat screen, flatscreen, monitor",
    "laptop": "lap top, laptop computer, notebook computer, netbook, macbook",
    "mouse": "",
    "remote": "remote control, remote controller, controller, tv remote, television remote, video game remote",
    "keyboard": "key board",
    "cell phone": "cellphone, phone, smartphone, iphone, cellular phone, mobile phone",
    "microwave": "microwave oven, toaster oven",
    "oven": "stove, stove top, stovetop, toaster oven",
    "toaster": "toaster oven",
    "sink": "basin, washbasin",
    "refrigerator": "fridge, refridgerator, freezer",
    "book": "novel, textbook, cookbook",
    "clock": "",
    "vase": "",
    "scissors": "scissor, shears",
    "teddy bear": "teddy, stuffed bear, toy bear",
    "hair drier": "hair dryer, hairdryer, hairdrier, blow dryer, blow drier",
    "toothbrush": "tooth brush",
}
COCO_CATEGORIES = tuple(COCO_WORDS)

# What carries the name of an object and is none.
_OTHER_THINGS = """
train track, train station, train platform, train yard, train depot, train stop, train tunnel, subway station, subway
platform, subway stop, subway map, subway sandwich, bus stop, bus station, bus depot, bus terminal, bus shelter, bus
lane, bike rack, bicycle rack, bike lane, bicycle lane, bike path, bicycle path, bike trail, bike helmet, motorcycle
helmet, car wash, car seat, boat house, boat dock, boat ramp, horse trailer, airplane hangar, aircraft carrier, jet
ski, truck stop, semi circle, truck bed, cab of, bird house, bird cage, bird bath, bird feeder, bird nest, rubber
duck, duck tape, dog house, dog food, dog bed, dog toy, dog park, corn dog, prairie dog, cat food, cat toy, cat bed,
cat tree, hello kitty, kitty litter, rocking horse, saw horse, sea horse, zebra crossing, cow bell, lamb chop, couple
of, couple piece, couple slice, couple glass, couple plate, couple flower, couple dozen, couple other, couple more,
couple different, baby carriage, baby stroller, baby carrot, baby blue, baby shower, baby grand, baby doll, person
taking, man hole, someone's, somebody's, men's room, men's bathroom, men's restroom, women's room, women's bathroom,
women's restroom, children's book, child's room, child's bedroom, child's toy, driver's side, driver's seat, drivers
side, drivers seat, low rider, cowboy hat, chef hat, chef's hat, record player, cd player, dvd player, mp3 player,
music player, media player, cake batter, table runner, railroad tie, zip tie, tie dye, tie dyed, to tie, base ball,
basket ball, foot ball, volley ball, ball game, ball park, ball field, ball room, ball gown, ball cap, meat ball,
disco ball, at bat, to bat, oven mitt, bottle opener, bottle cap, cup holder, world cup, super bowl, fork lift, pitch
fork, apple logo, apple sign, apple user, apple store, apple product, apple computer, apple desktop, apple juice,
apple pie, apple sauce, apple tree, orange juice, orange tree, banana tree, banana bread, banana split, pizza box,
pizza cutter, pizza pan, pizza oven, pizza place, pizza parlor, pizza shop, pizza restaurant, pizza hut, pizza stone,
hot dog stand, hot dog bun, hotdog stand, sandwich bag, sandwich board, sandwich cookie, donut shop, doughnut shop,
donut hole, doughnut hole, cake stand, cake pan, wheel chair, chair lift, flower bed, garden bed, bed of, bed room,
bed sheet, bed spread, table cloth, table top, table tennis, pool table, toilet paper, toilet tissue, toilet brush,
toilet stall, toilet room, tv stand, tv show, television show, tv station, mickey mouse, minnie mouse, mouse pad,
remote area, remote location, remote beach, remote road, remote mountain, remote controlled, remote control plane,
remote control car, remote control boat, piano keyboard, electric keyboard, electronic keyboard, musical keyboard,
keyboard piano, phone booth, pay phone, head phone, phone number, phone call, sink hole, book shelf, book shelves,
book case, book store, book shop, book end, scrap book, clock radio, clock face, power meter, square meter, water
meter
"""


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# An object's name before one of these, or an animal's after one of those, is an image or a toy.
_MADE_AFTER = _listed("costume design figure figurine print sculpture shape shaped statue themed")
_MADE_BEFORE = _listed("stuffed plush")
_ANIMALS = _listed("bird cat dog horse sheep cow elephant bear zebra giraffe")
_OTHER_ANIMALS = _listed("animal antelope bison buffalo camel deer donkey fox goat lion monkey moose pig rabbit tiger")
# People, or beside animals the old and young of those: a mother elephant and her baby.
_KIN = _listed("adult baby dad family father female infant male mom mother newborn parent youth")
# Not themselves right before what they describe: a passenger jet, a child skier, a baby goat, an apple laptop.
_ADJECTIVES = _KIN | _listed("apple child commuter couple individual kid passenger teen")
_LINKS = _listed(
    "a an and are as at behind by for from her his in is near of on or over the their to under up while who with"
)
# Between these, an orange is a fruit.
_BEFORE_A_FRUIT = _listed("a an another cut each fresh half of one peeled ripe single sliced the this whole")
_AFTER_A_FRUIT = _listed(
    "at being beside cut from fruit half has in is next on peel sitting slice slices that wedge wedges which with"
)
_ARTICLES = _listed("a an some the two")
_COLOURS = _listed("black blue brown gold gray green grey pink purple red silver tan white yellow")
_IRREGULAR = {
    "aircraft": "aircraft",
    "bus": "buses busses",
    "child": "children",
    "goose": "geese",
    "human": "humans",
    "mouse": "mice",
    "ox": "oxen",
    "sheep": "sheep",
    "somebody": "somebody",
    "someone": "someone",
}
_PAUSE = re.compile(r"[,.;:!?()/\"]+")  # words on either side belong to different names


@dataclass(frozen=True, slots=True)
class Mention:
    """Words of a caption that name an object; when they may mean several categories, any of them."""

    words: str
    categories: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"words": self.words, "categories": list(self.categories)}


@dataclass(frozen=True, slots=True)
class CaptionObjects:
    """The objects that one caption mentions, in its order, and those of them that are not in its picture."""

    image: str
    mentioned: tuple[Mention, ...]
    hallucinated: tuple[Mention, ...]


@dataclass(frozen=True, slots=True)
class Hallucination:
    """How often captions name objects that are not there.

    Units: `chair_s` is the share of captions with at least one such object, `chair_i` the share of all mentions of
        objects, `recall` the share of the annotated categories of all pictures that their captions mention; each is 0
        where there is nothing to count. `n` counts captions, `mentions` objects mentioned; `captions` has one entry a
        caption.
    """

    chair_s: float
    chair_i: float
    recall: float
    n: int
    mentions: int
    captions: tuple[CaptionObjects, ...]

    def to_json(self) -> dict[str, Any]:
        """The scores, and of each caption that names something absent, what."""
        return {
            "CHAIR_s": round(self.chair_s, 6),
            "CHAIR_i": round(self.chair_i, 6),
            "object_recall": round(self.recall, 6),
            "n": self.n,
            "mentions": self.mentions,
            "hallucinated": {
                one.image: [mention.to_json() for mention in one.hallucinated]
                for one in self.captions
                if one.hallucinated
            },
        }


def chair(
    captions: Mapping[str, str],
    instances: Mapping[str, Collection[str]],
    references: Mapping[str, Sequence[str]] | None = None,
    names: ObjectNames | None = None,
) -> Hallucination:
    """How often captions name objects that are not in their pictures.

    What is in a picture: the categories of its annotated instances and, with `references`, every object that people's
    captions of it mention (annotators do not outline everything). A mention is an occurrence: a caption that names two
    dogs in two places mentions two objects.

    Args:
        captions: One caption a picture.
        instances: The names of the categories annotated in each of these pictures, in any number; an empty collection
            where nothing was annotated. Pictures without a caption are left aside.
        references: What people wrote of each of these pictures, as in the paper.
        names: The words that name objects, from all categories that were annotated (`ObjectNames.of`). When not given:
            COCO's 80 if every instance is of them, or else the categories that occur.

    Raises:
        DataError: There are no captions, a picture has no entry in `instances` or `references`, or an instance is of no
            category that `names` knows.

    Source: Rohrbach, Hendricks, Burns, Darrell & Saenko 2018, section 2.1. The table of words is our own, and differs
        from theirs in that a word may stand for several categories and an animal's kin are no persons.
    """
    _check(captions, instances, references)
    if names is None:
        occurring = set(chain.from_iterable(instances.values()))
        names = ObjectNames.of(COCO_CATEGORIES if occurring.issubset(COCO_CATEGORIES) else sorted(occurring))
    rows = []
    seen = present = 0
    for image, caption in captions.items():
        annotated = set(instances[image])
        if unknown := annotated.difference(names.categories):
            raise DataError(
                f"picture {image!r} has an instance of {min(unknown)!r}, which is none of the {len(names.categories)} "
                "categories given; give all that were annotated"
            )
        mentioned = names.mentions(caption)
        truth = set(annotated)
        for reference in references[image] if references is not None else ():
            truth.update(*(mention.categories for mention in names.mentions(reference)))
        absent = tuple(mention for mention in mentioned if truth.isdisjoint(mention.categories))
        rows.append(CaptionObjects(image, mentioned, absent))
        present += len(annotated)
        seen += len(annotated.intersection(chain.from_iterable(mention.categories for mention in mentioned)))
    mentions = sum(len(row.mentioned) for row in rows)
    return Hallucination(
        chair_s=sum(bool(row.hallucinated) for row in rows) / len(rows),
        chair_i=sum(len(row.hallucinated) for row in rows) / max(1, mentions),
        recall=seen / max(1, present),
        n=len(rows),
        mentions=mentions,
        captions=tuple(rows),
    )


@dataclass(frozen=True)
class ObjectNames:
    """The phrases that name objects; those that only look as if they did map to no category."""

    categories: tuple[str, ...]
    phrases: Mapping[tuple[str, ...], tuple[str, ...]]

    @classmethod
    def of(cls, categories: Iterable[str] = COCO_CATEGORIES) -> ObjectNames:
        """The names of some categories: their own and their plurals, and for those of COCO (`COCO_WORDS`) synonyms.

        Raises:
            DataError: There are no categories, or one has no letter or digit to find it by.
        """
        known = tuple(dict.fromkeys(categories))
        if not known:
            raise DataError("there are no categories of objects; give the names of all that were annotated")
        own: dict[tuple[str, ...], list[str]] = {}
        for category in known:
            if not any(_words(category)):
                raise DataError(f"the category {category!r} has no word to find it by; name it with letters")
            for phrase in _forms(category):
                own.setdefault(phrase, []).append(category)
        coco: dict[tuple[str, ...], list[str]] = {}
        for category, synonyms in COCO_WORDS.items():
            for name in (category, *filter(None, synonyms.split(", "))):
                for phrase in _forms(name):
                    coco.setdefault(phrase, []).extend([category] if category in known else [])
        others: dict[tuple[str, ...], list[str]] = {
            phrase: [] for name in " ".join(_OTHER_THINGS.split()).split(", ") for phrase in _forms(name)
        }
        for phrase, found in {**coco, **others}.items():
            if not found and phrase[-1:] in own.keys() - coco.keys():
                found = own[phrase[-1:]]  # where stations are objects, a train station is one
            if found or len(phrase) > 1:  # names of nothing guard the names within them
                own.setdefault(phrase, found)
        return cls(known, {phrase: tuple(found) for phrase, found in own.items()})

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.phrases))

    def mentions(self, caption: str) -> tuple[Mention, ...]:
        """The objects that a caption mentions, in its order; of names within names the longest counts.

        Names of one category side by side are one mention (`puppy dog`). Not counted are images and toys (`cow print`,
        `stuffed dog`), an orange that is a colour, and persons that describe what follows (`passenger train`, `male
        lion`). A `mother`, `baby` or the like may be one of the animals that the caption mentions, a `car` its train.
        """
        words = _words(caption)
        spans = [span for span in self._spans(words) if not _is_made(words, span) and not _is_colour(words, span)]
        spans = _joined([span for span in spans if not _describes(words, span, spans)])
        named = {name for span in spans for name in span.categories}
        return tuple(
            Mention(
                " ".join(words[span.start : span.stop]),
                (
                    *span.categories,
                    *sorted(named.intersection(_also(words[span.stop - 1])).difference(span.categories)),
                ),
            )
            for span in spans
        )

    def _spans(self, words: Sequence[str]) -> list[_Span]:
        spans: list[_Span] = []
        at = 0
        while at < len(words):
            for stop in range(min(at + self._longest, len(words)), at, -1):
                categories = self.phrases.get(tuple(words[at:stop]))
                if categories is not None:
                    if categories:
                        spans.append(_Span(at, stop, categories))
                    at = stop
                    break
            else:
                at += 1
        return spans


@dataclass(frozen=True, slots=True)
class _Span:
    """The words from `start` up to `stop` name one of these categories."""

    start: int
    stop: int
    categories: tuple[str, ...]


def _check(
    captions: Mapping[str, str],
    instances: Mapping[str, Collection[str]],
    references: Mapping[str, Sequence[str]] | None,
) -> None:
    if not captions:
        raise DataError("there are no captions to look for objects in; give one a picture")
    for name, known in (("instances", instances), ("references", references)):
        if known is None:
            continue
        if missing := [image for image in captions if image not in known]:
            few = ", ".join(map(repr, missing[:3])) + (", …" if len(missing) > 3 else "")
            raise DataError(
                f"{len(missing)} of {len(captions)} captions are of pictures without {name} ({few}); give theirs "
                "(empty where there is nothing), or leave out the captions"
            )
        if strings := [image for image in captions if isinstance(known[image], str)]:
            raise TypeError(f"the {name} of {strings[0]!r} are a string, not a collection of strings")


def _words(text: str) -> list[str]:
    """The words to compare: `hot-dog` is two, and so is `man's`; an empty one stands for a comma or the like."""
    words: list[str] = []
    for part in _PAUSE.split(text):
        tokens = (piece for token in tokenise(part) for piece in token.replace("'s", "-'s").split("-"))
        words += [*filter(None, tokens), ""]
    return words[:-1]


def _forms(name: str) -> list[tuple[str, ...]]:
    """A name as words, and with its last word in the plural."""
    *before, last = [word for word in _words(name) if word]
    return [(*before, form) for form in dict.fromkeys([last, *_plurals(last)])]


def _plurals(word: str) -> list[str]:
    if word in _IRREGULAR:
        return _IRREGULAR[word].split()
    if word.endswith("man"):
        return [word[:-3] + "men"]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return [word + "es"]
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return [word[:-1] + "ies"]
    if word.endswith(("f", "fe")):
        return [word + "s", word.removesuffix("e")[:-1] + "ves"]
    return [word + "s", word + "es"] if word.endswith("o") else [word + "s"]


_KIN_FORMS = frozenset(form for word in _KIN for (form,) in _forms(word))
_OTHER_ANIMAL_FORMS = frozenset(form for word in _OTHER_ANIMALS for (form,) in _forms(word))


def _is_made(words: Sequence[str], span: _Span) -> bool:
    """Whether the object is an image or a toy of one."""
    after = span.stop < len(words) and words[span.stop] in _MADE_AFTER
    return after or (
        span.start > 0 and words[span.start - 1] in _MADE_BEFORE and not _ANIMALS.isdisjoint(span.categories)
    )


def _is_colour(words: Sequence[str], span: _Span) -> bool:
    """Whether `orange` is not the fruit: that stands after an article or the like, and no thing follows."""
    if tuple(words[span.start : span.stop]) != ("orange",):
        return False
    before = words[span.start - 1] if span.start else ""
    after, then = (*words[span.stop :], "", "")[:2]
    alone = not after or after in _AFTER_A_FRUIT or (after in ("and", "or") and then in _ARTICLES)
    return not alone or before not in _BEFORE_A_FRUIT or then in _COLOURS


def _describes(words: Sequence[str], span: _Span, spans: Sequence[_Span]) -> bool:
    """Whether a name only says of what kind the next is, at most one word later: `passenger train`, `male lion`."""
    if words[span.stop - 1] not in _ADJECTIVES:
        return False
    names = {other.start for other in spans} | {at for at, word in enumerate(words) if word in _OTHER_ANIMAL_FORMS}
    if span.stop in names:
        return True
    after = words[span.stop] if span.stop < len(words) else ""
    verb = after.endswith(("ing", "ed", "s")) and not after.endswith(("ss", "is", "us"))
    if not after or verb or after in _LINKS:
        return False
    return span.stop + 1 in names or words[span.stop - 1] in ("passenger", "commuter")


def _also(word: str) -> Collection[str]:
    """What else a word may mean in a caption that names it: the kin of animals, the cars of a train."""
    if word in _KIN_FORMS:
        return _ANIMALS
    return ("train",) if word in ("car", "cars") else ()


def _joined(spans: Sequence[_Span]) -> list[_Span]:
    """The spans, those side by side that may mean the same made one."""
    out: list[_Span] = []
    for span in spans:
        shared = tuple(name for name in span.categories if out and name in out[-1].categories)
        if shared and out[-1].stop == span.start:
            out[-1] = _Span(out[-1].start, span.stop, shared)
        else:
            out.append(span)
    return out
