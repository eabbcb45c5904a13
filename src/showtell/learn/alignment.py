"""Regions and words in one space, whole pictures and sentences in another, learned from captions of whole pictures.

A region's vector and a word's are near when the word tells of the region. What a picture and a caption have in common
is the sum over the words of each one's best region (Karpathy & Fei-Fei 2015, section 3.1); beside it stands one vector
of the whole picture and one of the whole sentence (Faghri et al. 2018), which an index of many pictures can hold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from showtell.learn.config import AlignmentConfig, ModelConfig
from showtell.text import PAD


class Seen(NamedTuple):
    """Shape: regions (B, R, E) and pictures (B, E), of length 1."""

    regions_BRE: Tensor
    pictures_BE: Tensor


class Said(NamedTuple):
    """Shape: words (N, T, E), zero at PAD; sentences (N, E), of length 1."""

    words_NTE: Tensor
    sentences_NE: Tensor


class Alignment(nn.Module):
    """The two spaces. Words go through a bidirectional GRU, so that each is told by its neighbours.

    Args:
        width: D of the encoder's grid.
        vocabulary_size: V.
        pool_RL: The weights with which each region gathers the cells of the grid; the rows sum to 1.
    """

    pool_RL: Tensor

    def __init__(
        self, model: ModelConfig, config: AlignmentConfig, *, width: int, vocabulary_size: int, pool_RL: Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("pool_RL", pool_RL, persistent=False)
        self.words = nn.Embedding(vocabulary_size, model.embedding, padding_idx=PAD)
        self.dropout = nn.Dropout(model.dropout)
        self.reader = nn.GRU(model.embedding, model.hidden, batch_first=True, bidirectional=True)
        self.word = nn.Linear(2 * model.hidden, config.width)
        self.sentence = nn.Linear(2 * model.hidden, config.width)
        self.region = nn.Linear(width, config.width)
        self.picture = nn.Linear(width, config.width)

    def load_words(self, embedding_VW: Tensor, *, tune: bool) -> None:
        """Starts the entries of words somewhere else; unless `tune`, they stay there."""
        with torch.no_grad():
            self.words.weight.copy_(embedding_VW)
        self.words.requires_grad_(tune)

    def see(self, features_BLD: Tensor) -> Seen:
        """Where the windows of pictures lie, and the pictures."""
        cells_BLE = self.region(self.dropout(features_BLD))
        regions_BRE = torch.einsum("rl,ble->bre", self.pool_RL, cells_BLE)  # pooling and projecting commute
        pictures_BE = self.picture(self.dropout(features_BLD.mean(1)))
        return Seen(functional.normalize(regions_BRE, dim=-1), functional.normalize(pictures_BE, dim=-1))

    def read(self, tokens_NT: Tensor) -> Said:
        """Where the words of captions lie, and the captions; START and END are not among the tokens."""
        there_NT = tokens_NT != PAD
        packed = pack_padded_sequence(
            self.dropout(self.words(tokens_NT)), there_NT.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states_NTH, _ = pad_packed_sequence(
            self.reader(packed)[0], batch_first=True, total_length=tokens_NT.shape[1]
        )  # zero at PAD
        words_NTE = self.word(states_NTH) * there_NT[:, :, None]
        sentences_NE = self.sentence(states_NTH.sum(1) / there_NT.sum(1, keepdim=True))
        return Said(words_NTE, functional.normalize(sentences_NE, dim=-1))


def region_scores(regions_BRE: Tensor, words_NTE: Tensor) -> Tensor:
    """What each picture and each caption have in common: the sum over words of the best region's dot product.

    Shape: (B, R, E), (N, T, E) with zeros for words that are not there -> (B, N).
    Source: Karpathy & Fei-Fei 2015, eq. 8.
    """
    products_BNRT = torch.einsum("bre,nte->bnrt", regions_BRE, words_NTE)
    scores_BN: Tensor = products_BNRT.amax(2).sum(2)
    return scores_BN


def ranking_loss(similarity_BN: Tensor, owner_N: Tensor, wrong_BN: Tensor, *, margin: float, hardest: bool) -> Tensor:
    """How far captions and pictures that do not belong together come within a margin of those that do.

    A caption's own picture must be more similar to it than other pictures are, and it more similar to that picture than
    other captions are.

    Shape: owner (N,), the picture of each caption; wrong (B, N), whether the two do not belong together: captions that
        are said of several pictures are wrong of none of them. Returns a number, the mean over captions.

    Args:
        hardest: Count the worst offender alone (VSE++, Faghri et al. 2018, eq. 6), and not the sum over all (Karpathy
            & Fei-Fei 2015, eq. 9).
    """
    right_N = similarity_BN[owner_N, torch.arange(len(owner_N), device=owner_N.device)]
    pictures_BN = (margin - right_N + similarity_BN).clamp(min=0) * wrong_BN
    captions_NN = (margin - right_N[:, None] + similarity_BN[owner_N]).clamp(min=0) * wrong_BN[owner_N]
    if hardest:
        return (pictures_BN.amax(0) + captions_NN.amax(1)).mean()
    return (pictures_BN.sum(0) + captions_NN.sum(1)).mean()


def contrastive_loss(similarity_BN: Tensor, owner_N: Tensor, wrong_BN: Tensor, *, temperature: float) -> Tensor:
    """How unlikely it is to choose a caption's picture among the others, and it among the captions of others.

    Shape: as `ranking_loss`.
    Source: van den Oord et al. 2018, section 2.3, in both directions as Radford et al. 2021, section 2.3.
    """
    itself_N = torch.arange(len(owner_N), device=owner_N.device)
    own_BN = torch.zeros_like(wrong_BN).index_put((owner_N, itself_N), torch.ones_like(itself_N, dtype=torch.bool))
    logits_BN = similarity_BN / temperature
    pictures_BN = logits_BN.masked_fill(~(wrong_BN | own_BN), -torch.inf)
    itself_NN = torch.eye(len(owner_N), dtype=torch.bool, device=owner_N.device)
    captions_NN = logits_BN[owner_N].masked_fill(~(wrong_BN[owner_N] | itself_NN), -torch.inf)
    return functional.cross_entropy(pictures_BN.T, owner_N) + functional.cross_entropy(captions_NN, itself_N)


def alignment_loss(
    seen: Seen, said: Said, owner_N: Tensor, wrong_BN: Tensor, config: AlignmentConfig, *, warm: bool
) -> Tensor:
    """The loss of whole pictures and sentences, and that of regions and words, weighted.

    Args:
        warm: Whether `sum_epochs` are over.
    """
    whole_BN = seen.pictures_BE @ said.sentences_NE.T
    parts_BN = region_scores(seen.regions_BRE, said.words_NTE)
    if config.loss == "softmax":
        whole = contrastive_loss(whole_BN, owner_N, wrong_BN, temperature=config.temperature)
        parts = contrastive_loss(parts_BN, owner_N, wrong_BN, temperature=1.0)
    else:
        hardest = config.loss == "hardest" and warm
        whole = ranking_loss(whole_BN, owner_N, wrong_BN, margin=config.margin, hardest=hardest)
        parts = ranking_loss(parts_BN, owner_N, wrong_BN, margin=config.region_margin, hardest=hardest)
    return whole + config.region_weight * parts
