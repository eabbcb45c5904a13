"""The URLs of a page -> the pictures that they name: files below the site's root, or the content of `data:` URLs.

Nothing is fetched, and no link leads out of the root.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from showtell.images import DEFAULT_LIMITS
from showtell.jobs.html import TEMPLATE

Unread = Literal["remote", "outside", "drawing", "template", "missing"]


def resolve(sources: Sequence[str], page: Path, root: Path, base: str = "") -> Path | bytes | Unread:
    """The first picture of a page's URLs that is there: a file below the root or the content of a `data:` URL.

    Without one, why the last of them is none: `remote`, `outside` (of the root), `drawing` (SVG), `template` or
    `missing`.
    """
    found: Path | bytes | Unread = "missing"
    for source in sources:
        found = _resolve_one(source, page, root, base)
        if isinstance(found, Path | bytes):
            break
    return found


def _resolve_one(source: str, page: Path, root: Path, base: str) -> Path | bytes | Unread:
    url = re.sub(r"[\t\r\n]", "", source.strip(" \t\r\n\f\0"))
    if TEMPLATE.search(url) or "{" in url:
        return "template"
    if url[:5].lower() == "data:":
        return _read_data(url)
    try:
        parts = urlsplit(url.replace("\\", "/"))
        under = urlsplit(base.strip().replace("\\", "/"))
    except ValueError:
        return "remote"
    if parts.scheme or parts.netloc or under.scheme or under.netloc:
        return "remote"
    name = unquote(parts.path, errors="surrogateescape")
    if not name or "\0" in name:
        return "missing"
    folder = unquote(under.path, errors="surrogateescape").rpartition("/")[0] + "/" if under.path else ""
    if not name.startswith("/"):
        name = folder + name
    return _find_file(name, page, root)


def _find_file(name: str, page: Path, root: Path) -> Path | Unread:
    top = Path(os.path.realpath(root))
    start = top if name.startswith("/") else Path(os.path.realpath(page)).parent
    try:
        path = Path(os.path.realpath(start / name.lstrip("/")))
        if not path.is_relative_to(top):
            return "outside"
        if path.suffix.lower() in (".svg", ".svgz"):
            return "drawing"
        return path if path.is_file() else "missing"
    except (OSError, ValueError):
        return "missing"


def _read_data(url: str) -> bytes | Unread:
    head, comma, body = url[5:].partition(",")
    if "svg" in head.lower():
        return "drawing"
    if not comma or len(body) > 2 * DEFAULT_LIMITS.max_bytes:
        return "missing"
    data = unquote_to_bytes(body)
    if head.lower().rstrip().endswith(";base64"):
        try:
            data = base64.b64decode(re.sub(rb"\s", b"", data) + b"==")
        except (binascii.Error, ValueError):
            return "missing"
    return data or "missing"
