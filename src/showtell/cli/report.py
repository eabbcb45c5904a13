"""`showtell report`: a page about a training run, or about a table of captions."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from showtell.cli.sources import Progress
    from showtell.evaluation import Evaluation
    from showtell.records import Caption, Example, Failure
    from showtell.report.gallery import Look
    from showtell.report.sheet import Seen


def report(
    source: Annotated[
        Path,
        typer.Argument(
            help="The directory of a training run, or what showtell batch wrote: JSON lines, CSV or Parquet.",
            metavar="RUN|FILE",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page. [default: RUN/report.html, or FILE.html]")
    ] = None,
    each: Annotated[int, typer.Option("--each", min=1, help="Good, median and worst pictures.")] = 12,
    most: Annotated[int, typer.Option("--most", min=1, help="Pictures to show; of more, a sample.")] = 5000,
    beam: Annotated[
        int | None, typer.Option("--beam", help="Of a run: hypotheses a picture. [default: the model's]")
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="For the 95 % intervals; 0: none.")] = 1000,
    references: Annotated[
        Path | None, typer.Option("--references", help="Of a FILE: what people wrote, to score it against.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of the references, where they name splits.")] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Of a FILE: the folder of pictures. [default: the file's]")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Of a FILE: a model that tells where the words are.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write a page that needs nothing beside it: pictures, captions, where their words come from, scores and curves.

    Example: showtell report runs/aerial --out aerial.html
    """
    from showtell.cli.progress import reporting
    from showtell.errors import ConfigError, DataError
    from showtell.jobs.tables import read_table
    from showtell.partitions import holds_job
    from showtell.report.gallery import write_captions, write_gallery

    is_run = source.is_dir() and not holds_job(source)
    of_run, of_file = {"--beam": beam}, {"--references": references, "--pictures": pictures, "--model": model}
    for name, value in (of_file if is_run else of_run).items():
        if value is not None:
            kind = "a FILE of captions" if is_run else "a training run's directory"
            raise ConfigError(f"{name} is for {kind}, and {source} is none; leave it out")
    if not source.exists():
        raise DataError(f"{source} does not exist; give the directory of a training run, or a table of captions")
    failures: Sequence[Failure] = ()
    scores = None
    with reporting() as progress:
        if is_run:
            page = out or source / "report.html"
            found, val, look = _evaluate_run(source, beam, resamples, progress)
            failures, scores = found.failures, found.scores
            title, metrics = source.resolve().name, source / "metrics.csv"
            write_gallery(
                found, val, page, title=title, metrics=metrics, each=each, look=look, most=most, progress=progress
            )
        else:
            page = out or Path(f"{source}.html")
            folders = [pictures or source.parent]
            look = _look_with(model)
            if references is None:
                write_captions(
                    read_table(source),
                    page,
                    title=source.name,
                    pictures=folders,
                    look=look,
                    most=most,
                    progress=progress,
                )
            else:
                found, examples = _score_file(source, references, split, folders, resamples)
                failures, scores = found.failures, found.scores
                write_gallery(
                    found, examples, page, title=source.name, each=each, look=look, most=most, progress=progress
                )
    print(json.dumps({"page": str(page), **({"scores": scores.to_json()} if scores else {})}) if as_json else page)
    for failure in failures:
        print(f"showtell: not scored: {failure.error}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def _evaluate_run(
    run: Path, beam: int | None, resamples: int, progress: Progress
) -> tuple[Evaluation, list[Example], Look]:
    """What a run's bundle says of the pictures that the run was validated on."""
    from showtell.captioner import Captioner
    from showtell.evaluation import evaluate
    from showtell.learn import require_training_stack

    require_training_stack()
    from showtell.learn.run import read_val
    from showtell.metrics import ScoreOptions
    from showtell.report.gallery import look_by

    val = read_val(run)
    captioner = Captioner.load(run / "bundle")
    options = captioner.options(**({"beam": beam} if beam is not None else {}))
    scoring = ScoreOptions(resamples=resamples)
    found = evaluate(captioner, val, "val", options=options, scoring=scoring, maps=True, progress=progress)
    return found, val, look_by(captioner.manifest.preprocessing)


def _score_file(
    source: Path, references: Path, split: str | None, folders: Sequence[Path], resamples: int
) -> tuple[Evaluation, list[Example]]:
    """The captions of a table as an evaluation, and the pictures that the references name."""
    from dataclasses import replace

    from showtell.evaluation import Evaluation
    from showtell.jobs.tables import read_table
    from showtell.metrics import ScoreOptions, match_ids, read_references, score
    from showtell.records import Example, Failure
    from showtell.report.gallery import find_picture

    results = {one.image: one for one in read_table(source)}
    written = read_references(references, split=split)
    captions, failures, examples = {}, [], []
    for name, image in match_ids({image: image for image in results}, written).items():
        result = results[image]
        if isinstance(result, Failure):
            failures.append(result)
            written.pop(name, None)
            continue
        captions[name] = replace(result, image=name)
        examples.append(Example(name, find_picture(image, folders), tuple(written.get(name, ()))))
    texts = {name: caption.text for name, caption in captions.items()}
    scores = score(texts, written, options=ScoreOptions(resamples=resamples))
    return Evaluation(scores, captions, tuple(failures), None), examples


def _look_with(model: str | None) -> Look:
    from showtell.report.gallery import unseen

    if model is None:
        return unseen
    from showtell.regions import RegionCaptioner

    grounder = RegionCaptioner.load(model, threads=1)

    def look(caption: Caption, picture: str, width: int, height: int) -> Seen:
        seen = grounder.map_words(picture, caption.text)
        return seen.words, seen.maps_TRC, seen.box

    return look
