"""What other captions of a picture would say, guessed from one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell.learn.concepts import count_concepts  # noqa: E402
from showtell.learn.siblings import complete_counts  # noqa: E402
from showtell.records import Example  # noqa: E402
from showtell.text import Vocabulary, tokenise  # noqa: E402

CONCEPTS = ["surfer", "wave", "cat", "sofa"]


def told(count: int = 6000) -> list[Example]:
    """Who sees a surfer sees a wave in half of the other captions, and who sees a cat a sofa in all of them."""
    rng = np.random.default_rng(0)
    examples = []
    for number in range(count):
        other = "a wave" if rng.random() < 0.5 else "the sea"
        texts = ("a surfer", other) if number % 2 else ("a cat", "on a sofa")
        examples.append(Example(str(number), None, texts))
    return examples


def complete(examples: list[Example], captions: int = 5, known: list[Example] | None = None) -> np.ndarray:
    known = told() if known is None else known
    vocabulary = Vocabulary.build([tokenise(text) for example in told() for text in example.references])
    return complete_counts(examples, known, vocabulary, CONCEPTS, captions, seed=1)


def test_missing_captions_are_guessed_from_the_one_there_is() -> None:
    shares = complete([Example("x", None, ("a surfer",)), Example("y", None, ("a cat",))])
    np.testing.assert_allclose(shares[0], [0.2, 0.4, 0, 0], atol=0.1)  # a fifth is the caption's own
    np.testing.assert_allclose(shares[1], [0, 0, 0.2, 0.8], atol=0.1)


def test_as_many_captions_as_asked_for_are_left_as_they_are() -> None:
    examples = [Example("x", None, ("a surfer", "a cat")), Example("y", None, ("a sofa",))]
    shares = complete(examples, captions=2)
    np.testing.assert_array_equal(shares[0], count_concepts(examples, CONCEPTS)[0])
    assert shares[1, 3] >= 0.5
    np.testing.assert_array_equal(complete(examples, captions=0), count_concepts(examples, CONCEPTS))


def test_nothing_is_guessed_where_no_picture_has_several_captions() -> None:
    single = [replace(example, references=example.references[:1]) for example in told()]
    np.testing.assert_array_equal(complete(single, known=single), count_concepts(single, CONCEPTS))


def test_a_caption_of_unknown_words_alone_gets_the_average() -> None:
    shares = complete([Example("x", None, ("zzz",))])
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares[0], [0.2, 0.1, 0.2, 0.2], atol=0.25)


def test_guesses_are_seeded() -> None:
    one = [Example("x", None, ("a surfer",))]
    np.testing.assert_array_equal(complete(one), complete(one))
