"""Objects that captions mention, and how many of them are not in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.errors import DataError
from showtell.metrics import read_references
from showtell.metrics.hallucination import COCO_CATEGORIES, COCO_WORDS, Mention, ObjectNames, chair

COCO = ObjectNames.of()
SAID = st.lists(
    st.sampled_from(["a", "red", "dog", "cat", "hot", "bus", "stop", "two", "bikes", "and", "on"]), max_size=8
)


def found(caption: str, names: ObjectNames = COCO) -> list[str]:
    """`words:category/category` of each mention, the categories left out where they are the words."""
    mentions = names.mentions(caption)
    return [
        mention.words if mention.categories == (mention.words,) else f"{mention.words}:{'/'.join(mention.categories)}"
        for mention in mentions
    ]


def test_the_categories_are_those_of_coco() -> None:
    assert len(COCO_CATEGORIES) == len(set(COCO_CATEGORIES)) == 80
    assert COCO_CATEGORIES[:3] == ("person", "bicycle", "car")
    assert COCO_CATEGORIES[-3:] == ("teddy bear", "hair drier", "toothbrush")


@pytest.mark.parametrize("category", COCO_CATEGORIES)
def test_each_category_is_found_by_its_name_and_synonyms(category: str) -> None:
    synonyms = COCO_WORDS[category].split(", ") if COCO_WORDS[category] else []
    for name in (category, *synonyms):
        mentions = COCO.mentions(f"there is one {name}")
        assert len(mentions) == 1, name
        assert category in mentions[0].categories, name
    assert COCO.mentions(f"one {category}")[0].categories == (category,)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two men and three women ride buses", ["men:person", "women:person", "buses:bus"]),
        ("Children, mice, knives, geese and sheep",
         ["children:person", "mice:mouse", "knives:knife", "geese:bird", "sheep"]),
        ("puppies, benches, couches, sandwiches, calves",
         ["puppies:dog", "benches:bench", "couches:couch", "sandwiches:sandwich", "calves:cow"]),
        ("policemen watch oxen beside aircraft", ["policemen:person", "oxen:cow", "aircraft:airplane"]),
        ("wine glasses, toothbrushes and skis", ["wine glasses:wine glass", "toothbrushes:toothbrush", "skis"]),
        ("The dog's bone is on a MAN'S T-shirt.", ["dog", "man:person"]),
    ],
)  # fmt: skip
def test_plurals_are_found(caption: str, expected: list[str]) -> None:
    assert found(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a hot dog with mustard", ["hot dog"]),
        ("three hot-dogs beside a dog", ["hot dogs:hot dog", "dog"]),
        ("a hot day, dog asleep", ["dog"]),
        ("a stuffed teddy bear and a polar bear", ["teddy bear", "bear"]),
        ("a stop sign at the bus stop", ["stop sign"]),
        ("a fire hydrant below a traffic light", ["fire hydrant", "traffic light"]),
        ("a train station with train tracks", []),
        ("train cars on train tracks", ["train cars:train"]),
        ("baseball players hit a ball with a baseball bat", ["players:person", "ball:sports ball", "baseball bat"]),
        ("a batter up to bat", ["batter:person"]),
        ("toilet paper near a toilet seat", ["toilet seat:toilet"]),
        ("a chili dog, a corn dog and a sheep dog", ["chili dog:hot dog", "sheep dog:dog"]),
        ("carrot cake on a tablecloth", ["carrot cake:cake"]),
        ("a skate board, a surf board and a cutting board", ["skate board:skateboard", "surf board:surfboard"]),
        ("a remote area seen by remote control", ["remote control:remote"]),
    ],
)
def test_longer_names_guard_what_is_within_them(caption: str, expected: list[str]) -> None:
    assert found(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a puppy dog and a kitty cat", ["puppy dog:dog", "kitty cat:cat"]),
        ("a passenger train beside a passenger", ["train", "passenger:person"]),
        ("a male tennis player", ["player:person"]),
        ("a baby boy", ["boy:person"]),
        ("a couple large elephants", ["elephants:elephant"]),
        ("a couple of giraffes", ["giraffes:giraffe"]),
        ("a couple eating pizza", ["couple:person", "pizza"]),
        ("a mother elephant and her baby", ["elephant", "baby:person/elephant"]),
        ("a mother and her baby", ["mother:person", "baby:person"]),
        ("a baby goat", []),
        ("the last car of a train", ["car:car/train", "train"]),
        ("a bike", ["bike:bicycle/motorcycle"]),
        ("an Apple laptop beside an apple", ["laptop", "apple"]),
        ("a microwave, oven and a microwave oven", ["microwave", "oven", "microwave oven:microwave"]),
        ("a dog statue, a cow print and a stuffed elephant", []),
    ],
)
def test_names_that_describe_others_are_no_objects(caption: str, expected: list[str]) -> None:
    assert found(caption) == expected


@pytest.mark.parametrize(
    "caption",
    ["an orange on a plate", "Two oranges", "peeled orange slices", "an apple, an orange", "an orange and a pear"],
)
def test_an_orange_is_a_fruit(caption: str) -> None:
    assert [mention for mention in COCO.mentions(caption) if "orange" in mention.categories]


@pytest.mark.parametrize(
    "caption",
    [
        "an orange shirt",
        "an orange and white cat",
        "a bus painted orange",
        "an orange, blue and red kite",
        "orange juice",
    ],
)
def test_orange_is_a_colour(caption: str) -> None:
    assert not [mention for mention in COCO.mentions(caption) if "orange" in mention.categories]


def test_chair_by_hand() -> None:
    captions = {
        "a": "a dog and a cat on a bench",  # the cat is not there
        "b": "two dogs beside a dog",
        "c": "something blue",
        "d": "a man on a bike with a frisbee",  # the frisbee is not there
    }
    instances = {
        "a": ["dog", "bench", "dog", "person"],
        "b": {"dog"},
        "c": set(),
        "d": ("motorcycle", "person"),
        "e": {"zebra"},
    }
    scores = chair(captions, instances)
    assert scores.chair_s == 2 / 4
    assert (scores.chair_i, scores.mentions) == (2 / 8, 8)
    assert scores.recall == pytest.approx((2 + 1 + 0 + 2) / (3 + 1 + 0 + 2))
    assert scores.n == 4
    assert [(one.image, [mention.words for mention in one.hallucinated]) for one in scores.captions] == [
        ("a", ["cat"]),
        ("b", []),
        ("c", []),
        ("d", ["frisbee"]),
    ]
    assert scores.captions[3].mentioned[1] == Mention("bike", ("bicycle", "motorcycle"))
    assert scores.to_json() == {
        "CHAIR_s": 0.5,
        "CHAIR_i": 0.25,
        "object_recall": round(5 / 6, 6),
        "n": 4,
        "mentions": 8,
        "hallucinated": {
            "a": [{"words": "cat", "categories": ["cat"]}],
            "d": [{"words": "frisbee", "categories": ["frisbee"]}],
        },
    }


def test_what_people_mention_is_there() -> None:
    captions = {"a": "a dog and a kitten by a sofa"}
    assert chair(captions, {"a": ["dog"]}).chair_i == pytest.approx(2 / 3)
    references = {"a": ["Two cats.", "A dog looks at a cat on the couch"], "other": ["a horse"]}
    scores = chair(captions, {"a": ["dog"]}, references)
    assert (scores.chair_i, scores.chair_s, scores.recall) == (0, 0, 1)


def test_captions_without_objects_score_zero() -> None:
    scores = chair({"a": "", "b": "blue sky"}, {"a": ["dog"], "b": []})
    assert (scores.chair_s, scores.chair_i, scores.recall, scores.mentions) == (0, 0, 0, 0)


def test_other_categories_are_found_by_name_and_plural() -> None:
    names = ObjectNames.of(["traffic_cone", "Shelf", "berry", "potato", "train station", "dog"])
    caption = "Traffic cones, shelves, berries and potatoes at train stations; a puppy, a hot dog and a cat"
    assert found(caption, names) == [
        "traffic cones:traffic_cone",
        "shelves:Shelf",
        "berries:berry",
        "potatoes:potato",
        "train stations:train station",
        "puppy:dog",
    ]
    scores = chair({"a": "a cone on a shelf"}, {"a": ["cone"], "b": ["shelf"]})
    assert (scores.chair_i, scores.mentions) == (0.5, 2)


def test_a_category_goes_before_a_synonym() -> None:
    assert found("a man and a boy", ObjectNames.of(["person", "man"])) == ["man", "boy:person"]
    assert found("a train station", ObjectNames.of(["train", "station"])) == ["train station:station"]
    assert found("một con chó", ObjectNames.of(["chó"])) == ["chó"]
    assert found("一只狗在跑", ObjectNames.of(["狗"])) == ["狗"]


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(SAID, st.sets(st.sampled_from(["dog", "cat", "bus"]))), min_size=1
    )
)
def test_scores_are_shares_that_more_truth_only_lowers(pictures: dict[str, tuple[list[str], set[str]]]) -> None:
    captions = {image: " ".join(words) for image, (words, _) in pictures.items()}
    instances = {image: there for image, (_, there) in pictures.items()}
    scores = chair(captions, instances, names=COCO)
    absent = [len(one.hallucinated) for one in scores.captions]
    assert scores.chair_s == sum(map(bool, absent)) / len(captions)
    assert scores.mentions == sum(len(COCO.mentions(caption)) for caption in captions.values())
    assert scores.chair_i == sum(absent) / max(1, scores.mentions)
    assert 0 <= scores.recall <= 1
    told = chair(captions, instances, {image: [caption] for image, caption in captions.items()}, COCO)
    assert (told.chair_s, told.chair_i, told.recall) == (0, 0, scores.recall)


def test_people_seldom_mention_what_no_one_else_does(shared_data: Path) -> None:
    """One reference of each picture against the objects of the others: what is left is detail that they left out."""
    references = read_references(shared_data / "coco/annotations/captions_val2017.json")
    said = {image: group[0] for image, group in references.items()}
    others = {image: group[1:] for image, group in references.items()}
    scores = chair(said, dict.fromkeys(references, ()), others, COCO)
    assert scores.mentions > 1.2 * scores.n
    assert scores.chair_i < 0.07
    assert scores.chair_s < 0.09
    ids = list(references)
    shifted = dict(zip(ids, [said[image] for image in ids[1:] + ids[:1]], strict=True))
    assert chair(shifted, dict.fromkeys(references, ()), others, COCO).chair_i > 0.6  # captions of other pictures


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (({}, {}), DataError, "there are no captions to look for objects in"),
        (({"a": "x", "b": "y"}, {"a": []}), DataError, r"1 of 2 captions are of pictures without instances \('b'\)"),
        (({"a": "x"}, {"a": []}, {}), DataError, r"1 of 1 captions are of pictures without references \('a'\)"),
        (
            ({"a": "x"}, {"a": ["dgo"]}, None, COCO),
            DataError,
            "picture 'a' has an instance of 'dgo', which is none of the 80",
        ),
        (({"a": "x"}, {"a": "dog"}), TypeError, "the instances of 'a' are a string"),
        (({"a": "x"}, {"a": ["dog"]}, {"a": "a dog"}), TypeError, "the references of 'a' are a string"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: tuple[Any, ...], error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        chair(*arguments)


def test_categories_that_cannot_be_found_are_refused() -> None:
    with pytest.raises(DataError, match="there are no categories of objects"):
        ObjectNames.of([])
    with pytest.raises(DataError, match=r"the category '\?\?' has no word to find it by"):
        ObjectNames.of(["dog", "??"])
