"""Candidates and references, as text -> scores, equal to the COCO evaluation code without its Java.

`score` is the door, `compare_systems` that of two systems; `read_candidates` and `read_references` bring in files. The
parts (`tokenise_ptb`, `bleu`, `rouge_l`, `cider`, …) work on tokens and also give each picture's score.
"""

from showtell.metrics.bleu import bleu
from showtell.metrics.calibration import calibrate, calibrate_words
from showtell.metrics.cider import Cider, DocumentFrequencies, cider
from showtell.metrics.diversity import diversity
from showtell.metrics.files import match_ids, read_candidates, read_references
from showtell.metrics.hallucination import chair
from showtell.metrics.ptb import tokenise_ptb
from showtell.metrics.regions import region_map
from showtell.metrics.retrieval import retrieval
from showtell.metrics.rewards import CiderReward
from showtell.metrics.rouge import rouge_l
from showtell.metrics.scoring import ScoreOptions, compare_systems, score
from showtell.metrics.significance import Comparison

__all__ = [
    "Cider",
    "CiderReward",
    "Comparison",
    "DocumentFrequencies",
    "ScoreOptions",
    "bleu",
    "calibrate",
    "calibrate_words",
    "chair",
    "cider",
    "compare_systems",
    "diversity",
    "match_ids",
    "read_candidates",
    "read_references",
    "region_map",
    "retrieval",
    "rouge_l",
    "score",
    "tokenise_ptb",
]
