"""A whole run of an alignment model, from settings and data to a bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from showtell.alignment import Aligner
from showtell.boxes import pool_weights, to_grid
from showtell.bundle import Bundle, write_bundle
from showtell.errors import BackendError, DataError
from showtell.learn import checkpoint
from showtell.learn.aligning import AlignmentLoop, Captions, align
from showtell.learn.alignment import Alignment
from showtell.learn.batches import CaptionTable
from showtell.learn.config import RunConfig
from showtell.learn.decoders import build_decoder
from showtell.learn.embeddings import initial_embedding
from showtell.learn.encoders import Encoder
from showtell.learn.export import check_decoder, export_alignment, with_decoder
from showtell.learn.phases import cross_entropy, rows_in
from showtell.learn.progress import Progress, silent
from showtell.learn.regions import cut_snippets, given_regions
from showtell.learn.run import (
    Run,
    begin,
    identify,
    kept_encoder,
    no_run,
    portable,
    read_notes,
    read_val,
    readable,
    readable_pixels,
    write_description,
)
from showtell.learn.steps import Decoder
from showtell.learn.training import Loop, Phase, Source, Watch, run_phases, unwatched
from showtell.learn.validation import Validation, search_options
from showtell.proposals import windows
from showtell.records import Example
from showtell.report.card import write_card
from showtell.report.curves import draw_curves
from showtell.text import Vocabulary, tokenise

_TOLERANCE = 1e-3  # of cosines, between PyTorch and the bundle


def train_alignment(
    config: RunConfig,
    examples: Sequence[Example],
    directory: str | Path,
    *,
    text: Sequence[Example] = (),
    foreign: Sequence[Example] = (),
    resume: bool = False,
    describe: dict[str, Any] | None = None,
    features: str | Path | None = None,
    watch: Watch = unwatched,
    progress: Progress = silent,
) -> Path:
    """Trains an alignment model and returns the directory of its bundle; arguments and errors as `run.train`."""
    assert config.alignment is not None
    run, encoder, store = begin(
        config, examples, directory, text, resume, features, progress, grid=True, foreign=foreign
    )
    train, val = readable(run, store)
    captions, val_captions = (
        Captions.of(CaptionTable(part, run.vocabulary, config.train.max_words)) for part in (train, val)
    )
    for split, told in (("train", captions), ("val", val_captions)):
        if not any(map(len, told.ids)):
            raise DataError(f"no caption of the {split} split has a word; give some pictures of it a caption")
    torch.manual_seed(config.train.seed)
    embedding = config.model.embedding if run.vectors is None else run.vectors.width
    model = _build(config, encoder, len(run.vocabulary), embedding)
    if run.vectors is not None:
        embedding_VE = initial_embedding(run.vocabulary, run.vectors, config.train.seed)
        model.load_words(torch.from_numpy(embedding_VE), tune=config.model.tune_words)
    loop = AlignmentLoop(
        config,
        model.to(encoder.mean.device),
        run.directory,
        store,
        captions,
        rows_in(store, train),
        val_captions,
        rows_in(store, val),
        identify(run, encoder, [*train, *val]),
        watch,
        progress,
    )
    goes_on = resume and (run.directory / "checkpoint.pt").exists()
    if not goes_on:
        write_description(run, describe or {})
    align(loop, resume=goes_on)
    draw_curves(run.directory / "metrics.csv", run.directory / "curves.png")
    if config.regions.epochs:
        _train_regions(run, loop, train, val, (encoder.rows, encoder.columns), resume)
    return export_alignment_run(directory, progress=progress)


def _train_regions(
    run: Run,
    aligned: AlignmentLoop,
    train: Sequence[Example],
    val: Sequence[Example],
    grid: tuple[int, int],
    resume: bool,
) -> None:
    """A captioner of regions in the run's folder `regions`, from described ones where there are any."""
    config, store, device = run.config, aligned.store, aligned.model.pool_RL.device
    own = replace(
        config.train,
        epochs=config.regions.epochs,
        learning_rate=config.regions.learning_rate,
        batch_pictures=config.regions.batch_regions,
    )
    directory = run.directory / "regions"
    directory.mkdir(exist_ok=True)
    given = any(region.phrases for example in train for region in example.regions)
    parts = []
    for examples, rows, captions in (
        (train, aligned.rows, aligned.captions),
        (val, aligned.val_rows, aligned.val),
    ):
        if given:
            parts.append(given_regions(store, rows, examples, grid))
        else:
            settings = config.regions
            parts.append(cut_snippets(aligned.model, store, rows, examples, captions, run.vocabulary, settings))
    described, checked = parts
    checked = checked.first(config.regions.val_regions)
    run.progress(f"{len(described.examples):,} regions to learn from", 1, 1)
    table, val_table = (
        CaptionTable(part.examples, run.vocabulary, config.train.max_words) for part in (described, checked)
    )
    decoder = _region_decoder(config, store.shape[1], len(run.vocabulary), aligned.model.words.embedding_dim)
    decoder.expect_words(table.count_words(len(run.vocabulary)))
    decoder.to(device)
    loop = Loop(own, decoder, None, run.vocabulary, directory, aligned.identity, run.progress)
    phase = Phase(
        "words",
        own.epochs,
        [Source(table, described.start(store, decoder), [example.id for example in described.examples])],
        Validation(checked.examples, val_table, lambda items: checked.read(store, items)),
        cross_entropy(decoder, own),
        [(list(decoder.parameters()), own.learning_rate)],
        own.batch_pictures,
        warmup_steps=own.warmup_steps,
    )
    run_phases(loop, [lambda: phase], resume=resume and (directory / "checkpoint.pt").exists())
    draw_curves(directory / "metrics.csv", directory / "curves.png")


