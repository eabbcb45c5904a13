"""A whole run, from settings and data to a bundle: encoder, features, decoder, export, card."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from showtell.bundle import Bundle, write_bundle
from showtell.captioner import Captioner
from showtell.errors import ConfigError, DataError, ImageError, TrainingError
from showtell.evaluation import Evaluation, evaluate
from showtell.images import read_pixels
from showtell.learn import checkpoint
from showtell.learn.batches import CaptionTable
from showtell.learn.calibrating import calibrate_bundle
from showtell.learn.concepts import Lesson, choose_concepts, count_concepts, find_unrepeated, tune_encoder
from showtell.learn.config import RunConfig
from showtell.learn.decoders import build_decoder, looks_at_grid
from showtell.learn.embeddings import (
    Coverage,
    WordVectors,
    describe_coverage,
    initial_embedding,
    read_vectors,
    write_vectors,
)
from showtell.learn.encoders import Encoder, build_encoder
from showtell.learn.export import check_parity, export_bundle, halve
from showtell.learn.features import FeatureStore, extract_features
from showtell.learn.parallel import ALONE, Processes
from showtell.learn.phases import Material, plan_phases
from showtell.learn.progress import Progress, silent
from showtell.learn.quantise import quantise
from showtell.learn.siblings import complete_counts
from showtell.learn.steps import Decoder, keep_words
from showtell.learn.training import (
    Loop,
    Watch,
    build_vocabulary,
    choose_device,
    run_phases,
    unwatched,
)
from showtell.learn.validation import search_options
from showtell.metrics import ScoreOptions
from showtell.metrics.significance import RESAMPLES
from showtell.records import Example
from showtell.report.card import write_card
from showtell.report.curves import draw_curves
from showtell.text import SPECIAL_WORDS, Vocabulary, tokenise

_PARITY_PICTURES = 200  # of val, on which the export is compared with PyTorch
_RANGED = 64  # of these, on which the ranges of eight bits are found
_KEPT = 0.995  # of the CIDEr, which eight bits must leave


@dataclass
class Run:
    """A run under way: what is known of it so far."""

    config: RunConfig
    directory: Path
    train: Sequence[Example]
    val: Sequence[Example]
    text: Sequence[Example]
    foreign: Sequence[Example]
    vocabulary: Vocabulary
    progress: Progress = silent
    processes: Processes = ALONE
    concepts: list[str] = field(default_factory=list)
    truth: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # the shares of the concepts, by picture
    vectors: WordVectors | None = None
    coverage: Coverage | None = None  # of the vectors


def train(
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
    processes: Processes = ALONE,
) -> Path:
    """Trains a captioner and returns the directory of its bundle.

    Args:
        examples: Pictures with captions; `train` ones are learned from, `val` ones decide when to stop.
        text: Captions without pictures, for `concepts` conditioning. Those of pictures in `val` or `test` are dropped.
        foreign: Pictures with captions in another language, whose `train` ones teach the encoder of a `concepts` run
            too, and nothing else; those in `val` or `test` of the examples are dropped by their names.
        resume: Go on with the run in `directory`.
        describe: What the bundle's manifest says of the data.
        features: Where the encoded pictures lie, for runs that share them; None: in `directory`.
        watch: Called after each epoch with its row of metrics.csv and what was said of each picture of `val`.
        processes: That call this together; `directory` lies on a disk that they share. The first makes the bundle.

    Raises:
        ConfigError, DataError: The settings or the examples cannot make a run.
        TrainingError: The run broke off; its last checkpoint is in `directory`.
    """
    fit(
        config,
        examples,
        directory,
        text=text,
        foreign=foreign,
        resume=resume,
        describe=describe,
        features=features,
        watch=watch,
        progress=progress,
        processes=processes,
    )
    return finish(directory, progress=progress) if processes.leads else Path(directory) / "bundle"


def finish(directory: str | Path, *, progress: Progress = silent) -> Path:
    """The bundle of a run that has been fitted, and its curves."""
    draw_curves(Path(directory) / "metrics.csv", Path(directory) / "curves.png")
    return export_run(directory, progress=progress)


def fit(
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
    processes: Processes = ALONE,
) -> float:
    """Trains without making a bundle, and returns the best CIDEr on `val`; arguments and errors as `train`."""
    if config.alignment is not None:
        raise ConfigError("settings with [alignment] are no captioner's; 'alignment_run.train_alignment' trains them")
    grid = looks_at_grid(config.model)
    progress = progress if processes.leads else silent
    with processes.lead_first():
        run, encoder, store = begin(
            config, examples, directory, text, resume, features, progress, processes, grid=grid, foreign=foreign
        )
    material = _prepared_material(run, encoder, store)
    identity = identify(run, encoder, [*material.train, *material.val])
    tuned = encoder if config.finetune.epochs else None
    loop = Loop(
        config.train, material.decoder, tuned, run.vocabulary, run.directory, identity, progress, watch, processes
    )
    goes_on = processes.agree(resume and (run.directory / "checkpoint.pt").exists())
    if (
        processes.leads and not goes_on
    ):  # the description of a run that goes on stays, should the checkpoint refuse these data
        write_description(run, describe or {})
    return run_phases(loop, plan_phases(material), resume=goes_on).best_score


def begin(
    config: RunConfig,
    examples: Sequence[Example],
    directory: str | Path,
    text: Sequence[Example],
    resume: bool,
    features: str | Path | None,
    progress: Progress,
    processes: Processes = ALONE,
    *,
    grid: bool,
    foreign: Sequence[Example] = (),
) -> tuple[Run, Encoder, FeatureStore]:
    """What any run begins with: its directory, its words, its encoder and the encoded pictures; see `train`.

    Args:
        grid: Whether whole grids are needed, or their means will do.
    """
    directory, device = Path(directory), choose_device(config.train)
    if processes.leads:
        _prepare(directory, config, resume)
    run = _open_run(config, examples, text, foreign, directory, progress)
    run.processes = processes
    run.vectors = _prepared_vectors(run)
    run.coverage = _tell_coverage(run, run.vectors) if run.vectors is not None else None
    encoder = _prepared_encoder(run, device)
    store = extract_features(
        encoder,
        [*run.train, *run.val],
        features or directory / "features",
        pooled=not grid,
        progress=progress,
    )
    return run, encoder, store


def identify(run: Run, encoder: Encoder, examples: Sequence[Example]) -> dict[str, Any]:
    """What must be the same for a checkpoint to be of this run."""
    identity = {
        "config": run.config.to_json(),
        "features": encoder.fingerprint(),
        "data": _digest([*examples, *run.text]),
    }
    if run.foreign:
        identity["foreign"] = _digest(run.foreign)
    if run.vectors is not None:
        identity["word_vectors"] = run.vectors.digest()
    return identity


def _prepare(directory: Path, config: RunConfig, resume: bool) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(config.to_json(), indent=1)
    kept = directory / "config.json"
    if (directory / "checkpoint.pt").exists() and not resume:
        raise ConfigError(f"{directory} already holds a run; go on with it with --resume, or give another directory")
    if resume and kept.exists() and kept.read_text("utf-8") != settings:
        raise TrainingError(
            f"the run in {directory} has other settings than these; go on with those in its config.json, or give "
            "another directory"
        )
    if not resume:  # what a run that never reached a checkpoint left is of its own settings and data
        for name in ("encoder.safetensors", "word_vectors.bin", "best.safetensors"):
            (directory / name).unlink(missing_ok=True)
    kept.write_text(settings, "utf-8")


def _open_run(
    config: RunConfig,
    examples: Sequence[Example],
    text: Sequence[Example],
    foreign: Sequence[Example],
    directory: Path,
    progress: Progress,
) -> Run:
    train_examples, val_examples = learned_from(config, examples)
    if text and config.alignment is not None:
        raise ConfigError("an alignment is learned from pictures with their captions; leave --text out")
    if text and not config.model.conditioning.startswith("concepts"):
        raise ConfigError(
            f"captions without pictures (--text) need conditioning 'concepts', this run has "
            f"{config.model.conditioning!r}; set it in [model], or leave --text out"
        )
    if foreign and not config.model.conditioning.startswith("concepts"):
        raise ConfigError(
            "pictures with captions in another language (--foreign) teach the encoder of conditioning 'concepts', this "
            f"run has {config.model.conditioning!r}; set it in [model], or leave --foreign out"
        )
    kept_apart = {_stem(example) for example in examples if example.split != "train"}
    own_text = [example for example in text if _stem(example) not in kept_apart]
    own_foreign = [
        example
        for example in foreign
        if example.split == "train" and example.references and _stem(example) not in kept_apart
    ]
    vocabulary = build_vocabulary([*train_examples, *own_text], config.train)
    return Run(config, directory, train_examples, val_examples, own_text, own_foreign, vocabulary, progress)


def learned_from(config: RunConfig, examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """The examples of `train` and of `val` that a run uses.

    Raises:
        DataError: One of the two has none.
    """
    captioned = [example for example in examples if example.references]  # others have regions alone
    train_examples = [example for example in captioned if example.split == "train"]
    val_examples = [example for example in captioned if example.split == "val"][: config.train.val_pictures]
    for split, found in (("train", train_examples), ("val", val_examples)):
        if not found:
            raise DataError(f'the data has no example of the {split} split; give some lines "split": "{split}"')
    return train_examples, val_examples


def _stem(example: Example) -> str:
    return PurePosixPath(example.id.replace("\\", "/")).stem


def _prepared_vectors(run: Run) -> WordVectors | None:
    """The pretrained vectors of the run's words, if it starts from some; they are kept with the run.

    A run that goes on reads their file again, so that another one of that name is noticed, unless the file is gone.
    """
    model = run.config.model
    if not model.word_vectors:
        if not model.tune_words:
            raise ConfigError(
                "tune_words = false leaves the words where word_vectors start them, and this run has none; give a file "
                "as word_vectors in [model], or leave tune_words out"
            )
        return None
    source, kept = Path(model.word_vectors), run.directory / "word_vectors.bin"
    if kept.exists() and not source.exists():
        return read_vectors(kept, run.vocabulary.words[4:])
    vectors = read_vectors(source, run.vocabulary.words[4:])
    if run.processes.leads and not (run.directory / "checkpoint.pt").exists():
        checkpoint.write_atomically(kept, lambda partial: write_vectors(partial, vectors))
    return vectors


def _tell_coverage(run: Run, vectors: WordVectors) -> Coverage:
    counts = Counter(
        word for example in (*run.train, *run.text) for caption in example.references for word in tokenise(caption)
    )
    coverage = vectors.coverage(counts)
    run.progress(describe_coverage(Path(run.config.model.word_vectors).name, vectors, coverage), 1, 1)
    return coverage


def _prepared_encoder(run: Run, device: torch.device) -> Encoder:
    """The encoder, tuned on the content words when the run is of that kind; its weights are kept with the run."""
    config = run.config
    tunes = config.model.conditioning.startswith("concepts")
    if tunes:
        told = [*run.train, *run.text]
        run.concepts = choose_concepts(told, run.vocabulary, config.concepts)
        truth_NC = complete_counts(
            run.train,
            told,
            run.vocabulary,
            run.concepts,
            config.concepts.captions,
            config.train.seed,
            run.progress,
        )
        run.truth = {example.id: truth_C for example, truth_C in zip(run.train, truth_NC, strict=True)}
    kept = run.directory / "encoder.safetensors"
    if not kept.exists() and not run.processes.leads:
        raise TrainingError(f"a process of the run does not see {kept}; give --out on a disk that all machines share")
    if kept.exists():
        return kept_encoder(run.directory, config).to(device)
    torch.manual_seed(config.train.seed)
    encoder = build_encoder(config.model).to(device)
    if tunes:
        lessons = [Lesson(run.train, truth_NC)]
        if run.foreign:
            vocabulary = build_vocabulary(run.foreign, config.train)
            words = choose_concepts(run.foreign, vocabulary, config.concepts)
            lessons.append(Lesson(run.foreign, count_concepts(run.foreign, words)))
        tune_encoder(encoder, lessons, config.concepts, run.directory, config.train.seed, run.progress)
    checkpoint.write_weights(kept, encoder.network.state_dict())
    return encoder


def kept_encoder(directory: Path, config: RunConfig) -> Encoder:
    encoder = build_encoder(replace(config.model, encoder_weights="random"))
    encoder.network.load_state_dict(checkpoint.read_weights(directory / "encoder.safetensors"))
    return encoder


def readable(run: Run, store: FeatureStore) -> tuple[list[Example], list[Example]]:
    """The pictures of train and val that could be encoded.

    Raises:
        DataError: One of the two has none.
    """
    known = {image for image in store.images if image not in store.failures}
    train, val = ([example for example in part if example.id in known] for part in (run.train, run.val))
    lost = len(run.train) + len(run.val) - len(train) - len(val)
    if lost:
        run.progress(f"{lost} unreadable pictures are left out (see {store.directory / 'index.jsonl'})", 1, 1)
    if not train or not val:
        raise DataError(f"no readable picture is left in train or val; {store.directory / 'index.jsonl'} says why")
    return train, val


def _prepared_material(run: Run, encoder: Encoder, store: FeatureStore) -> Material:
    config = run.config
    train, val = readable(run, store)
    table, val_table = (CaptionTable(part, run.vocabulary, config.train.max_words) for part in (train, val))
    decoder = _new_decoder(run, encoder.width)
    decoder.expect_words(table.count_words(len(run.vocabulary)))
    return Material(
        config,
        run.directory,
        run.vocabulary,
        encoder,
        decoder.to(encoder.mean.device),
        train,
        val,
        run.text,
        run.concepts,
        np.stack([run.truth[example.id] for example in train]) if run.truth else np.zeros((len(train), 0), np.float32),
        store,
        table,
        val_table,
        run.progress,
    )


def _new_decoder(run: Run, width: int) -> Decoder:
    config, vectors = run.config, run.vectors
    torch.manual_seed(config.train.seed)
    model = config.model if vectors is None else replace(config.model, embedding=vectors.width)
    decoder = build_decoder(model, width=width, vocabulary_size=len(run.vocabulary), concepts=len(run.concepts))
    if vectors is not None:
        embedding_VE = initial_embedding(run.vocabulary, vectors, config.train.seed)
        decoder.load_words(torch.from_numpy(embedding_VE), tune=config.model.tune_words)
    return decoder


def _digest(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.id, example.split, example.references)).encode())
    return digest.hexdigest()


# the bundle


def write_description(run: Run, describe: dict[str, Any]) -> None:
    """What `export_run` needs to know of a run, beside its weights."""
    about = {
        "describe": run.config.describe,
        "licence": run.config.licence,
        **describe,
        "pictures": len(run.train),
        "captions": sum(len(example.references) for example in run.train),
        "captions_without_pictures": sum(len(example.references) for example in run.text),
        **({"pictures_of_another_language": len(run.foreign)} if run.foreign else {}),
    }
    if run.concepts:
        about["concepts"] = run.concepts
        about["once"] = find_unrepeated([*run.train, *run.text], run.concepts)
    if run.coverage is not None:
        name = Path(run.config.model.word_vectors).name
        about["word_vectors"] = {"file": name, "tuned": run.config.model.tune_words, **run.coverage.to_json()}
    (run.directory / "data.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), "utf-8")
    (run.directory / "vocabulary.json").write_text(run.vocabulary.to_json(), "utf-8")
    rows = ({**asdict(example), "regions": ()} for example in run.val)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (run.directory / "val.jsonl").write_text(lines, "utf-8")


def read_val(directory: str | Path) -> list[Example]:
    """The examples that a run is validated on.

    Raises:
        TrainingError: There is no run in `directory`.
    """
    try:
        lines = (Path(directory) / "val.jsonl").read_text("utf-8").splitlines()
    except FileNotFoundError as error:
        raise no_run(Path(directory), error) from error
    rows = map(json.loads, lines)
    return [Example(**{**row, "references": tuple(row["references"])}) for row in rows]


def no_run(directory: Path, error: FileNotFoundError) -> TrainingError:
    return TrainingError(
        f"{directory} has no {Path(error.filename or 'best.safetensors').name}: no run is there, or its first epoch is "
        "not finished"
    )


def export_run(directory: str | Path, out: str | Path | None = None, *, progress: Progress = silent) -> Path:
    """The bundle of a run's best epoch so far, checked against PyTorch and scored on the run's `val` pictures.

    On these it is calibrated too; where they do not allow it, `confidence` of its manifest says why.

    Raises:
        TrainingError: There is no run in `directory`, or it has not finished an epoch.
        BackendError: The exported graphs do not say what PyTorch says.
    """
    directory = Path(directory)
    val = read_val(directory)
    try:
        config = RunConfig(**json.loads((directory / "config.json").read_text("utf-8")))
        training = json.loads((directory / "data.json").read_text("utf-8"))
        vocabulary = Vocabulary.from_json((directory / "vocabulary.json").read_text("utf-8"))
        best, tuned = checkpoint.split_weights(checkpoint.read_weights(directory / "best.safetensors"))
    except FileNotFoundError as error:
        raise no_run(directory, error) from error
    if config.model.shortlist is not None:
        vocabulary = Vocabulary(vocabulary.words[: len(SPECIAL_WORDS) + config.model.shortlist])
        best = keep_words(best, len(vocabulary))
    # pretrained word vectors brought a width of their own
    config = replace(config, model=replace(config.model, embedding=best["words.weight"].shape[1]))
    progress("exporting", 0, 3)
    encoder = kept_encoder(directory, config)
    if tuned:
        encoder.network.load_state_dict(tuned)
    concepts = len(best.get("concepts.head.bias", ()))
    decoder = build_decoder(config.model, width=encoder.width, vocabulary_size=len(vocabulary), concepts=concepts)
    decoder.load_state_dict(best)
    bundle = export_bundle(encoder, decoder, vocabulary, directory.resolve().name)
    progress("comparing with PyTorch", 1, 3)
    options = search_options(config.train)
    pixels = readable_pixels(val, encoder)
    parity = check_parity(bundle, encoder, decoder, pixels, options)
    progress("exporting", 3, 3)
    bundle = replace(bundle, manifest=replace(bundle.manifest, once=tuple(training.pop("once", ()))))

    def finish(bundle: Bundle) -> tuple[Bundle, Evaluation]:
        bundle = halve(bundle) if config.model.half else bundle
        captioner, scoring = Captioner(bundle), ScoreOptions(resamples=RESAMPLES)
        return bundle, evaluate(captioner, val, "val", options=options, scoring=scoring, progress=progress)

    exported = bundle
    bundle, found = finish(exported)
    if config.model.int8:
        smaller, after = finish(quantise(exported, pixels[:_RANGED], options))
        (ours, theirs) = (one.scores.metrics["CIDEr"] for one in (after, found))
        kept = ours >= _KEPT * theirs
        training["int8"] = {"kept": kept, "CIDEr": ours, "CIDEr in float": theirs}
        bundle, found = (smaller, after) if kept else (bundle, found)
    manifest = replace(
        bundle.manifest,
        search={"beam": options.beam, "length_penalty": options.length_penalty},
        config=portable(config).to_json(),
        training={**training, "parity": {"pictures": parity.pictures, "same_captions": parity.same_captions}},
        scores=found.scores.to_json(),
    )
    finished = replace(bundle, manifest=manifest)
    try:
        finished = calibrate_bundle(finished, val, found.captions, progress=progress)
    except DataError as error:
        finished = replace(finished, manifest=replace(manifest, confidence={"skipped": str(error)}))
    target = Path(out) if out is not None else directory / "bundle"
    write_bundle(replace(finished, card=write_card(finished, read_notes(directory))), target)
    return target


def read_notes(directory: Path) -> str:
    """What a person has written for the card of a run's model, in its notes.md."""
    notes = directory / "notes.md"
    return notes.read_text("utf-8") if notes.exists() else ""


def portable(config: RunConfig) -> RunConfig:
    """The settings without the folders of this machine."""
    model = config.model
    encoder_weights, word_vectors = Path(model.encoder_weights).name, Path(model.word_vectors).name
    return replace(config, model=replace(model, encoder_weights=encoder_weights, word_vectors=word_vectors))


def readable_pixels(examples: Sequence[Example], encoder: Encoder) -> list[NDArray[np.uint8]]:
    pixels: list[NDArray[np.uint8]] = []
    for example in examples:
        if len(pixels) == _PARITY_PICTURES or example.image is None:
            break
        try:
            pixels.append(read_pixels(example.image, encoder.preprocessing))
        except ImageError:
            continue
    return pixels
