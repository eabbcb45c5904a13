"""Content words from pictures, and an imitation of their prediction for captions that have no picture.

Few pictures come with captions, but many captions come without pictures. A multi-label head on the encoder's mean
feature predicts which content words a picture deserves (after Fang et al. 2015, sec. 3, and Wu et al. 2016); the
decoder learns to write from those predictions. For a caption without a picture the prediction is imitated:

    logits = base + y M + residual

y says which share of a picture's captions uses each content word, M is a ridge regression of honest predictions on y
over the paired pictures, and the residual is that of a random paired picture, so that errors keep their size and their
company (who sees a horse also sees a field). Honest predictions come from cross-fitting: each picture is predicted by a
head that never saw it.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from showtell.errors import ConfigError
from showtell.learn.config import ConceptsConfig
from showtell.learn.encoders import Encoder
from showtell.learn.features import FeatureStore, extract_features
from showtell.learn.progress import Progress, silent
from showtell.learn.trunks import Trunk, encode_rest
from showtell.records import Example
from showtell.text import Vocabulary, tokenise

_RIDGE = 30.0  # of M, times each word's frequency: rare words shrink as little as frequent ones
_HEAD_RATE = 1e-3
_HEAD_DECAY = 1e-2
_HEAD_DROPOUT = 0.5  # of features: two thousand pictures overfit a plain head within five epochs
_HEAD_BATCH = 64
_TUNE_BATCH = 32
_REPEATED = 0.05  # of the captions with a word: the share that says it twice, from which on people do


def choose_concepts(examples: Sequence[Example], vocabulary: Vocabulary, config: ConceptsConfig) -> list[str]:
    """The most frequent content words, in the vocabulary's order; no list of stop words, so any language.

    A content word is one on which two captions of a picture agree well beyond chance (Cohen's kappa of at least
    `min_agreement`: 'dog' 0.86, 'man' 0.58, 'by' 0.07 on the captions of COCO val2017 and Flickr8k), and which is
    `min_lift` times as likely in a caption when another of the same picture has it ('dog' 10, 'man' 6, 'the' 1.5, 'in'
    1.6: frequent function words agree by their style).

    Raises:
        ConfigError: Too few pictures have several captions to tell.
    """
    used: Counter[str] = Counter()  # captions that have the word
    agreed: dict[str, float] = defaultdict(float)  # sum over those captions of the others' share that has it too
    captions = 0
    for example in examples:
        bags = [set(tokenise(text)) for text in example.references]
        if len(bags) < 2:
            continue
        captions += len(bags)
        for word, count in Counter(word for bag in bags for word in bag).items():
            used[word] += count
            agreed[word] += count * (count - 1) / (len(bags) - 1)
    content = []
    for word in vocabulary.words[4:]:
        if used[word]:
            share, agreement = used[word] / captions, agreed[word] / used[word]
            kappa = (agreement - share) / (1 - share + 1e-9)
            if kappa >= config.min_agreement and agreement >= config.min_lift * share:
                content.append(word)
    chosen = content[: config.size]
    if len(chosen) < 10:
        raise ConfigError(
            "conditioning 'concepts' finds content words by what several captions of a picture agree on, and "
            f"only {len(chosen)} such words were found; give more pictures or texts with several captions each, or "
            "lower min_agreement in [concepts]"
        )
    return chosen


def count_concepts(examples: Sequence[Example], concepts: Sequence[str]) -> NDArray[np.float32]:
    """y (N, C): the share of a picture's captions that use each content word."""
    index = {word: number for number, word in enumerate(concepts)}
    counts_NC = np.zeros((len(examples), len(concepts)), np.float32)
    for row, example in enumerate(examples):
        for text in example.references:
            for word in set(tokenise(text)) & index.keys():
                counts_NC[row, index[word]] += 1 / len(example.references)
    return counts_NC


def find_unrepeated(examples: Sequence[Example], concepts: Sequence[str]) -> list[str]:
    """The content words that people hardly say twice in a caption ('sink', 'bench'), unlike 'dog' or 'tennis'."""
    used: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    known = frozenset(concepts)
    for example in examples:
        for text in example.references:
            counts = Counter(word for word in tokenise(text) if word in known)
            used.update(counts.keys())
            repeated.update(word for word, count in counts.items() if count > 1)
    return [word for word in concepts if repeated[word] < _REPEATED * used[word]]


@dataclass(frozen=True)
class Lesson:
    """Pictures that the encoder is tuned on, and the words that their captions use, (N, C)."""

    examples: Sequence[Example]
    truth_NC: NDArray[np.float32]


