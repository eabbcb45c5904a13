"""All scores together equal pycocoevalcap's, Java's tokeniser included, on every set of captions at hand.

Candidates are a reference held out against the others, references of other pictures, and what a model says.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from showtell import Captioner
from showtell.datasets import read_data
from showtell.metrics import read_references, score
from showtell.metrics.java import unavailable
from showtell.records import Failure

PICTURES = 400  # of each set

Candidates = dict[str, str]
References = dict[str, list[str]]


def read_groups(folder: Path, name: str) -> References:
    if name == "coco annotations":
        found = read_references(folder / "coco/annotations/captions_val2017.json")
    elif name == "flickr8k text":
        found = read_references(folder / "flickr8k/Flickr8k_text/Flickr8k.token.txt")
    else:
        found = {example.id: list(example.references) for example in read_data(folder / name)}
    kept = {image: group for image, group in found.items() if len(group) > 1 or name == "coco2k"}
    step = max(1, len(kept) // PICTURES)
    return dict(list(kept.items())[::step][:PICTURES])


def hold_out(groups: References) -> tuple[Candidates, References]:
    if all(len(group) == 1 for group in groups.values()):
        return {image: group[0] for image, group in groups.items()}, groups
    return {image: group[-1] for image, group in groups.items()}, {image: group[:-1] for image, group in groups.items()}


def shuffle(groups: References) -> tuple[Candidates, References]:
    firsts = [group[0] for group in groups.values()]
    return dict(zip(groups, firsts[7:] + firsts[:7], strict=True)), groups


def expect_parity(said: Candidates, written: References) -> None:
    """Compares every metric that both have; pycocoevalcap numbers the pictures through."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokeniser = PTBTokenizer()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        gts = tokeniser.tokenize({i: [{"caption": text} for text in group] for i, group in enumerate(written.values())})
        res = tokeniser.tokenize({i: [{"caption": said[image]}] for i, image in enumerate(written)})
        theirs = {f"BLEU-{n}": value for n, value in enumerate(Bleu(4).compute_score(gts, res, verbose=0)[0], 1)}
        theirs["ROUGE-L"] = float(Rouge().compute_score(gts, res)[0])
        theirs["CIDEr"] = float(Cider().compute_score(gts, res)[0])
    ours = score(said, written).metrics
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-6)


@pytest.fixture(scope="module", autouse=True)
def _java() -> None:
    pytest.importorskip("pycocoevalcap", reason="the reference implementation comes with the extra 'metrics'")
    reason = unavailable("METEOR")
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("make", [hold_out, shuffle])
@pytest.mark.parametrize(
    "name", ["coco", "coco2k", "rsicd", "flickr8k", "vietnamese", "coco annotations", "flickr8k text"]
)
def test_scores_equal_the_reference(shared_data: Path, name: str, make: object) -> None:
    expect_parity(*make(read_groups(shared_data, name)))  # type: ignore[operator]


def test_scores_of_what_the_model_says_equal_the_reference(shared_data: Path) -> None:
    examples = [example for example in read_data(shared_data / "coco") if example.split == "val"][:100]
    said = Captioner.load("default").caption([str(example.image) for example in examples])
    captions = {
        example.id: caption.text
        for example, caption in zip(examples, said, strict=True)
        if not isinstance(caption, Failure)
    }
    assert len(set(captions.values())) > 50
    expect_parity(captions, {example.id: list(example.references) for example in examples})
