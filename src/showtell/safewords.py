"""Phrases that captions may not have, and a vocabulary -> the `Restrictions` of a search.

A caption is a guess, and about a person some guesses do harm: of race, religion, health, attractiveness. The package
has an English list of such phrases, `safewords.txt`, which holds wherever captions are made; users add their own.

A list is text in UTF-8, a phrase a line; empty lines are left out, and what follows a `#`. `{name}` in a phrase is any
word of a set; `{name} = words` makes a set or adds to it. Phrases are matched word by word, as captions are tokenised:
each form of a word is an entry of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from showtell.decoding import Restrictions
from showtell.errors import ConfigError
from showtell.text import Vocabulary, tokenise

NONE = "none"  # for a list: leave the package's own out
ALL = "all words"  # where nothing is denied

Phrase = tuple[frozenset[str], ...]  # at each place, the words that it may have

_LIST = Path(__file__).with_suffix(".txt")
_ENGLISH = "the"  # is in every English vocabulary
# What stands for words that say a person's sex: the first that the vocabulary has. Where it has none, and of the words
# in the last row, there is nothing to say instead, and they are not said.
_NEUTRAL = (
    ("person", "man woman guy lady gentleman dude businessman businesswoman bride groom wife husband"),
    ("people", "men women guys ladies gentlemen dudes males females businessmen brides grooms bridesmaids groomsmen"),
    ("child kid", "boy girl schoolboy schoolgirl son daughter brother sister"),
    ("children kids", "boys girls schoolboys schoolgirls sons daughters brothers sisters"),
    ("parent person", "mother father mom dad mum mommy daddy"),
    ("parents people", "mothers fathers moms dads mums"),
    ("grandparent person", "grandmother grandfather grandma grandpa"),
    ("they", "he she"),
    ("their", "his her hers"),
    ("them", "him"),
    ("themselves", "himself herself"),
    ("person's", "man's woman's guy's lady's"),
    ("people's", "men's women's"),
    ("child's", "boy's girl's"),
    ("officer", "policeman policewoman"),
    ("officers", "policemen policewomen"),
    ("firefighter", "fireman"),
    ("firefighters", "firemen"),
    ("batter", "batsman"),
    ("server waiter", "waitress"),
    ("photographer", "cameraman"),
    ("", "male female mans womans"),  # the first two stand before another noun
)


@dataclass(frozen=True, kw_only=True)
class SafeWords:
    """What captions may not say, in words, for any vocabulary.

    Attributes:
        deny: Phrases, in the form of a list's lines; sets of the package's list may be used.
        default: The package's own list holds too. It is English, and does nothing to a vocabulary without "the".
        neutral: Words that say a person's sex are not said: their probability is added to "person", "child", "their"
            and the like while the caption is searched, which then goes on from there. English alone.

    Raises: ConfigError for a phrase without words, or with a set that does not exist.
    """

    deny: tuple[str, ...] = ()
    default: bool = True
    neutral: bool = False

    def __post_init__(self) -> None:
        for line in self.deny:
            if not line.strip():
                raise ConfigError(f"{line!r} has no word that could be denied; give a word or a phrase")
        self._own()

    @classmethod
    def read(cls, given: Iterable[str], *, neutral: bool = False) -> SafeWords:
        """From the paths of lists, phrases, and `none`, which leaves the package's list out.

        Raises:
            ConfigError: A list cannot be read, or as `SafeWords`.
        """
        lines: list[str] = []
        default = True
        for one in given:
            if one == NONE:
                default = False
            elif one.endswith(".txt") or "/" in one or Path(one).is_file():
                lines += _read_list(Path(one))
            else:
                lines.append(one)
        return cls(deny=tuple(lines), default=default, neutral=neutral)

    def describe(self, restrictions: Restrictions) -> str:
        """What they are called, where these are the restrictions that they are to a vocabulary."""
        parts = ["safe words"] if self.default else []
        parts += [f"{len(self._own())} denied"] if self.deny else []
        parts += ["gender-neutral"] if self.neutral else []
        return ", ".join(parts) if restrictions.denied or restrictions.merged else ALL

    def restrict(self, vocabulary: Vocabulary, once: Iterable[str] = ()) -> Restrictions:
        """What a search with this vocabulary may not say.

        Args:
            once: Words of it that a caption says once at most.

        Raises:
            ConfigError: `neutral`, and the vocabulary is not English.
        """
        english = _ENGLISH in vocabulary
        phrases = [*(_packaged()[0] if self.default and english else ()), *self._own()]
        ids: dict[frozenset[str], frozenset[int]] = {}
        for words in {words for phrase in phrases for words in phrase}:
            ids[words] = frozenset(vocabulary.id_of(word) for word in words if word in vocabulary)
        denied: dict[tuple[int, ...], frozenset[int]] = {}
        for phrase in phrases:
            *before, last = (ids[words] for words in phrase)
            if last:
                for start in product(*before):
                    denied[start] = denied[start] | last if start in denied else last
        merged: dict[int, tuple[int, ...]] = {}
        if self.neutral:
            if not english:
                raise ConfigError("the gender-neutral words are English, and the model's are not; leave --neutral out")
            merged, unsaid = _merge(vocabulary)
            denied[()] = denied.get((), frozenset()) | unsaid
        return Restrictions(denied, merged, frozenset(map(vocabulary.id_of, once)))

    def _own(self) -> list[Phrase]:
        return _parse(self.deny, "", _packaged()[1])[0] if self.deny else []


def _merge(vocabulary: Vocabulary) -> tuple[dict[int, tuple[int, ...]], set[int]]:
    """(a token -> those that it stands for, those that nothing stands for)."""
    merged: dict[int, tuple[int, ...]] = {}
    unsaid: set[int] = set()
    for neutral, words in _NEUTRAL:
        found = tuple(vocabulary.id_of(word) for word in words.split() if word in vocabulary)
        target = next((word for word in neutral.split() if word in vocabulary), None)
        if target is None:
            unsaid.update(found)
        elif found:
            merged[vocabulary.id_of(target)] = merged.get(vocabulary.id_of(target), ()) + found
    return merged, unsaid


@cache
def _packaged() -> tuple[list[Phrase], Mapping[str, frozenset[str]]]:
    return _parse(_LIST.read_text("utf-8").splitlines(), _LIST.name, {})


def _read_list(path: Path) -> list[str]:
    """The lines of a list that say something."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(
            f"cannot read the list of denied words {path}: {error.strerror or error}; give a file with a phrase a "
            f"line, or a phrase itself, or {NONE}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the list of denied words {path} is not text in UTF-8: {error.reason}; save it so"
        ) from error
    phrases, _ = _parse(lines, str(path), _packaged()[1])
    if not phrases:
        raise ConfigError(f"the list of denied words {path} has no phrase; write one a line")
    return [line for line in lines if line.partition("#")[0].strip()]


