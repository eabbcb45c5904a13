"""The options that say which words captions may not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from showtell.safewords import SafeWords

Deny = Annotated[
    list[str] | None,
    typer.Option(
        "--deny",
        help="A phrase that captions may not have, or a list of them (.txt, one a line), beside the package's own; "
        "none: leave that out. May be repeated.",
        metavar="PHRASE|LIST|none",
    ),
]
Neutral = Annotated[bool, typer.Option("--neutral", help='Say "person", "child" for man, woman, boy, girl (English).')]


def read_words(deny: list[str] | None, neutral: bool) -> SafeWords:
    """What captions may not say.

    Raises:
        ConfigError: A list cannot be read, or a phrase has no word.
    """
    from showtell.safewords import SafeWords

    return SafeWords.read(deny or (), neutral=neutral)
