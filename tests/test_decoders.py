"""Every conditioning of the decoder: steps, whole captions, batches, beams, gradients."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell.decoding import SearchOptions, search  # noqa: E402
from showtell.learn.batches import CaptionTable  # noqa: E402
from showtell.learn.config import ModelConfig  # noqa: E402
from showtell.learn.decoders import build_decoder  # noqa: E402
from showtell.learn.losses import caption_loss  # noqa: E402
from showtell.learn.steps import Decoder  # noqa: E402
from showtell.learn.validation import TorchStep  # noqa: E402
from showtell.records import Example  # noqa: E402
from showtell.text import PAD, START, Vocabulary  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "init": {},
    "init of two GRU layers": {"conditioning": "init", "cell": "gru", "layers": 2},
    "init of three LSTM layers": {"conditioning": "init", "layers": 3},
    "first": {},
    "first, tied words": {"conditioning": "first", "tie_words": True},
    "every": {},
    "every, GRU": {"conditioning": "every", "cell": "gru"},
    "merge": {},
    "concepts": {},
    "concepts, GRU": {"conditioning": "concepts", "cell": "gru"},
    "concepts+vector": {},
    "concepts+grid": {},
    "attention": {},
    "attention of two GRU layers, tied words": {
        "conditioning": "attention",
        "cell": "gru",
        "layers": 2,
        "tie_words": True,
    },
    "adaptive": {},
    "adaptive of two layers": {"conditioning": "adaptive", "layers": 2},
    "topdown": {},
    "topdown, GRU": {"conditioning": "topdown", "cell": "gru"},
    "transformer": {"conditioning": "attention", "cell": "transformer", "layers": 2, "heads": 2},
}
B, L, D, V, H, C = 3, 4, 6, 11, 8, 5


def model(kind: str, **changes: Any) -> ModelConfig:
    return ModelConfig(**{"conditioning": kind, **KINDS[kind], **changes})


def build(kind: str, seed: int = 0, size: int = V, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = model(kind, **{"embedding": 7, "hidden": H, "attention": 5, "dropout": 0.4, **changes})
    decoder = build_decoder(config, width=D, vocabulary_size=size, concepts=C)
    with torch.no_grad():  # attention that is far from even
        for parameter in decoder.parameters():
            parameter.mul_(3)
    return decoder.eval()


def features(count: int = B, seed: int = 0) -> Any:
    return torch.randn(count, L, D, generator=torch.Generator().manual_seed(seed))


def captions(seed: int = 0) -> tuple[Any, Any]:
    """Five captions of three pictures, of lengths 1 to 5, padded; and their pictures."""
    tokens = torch.full((5, 6), PAD)
    tokens[:, 0] = START
    generator = torch.Generator().manual_seed(seed)
    for row, length in enumerate((3, 5, 1, 4, 2)):
        tokens[row, 1 : 1 + length] = torch.randint(4, V, (length,), generator=generator)
    return tokens, torch.tensor([0, 0, 1, 2, 2])


def parts(state: dict[str, Any], rows: Any) -> dict[str, Any]:
    return {name: value[rows] for name, value in state.items()}


@pytest.fixture(params=KINDS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return build(request.param)


def test_shapes(decoder: Decoder) -> None:
    memory, state = decoder.start(features())
    assert all(value.shape[0] == B for value in (*memory.values(), *state.values()))
    step = decoder.step(torch.full((B,), START), memory, state)
    assert step.logits_NV.shape == (B, V)
    assert list(step.state) == list(state)
    for name, value in state.items():
        grown = (B, value.shape[1] + 1, value.shape[2]) if name in decoder.growing else value.shape
        assert step.state[name].shape == grown
    tokens, rows = captions()
    forced = decoder(memory, state, tokens, rows)
    assert forced.logits_MV.shape == (int((tokens != PAD).sum()), V)
    if decoder.attends:
        assert step.alpha_NL.shape == (B, L)
        assert forced.alpha_NTL.shape == (*tokens.shape, L)
        for alpha in (step.alpha_NL, forced.alpha_NTL):
            np.testing.assert_allclose(alpha.sum(-1).detach(), 1, atol=1e-6)
            assert alpha.std(-1).min() > 1e-3
    else:
        assert step.alpha_NL is None
        assert forced.alpha_NTL is None


def test_the_state_of_recurrent_cells_has_plain_names() -> None:
    expected = {
        "init": ["hidden", "cell"],
        "init of two GRU layers": ["hidden", "hidden2"],
        "init of three LSTM layers": ["hidden", "cell", "hidden2", "cell2", "hidden3", "cell3"],
        "topdown": ["looking_hidden", "looking_cell", "speaking_hidden", "speaking_cell"],
        "transformer": ["past"],
    }
    assert {kind: list(build(kind).start(features())[1]) for kind in expected} == expected


def test_steps_say_what_teacher_forcing_says(decoder: Decoder) -> None:
    tokens, rows = captions()
    memory, state = decoder.start(features())
    forced = decoder(memory, state, tokens, rows).logits_MV
    memory, state = parts(memory, rows), parts(state, rows)
    stepped = []
    for tokens_N in tokens.unbind(1):
        step = decoder.step(tokens_N, memory, state)
        state = step.state
        stepped.append(step.logits_NV)
    torch.testing.assert_close(torch.stack(stepped, 1)[tokens != PAD], forced, rtol=1e-4, atol=1e-5)
    assert forced[:, PAD + 1 :].std(0).min() > 1e-3  # places differ (a tied PAD is zero)


def test_a_batch_says_what_each_picture_alone_says(decoder: Decoder) -> None:
    tokens, rows = captions()
    together = decoder(*decoder.start(features()), tokens, rows).logits_MV
    lengths = (tokens != PAD).sum(1).tolist()
    for row, part in enumerate(together.split(lengths)):
        alone = decoder(
            *decoder.start(features()[rows[row]][None]), tokens[row : row + 1, : lengths[row]], torch.tensor([0])
        ).logits_MV
        torch.testing.assert_close(part, alone, rtol=1e-4, atol=1e-5)


def test_the_picture_matters(decoder: Decoder) -> None:
    tokens, rows = captions()
    one, other = (decoder(*decoder.start(features(seed=seed)), tokens, rows).logits_MV for seed in (0, 1))
    assert (one - other).abs().max() > 1e-2


def batch_of(decoder: Decoder, padding: int = 0) -> Any:
    words = [f"w{number}" for number in range(V - 4)]
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *words))
    texts = (("w0 w1 w2", "w3"), ("w4 w5",), ("w6 w0 w0 w1", "w2 w3"))
    examples = [Example(str(number), None, references) for number, references in enumerate(texts)]
    batch = CaptionTable(examples, vocabulary, 9).batch(np.arange(B))
    more = torch.full((len(batch.tokens_NT), padding), PAD)
    return vocabulary, batch._replace(tokens_NT=torch.cat((batch.tokens_NT, more), 1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_does_not_move_the_loss(decoder: Decoder, smoothing: float) -> None:
    results = []
    for padding in (0, 5):
        decoder.zero_grad()
        batch = batch_of(decoder, padding)[1]
        loss, tokens = caption_loss(decoder, *decoder.start(features()), batch, smoothing)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None])
        results.append((loss.item(), tokens, gradient))
    assert results[0][1] == results[1][1] == 3 + 1 + 2 + 4 + 2 + 5  # words and an END each
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-4, atol=1e-6)
    assert decoder.config.tie_words or decoder.words.weight.grad[PAD].abs().max() == 0


def test_the_loss_is_the_mean_negative_log_probability(decoder: Decoder) -> None:
    _, batch = batch_of(decoder)
    memory, state = decoder.start(features())
    total = 0.0
    for tokens_T, row in zip(batch.tokens_NT, batch.rows_N, strict=True):
        one_memory, one_state = (parts(part, slice(int(row), int(row) + 1)) for part in (memory, state))
        for before, after in pairwise(tokens_T):
            if after == PAD:
                break
            step = decoder.step(before[None], one_memory, one_state)
            one_state = step.state
            total -= step.logits_NV.log_softmax(-1)[0, after].item()
    loss, tokens = caption_loss(decoder, memory, state, batch, 0.0)
    assert loss.item() * tokens == pytest.approx(total, rel=1e-5)


def test_a_weight_of_two_is_the_caption_twice(decoder: Decoder) -> None:
    _, batch = batch_of(decoder)
    weights = batch.weights_N.clone()
    weights[1] = 2
    twice = batch._replace(
        tokens_NT=torch.cat((batch.tokens_NT, batch.tokens_NT[1:2])),
        rows_N=torch.cat((batch.rows_N, batch.rows_N[1:2])),
        weights_N=torch.ones(len(batch.weights_N) + 1),
    )
    start = decoder.start(features())
    weighted, repeated = (
        caption_loss(decoder, *start, each, 0.1) for each in (batch._replace(weights_N=weights), twice)
    )
    assert weighted[1] == repeated[1]
    assert weighted[0].item() == pytest.approx(repeated[0].item(), rel=1e-5)
    assert weighted[0].item() != pytest.approx(caption_loss(decoder, *start, batch, 0.1)[0].item(), rel=1e-5)


@pytest.mark.parametrize("K", [2, 3])
def test_hypotheses_of_a_picture_share_its_memory(decoder: Decoder, K: int) -> None:
    memory, state = decoder.start(features())
    rows = torch.arange(B).repeat_interleave(K)
    if decoder.growing:  # it has to have a past
        state = decoder.step(torch.full((B,), START), memory, state).state
    state = {name: value[rows] for name, value in state.items()}
    state = {name: value + torch.randn(value.shape) for name, value in state.items()}
    tokens_N = torch.randint(4, V, (B * K,), generator=torch.Generator().manual_seed(K))
    shared = decoder.step(tokens_N, memory, state)  # memory has B rows, the rest B * K
    copied = decoder.step(tokens_N, parts(memory, rows), state)
    torch.testing.assert_close(shared.logits_NV, copied.logits_NV, rtol=1e-4, atol=1e-5)
    for name in state:
        torch.testing.assert_close(shared.state[name], copied.state[name], rtol=1e-4, atol=1e-5)
    if decoder.attends:
        torch.testing.assert_close(shared.alpha_NL, copied.alpha_NL, rtol=1e-4, atol=1e-5)


def test_nothing_is_kept_between_calls(decoder: Decoder) -> None:
    tokens, rows = captions()
    before = decoder(*decoder.start(features()), tokens, rows).logits_MV
    decoder.start(features(7, seed=5))
    decoder.step(torch.tensor([4]), *decoder.start(features(1, seed=2)))
    assert torch.equal(decoder(*decoder.start(features()), tokens, rows).logits_MV, before)


def test_dropout_acts_in_training_alone(decoder: Decoder) -> None:
    tokens, rows = captions()
    start = decoder.start(features())
    assert torch.equal(decoder(*start, tokens, rows).logits_MV, decoder(*start, tokens, rows).logits_MV)
    decoder.train()
    assert not torch.equal(decoder(*start, tokens, rows).logits_MV, decoder(*start, tokens, rows).logits_MV)


@pytest.mark.parametrize("kind", ["concepts", "concepts+vector", "concepts+grid"])
def test_concepts_begin_from_logits_as_from_pictures(kind: str) -> None:
    decoder = build(kind)
    memory, state = decoder.start(features())
    again_memory, again_state = decoder.start_from_concepts(decoder.concepts.head(features().mean(1)), features())
    torch.testing.assert_close(memory, again_memory)
    torch.testing.assert_close(state, again_state)
    logits = decoder.concepts.head(features().mean(1))
    without = [decoder.start_from_concepts(logits, None) for _ in range(2)]
    torch.testing.assert_close(without[0], without[1])
    told = decoder.start_from_concepts(logits, features() + 1)
    assert (kind == "concepts") == all(torch.equal(told[0][name], memory[name]) for name in memory)
    tokens, rows = captions()
    assert decoder(*without[0], tokens, rows).logits_MV.shape == decoder(memory, state, tokens, rows).logits_MV.shape


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind: str) -> None:
    """Of the loss by the features and by every parameter, in float64, dropout off."""
    decoder = build(kind).double()
    _, batch = batch_of(decoder)
    batch = batch._replace(weights_N=batch.weights_N.double())
    inputs = features().double().requires_grad_(True)

    def loss() -> Any:
        return caption_loss(decoder, *decoder.start(inputs), batch, 0.1)[0]

    loss().backward()
    rng = np.random.default_rng(0)
    tensors = {"features": inputs, **dict(decoder.named_parameters())}
    if kind == "attention":
        assert {f"attention.{name}.weight" for name in ("keys", "query", "values")} <= tensors.keys()
    absent = tensors.pop("absent", None)
    assert absent is None or absent.grad is None  # it stands for the pictures of captions that have none
    for name, tensor in tensors.items():
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all()
        flat = tensor.data.view(-1)
        places = rng.choice(len(flat), min(4, len(flat)), replace=False)
        for place in places.tolist():
            if name == "words.weight" and place < decoder.words.embedding_dim:
                continue  # PAD's vector has no gradient by definition
            kept, h = float(flat[place]), 1e-5
            with torch.no_grad():
                flat[place] = kept + h
                above = loss().item()
                flat[place] = kept - h
                below = loss().item()
                flat[place] = kept
            assert tensor.grad.view(-1)[place].item() == pytest.approx((above - below) / (2 * h), rel=1e-4, abs=1e-8), (
                name
            )


@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_can_be_learned_by_heart(kind: str) -> None:
    texts = (
        "a red dog runs over the wet grass",
        "two small boats near a pier",
        "the cat sleeps",
        "a man on a red bicycle by the sea",
    )
    examples = [Example(str(number), None, (text,)) for number, text in enumerate(texts)]
    vocabulary = Vocabulary.build([text.split() for text in texts])
    batch = CaptionTable(examples, vocabulary, 20).batch(np.arange(4))
    pictures = features(4)
    torch.manual_seed(0)
    config = model(kind, embedding=32, hidden=48, attention=32, dropout=0.0)
    decoder = build_decoder(config, width=D, vocabulary_size=len(vocabulary), concepts=16)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=3e-3 if config.cell == "transformer" else 2e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, 200)
    for _ in range(200):
        loss, _ = caption_loss(decoder, *decoder.start(pictures), batch, 0.0)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    assert loss.item() < 0.05
    found = search(TorchStep(decoder), pictures.numpy(), SearchOptions(beam=3, block_ngrams=0))
    assert [" ".join(vocabulary.decode(best[0].tokens)) for best in found] == list(texts)
    turned = search(TorchStep(decoder), pictures.flip(0).numpy(), SearchOptions(beam=1))
    assert [" ".join(vocabulary.decode(best[0].tokens)) for best in turned] == list(texts[::-1])
