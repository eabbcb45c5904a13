"""How long commands tell what they are doing: on stderr, a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

_LINE_EVERY = 20.0  # seconds, where there is no terminal


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "")


class Reporter:
    """The `Progress` callable of the library, drawn."""

    def __init__(self, bar: Bar | None) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._last = 0.0  # when the last line was printed

    def __call__(self, what: str, done: int, total: int) -> None:
        finished = done >= total
        if self._bar is None:
            if finished or time.monotonic() - self._last > _LINE_EVERY:
                self._last = time.monotonic()
                print(what if total == 1 else f"{what}: {done}/{total}", file=sys.stderr, flush=True)
            return
        if total == 1:
            self._bar.console.print(what, highlight=False, markup=False)
            return
        if self._task is None:
            self._task = self._bar.add_task(what, total=total)
        self._bar.update(self._task, description=what, completed=done, total=total)
        if finished:
            self._bar.console.print(f"{what} ({total:,} done)", highlight=False, markup=False)
            self._bar.remove_task(self._task)
            self._task = None


@contextmanager
def reporting() -> Iterator[Reporter]:
    """A reporter for the length of a command."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Reporter(None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        yield Reporter(bar)
