"""What a model says, and what its safe words keep it from: python bench/words.py PICTURES… [--count N] [--out FILE]

Captions `count` views of the pictures (files, and the pictures of folders): first each picture as it is, then, round
after round, a part of it (from half of each side up), mirrored half of the time, its light and colour changed. Each
view is captioned with all words and with the safe words, or with `--neutral` also gender-neutrally. The tables are of
the captions with safe words, to be read by a person: how many have each word, pair and triple, and what stands beside
the words for people; then each denied phrase that the search found with all words, in the best caption of a view or in
any other of its beam, how many captions had it, and some of them beside what is said instead.

    python bench/words.py --text CAPTIONS…

What the safe words deny in captions of people (files that `showtell train --text` reads): how many have each phrase.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from showtell.captioner import Captioner
from showtell.datasets import read_captions
from showtell.datasets.sidecars import PICTURE_SUFFIXES
from showtell.decoding import Restrictions, search
from showtell.images import fit_pixels, read_image
from showtell.safewords import SafeWords
from showtell.text import Vocabulary, join_words, tokenise

PEOPLE = {
    "man",
    "men",
    "woman",
    "women",
    "boy",
    "boys",
    "girl",
    "girls",
    "person",
    "people",
    "child",
    "children",
    "kid",
}
PEOPLE |= {"kids", "guy", "lady", "baby", "couple", "family", "player", "players", "male", "female"}
CHOSEN = 120  # rows of a table
SHOWN = 3  # captions of a denied phrase
BATCH = 32

Words = tuple[str, ...]


def find_pictures(given: Iterable[Path]) -> list[Path]:
    found = [
        path
        for place in given
        for path in (sorted(place.rglob("*")) if place.is_dir() else [place])
        if path.suffix.lower() in PICTURE_SUFFIXES
    ]
    if not found:
        raise SystemExit("there are no pictures in what was given")
    return found


def vary(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Another view of a picture."""
    width, height = picture.size
    part = draw.uniform(0.5, 1, 2)
    left, top = draw.uniform(0, 1 - part) * (width, height)
    picture = picture.crop((int(left), int(top), int(left + part[0] * width), int(top + part[1] * height)))
    if draw.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(draw.uniform(0.7, 1.4))
    return picture


def views(paths: list[Path], seed: int) -> Iterator[tuple[Path, Image.Image]]:
    """Endlessly many: the pictures, and after them other views of each."""
    draw = np.random.default_rng(seed)
    for turn in count():
        for path in paths:
            picture = read_image(path, draft=512)
            yield path, vary(picture, draw) if turn else picture


def caption(captioner: Captioner, features_BLD: NDArray[np.float32], restrictions: Restrictions) -> list[list[Words]]:
    """All captions of the beam of each picture, best first."""
    options = captioner.options(top=captioner.options().beam)
    found = search(captioner.runtime, features_BLD, options, restrictions)
    return [[tuple(captioner.vocabulary.decode(one.tokens)) for one in best] for best in found]


def phrases_in(words: Words, vocabulary: Vocabulary, restrictions: Restrictions) -> list[Words]:
    """The denied phrases of a caption."""
    ids = [vocabulary.id_of(word) for word in words]
    return [
        words[start : end + 1]
        for end in range(len(ids))
        for start in range(end + 1)
        if ids[end] in restrictions.denied.get(tuple(ids[start:end]), ())
    ]


def grams(captions: Iterable[Words], size: int) -> Counter[str]:
    """How many captions have each run of so many words."""
    runs = (set(zip(*(words[i:] for i in range(size)), strict=False)) for words in captions)
    return Counter(" ".join(run) for found in runs for run in found)


def beside_people(captions: Iterable[Words]) -> Counter[str]:
    """How many captions have each word for people with the word before it and the two behind."""
    counts: Counter[str] = Counter()
    for words in captions:
        padded = ("", *words, "", "")
        counts.update({" ".join(padded[at - 1 : at + 3]).strip() for at, word in enumerate(padded) if word in PEOPLE})
    return counts


def table(title: str, counts: Counter[str], captions: int) -> list[str]:
    rows = [f"{number:7,} {number / captions:8.2%}  {what}" for what, number in counts.most_common(CHOSEN)]
    return [f"## {title} ({len(counts):,} different)", "", *rows, ""]


