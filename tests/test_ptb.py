"""The PTB tokeniser equals the Java one that the COCO evaluation runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.metrics import tokenise_ptb

DROPPED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
CASES = {
    "A man is riding a horse.": "a man is riding a horse",
    "Don't! It's the dogs' ball, they'll say": "do n't it 's the dogs ball they 'll say",
    "He can't; cannot, gonna": "he ca n't can not gon na",
    "a t-shirt - two-year-old -- multi- colored": "a t-shirt two-year-old multi colored",
    "black/white w/o a w/ b/": "black/white w/o a w / b /",
    "5'10\" $5.00 '54 50% 1,000 10:30am 1990's 3/4": "5 10 $ 5.00 '54 50 % 1,000 10:30 am 1990 's 3/4",
    "1 1/2 pies": "1\xa01/2 pies",
    "Mr. Smith of the U.S. at St. John's no. 5 vs. the no.": "mr. smith of the u.s. at st. john 's no. 5 vs. the no",
    "plan b. is plan B. The plan": "plan b. is plan b the plan",
    'a "stop" sign (red) [x] ...': "a stop sign -lrb- red -rrb- -lsb- x -rsb-",
    "rock 'n' roll o'clock O'Brien 'em 'quoted'": "rock 'n' roll o'clock o'brien 'em quoted",
    "the end.A b, it’s “it”": "the end.a b it 's it",
    "café naïve £5 ½ ☃ 😀 x": "café naïve # 5 1/2 ☃ x",
    "Một người đàn ông": "một người đàn ông",
    "www.example.com a@b.com #tag": "www.example.com a@b.com #tag",
    "": "",
    " \n . ": "",
}


@pytest.mark.parametrize("caption", CASES)
def test_tokens_of_chosen_captions(caption: str) -> None:
    assert tokenise_ptb(caption) == [word for word in CASES[caption].split(" ") if word]


def test_a_line_break_is_a_space() -> None:
    assert tokenise_ptb("a dog\nruns") == ["a", "dog", "runs"]


@given(st.text())
def test_any_text_gives_tokens_without_spaces_or_dropped_punctuation(caption: str) -> None:
    tokens = tokenise_ptb(caption)
    assert all(token and " " not in token and "\n" not in token and token not in DROPPED for token in tokens)


@given(st.lists(st.from_regex(r"[a-z]{3,8}", fullmatch=True).filter(lambda w: w not in {"cannot", "gonna", "gotta"}
    and w not in {"lemme", "gimme", "wanna"})))  # fmt: skip
def test_plain_words_are_their_own_tokens(words: list[str]) -> None:
    assert tokenise_ptb(" ".join(words).upper()) == words


@pytest.mark.skipif(shutil.which("java") is None, reason="the reference tokeniser needs Java")
def test_equals_java_on_chosen_captions(tmp_path: Path) -> None:
    captions = [caption.replace("\n", " ") for caption in CASES if caption.strip()]
    assert tokenise_with_java(captions, tmp_path) == [tokenise_ptb(caption) for caption in captions]


@pytest.mark.skipif(shutil.which("java") is None, reason="the reference tokeniser needs Java")
def test_equals_java_on_every_caption_of_the_shared_data(shared_data: Path, tmp_path: Path) -> None:
    captions = list(dict.fromkeys(read_all_captions(shared_data)))
    assert len(captions) > 80_000
    differing = [
        caption
        for caption, tokens in zip(captions, tokenise_with_java(captions, tmp_path), strict=True)
        if tokenise_ptb(caption) != tokens
    ]
    assert differing == []


def tokenise_with_java(captions: Sequence[str], folder: Path) -> list[list[str]]:
    """The tokens as pycocoevalcap gets them, with a neutral line after each caption: Java looks at the next line."""
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    jar = Path(tokenizer.__file__).with_name(tokenizer.STANFORD_CORENLP_3_4_1_JAR)
    file = folder / "captions.txt"
    file.write_text("".join(caption.replace("\n", " ") + "\nx\n" for caption in captions), "utf-8")
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    done = subprocess.run([*command, str(file)], capture_output=True, check=True, encoding="utf-8")
    lines = done.stdout.split("\n")[: 2 * len(captions)]
    assert set(lines[1::2]) <= {"x"}
    return [[word for word in line.rstrip().split(" ") if word and word not in DROPPED] for line in lines[::2]]


def read_all_captions(folder: Path) -> list[str]:
    text = (folder / "flickr8k/Flickr8k_text/Flickr8k.token.txt").read_text("utf-8")
    captions = [line.split("\t", 1)[1] for line in text.splitlines()]
    coco = json.loads((folder / "coco/annotations/captions_val2017.json").read_text("utf-8"))
    captions += [row["caption"] for row in coco["annotations"]]
    for file in sorted(folder.glob("*/captions.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            captions += json.loads(line)["captions"]
    return captions
