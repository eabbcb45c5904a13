"""What all pages of reports are made with: small pictures, inline drawings, a template -> a file that stands alone."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from showtell.errors import BackendError, DataError
from showtell.images import read_image

COLOUR = "#3a6ea5"  # of bars and lines that stand alone

_THUMBNAIL = 240  # pixels of the longer side
_SIZE = (5, 3.2)  # inches of a drawing
_INK = "#010203"  # what is drawn in it takes the colour of the page's text, so that dark pages can be read
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")


def read_thumbnail(image: str) -> str:
    """A small JPEG of the picture, upright, as base64.

    Raises:
        ImageError: The picture cannot be read.
    """
    picture = read_image(image, draft=2 * _THUMBNAIL)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=80)
    return base64.b64encode(written.getvalue()).decode()


def draw_svg(draw: Callable[[Any], None]) -> str:
    """What `draw` puts on the axes it is given, as an SVG element; the same drawing gives the same text.

    Raises:
        BackendError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("the page's plots need matplotlib; run: pip install 'showtell[report]'") from error
    style: Any = {"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "showtell"}
    style |= dict.fromkeys(_INKED, _INK)
    with rc_context(style):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = written.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def plain(text: str) -> str:
    """The text without the sign that begins a formula for matplotlib, and cut where it is endless."""
    return text.replace("$", "＄")[:24]


def write_page(path: str | Path, template: str, *, script: str | None = None, **values: Any) -> None:
    """Writes a page, as a whole or not at all; what it is given is escaped, save where the template says otherwise.

    Args:
        script: A template's file that is to run in the page; the template gets its text and, for its policy, its hash.

    Raises:
        BackendError: Jinja2 is not installed.
        DataError: The file cannot be written.
    """
    try:
        from jinja2 import Environment, FunctionLoader
    except ImportError as error:
        raise BackendError("the page needs Jinja2 and matplotlib; run: pip install 'showtell[report]'") from error
    templates = files("showtell.report") / "templates"
    loader = FunctionLoader(lambda name: (templates / name).read_text("utf-8"))
    if script is not None:
        text = (templates / script).read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        values |= {"script": text, "script_hash": f"sha256-{digest}"}
    pieces = Environment(autoescape=True, loader=loader).get_template(template).generate(values)
    partial = Path(f"{path}.tmp")
    try:
        with partial.open("w", encoding="utf-8", errors="replace") as file:  # names may hold halves of characters
            file.writelines(pieces)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
