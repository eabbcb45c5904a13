"""The search against brute force and a naive reference, on toy decoders that depend on the whole prefix."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from showtell.decoding import UNRESTRICTED, Arrays, Hypothesis, Restrictions, SearchOptions, StepOutput, search
from showtell.errors import BackendError, ConfigError
from showtell.text import END, PAD, START, UNK

WORDS = UNK + 1  # first id of a word
MIX = np.uint64(0x9E3779B97F4A7C15)


def scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Well-mixed bits (splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass
class Toy:
    """Random log-probabilities that depend on the picture (through memory) and on every token so far (state).

    `levels` rounds the logits, so that ties are common; a share `holes` of the tokens has probability 0.
    """

    V: int = 8
    end_bias: float = 0.0
    levels: int = 0
    holes: float = 0.0
    attends: bool = True
    rows: list[tuple[int, int]] = field(default_factory=list)  # (B, N) of each step

    def start(self, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
        seeds = features_BLD[:, 0, 0].astype(np.uint64)
        return {"seed": seeds}, {
            "prefix": scramble(seeds + MIX),
            "depth": np.zeros((len(seeds), 1, 2), np.int64),
        }

    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None) -> StepOutput:
        assert tokens_N.dtype == np.int64
        assert tokens_N.flags["C_CONTIGUOUS"]
        B, N = len(memory["seed"]), len(tokens_N)
        assert N % B == 0
        self.rows.append((B, N))
        prefix_N = scramble(state["prefix"] * MIX + tokens_N.astype(np.uint64))
        key_N = scramble(prefix_N + np.repeat(memory["seed"], N // B) * np.uint64(7919))
        logprobs_NV = self.logprobs(key_N)
        alpha_NL = np.stack([np.repeat(memory["seed"], N // B), key_N % np.uint64(1000)], 1).astype(np.float64)
        return StepOutput(
            logprobs_NV, {"prefix": prefix_N, "depth": state["depth"] + 1}, alpha_NL if self.attends else None
        )

    def logprobs(self, key_N: NDArray[np.uint64]) -> NDArray[np.float32]:
        bits_NV = scramble(key_N[:, None] + np.arange(self.V, dtype=np.uint64) * MIX)
        uniform_NV = (bits_NV >> np.uint64(11)).astype(np.float64) / 2**53
        logits_NV = np.floor(uniform_NV * self.levels) if self.levels else 4 * uniform_NV
        logits_NV[:, END] += self.end_bias
        logits_NV[:, UNK] += 3  # the specials are tempting
        logprobs_NV = logits_NV - np.log(np.exp(logits_NV).sum(1, keepdims=True))
        holes_NV = (scramble(bits_NV) >> np.uint64(11)).astype(np.float64) / 2**53 < self.holes
        return np.where(holes_NV, -np.inf, logprobs_NV).astype(np.float32)

    def after(self, seed: int, words: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Log-probabilities (V,) and attention (L,) after START and `words`, for one picture on its own."""
        memory, state = self.start(features(seed))
        for token in (START, *words):
            output = Toy.step(self, np.array([token], np.int64), memory, state)
            state = output.state
        self.rows.clear()
        alpha_NL = output.alpha_NL if output.alpha_NL is not None else np.zeros((1, 2))
        return output.logprobs_NC[0], alpha_NL[0]


def features(*seeds: int) -> NDArray[np.float32]:
    return np.array(seeds, np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)


def repeats(words: tuple[int, ...], size: int) -> bool:
    grams = list(zip(*(words[i:] for i in range(size)), strict=False))
    return size > 0 and len(set(grams)) < len(grams)


def denies(restrictions: Restrictions, words: tuple[int, ...]) -> bool:
    """Whether the last of the words may not be said after the others."""
    unsaid = {token for others in restrictions.merged.values() for token in others}
    before = [words[start:-1] for start in range(len(words))]
    again = words[-1] in restrictions.once and words[-1] in words[:-1]
    return again or words[-1] in unsaid or any(words[-1] in restrictions.denied.get(some, ()) for some in before)


