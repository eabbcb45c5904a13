"""`showtell tune`: search for the settings of a training."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from showtell.cli.engines import Actors, Address, Engine, GpusPerActor, choose_cluster
from showtell.cli.sources import (
    ColumnNames,
    Data,
    EncoderWeights,
    Format,
    Pictures,
    Shares,
    Sources,
    SplitSeed,
    Text,
    WordVectors,
    read_sources,
)

if TYPE_CHECKING:
    from showtell.learn.tuning import Found


def tune(
    config: Annotated[str, typer.Argument(help="A .toml file, or the name of a recipe.", metavar="CONFIG|RECIPE")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The search's directory; the same command goes on with it.")],
    layout: Format = None,
    pictures: Pictures = None,
    columns: ColumnNames = None,
    shares: Shares = None,
    split_seed: SplitSeed = 1,
    text: Text = None,
    encoder_weights: EncoderWeights = None,
    word_vectors: WordVectors = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="A .toml file whose [space] is searched, not the configuration's.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="In total, with those of before.")] = 20,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Seconds, after which the epoch under way is the last.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the search; trainings have the configuration's.")] = 1,
    features: Annotated[
        Path | None, typer.Option("--features", help="Where encoded pictures lie. [default: OUT/features]")
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Try settings of a training, and keep the best: its configuration, its run, and a page about all trials.

    What is tried is the table [space] of the configuration, such as "train.learning_rate" = { low = 1e-4, high = 3e-3,
    log = true } or "model.hidden" = { choices = [256, 512] }; without one, the learning rate, the dropout, the label
    smoothing and the width of the decoder.

    Example: showtell tune rsicd --data rsicd --out runs/search --trials 30
    """
    from dataclasses import replace

    from showtell.cli.progress import reporting
    from showtell.datasets import read_captions
    from showtell.learn import require_training_stack

    require_training_stack()
    from showtell.learn.space import read_search
    from showtell.learn.study import require_search_stack
    from showtell.learn.tuning import tune as run_search

    require_search_stack()
    cluster = choose_cluster(engine, address, actors, gpus_per_actor)
    search = read_search(config, space)
    changes: dict[str, Any] = {"encoder_weights": encoder_weights, "word_vectors": word_vectors and str(word_vectors)}
    changes = {name: value for name, value in changes.items() if value is not None}
    search = replace(search, config=replace(search.config, model=replace(search.config.model, **changes)))
    sources = Sources(data, layout, pictures, columns, shares, split_seed)
    captions = [example for path in text or () for example in read_captions(path)]
    named = [f"{path.name} (pictures with captions)" for path in data]
    named += [f"{path.name} (captions without pictures)" for path in text or ()]
    with reporting() as report:
        examples = read_sources(sources, report)
        try:
            found = run_search(
                search,
                examples,
                out,
                text=captions,
                trials=trials,
                timeout=timeout,
                seed=seed,
                features=features,
                describe={"data": named},
                cluster=cluster,
                progress=report,
            )
        except KeyboardInterrupt:
            print(f"showtell: stopped; the same command goes on (search in {out})", file=sys.stderr)
            raise typer.Exit(130) from None
    _tell(found, sources, text or [], as_json)


def _tell(found: Found, sources: Sources, text: list[Path], as_json: bool) -> None:
    from showtell.report.trials import show

    counts = Counter(trial.state for trial in found.trials)
    best, commands = found.best, _commands(found, sources, text)
    if as_json:
        of_best = {"trial": best.number, "CIDEr": best.cider, "values": dict(best.values)} if best else None
        paths = {"config": found.config, "run": found.run, "report": found.report}
        told = {name: str(path) if path is not None else None for name, path in paths.items()}
        print(json.dumps({"best": of_best, **told, "trials": dict(counts)}))
    elif best is not None:
        values = ", ".join(f"{name} {show(value)}" for name, value in best.values.items())
        print(f"{found.config}: CIDEr {best.cider:.3f} on val, trial {best.number} of {len(found.trials)} ({values})")
        print(f"{found.report}: all trials")
        print("\n".join(f"{what}: {shlex.join(command)}" for what, command in commands))
    if best is None:
        told_counts = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none was begun"
        sentence = next((f"; {trial.error}" for trial in found.trials if trial.error), "")
        print(
            f"showtell: no trial has finished ({told_counts}){sentence}; the same command goes on, to more --trials",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _commands(found: Found, sources: Sources, text: list[Path]) -> list[tuple[str, list[str]]]:
    """What can be done with the best trial: (words, command)."""
    train = ["showtell", "train", str(found.config)]
    options: dict[str, Any] = {"--format": sources.layout, "--pictures": sources.pictures, "--columns": sources.columns}
    options |= {"--shares": sources.shares, "--split-seed": sources.seed if sources.seed != 1 else None}
    repeated = [("--data", path) for path in sources.paths] + [("--text", path) for path in text]
    for name, value in [*repeated, *options.items(), ("--features", found.features)]:
        train += [name, str(value)] if value is not None else []
    return [
        ("train it again", [*train, "--out", "RUN"]),
        ("or make a bundle of its run", ["showtell", "export", str(found.run), "--out", "BUNDLE"]),
    ]
