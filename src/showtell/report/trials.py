"""The trials of a hyper-parameter search -> one HTML page that needs nothing beside it: best values, plots, a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from showtell.report.curves import Drawing
from showtell.report.page import COLOUR, draw_svg, plain, write_page

_BEST = "#c2571a"  # what the best trial is drawn in
_MANY = 8  # choices, from which on their names no longer fit side by side
_ROUGH = 20  # finished trials, below which importance says little


@dataclass(frozen=True)
class Axis:
    """A field that was searched: its name, what of it was searched, and how it is drawn.

    `labels` are the names of its choices; a field with none is a number.
    """

    name: str
    says: str
    log: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tried:
    """A trial: what it had of each field, its CIDEr on `val` after each epoch, and how it ended.

    `cider` is that of its best epoch; None where it finished none. `error` is the sentence of one that failed.
    """

    number: int
    state: Literal["finished", "pruned", "failed", "stopped"]
    values: Mapping[str, Any] = field(default_factory=dict)
    cider: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


def best_of(trials: Sequence[Tried]) -> Tried | None:
    """The finished trial with the highest CIDEr, of equal ones the first."""
    finished = [trial for trial in trials if trial.state == "finished"]
    return max(finished, key=lambda trial: trial.cider or 0.0, default=None)


def write_trials(
    trials: Sequence[Tried],
    axes: Sequence[Axis],
    path: str | Path,
    *,
    title: str,
    importances: Mapping[str, float],
    unimportant: str = "",
) -> None:
    """Writes the page of a search.

    Args:
        trials: In the order in which they were begun.
        importances: The share of each field, from the most important one on; empty where they cannot be told.
        unimportant: Why they cannot be told.

    Raises:
        BackendError: matplotlib or Jinja2 is not installed.
        DataError: The file cannot be written.
    """
    scored = [trial for trial in trials if trial.cider is not None]
    write_page(
        path,
        "trials.html",
        title=title,
        tiles=_tiles(trials),
        best=best_of(trials),
        axes=axes,
        trials=trials,
        plots=[_history(scored), _curves(scored)] if scored else [],
        importance=_importance(importances) if importances else None,
        unimportant=unimportant,
        finished=sum(trial.state == "finished" for trial in trials),
        rough=_ROUGH,
        slices=[_slice(axis, scored) for axis in axes] if scored else [],
        show=show,
    )


def show(value: Any) -> str:
    """A value as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tiles(trials: Sequence[Tried]) -> list[tuple[str, str]]:
    counts, best = Counter(trial.state for trial in trials), best_of(trials)
    tiles = [("best CIDEr on val", f"{best.cider:.3f}"), ("its trial", str(best.number))] if best else []
    tiles += [(state, f"{counts[state]:,}") for state in ("finished", "pruned", "failed", "stopped") if counts[state]]
    return [*tiles, ("minutes of training", f"{sum(trial.seconds for trial in trials) / 60:,.1f}")]


def _history(scored: Sequence[Tried]) -> Drawing:
    def draw(axes: Any) -> None:
        finished = [trial for trial in scored if trial.state == "finished"]
        reached = accumulate((trial.cider or 0.0 for trial in finished), max)
        axes.step([trial.number for trial in finished], list(reached), where="post", color=COLOUR, linewidth=1)
        _dots(axes, scored, [trial.number for trial in scored])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(title="Best of each trial, and the best so far", xlabel="trial", ylabel="CIDEr")

    best = best_of(scored)
    so_far = f"; the highest of a finished one is {best.cider:.3f}, of trial {best.number}" if best else ""
    return Drawing(draw_svg(draw), f"The best CIDEr of each of {len(scored)} trials{so_far}.")


def _curves(scored: Sequence[Tried]) -> Drawing:
    best = best_of(scored)

    def draw(axes: Any) -> None:
        for trial in scored:
            shown = trial.number == best.number if best else False
            style = "-" if trial.state == "finished" else ":"
            axes.plot(
                list(trial.curve),
                list(trial.curve.values()),
                style,
                color=_BEST if shown else COLOUR,
                alpha=1 if shown else 0.45,
                linewidth=2 if shown else 1,
                marker="o",
                markersize=2.5,
                zorder=3 if shown else 2,
            )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(title="CIDEr after each epoch", xlabel="epoch", ylabel="CIDEr")

    longest = max(len(trial.curve) for trial in scored)
    return Drawing(draw_svg(draw), f"The CIDEr of {len(scored)} trials after each of up to {longest} epochs.")


def _importance(importances: Mapping[str, float]) -> Drawing:
    def draw(axes: Any) -> None:
        places = range(len(importances))
        axes.barh(places, list(importances.values()), color=COLOUR, height=0.6)
        axes.set_yticks(places, [_short(name) for name in importances])
        axes.invert_yaxis()
        axes.set(title="Importance", xlabel="share", xlim=(0, 1))

    said = ", ".join(f"{name} {share:.0%}" for name, share in importances.items())
    return Drawing(draw_svg(draw), f"Importance of the fields: {said}.")


def _slice(axis: Axis, scored: Sequence[Tried]) -> Drawing:
    """Each trial's CIDEr against its value of one field."""
    tried = [trial for trial in scored if axis.name in trial.values]

    def draw(axes: Any) -> None:
        across = [trial.values[axis.name] for trial in tried]
        if axis.labels:
            places = range(len(axis.labels))
            across = [axis.labels.index(show(value)) for value in across]
            slanted: Any = {"rotation": 30, "ha": "right"} if len(axis.labels) > _MANY else {}
            axes.set_xticks(places, [plain(label) for label in axis.labels], **slanted)
            axes.set_xlim(-0.5, len(axis.labels) - 0.5)
        elif axis.log:
            axes.set_xscale("log")
        _dots(axes, tried, across)
        axes.set(title=_short(axis.name), ylabel="CIDEr")

    best = best_of(tried)
    at = f"; the best trial has {show(best.values[axis.name])}" if best else ""
    return Drawing(draw_svg(draw), f"CIDEr of {len(tried)} trials against {axis.name}{at}.")


def _dots(axes: Any, trials: Sequence[Tried], across: Sequence[Any]) -> None:
    """A dot a trial: full where it finished, hollow where it was cut short, the best in another colour."""
    best = best_of(trials)
    for trial, place in zip(trials, across, strict=True):
        colour = _BEST if best and trial.number == best.number else COLOUR
        face = colour if trial.state == "finished" else "none"
        axes.scatter([place], [trial.cider], s=28, facecolors=face, edgecolors=colour, alpha=0.85, zorder=3)


def _short(name: str) -> str:
    """A field's name without its table, which the axes have no room for."""
    return plain(name.partition(".")[2] or name)
