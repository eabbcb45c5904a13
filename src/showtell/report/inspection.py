"""An inspected data set -> one HTML page that needs nothing beside it: findings, plots, a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from showtell.datasets.inspection import Inspection
from showtell.errors import ImageError
from showtell.records import Example
from showtell.report.page import COLOUR, draw_svg, plain, read_thumbnail, write_page

_SHEET = 24  # pictures of the contact sheet


@dataclass(frozen=True)
class Card:
    """A picture of the contact sheet: a small JPEG (base64), its id and its first caption."""

    id: str
    caption: str
    jpeg: str


def write_inspection(found: Inspection, examples: Sequence[Example], source: str, path: str | Path) -> None:
    """Writes the page of an inspection.

    Raises:
        BackendError: matplotlib or Jinja2 is not installed.
        DataError: The file cannot be written.
    """
    write_page(
        path,
        "inspection.html",
        found=found,
        source=source,
        tiles=_tiles(found),
        plots=_plots(found),
        sheet=_sheet(examples),
    )


def _tiles(found: Inspection) -> list[tuple[str, str]]:
    distinct = found.growth[-1][1] if found.growth else 0
    tiles = [
        ("pictures", f"{found.pictures:,}"),
        ("captions", f"{found.captions:,}"),
        ("distinct words", f"{distinct:,}"),
        ("captions that another picture has too", f"{found.identical:.1%}"),
        ("scripts", ", ".join(found.scripts) or "none"),
    ]
    if found.regions:
        tiles.insert(2, ("regions", f"{found.regions:,}"))
    if found.duplicates is not None:
        tiles.append(("pictures that repeat another", f"{found.duplicates:,}"))
    return tiles


def _plots(found: Inspection) -> list[str]:
    drawings: list[tuple[str, str, str, Any]] = [
        ("Captions a picture", "captions", "pictures", lambda axes: _bars(axes, found.captions_a_picture)),
        ("Length of captions", "words", "captions", lambda axes: _bars(axes, found.caption_lengths)),
        ("Growth of the vocabulary", "captions read", "distinct words", lambda axes: _line(axes, found.growth)),
        (
            "Most frequent words",
            "times",
            "",
            lambda axes: _names(axes, [(word, count) for word, count in found.words[:20]]),
        ),
    ]
    if found.sizes:
        drawings.append(("Sizes of pictures", "width, pixels", "height, pixels", lambda axes: _dots(axes, found.sizes)))
    return [draw_svg(partial(_draw, *drawing)) for drawing in drawings]


def _draw(title: str, across: str, up: str, draw: Any, axes: Any) -> None:
    draw(axes)
    axes.set(title=title, xlabel=across, ylabel=up)


def _bars(axes: Any, counts: dict[int, int]) -> None:
    axes.bar(list(counts), list(counts.values()), color=COLOUR, width=0.9)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _line(axes: Any, points: Sequence[tuple[int, int]]) -> None:
    axes.plot(*zip((0, 0), *points, strict=True), color=COLOUR)


def _names(axes: Any, counts: Sequence[tuple[str, int]]) -> None:
    places = range(len(counts))
    axes.barh(places, [count for _, count in counts], color=COLOUR)
    axes.set_yticks(places, [plain(word) for word, _ in counts], fontsize=7)
    axes.invert_yaxis()


def _dots(axes: Any, sizes: Sequence[tuple[int, int]]) -> None:
    counts: dict[tuple[int, int], int] = {}
    for size in sizes:
        counts[size] = counts.get(size, 0) + 1
    largest = max(counts.values())
    areas = [8 + 150 * count / largest for count in counts.values()]
    axes.scatter(*zip(*counts, strict=True), s=areas, color=COLOUR, alpha=0.35, linewidths=0, rasterized=True)
    axes.set(xlim=(0, None), ylim=(0, None))


def _sheet(examples: Sequence[Example]) -> list[Card]:
    """Pictures at even distances, with their first captions; those that cannot be read are passed over."""
    cards = []
    step = max(1, len(examples) // _SHEET)
    for example in examples[::step][:_SHEET]:
        try:
            jpeg = read_thumbnail(str(example.image))
        except ImageError:
            continue
        first = next(iter(example.references), "") or next(
            (text for region in example.regions for text in (*region.phrases, region.category or "") if text), ""
        )
        cards.append(Card(example.id, first, jpeg))
    return cards
