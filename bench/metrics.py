"""Seconds to score 5,000 candidates against 5 references each, here and with pycocoevalcap, in one run.

    .venv/bin/python bench/metrics.py [--pictures 5000] [--captions captions_val2017.json]

Both sides tokenise and compute BLEU-1..4, ROUGE-L and CIDEr-D; here the constant caption's score comes on top. The
candidate of a picture is one reference of the next picture with six. Needs Java for the other side.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from pathlib import Path

from showtell.metrics import read_references, score

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def read_pictures(path: Path, count: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Candidates and five references each of `count` pictures, repeated under new ids where the file has fewer."""
    groups = [captions for captions in read_references(path).values() if len(captions) >= 5]
    references = {f"{index}": groups[index % len(groups)][:5] for index in range(count)}
    candidates = {image: groups[(int(image) + 1) % len(groups)][-1] for image in references}
    return candidates, references


def score_with_coco(candidates: dict[str, str], references: dict[str, list[str]]) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    with contextlib.redirect_stdout(io.StringIO()):
        written = tokenizer.tokenize({i: [{"caption": c} for c in captions] for i, captions in references.items()})
        said = tokenizer.tokenize({i: [{"caption": caption}] for i, caption in candidates.items()})
        scores = {f"BLEU-{n}": value for n, value in enumerate(Bleu(4).compute_score(written, said, verbose=0)[0], 1)}
        scores["ROUGE-L"] = float(Rouge().compute_score(written, said)[0])
        scores["CIDEr"] = float(Cider().compute_score(written, said)[0])
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--captions", type=Path, default=DATA / "coco/annotations/captions_val2017.json")
    arguments = parser.parse_args()
    candidates, references = read_pictures(arguments.captions, arguments.pictures)

    start = time.perf_counter()
    ours = score(candidates, references).metrics
    here = time.perf_counter() - start
    start = time.perf_counter()
    theirs = score_with_coco(candidates, references)
    there = time.perf_counter() - start

    print(f"{'metric':<16}{'showtell':>12}{'pycocoevalcap':>16}{'difference':>14}")
    for name, value in ours.items():
        other = theirs.get(name)
        print(f"{name:<16}{value:>12.6f}" + (f"{other:>16.6f}{abs(value - other):>14.1e}" if other is not None else ""))
    print(
        f"{arguments.pictures} pictures: showtell {here:.2f} s, pycocoevalcap {there:.2f} s, {there / here:.2f} times"
    )


if __name__ == "__main__":
    main()