def naive(
    toy: Toy, seed: int, options: SearchOptions, restrictions: Restrictions = UNRESTRICTED
) -> list[tuple[tuple[int, ...], float, bool]]:
    """(words, logprob, ended) of one picture, best first: the rules of the search, word by word."""
    running: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: list[tuple[tuple[int, ...], float]] = []
    for length in range(options.max_length):
        extensions = []
        for row, (words, logprob) in enumerate(running):
            said, _ = toy.after(seed, words)
            own = said.copy()
            for token, others in restrictions.merged.items():
                own[token] = min(np.logaddexp.reduce(said[[token, *others]]), 0)
            for token in range(toy.V):
                barred = token in (PAD, START, UNK) or (token == END and length < options.min_length)
                barred = barred or (token != END and repeats((*words, token), options.block_ngrams))
                barred = barred or denies(restrictions, (*words, token))
                if not barred and own[token] > -np.inf:
                    extensions.append((-(logprob + float(own[token])), row, token))
        extensions.sort()
        ends = [(row, -cost) for cost, row, token in extensions[: options.beam] if token == END]
        finished += [(running[row][0], total) for row, total in ends]
        grown = [((*running[row][0], token), -cost) for cost, row, token in extensions if token != END]
        ranked = sorted((score((*one, True), options) for one in finished), reverse=True)
        full = len(finished) >= options.beam
        if not grown or (full and ranked[options.top - 1] >= grown[0][1] / (length + 2) ** options.length_penalty):
            ended_rows = {row for row, _ in ends}
            running = [one for row, one in enumerate(running) if row not in ended_rows]
            break
        running = grown[: options.beam]
    out = [(words, logprob, True) for words, logprob in finished]
    out += [(words, logprob, False) for words, logprob in running]
    return sorted(out, key=lambda one: (not one[2], -score(one, options)))[: options.top]


def score(one: tuple[tuple[int, ...], float, bool], options: SearchOptions) -> float:
    words, logprob, ended = one
    return logprob / max(len(words) + ended, 1) ** options.length_penalty


def plain(found: list[Hypothesis]) -> list[tuple[tuple[int, ...], float, bool]]:
    return [(one.tokens, one.logprob, one.ended) for one in found]


@pytest.mark.parametrize("length_penalty", [0, 0.7, 1.0])
@pytest.mark.parametrize("end_bias", [0.0, 3.0])
def test_a_beam_wide_enough_is_brute_force(length_penalty: float, end_bias: float) -> None:
    toy, words = Toy(V=WORDS + 4, end_bias=end_bias), range(WORDS, WORDS + 4)
    options = SearchOptions(beam=400, top=400, max_length=4, length_penalty=length_penalty, block_ngrams=0)
    everything = []
    for length in range(1, 5):
        for tokens in itertools.product(words, repeat=length):
            logprob = sum(float(toy.after(5, tokens[:i])[0][token]) for i, token in enumerate(tokens))
            if length < 4:
                everything.append((tokens, logprob + float(toy.after(5, tokens)[0][END]), True))
            else:
                everything.append((tokens, logprob, False))
    everything.sort(key=lambda one: (not one[2], -score(one, options)))
    (found,) = search(toy, features(5), options)
    assert [one.tokens for one in found] == [tokens for tokens, _, _ in everything]
    assert [one.ended for one in found] == [ended for _, _, ended in everything]
    np.testing.assert_allclose([one.score for one in found], [score(one, options) for one in everything])


@pytest.mark.parametrize("beam", [1, 2, 3, 5, 9, 20])
@pytest.mark.parametrize("min_length", [0, 2])
@pytest.mark.parametrize(
    "toy",
    [
        Toy(V=WORDS + 2, end_bias=2.0),
        Toy(V=WORDS + 9, end_bias=2.0),
        Toy(V=WORDS + 5, end_bias=1.0, holes=0.6),
        Toy(V=700, end_bias=5.0),
    ],
    ids=["two words", "nine words", "dead ends", "many words"],
)
def test_every_beam_equals_a_naive_search(toy: Toy, min_length: int, beam: int) -> None:
    options = SearchOptions(beam=beam, top=beam, max_length=5, min_length=min_length)
    seeds = range(3) if toy.V > 100 else range(16)
    found = search(toy, features(*seeds), options)
    assert [plain(one) for one in found] == [naive(toy, seed, options) for seed in seeds]


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_random_decoders_and_options(data: st.DataObject) -> None:
    toy = Toy(
        V=data.draw(st.integers(WORDS, WORDS + 6), label="V"),
        end_bias=data.draw(st.sampled_from([-9.0, 0.0, 2.0]), label="end_bias"),
        levels=data.draw(st.sampled_from([0, 1, 2, 3]), label="levels"),
        holes=data.draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]), label="holes"),
        attends=data.draw(st.booleans(), label="attends"),
    )
    beam = data.draw(st.integers(1, 6), label="beam")
    max_length = data.draw(st.integers(1, 6), label="max_length")
    options = SearchOptions(
        beam=beam,
        top=data.draw(st.integers(1, beam), label="top"),
        max_length=max_length,
        min_length=data.draw(st.integers(0, max_length), label="min_length"),
        length_penalty=data.draw(st.sampled_from([0, 0.7, 1, 2.0]), label="length_penalty"),
        block_ngrams=data.draw(st.integers(0, 3), label="block_ngrams"),
    )
    seeds = data.draw(st.lists(st.integers(0, 1000), min_size=1, max_size=4), label="seeds")
    found = search(toy, features(*seeds), options)
    assert [plain(one) for one in found] == [naive(toy, seed, options) for seed in seeds]
    for seed, hypotheses in zip(seeds, found, strict=True):
        assert 1 <= len(hypotheses) <= options.top
        assert len({(one.tokens, one.ended) for one in hypotheses}) == len(hypotheses)
        for one in hypotheses:
            check(one, toy, seed, options)