def read_people(paths: Iterable[Path]) -> None:
    """Prints what is denied in captions of people."""
    examples = [example for path in paths for example in read_captions(path)]
    captions = [tuple(tokenise(text)) for example in examples for text in example.references]
    vocabulary = Vocabulary.build(captions)
    restrictions = SafeWords().restrict(vocabulary)
    found = [set(phrases_in(words, vocabulary, restrictions)) for words in captions]
    print(f"{len(captions):,} captions, {sum(map(bool, found)):,} with something denied")
    for phrase, number in Counter(" ".join(phrase) for phrases in found for phrase in phrases).most_common():
        print(f"{number:7,}  {phrase}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pictures", nargs="*", type=Path, help="files or folders")
    parser.add_argument("--text", nargs="+", type=Path, help="captions of people, in place of pictures")
    parser.add_argument("--model", default="default", help="an embedded bundle's name, a directory or a zip")
    parser.add_argument("--count", type=int, default=10_000, help="captions")
    parser.add_argument("--neutral", action="store_true", help="gender-neutral words")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="also write the tables there, and all captions into FILE.tsv")
    arguments = parser.parse_args()
    if arguments.text:
        read_people(arguments.text)
        return

    captioner = Captioner.load(arguments.model, threads=arguments.threads, words=SafeWords(neutral=arguments.neutral))
    paths = find_pictures(arguments.pictures)
    restrictions, vocabulary = captioner.restrictions, captioner.vocabulary
    free: list[list[Words]] = []  # all captions of the beam
    safe: list[Words] = []
    names: list[str] = []
    rest = islice(views(paths, arguments.seed), arguments.count)
    while group := list(islice(rest, BATCH)):
        pixels = [fit_pixels(picture, captioner.manifest.preprocessing) for _, picture in group]
        features_BLD = captioner.runtime.encode_each(pixels)
        free += caption(captioner, features_BLD, Restrictions(once=restrictions.once))
        safe += [best[0] for best in caption(captioner, features_BLD, restrictions)]
        names += [path.name for path, _ in group]
        print(f"\r{len(safe):,}", end="", file=sys.stderr, flush=True)
    best = [found[0] for found in free]
    denied: dict[str, list[tuple[int, Words]]] = {}
    for number, found in enumerate(free):
        for words in found:
            for phrase in phrases_in(words, vocabulary, restrictions):
                denied.setdefault(" ".join(phrase), []).append((number, words))
    kept = sum(bool(phrases_in(words, vocabulary, restrictions)) for words in best)
    other = sum(bool(phrases_in(words, vocabulary, restrictions)) for found in free for words in found[1:])
    others = sum(len(found) - 1 for found in free)
    left = sum(bool(phrases_in(words, vocabulary, restrictions)) for words in safe)
    lines = [
        f"# {captioner.manifest.name}: {len(safe):,} captions of {len(paths):,} pictures, seed {arguments.seed}, "
        f"{captioner.words.describe(restrictions)}",
        "",
        f"{len(set(safe)):,} different captions, of {len(set().union(*safe)):,} words. With all words {kept:,} best "
        f"captions ({kept / len(best):.2%}) had something denied, and {other:,} of the {others:,} "
        f"others of the beam; with safe words {left} have. "
        f"{sum(a != b for a, b in zip(best, safe, strict=True)):,} captions are not what they would be with all words.",
        "",
        *table("Words", grams(safe, 1), len(safe)),
        *table("Pairs", grams(safe, 2), len(safe)),
        *table("Triples", grams(safe, 3), len(safe)),
        *table("People, with what is beside them", beside_people(safe), len(safe)),
        f"## Denied ({len(denied):,} different)",
        "",
    ]
    for phrase, found in sorted(denied.items(), key=lambda one: (-len(one[1]), one[0])):
        lines.append(f"{len(found):7,}  {phrase}")
        lines += [f"{'':9}{join_words(words)}  ->  {join_words(safe[number])}" for number, words in found[:SHOWN]]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.out is not None:
        arguments.out.write_text(text, "utf-8")
        rows = (f"{name}\t{join_words(a)}\t{join_words(b)}\n" for name, a, b in zip(names, best, safe, strict=True))
        arguments.out.with_name(f"{arguments.out.name}.tsv").write_text("".join(rows), "utf-8")


if __name__ == "__main__":
    main()
