"""Every conditioning, cell and kind of words on the same frozen features and budget, as the table of docs/results.md.

    .venv/bin/python bench/conditionings.py --data DATA/rsicd --encoder-weights W --out runs/table \
        --word-vectors DATA/glove/glove.6B.50d.subset.txt [--only init attention]

Each kind is a run of the recipe `rsicd` with other settings of its decoder, five epochs, no fine-tuning; `+ rewards`
adds three epochs of self-critical training. The features are extracted once (1.2 GB). Runs that were stopped go on, and
those that are finished are not run again. Scores are of `val` by beam search with 3 hypotheses, from the features; the
intervals are bootstrapped over pictures, and the last column is the difference of CIDEr to `init` with its interval.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from showtell.datasets import read_native
from showtell.learn.config import FinetuneConfig, RunConfig, SelfCriticalConfig, read_config
from showtell.learn.run import fit
from showtell.learn.training import Row
from showtell.metrics import ScoreOptions, compare_systems
from showtell.records import Example

EPOCHS = 5
MODELS: dict[str, dict[str, Any]] = {
    "init": {},
    "first": {"conditioning": "first"},
    "every": {"conditioning": "every"},
    "merge": {"conditioning": "merge"},
    "attention": {"conditioning": "attention"},
    "init, GRU": {"cell": "gru"},
    "init, GloVe 50, tuned": {"word_vectors": "GIVEN"},
    "init, GloVe 50, fixed": {"word_vectors": "GIVEN", "tune_words": False},
    "init, tied words": {"tie_words": True},
    "topdown": {"conditioning": "topdown"},
    "adaptive": {"conditioning": "adaptive"},
    "Transformer, 2 layers": {"conditioning": "attention", "cell": "transformer", "layers": 2},
    "concepts": {"conditioning": "concepts"},
    "init + rewards": {},
    "attention + rewards": {"conditioning": "attention"},
}


def settings_of(kind: str, arguments: argparse.Namespace) -> RunConfig:
    recipe = read_config("rsicd")
    changes = {"conditioning": "init", **MODELS[kind], "encoder_weights": arguments.encoder_weights}
    if "word_vectors" in changes:
        changes["word_vectors"] = str(arguments.word_vectors)
    rewards = SelfCriticalConfig(epochs=3) if kind.endswith("+ rewards") else SelfCriticalConfig()
    train = replace(recipe.train, epochs=EPOCHS, patience=EPOCHS, average=0.0, attention_penalty=0.0, own_words=0.0)
    return replace(
        recipe,
        model=replace(recipe.model, **changes),
        train=train,
        finetune=FinetuneConfig(),
        selfcritical=rewards,
        concepts=replace(recipe.concepts, epochs=0),
    )


def train(kind: str, examples: list[Example], arguments: argparse.Namespace) -> dict[str, str]:
    """What the best epoch of a kind says of `val`."""
    run = arguments.out / kind.replace(", ", "-").replace(" ", "_")
    kept = run / "best.json"

    def keep_best(row: Row, captions: dict[str, str]) -> None:
        if not kept.exists() or float(row["CIDEr"]) > json.loads(kept.read_text("utf-8"))["CIDEr"]:
            kept.write_text(json.dumps({"CIDEr": row["CIDEr"], "captions": captions}), "utf-8")

    if not (run / "finished").exists():
        fit(
            settings_of(kind, arguments),
            examples,
            run,
            resume=(run / "checkpoint.pt").exists(),
            features=arguments.out / "features",
            watch=keep_best,
            progress=lambda what, done, total: print(f"{kind}: {what}", file=sys.stderr) if total == 1 else None,
        )
        (run / "finished").touch()
    captions: dict[str, str] = json.loads(kept.read_text("utf-8"))["captions"]
    return captions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder-weights", required=True)
    parser.add_argument("--word-vectors", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    examples = read_native(arguments.data)
    references = {example.id: example.references for example in examples if example.split == "val"}
    options = ScoreOptions(resamples=1000)
    base: dict[str, str] = {}
    print("| model | CIDEr-D | BLEU-4 | where references differ | distinct | seconds an epoch | beside `init` |")
    for kind in arguments.only:
        captions = train(kind, examples, arguments)
        base = base or captions
        scores, compared = compare_systems(captions, base, references, options=options)
        low, high = scores.intervals["CIDEr"]
        beside = compared["CIDEr"]
        run = arguments.out / kind.replace(", ", "-").replace(" ", "_")
        with (run / "metrics.csv").open(newline="") as file:
            seconds = min(float(row["train_seconds"]) for row in csv.DictReader(file) if row["phase"] == "words")
        print(
            f"| {kind} | {scores.metrics['CIDEr']:.3f} ({low:.2f} to {high:.2f}) | {scores.metrics['BLEU-4']:.3f} "
            f"| {scores.metrics['CIDEr-differing']:.3f} | {scores.metrics['distinct']:.2f} | {seconds:.0f} "
            f"| {beside.difference:+.3f} ({beside.low:+.2f} to {beside.high:+.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