def check(one: Hypothesis, toy: Toy, seed: int, options: SearchOptions) -> None:
    """Everything a hypothesis says of itself follows from its tokens."""
    assert not {PAD, START, UNK, END} & set(one.tokens)
    assert not repeats(one.tokens, options.block_ngrams)
    assert len(one.tokens) + one.ended <= options.max_length
    assert not one.ended or len(one.tokens) >= options.min_length
    answers = [toy.after(seed, one.tokens[:i]) for i in range(len(one.tokens) + 1)]
    assert one.token_logprobs == tuple(float(own[token]) for (own, _), token in zip(answers, one.tokens, strict=False))
    assert one.end_logprob == (float(answers[-1][0][END]) if one.ended else None)
    assert one.logprob == pytest.approx(sum(one.token_logprobs) + (one.end_logprob or 0.0))
    assert one.score == pytest.approx(score((one.tokens, one.logprob, one.ended), options))
    if toy.attends and one.tokens:
        assert one.alpha_TL is not None
        np.testing.assert_array_equal(one.alpha_TL, [alpha for _, alpha in answers[:-1]])
    else:
        assert one.alpha_TL is None


def test_a_beam_of_one_is_greedy() -> None:
    toy, seeds = Toy(V=300, end_bias=1.5), tuple(range(40))
    found = search(toy, features(*seeds), SearchOptions(beam=1, max_length=8, block_ngrams=0))
    for seed, (one,) in zip(seeds, found, strict=True):
        words: list[int] = []
        ended = False
        while len(words) < 8 and not ended:
            own, _ = toy.after(seed, tuple(words))
            own[[PAD, START, UNK] + ([END] if not words else [])] = -np.inf
            ended = int(own.argmax()) == END
            words += [] if ended else [int(own.argmax())]
        assert (one.tokens, one.ended) == (tuple(words), ended)
    assert {one.ended for (one,) in found} == {True, False}


@pytest.mark.parametrize("beam", [1, 3])
def test_a_batch_equals_batches_of_one(beam: int) -> None:
    toy, seeds = Toy(V=600, end_bias=5.0), tuple(range(20))
    options = SearchOptions(beam=beam, top=beam, max_length=9)
    together = search(toy, features(*seeds), options)
    assert together == [search(toy, features(seed), options)[0] for seed in seeds]
    assert len({one[0].tokens for one in together}) > 15


def test_no_end_ever_still_gives_captions() -> None:
    found = search(Toy(V=30, end_bias=-np.inf), features(1, 2), SearchOptions(beam=3, top=2, max_length=7))
    for one in itertools.chain(*found):
        assert (len(one.tokens), one.ended, one.end_logprob) == (7, False, None)
        assert one.score == pytest.approx(one.logprob / 7**0.7)


def test_captions_that_ended_come_before_those_cut_off() -> None:
    found = search(Toy(V=9, end_bias=0.5), features(*range(30)), SearchOptions(beam=4, top=4, max_length=3))
    ends = [[one.ended for one in hypotheses] for hypotheses in found]
    assert all(one == sorted(one, reverse=True) for one in ends)
    assert any(len(set(one)) == 2 for one in ends)


