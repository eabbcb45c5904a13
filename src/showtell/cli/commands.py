"""The commands. Heavy imports stand inside them, so that `--help` and `caption` stay quick."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from showtell import __version__
from showtell.cli import alt as alt_command
from showtell.cli import batch as batch_command
from showtell.cli import data as data_commands
from showtell.cli import models as models_command
from showtell.cli import regions as region_commands
from showtell.cli import report as report_command
from showtell.cli import search as search_commands
from showtell.cli import serve as serve_command
from showtell.cli import tune as tune_command
from showtell.cli.engines import (
    Actors,
    Address,
    Engine,
    GpusPerActor,
    UseGpu,
    Workers,
    choose_cluster,
    choose_workers,
)
from showtell.cli.sources import (
    ColumnNames,
    Data,
    EncoderWeights,
    Foreign,
    Format,
    Pictures,
    Shares,
    Sources,
    SplitSeed,
    Text,
    WordVectors,
    read_sources,
)
from showtell.cli.words import Deny, Neutral, read_words

if TYPE_CHECKING:
    from showtell.bundle import Bundle
    from showtell.cluster import Cluster
    from showtell.learn.config import RunConfig
    from showtell.learn.parallel import Processes
    from showtell.learn.training import Watch
    from showtell.metrics.java import JavaMetric
    from showtell.records import Caption, Failure, Scores

app = typer.Typer(
    name="showtell",
    help="Look at a picture and say what it shows; train, score and export captioners.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(data_commands.app)

Model = Annotated[str, typer.Option("--model", "-m", help="A bundle: an embedded one's name, a directory or a zip.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Meteor = Annotated[bool, typer.Option("--meteor", help="METEOR too; needs Java and 'showtell[metrics]'.")]
Spice = Annotated[bool, typer.Option("--spice", help="SPICE too; needs Java, and takes minutes.")]
Resamples = Annotated[int, typer.Option("--resamples", min=0, help="For the 95 % intervals; 0: none.")]
Beam = Annotated[int | None, typer.Option("--beam", help="Hypotheses a picture; 1 is greedy. [default: the model's]")]

_TOLD = 5  # unreadable pictures that are named
_FEW = 4  # pictures for which a quick start matters more than the speed of each


def _version(asked: bool) -> None:
    if asked:
        print(f"showtell {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def caption(
    pictures: Annotated[list[str], typer.Argument(help="Picture files.", metavar="PICTURE...")],
    model: Model = "default",
    beam: Beam = None,
    top: Annotated[int, typer.Option("--top", help="Captions to give of each picture, best first.")] = 1,
    deny: Deny = None,
    neutral: Neutral = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures that run together.")] = 16,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. [default: all cores]")] = None,
    aloud: Annotated[bool, typer.Option("--speak", help="Also say each caption, by the voice of the system.")] = False,
    wav: Annotated[Path | None, typer.Option("--wav", help="Write the spoken captions into this file.")] = None,
    language: Annotated[str, typer.Option("--language", help="Of the voice, such as en or vi.")] = "en",
    min_confidence: Annotated[
        float,
        typer.Option("--min-confidence", min=0, max=1, help="Leave less sure captions out, 0 to 1; --json has all."),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Say what pictures show, a line a picture: `PATH: caption`.

    Example: showtell caption photo.jpg holiday/*.jpg --top 3
    """
    from showtell.captioner import Captioner
    from showtell.records import Failure

    lean = len(pictures) <= _FEW
    if lean:
        _return_freed_memory()
    captioner = Captioner.load(model, threads=threads, lean=lean, words=read_words(deny, neutral))
    changes = {"top": top} | ({"beam": beam} if beam is not None else {})
    if beam is None and top > captioner.options().beam:
        changes["beam"] = top
    failed = False
    spoken = []
    for result in captioner.caption_stream(pictures, captioner.options(**changes), batch=batch):
        if as_json:
            print(json.dumps(result.to_json(), ensure_ascii=False), flush=True)
        if isinstance(result, Failure):
            failed = True
            print(f"showtell: {result.error}", file=sys.stderr)
            continue
        if min_confidence and (sure := _confidence(result)) < min_confidence:
            print(f"showtell: not sure enough of {result.image} ({sure:.2f})", file=sys.stderr)
            continue
        for said in (result, *result.alternatives) if not as_json else ():
            print(f"{result.image}: {said.text}", flush=True)
        spoken.append(result.text)
        if aloud:
            _speak(result.text, language)
    if wav is not None and spoken:
        _speak(".\n".join(spoken), language, wav)
    if failed:
        raise typer.Exit(1)


