"""Rewards are CIDEr-D, to the last digits, for any captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.datasets import read_native
from showtell.metrics.cider import Cider, DocumentFrequencies
from showtell.metrics.rewards import CiderReward
from showtell.text import END, PAD, Vocabulary, tokenise

Ids = list[int]
CAPTION = st.lists(st.integers(3, 9), max_size=7)
PICTURES = st.lists(st.lists(CAPTION, min_size=1, max_size=4), min_size=1, max_size=5)


def rows(captions: list[Ids], ending: int = END) -> np.ndarray:
    """Padded ids; after the ending comes rubbish that must not count."""
    out = np.full((len(captions), max(map(len, captions), default=0) + 2), PAD)
    for row, caption in enumerate(captions):
        out[row, : len(caption)] = caption
        out[row, len(caption)] = ending
        out[row, len(caption) + 1 :] = 7 if ending == END else PAD
    return out


def words(caption: Ids) -> tuple[str, ...]:
    return tuple(map(str, caption))


def expected(
    references: list[list[Ids]], captions: list[Ids], pictures: list[int], documents: list[list[Ids]] | None = None
) -> list[float]:
    frequencies = None
    if documents is not None:
        frequencies = DocumentFrequencies.count([[words(caption) for caption in group] for group in documents])
    cider = Cider([[words(caption) for caption in group] for group in references], frequencies)
    return [cider.score_one(words(caption), picture) for caption, picture in zip(captions, pictures, strict=True)]


@given(PICTURES, st.data())
def test_rewards_are_cider_d(references: list[list[Ids]], data: st.DataObject) -> None:
    captions = data.draw(st.lists(CAPTION, min_size=1, max_size=8))
    pictures = data.draw(st.lists(st.integers(0, len(references) - 1), min_size=len(captions), max_size=len(captions)))
    ending = data.draw(st.sampled_from([END, PAD]))
    found = CiderReward(references).score(rows(captions, ending), np.array(pictures))
    np.testing.assert_allclose(found, expected(references, captions, pictures), rtol=1e-9, atol=1e-12)


@given(PICTURES, PICTURES, st.lists(CAPTION, min_size=1, max_size=6))
def test_frequencies_can_be_those_of_other_documents(
    references: list[list[Ids]], documents: list[list[Ids]], captions: list[Ids]
) -> None:
    pictures = [number % len(references) for number in range(len(captions))]
    found = CiderReward(references, documents).score(rows(captions), np.array(pictures))
    np.testing.assert_allclose(found, expected(references, captions, pictures, documents), rtol=1e-9, atol=1e-12)


def test_real_captions_with_words_exchanged(shared_data: Path) -> None:
    groups = [example.references for example in read_native(shared_data / "rsicd")[:300]]
    texts = [[tokenise(caption) for caption in group] for group in groups]
    vocabulary = Vocabulary.build(caption for group in texts for caption in group)
    references = [[vocabulary.encode(caption)[1:-1] for caption in group] for group in texts]
    rng = np.random.default_rng(0)
    captions, pictures = [], []
    for picture, group in enumerate(references):
        for caption in group:
            captions.append([int(rng.integers(4, len(vocabulary))) if rng.random() < 0.2 else word for word in caption])
            pictures.append(picture)
    found = CiderReward(references).score(rows(captions), np.array(pictures))
    np.testing.assert_allclose(found, expected(references, captions, pictures), rtol=1e-9, atol=1e-12)
    assert 0.5 < found.mean() < 8


def test_the_largest_ids_are_told_apart() -> None:
    references = [[[65_534, 65_533, 65_534, 65_534]], [[4, 5, 6]]]
    captions = [[65_534, 65_533, 65_534, 65_534], [65_533, 65_534], [65_534] * 4]
    found = CiderReward(references).score(rows(captions), np.zeros(3, int))
    np.testing.assert_allclose(found, expected(references, captions, [0, 0, 0]), rtol=1e-9)
    assert found[0] == pytest.approx(10)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ids are from 4 to 65535; they must be from 0 to 65534"):
        CiderReward([[[4, 65_535]]])
    with pytest.raises(ValueError, match="ids are from -1"):
        CiderReward([[[4]]]).score(np.array([[-1, 4]]), np.array([0]))
    for references in ([], [[]], [[[4]], []]):
        with pytest.raises(ValueError, match="a picture has no reference"):
            CiderReward(references)


def test_memory_is_in_proportion_to_the_references() -> None:
    rng = np.random.default_rng(1)
    references = [[rng.integers(4, 2000, 11).tolist() for _ in range(5)] for _ in range(2000)]
    reward = CiderReward(references)
    held = sum(value.nbytes for value in vars(reward).values() if isinstance(value, np.ndarray))
    assert held / 10_000 < 1500  # bytes a reference, even of captions that share next to nothing