@pytest.mark.parametrize("min_length", [0, 1, 4, 6])
def test_no_caption_is_shorter_than_min_length(min_length: int) -> None:
    options = SearchOptions(beam=3, top=3, min_length=min_length, max_length=6, length_penalty=0)
    found = search(Toy(V=10, end_bias=6.0), features(*range(8)), options)
    assert {len(one[0].tokens) for one in found} == {min_length}


class Parrot(Toy):
    """Wants the same word for ever, and never END."""

    def logprobs(self, key_N: NDArray[np.uint64]) -> NDArray[np.float32]:
        logprobs_NV = super().logprobs(key_N) - 9
        logprobs_NV[:, WORDS], logprobs_NV[:, END] = -0.001, -np.inf
        return logprobs_NV


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_comes_twice(size: int) -> None:
    (free,) = search(Parrot(V=12), features(1), SearchOptions(max_length=8, block_ngrams=0))
    assert free[0].tokens == (WORDS,) * 8
    (found,) = search(Parrot(V=12), features(1), SearchOptions(beam=3, top=3, max_length=8, block_ngrams=size))
    assert [len(one.tokens) for one in found] == [8, 8, 8]
    assert not any(repeats(one.tokens, size) for one in found)
    assert all(WORDS in one.tokens for one in found)


def test_blocking_every_word_still_gives_a_caption() -> None:
    ((one,),) = search(Parrot(V=WORDS + 1), features(1), SearchOptions(max_length=8))
    assert (one.tokens, one.ended) == ((WORDS,) * 3, False)


def test_a_decoder_that_allows_nothing_gives_an_empty_caption() -> None:
    ((one,),) = search(Toy(V=9, holes=1.0), features(1), SearchOptions())
    assert one == Hypothesis((), 0.0, (), None, False, 0.0)


def test_top_captions_are_distinct_and_sorted() -> None:
    found = search(Toy(V=40, end_bias=2.5), features(*range(10)), SearchOptions(beam=6, top=4, max_length=10))
    for hypotheses in found:
        assert len({one.tokens for one in hypotheses}) == 4
        scores = [one.score for one in hypotheses if one.ended]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("V", [10, 600])
def test_ties_go_to_the_better_row_then_the_lower_token(V: int) -> None:
    toy = Toy(V=V, levels=1, end_bias=-np.inf)
    (found,) = search(toy, features(1), SearchOptions(beam=3, top=3, max_length=2))
    assert [one.tokens for one in found] == [(4, 4), (4, 5), (4, 6)]


def test_memory_is_not_copied_for_the_beam_and_shrinks_when_pictures_are_done() -> None:
    toy = Toy(V=60, end_bias=2.5)
    found = search(toy, features(*range(16)), SearchOptions(beam=3, max_length=12))
    pictures = [B for B, _ in toy.rows]
    assert toy.rows[0] == (16, 16)
    assert toy.rows[1] == (16, 48)
    assert pictures == sorted(pictures, reverse=True)
    assert pictures[-1] < 16
    assert all(N == 3 * B for B, N in toy.rows[1:])
    assert all(one[0].ended for one in found)


def test_a_decoder_without_memory() -> None:
    class Remembers:
        """Carries the picture in the state."""

        def start(self, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
            memory, state = Toy(V=9).start(features_BLD)
            return {}, state | memory

        def step(
            self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None
        ) -> StepOutput:
            assert memory == {}
            output = Toy(V=9).step(tokens_N, {"seed": state["seed"]}, state)
            return StepOutput(output.logprobs_NC, output.state | {"seed": state["seed"]}, output.alpha_NL)

    options = SearchOptions(beam=3, top=3, max_length=5)
    expected = search(Toy(V=9), features(*range(5)), options)
    assert search(Remembers(), features(*range(5)), options) == expected


class Ranks(Toy):
    """Says no more than it is asked for."""

    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None) -> StepOutput:
        output = super().step(tokens_N, memory, state)
        if best is None:
            return output
        tokens_NC = np.argsort(-output.logprobs_NC, 1, kind="stable")[:, :best]
        return replace(output, logprobs_NC=np.take_along_axis(output.logprobs_NC, tokens_NC, 1), tokens_NC=tokens_NC)


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("holes", [0.0, 0.5])
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize(
    "restrictions",
    [
        UNRESTRICTED,
        Restrictions({(): frozenset([5, 9, 30]), (7,): frozenset(range(10, 22)), (8, 6): frozenset([4, 7])}),
    ],
)
def test_a_decoder_that_says_the_best_tokens_alone(
    levels: int, holes: float, beam: int, restrictions: Restrictions
) -> None:
    options = SearchOptions(beam=beam, top=beam, max_length=9, min_length=3, block_ngrams=2)
    settings: Any = {"V": 40, "levels": levels, "holes": holes}
    expected = search(Toy(**settings), features(*range(6)), options, restrictions)
    assert search(Ranks(**settings), features(*range(6)), options, restrictions) == expected