def _parse(
    lines: Sequence[str], where: str, sets: Mapping[str, frozenset[str]]
) -> tuple[list[Phrase], Mapping[str, frozenset[str]]]:
    """(the phrases of a list, its sets with those that were given)."""
    sets = dict(sets)
    phrases: list[Phrase] = []
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        at = f"{where}:{number}: " if where else ""
        name, makes, words = entry.partition("=")
        if makes:
            found = frozenset(tokenise(words))
            if not found or not _is_set(name.strip()):
                raise ConfigError(f"{at}{entry!r} is not understood; a set of words is made by {{name}} = words")
            sets[name.strip()] = sets.get(name.strip(), frozenset()) | found
        elif entry:
            phrases.append(_parse_phrase(entry, at, sets))
    return phrases, sets


def _parse_phrase(entry: str, at: str, sets: Mapping[str, frozenset[str]]) -> Phrase:
    phrase: list[frozenset[str]] = []
    for part in entry.split():
        if not _is_set(part):
            phrase += (frozenset([word]) for word in tokenise(part))
        elif part in sets:
            phrase.append(sets[part])
        else:
            raise ConfigError(f"{at}in {entry!r}, there is no set {part}; there are {', '.join(sorted(sets))}")
    if not phrase:
        raise ConfigError(f"{at}{entry!r} has no word that could be denied; give a word or a phrase")
    return tuple(phrase)


def _is_set(part: str) -> bool:
    return part.startswith("{") and part.endswith("}")