def tune_encoder(
    encoder: Encoder,
    lessons: Sequence[Lesson],
    config: ConceptsConfig,
    directory: Path,
    seed: int,
    progress: Progress = silent,
) -> None:
    """Fine-tunes the encoder's last stages so that a linear head on its mean feature predicts the content words.

    Each lesson has a head of its own; all count by their pictures. In the first epoch only the heads learn: a head
    that knows nothing drives most features to zero (measured: 95 % of them, against 23 % before; Kumar et al. 2022 on
    why). Pictures are mirrored at random; unreadable ones are left out. The heads are thrown away (see `fit_heads`).

    Args:
        directory: Where the outputs of the frozen stages lie meanwhile, so that one that was stopped goes on.
    """
    tuned = list(encoder.top_parameters(config.stages))
    if not tuned or not config.epochs:
        return
    torch.manual_seed(seed)
    encoder.requires_grad_(False)
    device = encoder.mean.device
    trunk = Trunk(encoder, config.stages)
    stored = [
        _store_views(encoder, trunk, lesson, directory / f"trunk-{n}", progress) for n, lesson in enumerate(lessons)
    ]
    heads = nn.ModuleList(_new_head(encoder.width, lesson.truth_NC) for lesson in lessons).to(device)
    for parameter in tuned:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(
        [{"params": tuned, "lr": config.encoder_rate}, {"params": heads.parameters(), "lr": _HEAD_RATE}],
        weight_decay=_HEAD_DECAY,
    )
    # (lesson, row of its views, row of its truth) of every picture
    items = np.array(
        [(n, row, place) for n, views in enumerate(stored) for row, place in zip(*views.rows, strict=True)]
    )
    warm = -(-len(items) // _TUNE_BATCH)
    steps = config.epochs * warm
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimiser, [lambda step: 0.0 if step < warm else 1 - step / steps, lambda step: 1 - step / steps]
    )
    rng = np.random.default_rng(seed)
    words = lessons[0].truth_NC.shape[1]
    for _ in range(config.epochs):
        total, seen = 0.0, 0
        order = rng.permutation(len(items))
        for start in range(0, len(order), _TUNE_BATCH):
            batch = items[order[start : start + _TUNE_BATCH]]
            loss = torch.zeros((), device=device)
            for n, head in enumerate(heads):
                chosen = batch[batch[:, 0] == n]
                if len(chosen):
                    lower_BLD = stored[n].read(chosen[:, 1], rng).to(device)
                    with torch.set_grad_enabled(decay.last_epoch >= warm):
                        features_BD = encode_rest(encoder, trunk, lower_BLD).mean(1)
                    truth_BC = torch.from_numpy(lessons[n].truth_NC[chosen[:, 2]]).to(device)
                    logits_BC = head(functional.dropout(features_BD, _HEAD_DROPOUT))
                    loss = loss + functional.binary_cross_entropy_with_logits(logits_BC, truth_BC, reduction="sum")
            loss = loss / (len(batch) * words)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            decay.step()
            total, seen = total + loss.item() * len(batch), seen + len(batch)
            progress(f"tuning the encoder on {words} words, loss {total / seen:.4f}", decay.last_epoch, steps)
    encoder.requires_grad_(False)
    for n in range(len(lessons)):
        for path in directory.glob(f"trunk-{n}-*"):
            shutil.rmtree(path)