def test_all_tokens_are_asked_for_only_where_too_few_of_the_best_may_follow() -> None:
    asked: list[bool] = []

    class Counts(Ranks):
        def step(
            self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None
        ) -> StepOutput:
            asked.append(best is None)
            return super().step(tokens_N, memory, state, best)

    options = SearchOptions(beam=2, top=2, max_length=5, min_length=5)
    search(Counts(V=60), features(1, 2, 3), options)
    assert asked
    assert not any(asked)
    asked.clear()
    # Of the words only 44 to 59 may be said, so few of a row's best may follow.
    narrow = Restrictions({(): frozenset(range(WORDS, 44))})
    found = search(Counts(V=60), features(1, 2, 3), options, narrow)
    assert any(asked)
    assert found == search(Toy(V=60), features(1, 2, 3), options, narrow)


@st.composite
def restricted(draw: st.DrawFn, V: int) -> Restrictions:
    """Some words, pairs and triples denied, some words merged into others, and some that are said once."""
    words = st.integers(WORDS, V - 1)
    phrases = draw(st.lists(st.lists(words, min_size=1, max_size=3).map(tuple), max_size=12))
    denied: dict[tuple[int, ...], set[int]] = {}
    for *before, last in phrases:
        denied.setdefault(tuple(before), set()).add(last)
    order = draw(st.permutations(range(WORDS, V)))
    merged = {order[0]: tuple(order[1:3]), order[3]: tuple(order[4:5])} if draw(st.booleans()) else {}
    once = draw(st.frozensets(words, max_size=4))
    return Restrictions({before: frozenset(last) for before, last in denied.items()}, merged, once)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_what_is_denied_is_never_said(data: st.DataObject) -> None:
    V = WORDS + 6
    restrictions = data.draw(restricted(V), label="restrictions")
    toy = Toy(
        V=V,
        end_bias=data.draw(st.sampled_from([-9.0, 0.0, 2.0]), label="end_bias"),
        levels=data.draw(st.sampled_from([0, 2]), label="levels"),
        holes=data.draw(st.sampled_from([0.0, 0.3]), label="holes"),
    )
    beam = data.draw(st.integers(1, 5), label="beam")
    options = SearchOptions(beam=beam, top=beam, max_length=6, block_ngrams=data.draw(st.integers(0, 3)))
    found = search(toy, features(1, 2, 3), options, restrictions)
    assert [plain(one) for one in found] == [naive(toy, seed, options, restrictions) for seed in (1, 2, 3)]
    for one in (one for hypotheses in found for one in hypotheses):
        assert not any(denies(restrictions, one.tokens[:end]) for end in range(1, len(one.tokens) + 1))
    ranks = Ranks(V=V, end_bias=toy.end_bias, levels=toy.levels, holes=toy.holes)
    assert search(ranks, features(1, 2, 3), options, restrictions) == found


@pytest.mark.parametrize("ranks", [False, True])
def test_of_many_words_those_that_are_left_are_found(ranks: bool) -> None:
    """More is denied than a decoder would be asked for."""
    kind = Ranks if ranks else Toy
    toy, free = kind(V=700, end_bias=5.0), range(WORDS, WORDS + 9)
    denied = frozenset(range(WORDS + 9, 690))
    after = {(word,): frozenset(range(690, 700)) for word in free}
    options = SearchOptions(beam=3, top=3, max_length=5)
    restrictions = Restrictions({(): denied, **after})
    found = search(toy, features(*range(4)), options, restrictions)
    assert [plain(one) for one in found] == [naive(toy, seed, options, restrictions) for seed in range(4)]
    assert any(token >= 690 for hypotheses in found for one in hypotheses for token in one.tokens)


