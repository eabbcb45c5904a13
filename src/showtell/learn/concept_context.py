"""The confidences of content words -> the vector that a decoder sees of them.

Kept apart from `learn.concepts`, which finds the words and trains their prediction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConceptContext(nn.Module):
    """A multi-label head on the mean feature, and an embedding of what it says (Wu et al. 2016, sec. 3).

    Args:
        width: D, the features of one grid cell.
        concepts: C, the content words.
        embedding: E, of the vector.
    """

    def __init__(self, width: int, concepts: int, embedding: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, concepts)
        self.embed = nn.Linear(concepts, embedding)

    def forward(self, logits_BC: Tensor) -> Tensor:
        """(B, E) from the logits of the words.

        The square root spreads the small probabilities that most content words have. It is taken of the logarithm,
        since ONNX Runtime's sigmoid is off by 1e-7, which is 3e-4 after a root near zero.
        """
        return self.embed(torch.exp(-0.5 * functional.softplus(-logits_BC)))
