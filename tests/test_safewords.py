"""Lists of denied phrases, gender-neutral words, and that captions keep to them wherever they are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Run
from showtell import Caption, Captioner
from showtell.bundle import read_bundle
from showtell.decoding import Restrictions
from showtell.errors import ConfigError
from showtell.regions import RegionCaptioner
from showtell.safewords import SafeWords
from showtell.text import SPECIAL_WORDS, Vocabulary
from showtell.web.service import Service

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.jpg"))
CAT, ASTRONAUT = (next(path for path in EXAMPLES if path.stem == name) for name in ("cat", "astronaut"))
WORDS = (
    "the a man woman person people boy girl child he his their black white young dog cat asian food french fries kiss"
)
WORDS += " in wheelchair beautiful view hot muslim flag blind blinds men african elephant american pregnant male of"
VOCABULARY = Vocabulary((*SPECIAL_WORDS, *WORDS.split()))


def denies(restrictions: Restrictions, caption: str, vocabulary: Vocabulary = VOCABULARY) -> bool:
    """Whether some run of a caption's words is denied."""
    ids = [vocabulary.id_of(word) for word in caption.split()]
    spans = [(start, end) for end in range(len(ids)) for start in range(end + 1)]
    return any(ids[end] in restrictions.denied.get(tuple(ids[start:end]), ()) for start, end in spans)


def texts(results: list[object]) -> list[str]:
    return [one.text for one in results if isinstance(one, Caption)]


# lists


@pytest.mark.parametrize(
    ("denied", "allowed"),
    [
        ("a black man", "a black dog"),
        ("a young white woman in the view", "a white cat in the view"),
        ("the black young girl", "the young girl"),
        ("an asian", "a person"),
        ("african american", "african elephant"),
        ("a french boy", "french fries"),
        ("a muslim", "the flag"),
        ("the blind person", "the blinds"),
        ("a person in a wheelchair", "the wheelchair"),
        ("a beautiful woman", "a beautiful view"),
        ("two hot men", "a hot dog"),
        ("a pregnant dog", "a dog"),
    ],
)
def test_the_packages_list_is_of_people(denied: str, allowed: str) -> None:
    restrictions = SafeWords().restrict(VOCABULARY)
    assert denies(restrictions, denied)
    assert not denies(restrictions, allowed)


def test_the_packages_list_is_english() -> None:
    other = Vocabulary((*SPECIAL_WORDS, "asian", "muslim"))
    assert SafeWords().restrict(other) == Restrictions()
    assert SafeWords().describe(SafeWords().restrict(other)) == "all words"
    assert denies(SafeWords(deny=("asian",)).restrict(other), "asian", other)