def test_merged_words_add_their_probabilities() -> None:
    man, woman, person, dog = range(WORDS, WORDS + 4)

    class Says(Toy):
        def logprobs(self, key_N: NDArray[np.uint64]) -> NDArray[np.float32]:
            shares = np.zeros(self.V)
            shares[[END, man, woman, person, dog]] = 1 / 8, 1 / 4, 1 / 8, 1 / 8, 3 / 8
            with np.errstate(divide="ignore"):
                return np.tile(np.log(shares), (len(key_N), 1)).astype(np.float32)

    toy, options = Says(V=WORDS + 4), SearchOptions(beam=1, max_length=1)
    (((first,),), ((merged,),)) = (
        search(toy, features(1), options, some)
        for some in (Restrictions(), Restrictions(merged={person: (man, woman)}))
    )
    assert (first.tokens, merged.tokens) == ((dog,), (person,))
    assert np.exp(merged.logprob) == pytest.approx(1 / 2, rel=1e-6)
    (everything,) = search(
        toy, features(1), SearchOptions(beam=9, top=9, max_length=1), Restrictions(merged={person: (man, woman)})
    )
    assert {one.tokens for one in everything} == {(person,), (dog,)}


def test_no_pictures_no_captions() -> None:
    assert search(Toy(), np.zeros((0, 2, 3), np.float32), SearchOptions()) == []


def test_the_decoders_arrays_are_not_written_to() -> None:
    class Frozen(Toy):
        def step(
            self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None
        ) -> StepOutput:
            output = super().step(tokens_N, memory, state, best)
            output.logprobs_NC.flags.writeable = False
            return output

    assert search(Frozen(), features(3), SearchOptions()) == search(Toy(), features(3), SearchOptions())


class Broken(Toy):
    def __init__(self, logprobs_NV: Any) -> None:
        super().__init__()
        self.answer = logprobs_NV

    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None) -> StepOutput:
        return StepOutput(self.answer, state)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            np.full((2, 9), -1.0) + np.where(np.arange(9) == 8, np.nan, 0),
            "the decoder gave NaN as a log-probability",
        ),
        (np.full((2, 9), 4.25), r"log-probability of 4\.25; .* end the decoder with log_softmax"),
        (
            np.full((3, 9), -1.0),
            r"shape \(3, 9\) for 2 hypotheses; accepted is \(2, vocabulary of at least 4\)",
        ),
        (np.full((2, 3), -1.0), r"shape \(2, 3\) for 2 hypotheses"),
        (np.full((2, 1, 9), -1.0), r"shape \(2, 1, 9\) for 2 hypotheses"),
    ],
)
def test_a_decoder_that_gives_no_logprobs(answer: NDArray[Any], sentence: str) -> None:
    with pytest.raises(BackendError, match=sentence):
        search(Broken(answer), features(1, 2), SearchOptions())


@pytest.mark.parametrize("part", ["memory", "state"])
def test_a_start_with_a_wrong_number_of_rows(part: str) -> None:
    class Misshapen(Toy):
        def start(self, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
            memory, state = super().start(features_BLD)
            return memory | ({"keys": np.zeros((1, 2))} if part == "memory" else {}), state | {"keys": np.zeros(())}

    shape = r"\(1, 2\)" if part == "memory" else r"\(\)"
    with pytest.raises(BackendError, match=rf"the decoder's {part} 'keys' has shape {shape} for 2 pictures"):
        search(Misshapen(), features(1, 2), SearchOptions())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"beam": 0}, "search option beam is 0; it takes a whole number from 1 up"),
        ({"beam": 2.0}, r"search option beam is 2\.0; it takes a whole number"),
        ({"beam": True}, "search option beam is True; it takes a whole number"),
        ({"top": 4}, r"search option top is 4; it takes a whole number from 1 to 3 \(the beam\)"),
        ({"top": 0}, "search option top is 0"),
        ({"max_length": 0}, "search option max_length is 0; it takes a whole number from 1 up"),
        ({"min_length": -1}, "search option min_length is -1"),
        ({"min_length": 21}, r"min_length is 21; it takes a whole number from 0 to 20 \(max_length\)"),
        ({"block_ngrams": -1}, "search option block_ngrams is -1; it takes a whole number from 0 up"),
        ({"length_penalty": -0.5}, r"search option length_penalty is -0\.5; it takes a number from 0 to 10"),
        ({"length_penalty": float("nan")}, "search option length_penalty is nan"),
        ({"length_penalty": "1"}, "search option length_penalty is '1'"),
    ],
)
def test_options_out_of_range(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        SearchOptions(**values)
