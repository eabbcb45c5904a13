"""metrics.csv of a run -> its curves as a PNG."""

from __future__ import annotations

import csv
from pathlib import Path

from showtell.errors import BackendError


def draw_curves(metrics: str | Path, picture: str | Path) -> None:
    """Draws the losses and the validation scores of every epoch.

    Raises:
        BackendError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("curves need matplotlib; run: pip install 'showtell[train]'") from error
    with Path(metrics).open(newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, scores = figure.subplots(1, 2)
    for key, label in (("train_loss", "train (smoothed labels)"), ("val_loss", "val")):
        loss.plot(epochs, [row[key] for row in rows], marker="o", markersize=3, label=label)
    loss.set(title="Loss", xlabel="epoch", ylabel="nats a word")
    for key in ("CIDEr", "BLEU-4", "ROUGE-L", "distinct"):
        scores.plot(epochs, [row[key] for row in rows], marker="o", markersize=3, label=key)
    best = max(rows, key=lambda row: row["CIDEr"])
    scores.axvline(best["epoch"], color="grey", linewidth=0.8, linestyle="--")
    scores.set(title=f"Validation, best CIDEr {best['CIDEr']:.3f}", xlabel="epoch", ylim=(0, None))
    for axes in (loss, scores):
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    figure.savefig(picture, dpi=120)
