"""The pointing game: does the box that a word is given lie on the thing it names (Zhang et al. 2016, section 4.1)?

`pointing.jsonl` has the boxes of 108 things in 52 pictures of MS COCO's validation set, drawn by hand, as shares of the
picture's width and height: what its captions name, is no scenery, and covers one per cent or more; several of a kind
have a box each. A word is read in the first caption that has it; the middle of its box must lie in one of the thing's.
Beside it stand the middle of the picture, and the middle of a window drawn at random.

    python bench/pointing.py --model runs/photos/bundle --data DATA/coco
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from showtell.datasets import read_data
from showtell.images import read_sized
from showtell.proposals import windows
from showtell.regions import RegionCaptioner
from showtell.text import tokenise

_SMALL = 0.1  # of the picture


class Game(NamedTuple):
    """One thing: whether each way of pointing hits it, and the share of the picture it covers."""

    model: float
    middle: float
    random: float
    area: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="an alignment model, or a captioner")
    parser.add_argument("--data", type=Path, required=True, help="MS COCO's pictures and captions")
    parser.add_argument("--smoothing", type=float, default=0.3)
    parser.add_argument("--crops", action="store_true", help="encode each box by itself")
    arguments = parser.parse_args()
    model = RegionCaptioner.load(arguments.model, crops=arguments.crops)
    examples = {Path(example.id).name: example for example in read_data(arguments.data)}
    games = []
    for line in Path(__file__).with_suffix(".jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        example = examples[row["image"]]
        assert example.image is not None
        thumbnail, (width, height) = read_sized(str(example.image), draft=256)
        proposed_R4 = windows()(np.asarray(thumbnail)) * np.tile([width, height], 2) / np.tile(thumbnail.size, 2)
        for word, shares in row["objects"].items():
            caption = next(text for text in example.references if word in tokenise(text))
            place = tokenise(caption).index(word)
            found = model.ground(str(example.image), caption, smoothing=arguments.smoothing)
            box = next(one.box for one in found if one.start <= place < one.stop)
            boxes_S4 = np.array(shares) * np.tile([width, height], 2)
            games.append(
                Game(
                    _hits(np.array([box]), boxes_S4),
                    _hits(np.array([[0, 0, width, height]]), boxes_S4),
                    _hits(proposed_R4, boxes_S4),
                    float(np.prod(np.array(shares)[:, 2:] - np.array(shares)[:, :2], axis=1).sum()),
                )
            )
    for name, chosen in (("all", games), ("small", [game for game in games if game.area < _SMALL])):
        means = np.mean(chosen, axis=0)
        print(f"{name} ({len(chosen)}): model {means[0]:.3f}, middle {means[1]:.3f}, random window {means[2]:.3f}")


def _hits(boxes_R4: np.ndarray, things_S4: np.ndarray) -> float:
    """The share of boxes whose middle lies in one of the things."""
    middles_R2 = (boxes_R4[:, :2] + boxes_R4[:, 2:]) / 2
    inside_RS = ((middles_R2[:, None] >= things_S4[None, :, :2]) & (middles_R2[:, None] <= things_S4[None, :, 2:])).all(
        2
    )
    return float(inside_RS.any(1).mean())


if __name__ == "__main__":
    main()