@dataclass(frozen=True)
class _Views:
    """What the trunk says of a lesson's pictures, as they are and mirrored; rows are (of the stores, of the lesson)."""

    stores: tuple[FeatureStore, FeatureStore]
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]

    def read(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """A view of each row, drawn by chance."""
        mirrored_B = rng.random(len(rows)) < 0.5
        lower_BLD = np.zeros((len(rows), *self.stores[0].shape), np.float32)
        for mirrored, store in enumerate(self.stores):
            lower_BLD[mirrored_B == mirrored] = store.read(rows[mirrored_B == mirrored])
        return torch.from_numpy(lower_BLD)


def _store_views(encoder: Encoder, trunk: Trunk, lesson: Lesson, path: Path, progress: Progress) -> _Views:
    mirrored = Trunk(encoder, trunk.stages, mirrored=True)
    plain, other = (
        extract_features(one, lesson.examples, f"{path}-{name}", pooled=False, progress=progress)
        for one, name in ((trunk, "plain"), (mirrored, "mirrored"))
    )
    row_of = {image: row for row, image in enumerate(plain.images) if image not in plain.failures}
    places = [place for place, example in enumerate(lesson.examples) if example.id in row_of]
    rows = [row_of[lesson.examples[place].id] for place in places]
    return _Views((plain, other), (np.array(rows, np.int64), np.array(places, np.int64)))


@dataclass(frozen=True)
class Heads:
    """The head that ships, and what heads say of pictures they never saw.

    Shape: weight (C, D), bias (C,): the mean of the cross-fitted heads; honest (N, W, C), the logits of each view of
        each training picture from the head of its own fold; loss, the honest cross-entropy, in nats a word.
    """

    weight: Tensor
    bias: Tensor
    honest_NWC: NDArray[np.float32]
    loss: float


def fit_heads(
    features_NWD: NDArray[np.float32], truth_NC: NDArray[np.float32], config: ConceptsConfig, seed: int
) -> Heads:
    """Linear heads by cross-fitting: one a fold, trained on the other folds.

    Args:
        features_NWD: Of W views of each picture; one of them is drawn in each epoch.
    """
    torch.manual_seed(seed)
    folds = np.random.default_rng(seed).permutation(len(features_NWD)) % config.folds
    honest_NWC = np.zeros((*features_NWD.shape[:2], truth_NC.shape[1]), np.float32)
    heads = []
    for fold in range(config.folds):
        head = _fit_head(features_NWD[folds != fold], truth_NC[folds != fold], config.head_epochs)
        with torch.inference_mode():
            honest_NWC[folds == fold] = head(torch.from_numpy(features_NWD[folds == fold])).numpy()
        heads.append(head)
    truth_NWC = np.broadcast_to(truth_NC[:, None], honest_NWC.shape).copy()
    loss = functional.binary_cross_entropy_with_logits(torch.from_numpy(honest_NWC), torch.from_numpy(truth_NWC))
    weight = torch.stack([head.weight.detach() for head in heads]).mean(0)
    bias = torch.stack([head.bias.detach() for head in heads]).mean(0)
    return Heads(weight, bias, honest_NWC, float(loss))


def _new_head(width: int, truth_NC: NDArray[np.float32]) -> nn.Linear:
    """A head that predicts each word's frequency, whatever the picture."""
    head = nn.Linear(width, truth_NC.shape[1])
    prior = np.clip(truth_NC.mean(0), 1e-4, 1 - 1e-4)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.from_numpy(np.log(prior / (1 - prior))))
    return head


def _fit_head(features_NWD: NDArray[np.float32], truth_NC: NDArray[np.float32], epochs: int) -> nn.Linear:
    head = _new_head(features_NWD.shape[2], truth_NC)
    optimiser = torch.optim.AdamW(head.parameters(), lr=_HEAD_RATE, weight_decay=_HEAD_DECAY)
    inputs, targets = torch.from_numpy(features_NWD), torch.from_numpy(truth_NC)
    steps = epochs * -(-len(inputs) // _HEAD_BATCH)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(_HEAD_BATCH):
            views = torch.randint(inputs.shape[1], (len(rows),))
            logits_BC = head(functional.dropout(inputs[rows, views], _HEAD_DROPOUT))
            loss = functional.binary_cross_entropy_with_logits(logits_BC, targets[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            decay.step()
    return head


@dataclass(frozen=True)
class Imitation:
    """Draws what the heads would say of a picture, from the content words of its captions.

    Shape: effect (C, C), base (C,), residuals (N, C), float32.
    """

    effect_CC: NDArray[np.float32]
    base_C: NDArray[np.float32]
    residuals_NC: NDArray[np.float32]

    @classmethod
    def fit(cls, honest_NC: NDArray[np.float32], truth_NC: NDArray[np.float32]) -> Imitation:
        """Ridge regression of the honest logits on the truth, a row a caption."""
        base_C, mean_C = honest_NC.mean(0), truth_NC.mean(0)
        centred_NC = (truth_NC - mean_C).astype(np.float64)
        gram_CC = centred_NC.T @ centred_NC + _RIDGE * np.diag(mean_C + 1e-3)
        effect_CC = np.linalg.solve(gram_CC, centred_NC.T @ (honest_NC - base_C)).astype(np.float32)
        base_C = base_C - mean_C @ effect_CC
        return cls(effect_CC, base_C, honest_NC - base_C - truth_NC @ effect_CC)

    def draw(self, truth_BC: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Logits (B, C) for pictures whose captions use the words of `truth_BC`."""
        rows = rng.integers(len(self.residuals_NC), size=len(truth_BC))
        drawn: NDArray[np.float32] = self.base_C + truth_BC @ self.effect_CC + self.residuals_NC[rows]
        return drawn
