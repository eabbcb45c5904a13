"""A step function and picture features -> captions as token ids: the one search of the project.

Beam search over a batch of pictures in numpy, the same for PyTorch and ONNX Runtime; `beam=1` is greedy.
At each step a picture's hypotheses are extended by every token. Extensions by END among the K best leave as
finished hypotheses; the K best extensions by words run on. A picture is done when K hypotheses have finished
and none that runs on is better than the `top` best of them (as if its END came next, at no cost), when no word may
follow, or at `max_length` words. Its rows then leave the batch.

`Restrictions` say which words may not come, by themselves or after others, and which stand for several.

Source: n-gram blocking after Paulus et al. 2018; length penalty as Wu et al. 2016, but the plain form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from showtell.errors import BackendError, ConfigError
from showtell.text import END, PAD, START, UNK

Arrays = dict[str, NDArray[Any]]

_NEVER = (PAD, START, UNK)  # are never said
_ABOVE_ZERO = 1e-3  # nats by which rounding may lift a log-probability of certainty
_COLUMN_GROUPS = 128  # see `_floor`
_SPARE = 8  # best tokens that are asked for beyond those that are needed, since some of them may not follow


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a decoder says after one token of each hypothesis.

    Shape: `logprobs_NC` (N, C) float, natural logarithms, at most 0 (-inf: never), of the tokens `tokens_NC` (N, C),
        best first, or of all V in order where that is None; `state` as it went in; `alpha_NL` (N, L), attention
        over the grid cells while this token was predicted, or None for models without attention. The search keeps
        `alpha_NL` until it ends: do not write into it again.
    """

    logprobs_NC: NDArray[Any]
    state: Arrays
    alpha_NL: NDArray[Any] | None = None
    tokens_NC: NDArray[np.int64] | None = None


