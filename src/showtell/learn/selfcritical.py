"""Self-critical training: captions that the decoder draws itself are made likelier or less so by their CIDEr-D.

The policy gradient of Rennie et al. 2017 (eq. 7 to 9), whose baseline is either greedy's caption of the picture or, as
Luo 2020 found better, the mean of the picture's other draws. END counts as a word of captions and references, so that
a caption is rewarded for ending where people do; n-grams are weighted by the training pictures. A share of
cross-entropy keeps the sentences of people in sight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.learn.batches import CaptionTable
from showtell.learn.cells import State
from showtell.learn.config import SelfCriticalConfig
from showtell.learn.losses import Loss
from showtell.learn.steps import Decoder
from showtell.learn.training import Started
from showtell.metrics.rewards import CiderReward
from showtell.text import END, PAD, START, UNK

_NEVER = [PAD, START, UNK]  # what the search never says


class Drawn(NamedTuple):
    """Captions that a decoder has said.

    Shape: tokens (N, T), up to END, then PAD; logprobs (N, T), 0 after END. With K captions a picture, row n is of
        picture n // K.
    """

    tokens_NT: Tensor
    logprobs_NT: Tensor


def draw_captions(
    decoder: Decoder, memory: State, state: State, *, captions: int, max_words: int, top_words: int = 0
) -> Drawn:
    """Captions word by word from the decoder's own distribution; gradients are kept.

    Args:
        top_words: Each word is one of the likeliest so many, whose probabilities, and `logprobs`, are among themselves
            (Fan et al. 2018); 1: greedy, 0: all words.
    """
    state = {name: value.repeat_interleave(captions, 0) for name, value in state.items()}
    rows = len(next(iter(state.values())))
    device, words = decoder.words.weight.device, len(decoder.words.weight)
    tokens_N = torch.full((rows,), START, device=device)
    going_N = torch.ones(rows, dtype=torch.bool, device=device)
    every_1V = torch.arange(words, device=device)[None]
    tokens, logprobs = [], []
    for _ in range(max_words + 1):
        step = decoder.step(tokens_N, memory, state)
        logits_NV = step.logits_NV.float().index_fill(1, torch.tensor(_NEVER, device=device), -torch.inf)
        if 0 < top_words < words:
            logits_NK, words_NK = logits_NV.topk(top_words, -1)
        else:  # sorting all words would take longer than the decoder
            logits_NK, words_NK = logits_NV, every_1V.expand_as(logits_NV)
        logprobs_NK = logits_NK.log_softmax(-1)
        chosen_N1 = torch.multinomial(logprobs_NK.detach().exp(), 1)
        tokens_N = words_NK.gather(1, chosen_N1)[:, 0].masked_fill(~going_N, PAD)
        tokens.append(tokens_N)
        logprobs.append(logprobs_NK.gather(1, chosen_N1)[:, 0] * going_N)
        going_N = going_N & (tokens_N != END)
        state = step.state
        if not going_N.any():
            break
    return Drawn(torch.stack(tokens, 1), torch.stack(logprobs, 1))


class Judge:
    """What captions of training pictures are worth, END included.

    Args:
        table: The training captions.
        words: V; this id stands for END, which the reward itself does not count.
    """

    def __init__(self, table: CaptionTable, words: int) -> None:
        self._end = words
        self._reward = CiderReward(
            [
                [[*ids[1:-1].tolist(), words] for ids, weight in table.captions_of(item) for _ in range(round(weight))]
                for item in range(len(table))
            ]
        )

    def score(self, tokens_NT: Tensor, items_N: NDArray[np.int64]) -> Tensor:
        """(N,) CIDEr-D, 0 to 10, of captions of the table's pictures `items_N`."""
        ids_NT = tokens_NT.cpu().numpy()
        ended_NT = np.where(ids_NT == END, self._end, ids_NT)
        return torch.from_numpy(self._reward.score(ended_NT, items_N)).float().to(tokens_NT.device)


def self_critical_loss(
    decoder: Decoder,
    judge: Judge,
    config: SelfCriticalConfig,
    max_words: int,
    cross_entropy: Callable[[Started, float], Loss],
) -> Callable[[Started, float], Loss]:
    """The loss of a phase: minus the advantage of each drawn caption times its log-probability, a mean over tokens.

    Args:
        cross_entropy: The loss on the references, a share of the whole.
    """

    def loss(started: Started, done: float) -> Loss:
        batch, memory, state = started
        longest = min(max_words, batch.tokens_NT.shape[1])  # two words more than the longest reference
        decoder.eval()
        drawn = draw_captions(
            decoder, memory, state, captions=config.captions, max_words=longest, top_words=config.top_words
        )
        decoder.train()
        rewards_BK = judge.score(drawn.tokens_NT, np.repeat(batch.items_B, config.captions)).view(-1, config.captions)
        if config.baseline == "others":
            others_BK = (rewards_BK.sum(1, keepdim=True) - rewards_BK) / (config.captions - 1)
        else:
            others_BK = judge.score(_greedy(decoder, memory, state, longest), batch.items_B)[:, None]
        advantage_N = (rewards_BK - others_BK).flatten()
        said_NT = drawn.tokens_NT != PAD
        value = -(advantage_N[:, None] * drawn.logprobs_NT).sum() / said_NT.sum()
        if config.cross_entropy:
            kept = config.cross_entropy
            value = (1 - kept) * value + kept * cross_entropy(started, done).value
        return Loss(value, float(rewards_BK.mean()), float(said_NT.sum()))

    return loss


@torch.no_grad()
def _greedy(decoder: Decoder, memory: State, state: State, max_words: int) -> Tensor:
    training = decoder.training
    decoder.eval()
    said = draw_captions(decoder, memory, state, captions=1, max_words=max_words, top_words=1)
    decoder.train(training)
    return said.tokens_NT
