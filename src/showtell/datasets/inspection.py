"""Examples -> what there is to know of a data set before an hour of training is spent on it.

`inspect` computes, `report.inspection` draws. Everything is counted in one pass over the captions and, unless it is
left out, one decoding of each picture.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from showtell.datasets.duplicates import Fingerprints, fingerprint_pictures, group_duplicates
from showtell.datasets.splits import find_leaks
from showtell.records import SPLITS, Example, Finding
from showtell.text import tokenise

MIN_COUNTS = (1, 2, 3, 5, 8, 10, 20)
_POINTS = 60  # of the curve of vocabulary growth
_TOP = 40  # words and openings that are kept
_NAMED = 3  # pictures that a finding names
_OFTEN = 0.02  # of all captions: one that is said as often is suspicious

# What programs write in place of a caption; each is looked for in the whole caption.
_MACHINE = {
    "a file name": re.compile(r"(?i)^\S+\.(jpe?g|png|gif|webp|bmp|tiff?|heic)$"),
    "a camera's number": re.compile(r"(?i)^(img|dsc[nf]?|pict?|photo|image|screenshot)[ _-]*\d+$"),
    "an address": re.compile(r"(?i)\b(https?://|www\.)\S+"),
    "markup": re.compile(r"</?[a-zA-Z][^<>]*>|&(?:nbsp|amp|quot|lt|gt|#\d+);"),
    "a placeholder": re.compile(
        r"(?i)^(n/?a|none|null|nan|todo|tbd|untitled|(no )?caption|undefined|image|photo)\W*$"
    ),
    "no letters": re.compile(r"^[\W\d_]+$"),
    "one word again and again": re.compile(r"(?i)^(\w+)(\W+\1\b){3,}\W*$"),
}  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """What was found; each table is plain values, so that it goes into JSON as it is.

    `splits` has pictures and captions by split; `growth` is (captions read, distinct words); `coverage` is (minimum
    count, words kept, share of the words written that they cover); `sizes` is (width, height) of each readable picture.
    """

    pictures: int
    captions: int
    regions: int
    splits: dict[str, tuple[int, int]]
    captions_a_picture: dict[int, int]
    caption_lengths: dict[int, int]
    growth: list[tuple[int, int]]
    coverage: list[tuple[int, int, float]]
    words: list[tuple[str, int]]
    openings: list[tuple[str, int]]
    identical: float  # share of captions that another picture has too
    scripts: dict[str, int]
    sizes: list[tuple[int, int]]
    duplicates: int | None  # pictures beyond the first of each group; None where pictures were not looked at
    findings: list[Finding] = field(default_factory=list)

    @property
    def breaks(self) -> bool:
        """Whether training would stop or be spoiled."""
        return any(finding.breaks for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name != "findings"}
        return {**plain, "breaks": self.breaks, "findings": [finding.to_json() for finding in self.findings]}


def inspect(
    examples: Sequence[Example],
    source: str,
    *,
    findings: Iterable[Finding] = (),
    pictures: bool = True,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Inspection:
    """Looks at everything that a data set holds.

    Args:
        source: What messages call the data set.
        findings: Of the reader, which come first in the report.
        pictures: Decode each picture: sizes, unreadable files, duplicates.
    """
    found = list(findings)
    lengths: Counter[int] = Counter()
    words: Counter[str] = Counter()
    openings: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    growth: list[tuple[int, int]] = []
    said: Counter[str] = Counter()  # in how many pictures' captions
    total = sum(len(example.references) for example in examples)
    step = max(1, total // _POINTS)
    read = 0
    for example in examples:
        for caption in example.references:
            tokens = tokenise(caption)
            lengths[len(tokens)] += 1
            words.update(tokens)
            openings[" ".join(tokens[:3])] += 1
            scripts[_script(caption)] += 1
            read += 1
            if read % step == 0 or read == total:
                growth.append((read, len(words)))
        said.update(set(example.references))
    repeated = sum(sum(said[caption] > 1 for caption in example.references) for example in examples)
    found += _caption_findings(examples, said, total, lengths, source)
    found += _split_findings(examples, source)
    sizes: list[tuple[int, int]] = []
    duplicates = None
    if pictures:
        prints = fingerprint_pictures(examples, progress=progress)
        sizes = [(int(width), int(height)) for width, height in prints.sizes if width]
        groups = group_duplicates(prints)
        duplicates = len(examples) - len(set(groups.tolist()))
        found += _picture_findings(examples, prints, groups.tolist(), source)
    return Inspection(
        pictures=len(examples),
        captions=total,
        regions=sum(len(example.regions) for example in examples),
        splits=_count_splits(examples),
        captions_a_picture=dict(sorted(Counter(len(example.references) for example in examples).items())),
        caption_lengths=dict(sorted(lengths.items())),
        growth=growth,
        coverage=_coverage(words),
        words=words.most_common(_TOP),
        openings=openings.most_common(_TOP),
        identical=repeated / max(1, total),
        scripts=dict(scripts.most_common()),
        sizes=sizes,
        duplicates=duplicates,
        findings=found,
    )


def _count_splits(examples: Sequence[Example]) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for split in (*SPLITS, None):
        of_it = [example for example in examples if example.split == split]
        if of_it:
            counts[split or "not said"] = (len(of_it), sum(len(example.references) for example in of_it))
    return counts


def _coverage(words: Counter[str]) -> list[tuple[int, int, float]]:
    total = max(1, words.total())
    rows = []
    for least in MIN_COUNTS:
        kept = [count for count in words.values() if count >= least]
        rows.append((least, len(kept), sum(kept) / total))
    return rows


def _script(text: str) -> str:
    """The script that most letters of a text are of, by the first word of their Unicode names."""
    counts: Counter[str] = Counter()
    for char in text:
        if char.isascii():
            counts["latin"] += char.isalpha()
        elif unicodedata.category(char)[0] == "L":
            counts[unicodedata.name(char, "unknown").split()[0].lower()] += 1
    return counts.most_common(1)[0][0] if counts.total() else "no letters"


# findings


def _caption_findings(
    examples: Sequence[Example], said: Counter[str], total: int, lengths: Counter[int], source: str
) -> list[Finding]:
    found = []
    odd: dict[str, list[str]] = {}
    for example in examples:
        for caption in example.references:
            kind = next((kind for kind, pattern in _MACHINE.items() if pattern.search(caption)), None)
            if kind is not None:
                odd.setdefault(kind, []).append(f"{caption[:40]!r} of {example.id}")
    for kind, where in odd.items():
        told = f"{len(where):,} captions of {source} look machine-made, {kind} ({_few(where)})"
        message = f"{told}; write what the picture shows"
        found.append(Finding("machine-made", source, message, False))
    if lengths[0]:
        message = f"{lengths[0]:,} captions of {source} have no word in them; write what the picture shows"
        found.append(Finding("caption", source, message, False))
    often = [f"{caption[:40]!r} of {count:,} pictures" for caption, count in said.most_common(_NAMED) if count > 1]
    if often and said.most_common(1)[0][1] > max(2, _OFTEN * len(examples)):
        message = f"some captions of {source} are said of many pictures ({_few(often)}); a captioner will repeat them"
        found.append(Finding("repeated-caption", source, message, False))
    if total and len(said) == 1 and len(examples) > 1:
        message = f"all {total:,} captions of {source} are the same; nothing can be learned from the pictures"
        found.append(Finding("repeated-caption", source, message))
    return found


def _split_findings(examples: Sequence[Example], source: str) -> list[Finding]:
    splits = {example.split for example in examples if example.references}
    if not splits:
        message = f"no picture of {source} has a caption (there are regions alone); a captioner cannot be trained on it"
        return [Finding("caption", source, message)]
    if splits == {None}:
        return []  # one is made when it is needed
    return [
        Finding("split", source, f"{source} has no picture in the split {split!r}; training needs train and val")
        for split in ("train", "val")
        if split not in splits
    ]


def _picture_findings(
    examples: Sequence[Example], prints: Fingerprints, groups: Sequence[int], source: str
) -> list[Finding]:
    found = [
        Finding("unreadable-picture", str(examples[row].image), f"{error}; training leaves it out", False)
        for row, error in sorted(prints.failures.items())
    ]
    for split, (count, _) in _count_splits(examples).items():
        lost = sum((examples[row].split or "not said") == split for row in prints.failures)
        if lost == count:
            message = f"none of the {count:,} pictures of {source} in the split {split!r} can be read; get them again"
            found.append(Finding("unreadable-picture", source, message))
    members: dict[int, list[str]] = {}
    for example, group in zip(examples, groups, strict=True):
        members.setdefault(group, []).append(example.id)
    twins = [names for names in members.values() if len(names) > 1]
    if twins:
        shown = [" = ".join(names[:_NAMED]) for names in twins]
        message = (
            f"{sum(map(len, twins)):,} pictures of {source} are identical or nearly so, in {len(twins):,} groups "
            f"({_few(shown)}); splits that are made keep each group together"
        )
        found.append(Finding("duplicate", source, message, False))
    leaks = find_leaks(examples, groups)
    if leaks:
        shown = [" = ".join(f"{name} ({split})" for name, split in leak.members[:_NAMED]) for leak in leaks]
        message = (
            f"{len(leaks):,} groups of (nearly) identical pictures of {source} are in more than one split "
            f"({_few(shown)}); scores on val and test are too good: move each group into one split"
        )
        found.append(Finding("leak", source, message, False))
    return found


def _few(names: Sequence[str]) -> str:
    return "; ".join(names[:_NAMED]) + ("; …" if len(names) > _NAMED else "")