class StepFunction(Protocol):
    """A decoder, one token at a time. It keeps nothing between calls."""

    def start(self, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
        """The memory and the state before the first token.

        Shape: axis 0 of every array in memory is the picture (it is never copied for the beam and may have no
            arrays); axis 0 of every array in state is the hypothesis, B rows here.
        """
        ...

    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None) -> StepOutput:
        """Log-probabilities of the token after `tokens_N`, and the new state.

        Of each row's `best` most likely tokens at least, of equal ones the lower, or of all of them in order (None).
        A decoder that cannot find them faster than the search may always say all.

        Shape: N = B * K rows, picture-major: row n belongs to picture n // K, where B = rows of memory. B and
            K differ between calls. Rows may be fillers: what is said of them is not used, but is no NaN.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """How captions are searched.

    Units: lengths are in words. END takes one of the `max_length` steps, so a caption that ends by itself has
        at most `max_length - 1` words. `score` = logprob / length ** `length_penalty`, length counting END: 0
        ranks by plain log-probability (short captions win), 1 by the mean of a token.
    Raises: ConfigError for a value out of its range.
    """

    beam: int = 3
    top: int = 1  # best captions to return of each picture
    max_length: int = 20
    min_length: int = 1
    length_penalty: float = 0.7  # Wu et al. 2016 found 0.6-0.7 best; theirs is ((5 + length) / 6) ** penalty
    block_ngrams: int = 3  # no n-gram of this many words twice in a caption; 0 allows all

    def __post_init__(self) -> None:
        _check_integer("beam", self.beam, 1, None)
        _check_integer("top", self.top, 1, self.beam, " (the beam)")
        _check_integer("max_length", self.max_length, 1, None)
        _check_integer("min_length", self.min_length, 0, self.max_length, " (max_length)")
        _check_integer("block_ngrams", self.block_ngrams, 0, None)
        penalty = self.length_penalty
        if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not 0 <= penalty <= 10:
            raise ConfigError(f"search option length_penalty is {penalty!r}; it takes a number from 0 to 10 (0: none)")


def _check_integer(name: str, value: object, low: int, high: int | None, note: str = "") -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        accepted = f"from {low} up" if high is None else f"from {low} to {high}{note}"
        raise ConfigError(f"search option {name} is {value!r}; it takes a whole number {accepted}")


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What a search may not say, as token ids of one vocabulary.

    Attributes:
        denied: Words -> those that may not follow them at once; of the empty tuple, those that are never said. END is
            never denied.
        merged: A word -> others that are never said; their probabilities are added to its own.
        once: Words that a caption says once at most.
    """

    denied: Mapping[tuple[int, ...], frozenset[int]] = field(default_factory=dict)
    merged: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    once: frozenset[int] = frozenset()
    _barred: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    _barred_V: NDArray[np.bool_] = field(init=False, repr=False, compare=False)
    _leads_V: NDArray[np.bool_] = field(init=False, repr=False, compare=False)
    _once_V: NDArray[np.bool_] = field(init=False, repr=False, compare=False)
    _lengths: dict[int, set[int]] = field(init=False, repr=False, compare=False)  # by the last word of what is before
    _followers: dict[tuple[int, ...], NDArray[np.int64]] = field(init=False, repr=False, compare=False)  # seen so far

    def __post_init__(self) -> None:
        barred = {*_NEVER, *self.denied.get((), ()), *(token for others in self.merged.values() for token in others)}
        object.__setattr__(self, "_barred", np.array(sorted(barred)))
        object.__setattr__(self, "_barred_V", _table(barred))
        lengths: dict[int, set[int]] = {}
        for before in filter(None, self.denied):
            lengths.setdefault(before[-1], set()).add(len(before))
        object.__setattr__(self, "_leads_V", _table(set(lengths)))
        object.__setattr__(self, "_once_V", _table(self.once))
        object.__setattr__(self, "_lengths", lengths)
        object.__setattr__(self, "_followers", {})

    @property
    def barred(self) -> NDArray[np.int64]:
        """The tokens that are never said, PAD, START and UNK among them."""
        return self._barred

    def bars(self, tokens_NC: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the tokens are never said."""
        return _look_up(self._barred_V, tokens_NC)

    def merge(self, logprobs_NV: NDArray[Any]) -> NDArray[Any]:
        """Log-probabilities of all tokens, with those that are merged added up; what is added keeps its own."""
        if not self.merged:
            return logprobs_NV
        merged_NV = logprobs_NV.copy()
        for token, others in self.merged.items():
            merged_NV[:, token] = np.logaddexp.reduce(logprobs_NV[:, [token, *others]], axis=1)
        np.minimum(merged_NV, 0, out=merged_NV)  # rounding
        return merged_NV

    def after(self, words_NT: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(rows, tokens): each word that would complete something denied, or is said once at most and was."""
        said_M, place_M = _find(_look_up(self._once_V, words_NT))
        rows, tokens = [said_M], [words_NT[said_M, place_M]]
        if words_NT.shape[1]:
            for row in np.flatnonzero(_look_up(self._leads_V, words_NT[:, -1])).tolist():
                words = tuple(words_NT[row].tolist())
                for before in (words[-length:] for length in self._lengths[words[-1]]):
                    if before in self.denied:
                        tokens.append(self._followers_of(before))
                        rows.append(np.full(len(tokens[-1]), row))
        return np.concatenate(rows), np.concatenate(tokens)

    def _followers_of(self, before: tuple[int, ...]) -> NDArray[np.int64]:
        """The words that may not follow these as an array, made when it is first asked for: few of very many are."""
        found_F = self._followers.get(before)
        if found_F is None:
            found_F = np.array(sorted(self.denied[before]), np.int64)
            self._followers[before] = found_F
        return found_F


def _table(tokens: Set[int]) -> NDArray[np.bool_]:
    """Whether each id is one of the tokens; the last entry, False, is for all ids above."""
    table_V = np.zeros(max(tokens, default=-1) + 2, np.bool_)
    table_V[list(tokens)] = True
    return table_V


def _look_up(table_V: NDArray[np.bool_], tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = table_V[np.minimum(tokens, len(table_V) - 1)]
    return found


def _find(mask_NC: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, columns) where it is true, in order: numpy's `nonzero` of a matrix is six times slower."""
    return np.divmod(np.flatnonzero(mask_NC), max(mask_NC.shape[1], 1))


UNRESTRICTED = Restrictions()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One caption as token ids, without START and END.

    Shape: `token_logprobs` has one entry a token; `alpha_TL` (T, L) one row a token, None for models without
        attention and for a caption without words.
    Units: nats. `logprob` is the sum over tokens, END's `end_logprob` included when `ended`.
    """

    tokens: tuple[int, ...]
    logprob: float
    token_logprobs: tuple[float, ...]
    end_logprob: float | None
    ended: bool
    score: float
    alpha_TL: NDArray[Any] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class _Beam:
    """The running hypotheses, K rows a picture; a row of logprob -inf fills up a picture that has fewer."""

    pictures_B: NDArray[np.int64]  # which rows of the features
    prefix_NT: NDArray[np.int64]  # START and the words so far
    logprobs_N: NDArray[np.float64]

    @property
    def width(self) -> int:
        """K, the rows of each picture."""
        return len(self.logprobs_N) // len(self.pictures_B)


@dataclass(frozen=True, slots=True)
class _Link:
    """The last word of every row of a beam: which row of the beam before it extends, and its cost there."""

    parents_N: NDArray[np.int64]
    logprobs_N: NDArray[np.float64]
    alpha_ML: NDArray[Any] | None  # M rows of the beam before


@dataclass(frozen=True, slots=True)
class _Extensions:
    """Tokens that may follow, sorted by picture, then best first, then row, then token."""

    picture_C: NDArray[np.int64]
    row_C: NDArray[np.int64]
    token_C: NDArray[np.int64]
    logprob_C: NDArray[np.float64]  # of the token
    total_C: NDArray[np.float64]  # of the hypothesis with the token

    def where(self, mask_C: NDArray[np.bool_]) -> _Extensions:
        """Those under the mask, in the same order."""
        picture_C, row_C, token_C = self.picture_C[mask_C], self.row_C[mask_C], self.token_C[mask_C]
        return _Extensions(picture_C, row_C, token_C, self.logprob_C[mask_C], self.total_C[mask_C])

    def rank(self) -> NDArray[np.int64]:
        """The place of each among its picture's, from 0."""
        return np.arange(len(self.picture_C)) - np.searchsorted(self.picture_C, self.picture_C)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A hypothesis that has stopped at a row of the beam of its length; its history is still in the links."""

    tokens: tuple[int, ...]
    row: int
    logprob: float
    end_logprob: float | None


def search(
    step: StepFunction,
    features_BLD: NDArray[Any],
    options: SearchOptions,
    restrictions: Restrictions = UNRESTRICTED,
) -> list[list[Hypothesis]]:
    """The `top` best captions of each picture, best first; those that ended come before those cut off.

    A picture gets fewer than `top` when fewer hypotheses exist, and never none: one that cannot go on (no END
    in `max_length`, or every next word blocked) is returned with `ended=False`. Equal log-probabilities go to
    the better-placed hypothesis, then to the lower token id. PAD, START and UNK are never generated, nor what the
    restrictions deny.

    Shape: `features_BLD` has one picture in each row of axis 0; it goes to `step.start` and no further.
    Raises: BackendError when the step function returns NaN, values above 0, or arrays of a wrong shape.
    """
    leaves: list[list[_Leaf]] = [[] for _ in range(len(features_BLD))]
    if not leaves:
        return []
    memory, state = _start(step, features_BLD)
    beam = _Beam(np.arange(len(leaves)), np.full((len(leaves), 1), START, np.int64), np.zeros(len(leaves)))
    links: list[_Link] = []
    while len(beam.pictures_B) and len(links) < options.max_length:
        blocked = _blocked(beam.prefix_NT[:, 1:], options.block_ngrams, restrictions)
        output = _step(step, beam, memory, state, None if restrictions.merged else _asked(options))
        extensions = _extend(output, beam, blocked, options, restrictions)
        if extensions is None:
            output = _step(step, beam, memory, state, None)
            extensions = _extend(output, beam, blocked, options, restrictions)
        assert extensions is not None
        going_B, words = _split(extensions, beam, leaves, options)
        beam, link = _advance(words, beam, going_B, output.alpha_NL)
        links.append(link)
        state = {name: array[link.parents_N] for name, array in output.state.items()}
        if not going_B.all():
            memory = {name: array[going_B] for name, array in memory.items()}
    _leave(leaves, beam, np.ones(len(beam.logprobs_N), np.bool_))
    return [list(_best(found, links, options)) for found in leaves]


def _start(step: StepFunction, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
    memory, state = step.start(features_BLD)
    for part, arrays in (("memory", memory), ("state", state)):
        for name, array in arrays.items():
            if array.ndim == 0 or len(array) != len(features_BLD):
                raise BackendError(
                    f"the decoder's {part} '{name}' has shape {array.shape} for {len(features_BLD)} "
                    "pictures; axis 0 must be the picture: export the model again"
                )
    return memory, state


def _step(step: StepFunction, beam: _Beam, memory: Arrays, state: Arrays, best: int | None) -> StepOutput:
    """The decoder's answer, once it is seen to be log-probabilities."""
    tokens_N = np.ascontiguousarray(beam.prefix_NT[:, -1])
    output = step.step(tokens_N, memory, state, best)
    shape = output.logprobs_NC.shape
    if len(shape) != 2 or shape[0] != len(tokens_N) or shape[1] <= UNK:
        raise BackendError(
            f"the decoder gave log-probabilities of shape {shape} for {len(tokens_N)} hypotheses; "
            f"accepted is ({len(tokens_N)}, vocabulary of at least {UNK + 1}): export the model again"
        )
    highest = output.logprobs_NC.max()  # NaN where any is NaN
    if np.isnan(highest):
        raise BackendError(
            "the decoder gave NaN as a log-probability; its weights or the features are damaged: "
            "verify the bundle and the picture"
        )
    if highest > _ABOVE_ZERO:
        raise BackendError(
            f"the decoder gave a log-probability of {highest:.4g}; accepted are natural logarithms of "
            "probabilities, at most 0: end the decoder with log_softmax"
        )
    return output


def _asked(options: SearchOptions) -> int:
    """How many of a row's best tokens hold its 2K best that may follow, nearly always."""
    return 2 * options.beam + _SPARE


def _extend(
    output: StepOutput,
    beam: _Beam,
    blocked: tuple[NDArray[np.int64], NDArray[np.int64]],
    options: SearchOptions,
    restrictions: Restrictions,
) -> _Extensions | None:
    """Every extension that could be among the 2K best of its picture (of those, at most K can be END).

    None when too few of a row's best tokens may follow: then all are needed.
    """
    may_end = beam.prefix_NT.shape[1] > options.min_length
    row_M, token_M = blocked
    if output.tokens_NC is None:
        allowed_NC = restrictions.merge(output.logprobs_NC).copy()
        allowed_NC[:, restrictions.barred] = -np.inf
        if not may_end:
            allowed_NC[:, END] = -np.inf
        allowed_NC[row_M, token_M] = -np.inf
        floor_N = _floor(allowed_NC, 2 * options.beam)
        row_C, token_C = _find(allowed_NC >= floor_N[:, None])
        logprob_C = allowed_NC[row_C, token_C].astype(np.float64)
    else:
        may_NC = ~restrictions.bars(output.tokens_NC)
        if not may_end:
            may_NC &= output.tokens_NC != END
        at_M, place_M = _find(output.tokens_NC[row_M] == token_M[:, None])
        may_NC[row_M[at_M], place_M] = False
        count_NC = may_NC.cumsum(axis=1)
        fewest = count_NC[beam.logprobs_N > -np.inf, -1].min()
        if fewest < 2 * options.beam and may_NC.shape[1] >= _asked(options):
            return None
        may_NC &= count_NC <= 2 * options.beam  # they come best first
        row_C, place_C = _find(may_NC)
        token_C = output.tokens_NC[row_C, place_C]
        logprob_C = output.logprobs_NC[row_C, place_C].astype(np.float64)
    total_C = beam.logprobs_N[row_C] + logprob_C
    picture_C = row_C // beam.width
    # A stable sort: equal totals stay in the order of row, then token.
    order_C = np.lexsort((-total_C, picture_C))
    order_C = order_C[total_C[order_C] > -np.inf]  # neither fillers nor forbidden tokens
    return _Extensions(picture_C[order_C], row_C[order_C], token_C[order_C], logprob_C[order_C], total_C[order_C])


def _floor(allowed_NV: NDArray[Any], count: int) -> NDArray[Any]:
    """A bound for each row that its `count` best entries reach, and few others do.

    It is the count-th best of the maxima of disjoint groups of columns: four times faster than a partition.
    """
    N, V = allowed_NV.shape
    groups = _COLUMN_GROUPS if 4 * count <= _COLUMN_GROUPS <= V // 4 else V
    maxima_NG = allowed_NV[:, : V - V % groups].reshape(N, -1, groups).max(axis=1)
    place = max(groups - count, 0)
    floor_N: NDArray[Any] = np.partition(maxima_NG, place, axis=1)[:, place]
    return floor_N


def _blocked(
    words_NT: NDArray[np.int64], size: int, restrictions: Restrictions
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, tokens): each word that would complete an n-gram its row already has, or something denied."""
    repeated, denied = _repeated(words_NT, size), restrictions.after(words_NT)
    return np.concatenate((repeated[0], denied[0])), np.concatenate((repeated[1], denied[1]))


def _repeated(words_NT: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, tokens): each word that would complete an n-gram its row already has."""
    places = words_NT.shape[1] - size + 1  # of n-grams
    if size == 0 or places < 1:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    begins_NP = np.ones((len(words_NT), places), np.bool_)  # with the words that the row ends with
    for offset in range(size - 1):
        begins_NP &= words_NT[:, offset : offset + places] == words_NT[:, places + offset, None]
    row_M, place_M = _find(begins_NP)
    return row_M, words_NT[row_M, place_M + size - 1]


def _split(
    extensions: _Extensions, beam: _Beam, leaves: list[list[_Leaf]], options: SearchOptions
) -> tuple[NDArray[np.bool_], _Extensions]:
    """Which pictures go on, and their K best words; hypotheses that stop here are added to `leaves`."""
    is_end_C = extensions.token_C == END
    ends = extensions.where(is_end_C & (extensions.rank() < options.beam))
    ended_N = np.zeros(len(beam.logprobs_N), np.bool_)
    ended_N[ends.row_C] = True
    for at, row in enumerate(ends.row_C.tolist()):
        tokens = tuple(beam.prefix_NT[row, 1:].tolist())
        leaf = _Leaf(tokens, row, float(ends.total_C[at]), float(ends.logprob_C[at]))
        leaves[beam.pictures_B[ends.picture_C[at]]].append(leaf)
    words = extensions.where(~is_end_C)
    best_B = np.full(len(beam.pictures_B), -np.inf)  # of what runs on: as good as if END came next, for nothing
    np.maximum.at(best_B, words.picture_C, words.total_C / (beam.prefix_NT.shape[1] + 1) ** options.length_penalty)
    bar_B = np.array([_bar(leaves[picture], options) for picture in beam.pictures_B.tolist()])
    going_B = best_B > bar_B
    _leave(leaves, beam, np.repeat(~going_B, beam.width) & ~ended_N)
    return going_B, words.where((words.rank() < options.beam) & going_B[words.picture_C])


def _bar(ended: list[_Leaf], options: SearchOptions) -> float:
    """The score that a running hypothesis has to pass to be among the `top`, once enough have ended."""
    if len(ended) < options.beam:
        return -np.inf
    return sorted((_score(leaf, options) for leaf in ended), reverse=True)[options.top - 1]


def _score(leaf: _Leaf, options: SearchOptions) -> float:
    length = len(leaf.tokens) + (leaf.end_logprob is not None)
    return leaf.logprob / float(max(length, 1) ** options.length_penalty)


def _leave(leaves: list[list[_Leaf]], beam: _Beam, mask_N: NDArray[np.bool_]) -> None:
    """Add the running hypotheses under the mask to `leaves`, as they are: without END."""
    for row in np.flatnonzero(mask_N & (beam.logprobs_N > -np.inf)).tolist():
        picture = int(beam.pictures_B[row // beam.width])
        tokens = tuple(beam.prefix_NT[row, 1:].tolist())
        leaves[picture].append(_Leaf(tokens, row, float(beam.logprobs_N[row]), None))


def _advance(
    words: _Extensions, beam: _Beam, going_B: NDArray[np.bool_], alpha_ML: NDArray[Any] | None
) -> tuple[_Beam, _Link]:
    """The beam of the pictures that go on, as wide as the fullest of them, and its links to the old beam."""
    rank_C = words.rank()
    width = int(rank_C.max(initial=-1)) + 1
    at_C = (np.cumsum(going_B) - 1)[words.picture_C] * width + rank_C
    parents_N = np.repeat(np.flatnonzero(going_B) * beam.width, width)  # fillers: the picture's first row
    parents_N[at_C] = words.row_C
    tokens_N = np.full(len(parents_N), START, np.int64)  # fillers need a token that every decoder takes
    tokens_N[at_C] = words.token_C
    totals_N = np.full(len(parents_N), -np.inf)
    totals_N[at_C] = words.total_C
    logprobs_N = np.zeros(len(parents_N))
    logprobs_N[at_C] = words.logprob_C
    prefix_NT = np.column_stack((beam.prefix_NT[parents_N], tokens_N))
    return _Beam(beam.pictures_B[going_B], prefix_NT, totals_N), _Link(parents_N, logprobs_N, alpha_ML)


def _best(leaves: list[_Leaf], links: list[_Link], options: SearchOptions) -> Iterator[Hypothesis]:
    """The `top` best of a picture's hypotheses; equal scores in the order in which they stopped."""

    ranked = sorted(leaves, key=lambda leaf: (leaf.end_logprob is None, -_score(leaf, options)))
    for leaf in ranked[: options.top]:
        token_logprobs, alpha_TL = _trace(leaf, links)
        ended = leaf.end_logprob is not None
        score = _score(leaf, options)
        yield Hypothesis(leaf.tokens, leaf.logprob, token_logprobs, leaf.end_logprob, ended, score, alpha_TL)


def _trace(leaf: _Leaf, links: list[_Link]) -> tuple[tuple[float, ...], NDArray[Any] | None]:
    """Log-probability and attention of each token, read back along the links."""
    logprobs: list[float] = []
    alphas: list[NDArray[Any]] = []
    row = leaf.row
    for link in reversed(links[: len(leaf.tokens)]):
        logprobs.append(float(link.logprobs_N[row]))
        row = int(link.parents_N[row])
        if link.alpha_ML is not None:
            alphas.append(link.alpha_ML[row])
    return tuple(reversed(logprobs)), np.stack(alphas[::-1]) if alphas else None
