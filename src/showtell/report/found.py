"""What a search found -> one HTML page that needs nothing beside it: small pictures with their scores and paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from showtell.errors import ImageError
from showtell.report.page import read_thumbnail, write_page
from showtell.search import Match


@dataclass(frozen=True)
class Card:
    """A picture that was found.

    `jpeg` is base64; where the picture cannot be read any more it is empty and `error` says why. `share` is the length
    of its bar, of the best score's.
    """

    rank: int
    path: str
    score: float
    share: float
    jpeg: str
    error: str


def write_found(
    matches: Sequence[Match], path: str | Path, *, sentence: str | None = None, example: str | None = None
) -> None:
    """Writes the page of a search, the best match first.

    Args:
        sentence: What was asked for.
        example: Or the picture whose like was asked for.

    Raises:
        BackendError: Jinja2 is not installed.
        DataError: The file cannot be written.
    """
    best = max((match.score for match in matches), default=0.0)
    cards = [_card(rank, match, best) for rank, match in enumerate(matches, 1)]
    shown = _card(0, Match(example, 0.0), best) if example is not None else None
    write_page(path, "found.html", sentence=sentence, example=shown, cards=cards)


def _card(rank: int, match: Match, best: float) -> Card:
    jpeg = error = ""
    try:
        jpeg = read_thumbnail(match.path)
    except ImageError as unreadable:
        error = str(unreadable)
    share = max(0.0, match.score / best) if best > 0 else 0.0
    return Card(rank, match.path, match.score, share, jpeg, error)
