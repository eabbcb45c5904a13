"""`showtell data`: look at a data set before training on it, and convert it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from showtell.cli.sources import (
    ColumnNames,
    Format,
    Pictures,
    Shares,
    Sources,
    SplitSeed,
    parse_columns,
    read_sources,
    tell,
)

if TYPE_CHECKING:
    from showtell.datasets.inspection import Inspection
    from showtell.records import Finding

app = typer.Typer(name="data", help="Look at a data set, and convert it.", no_args_is_help=True, rich_markup_mode=None)

Source = Annotated[Path, typer.Argument(help="A folder or a file of pictures with captions.", metavar="DATA")]


@app.command()
def inspect(
    data: Source,
    layout: Format = None,
    pictures: Pictures = None,
    columns: ColumnNames = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write a page (HTML) there.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not open the pictures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Say what a data set holds and what is wrong with it; exit 1 when that would break training.

    Example: showtell data inspect flickr8k --out flickr8k.html
    """
    from showtell.cli.progress import reporting
    from showtell.datasets import find_layout, read_data
    from showtell.datasets.inspection import inspect as run_inspection
    from showtell.errors import DataError
    from showtell.records import Finding

    findings: list[Finding] = []
    layout = layout or find_layout(data)
    try:
        examples = read_data(data, layout=layout, columns=parse_columns(columns, pictures), notice=findings.append)
    except DataError as error:  # nothing is left to look at
        findings.append(Finding("data", str(data), str(error)))
        examples = []
    name = data.resolve().name
    with reporting() as report:
        found = run_inspection(examples, name, findings=findings, pictures=not quick, progress=report)
    if out is not None:
        from showtell.report.inspection import write_inspection

        write_inspection(found, examples, name, out)
    if as_json:
        print(json.dumps({"layout": layout, **found.to_json()}, ensure_ascii=False))
    else:
        _print(found, layout)
    if found.breaks:
        raise typer.Exit(1)


@app.command()
def convert(
    data: Source,
    out: Annotated[Path, typer.Argument(help="A new folder, or the one of a conversion that was stopped.")],
    layout: Format = None,
    pictures: Pictures = None,
    columns: ColumnNames = None,
    size: Annotated[
        int | None, typer.Option("--size", min=16, help="Most pixels of the longer side; larger ones become JPEGs.")
    ] = None,
    shares: Shares = None,
    seed: SplitSeed = 1,
) -> None:
    """Write a data set in the native layout (captions.jsonl and images/), with splits; run it again to go on.

    Example: showtell data convert coco2014 coco-small --size 320
    """
    from showtell.cli.progress import reporting
    from showtell.datasets.convert import convert as run_conversion

    findings: list[Finding] = []
    with reporting() as report:
        examples = read_sources(Sources((data,), layout, pictures, columns, shares, seed), report)
        written = run_conversion(examples, out, size=size, notice=findings.append, progress=report)
    tell(findings)
    print(f"{out}: {written:,} pictures")
    if written < len(examples):
        raise typer.Exit(1)


def _print(found: Inspection, layout: str) -> None:
    facts = [
        ("layout", layout),
        ("pictures", f"{found.pictures:,}"),
        ("captions", f"{found.captions:,}"),
        ("captions a picture", _range(found.captions_a_picture)),
        ("words a caption", _range(found.caption_lengths)),
        ("said of other pictures", f"{found.identical:.1%} of the captions"),
        ("scripts", ", ".join(f"{script} {count:,}" for script, count in found.scripts.items())),
        ("frequent words", " ".join(word for word, _ in found.words[:12])),
        ("frequent openings", "; ".join(opening for opening, _ in found.openings[:4])),
    ]
    facts += [("regions", f"{found.regions:,}")] if found.regions else []
    facts += [(f"split {split}", f"{part[0]:,} pictures, {part[1]:,} captions") for split, part in found.splits.items()]
    for least, kept, share in found.coverage:
        facts.append((f"words seen {least} times", f"{kept:,}, {share:.1%} of the text"))
    if found.sizes:
        widths, heights = (sorted(side) for side in zip(*found.sizes, strict=True))
        middle = len(widths) // 2
        facts.append(("pixels, median", f"{widths[middle]} × {heights[middle]}"))
    if found.duplicates is not None:
        facts.append(("repeated pictures", f"{found.duplicates:,}"))
    for name, value in facts:
        print(f"{name:<24} {value}")
    tell(found.findings)


def _range(counts: dict[int, int]) -> str:
    if not counts:
        return "none"
    mean = sum(value * count for value, count in counts.items()) / sum(counts.values())
    return f"{min(counts)} to {max(counts)}, {mean:.1f} on average"
