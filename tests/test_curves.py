"""The curves show what metrics.csv holds: today's, one with phases, one with numbers missing."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from showtell.errors import BackendError, DataError
from showtell.report.curves import curves_of, draw_curves, draw_losses, draw_scores, read_metrics

pytest.importorskip("matplotlib", reason="needs the extra 'train' or 'report'")

PHASES = ("words", "words", "words", "finetune", "finetune", "selfcritical", "selfcritical")


def write_metrics(path: Path, phases: Sequence[str] | None = PHASES, **columns: Sequence[object]) -> Path:
    epochs = range(1, 8)
    table: dict[str, Sequence[object]] = {
        "epoch": list(epochs),
        "train_loss": [6 / epoch for epoch in epochs],
        "val_loss": [5 / epoch for epoch in epochs],
        "CIDEr": [0.1, 0.4, 0.5, 0.6, 0.9, 0.8, 0.7],
        "BLEU-4": [epoch / 20 for epoch in epochs],
        "ROUGE-L": [epoch / 10 for epoch in epochs],
        "distinct": [0.5 for _ in epochs],
    }
    if phases is not None:
        table["phase"] = phases
    table |= columns
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path


def axes_of(metrics: Path, draw: Any) -> Any:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    draw(read_metrics(metrics), axes)
    return axes


def curve(axes: Any, label: str) -> dict[float, float]:
    """The points of a line that are drawn."""
    line = next(line for line in axes.lines if line.get_label() == label)
    return {x: y for x, y in line.get_xydata().tolist() if not math.isnan(y)}


def marks(axes: Any) -> dict[float, str]:
    """The names of phases, where they begin."""
    uprights = [
        line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    found = {text.xy[0]: text.get_text() for text in axes.texts}
    assert set(found) <= set(uprights)
    return found


def test_a_run_of_one_phase_has_all_its_curves_and_no_marks(tmp_path: Path) -> None:
    for phases in (None, ("words",) * 7):
        metrics = write_metrics(tmp_path / "metrics.csv", phases)
        losses, scores = axes_of(metrics, draw_losses), axes_of(metrics, draw_scores)
        assert curve(losses, "train (smoothed labels)") == pytest.approx({epoch: 6 / epoch for epoch in range(1, 8)})
        assert curve(losses, "val") == pytest.approx({epoch: 5 / epoch for epoch in range(1, 8)})
        assert curve(scores, "CIDEr") == dict(zip(range(1, 8), (0.1, 0.4, 0.5, 0.6, 0.9, 0.8, 0.7), strict=True))
        assert scores.get_title() == "Validation, best CIDEr 0.900"
        assert not marks(losses)
        assert not marks(scores)


def test_a_phase_is_named_where_it_begins(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.csv")
    for draw in (draw_losses, draw_scores):
        assert marks(axes_of(metrics, draw)) == {0.5: "words", 3.5: "finetune", 5.5: "selfcritical"}
    unnamed = write_metrics(tmp_path / "unnamed.csv", ("",) * 5 + ("$x^{",) * 2)  # older rows had no phase
    assert marks(axes_of(unnamed, draw_losses)) == {5.5: "＄x^{"}


def test_the_loss_of_rewards_is_not_drawn_beside_nats(tmp_path: Path) -> None:
    losses = axes_of(write_metrics(tmp_path / "metrics.csv"), draw_losses)
    assert list(curve(losses, "train (smoothed labels)")) == [1, 2, 3, 4, 5]
    assert list(curve(losses, "val")) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("missing", ["", "nan", "inf", "-", None])
def test_a_missing_number_leaves_a_gap(tmp_path: Path, missing: str | None) -> None:
    metrics = write_metrics(tmp_path / "metrics.csv", train_loss=[3, 2, missing, 1, 1, missing, missing])
    losses = axes_of(metrics, draw_losses)
    assert list(curve(losses, "train (smoothed labels)")) == [1, 2, 4, 5]
    line = next(line for line in losses.lines if line.get_label() == "train (smoothed labels)")
    assert np.isnan(line.get_ydata()).tolist() == [False, False, True, False, False, True, True]


def test_columns_that_are_not_there_are_not_drawn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,val_loss\n1,3.5\n2,2.5\n", "utf-8")
    assert [line.get_label() for line in axes_of(path, draw_losses).lines] == ["val"]
    scores = axes_of(path, draw_scores)
    assert not scores.lines
    assert scores.get_title() == "Validation"
    assert [drawing.text for drawing in curves_of(path)] == [
        "Losses of 2 epochs: on val from 3.500 to 2.500.",
        "Validation scores of 2 epochs.",
    ]
    path.write_text("epoch\n1\n", "utf-8")
    assert [drawing.text for drawing in curves_of(path)] == ["Losses of 1 epoch.", "Validation scores of 1 epoch."]


def test_a_torn_and_a_longer_row_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,phase,train_loss,CIDEr\n1,words,3,0.5,9,9\n2,words,2\n", "utf-8")
    first, second = read_metrics(path)
    assert (first.number, first.phase, first.values) == (1, "words", {"epoch": 1, "train_loss": 3, "CIDEr": 0.5})
    assert second.values == {"epoch": 2, "train_loss": 2}


def test_metrics_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with pytest.raises(DataError, match=r"cannot read .*metrics\.csv \(No such file"):
        read_metrics(path)
    path.write_text("epoch,CIDEr\n", "utf-8")
    with pytest.raises(DataError, match=r"metrics\.csv has no epoch yet"):
        read_metrics(path)
    path.write_text("epoch,CIDEr\n1,0.5\ntwo,0.6\n", "utf-8")
    with pytest.raises(DataError, match=r"metrics\.csv:3 has epoch 'two'"):
        read_metrics(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        read_metrics(path)


@pytest.mark.parametrize("phases", [None, PHASES])
def test_the_picture_is_a_png(tmp_path: Path, phases: Sequence[str] | None) -> None:
    from PIL import Image

    draw_curves(write_metrics(tmp_path / "metrics.csv", phases), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * picture.height
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 50


def test_drawings_for_a_page_take_its_colour_and_need_nothing(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.csv")
    losses, scores = curves_of(metrics)
    for drawing in (losses, scores):
        assert drawing.svg.startswith("<svg")
        assert "currentColor" in drawing.svg
        assert "#010203" not in drawing.svg
        assert "#000000" not in drawing.svg
        assert ">selfcritical</text>" in drawing.svg
    assert scores.text == "Validation scores of 7 epochs: the best CIDEr is 0.900, in epoch 5."
    assert curves_of(metrics) == [losses, scores]


def test_a_real_run_is_drawn(toy_run: Path) -> None:
    epochs = read_metrics(toy_run / "metrics.csv")
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))
    best = max(epoch.values["CIDEr"] for epoch in epochs)
    assert f"the best CIDEr is {best:.3f}" in curves_of(toy_run / "metrics.csv")[1].text


def test_matplotlib_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = write_metrics(tmp_path / "metrics.csv")
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=r"pip install 'showtell\[train\]'"):
        draw_curves(metrics, tmp_path / "curves.png")
    with pytest.raises(BackendError, match=r"pip install 'showtell\[report\]'"):
        curves_of(metrics)