def _confidence(said: Caption) -> float:
    from showtell.jobs.alttext import confidence

    return confidence(said)


def _speak(text: str, language: str, wav: Path | None = None) -> None:
    from showtell.jobs.speech import speak

    speak(text, language, wav)


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A .toml file, or the name of a recipe.", metavar="CONFIG|RECIPE")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The run's directory; the bundle will be in OUT/bundle.")],
    layout: Format = None,
    pictures: Pictures = None,
    columns: ColumnNames = None,
    shares: Shares = None,
    split_seed: SplitSeed = 1,
    text: Text = None,
    foreign: Foreign = None,
    encoder_weights: EncoderWeights = None,
    word_vectors: WordVectors = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of the configuration's.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the configuration's.")] = None,
    features: Annotated[
        Path | None, typer.Option("--features", help="Where encoded pictures lie, for runs that share them.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write events for TensorBoard, into OUT/tensorboard.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.")] = False,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    use_gpu: UseGpu = False,
    as_json: Json = False,
) -> None:
    """Train a captioner on pictures with captions, or a model that aligns the two.

    Several processes of one machine, or of many, share a run by --engine ray, or started by torchrun.

    Example: showtell train rsicd --data rsicd --out runs/aerial --encoder-weights mobilenetv2_100.safetensors
    """
    from contextlib import nullcontext
    from dataclasses import replace

    from showtell.cli.progress import reporting
    from showtell.datasets import read_captions
    from showtell.errors import ConfigError
    from showtell.learn import require_training_stack

    require_training_stack()
    from showtell.learn.config import read_config
    from showtell.learn.events import watch_in_tensorboard
    from showtell.learn.parallel import started_by_torchrun
    from showtell.learn.training import unwatched

    cluster = choose_workers(engine, address, workers, use_gpu)
    if cluster is not None and tensorboard:
        raise ConfigError("--tensorboard is of a run in this process; leave it out, or --engine ray")
    settings = read_config(config)
    changes: dict[str, Any] = {"epochs": epochs, "seed": seed}
    changes = {name: value for name, value in changes.items() if value is not None}
    settings = replace(settings, train=replace(settings.train, **changes))
    if encoder_weights is not None:
        settings = replace(settings, model=replace(settings.model, encoder_weights=encoder_weights))
    if word_vectors is not None:
        settings = replace(settings, model=replace(settings.model, word_vectors=str(word_vectors)))
    sources = Sources(data, layout, pictures, columns, shares, split_seed)
    captions = [example for path in text or () for example in read_captions(path)]
    named = [f"{path.name} (pictures with captions)" for path in data]
    named += [f"{path.name} (captions without pictures)" for path in text or ()]
    named += [f"{path.name} (pictures with captions in another language)" for path in foreign or ()]
    with started_by_torchrun() as processes, reporting() as report:
        leads_tensorboard = tensorboard and processes.leads
        events = watch_in_tensorboard(out / "tensorboard") if leads_tensorboard else nullcontext(unwatched)
        with events as watch:
            examples = read_sources(sources, report)
            others = read_sources(Sources(foreign, None, None, None, None, split_seed), report) if foreign else []
            command = _retell(
                config,
                {
                    "--data": data,
                    "--format": layout,
                    "--pictures": pictures,
                    "--columns": columns,
                    "--shares": shares,
                    "--split-seed": split_seed if split_seed != 1 else None,
                    "--text": text,
                    "--foreign": foreign,
                    "--encoder-weights": encoder_weights and Path(encoder_weights),
                    "--word-vectors": word_vectors,
                    "--epochs": epochs,
                    "--seed": seed,
                },
            )
            about = {"data": named, "command": command}
            given = {"text": captions, "resume": resume, "describe": about, "features": features}
            run_training = _choose_training(settings, cluster, processes, watch)
            try:
                bundle = run_training(settings, examples, out, **given, foreign=others, progress=report)
            except KeyboardInterrupt:
                print(f"showtell: stopped; go on with the same command and --resume (run in {out})", file=sys.stderr)
                raise typer.Exit(130) from None
    if not processes.leads:
        return
    scores = json.loads((bundle / "bundle.json").read_text("utf-8"))["scores"]
    if as_json:
        print(json.dumps({"bundle": str(bundle), "scores": scores}))
    elif settings.alignment is not None:
        print(f"{bundle}: mean recall {scores['metrics']['mean recall']:.3f} on val")
    else:
        print(f"{bundle}: CIDEr {scores['metrics']['CIDEr']:.3f}, BLEU-4 {scores['metrics']['BLEU-4']:.3f} on val")