def _region_decoder(config: RunConfig, width: int, vocabulary_size: int, embedding: int) -> Decoder:
    torch.manual_seed(config.train.seed)
    model = replace(config.model, embedding=embedding)
    return build_decoder(model, width=width, vocabulary_size=vocabulary_size)


def _build(config: RunConfig, encoder: Encoder, vocabulary_size: int, embedding: int) -> Alignment:
    assert config.alignment is not None
    rows, columns = encoder.rows, encoder.columns
    size = encoder.preprocessing.size  # training pictures are squashed to squares
    boxes_R4 = windows()(np.zeros((size, size, 3), np.uint8))
    pool_RL = pool_weights(to_grid(boxes_R4, size, size, rows, columns), rows, columns)
    return Alignment(
        replace(config.model, embedding=embedding),
        config.alignment,
        width=encoder.width,
        vocabulary_size=vocabulary_size,
        pool_RL=torch.from_numpy(pool_RL),
    )


def holds_alignment(directory: str | Path) -> bool:
    """Whether a run's directory is of an alignment model."""
    try:
        settings = json.loads((Path(directory) / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return settings.get("alignment") is not None


def export_alignment_run(directory: str | Path, out: str | Path | None = None, *, progress: Progress = silent) -> Path:
    """The bundle of a run's best epoch so far, checked against PyTorch; errors as `run.export_run`."""
    directory = Path(directory)
    val = read_val(directory)
    try:
        config = RunConfig(**json.loads((directory / "config.json").read_text("utf-8")))
        training = json.loads((directory / "data.json").read_text("utf-8"))
        vocabulary = Vocabulary.from_json((directory / "vocabulary.json").read_text("utf-8"))
        best = checkpoint.read_weights(directory / "best.safetensors")
        state = checkpoint.read_checkpoint(directory / "checkpoint.pt")
    except FileNotFoundError as error:
        raise no_run(directory, error) from error
    assert config.alignment is not None
    embedding = best["words.weight"].shape[1]
    progress("exporting", 0, 2)
    encoder = kept_encoder(directory, config)
    model = _build(config, encoder, len(vocabulary), embedding)
    model.load_state_dict(best)
    bundle = export_alignment(encoder, model, vocabulary, directory.resolve().name, config.alignment.wide_size)
    progress("comparing with PyTorch", 1, 2)
    pixels = readable_pixels(val, encoder)
    gap = _gap(bundle, encoder, model, pixels, val)
    if gap > _TOLERANCE:
        raise BackendError(f"the exported model differs from PyTorch by {gap}; tolerated are {_TOLERANCE}")
    described = directory / "regions" / "best.safetensors"
    parity, search = {"cosines": gap}, {}
    if described.exists():
        decoder = _region_decoder(config, encoder.width, len(vocabulary), embedding)
        decoder.load_state_dict(checkpoint.read_weights(described))
        bundle = with_decoder(bundle, decoder, torch.zeros(2, 1, encoder.width))
        options = search_options(config.train)
        with torch.inference_mode():
            regions_RD = model.pool_RL @ encoder(torch.from_numpy(pixels[0][None]))[0]
        parity["logprobs"] = check_decoder(bundle, decoder, regions_RD[:, None].numpy(), options)
        search = {"beam": options.beam, "length_penalty": options.length_penalty}
    manifest = replace(
        bundle.manifest,
        search=search,
        config=portable(config).to_json(),
        training={**training, "parity": parity},
        scores={"metrics": state["scores"], "n": len(val), "split": "val"},
    )
    finished = replace(bundle, manifest=manifest)
    target = Path(out) if out is not None else directory / "bundle"
    write_bundle(replace(finished, card=write_card(finished, read_notes(directory))), target)
    progress("exporting", 2, 2)
    return target


@torch.inference_mode()
def _gap(
    bundle: Bundle, encoder: Encoder, model: Alignment, pixels: Sequence[NDArray[np.uint8]], val: Sequence[Example]
) -> float:
    """The largest difference of a number in the vectors of the first pictures and captions."""
    aligner, gap = Aligner(bundle), 0.0
    model.eval()
    for picture in pixels:
        expected = model.see(encoder(torch.from_numpy(picture[None]))).pictures_BE.numpy()
        gap = max(gap, float(np.abs(aligner.embed_pictures(picture[None]) - expected).max()))
    for example in val[: len(pixels)]:
        ids = [bundle.vocabulary.id_of(word) for word in tokenise(example.references[0])]
        if any(index > 3 for index in ids):
            expected = model.read(torch.tensor([ids])).sentences_NE.numpy()
            gap = max(gap, float(np.abs(aligner.embed_sentence(example.references[0]) - expected).max()))
    return gap
