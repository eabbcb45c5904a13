"""Captions as people write them -> clean words -> ids, for any script.

`tokenise` is what captioners are trained on; scores use the PTB tokeniser of `showtell.metrics`, as the papers do.
`vocabulary.json` is `{"words": [...]}`: entry i is the word of id i, the four special entries first.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from showtell.errors import VocabularyError

PAD, START, END, UNK = 0, 1, 2, 3
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")

# Scripts written without spaces: every character is a word. The second group carries vowel signs that stay with
# the character before them. Inclusive ranges of code points.
_IDEOGRAPHIC = (
    (0x2E80, 0x2FDF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))  # Thai and Lao, Myanmar, Khmer
_DOT = "\u0307"
_DOTTED = re.compile(f"i{_DOT}+")
_INNER = {"'": "'", "’": "'", "ʼ": "'", "-": "-", "‐": "-", "‑": "-"}  # kept inside a word: don't, t-shirt


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= code <= high for low, high in ranges)


class _Cleaned(dict[int, str]):
    """A table for `str.translate` that decides about each character the first time it is seen."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if char in _INNER:
            out = _INNER[char]
        elif category[0] not in "LMN":
            out = "" if category == "Cf" else " "
        elif category[0] != "M" and _within(code, _IDEOGRAPHIC):
            out = f" {char} "
        elif category[0] != "M" and _within(code, _UNSPACED):
            out = f" {char}"
        else:
            out = char
        self[code] = out
        return out


_CLEANED = _Cleaned()


def fold(text: str) -> str:
    """The text in lower case and Unicode NFC: the spelling of tokens.

    The Turkish İ becomes i. By Unicode's rule its dot would stay as a mark, and a word that begins a sentence would be
    another one than inside it.
    """
    lower = unicodedata.normalize("NFC", text).lower()
    return unicodedata.normalize("NFC", _DOTTED.sub("i", lower)) if _DOT in lower else lower


def tokenise(caption: str) -> list[str]:
    """The lower-case words of a caption, without punctuation; `don't` and `t-shirt` stay whole.

    Text is brought to Unicode NFC first, so that an accent typed as a separate mark makes the same word. Scripts
    without spaces (Chinese, Japanese, Thai, Lao, Myanmar, Khmer) are split into characters.
    """
    clean = fold(caption).translate(_CLEANED)
    if not clean.isascii():
        clean = fold(clean)  # what stood between a letter and its mark may be gone
    words = (word.strip("'-") for word in clean.split())
    return [word for word in words if word]


def normalise(caption: str) -> str:
    """The caption as a captioner would say it: its tokens, put together again."""
    return join_words(tokenise(caption))


def join_words(words: Sequence[str]) -> str:
    """A sentence from words: spaces between them, except beside characters of scripts without spaces."""
    out: list[str] = []
    previous_unspaced = False
    for word in words:
        code = ord(word[0])
        unspaced = _within(code, _IDEOGRAPHIC) or _within(code, _UNSPACED)
        loose_mark = unicodedata.category(word[0])[0] == "M"  # would become part of the character before it
        if out and (loose_mark or not (unspaced and previous_unspaced)):
            out.append(" ")
        out.append(word)
        previous_unspaced = unspaced
    return "".join(out)


@dataclass(frozen=True)
class Vocabulary:
    """The two-way map between words and ids; ids 0 to 3 are PAD, START, END and UNK.

    Raises:
        VocabularyError: the special entries are not in front, or a word is empty or listed twice.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.words[:4] != SPECIAL_WORDS:
            raise VocabularyError(
                f"a vocabulary begins with {', '.join(SPECIAL_WORDS)}, this one with {self.words[:4]!r}; "
                "build it with Vocabulary.build"
            )
        if len(self._ids) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise VocabularyError(f"the word {twice!r} is listed twice in the vocabulary; each word has one id")
        if "" in self._ids:
            raise VocabularyError(f"entry {self._ids['']} of the vocabulary is an empty word; remove it")

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], *, min_count: int = 1, max_size: int | None = None) -> Vocabulary:
        """A vocabulary of the words that occur at least `min_count` times, by count, then by code point.

        Args:
            captions: Tokenised captions, of the `train` split only.
            max_size: The most words to keep, the special entries not counted.
        """
        counts = Counter(word for caption in captions for word in caption)
        for special in SPECIAL_WORDS:
            counts.pop(special, None)
        kept = sorted((word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word))
        return cls(SPECIAL_WORDS + tuple(kept[:max_size]))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def id_of(self, word: str) -> int:
        """The word's id, or UNK."""
        return self._ids.get(word, UNK)

    def encode(self, words: Sequence[str], *, max_length: int | None = None) -> list[int]:
        """`START w1 … wn END` as ids, of at most `max_length` words."""
        return [START, *(self._ids.get(word, UNK) for word in words[:max_length]), END]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of ids up to END, special ids left out."""
        out: list[str] = []
        for index in ids:
            if index == END:
                break
            if not 0 <= index < len(self.words):
                raise VocabularyError(
                    f"id {index} is outside the vocabulary of {len(self.words)} words; "
                    "the model and its vocabulary.json do not belong together"
                )
            if index > UNK:
                out.append(self.words[index])
        return out

    def to_json(self) -> str:
        return json.dumps({"words": self.words}, ensure_ascii=False, indent=0)

    @classmethod
    def from_json(cls, text: str, where: str = "vocabulary.json") -> Vocabulary:
        try:
            words = json.loads(text)["words"]
        except (ValueError, KeyError, TypeError) as error:
            raise VocabularyError(f'{where} is not {{"words": [...]}}: {error!r}') from error
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise VocabularyError(f'"words" in {where} must be a list of strings')
        return cls(tuple(words))
