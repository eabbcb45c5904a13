"""How honest a captioner's confidence is, and what it says of pictures of another kind.

    .venv/bin/python bench/confidence.py [--model default] [--data DATA/coco] [--plot docs/confidence.png]

The model is calibrated on the val pictures of `--data`, as `showtell export` and `showtell calibrate` do; its own
calibration, if it has one, is not looked at. Every figure of these pictures is by cross-validation. Pictures of other
kinds are aerial photographs (`--aerial`, val), and noise, drawings and screenshots that are drawn here, seeded.
"Wrong" is a CIDEr-D below 0.2.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from showtell.bundle import read_bundle
from showtell.captioner import Captioner
from showtell.datasets import read_data
from showtell.evaluation import evaluate
from showtell.learn.calibrating import (
    BINS,
    SPLITS,
    auroc,
    calibrate_bundle,
    chance_error,
    cross_validate,
    draw_noise,
    gather,
)
from showtell.metrics import cider, tokenise_ptb
from showtell.metrics.calibration import Calibration, calibrate_by_count
from showtell.records import Caption

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIDE = 320
WRONG = 0.2  # CIDEr-D
FLOORS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
WORDS = ["the", "file", "open", "save", "name", "total", "date", "search", "report", "page", "items", "settings"]

Floats = np.ndarray


def draw_drawing(rng: np.random.Generator) -> Image.Image:
    """Filled and outlined shapes on one colour."""
    picture = Image.new("RGB", (SIDE, SIDE), _colour(rng) if rng.random() < 0.5 else (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(3, 15))):
        left, top = rng.integers(-20, SIDE, 2).tolist()
        box = (left, top, left + int(rng.integers(10, SIDE // 2)), top + int(rng.integers(10, SIDE // 2)))
        points = [tuple(point) for point in rng.integers(0, SIDE, (5, 2)).tolist()]
        kind = rng.integers(4)
        if kind == 0:
            pen.ellipse(box, fill=_colour(rng), outline=(0, 0, 0), width=3)
        elif kind == 1:
            pen.rectangle(box, fill=_colour(rng), outline=(0, 0, 0), width=2)
        elif kind == 2:
            pen.line(points, fill=(0, 0, 0), width=int(rng.integers(1, 8)))
        else:
            pen.polygon(points[:4], fill=_colour(rng))
    return picture


def draw_screenshot(rng: np.random.Generator) -> Image.Image:
    """A bar, lines of text and buttons, dark on light or light on dark."""
    dark = rng.random() < 0.3
    picture = Image.new("RGB", (480, SIDE), (30, 32, 38) if dark else (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=int(rng.integers(10, 16)))
    pen.rectangle((0, 0, 480, 26), fill=_colour(rng))
    for top in range(40, SIDE - 10, int(rng.integers(14, 24))):
        line = " ".join(rng.choice(WORDS, int(rng.integers(3, 10))))
        pen.text((12, top), line, fill=(220, 220, 220) if dark else (20, 20, 20), font=font)
    for _ in range(int(rng.integers(0, 5))):
        left, top = int(rng.integers(120, 400)), int(rng.integers(40, SIDE - 30))
        pen.rounded_rectangle((left, top, left + 70, top + 22), 5, fill=_colour(rng))
    return picture


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def drawn(draw: Callable[[np.random.Generator], Image.Image], count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [_png(draw(rng)) for _ in range(count)]


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def confidences(captioner: Captioner, pictures: list[str] | list[bytes]) -> Floats:
    said = captioner.caption_stream(pictures)
    return np.array([one.confidence for one in said if isinstance(one, Caption)], float)


def print_floors(sure_N: Floats, worth_N: Floats, others: dict[str, Floats]) -> None:
    names = [f"{name} held back" for name in others]
    print("| floor | held back | wrong below | wrong above | CIDEr-D below | above |", " | ".join(names), "|")
    print("|---" * (6 + len(names)) + "|")
    for floor in FLOORS:
        low = sure_N < floor
        wrong = [f"{(worth_N[part] < WRONG).mean():.0%}" if part.any() else "–" for part in (low, ~low)]
        mean = [f"{worth_N[part].mean():.3f}" if part.any() else "–" for part in (low, ~low)]
        held = [f"{(of < floor).mean():.0%}" for of in (sure_N, *others.values())]
        print("|", " | ".join([f"{floor:.2f}", held[0], *wrong, *mean, *held[1:]]), "|")


def plot(path: Path, before: Calibration, after: Calibration, sure_N: Floats, others: dict[str, Floats]) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    honest, kinds = figure.subplots(1, 2)
    honest.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    for what, label, colour in ((before, "mean of the words", "tab:orange"), (after, "calibrated", "tab:blue")):
        chance = 1.96 * np.sqrt(what.accuracy * (1 - what.accuracy) / what.counts)
        honest.errorbar(what.confidence, what.accuracy, chance, marker="o", capsize=3, color=colour, label=label)
    honest.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of good captions", title="Reliability")
    honest.legend(frameon=False)
    rows = {"photographs": sure_N, **others}
    kinds.boxplot(list(rows.values()), orientation="horizontal", whis=(5, 95), showfliers=False)
    kinds.set_yticks(range(1, len(rows) + 1), list(rows))
    kinds.invert_yaxis()
    kinds.set(xlim=(0, 1), xlabel="confidence", title="Kinds of pictures")
    for axes in (honest, kinds):
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path, default=DATA / "coco")
    parser.add_argument("--aerial", type=Path, default=DATA / "rsicd")
    parser.add_argument("--pictures", type=int, default=200, help="of each other kind")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()

    bundle = read_bundle(arguments.model)
    examples = [one for one in read_data(arguments.data) if one.split == "val"]
    captions = evaluate(Captioner(bundle), examples, "val").captions
    calibrated = calibrate_bundle(bundle, examples, captions)
    captioner = Captioner(calibrated)
    evidence = gather(captioner, examples, captions)
    good_N = evidence.good_N
    splits_SN = [cross_validate(evidence, seed) for seed in range(SPLITS)]
    errors_S = [calibrate_by_count(one_N, good_N, BINS).error for one_N in splits_SN]
    sure_N = splits_SN[int(np.argsort(errors_S)[SPLITS // 2])]  # the cross-validation of the median error
    before, after = (calibrate_by_count(one_N, good_N, BINS) for one_N in (np.exp(evidence.sure_N), sure_N))

    print(f"{len(good_N)} pictures; good is a CIDEr-D above {evidence.good_from:.3f}: {good_N.mean():.0%} of them")
    print(f"calibration error before {before.error:.3f}")
    print(f"after: {np.mean(errors_S):.3f} (mean of {SPLITS} cross-validations, {min(errors_S):.3f} to", end=" ")
    print(f"{max(errors_S):.3f}); honest probabilities would have {chance_error(sure_N):.3f}")
    for name, one_N in (("before", evidence.sure_N), ("after", sure_N)):
        print(f"AUROC of good captions above others, {name}: {auroc(one_N[good_N == 1], one_N[good_N == 0]):.3f}")

    aerial = [str(one.image) for one in read_data(arguments.aerial) if one.split == "val"]
    step = max(1, len(aerial) // arguments.pictures)
    pictures: dict[str, list[str] | list[bytes]] = {
        "aerial": aerial[::step][: arguments.pictures],
        "drawings": drawn(draw_drawing, arguments.pictures),
        "screenshots": drawn(draw_screenshot, arguments.pictures),
        "noise": [_png(Image.fromarray(one)) for one in draw_noise(arguments.pictures, SIDE)],
    }
    others = {name: confidences(captioner, group) for name, group in pictures.items()}
    for name, group in others.items():
        print(
            f"AUROC of photographs above {name}: {auroc(sure_N, group):.3f} (median confidence {np.median(group):.2f})"
        )
    chosen = [one for one in examples if one.id in captions and captions[one.id].words]
    texts = [tokenise_ptb(captions[one.id].text) for one in chosen]
    worth_N = cider(texts, [[tokenise_ptb(text) for text in one.references] for one in chosen])[1]
    print_floors(sure_N, worth_N, others)
    if arguments.plot is not None:
        plot(arguments.plot, before, after, sure_N, others)


if __name__ == "__main__":
    main()
