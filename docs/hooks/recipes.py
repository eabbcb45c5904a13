"""Fills the page about papers with what each recipe says of itself in the comment that it opens with."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from typing import Any

MARK = "<!-- recipes -->"
FIELDS = {
    "source": "Follows",
    "reproduces": "Reproduces",
    "changes": "Differs in",
    "published": "Published",
    "needs": "Needs",
    "start it from": "Start it from",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every recipe in the place of the mark."""
    if MARK not in markdown:
        return markdown
    recipes = sorted(path for path in files("showtell.recipes").iterdir() if path.name.endswith(".toml"))
    return markdown.partition(MARK)[0] + "\n".join(_write(path.name[:-5], path.read_text("utf-8")) for path in recipes)


def read_opening(text: str) -> dict[str, str]:
    """What a recipe's opening comment says, by the first word of a line; further lines go on with it."""
    said: dict[str, str] = {}
    field = ""
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        line = line.removeprefix("#").strip()
        begun = next((name for name in FIELDS if re.match(rf"{name}\b", line)), None)
        field = begun or field
        said[field] = f"{said[field]} {line}" if begun is None else line.removeprefix(begun).strip()
    return said


def _write(name: str, text: str) -> str:
    settings = tomllib.loads(text)
    lines = [f"### {name}", "", settings["describe"], "", "| | |", "|---|---|"]
    lines += [f"| {FIELDS[field]} | {sentence} |" for field, sentence in read_opening(text).items()]
    return "\n".join([*lines, "", f"```console\n$ showtell train {name} --data DATA --out runs/{name}\n```", ""])