def test_users_phrases_and_sets_are_added(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\n\n{pet} = dog  # and\n{pet} = CAT\nBlack {pet}\nfood\n", "utf-8")
    words = SafeWords.read([str(tmp_path / "mine.txt"), "kiss {person}"])
    restrictions = words.restrict(VOCABULARY)
    for caption in ("a black dog", "a black cat", "food", "kiss the girl kiss girl", "a black man"):
        assert denies(restrictions, caption), caption
    for caption in ("a black food view".replace("food ", ""), "a white dog", "a kiss"):
        assert not denies(restrictions, caption), caption
    assert words.describe(restrictions) == "safe words, 3 denied"
    alone = SafeWords.read(["none", "food"])
    assert set(alone.restrict(VOCABULARY).denied) == {()}
    assert alone.describe(alone.restrict(VOCABULARY)) == "1 denied"
    assert SafeWords.read(["none"]).restrict(VOCABULARY) == Restrictions()


def test_words_that_the_model_does_not_know_deny_nothing() -> None:
    assert SafeWords(default=False, deny=("zebra", "zebra man", "black zebra")).restrict(VOCABULARY) == Restrictions()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("...\n", r"mine\.txt:1: '\.\.\.' has no word that could be denied; give a word or a phrase"),
        ("food\n{pets} dog\n", r"mine\.txt:2: in '\{pets\} dog', there is no set \{pets\}; there are \{a\}, "),
        ("pet = dog\n", r"mine\.txt:1: 'pet = dog' is not understood; a set of words is made by \{name\} = words"),
        ("{pet} = ;\n", r"a set of words is made by \{name\} = words"),
        ("# nothing\n\n", r"mine\.txt has no phrase; write one a line"),
    ],
)
def test_lists_that_are_not_understood(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "mine.txt").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=sentence):
        SafeWords.read([str(tmp_path / "mine.txt")])


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the list of denied words .*gone\.txt: No such file"):
        SafeWords.read([str(tmp_path / "gone.txt")])
    (tmp_path / "latin.txt").write_bytes("déjà".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.txt is not text in UTF-8: .*; save it so"):
        SafeWords.read([str(tmp_path / "latin.txt")])
    with pytest.raises(ConfigError, match=r"^' ' has no word that could be denied"):
        SafeWords(deny=(" ",))
    with pytest.raises(ConfigError, match=r"^'!!' has no word that could be denied"):
        SafeWords.read(["!!"])
    with pytest.raises(ConfigError, match=r"^'\?' has no word that could be denied"):
        SafeWords(deny=("food", "?"))


# gender-neutral words


def test_neutral_words_stand_for_the_others() -> None:
    ids = {word: VOCABULARY.id_of(word) for word in VOCABULARY.words}
    restrictions = SafeWords(neutral=True).restrict(VOCABULARY)
    assert {
        VOCABULARY.words[token]: {VOCABULARY.words[one] for one in others}
        for token, others in (restrictions.merged.items())
    } == {"person": {"man", "woman"}, "people": {"men"}, "child": {"boy", "girl"}, "their": {"his"}}
    assert {ids["male"], ids["he"]} <= restrictions.denied[()]  # "they" is not in this vocabulary
    assert ids["person"] not in restrictions.denied[()]


def test_neutral_words_of_another_language() -> None:
    with pytest.raises(ConfigError, match=r"the gender-neutral words are English, .* leave --neutral out"):
        SafeWords(neutral=True).restrict(Vocabulary((*SPECIAL_WORDS, "người", "chó")))


# captions


@pytest.fixture(scope="module")
def plain() -> list[str]:
    return texts(Captioner.load(words=SafeWords(default=False)).caption(EXAMPLES))  # type: ignore[arg-type]


def test_a_caption_without_a_denied_word_finds_others(plain: list[str]) -> None:
    said = plain[EXAMPLES.index(CAT)].split()
    for phrase in (said[1], " ".join(said[:3])):
        captioner = Captioner.load(words=SafeWords(deny=(phrase,)))
        (other,) = texts(captioner.caption([CAT]))  # type: ignore[arg-type]
        assert f" {phrase} " not in f" {other} "
        assert len(other.split()) > 3


def test_neutral_captions_name_no_sex(plain: list[str]) -> None:
    vocabulary = read_bundle("default").vocabulary
    captioner = Captioner.load(words=SafeWords(neutral=True))
    said = {word for text in texts(captioner.caption(EXAMPLES)) for word in text.split()}  # type: ignore[arg-type]
    unsaid = {vocabulary.words[token] for others in captioner.restrictions.merged.values() for token in others}
    assert {"man", "woman", "his", "her"} <= unsaid
    assert unsaid & {word for text in plain for word in text.split()}, "the pictures say nothing of sex"
    assert not said & unsaid
    assert said & {"person", "people"}


def test_regions_and_the_service_keep_to_the_words() -> None:
    bundle = read_bundle("default")
    first = RegionCaptioner(bundle).describe(CAT, boxes=[[0, 0, 451, 300]])[0].text
    words = SafeWords(deny=(first.split()[1],))
    assert words.deny[0] not in RegionCaptioner(bundle, words=words).describe(CAT, boxes=[[0, 0, 451, 300]])[0].text
    service = Service.load(words=words, threads=1)
    try:
        assert service.captioner.words == words
    finally:
        service.close(1)


# the command line


def test_commands_take_words(run: Run, tmp_path: Path, plain: list[str]) -> None:
    cat = plain[EXAMPLES.index(CAT)]
    word = cat.split()[1]
    assert run("caption", CAT, "--deny", "none").out == f"{CAT}: {cat}\n"
    (tmp_path / "mine.txt").write_text(f"{word}\n")
    by_list = run("caption", CAT, "--deny", tmp_path / "mine.txt")
    assert (by_list.code, by_list.err) == (0, "")
    assert word not in by_list.out.rpartition(": ")[2].split()
    assert run("caption", CAT, "--deny", word).out == by_list.out
    table = tmp_path / "captions.jsonl"
    assert run("batch", CAT, "--out", table, "--deny", word).code == 0
    assert by_list.out.rpartition(": ")[2].strip() in table.read_text()
    refused = run("batch", CAT, "--out", table)
    assert refused.code == 2
    assert "made with safe words, 1 denied" in refused.err
    neutral = run("caption", ASTRONAUT, "--neutral")
    assert "person" in neutral.out
    region = run("regions", CAT, "--boxes", "0,0,451,300", "--deny", word, "--neutral")
    assert (region.code, word in region.out.split()) == (0, False)
    alt = run("alt", CAT, "--into", "sidecars", "--dry-run", "--deny", word)
    assert word not in alt.out.rpartition(": ")[2].lower().split()


def test_evaluate_says_which_words_it_scored(run: Run, toy_data: Path) -> None:
    said = run("evaluate", "default", "--data", toy_data, "--resamples", "0")
    assert said.lines[0] == "6 pictures, ptb tokens, split val, beam 3, safe words"
    bare = run("evaluate", "default", "--data", toy_data, "--resamples", "0", "--deny", "none", "--json")
    assert bare.rows[0]["words"] == "all words"


@pytest.mark.parametrize("command", [("caption", CAT), ("batch", CAT, "--out", "x.csv"), ("serve",), ("regions", CAT)])
def test_bad_words_are_refused(run: Run, command: tuple[str, ...]) -> None:
    lost = run(*command, "--deny", "no/list.txt")
    assert (lost.code, lost.out) == (2, "")
    assert "cannot read the list of denied words no/list.txt" in lost.err


def test_words_that_are_said_once_are_so_wherever_captions_are_made() -> None:
    bundle = read_bundle("default")
    once = {bundle.vocabulary.id_of(word) for word in bundle.manifest.once}
    assert once
    assert Captioner(bundle).restrictions.once == once
    assert RegionCaptioner(bundle)._restrictions.once == once
