"""The options that say what a command reads, and how the findings of its data are told."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from showtell.datasets.tables import Columns
    from showtell.records import Example, Finding

Data = Annotated[
    list[Path],
    typer.Option("--data", help="A folder or a file of pictures with captions, of any layout; may be repeated."),
]
Format = Annotated[
    str | None, typer.Option("--format", help="Its layout. [default: found from what is there]", metavar="LAYOUT")
]
Pictures = Annotated[
    Path | None, typer.Option("--pictures", help="The folder that a table's paths are below. [default: the table's]")
]
ColumnNames = Annotated[
    str | None,
    typer.Option("--columns", help="A table's columns: image=file,caption=text,split=set. [default: guessed]"),
]
Shares = Annotated[
    str | None,
    typer.Option("--shares", help="Make the splits anew: train/val/test. [default: the data's own, else 80/10/10]"),
]
SplitSeed = Annotated[int, typer.Option("--split-seed", min=0, help="Of the splits that are made.")]
Text = Annotated[
    list[Path] | None,
    typer.Option("--text", help="Captions without pictures (.jsonl, COCO .json, .txt); may be repeated."),
]
Foreign = Annotated[
    list[Path] | None,
    typer.Option("--foreign", help="Pictures captioned in another language; they teach the encoder alone. Repeatable."),
]
EncoderWeights = Annotated[
    str | None,
    typer.Option("--encoder-weights", help="A local weight file, a run's directory, 'pretrained' or 'random'."),
]
WordVectors = Annotated[
    Path | None,
    typer.Option("--word-vectors", help="Pretrained word vectors: GloVe, word2vec or fastText, also gzipped."),
]

Progress = Callable[[str, int, int], None]

_DEFAULT_SHARES = "80/10/10"
_SHOWN = 5  # findings of one kind that are printed


@dataclass(frozen=True)
class Sources:
    """What `--data` and its companions say."""

    paths: Sequence[Path]
    layout: str | None = None
    pictures: Path | None = None
    columns: str | None = None
    shares: str | None = None
    seed: int = 1


def read_sources(sources: Sources, progress: Progress) -> list[Example]:
    """The examples of all sources, each in a split; what is odd about them is told on stderr.

    Raises:
        ConfigError, DataError: An option or the data is not as it should be.
    """
    from showtell.datasets import find_layout, read_all
    from showtell.datasets.files import refuse
    from showtell.datasets.tables import guess_columns

    findings: list[Finding] = []

    def notice(finding: Finding) -> None:
        if finding.breaks:
            refuse(finding)
        findings.append(finding)

    columns = parse_columns(sources.columns, sources.pictures)
    for path in sources.paths:
        if (sources.layout or find_layout(path)) == "table":
            print(f"showtell: {path}: reads {guess_columns(path, columns)}", file=sys.stderr)
    examples = read_all(sources.paths, layout=sources.layout, columns=columns, notice=notice)
    tell(findings)
    return with_splits(examples, sources, progress)


def parse_columns(text: str | None, pictures: Path | None) -> Columns:
    """The columns that `image=file,caption=text,caption=alt,split=set` names.

    Raises:
        ConfigError: A part is not of that form.
    """
    from showtell.datasets.tables import Columns
    from showtell.errors import ConfigError

    named: dict[str, list[str]] = {"image": [], "caption": [], "split": []}
    for part in text.split(",") if text else ():
        role, sign, name = part.partition("=")
        if role.strip() not in named or not sign or not name.strip():
            raise ConfigError(
                f"--columns has {part!r}; accepted are image=NAME, caption=NAME (repeated) and split=NAME"
            )
        named[role.strip()].append(name.strip())
    for role in ("image", "split"):
        if len(named[role]) > 1:
            raise ConfigError(f"--columns names {role} twice; a table has one column of it")
    return Columns(
        image=next(iter(named["image"]), None),
        captions=tuple(named["caption"]),
        split=next(iter(named["split"]), None),
        pictures=pictures,
    )


def with_splits(examples: Sequence[Example], sources: Sources, progress: Progress) -> list[Example]:
    """The examples in the data's own splits, or in ones that are made: seeded, duplicates together."""
    from showtell.datasets.duplicates import fingerprint_pictures, group_duplicates
    from showtell.datasets.splits import make_splits, parse_shares
    from showtell.records import SPLITS

    if sources.shares is not None:
        examples = [replace(example, split=None) for example in examples]
    if all(example.split is not None for example in examples):
        return list(examples)
    shares = parse_shares(sources.shares or _DEFAULT_SHARES)
    groups = group_duplicates(fingerprint_pictures(examples, progress=progress))
    made = make_splits(examples, groups.tolist(), shares, sources.seed)
    counts = Counter(example.split for example in made)
    told = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS)
    print(f"showtell: splits were made: {told} (seed {sources.seed})", file=sys.stderr)
    return made


def tell(findings: Sequence[Finding]) -> None:
    """Prints what is odd about the data on stderr, the first few of each kind."""
    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.kind] += 1
        if counts[finding.kind] <= _SHOWN:
            print(f"showtell: {finding.message}", file=sys.stderr)
    for kind, count in counts.items():
        if count > _SHOWN:
            print(f"showtell: … and {count - _SHOWN:,} more of the kind {kind!r}", file=sys.stderr)
