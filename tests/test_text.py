"""Words and ids: tokens of several scripts, and a vocabulary that is the same on every machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from showtell.errors import VocabularyError
from showtell.text import END, PAD, SPECIAL_WORDS, START, UNK, Vocabulary, join_words, normalise, tokenise


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog runs, quickly!", "a dog runs quickly"),
        ("Two men (one in red) — at 3.5 m; 50% off", "two men one in red at 3 5 m 50 off"),
        ("a man's T-shirt isn't red", "a man's t-shirt isn't red"),
        ("a man’s T‑shirt isnʼt red", "a man's t-shirt isn't red"),
        ("'quoted' -dash- -- ' rock 'n' roll", "quoted dash rock n roll"),
        ("mother-in-law's", "mother-in-law's"),
        ("STRAẞE Ärger ΣΊΣΥΦΟΣ", "straße ärger σίσυφος"),
        ("soft\u00adhy\u200bphen\ufeff", "softhyphen"),
        ("tab\tline\nno-break\u00a0space", "tab line no-break space"),
        ("a 🐕 on 🛹", "a on"),
        ("Một người đàn ông đang cưỡi ngựa.", "một người đàn ông đang cưỡi ngựa"),
        (unicodedata.normalize("NFD", "Một người đàn ông"), "một người đàn ông"),
        ("कुत्ता घास पर", "कुत्ता घास पर"),
        ("كَلْبٌ على العشب؟", "كَلْبٌ على العشب"),
        ("한국어 개", "한국어 개"),
        ("", ""),
        (" .,!? ", ""),
    ],
)
def test_words_of_scripts_with_spaces(caption: str, words: str) -> None:
    assert tokenise(caption) == words.split()
    assert normalise(caption) == words


@pytest.mark.parametrize(
    ("caption", "words", "normal"),
    [
        ("两只狗在草地上跑。", "两 只 狗 在 草 地 上 跑", "两只狗在草地上跑"),
        ("日本語のABC 3D", "日 本 語 の abc 3d", "日本語の abc 3d"),
        ("カメラ、二台", "カ メ ラ 二 台", "カメラ二台"),
        ("𠮷野家", "𠮷 野 家", "𠮷野家"),
        ("ผู้ชายขี่ม้า", "ผู้ ช า ย ขี่ ม้ า", "ผู้ชายขี่ม้า"),
        ("ခွေး", "ခွေး", "ခွေး"),
        ("ឆ្កែ", "ឆ្ កែ", "ឆ្កែ"),
    ],
)
def test_scripts_without_spaces_are_split_into_characters(caption: str, words: str, normal: str) -> None:
    assert tokenise(caption) == words.split()
    assert normalise(caption) == normal
    assert tokenise(normal) == words.split()


def test_joined_words_have_spaces_except_in_scripts_without() -> None:
    assert join_words(["two", "dogs"]) == "two dogs"
    assert join_words(["狗", "和", "cat", "猫"]) == "狗和 cat 猫"
    assert join_words(["ม้", "า"]) == "ม้า"
    assert join_words([]) == ""


@given(st.text())
@example("İstanbul")
@example("ﬁne １２")
@example("가각")
@example("o̴̡̩a -'-")
@example("e\u00ad\u0301 İ\u0301 i\u0307\u0307 i\u200d\u0307")
def test_normalising_twice_changes_nothing(caption: str) -> None:
    normal = normalise(caption)
    assert normalise(normal) == normal
    assert tokenise(normal) == tokenise(caption)
    assert all(word and word == word.strip() and word.split() == [word] for word in tokenise(caption))


@given(st.text(alphabet="กาัิุ่้์ າັ່がガ゚က္းា្កa é́'-", max_size=12))
@example("か \u3099")
@example("ก่ \u0e38")
def test_normalising_twice_changes_nothing_among_loose_marks(caption: str) -> None:
    normal = normalise(caption)
    assert normalise(normal) == normal
    assert tokenise(normal) == tokenise(caption)


@given(st.text())
def test_composed_and_decomposed_text_have_one_spelling(caption: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, caption) for form in ("NFC", "NFD"))
    assert tokenise(composed) == tokenise(decomposed) == tokenise(caption)


NFD_VIETNAMESE = unicodedata.normalize("NFD", "Hai đứa trẻ đang chạy")


@pytest.mark.parametrize(
    ("caption", "tokens", "said"),
    [
        pytest.param("Một người đàn ông.", ["một", "người", "đàn", "ông"], "một người đàn ông", id="Vietnamese"),
        pytest.param(NFD_VIETNAMESE, ["hai", "đứa", "trẻ", "đang", "chạy"], "hai đứa trẻ đang chạy", id="decomposed"),
        pytest.param(
            "Où est l'Œuf à l’été ?", ["où", "est", "l'œuf", "à", "l'été"], "où est l'œuf à l'été", id="French"
        ),
        pytest.param("ÜBER GROẞE Straßen", ["über", "große", "straßen"], "über große straßen", id="German"),
        pytest.param("Żółty ŁOŚ śpi", ["żółty", "łoś", "śpi"], "żółty łoś śpi", id="Polish"),
        pytest.param(
            "İki köpek, ISIRAN ılık", ["iki", "köpek", "isiran", "ılık"], "iki köpek isiran ılık", id="Turkish"
        ),
        pytest.param("I\u0307stanbul i\u0307ki", ["istanbul", "iki"], "istanbul iki", id="Turkish, dots apart"),
        pytest.param("Две СОБАКИ, ёж", ["две", "собаки", "ёж"], "две собаки ёж", id="Russian"),
        pytest.param("一只猫，两只狗。", list("一只猫两只狗"), "一只猫两只狗", id="Chinese"),
        pytest.param("犬がボールを追う", list("犬がボールを追う"), "犬がボールを追う", id="Japanese"),
        pytest.param("か\u3099く", ["が", "く"], "がく", id="Japanese, decomposed"),
        pytest.param("หมาวิ่งที่นี่", ["ห", "ม", "า", "วิ่", "ง", "ที่", "นี่"], "หมาวิ่งที่นี่", id="Thai"),
        pytest.param("ໝາສີດຳ", ["ໝ", "າ", "ສີ", "ດ", "ຳ"], "ໝາສີດຳ", id="Lao"),
        pytest.param("ឆ្កែខ្មៅ", ["ឆ្", "កែ", "ខ្", "មៅ"], "ឆ្កែខ្មៅ", id="Khmer"),
        pytest.param("ခွေးနက်", ["ခွေး", "န", "က်"], "ခွေးနက်", id="Myanmar"),
        pytest.param("개 두 마리가 달린다", ["개", "두", "마리가", "달린다"], "개 두 마리가 달린다", id="Korean"),
        pytest.param("كَلْبٌ أسود، يركض!", ["كَلْبٌ", "أسود", "يركض"], "كَلْبٌ أسود يركض", id="Arabic"),
        pytest.param("כֶּלֶב שחור", ["כֶּלֶב", "שחור"], "כֶּלֶב שחור", id="Hebrew"),
        pytest.param("काली बिल्ली।", ["काली", "बिल्ली"], "काली बिल्ली", id="Hindi"),
        pytest.param(
            "2只dog在 T-shirt上", ["2", "只", "dog", "在", "t-shirt", "上"], "2 只 dog 在 t-shirt 上", id="mixed"
        ),
        pytest.param("iPhoneで写真をとる", ["iphone", *"で写真をとる"], "iphone で写真をとる", id="mixed, Japanese"),
    ],
)
def test_a_caption_of_any_script_comes_back_from_its_ids(caption: str, tokens: list[str], said: str) -> None:
    assert tokenise(caption) == tokens
    vocabulary = Vocabulary.build([tokens])
    ids = vocabulary.encode(tokenise(caption))
    assert UNK not in ids
    assert join_words(vocabulary.decode(ids)) == said == normalise(caption)
    assert tokenise(said) == tokens


def test_every_vietnamese_caption_comes_back_from_its_ids(shared_data: Path) -> None:
    lines = (shared_data / "vietnamese" / "captions.jsonl").read_text("utf-8").splitlines()
    captions = [caption for line in lines for caption in json.loads(line)["captions"]]
    assert len(captions) > 13_000
    vocabulary = Vocabulary.build(map(tokenise, captions))
    for caption in captions:
        tokens = tokenise(caption)
        ids = vocabulary.encode(tokens)
        assert UNK not in ids
        said = join_words(vocabulary.decode(ids))
        assert said == normalise(caption)
        assert tokenise(said) == tokens
        assert tokenise(unicodedata.normalize("NFD", caption)) == tokens


# the vocabulary


CAPTIONS = [tokenise(text) for text in ("a dog and a cat", "the dog and the bus", "a zebra", "an éclair", "con chó")]


def test_the_special_entries_come_first_and_words_by_count_then_code_point() -> None:
    vocabulary = Vocabulary.build(CAPTIONS)
    assert vocabulary.words[:4] == SPECIAL_WORDS
    assert (PAD, START, END, UNK) == (0, 1, 2, 3)
    assert vocabulary.words[4:] == (
        *("a", "and", "dog", "the"),  # 3, 2, 2, 2 times
        *("an", "bus", "cat", "chó", "con", "zebra", "éclair"),
    )
    assert len(vocabulary) == 15
    assert ("zebra" in vocabulary, "lion" in vocabulary) == (True, False)


def test_rare_words_and_words_beyond_the_size_are_left_out() -> None:
    assert Vocabulary.build(CAPTIONS, min_count=2).words[4:] == ("a", "and", "dog", "the")
    assert Vocabulary.build(CAPTIONS, min_count=2, max_size=3).words[4:] == ("a", "and", "dog")
    assert Vocabulary.build([]).words == SPECIAL_WORDS
    assert Vocabulary.build([["<unk>", "<end>", "dog"]]).words == (*SPECIAL_WORDS, "dog")


def test_the_order_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "import sys, random; from showtell.text import Vocabulary\n"
        "words = {chr(97 + i % 26) + chr(97 + i // 26) for i in range(600)}\n"  # a set: its order follows the hashes
        "sys.stdout.write(Vocabulary.build([list(words), list(words)[:0]]).to_json())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2", "4000000000")
    }
    assert len(found) == 1
    assert json.loads(found.pop())["words"][4:8] == ["aa", "ab", "ac", "ad"]


def test_encoding_adds_start_and_end_and_cuts_before_end() -> None:
    vocabulary = Vocabulary.build(CAPTIONS)
    dog, a, cat = (vocabulary.id_of(word) for word in ("dog", "a", "cat"))
    assert vocabulary.encode(["a", "dog", "lion", "a", "cat"]) == [START, a, dog, UNK, a, cat, END]
    assert vocabulary.encode(["a", "dog", "lion"], max_length=2) == [START, a, dog, END]
    assert vocabulary.encode([]) == [START, END]
    assert vocabulary.id_of("lion") == UNK


@given(st.lists(st.sampled_from(Vocabulary.build(CAPTIONS).words[4:])))
def test_known_words_come_back(words: list[str]) -> None:
    vocabulary = Vocabulary.build(CAPTIONS)
    assert vocabulary.decode(vocabulary.encode(words)) == words
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


def test_decoding_stops_at_end_and_leaves_special_ids_out() -> None:
    vocabulary = Vocabulary.build(CAPTIONS)
    a, dog = vocabulary.id_of("a"), vocabulary.id_of("dog")
    assert vocabulary.decode([START, a, UNK, dog, PAD, END, a, 999]) == ["a", "dog"]
    assert vocabulary.decode([]) == []


@pytest.mark.parametrize("index", [15, -1])
def test_an_id_outside_is_refused(index: int) -> None:
    sentence = rf"id {index} is outside the vocabulary of 15 words; the model and its vocabulary\.json do not belong"
    with pytest.raises(VocabularyError, match=sentence):
        Vocabulary.build(CAPTIONS).decode([4, index])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("a", "dog"),
            r"a vocabulary begins with <pad>, <start>, <end>, <unk>, this one with \('a', 'dog'\); build it",
        ),
        ((*SPECIAL_WORDS, "a", "dog", "a"), "the word 'a' is listed twice in the vocabulary"),
        ((*SPECIAL_WORDS, "a", ""), "entry 5 of the vocabulary is an empty word"),
    ],
)
def test_a_vocabulary_that_is_none(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(VocabularyError, match=sentence):
        Vocabulary(words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r'here\.json is not \{"words": \[\.\.\.\]\}'),
        ("[]", r'here\.json is not \{"words"'),
        ('{"tokens": []}', r'here\.json is not \{"words"'),
        ('{"words": "abc"}', r'"words" in here\.json must be a list of strings'),
        ('{"words": ["<pad>", 1]}', r'"words" in here\.json must be a list of strings'),
    ],
)
def test_a_vocabulary_file_that_is_none(text: str, sentence: str) -> None:
    with pytest.raises(VocabularyError, match=sentence):
        Vocabulary.from_json(text, "here.json")