def _retell(config: str, options: dict[str, Any]) -> str:
    """The command that trains the same, with the names of files in place of their paths."""
    import shlex

    parts = ["showtell", "train", Path(config).name]
    for option, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                parts += [option, one.name if isinstance(one, Path) else str(one)]
    return shlex.join([*parts, "--out", "RUN"])


def _choose_training(settings: RunConfig, cluster: Cluster | None, processes: Processes, watch: Watch) -> Any:
    """What trains these settings."""
    from functools import partial

    from showtell.errors import ConfigError

    if cluster is not None:
        from showtell.learn.workers import train_on_cluster

        return partial(train_on_cluster, cluster=cluster)
    if settings.alignment is None:
        from showtell.learn.run import train as train_captioner

        return partial(train_captioner, watch=watch, processes=processes)
    from showtell.learn.alignment_run import train_alignment

    if processes.size > 1:
        raise ConfigError("an alignment is trained by one process; start it without torchrun")
    return partial(train_alignment, watch=watch)


@app.command()
def features(
    config: Annotated[str, typer.Argument(help="A .toml file, or the name of a recipe.", metavar="CONFIG|RECIPE")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Where they are to lie; for `showtell train --features OUT`.")],
    layout: Format = None,
    pictures: Pictures = None,
    columns: ColumnNames = None,
    shares: Shares = None,
    split_seed: SplitSeed = 1,
    encoder_weights: EncoderWeights = None,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = 0,
    as_json: Json = False,
) -> None:
    """Encode the pictures of a data set once, for runs that share them; stopped, the same command goes on.

    Example: showtell features rsicd --data rsicd --out rsicd.features
    """
    from dataclasses import replace

    from showtell.cli.progress import reporting
    from showtell.learn import require_training_stack

    require_training_stack()
    from showtell.learn.config import read_config
    from showtell.learn.shards import extract

    cluster = choose_cluster(engine, address, actors, gpus_per_actor)
    settings = read_config(config)
    if encoder_weights is not None:
        settings = replace(settings, model=replace(settings.model, encoder_weights=encoder_weights))
    sources = Sources(data, layout, pictures, columns, shares, split_seed)
    with reporting() as report:
        try:
            store = extract(settings, read_sources(sources, report), out, cluster=cluster, progress=report)
        except KeyboardInterrupt:
            print(f"showtell: stopped; the same command goes on (features in {out})", file=sys.stderr)
            raise typer.Exit(130) from None
    told = {"features": str(out), "pictures": len(store), "failed": len(store.failures)}
    failed = f", {len(store.failures):,} of them unreadable" if store.failures else ""
    print(json.dumps(told) if as_json else f"{out}: {len(store):,} pictures{failed}")
    for sentence in list(store.failures.values())[:_TOLD]:
        print(f"showtell: not encoded: {sentence}", file=sys.stderr)
    if store.failures:
        raise typer.Exit(1)


app.command()(batch_command.batch)
app.command()(alt_command.alt)
app.command()(serve_command.serve)
app.command()(tune_command.tune)
app.command()(region_commands.regions)
app.command()(region_commands.ground)
app.command()(search_commands.index)
app.command()(search_commands.search)
app.command()(report_command.report)
app.command()(models_command.models)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A bundle: an embedded one's name, a directory or a zip.")],
    data: Data,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "val",
    layout: Format = None,
    pictures: Pictures = None,
    columns: ColumnNames = None,
    shares: Shares = None,
    split_seed: SplitSeed = 1,
    beam: Beam = None,
    deny: Deny = None,
    neutral: Neutral = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the captions there, as JSON lines.")] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="Also write a page with good, median and worst captions.")
    ] = None,
    meteor: Meteor = False,
    spice: Spice = False,
    resamples: Resamples = 1000,
    as_json: Json = False,
) -> None:
    """Caption the pictures of a split and score the captions; of an alignment model, score what it finds.

    Example: showtell evaluate default --data coco --split val
    """
    from showtell.bundle import read_bundle
    from showtell.captioner import Captioner
    from showtell.cli.progress import reporting
    from showtell.errors import ConfigError
    from showtell.evaluation import evaluate as run_evaluation
    from showtell.metrics import ScoreOptions

    bundle, sources = read_bundle(model), Sources(data, layout, pictures, columns, shares, split_seed)
    if "wide" in bundle.graphs:
        if beam or deny or neutral or out or page or meteor or spice:
            raise ConfigError(
                f"{model} is an alignment model; --beam, --deny, --neutral, --out, --page, --meteor and --spice are of "
                "captions"
            )
        _evaluate_alignment(bundle, sources, split, as_json)
        return
    captioner = Captioner(bundle, words=read_words(deny, neutral))
    options = captioner.options(**({"beam": beam} if beam is not None else {}))
    with reporting() as report:
        examples = read_sources(sources, report)
        known = [text for example in examples if example.split == "train" for text in example.references]
        scoring = ScoreOptions(
            known=known if split != "train" and known else None, java=_java(meteor, spice), resamples=resamples
        )
        found = run_evaluation(captioner, examples, split, options=options, scoring=scoring, progress=report)
    _print_scores(found.scores, as_json)
    if page is not None:
        from showtell.report.gallery import write_gallery

        write_gallery(found, examples, page, title=f"{model}, {split}")
    if out is not None:
        rows = ({**said.to_json(), "image": name} for name, said in found.captions.items())
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    _tell_failures(found.failures)


