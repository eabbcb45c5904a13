"""Docstrings of the house as the reference needs them, for griffe, which reads the sources without running them.

Google's sections are understood as they are. `Shape:`, `Units:`, `Source:` and the like hold their text on the same
line, and a block may follow any line that ends in a colon; both become plain Markdown here. The comments beside the
fields of a dataclass become its attributes' descriptions.
"""

from __future__ import annotations

import inspect
import io
import re
import tokenize
from typing import Any

import griffe

_OWN = re.compile(r"(Shape|Units|Source|State|Raises|Accepted): +(\S.*)")
_GOOGLE = re.compile(r"(Args|Returns|Raises|Attributes|Example|Examples|Yields):")
_SEVERAL = re.compile(r"    (\w+(?:, \w+)+): (.*)")
_OPENING = re.compile(r"\S.*:")


class HouseStyle(griffe.Extension):
    """Rewrites docstrings once a package has been read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for one in _members(pkg):
            if one.docstring is not None:
                one.docstring.value = rewrite(one.docstring.value)
            if isinstance(one, griffe.Class):
                _describe_fields(one)


def _members(parent: Any) -> list[Any]:
    """The parent and everything that is defined in it, at any depth."""
    found = [parent]
    for member in parent.members.values():
        if not member.is_alias:
            found += _members(member)
    return found


def rewrite(text: str) -> str:
    """A docstring whose own sections are paragraphs with a bold first word, and whose blocks are Markdown's."""
    lines = inspect.cleandoc(text).splitlines()
    written: list[str] = []
    at = 0
    while at < len(lines):
        block = at + 1
        while block < len(lines) and (lines[block].startswith("    ") or not lines[block].strip()):
            block += 1
        while not lines[block - 1].strip() and block > at + 1:
            block -= 1
        body = lines[at + 1 : block]
        own = _OWN.fullmatch(lines[at])
        if own is not None:
            written += ["", f"**{own[1]}.** {' '.join([own[2], *(line.strip() for line in body)])}", ""]
        elif body and _OPENING.fullmatch(lines[at]) and _GOOGLE.fullmatch(lines[at]) is None:
            written += [lines[at], "", *body, ""]
        elif lines[at] == "Example:":
            written += ["", "Examples:", *body]
        elif _GOOGLE.fullmatch(lines[at]) is not None:
            written += [lines[at], *_one_by_one(body)]
        else:
            written += [lines[at], *body]
        at = block
    return "\n".join(written)


def _one_by_one(entries: list[str]) -> list[str]:
    """The entries of a section, where one is of several names (`width, height: …`) an entry for each."""
    written: list[str] = []
    at = 0
    while at < len(entries):
        following = at + 1
        while following < len(entries) and entries[following].startswith("     "):
            following += 1
        several = _SEVERAL.fullmatch(entries[at])
        for name in several[1].split(", ") if several is not None else ():
            written += [f"    {name}: {several[2]}", *entries[at + 1 : following]]
        if several is None:
            written += entries[at:following]
        at = following
    return written


def _describe_fields(owner: griffe.Class) -> None:
    """Tells of attributes in the list of the class, with their types, and not once more in an entry for each.

    Fields of a dataclass that has no such list get one where there are comments beside them.
    """
    attributes = {
        one.name: one
        for one in owner.members.values()
        if one.is_attribute and not one.name.startswith("_") and "property" not in one.labels and one.docstring is None
    }
    is_record = any("dataclass" in str(decorator.value) for decorator in owner.decorators)
    lines = owner.docstring.value.splitlines() if owner.docstring is not None else []
    listed: set[str] = set()
    if "Attributes:" in lines:
        for at in range(lines.index("Attributes:") + 1, len(lines)):
            entry = re.fullmatch(r"    (\w+): (.*)", lines[at])
            one = attributes.get(entry[1]) if entry is not None else None
            if entry is not None and one is not None and one.annotation is not None:
                lines[at] = f"    {one.name} ({one.annotation}): {entry[2]}"
                listed.add(one.name)
    elif is_record:
        comments = _comments(owner)
        if any(one.lineno in comments for one in attributes.values()):
            lines += ["", "Attributes:"]
            for one in attributes.values():
                told = _sentence(comments.get(one.lineno, ""), one.value)
                lines.append(f"    {one.name} ({one.annotation}): {told}")
    if lines:
        owner.docstring = griffe.Docstring("\n".join(lines), parent=owner, parser="google")
    for name in attributes:
        if is_record or name in listed:
            del owner.members[name]


def _sentence(comment: str, default: Any) -> str:
    said = f"{comment[0].upper()}{comment[1:]}." if comment else ""
    return f"{said} Default: `{default}`.".strip() if default is not None else said or "Required."


def _comments(owner: griffe.Class) -> dict[int | None, str]:
    """The comments of a class's lines, by line number of the file."""
    found: dict[int | None, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc(owner.source) + "\n").readline):
        if token.type == tokenize.COMMENT and owner.lineno is not None:
            found[owner.lineno + token.start[0] - 1] = token.string.lstrip("# ")
    return found
