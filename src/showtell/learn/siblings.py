"""One caption of a picture -> what its other captions would say, learned from captions alone.

A picture that comes with one caption is told of by chance: another writer names other things. Where captions without
pictures come several to a picture, they show which words go together from one writer to the next, and the content words
of missing captions can be guessed: who reads of a urinal on a bathroom wall expects a toilet or a sink in the others.
As targets of the head that predicts content words (see `learn.concepts`), the guesses are worth more than the one
caption: they hold less chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from showtell.learn.concepts import count_concepts
from showtell.learn.progress import Progress, silent
from showtell.records import Example
from showtell.text import Vocabulary, tokenise

_HIDDEN = 384
_DROPOUT = 0.3
_EPOCHS = 4
_BATCH = 128  # captions
_RATE = 2e-3  # of the hidden layer, falling to zero; the direct map's is half of it


class Siblings(nn.Module):
    """The logits of the content words of a picture's other captions, from the words of one.

    Args:
        words: V.
        prior_C: The share of captions that use each content word, which a new one predicts of all.
    """

    def __init__(self, words: int, prior_C: Tensor) -> None:
        super().__init__()
        self.enter = nn.EmbeddingBag(words, _HIDDEN, mode="sum")
        self.bias = nn.Parameter(torch.zeros(_HIDDEN))
        self.leave = nn.Linear(_HIDDEN, len(prior_C))
        self.direct = nn.EmbeddingBag(words, len(prior_C), mode="sum")
        with torch.no_grad():
            nn.init.normal_(self.enter.weight, 0, 0.05)
            self.direct.weight.zero_()
            self.leave.bias.copy_(prior_C.clamp(1e-4, 1 - 1e-4).logit())

    def forward(self, bags: Sequence[NDArray[np.int64]]) -> Tensor:
        """(N, C) of captions given by the ids of their words, each id once."""
        ids = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *bags]))
        starts = torch.from_numpy(np.cumsum([0, *map(len, bags)])[:-1])
        hidden = functional.dropout(torch.relu(self.enter(ids, starts) + self.bias), _DROPOUT, self.training)
        logits_NC: Tensor = self.leave(hidden) + self.direct(ids, starts)
        return logits_NC


def complete_counts(
    examples: Sequence[Example],
    told: Sequence[Example],
    vocabulary: Vocabulary,
    concepts: Sequence[str],
    captions: int,
    seed: int,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """(N, C): `count_concepts` of the examples, as if each picture had at least so many captions.

    Args:
        told: What is learned from: their pictures' captions, where there are several.
        captions: The number up to which missing captions are guessed.
    """
    counts_NC = count_concepts(examples, concepts)
    short = [row for row, example in enumerate(examples) if len(example.references) < captions]
    several = [example for example in told if len(example.references) > 1]
    if not short or not several:
        return counts_NC
    siblings = _fit(several, vocabulary, concepts, seed, progress)
    for row in short:
        references = examples[row].references
        with torch.inference_mode():
            guessed_C = siblings(_bags(references, vocabulary)).sigmoid().mean(0).numpy()
        share = len(references) / captions
        counts_NC[row] = share * counts_NC[row] + (1 - share) * guessed_C
    return counts_NC


def _fit(
    examples: Sequence[Example], vocabulary: Vocabulary, concepts: Sequence[str], seed: int, progress: Progress
) -> Siblings:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    bags = [bag for example in examples for bag in _bags(example.references, vocabulary)]
    counts = np.array([len(example.references) for example in examples])
    picture_N = np.repeat(np.arange(len(examples)), counts)
    shares_PC = count_concepts(examples, concepts)
    concept_of = np.full(len(vocabulary), -1)
    concept_of[[vocabulary.id_of(word) for word in concepts]] = np.arange(len(concepts))

    def others(rows: NDArray[np.int64]) -> Tensor:
        """The share of the picture's other captions that use each content word."""
        own_BC = np.zeros((len(rows), len(concepts)), np.float32)
        for place, row in enumerate(rows):
            said = concept_of[bags[row]]
            own_BC[place, said[said >= 0]] = 1
        count_B = counts[picture_N[rows]][:, None]
        shares_BC = (shares_PC[picture_N[rows]] * count_B - own_BC) / (count_B - 1)
        return torch.from_numpy(shares_BC.clip(0, 1).astype(np.float32))

    siblings = Siblings(len(vocabulary), torch.from_numpy(shares_PC.mean(0)))
    direct = list(siblings.direct.parameters())
    rest = [parameter for name, parameter in siblings.named_parameters() if not name.startswith("direct.")]
    groups = [{"params": rest, "lr": _RATE}, {"params": direct, "lr": _RATE / 2}]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-2)
    steps = _EPOCHS * -(-len(bags) // _BATCH)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(_EPOCHS):
        order = rng.permutation(len(bags))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            loss = functional.binary_cross_entropy_with_logits(siblings([bags[row] for row in rows]), others(rows))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            decay.step()
            progress(f"guessing what other captions say, loss {loss.item():.4f}", decay.last_epoch, steps)
    return siblings.eval()


def _bags(texts: Sequence[str], vocabulary: Vocabulary) -> list[NDArray[np.int64]]:
    """The ids of each caption's words, each once; unknown words are left out."""
    return [
        np.array(sorted({vocabulary.id_of(word) for word in tokenise(text) if word in vocabulary}), np.int64)
        for text in texts
    ]
