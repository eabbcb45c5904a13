"""What a batch costs: own words as inputs, and the penalty on attention."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from showtell.learn.batches import Batch  # noqa: E402
from showtell.learn.config import ModelConfig  # noqa: E402
from showtell.learn.decoders import build_decoder  # noqa: E402
from showtell.learn.losses import caption_loss, mix_own_words  # noqa: E402
from showtell.text import END, PAD, START, UNK  # noqa: E402

V = 12
TOKENS = torch.tensor([[START, 4, 5, 6, 7, END], [START, 8, 9, END, PAD, PAD]])
ROWS = torch.tensor([0, 1])


def build(conditioning: str = "attention") -> Any:
    torch.manual_seed(0)
    config = ModelConfig(conditioning=conditioning, embedding=6, hidden=8, attention=4, dropout=0.0)  # type: ignore[arg-type]
    return build_decoder(config, width=5, vocabulary_size=V).eval()


def batch() -> Batch:
    return Batch(TOKENS, ROWS, torch.tensor([1.0, 3.0]), np.arange(2))


def test_own_words_are_what_the_decoder_says_after_the_word_before() -> None:
    decoder = build()
    memory, state = decoder.start(torch.randn(2, 4, 5))
    inputs = TOKENS[:, :-1]
    with torch.no_grad():  # the decoder says 10, whatever it sees
        decoder.output.weight.zero_()
        decoder.output.bias.fill_(-50.0)
        decoder.output.bias[10] = 50.0
    assert torch.equal(mix_own_words(decoder, memory, state, inputs, ROWS, 0.0), inputs)
    mixed = mix_own_words(decoder, memory, state, inputs, ROWS, 1.0)
    assert mixed.tolist() == [[START, 10, 10, 10, 10], [START, 10, 10, END, PAD]]
    assert torch.equal(inputs, TOKENS[:, :-1])
    with torch.no_grad():
        decoder.output.bias[10] = -50.0
        decoder.output.bias[END] = 50.0
    assert torch.equal(mix_own_words(decoder, memory, state, inputs, ROWS, 1.0), inputs)  # END is no input


def test_the_share_of_own_words_is_kept() -> None:
    decoder = build("init")
    memory, state = decoder.start(torch.randn(1, 4, 5))
    tokens = torch.randint(4, V, (1, 4000))
    with torch.no_grad():
        decoder.output.bias[: UNK + 1] = -50.0
    mixed = mix_own_words(decoder, memory, state, tokens, torch.zeros(1, dtype=torch.long), 0.3)
    changed = float((mixed != tokens).float().mean())
    assert changed == pytest.approx(0.3 * (1 - 1 / 8), abs=0.04)  # one word in eight is drawn as it was


def test_own_words_change_the_loss_and_keep_its_gradient() -> None:
    decoder = build("init")
    memory, state = decoder.start(torch.randn(2, 4, 5))
    plain, tokens = caption_loss(decoder, memory, state, batch(), 0.0)
    torch.manual_seed(3)
    mixed, same = caption_loss(decoder, memory, state, batch(), 0.0, own_words=0.9)
    assert tokens == same == 5 + 3 * 3
    assert plain.item() != pytest.approx(mixed.item(), rel=1e-5)
    mixed.backward()
    assert decoder.words.weight.grad.abs().sum() > 0


def test_the_penalty_is_the_mean_square_of_what_cells_lack() -> None:
    decoder = build()
    memory, state = decoder.start(torch.randn(2, 4, 5))
    plain, _ = caption_loss(decoder, memory, state, batch(), 0.0)
    punished, _ = caption_loss(decoder, memory, state, batch(), 0.0, attention_penalty=2.0)
    alpha = decoder(memory, state, TOKENS[:, :-1], ROWS).alpha_NTL.detach()
    expected = []
    for row, targets in enumerate((5, 3)):  # words and END of each caption
        looked = alpha[row, :targets].sum(0)
        expected.append(float(((1 - looked) ** 2).mean()))
    assert (punished - plain).item() == pytest.approx(2.0 * (expected[0] + 3 * expected[1]) / 4, rel=1e-4)
