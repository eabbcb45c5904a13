"""What a batch of captions costs: cross-entropy under teacher forcing, with what may be added to it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from showtell.learn.batches import Batch
from showtell.learn.cells import State
from showtell.learn.steps import Decoder
from showtell.text import END, PAD


class Loss(NamedTuple):
    """What one batch says to the optimiser, and what of it is shown.

    Units: `shown` is nats a token, or the mean reward of self-critical training; `tokens`, by which it is weighted, are
    the words and ENDs of all references.
    """

    value: Tensor
    shown: float
    tokens: float


def caption_loss(
    decoder: Decoder,
    memory: State,
    state: State,
    batch: Batch,
    label_smoothing: float,
    *,
    own_words: float = 0.0,
    attention_penalty: float = 0.0,
) -> tuple[Tensor, float]:
    """(mean cross-entropy of a token in nats, number of tokens), each caption counted by its weight.

    Args:
        own_words: The share of the inputs that are words the decoder draws itself (scheduled sampling, Bengio et al.
            2015, with all draws made from a first pass over the whole caption, as Mihaylova & Martins 2019, sec. 3).
        attention_penalty: Weight of the doubly stochastic penalty (Xu et al. 2015, eq. 14), here a mean over the cells
            so that it does not depend on the grid.
    """
    inputs_NT, targets_NT = batch.tokens_NT[:, :-1], batch.tokens_NT[:, 1:]
    if own_words:
        inputs_NT = mix_own_words(decoder, memory, state, inputs_NT, batch.rows_N, own_words)
    forced = decoder(memory, state, inputs_NT, batch.rows_N)
    fed_NT = inputs_NT != PAD
    targets_M = targets_NT[fed_NT]
    real_M = targets_M != PAD  # after a shorter caption's END comes nothing
    weights_M = batch.weights_N[:, None].expand_as(targets_NT)[fed_NT] * real_M
    losses_M = functional.cross_entropy(forced.logits_MV, targets_M, reduction="none", label_smoothing=label_smoothing)
    total = weights_M.sum()
    loss = (losses_M * weights_M).sum() / total
    if attention_penalty:
        looked_NL = (forced.alpha_NTL * (targets_NT != PAD)[:, :, None]).sum(1)
        off_N = ((1 - looked_NL) ** 2).mean(1)
        loss = loss + attention_penalty * (off_N * batch.weights_N).sum() / batch.weights_N.sum()
    return loss, float(total)


@torch.no_grad()
def mix_own_words(
    decoder: Decoder, memory: State, state: State, inputs_NT: Tensor, rows_N: Tensor, share: float
) -> Tensor:
    """The inputs with a share of the words exchanged for what the decoder says in their place; marks stay."""
    logits_MV = decoder(memory, state, inputs_NT, rows_N).logits_MV.float()
    said_NT = torch.full_like(inputs_NT, PAD)
    said_NT[inputs_NT != PAD] = torch.multinomial(logits_MV.softmax(-1), 1)[:, 0]
    said_NT = said_NT[:, :-1]  # what was said after each input stands in the place of the next
    there_NT = (inputs_NT[:, 1:] > END) & (said_NT > END)
    drawn_NT = there_NT & (torch.rand(said_NT.shape, device=said_NT.device) < share)
    mixed_NT = inputs_NT.clone()
    mixed_NT[:, 1:] = torch.where(drawn_NT, said_NT, inputs_NT[:, 1:])
    return mixed_NT