def _evaluate_alignment(bundle: Bundle, sources: Sources, split: str, as_json: bool) -> None:
    from showtell.alignment import Aligner
    from showtell.cli.progress import reporting
    from showtell.evaluation import compare
    from showtell.metrics.retrieval import retrieval

    with reporting() as report:
        found = compare(Aligner(bundle), read_sources(sources, report), split, progress=report)
    scores = retrieval(found.similarity_BN, found.owner_N)
    if as_json:
        counts = {"n": len(found.images), "captions": len(found.captions), "split": split}
        print(json.dumps({"metrics": scores, **counts}))
    else:
        print(f"{len(found.images):,} pictures, {len(found.captions):,} captions, split {split}")
        for name, value in scores.items():
            print(f"{name:<26} {value:8.4f}")
    _tell_failures(found.failures)


@app.command()
def score(
    candidates: Annotated[
        Path, typer.Argument(help="Captions to score: COCO results, {id: caption}, JSON lines, CSV or TSV.")
    ],
    references: Annotated[
        Path, typer.Argument(help="What people wrote: COCO annotations, {id: [captions]}, JSON lines, CSV or TSV.")
    ],
    against: Annotated[
        Path | None, typer.Option("--against", help="Another system's captions: which is better, and is it chance?")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of the references, where they name splits.")] = None,
    train: Annotated[
        Path | None, typer.Option("--train", help="The captions of training, to count how many are novel.")
    ] = None,
    objects: Annotated[
        Path | None, typer.Option("--objects", help="COCO instances of the pictures, for hallucinated objects (CHAIR).")
    ] = None,
    meteor: Meteor = False,
    spice: Spice = False,
    resamples: Resamples = 1000,
    as_json: Json = False,
) -> None:
    """Score captions against references as the COCO evaluation does; Java is for METEOR and SPICE alone.

    Example: showtell score results.json annotations/captions_val2017.json --against other.json
    """
    from showtell.metrics import ScoreOptions, compare_systems, read_candidates, read_references
    from showtell.metrics import score as run_score

    known = None
    if train is not None:
        known = [caption for group in read_references(train, split="train").values() for caption in group]
    objects_of = None
    if objects is not None:
        from showtell.datasets.regions import read_objects

        objects_of = read_objects(objects)
    options = ScoreOptions(known=known, objects=objects_of, java=_java(meteor, spice), resamples=resamples)
    ours, written = read_candidates(candidates), read_references(references, split=split)
    comparison = None
    if against is None:
        scores = run_score(ours, written, split=split, options=options)
    else:
        scores, comparison = compare_systems(ours, read_candidates(against), written, split=split, options=options)
    if as_json:
        _tell_missing(scores)
        more = {"against": {name: one.to_json() for name, one in comparison.items()}} if comparison else {}
        print(json.dumps({**scores.to_json(), **more}))
        return
    _print_scores(scores, False)
    if comparison is not None:
        print(f"\n{'':<15} {'this':>8} {'other':>8} {'difference':>11}   95 % interval          p")
        for name, one in comparison.items():
            interval = f"{one.low:+9.4f} to {one.high:+.4f}"
            print(
                f"{name:<15} {one.ours:8.4f} {one.theirs:8.4f} {one.difference:+11.4f} {interval:<23} {one.p_value:.2g}"
            )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The directory of a training run.")],
    out: Annotated[Path | None, typer.Option("--out", help="A directory or a .zip. [default: RUN/bundle]")] = None,
    as_json: Json = False,
) -> None:
    """Make a bundle of a run's best epoch, finished or not, checked against PyTorch and scored.

    Example: showtell export runs/aerial --out aerial.zip
    """
    from showtell.cli.progress import reporting
    from showtell.learn import require_training_stack

    require_training_stack()
    from showtell.bundle import pack_bundle
    from showtell.learn.alignment_run import export_alignment_run, holds_alignment
    from showtell.learn.run import export_run

    with reporting() as report:
        zipped = out is not None and out.suffix == ".zip"
        make = export_alignment_run if holds_alignment(run) else export_run
        bundle = make(run, None if zipped else out, progress=report)
        if zipped and out is not None:
            pack_bundle(bundle, out)
            bundle = out
    print(json.dumps({"bundle": str(bundle)}) if as_json else str(bundle))


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="A bundle: an embedded one's name, a directory or a zip.")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Where the calibrated bundle is to be: a directory or a .zip.")],
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "val",
    layout: Format = None,
    pictures: Pictures = None,
    columns: ColumnNames = None,
    shares: Shares = None,
    split_seed: SplitSeed = 1,
    as_json: Json = False,
) -> None:
    """Learn from pictures with captions how sure a captioner may be; its captions stay the same.

    The pictures must be none that it was trained on. `showtell train` and `export` do this by themselves, on val.

    Example: showtell calibrate default --data my-folder --out mine
    """
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from showtell.bundle import pack_bundle, read_bundle, write_bundle
    from showtell.captioner import Captioner
    from showtell.cli.progress import reporting
    from showtell.evaluation import evaluate as run_evaluation
    from showtell.learn.calibrating import calibrate_bundle
    from showtell.report.card import find_notes, write_card

    bundle, sources = read_bundle(model), Sources(data, layout, pictures, columns, shares, split_seed)
    with reporting() as report:
        examples = [example for example in read_sources(sources, report) if example.split == split]
        captions = run_evaluation(Captioner(bundle), examples, split, progress=report).captions
        calibrated = calibrate_bundle(bundle, examples, captions, progress=report)
    calibrated = replace(calibrated, card=write_card(calibrated, find_notes(bundle)))
    if out.suffix == ".zip":
        with TemporaryDirectory() as folder:
            write_bundle(calibrated, folder)
            pack_bundle(folder, out)
    else:
        write_bundle(calibrated, out)
    fitted = calibrated.manifest.confidence
    if as_json:
        print(json.dumps({"bundle": str(out), "confidence": fitted}))
    else:
        print(f"{out}: calibration error {fitted['ECE']:.3f}, before {fitted['ECE before']:.3f}")


