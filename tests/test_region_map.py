"""Mean average precision of described boxes, against brute force; the Java-free likeness of words, against METEOR."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from showtell.errors import DataError
from showtell.metrics import read_references, tokenise_ptb
from showtell.metrics import regions as module
from showtell.metrics.regions import (
    LIKENESSES,
    OVERLAPS,
    average_precision,
    merge_regions,
    meteor_like,
    region_map,
)
from showtell.records import Region, RegionCaption

Box = tuple[float, float, float, float]
CAT, DOG, FAR = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 40.0, 20.0), (90.0, 90.0, 99.0, 99.0)
WORDS = ["red", "cat", "dog", "sits", "a", "on", "sitting"]
SAYINGS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
CORNERS = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 6), st.integers(1, 6)).map(
    lambda xywh: (float(xywh[0]), float(xywh[1]), float(xywh[0] + xywh[2]), float(xywh[1] + xywh[3]))
)


def shared_words(candidate: str, references: Sequence[str]) -> float:
    """A likeness simple enough to compute by hand."""
    words = set(candidate.split())
    return max(len(words & set(reference.split())) / len(words | set(reference.split())) for reference in references)


def overlap_of(one: Box, other: Box) -> float:
    common = max(0, min(one[2], other[2]) - max(one[0], other[0])) * max(
        0, min(one[3], other[3]) - max(one[1], other[1])
    )
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(sizes) - common)


def slow_average_precision(right: Sequence[bool], positives: int) -> float:
    """Each recall looked up on its own, the way the published evaluation loops over the list."""
    total = 0.0
    for percent in range(100):
        best = 0.0
        for last in range(1, len(right) + 1):
            hits = sum(right[:last])
            if 100 * hits >= percent * positives:
                best = max(best, hits / last)
        total += best
    return total / 100


def slow_map(
    predictions: dict[str, list[RegionCaption]], truth: dict[str, list[Region]], overlap: float, likeness: float
) -> float:
    """One (overlap, likeness) by the definition, box by box; for truth that needs no merging."""
    rows: list[tuple[float, bool]] = []
    for image, said in predictions.items():
        taken: set[int] = set()
        right: dict[int, bool] = {}
        for place in sorted(range(len(said)), key=lambda place: -said[place].score):
            overlaps = [overlap_of(said[place].box, region.box) for region in truth[image]]
            best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
            right[place] = False
            if best is not None and overlaps[best] > 0 and best not in taken:
                taken.add(best)
                near = shared_words(said[place].text, truth[image][best].phrases) > likeness
                right[place] = overlaps[best] >= overlap and near
        rows += [(said[place].score, right[place]) for place in range(len(said))]
    rows.sort(key=lambda row: -row[0])
    return slow_average_precision([good for _, good in rows], sum(map(len, truth.values())))


def test_perfect_descriptions_score_one() -> None:
    truth = {"a": [Region(CAT, ("a red cat",)), Region(DOG, ("the dog sits",))], "b": [Region(FAR, ("one bird",))]}
    said = {
        image: [RegionCaption(region.box, region.phrases[0], 0.5) for region in regions]
        for image, regions in truth.items()
    }
    scores = region_map(said, truth)
    assert scores.map == scores.localisation == 1
    assert (scores.n, scores.regions, scores.predictions) == (2, 3, 3)
    assert list(scores.precisions) == [(overlap, likeness) for overlap in OVERLAPS for likeness in LIKENESSES]


def test_saying_nothing_scores_zero() -> None:
    scores = region_map({"a": []}, {"a": [Region(CAT, ("a red cat",))]})
    assert (scores.map, scores.localisation, scores.regions, scores.predictions) == (0, 0, 1, 0)


def test_half_of_the_things_by_hand() -> None:
    truth = {"a": [Region(CAT, ("a red cat",)), Region(DOG, ("the dog sits",))]}
    # Found with precision 1 up to recall 1/2: of the recalls 0 to 0.99, the 51 up to 0.5.
    assert region_map({"a": [RegionCaption(CAT, "a red cat", 0.9)]}, truth).map == pytest.approx(0.51)
    # A miss before it halves the precision, a miss after it changes nothing.
    miss = RegionCaption(FAR, "a red cat", 0.95)
    assert region_map({"a": [RegionCaption(CAT, "a red cat", 0.9), miss]}, truth).map == pytest.approx(0.255)
    late = RegionCaption(FAR, "a red cat", 0.1)
    assert region_map({"a": [RegionCaption(CAT, "a red cat", 0.9), late]}, truth).map == pytest.approx(0.51)


def test_a_duplicate_is_an_error() -> None:
    truth = {"a": [Region(CAT, ("a red cat",)), Region(DOG, ("the dog sits",))]}
    cat, dog = RegionCaption(CAT, "a red cat", 0.9), RegionCaption(DOG, "the dog sits", 0.7)
    again = RegionCaption((0, 0, 10, 9), "a red cat", 0.8)
    assert region_map({"a": [cat, dog]}, truth).map == 1
    # Precision 1 up to recall 1/2 (51 points), then 2 of 3 (49 points).
    assert region_map({"a": [cat, again, dog]}, truth).map == pytest.approx(0.51 + 0.49 * 2 / 3)


def test_the_first_to_fall_to_a_box_takes_it_even_when_it_is_wrong() -> None:
    truth = {"a": [Region(CAT, ("a red cat",))]}
    poor = RegionCaption((8, 8, 30, 30), "a red cat", 0.9)
    assert region_map({"a": [poor, RegionCaption(CAT, "a red cat", 0.8)]}, truth).map == 0


def test_words_and_boxes_each_count() -> None:
    truth = {"a": [Region(CAT, ("red cat",))]}
    right = region_map({"a": [RegionCaption((0, 0, 10, 5), "red", 1)]}, truth, lambda *_: 0.15)
    expected = {key: float(key[0] <= 0.5 and key[1] < 0.15) for key in ((o, k) for o in OVERLAPS for k in LIKENESSES)}
    assert right.precisions == expected
    assert right.map == pytest.approx(9 / 30)
    assert right.localisation == pytest.approx(3 / 5)
    nothing_alike = region_map({"a": [RegionCaption(CAT, "dog", 1)]}, truth)
    assert (nothing_alike.map, nothing_alike.localisation) == (0, 1)


def test_boxes_on_one_thing_are_merged_with_all_their_phrases() -> None:
    heard: list[Sequence[str]] = []

    def listen(candidate: str, references: Sequence[str]) -> float:
        heard.append(references)
        return 1.0

    truth = {"a": [Region(CAT, ("a cat", "one cat")), Region((0, 0, 10, 9), ("an animal",)), Region(DOG, ("a dog",))]}
    scores = region_map({"a": [RegionCaption((0, 0, 10, 9.5), "x", 1), RegionCaption(DOG, "x", 0.5)]}, truth, listen)
    assert heard == [["a cat", "one cat", "an animal"], ["a dog"]]
    assert (scores.map, scores.regions) == (1, 2)


def test_groups_grow_around_the_box_with_most_neighbours() -> None:
    # A row of boxes shifted by 1 of 10: IoU 9/11 to the next, 8/12 to the one after.
    row = np.array([(x, 0, x + 10, 10) for x in range(4)], float)
    assert [group.tolist() for group in merge_regions(row)] == [[0, 1, 2], [3]]
    assert [group.tolist() for group in merge_regions(np.zeros((0, 4)))] == []


@given(st.lists(CORNERS, max_size=8))
def test_groups_hold_every_box_once_around_a_centre(boxes: list[Box]) -> None:
    groups = merge_regions(np.array(boxes, float).reshape(-1, 4))
    assert sorted(index for group in groups for index in group) == list(range(len(boxes)))
    for group in groups:
        assert any(all(overlap_of(boxes[centre], boxes[other]) >= 0.7 for other in group) for centre in group)
    for one, other in combinations(groups, 2):
        assert overlap_of(boxes[one[0]], boxes[other[0]]) < 1


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 5))
@settings(max_examples=200)
def test_average_precision_equals_brute_force(right: list[bool], missed: int) -> None:
    positives = max(1, sum(right) + missed)
    found = average_precision(np.array(right, bool), positives)
    assert found == pytest.approx(slow_average_precision(right, positives), abs=1e-12)
    assert 0 <= found <= 1


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(CORNERS, SAYINGS, st.sampled_from([0.1, 0.3, 0.5, 0.7])), max_size=6),
            st.lists(st.tuples(CORNERS, SAYINGS), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=100, deadline=None)
def test_map_equals_brute_force(pictures: list[tuple[list[Any], list[Any]]]) -> None:
    said = {str(n): [RegionCaption(*row) for row in rows] for n, (rows, _) in enumerate(pictures)}
    truth: dict[str, list[Region]] = {}
    for number, (_, rows) in enumerate(pictures):
        kept: list[Region] = []
        for box, phrase in rows:
            if all(overlap_of(box, region.box) < 0.7 for region in kept):
                kept.append(Region(box, (phrase,)))
        truth[str(number)] = kept
    scores = region_map(said, truth, shared_words)
    for (overlap, likeness), value in scores.precisions.items():
        assert value == pytest.approx(slow_map(said, truth, overlap, likeness), abs=1e-12)
    assert scores.map == pytest.approx(np.mean(list(scores.precisions.values())))
    assert scores.localisation >= scores.map - 1e-12


def test_scores_travel_as_json() -> None:
    out = region_map({"a": [RegionCaption(CAT, "a cat", 1)]}, {"a": [Region(CAT, ("a cat",))]}).to_json()
    assert (out["map"], out["localisation"], out["regions"]) == (1, 1, 1)
    assert out["precisions"][0] == {"overlap": 0.3, "likeness": 0.0, "precision": 1.0}
    assert len(out["precisions"]) == 30


@pytest.mark.parametrize(
    ("said", "truth", "sentence"),
    [
        ({}, {"a": [Region(CAT, ("x",))]}, r"1 of 1 pictures have no predictions \('a'\); give an empty list"),
        ({"a": [], "b": []}, {"a": [Region(CAT, ("x",))]}, r"1 of 2 pictures have no true regions \('b'\)"),
        ({"a": []}, {"a": []}, "none of the 1 pictures has a region to find"),
        ({"a": []}, {"a": [Region(CAT, (), "cat")]}, "region 1 of 'a' has no phrase"),
        ({"a": []}, {"a": [Region((5, 0, 5, 9), ("x",))]}, r"region 1 of 'a' has the box \[5\.0, 0\.0, 5\.0, 9\.0\]"),
        ({"a": [RegionCaption((0, 0, math.nan, 1), "x", 1)]}, {"a": [Region(CAT, ("x",))]}, "prediction 1 of 'a' has"),
        ({"a": [RegionCaption(CAT, "x", math.nan)]}, {"a": [Region(CAT, ("x",))]}, "prediction 1 of 'a' has the score"),
    ],
)
def test_what_cannot_be_scored_is_refused(said: Any, truth: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        region_map(said, truth)


def test_a_similarity_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"similarity of 'x' and \['y'\] is NaN"):
        region_map({"a": [RegionCaption(CAT, "x", 1)]}, {"a": [Region(CAT, ("y",))]}, lambda *_: math.nan)


def test_likeness_by_hand() -> None:
    assert meteor_like("A red cat.", ["dogs", "a red cat"]) == pytest.approx(1)
    assert meteor_like("two dogs", ["a red cat"]) == meteor_like("", ["a red cat"]) == meteor_like("x", []) == 0
    # red and cat match (content, 0.75), a and the do not (function, 0.25); two words in one run.
    precision, recall = 1.5 / 1.75, 1.5 / (0.25 + 0.75 * 3)
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert meteor_like("a red cat", ["the red cat sleeps"]) == pytest.approx(mean * (1 - 0.6 * (1 / 2) ** 0.2))
    # In the other order they are two runs.
    assert meteor_like("a cat red", ["the red cat sleeps"]) == pytest.approx(mean * (1 - 0.6))
    # The same stem counts 0.6 of the same word.
    assert meteor_like("riding", ["rides"]) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "words",
    [
        "ride rides riding", "sit sits sitting", "jump jumps jumped jumping", "use used using", "tie tied ties",
        "carry carries carried carrying", "bus buses", "dish dishes", "box boxes", "horse horses", "cookie cookies",
        "ski skis skiing", "play plays played playing", "eat eating", "balance balanced balancing",
    ],
)  # fmt: skip
def test_forms_of_a_word_share_a_stem(words: str) -> None:
    assert len({module._stem(word) for word in words.split()}) == 1


def test_other_words_keep_apart() -> None:
    text = "plane plan bus bush glass tennis this king red bed speed sped seed car care 's 3d wing ring hop hope"
    words = text.split()
    assert len({module._stem(word) for word in words}) == len(words)


@given(st.lists(st.sampled_from(WORDS), max_size=5), st.lists(st.sampled_from(WORDS), max_size=5))
@settings(max_examples=150, deadline=None)
def test_alignment_is_the_best_of_all(candidate: list[str], reference: list[str]) -> None:
    def cost(pairs: Iterable[tuple[int, int]]) -> tuple[int, int, int]:
        pairs = list(pairs)
        starts = sum((i - 1, j - 1) not in pairs for i, j in pairs)
        return -len(pairs), starts, sum(abs(i - j) for i, j in pairs)

    stems = [module._stem(word) for word in reference]
    best = (0, 0, 0)
    for size in range(1, min(len(candidate), len(reference)) + 1):
        for left in combinations(range(len(candidate)), size):
            for right in permutations(range(len(reference)), size):
                if all(module._stem(candidate[i]) == stems[j] for i, j in zip(left, right, strict=True)):
                    best = min(best, cost(zip(left, right, strict=True)))
    found = module._align(candidate, reference)
    assert cost((i, j) for i, j, _ in found) == best
    assert all(weight == (1.0 if candidate[i] == reference[j] else 0.6) for i, j, weight in found)


def test_words_said_over_and_over_are_aligned() -> None:
    assert meteor_like("the " * 500, ["the " * 500]) == pytest.approx(1)
    assert 0.01 < meteor_like("very " * 300 + "red", ["a very very very red cat"]) < 0.1


@given(SAYINGS, st.lists(SAYINGS, min_size=1, max_size=3))
@settings(deadline=None)
def test_likeness_is_a_share_and_one_for_a_reference_itself(caption: str, references: list[str]) -> None:
    assert 0 <= meteor_like(caption, references) <= 1
    assert meteor_like(caption, [*references, caption]) == pytest.approx(1)


@pytest.fixture(scope="module")
def meteor_folder() -> Path:
    if shutil.which("java") is None:
        pytest.skip("METEOR needs Java")
    return Path(pytest.importorskip("pycocoevalcap.meteor.meteor").__file__).parent


def held_out(folder: Path, pictures: int = 500) -> list[tuple[str, list[str]]]:
    groups = list(read_references(folder / "coco/annotations/captions_val2017.json").values())[:pictures]
    tokens = [[" ".join(tokenise_ptb(caption)) for caption in group] for group in groups]
    return [(group[-1], group[:-1]) for group in tokens]


def in_java(folder: Path, pairs: list[tuple[str, list[str]]], *options: str) -> np.ndarray:
    """The scores that METEOR 1.5 gives, over its line protocol: SCORE gives statistics, EVAL turns them into scores."""
    command = ["java", "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm", *options]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as java:

        def ask(question: str) -> str:
            java.stdin.write(question + "\n")
            java.stdin.flush()
            return java.stdout.readline().strip()

        statistics = [ask(" ||| ".join(["SCORE", *references, candidate])) for candidate, references in pairs]
        scores = [ask(" ||| ".join(["EVAL", *statistics]))]
        scores += [java.stdout.readline() for _ in pairs[1:]]
        java.stdin.close()
        java.stdout.read()
    return np.array(scores, float)


def test_likeness_equals_meteor_with_the_same_means(shared_data: Path, meteor_folder: Path, tmp_path: Path) -> None:
    """METEOR without synonyms and paraphrases and with our function words: what is left to differ is the stemmer."""
    pairs = held_out(shared_data)
    listed = tmp_path / "function.words"
    listed.write_text("\n".join(sorted(module._FUNCTION_WORDS)) + "\n", "utf-8")
    theirs = in_java(meteor_folder, pairs, "-m", "exact stem", "-w", "1.0 0.6", "-s", str(listed))
    ours = np.array([meteor_like(candidate, references) for candidate, references in pairs])
    assert (np.abs(ours - theirs) < 1e-6).mean() > 0.94
    assert np.corrcoef(ours, theirs)[0, 1] > 0.998


def test_likeness_follows_meteor(shared_data: Path, meteor_folder: Path) -> None:
    pairs = held_out(shared_data)
    theirs = in_java(meteor_folder, pairs)
    ours = np.array([meteor_like(candidate, references) for candidate, references in pairs])
    assert np.corrcoef(ours, theirs)[0, 1] > 0.91
    assert -0.02 < (ours - theirs).mean() < 0
