"""Fills the gallery: `gallery/*.jpg` captioned by the default model while the site is built, beside verdicts by hand.

`gallery/gallery.toml` says of each picture what it shows, whose it is, and what is to be said of its caption. A verdict
is of one caption: where the model says another by now, that is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path
from typing import Any

from showtell import Caption, Captioner, Failure
from showtell.jobs.alttext import Wording, confidence

MARK = "<!-- gallery -->"
RATINGS = {"right": "Right", "partly": "Partly right", "wrong": "Wrong"}

_log = logging.getLogger("mkdocs.hooks.gallery")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with the pictures in the place of the mark."""
    if MARK not in markdown:
        return markdown
    folder = Path(page.file.abs_src_path).parent / "gallery"
    pictures = tomllib.loads((folder / "gallery.toml").read_text("utf-8"))["picture"]
    said = caption_all(folder)
    for sentence in find_stale(pictures, said):
        _log.warning(sentence)
    return markdown.partition(MARK)[0] + write_gallery(pictures, said)


def caption_all(folder: Path) -> dict[str, Caption | Failure]:
    """What the default model says of each picture of a folder, by file name."""
    paths = sorted(folder.glob("*.jpg"))
    return {path.name: said for path, said in zip(paths, Captioner.load("default").caption(paths), strict=True)}


def find_stale(pictures: list[dict[str, str]], said: dict[str, Caption | Failure]) -> list[str]:
    """A sentence for every picture that has no verdict on what is said of it now, and for every verdict too many."""
    sentences = []
    for picture in pictures:
        name = picture["file"]
        if name not in said:
            sentences.append(f"gallery.toml names {name}, which is not in docs/gallery; add the picture or take it out")
        elif picture["caption"] != _text(said[name]):
            sentences.append(
                f"the verdict on {name} in docs/gallery/gallery.toml is stale: it was written for "
                f"{picture['caption']!r}, and the model now says {_text(said[name])!r}; look at the picture and write "
                "the caption and the verdict anew"
            )
        if picture["rating"] not in RATINGS:
            sentences.append(f"gallery.toml rates {name} {picture['rating']!r}; accepted are {', '.join(RATINGS)}")
    for name in sorted(said.keys() - {picture["file"] for picture in pictures}):
        sentences.append(f"docs/gallery/{name} has no entry in gallery.toml; write its source, licence and verdict")
    return sentences


def write_gallery(pictures: list[dict[str, str]], said: dict[str, Caption | Failure]) -> str:
    """Markdown: the pictures with captions and verdicts, and a table of whose they are."""
    known = [picture for picture in pictures if picture["file"] in said]
    lines = []
    for rating, title in RATINGS.items():
        chosen = [picture for picture in known if picture["rating"] == rating]
        if chosen:
            lines += [f"## {title} ({len(chosen)})", "", '<div class="gallery" markdown="1">', ""]
            lines += [line for picture in chosen for line in _card(picture, said[picture["file"]])]
            lines += ["</div>", ""]
    lines += ["## Whose they are", "", "| picture | shows | by, and shipped with | licence |", "|---|---|---|---|"]
    lines += [f"| `{one['file']}` | {one['shows']} | {one['source']} | {one['licence']} |" for one in known]
    return "\n".join(lines)


def _card(picture: dict[str, str], said: Caption | Failure) -> list[str]:
    shown = picture["shows"]
    unsure = isinstance(said, Caption) and confidence(said) < Wording().min_confidence
    return [
        '<figure markdown="1">',
        f"![{shown[0].upper()}{shown[1:]}](gallery/{picture['file']}){{ loading=lazy }}",
        "<figcaption>",
        f"<strong>{_text(said)}</strong>",
        f"<span>{picture['verdict']}</span>",
        *(["<em>Unsure: <code>showtell alt</code> would write nothing.</em>"] if unsure else []),
        "</figcaption>",
        "</figure>",
        "",
    ]


def _text(said: Caption | Failure) -> str:
    return said.text if isinstance(said, Caption) else f"({said.error})"
