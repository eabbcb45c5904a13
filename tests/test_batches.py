"""Captions as arrays: repeated references, epochs, and padding."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell.learn.batches import CaptionTable
from showtell.records import Example
from showtell.text import END, PAD, START, UNK, Vocabulary

EXAMPLES = [
    Example("a", None, ("a red dog", "A red dog.", "the dog", "a red  dog")),
    Example("b", None, ("a cat",)),
    Example("c", None, ("zebra cat", "red red red red red red")),
]
VOCABULARY = Vocabulary.build([["a", "red", "dog"], ["the", "dog"], ["a", "cat"], ["cat"]])


def table(max_words: int = 5) -> CaptionTable:
    return CaptionTable(EXAMPLES, VOCABULARY, max_words)


def many(count: int, seed: int = 0) -> CaptionTable:
    rng = np.random.default_rng(seed)
    texts = [(" ".join(["dog"] * int(rng.integers(1, 12))), "the dog") for _ in range(count)]
    return CaptionTable([Example(str(i), None, text) for i, text in enumerate(texts)], VOCABULARY, 25)


def test_references_that_say_the_same_are_one_row_with_their_weight() -> None:
    (first, three), (second, one) = table().captions_of(0)
    assert (three, one) == (3.0, 1.0)
    assert VOCABULARY.decode(first) == ["a", "red", "dog"]
    assert VOCABULARY.decode(second) == ["the", "dog"]


def test_weights_sum_to_the_references() -> None:
    batch = table().batch(np.arange(3))
    counts = np.bincount(batch.rows_N.numpy(), batch.weights_N.numpy())
    assert counts.tolist() == [len(example.references) for example in EXAMPLES]


def test_rows_run_from_start_to_end_and_are_padded_after_it() -> None:
    batch = table().batch(np.array([2, 1]))
    assert batch.items_B.tolist() == [2, 1]
    assert batch.rows_N.tolist() == [0, 0, 1]
    red, cat, a = (VOCABULARY.id_of(word) for word in ("red", "cat", "a"))
    assert batch.tokens_NT.tolist() == [
        [START, UNK, cat, END, PAD, PAD, PAD],
        [START, red, red, red, red, red, END],  # cut at five words
        [START, a, cat, END, PAD, PAD, PAD],
    ]
    assert batch.tokens_NT.dtype.is_floating_point is False
    assert batch.weights_N.dtype.is_floating_point


def test_a_caption_without_a_word_is_an_end() -> None:
    batch = CaptionTable([Example("a", None, ("!?",))], VOCABULARY, 5).batch(np.array([0]))
    assert batch.tokens_NT.tolist() == [[START, END]]


@pytest.mark.parametrize(("count", "pictures"), [(1, 4), (7, 3), (70, 2), (300, 4)])
def test_every_picture_comes_once_an_epoch(count: int, pictures: int) -> None:
    batches = many(count).epoch(np.random.default_rng(1), pictures)
    assert Counter(int(item) for batch in batches for item in batch) == Counter(range(count))
    assert all(1 <= len(batch) <= pictures for batch in batches)
    assert len(batches) <= -(-count // pictures) + count // (32 * pictures)


def test_an_epoch_is_that_of_its_seed() -> None:
    captions = many(300)

    def order(seed: int) -> list[list[int]]:
        return [batch.tolist() for batch in captions.epoch(np.random.default_rng(seed), 4)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(map(len, order(1))) == sorted(map(len, order(2)))


def test_batches_hold_captions_of_similar_length() -> None:
    captions = many(320)
    longest = np.array([max(len(ids) for ids, _ in captions.captions_of(i)) for i in range(len(captions))])
    spread = np.mean([np.ptp(longest[batch]) for batch in captions.epoch(np.random.default_rng(0), 8)])
    assert spread < 0.5 * np.mean([np.ptp(longest[i : i + 8]) for i in range(0, 320, 8)])


def test_batches_in_order_are_in_order() -> None:
    assert [batch.tolist() for batch in many(7).in_order(3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_ids_beyond_sixteen_bits_are_kept() -> None:
    words = tuple(f"w{i}" for i in range(70_000))
    vocabulary = Vocabulary((*VOCABULARY.words[:4], *words))
    captions = CaptionTable([Example("a", None, ("w69999 w5",))], vocabulary, 5)
    assert vocabulary.decode(captions.captions_of(0)[0][0]) == ["w69999", "w5"]
