"""Wording and confidence of alt text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.captioner import Captioner
from showtell.errors import ConfigError
from showtell.jobs.alttext import AltText, Wording, confidence, word_alt, write_alt, write_alts
from showtell.records import Caption, Failure


def _caption(text: str, *probabilities: float) -> Caption:
    logprobs = tuple(math.log(value) for value in probabilities)
    return Caption("a.jpg", text, sum(logprobs), tuple(text.split()), logprobs)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("a dog runs through the grass", "A dog runs through the grass."),
        ("a photo of a dog", "A dog."),
        ("an image of two cats", "Two cats."),
        ("this is a black and white picture showing a train", "A train."),
        ("there are several photos of a boat", "A boat."),
        ("a red and white photo of a street", "A street."),
        ("a man takes a photo of a dog", "A man takes a photo of a dog."),
        ("a man taking a picture of himself", "A man taking a picture of himself."),
        ("a dog next to a picture of a cat", "A dog next to a picture of a cat."),
        ("a picture of", "A picture of."),
        ("a close up of a cat", "A close up of a cat."),
        ("  a  dog\n\tand\x00 a cat ", "A dog and a cat."),
        ("is it a dog?", "Is it a dog?"),
        ("a dog ,", "A dog."),
        ("éclair on a plate", "Éclair on a plate."),
        ("một con chó đang chạy", "Một con chó đang chạy."),
        ("一只狗在草地上", "一只狗在草地上。"),
        ("หมาวิ่ง", "หมาวิ่ง"),
        ("", ""),
        ("... !", ""),
    ],
)
def test_a_caption_becomes_a_sentence(caption: str, text: str) -> None:
    assert word_alt(caption, Wording()) == text


def test_long_texts_end_where_a_part_ends_or_after_a_word() -> None:
    clauses = "a man in a red shirt, a woman in a blue dress, and a child"
    assert word_alt(clauses, Wording(max_length=50)) == "A man in a red shirt, a woman in a blue dress."
    words = "a man and a woman and a dog and a cat and a bird"
    cut = word_alt(words, Wording(max_length=30))
    assert cut.endswith("…")
    assert len(cut) <= 30
    assert words.startswith(cut[:-1].lower())


@given(st.text(max_size=400), st.integers(20, 250), st.sampled_from(["", "(made by a machine)"]))
def test_any_text_fits_is_one_line_and_stays_as_it_is(caption: str, longest: int, mark: str) -> None:
    wording = Wording(max_length=longest + 30, mark=mark) if longest <= 220 else Wording(max_length=longest)
    text = word_alt(caption, wording)
    assert len(text) <= wording.max_length
    assert len(text.splitlines()) <= 1
    text.encode("utf-8")
    if text and not wording.mark and not text.endswith("…"):
        assert word_alt(text, wording).casefold() == text.casefold() or "photo" in text or "picture" in text


def test_the_mark_ends_the_text_and_is_recognised() -> None:
    wording = Wording(mark=" (automatic  description) ")
    text = word_alt("a dog", wording)
    assert text == "A dog. (automatic description)"
    assert wording.has_marked(text)
    assert wording.has_marked(f"{text}\n ")
    assert not wording.has_marked("A dog.")
    assert not Wording().has_marked("A dog.")


def test_confidence_is_the_geometric_mean_of_the_words() -> None:
    assert confidence(_caption("a dog", 0.9, 0.4)) == pytest.approx(0.6)
    assert confidence(_caption("")) == 0.0


def test_a_calibrated_confidence_stands_in_the_place_of_the_mean() -> None:
    said = replace(_caption("a dog", 0.9, 0.9), confidence=0.2)
    assert confidence(said) == 0.2
    assert write_alt(said, Wording()).text is None
    assert write_alt(replace(said, confidence=0.31), Wording()).text == "A dog."


def test_an_unsure_caption_gives_no_text() -> None:
    said = _caption("a dog", 0.5, 0.08)  # 0.2
    assert write_alt(said, Wording()).text is None
    assert write_alt(said, Wording(min_confidence=0.1)) == AltText("a.jpg", "A dog.", pytest.approx(0.2))
    assert write_alt(_caption(""), Wording(min_confidence=0)).text is None


def test_pictures_give_texts_and_failures_in_order() -> None:
    class Canned(Captioner):
        def __init__(self) -> None:
            pass

        def caption_stream(self, images: Iterable[object], *_: object, **__: object) -> Iterator[Caption | Failure]:  # type: ignore[override]
            for image in images:
                yield Failure("b.jpg", "broken") if image == "b.jpg" else _caption("a dog", 0.9, 0.9)

    said = list(write_alts(Canned(), ["a.jpg", "b.jpg"]))
    assert said == [AltText("a.jpg", "A dog.", pytest.approx(0.9)), Failure("b.jpg", "broken")]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_length": 5}, "accepted are 20 to 250"),
        ({"max_length": 300}, "accepted are 20 to 250"),
        ({"min_confidence": 1.5}, "from 0 to 1"),
        ({"mark": "x" * 110}, "leaves no room"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, int | float | str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Wording(**settings)  # type: ignore[arg-type]
