"""Self-critical training: what is drawn, what it is worth, and where the gradient leads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell.learn.batches import CaptionTable  # noqa: E402
from showtell.learn.config import ModelConfig, SelfCriticalConfig  # noqa: E402
from showtell.learn.decoders import build_decoder  # noqa: E402
from showtell.learn.losses import Loss, caption_loss  # noqa: E402
from showtell.learn.selfcritical import Judge, draw_captions, self_critical_loss  # noqa: E402
from showtell.learn.training import Started  # noqa: E402
from showtell.metrics.cider import Cider  # noqa: E402
from showtell.records import Example  # noqa: E402
from showtell.text import END, PAD, START, UNK, Vocabulary, tokenise  # noqa: E402

TEXTS = [("a red ball", "one red ball here"), ("a dog runs", "the dog runs"), ("two cats sit", "two cats")]
EXAMPLES = [Example(str(number), None, texts, "train") for number, texts in enumerate(TEXTS)]
VOCABULARY = Vocabulary.build(tokenise(text) for texts in TEXTS for text in texts)
KINDS = {"init": "lstm", "attention": "lstm", "topdown": "gru", "transformer": "transformer"}


def build(kind: str = "init", dropout: float = 0.0) -> Any:
    torch.manual_seed(2)
    conditioning = "attention" if kind == "transformer" else kind
    config = ModelConfig(
        conditioning=conditioning,  # type: ignore[arg-type]
        cell=KINDS[kind],  # type: ignore[arg-type]
        embedding=8,
        hidden=16,
        attention=8,
        heads=2,
        dropout=dropout,
    )
    return build_decoder(config, width=6, vocabulary_size=len(VOCABULARY))


def features() -> Any:
    return torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))


def table() -> CaptionTable:
    return CaptionTable(EXAMPLES, VOCABULARY, 10)


def no_cross_entropy(started: Started, done: float) -> Loss:
    raise AssertionError("it is not asked for")


@pytest.mark.parametrize("top_words", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_those_of_teacher_forcing_among_the_words_that_can_be_drawn(kind: str, top_words: int) -> None:
    decoder = build(kind).eval()
    memory, state = decoder.start(features())
    drawn = draw_captions(decoder, memory, state, captions=4, max_words=6, top_words=top_words)
    assert drawn.tokens_NT.shape[0] == 12
    assert drawn.tokens_NT.shape[1] <= 7
    assert not np.isin(drawn.tokens_NT.numpy(), [START, UNK]).any()
    rows = torch.arange(3).repeat_interleave(4)
    inputs = torch.cat((torch.full((12, 1), START), drawn.tokens_NT[:, :-1]), 1)
    logits = torch.zeros(*inputs.shape, len(VOCABULARY))
    logits[inputs != PAD] = decoder(memory, state, inputs, rows).logits_MV
    logits[:, :, [PAD, START, UNK]] = -torch.inf
    if top_words:
        logits[logits < logits.topk(top_words).values[..., -1:]] = -torch.inf
    expected = logits.log_softmax(-1).gather(2, drawn.tokens_NT[:, :, None])[:, :, 0]
    going = drawn.tokens_NT != PAD
    torch.testing.assert_close(drawn.logprobs_NT[going], expected[going], rtol=1e-4, atol=1e-5)
    assert not drawn.logprobs_NT[~going].any()
    for row in drawn.tokens_NT.tolist():
        words = row[: row.index(END) + 1] if END in row else row
        assert PAD not in words
        assert all(token == PAD for token in row[len(words) :])


def test_draws_follow_the_distribution_and_greedy_takes_the_likeliest() -> None:
    decoder = build().eval()
    memory, state = decoder.start(features()[:1])
    first = decoder.step(torch.tensor([START]), memory, state).logits_NV[0].detach()
    first[[PAD, START, UNK]] = -torch.inf
    drawn = draw_captions(decoder, memory, state, captions=20_000, max_words=0).tokens_NT[:, 0]
    shares = torch.bincount(drawn, minlength=len(VOCABULARY)) / 20_000
    torch.testing.assert_close(shares, first.softmax(-1), rtol=0, atol=0.015)
    greedy = draw_captions(decoder, memory, state, captions=1, max_words=0, top_words=1).tokens_NT
    assert greedy.item() == first.argmax().item()


def test_the_reward_counts_the_end_as_a_word() -> None:
    """Against the plain CIDEr-D, with the end written out."""
    judge = Judge(table(), len(VOCABULARY))
    said = ["a red ball", "a red", "red ball"]
    tokens = torch.full((4, 6), PAD)
    for row, text in enumerate(said):
        ids = VOCABULARY.encode(tokenise(text))[1:]
        tokens[row, : len(ids)] = torch.tensor(ids)
    tokens[3, :3] = torch.tensor(VOCABULARY.encode(tokenise("a red ball"))[1:-1])  # cut before its end
    tokens = tokens[:, :4]
    got = judge.score(tokens, np.zeros(4, np.int64))
    ended = [[(*tokenise(text), "<end>") for text in texts] for texts in TEXTS]
    cider = Cider(ended)
    candidates = [(*tokenise(text), "<end>") for text in said] + [tuple(tokenise("a red ball"))]
    expected = [cider.score_one(candidate, 0) for candidate in candidates]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)
    assert got[0] > got[3]  # ending well is worth something


@pytest.mark.parametrize("baseline", ["others", "greedy"])
def test_the_gradient_is_the_policy_gradient(baseline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from showtell.learn import selfcritical

    decoder = build().eval()
    config = SelfCriticalConfig(epochs=1, captions=3, baseline=baseline, cross_entropy=0.0)  # type: ignore[arg-type]
    memory, state = decoder.start(features())
    batch = table().batch(np.arange(3))
    rewards = torch.tensor([[1.0, 4.0, 1.0], [0.0, 0.0, 0.0], [2.0, 2.0, 8.0]])

    class Fixed:
        def score(self, tokens_NT: Any, items_N: Any) -> Any:
            assert items_N.tolist() == ([0, 0, 0, 1, 1, 1, 2, 2, 2] if len(tokens_NT) == 9 else [0, 1, 2])
            return rewards.flatten() if len(tokens_NT) == 9 else torch.tensor([1.0, 2.0, 3.0])

    kept: list[Any] = []
    draw = selfcritical.draw_captions

    def keep(*arguments: Any, **options: Any) -> Any:
        kept.append(draw(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(selfcritical, "draw_captions", keep)
    loss = self_critical_loss(decoder, Fixed(), config, 5, no_cross_entropy)(Started(batch, memory, state), 0.0)  # type: ignore[arg-type]
    if baseline == "others":
        advantage = torch.tensor([[-1.5, 3.0, -1.5], [0.0, 0.0, 0.0], [-3.0, -3.0, 6.0]])
    else:
        advantage = rewards - torch.tensor([[1.0], [2.0], [3.0]])
    drawn = kept[0]
    words = int((drawn.tokens_NT != PAD).sum())
    expected = -(advantage.flatten()[:, None] * drawn.logprobs_NT).sum() / words
    assert loss.value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.shown == pytest.approx(rewards.mean().item())
    assert loss.tokens == words


@pytest.mark.parametrize("kind", KINDS)
def test_the_reward_rises_from_where_cross_entropy_leaves_it(kind: str) -> None:
    decoder = build(kind, dropout=0.1)
    config = SelfCriticalConfig(epochs=1, captions=8, cross_entropy=0.0)
    rewarded = self_critical_loss(decoder, Judge(table(), len(VOCABULARY)), config, 6, no_cross_entropy)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    batch = table().batch(np.arange(3))
    shown = []
    for step in range(160):
        memory, state = decoder.start(features())
        if step < 80:
            value, _ = caption_loss(decoder, memory, state, batch, 0.2)
        else:
            value, reward, _ = rewarded(Started(batch, memory, state), 0.0)
            shown.append(reward)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert np.mean(shown[-10:]) > np.mean(shown[:10])
    decoder.eval()
    ended = draw_captions(decoder, *decoder.start(features()), captions=1, max_words=6, top_words=1).tokens_NT
    assert (ended == END).any(1).all()  # sentences end where people's do


def test_cross_entropy_is_mixed_in() -> None:
    decoder = build().eval()
    batch = table().batch(np.arange(3))
    judge = Judge(table(), len(VOCABULARY))
    constant = Loss(torch.tensor(7.0), 7.0, 1.0)

    def value(share: float) -> float:
        torch.manual_seed(0)
        config = SelfCriticalConfig(epochs=1, captions=3, cross_entropy=share)
        loss = self_critical_loss(decoder, judge, config, 5, lambda started, done: constant)
        return loss(Started(batch, *decoder.start(features())), 0.0).value.item()

    assert value(0.25) == pytest.approx(0.75 * value(0.0) + 0.25 * 7.0, rel=1e-5)


def test_one_caption_has_no_others() -> None:
    with pytest.raises(ValueError, match="baseline 'others' needs two captions or more"):
        SelfCriticalConfig(captions=1)
    assert SelfCriticalConfig(captions=1, baseline="greedy").captions == 1
