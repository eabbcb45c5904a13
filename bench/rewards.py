"""CIDEr-D as a reward: 5 samples of 1,000 pictures with 5 references, here and with pycocoevalcap, in one run.

    .venv/bin/python bench/rewards.py [--pictures 1000] [--captions captions_val2017.json]

The samples are references of the picture with words exchanged at random, as a decoder's samples are. pycocoevalcap gets
the same tokenised captions, each sample as a picture of its own, so that its document frequencies are five times ours
(given here as five times the documents, which makes the values the same). It prepares its references at every call, so
the ratio is also given with ours prepared each time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from pycocoevalcap.cider.cider import Cider as Reference

from showtell.metrics import read_references
from showtell.metrics.rewards import CiderReward
from showtell.text import END, PAD, Vocabulary, tokenise

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLES = 5
ROUNDS = 5


def make_samples(
    references: list[list[list[int]]], words: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(N, T) ids that END and PAD follow, and the picture of each row."""
    rows = []
    for group in references:
        for caption in group[:SAMPLES]:
            rows.append([int(rng.integers(4, words)) if rng.random() < 0.3 else word for word in caption])
    tokens = np.full((len(rows), max(map(len, rows)) + 1), PAD)
    for row, caption in enumerate(rows):
        tokens[row, : len(caption) + 1] = [*caption, END]
    return tokens, np.repeat(np.arange(len(references)), SAMPLES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--captions", type=Path, default=DATA / "coco/annotations/captions_val2017.json")
    arguments = parser.parse_args()
    groups = [captions[:5] for captions in read_references(arguments.captions).values() if len(captions) >= 5]
    texts = [[tokenise(caption) for caption in group] for group in groups[: arguments.pictures]]
    vocabulary = Vocabulary.build(caption for group in texts for caption in group)
    references = [[vocabulary.encode(caption)[1:-1] for caption in group] for group in texts]
    tokens, pictures = make_samples(references, len(vocabulary), np.random.default_rng(0))

    began = time.perf_counter()
    CiderReward(references)
    prepared = time.perf_counter() - began
    reward = CiderReward(references, references * SAMPLES)
    ours = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        values = reward.score(tokens, pictures)
        ours.append(time.perf_counter() - began)

    written = [[" ".join(words) for words in group] for group in texts]
    gts = {row: written[picture] for row, picture in enumerate(pictures.tolist())}
    said = {row: [" ".join(vocabulary.decode(ids))] for row, ids in enumerate(tokens.tolist())}
    began = time.perf_counter()
    _, theirs = Reference().compute_score(gts, said)
    there = time.perf_counter() - began

    print(f"{len(tokens):,} captions, largest difference {np.abs(values - theirs).max():.1e}")
    here = float(np.median(ours))
    print(f"prepared in {prepared:.2f} s; scored in {here * 1e3:.0f} ms, pycocoevalcap {there:.2f} s")
    both = there / (here + prepared)
    print(f"{there / here:.0f} times as fast; {both:.0f} times with the references prepared each time")


if __name__ == "__main__":
    main()
