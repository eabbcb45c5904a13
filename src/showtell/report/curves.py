"""metrics.csv of a run -> its curves, as a PNG or as drawings for a page.

A row is an epoch: `epoch`, which counts on through the phases of a run, `phase` (absent where there is one phase alone)
and numbers. A number may be missing: a row of another phase need not have it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from showtell.errors import BackendError, DataError
from showtell.report.page import draw_svg, plain

_LOSSES = {"train_loss": "train (smoothed labels)", "val_loss": "val"}
_SCORES = ("CIDEr", "BLEU-4", "ROUGE-L", "distinct", "mean recall", "image to text R@1", "text to image R@1")
_REWARDED = ("selfcritical",)  # phases whose train_loss is made of rewards: it is not in nats a word


@dataclass(frozen=True)
class Epoch:
    """A row of metrics.csv: its numbers that are there, by column."""

    number: float
    phase: str
    values: dict[str, float]


@dataclass(frozen=True)
class Drawing:
    """An SVG element, and what it says for those who cannot see it."""

    svg: str
    text: str


def read_metrics(path: str | Path) -> list[Epoch]:
    """The epochs of a metrics.csv.

    Raises:
        DataError: The file is missing, has no epoch, or a row's epoch is not a number.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot read {path} ({reason}); give the metrics.csv of a training run") from error
    epochs = []
    for line, row in enumerate(rows, 2):
        values = {name: number for name, text in row.items() if name and (number := _number(text)) is not None}
        if "epoch" not in values:
            raise DataError(f"{path}:{line} has epoch {row.get('epoch')!r}; each row is an epoch and has its number")
        epochs.append(Epoch(values["epoch"], row.get("phase") or "", values))
    if not epochs:
        raise DataError(f"{path} has no epoch yet; curves need a run that has finished one")
    return epochs


def draw_curves(metrics: str | Path, picture: str | Path) -> None:
    """Draws the losses and the validation scores of every epoch.

    Raises:
        BackendError: matplotlib is not installed.
        DataError: The metrics cannot be read.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("curves need matplotlib; run: pip install 'showtell[train]'") from error
    epochs = read_metrics(metrics)
    figure = Figure(figsize=(9, 4), layout="constrained")
    loss, scores = figure.subplots(1, 2)
    draw_losses(epochs, loss)
    draw_scores(epochs, scores)
    for axes in (loss, scores):
        axes.grid(alpha=0.25)
    figure.savefig(picture, dpi=120)


def curves_of(metrics: str | Path) -> list[Drawing]:
    """The same two plots, of the losses and of the scores, each by itself.

    Raises:
        BackendError: matplotlib is not installed.
        DataError: The metrics cannot be read.
    """
    epochs = read_metrics(metrics)
    ends = f"of {len(epochs)} epoch{'s' if len(epochs) > 1 else ''}"
    losses, best = [epoch.values["val_loss"] for epoch in epochs if "val_loss" in epoch.values], _best(epochs)
    of_losses = f": on val from {losses[0]:.3f} to {losses[-1]:.3f}" if losses else ""
    of_scores = f": the best CIDEr is {best.values['CIDEr']:.3f}, in epoch {best.number:g}" if best else ""
    return [
        Drawing(draw_svg(lambda axes: draw_losses(epochs, axes)), f"Losses {ends}{of_losses}."),
        Drawing(draw_svg(lambda axes: draw_scores(epochs, axes)), f"Validation scores {ends}{of_scores}."),
    ]


def draw_losses(epochs: Sequence[Epoch], axes: Any) -> None:
    """The losses in nats a word; those of epochs trained on rewards are of another kind and left out."""
    in_nats = [epoch for epoch in epochs if epoch.phase not in _REWARDED]
    for key, label in _LOSSES.items():
        _line(epochs, axes, key, label, shown=in_nats if key == "train_loss" else epochs)
    ranks = any(epoch.phase == "alignment" for epoch in epochs)
    axes.set(title="Loss", ylabel="ranking loss" if ranks else "nats a word")
    _finish(epochs, axes)


def draw_scores(epochs: Sequence[Epoch], axes: Any) -> None:
    """The validation scores, with a line at the best CIDEr."""
    for key in _SCORES:
        _line(epochs, axes, key, key, shown=epochs)
    best = _best(epochs)
    axes.set(title="Validation" + (f", best CIDEr {best.values['CIDEr']:.3f}" if best else ""), ylim=(0, None))
    if best:
        axes.axvline(best.number, color="grey", linewidth=0.8, linestyle="--")
    _finish(epochs, axes)


def _line(epochs: Sequence[Epoch], axes: Any, key: str, label: str, shown: Sequence[Epoch]) -> None:
    """A line with a gap where a number is missing; none, where all of them are."""
    values = {epoch.number: epoch.values[key] for epoch in shown if key in epoch.values}
    if values:
        numbers = [epoch.number for epoch in epochs]
        heights = [values.get(number, math.nan) for number in numbers]
        axes.plot(numbers, heights, marker="o", markersize=3, label=label)


def _finish(epochs: Sequence[Epoch], axes: Any) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    begins = _phases(epochs)
    for place, (begin, phase) in enumerate(begins):
        axes.axvline(begin, color="grey", linewidth=0.6)
        axes.annotate(
            plain(phase),
            (begin, 1),
            xycoords=("data", "axes fraction"),
            xytext=(1, 2 + 9 * (place % 2)),  # short phases' names must not run into each other
            textcoords="offset points",
            fontsize=8,
        )
    if begins:
        axes.set_title(axes.get_title(), pad=22)
    if axes.get_legend_handles_labels()[0]:
        from matplotlib.transforms import offset_copy

        # Below the plot: inside of it, there is no corner that curves never cross.
        below = offset_copy(axes.transAxes, axes.figure, y=-30, units="points")
        where: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below}
        axes.legend(frameon=False, fontsize=9, ncols=4, columnspacing=1.5, **where)


def _phases(epochs: Sequence[Epoch]) -> list[tuple[float, str]]:
    """Where each phase begins, half an epoch before its first row, and its name; nothing where there is only one."""
    changes = [(epoch.number, epoch.phase) for before, epoch in pairwise(epochs) if epoch.phase != before.phase]
    if not changes:
        return []
    return [(number - 0.5, phase) for number, phase in ((epochs[0].number, epochs[0].phase), *changes) if phase]


def _best(epochs: Sequence[Epoch]) -> Epoch | None:
    scored = [epoch for epoch in epochs if "CIDEr" in epoch.values]
    return max(scored, key=lambda epoch: epoch.values["CIDEr"], default=None)


def _number(text: object) -> float | None:
    """The finite number that a cell holds."""
    try:
        number = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