@app.command()
def encoders(
    pattern: Annotated[str, typer.Argument(help="Part of a name.")] = "",
    as_json: Json = False,
) -> None:
    """List the encoders that a configuration can name.

    Example: showtell encoders mobilenet
    """
    from showtell.learn import require_training_stack

    require_training_stack()
    from showtell.learn.encoders import list_encoders

    names = list_encoders(pattern)
    if as_json or names:
        print(json.dumps(names) if as_json else "\n".join(names))
    if not names:
        print(f"showtell: no encoder's name contains {pattern!r}", file=sys.stderr)
        raise typer.Exit(1)


def _return_freed_memory() -> None:
    """Lets glibc give every freed block of 256 KiB and more back to the system (a third of the peak of one caption)."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 256 * 1024)  # M_MMAP_THRESHOLD, which would grow by itself
        mallopt(-8, 1)  # M_ARENA_MAX


def _java(meteor: bool, spice: bool) -> tuple[JavaMetric, ...]:
    wanted: dict[JavaMetric, bool] = {"METEOR": meteor, "SPICE": spice}
    return tuple(metric for metric, asked in wanted.items() if asked)


def _tell_failures(failures: Sequence[Failure]) -> None:
    for failure in failures:
        print(f"showtell: not scored: {failure.error}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def _tell_missing(scores: Scores) -> None:
    for sentence in scores.missing:
        print(f"showtell: {sentence}", file=sys.stderr)


def _print_scores(scores: Scores, as_json: bool) -> None:
    _tell_missing(scores)
    if as_json:
        print(json.dumps(scores.to_json()))
        return
    about = [f"{scores.n:,} pictures", f"{scores.tokeniser} tokens"]
    about += [f"split {scores.split}"] if scores.split else []
    about += [f"beam {scores.beam}"] if scores.beam else []
    about += [scores.words] if scores.words else []
    print(", ".join(about))
    for name, value in scores.metrics.items():
        low, high = scores.intervals.get(name, (None, None))
        print(f"{name:<15} {value:8.4f}" + (f"   {low:.4f} to {high:.4f}" if low is not None else ""))
