"""What a run trains, in order: words, pairs, the encoder too, and its own captions.

words         the decoder, on stored features; with `concepts`, also on captions without pictures
pairs         `pair_epochs`: the pictures with captions alone
finetune      encoder and decoder, from pixels
selfcritical  the decoder, on the rewards of its own captions, from stored features of the encoder as it is then
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from showtell.errors import ConfigError
from showtell.learn.attending import AttentionDecoder
from showtell.learn.augment import Sides
from showtell.learn.batches import Batch, CaptionTable
from showtell.learn.concepts import Heads, Imitation, count_concepts, fit_heads
from showtell.learn.config import RunConfig, TrainConfig
from showtell.learn.decoders import VectorDecoder, looks_at_grid
from showtell.learn.encoders import Encoder
from showtell.learn.features import FeatureStore, extract_features
from showtell.learn.losses import Loss, caption_loss
from showtell.learn.pictures import Pixels
from showtell.learn.progress import Progress
from showtell.learn.selfcritical import Judge, self_critical_loss
from showtell.learn.steps import Decoder
from showtell.learn.training import Phase, Source, StartBatch, Started, store_start
from showtell.learn.trunks import Trunk
from showtell.learn.validation import Validation
from showtell.records import Example
from showtell.text import Vocabulary

_PAIR_BATCH = 64  # pictures a step of the phase `pairs`


@dataclass(frozen=True)
class Material:
    """What phases are made of.

    Args:
        train, val: Pictures that can be read.
        text: Captions without pictures.
        truth_NC: The share of each training picture's captions that use each of the concepts.
        store: Features of the encoder as it was before any phase.
    """

    config: RunConfig
    directory: Path
    vocabulary: Vocabulary
    encoder: Encoder
    decoder: Decoder
    train: Sequence[Example]
    val: Sequence[Example]
    text: Sequence[Example]
    concepts: Sequence[str]
    truth_NC: NDArray[np.float32]
    store: FeatureStore
    table: CaptionTable
    val_table: CaptionTable
    progress: Progress


def plan_phases(material: Material) -> list[Callable[[], Phase]]:
    """The phases that the settings ask for, each built when it begins."""
    config = material.config
    sources = _sources(material)
    kept: list[Callable[[], Phase]] = [lambda: _words(material, sources)]
    if config.train.pair_epochs:
        kept.append(lambda: _pairs(material, sources[0]))
    if config.finetune.epochs:
        kept.append(lambda: _finetune(material))
    if config.selfcritical.epochs:
        kept.append(lambda: _selfcritical(material, sources))
    return kept


def _words(material: Material, sources: Sequence[Source]) -> Phase:
    config = material.config.train
    return Phase(
        "words",
        config.epochs,
        sources,
        _stored_validation(material, material.store),
        cross_entropy(material.decoder, material.config.train),
        [(list(material.decoder.parameters()), config.learning_rate)],
        config.batch_pictures,
        config.accumulate,
        config.warmup_steps,
    )


def _pairs(material: Material, pairs: Source) -> Phase:
    config = material.config.train
    rates = [(list(material.decoder.parameters()), config.pair_rate)]
    return replace(
        _words(material, [pairs]),
        name="pairs",
        epochs=config.pair_epochs,
        rates=rates,
        batch_pictures=_PAIR_BATCH,
        warmup_steps=None,
    )


def _finetune(material: Material) -> Phase:
    config, encoder, decoder = material.config.finetune, material.encoder, material.decoder
    encoder.requires_grad_(False)
    tuned = list(encoder.top_parameters(config.stages))
    for parameter in tuned:
        parameter.requires_grad_(True)
    if config.checkpointing:
        _checkpoint_activations(encoder)
    sides = Sides(config.mirror_words, material.vocabulary)
    train, val = (Pixels(part, encoder, decoder, config, sides) for part in (material.train, material.val))

    def unfreeze(finished: int) -> None:
        stages = config.stages
        if config.unfreeze_every:
            stages = min(stages, 1 + finished // config.unfreeze_every)
        learning = {id(parameter) for parameter in encoder.top_parameters(stages)}
        for parameter in tuned:
            parameter.requires_grad_(id(parameter) in learning)

    return Phase(
        "finetune",
        config.epochs,
        [Source(material.table, train.start, [example.id for example in material.train])],
        Validation(material.val, material.val_table, val.read),
        cross_entropy(decoder, material.config.train),
        [(list(decoder.parameters()), config.learning_rate), (tuned, config.encoder_rate)],
        config.batch_pictures,
        config.accumulate,
        begin_epoch=unfreeze,
    )


def _checkpoint_activations(encoder: Encoder) -> None:
    try:
        encoder.network.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise ConfigError(
            f"encoder {encoder.name!r} cannot compute its activations twice; set checkpointing = false in [finetune]"
        ) from error


def _selfcritical(material: Material, sources: Sequence[Source]) -> Phase:
    """On captions without pictures where there are any, since they are many and come several to a picture."""
    config, encoder, decoder = material.config.selfcritical, material.encoder, material.decoder
    encoder.requires_grad_(False)
    store, source = material.store, sources[-1]
    if material.config.finetune.epochs:
        store = extract_features(
            encoder.eval(),
            [*material.train, *material.val],
            material.directory / "features-tuned",
            pooled=not looks_at_grid(material.config.model),
            progress=material.progress,
        )
        source = replace(source, start=store_start(decoder, store, rows_in(store, material.train)))
    judge = Judge(source.table, len(material.vocabulary))
    return Phase(
        "selfcritical",
        config.epochs,
        [source],
        _stored_validation(material, store),
        self_critical_loss(
            decoder,
            judge,
            config,
            material.config.train.max_words,
            cross_entropy(decoder, material.config.train),
        ),
        [(list(decoder.parameters()), config.learning_rate)],
        config.batch_pictures,
        shows="reward",
    )


def cross_entropy(decoder: Decoder, config: TrainConfig) -> Callable[[Started, float], Loss]:
    """What a batch costs under teacher forcing."""
    forced = torch.compile(decoder, dynamic=True) if config.compile else decoder

    def loss(started: Started, done: float) -> Loss:
        value, tokens = caption_loss(
            forced,  # type: ignore[arg-type]
            started.memory,
            started.state,
            started.batch,
            config.label_smoothing,
            own_words=config.own_words * done,
            attention_penalty=config.attention_penalty,
        )
        return Loss(value, value.item(), tokens)

    return loss


def rows_in(store: FeatureStore, examples: Sequence[Example]) -> NDArray[np.int64]:
    """The rows of pictures in a store."""
    row_of = {image: row for row, image in enumerate(store.images)}
    return np.array([row_of[example.id] for example in examples], np.int64)


def _stored_validation(material: Material, store: FeatureStore) -> Validation:
    rows = rows_in(store, material.val)
    return Validation(material.val, material.val_table, lambda items: store.read(rows[items]))


# what the decoder is started from


def _sources(material: Material) -> list[Source]:
    """Pictures with captions, then captions without."""
    decoder, rows = material.decoder, rows_in(material.store, material.train)
    names = [example.id for example in material.train]
    if not material.concepts:
        return [Source(material.table, store_start(decoder, material.store, rows), names)]
    assert isinstance(decoder, VectorDecoder | AttentionDecoder)
    return _concept_sources(material, decoder, rows, names)


def _concept_sources(
    material: Material, decoder: VectorDecoder | AttentionDecoder, rows: NDArray[np.int64], names: Sequence[str]
) -> list[Source]:
    """Pairs start the decoder from honest predictions of their content words, texts from imitated ones."""
    config, train = material.config, material.train
    mirrored = extract_features(
        Trunk(material.encoder, 0, mirrored=True),
        train,
        material.directory / "features-mirrored",
        pooled=True,
        progress=material.progress,
    )
    views = [_pooled(material.store, rows), _pooled(mirrored, rows_in(mirrored, train))]
    heads = fit_heads(np.stack(views, 1), material.truth_NC, config.concepts, config.train.seed)
    material.progress(f"content words: honest cross-entropy {heads.loss:.4f} a word", 1, 1)
    with torch.no_grad():
        decoder.concepts.head.weight.copy_(heads.weight)
        decoder.concepts.head.bias.copy_(heads.bias)
    decoder.concepts.head.requires_grad_(False)
    sources = [Source(material.table, _start_pairs(material, decoder, heads, rows), names)]
    if material.text:
        views_count = heads.honest_NWC.shape[1]
        imitation = Imitation.fit(
            heads.honest_NWC.reshape(-1, len(material.concepts)), np.repeat(material.truth_NC, views_count, 0)
        )
        sources.append(_text_source(material, decoder, imitation))
    return sources


def _pooled(store: FeatureStore, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.concatenate([store.read(part).mean(1) for part in np.array_split(rows, -(-len(rows) // 256))])


def _start_pairs(
    material: Material, decoder: VectorDecoder | AttentionDecoder, heads: Heads, rows: NDArray[np.int64]
) -> StartBatch:
    alone = material.config.model.conditioning == "concepts"

    def start(batch: Batch, rng: np.random.Generator) -> Started:
        device = batch.tokens_NT.device
        views_B = rng.integers(heads.honest_NWC.shape[1], size=len(batch.items_B))
        logits_BC = torch.from_numpy(heads.honest_NWC[batch.items_B, views_B]).to(device)
        features_BLD = None if alone else torch.from_numpy(material.store.read(rows[batch.items_B])).to(device)
        return Started(batch, *decoder.start_from_concepts(logits_BC, features_BLD))

    return start


def _text_source(material: Material, decoder: VectorDecoder | AttentionDecoder, imitation: Imitation) -> Source:
    """All captions of a picture start from one imitated prediction, as all references of a real one do."""
    table = CaptionTable(material.text, material.vocabulary, material.config.train.max_words)
    truth_NC = count_concepts(material.text, material.concepts)

    def start(batch: Batch, rng: np.random.Generator) -> Started:
        logits_BC = torch.from_numpy(imitation.draw(truth_NC[batch.items_B], rng)).to(batch.tokens_NT.device)
        return Started(batch, *decoder.start_from_concepts(logits_BC, None))

    return Source(table, start, [example.id for example in material.text])
