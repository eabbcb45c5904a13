"""Fills the page of the command line from the commands themselves, so that it says what `--help` says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every command in the place of the mark."""
    if MARK not in markdown:
        return markdown
    return markdown.partition(MARK)[0] + "\n".join(_write(name, command) for name, command in walk())


def walk() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it: (`showtell data inspect`, its click command)."""
    import typer

    from showtell.cli.commands import app

    yield from _walk("showtell", typer.main.get_command(app))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, part in inner.items():
        yield from _walk(f"{name} {word}", part)


def split_help(text: str) -> tuple[list[str], list[str]]:
    """(the paragraphs of a command's help, the command lines after `Example:`)."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    examples = [part.removeprefix("Example:").strip() for part in paragraphs if part.startswith("Example:")]
    return [part for part in paragraphs if not part.startswith("Example:")], examples


def _write(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=name)
    rows = [(one, one.get_help_record(context)) for one in command.params]
    needed = [
        row[0].split(" <")[0] if one.param_type_name == "argument" else row[0] for one, row in rows if one.required
    ]
    described, examples = split_help(command.help or "")
    lines = [f"## {name}", "", *(line for part in described for line in (_escape(part), ""))]
    lines += ["```console", f"$ {' '.join([name, *needed])} [OPTIONS]"]
    lines += [
        *(f"$ {example}" for example in examples),
        "```",
        "",
        "| argument or option | what it does |",
        "|---|---|",
    ]
    lines += [f"| `{row[0]}` | {_escape(row[1])} |" for _, row in rows if row is not None]
    return "\n".join([*lines, ""])


def _escape(text: str) -> str:
    """Help is plain text; in a Markdown table `|`, `<`, `*` and `[` would mean something, except inside backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part.replace("|", "\\|") if at % 2 else re.sub(r"([\\|<*_\[\]])", r"\\\1", part)
        for at, part in enumerate(parts)
    )
