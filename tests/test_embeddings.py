"""Files of word vectors: every form gives the same numbers, what is wrong is named, and where an embedding starts."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from showtell.datasets import read_captions
from showtell.errors import DataError
from showtell.learn.embeddings import (
    Coverage,
    WordVectors,
    describe_coverage,
    initial_embedding,
    read_vectors,
    write_vectors,
)
from showtell.text import END, PAD, START, UNK, Vocabulary, tokenise

Row = Sequence[float]
Rows = Sequence[tuple[str, Row]]


def row_of(word: str, vector: Row, end: str = "\n") -> bytes:
    return f"{word} {' '.join(str(np.float32(value)) for value in vector)}{end}".encode()


def glove(rows: Rows) -> bytes:
    return b"".join(row_of(*row) for row in rows)


def word2vec_text(rows: Rows) -> bytes:
    return f"{len(rows)} {len(rows[0][1])}\n".encode() + glove(rows)


def fasttext(rows: Rows) -> bytes:
    """With a space before each line end, as fastText and the C program write it."""
    return f"{len(rows)} {len(rows[0][1])}\n".encode() + b"".join(row_of(*row, end=" \n") for row in rows)


def windows(rows: Rows) -> bytes:
    return b"\xef\xbb\xbf" + word2vec_text(rows).replace(b"\n", b"\r\n")


def tabs(rows: Rows) -> bytes:
    return glove(rows).replace(b" ", b"\t")


def binary(rows: Rows, end: bytes = b"") -> bytes:
    head = f"{len(rows)} {len(rows[0][1])}\n".encode()
    return head + b"".join(word.encode() + b" " + np.array(row, "<f4").tobytes() + end for word, row in rows)


def binary_with_line_ends(rows: Rows) -> bytes:
    return binary(rows, b"\n")


FORMS: dict[str, Callable[[Rows], bytes]] = {
    form.__name__: form for form in (glove, word2vec_text, fasttext, windows, tabs, binary, binary_with_line_ends)
}
TEXTS = [name for name in FORMS if not name.startswith("binary")]
ROWS = [("the", (0.5, -1.25, 3e-9)), ("a", (0.1, 0.2, 0.3)), ("dog", (-7.0, 1e10, 0.0)), ("chó", (1.0, 2.0, 3.0))]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., WordVectors]:
    def reader(content: bytes, words: Sequence[str]) -> WordVectors:
        path = tmp_path / "vectors"
        path.write_bytes(content)
        return read_vectors(path, words)

    return reader


def as_dict(vectors: WordVectors) -> dict[str, list[float]]:
    assert vectors.vectors_FD.dtype == np.float32
    assert vectors.vectors_FD.shape == (len(vectors.found), vectors.width)
    assert vectors.index == {word: row for row, word in enumerate(vectors.found)}
    return {word: vectors.vectors_FD[row].tolist() for word, row in vectors.index.items()}


def expected(rows: Rows, words: Sequence[str]) -> dict[str, list[float]]:
    table = {word: np.array(row, np.float32).tolist() for word, row in reversed(rows)}  # the first of a word wins
    return {word: table[word] for word in words if word in table}


# forms


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers(form: str, zipped: bool, read: Callable[..., WordVectors]) -> None:
    content = FORMS[form](ROWS)
    words = ["dog", "unicorn", "chó", "a"]
    vectors = read(gzip.compress(content) if zipped else content, words)
    assert as_dict(vectors) == expected(ROWS, words)
    assert vectors.found == ("dog", "chó", "a")
    assert vectors.missing == ("unicorn",)
    assert (vectors.other_case, vectors.undecodable) == (0, 0)


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
file_words = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=" "), min_size=1, max_size=5)


@st.composite
def tables(draw: st.DrawFn) -> Rows:
    width = draw(st.integers(8, 20))  # of less, a short binary file can look like text
    return draw(st.lists(st.tuples(file_words, st.tuples(*[floats] * width)), min_size=1, max_size=12))


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from(sorted(FORMS)), st.booleans(), st.data())
def test_any_table_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, form: str, zipped: bool, data: st.DataObject
) -> None:
    known = data.draw(st.lists(st.sampled_from([word for word, _ in rows]), min_size=1, unique=True))
    path = tmp_path_factory.mktemp("any") / "vectors.any"
    content = FORMS[form](rows)
    path.write_bytes(gzip.compress(content) if zipped else content)
    vectors = read_vectors(path, [*known, "not there"])
    assert as_dict(vectors) == expected(rows, known)
    write_vectors(path, vectors)
    again = read_vectors(path, known)
    assert as_dict(again) == as_dict(vectors)
    assert again.digest() == vectors.digest()


def test_the_given_file_reads_as_a_plain_loop_reads_it(shared_data: Path) -> None:
    path = shared_data / "glove" / "glove.6B.50d.subset.txt"
    lines = [line.split() for line in path.read_text("utf-8").splitlines()]
    table = {word: [float(np.float32(value)) for value in values] for word, *values in lines}
    words = [*list(table)[::7], "zzzzqqqq"]
    vectors = read_vectors(path, words)
    assert vectors.width == 50
    assert as_dict(vectors) == {word: table[word] for word in words[:-1]}
    assert vectors.missing == ("zzzzqqqq",)


def test_a_larger_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """40 MB of each form; what is held is a piece of the file and the words asked for."""
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(500).astype(np.float32)
    text, packed = tmp_path / "text", tmp_path / "packed"
    with text.open("wb") as lines, packed.open("wb") as records:
        records.write(b"20000 500\n")
        for number in range(20_000):
            word = f"w{number}"
            records.write(word.encode() + b" " + vector.tobytes())
            lines.write(word.encode() + b" 0.25" * 500 + b"\n")
    for path, value in ((text, np.full(500, 0.25)), (packed, vector)):
        assert path.stat().st_size > 40e6
        tracemalloc.start()
        vectors = read_vectors(path, ["w19999", "w7"])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6
        assert np.array_equal(vectors.vectors_FD, [value, value])


# which words


@pytest.mark.parametrize("form", ["glove", "fasttext", "binary"])
def test_of_a_word_that_is_listed_twice_the_first_counts(form: str, read: Callable[..., WordVectors]) -> None:
    rows = [("dog", (1.0, 2.0)), ("cat", (3.0, 4.0)), ("dog", (5.0, 6.0))]
    assert as_dict(read(FORMS[form](rows), ["dog"])) == {"dog": [1.0, 2.0]}


@pytest.mark.parametrize("form", ["glove", "fasttext", "binary"])
def test_another_case_serves_only_where_the_exact_form_is_absent(form: str, read: Callable[..., WordVectors]) -> None:
    rows = [
        ("Paris", (1.0, 0.0)), ("PARIS", (2.0, 0.0)),  # the first of two other forms
        ("US", (3.0, 0.0)), ("us", (4.0, 0.0)),  # the exact form, though it is later
        ("red", (5.0, 0.0)), ("Red", (6.0, 0.0)),
        (unicodedata.normalize("NFD", "Éclair"), (7.0, 0.0)),
        ("İstanbul", (8.0, 0.0)),
    ]  # fmt: skip
    vectors = read(FORMS[form](rows), ["paris", "us", "red", "éclair", "istanbul", "Red"])
    assert {word: vector[0] for word, vector in as_dict(vectors).items()} == {
        "paris": 1.0,
        "us": 4.0,
        "red": 5.0,
        "éclair": 7.0,
        "istanbul": 8.0,
        "Red": 6.0,
    }
    assert vectors.other_case == 3


def test_words_with_spaces_do_not_pass_for_their_first_word(read: Callable[..., WordVectors]) -> None:
    """GloVe of 840 billion tokens has `. . .` and `at name@domain.com`, before and after the words themselves."""
    rows = [
        (". . .", (1.0, 1.0)),
        ("at name@domain.com", (2.0, 2.0)),
        ("at", (3.0, 3.0)),
        ("2", (4.0, 4.0)),
        ("at", (5.0, 5.0)),
        ("by a@b.c", (6.0, 6.0)),
    ]
    assert as_dict(read(glove(rows), ["at", "2", "by"])) == {"at": [3.0, 3.0], "2": [4.0, 4.0]}


@pytest.mark.parametrize("form", TEXTS[:-1])
def test_white_space_of_other_scripts_is_part_of_a_word(form: str, read: Callable[..., WordVectors]) -> None:
    odd = ["a\u00a0b", "\u3000", "x\u2028", "\u0085", "\u200b", "dog\u00a0"]
    rows = [(word, (float(number), 1.0)) for number, word in enumerate([*odd, "dog"])]
    assert as_dict(read(FORMS[form](rows), ["dog", "a", "x"])) == {"dog": [6.0, 1.0]}


def test_lines_without_a_word_and_blank_ones_are_passed_over(read: Callable[..., WordVectors]) -> None:
    assert as_dict(read(b"\n 9 9\n\ndog 1 2\n  \ncat 3 4\n\n", ["dog", "cat"])) == {"dog": [1, 2], "cat": [3, 4]}
    assert as_dict(read(b"3 2\n 9 9\ndog 1 2\n  \ncat 3 4\n\n", ["dog"])) == {"dog": [1, 2]}


@pytest.mark.parametrize("form", ["glove", "fasttext", "binary"])
def test_words_that_are_not_utf8_are_passed_over_and_counted(form: str, read: Callable[..., WordVectors]) -> None:
    rows = [("the", (1.0,) * 9), ("caf¤", (2.0,) * 9), ("¤", (3.0,) * 9), ("dog", (4.0,) * 9)]
    content = FORMS[form](rows).replace("¤".encode(), b"\xe9")
    vectors = read(content, ["dog", "café", "the"])
    assert vectors.found == ("dog", "the")
    assert vectors.undecodable == 2


def test_rows_of_other_words_are_not_looked_at(read: Callable[..., WordVectors]) -> None:
    assert as_dict(read(b"dog 1 2\ncat broken\nhorse nan nan\ncow 1 2\n", ["dog"])) == {"dog": [1, 2]}


# what is wrong

BREAKS_OFF = r"it has not the 3 values of a word; get the file again"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"vectors is empty; get the file again"),
        (b" \n\n", r"vectors is empty"),
        (b"5 3\n", r"vectors is empty"),
        (gzip.compress(b""), r"vectors is empty"),
        (b"a dog runs on grass\na cat sits\n", r"no word vectors of a form that is known; accepted are GloVe text \("),
        (b"the 1061396\nof 593677\n", r"no word vectors of a form that is known"),
        (b'{"dog": [1, 2]}', r"no word vectors of a form that is known"),
        (b"dog,1,2\ncat,3,4\n", r"no word vectors of a form that is known"),
        (b"3 0\ndog \n", r"no word vectors of a form that is known"),
        (b"3 99999999\ndog 1\n", r"no word vectors of a form that is known"),
        (b"x" * 3_000_000, r"no word vectors of a form that is known"),
        (b"PK\x03\x04" + bytes(99), r"vectors is a zip archive; unpack it"),
        (b"\xba\x16\x4f\x2f" + bytes(99), r"vectors is a fastText model; give the \.vec file that belongs to it"),
        (b"\x80\x04\x95" + bytes(99), r"vectors is a pickle; write it with gensim's save_word2vec_format"),
        (b"the 1 2 3\ndog 1 2\na 1 2 3\n", r"vectors:2 has 2 values for 'dog', the file has 3 a word; get the file"),
        (b"the 1 2 3\ndog 1 2 3 4\na 1 2 3\n", r"vectors:2 has 4 values for 'dog', the file has 3 a word"),
        (b"3 3\nthe 1 2 3\ndog 1 2\na 1 2 3\n", r"vectors:3 has 2 values for 'dog', the file has 3 a word"),
        (b"2 4\nthe 1 2 3\ndog 1 2 3\n", r"vectors:3 has 3 values for 'dog', the file has 4 a word"),
        (b"the 1 2 3\n\nDog 1 two 3\na 1 2 3\n", r"vectors:3 has 'two' for 'Dog', which is not a number; mend the"),
        (b"the 1 2 3\ndog 1 2,5 3\na 1 2 3\n", r"vectors:2 has '2,5' for 'dog', which is not a number"),
        (b"the 1 2 3\ndog 1 nan 3\na 1 2 3\n", r"vectors:2 has the value nan for 'dog'; accepted are finite numbers"),
        (b"the 1 2 3\ndog 1 2 -inf\na 1 2 3\n", r"vectors:2 has the value -inf for 'dog'"),
        (b"the 1 2 3\ndog 1e39 2 3\na 1 2 3\n", r"vectors:2 has the value 1e\+39 for 'dog'; .* of 32 bits"),
        (b"dog 1 2 3\nthe 1 2 3\na 1 2 3\nzoo 1 2", rf"vectors:4 breaks off, {BREAKS_OFF}"),
        (b"dog 1 2 3\nthe 1 2 3\na 1 2 3\nzoo 1 2 3e-", rf"vectors:4 breaks off, {BREAKS_OFF}"),
        (b"4 3\ndog 1 2 3\nthe 1 2 3\nzoo 1 2", rf"vectors:4 breaks off, {BREAKS_OFF}"),
        (b"3 2\ndog 1 2\nthe 1 2\n", r"vectors holds 2 words, and its first line announces 3; get the file again"),
        (b"1 2\ndog 1 2\nthe 1 2\n", r"vectors holds 2 words, and its first line announces 1"),
        (b"dog 1 2\n" + b"x" * 2_000_000, r"vectors:2 is longer than 1,048,576 bytes, which no vector is"),
        (binary(ROWS)[:-1], r"vectors breaks off in word 4 of 4; get the file again"),
        (binary(ROWS)[:-14], r"vectors breaks off in word 4 of 4"),
        (binary(ROWS)[: len(binary(ROWS[:1])) + 3], r"vectors breaks off in word 2 of 4"),
        (binary(ROWS) + b"more", r"vectors goes on after the 4 words that its first line announces; get the file"),
        (binary([("the", (1, 2, 3)), ("dog", (1, np.nan, 3))]), r"vectors, word 2 has the value nan for 'dog'"),
        (binary([("dog", (1, np.inf, 3)), ("the", (1, 2, 3))]), r"vectors, word 1 has the value inf for 'dog'"),
        (gzip.compress(glove(ROWS) * 100)[:-9], r"cannot read the word vectors .*vectors \(Compressed file ended"),
        (gzip.compress(b"")[:10] + b"\xff" * 40, r"cannot read the word vectors .*vectors \(Error -3 "),
        (b"\x1f\x8bnot zipped", r"cannot read the word vectors .*vectors \("),
        (glove(ROWS[:2]), r"vectors has no vector for any of the 2 words \('dog', 'cat', …\); give vectors of the"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the contents are long, and gzip's have a clock in them
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(content: bytes, sentence: str, read: Callable[..., WordVectors]) -> None:
    with pytest.raises(DataError, match=sentence):
        read(content, ["dog", "cat"])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"cannot read the word vectors .*glove\.txt \(No such file .*\); check the path"
    ):
        read_vectors(tmp_path / "glove.txt", ["dog"])
    with pytest.raises(DataError, match=r"cannot read the word vectors .* \(Is a directory\)"):
        read_vectors(tmp_path, ["dog"])


# coverage


def test_coverage_counts_words_and_tokens(read: Callable[..., WordVectors]) -> None:
    captions = ["the dog and the cat", "a Dog runs", "a zebra", "the unseen"]
    tokens = [tokenise(caption) for caption in captions]
    counts = Counter(word for words in tokens for word in words)  # 12 tokens
    vocabulary = Vocabulary.build(tokens, max_size=6)
    assert vocabulary.words[4:] == ("the", "a", "dog", "and", "cat", "runs")
    vectors = read(glove([*ROWS, ("Cat", (1, 1, 1)), ("unseen", (1, 1, 1))]), vocabulary.words[4:])
    coverage = vectors.coverage(counts)
    assert coverage == Coverage(words=4 / 6, tokens=(3 + 2 + 2 + 1) / 12, without=("and", "runs"))
    assert describe_coverage("tiny.txt", vectors, coverage) == (
        "tiny.txt: 4 vectors of 3 numbers, for 66.7% of the vocabulary and 66.7% of the training captions' tokens; "
        "none for 'and', 'runs'; 1 of them in another case"
    )
    assert json.loads(json.dumps(coverage.to_json())) == {
        "words": 0.666667,
        "tokens": 0.666667,
        "without": ["and", "runs"],
    }
    assert vectors.coverage({}).tokens == 0


def test_a_report_names_ten_words_and_what_was_passed_over(read: Callable[..., WordVectors]) -> None:
    vectors = read(b"dog 1 2\n\xff 1 2\na 1 2\n", ["dog", *(f"w{number}" for number in range(11))])
    told = describe_coverage("x", vectors, vectors.coverage({"dog": 1}))
    assert "for 8.3% of the vocabulary and 100.0% of" in told
    assert "none for 'w0', 'w1', 'w2', 'w3', 'w4', 'w5', 'w6', 'w7', 'w8', 'w9', …; 1 words of the file" in told


@pytest.mark.parametrize(("name", "min_count", "tokens"), [("flickr8k", 5, 0.895), ("rsicd", 3, 0.940)])
def test_coverage_of_the_given_captions(name: str, min_count: int, tokens: float, shared_data: Path) -> None:
    """About 90 % of Flickr8k's tokens and 94 % of RSICD's have a vector, by a count without the reader too."""
    source = {"flickr8k": "flickr8k/Flickr8k_text/Flickr8k.token.txt", "rsicd": "rsicd/captions.jsonl"}[name]
    captions = [tokenise(text) for example in read_captions(shared_data / source) for text in example.references]
    counts = Counter(word for caption in captions for word in caption)
    vocabulary = Vocabulary.build(captions, min_count=min_count)
    path = shared_data / "glove" / "glove.6B.50d.subset.txt"
    coverage = read_vectors(path, vocabulary.words[4:]).coverage(counts)
    known = {line.partition(" ")[0] for line in path.read_text("utf-8").split("\n")}
    frequent = {word: count for word, count in counts.items() if count >= min_count}
    assert coverage.tokens == pytest.approx(tokens, abs=0.0006)
    assert coverage.tokens == sum(count for word, count in frequent.items() if word in known) / counts.total()
    assert coverage.words == len(known & frequent.keys()) / len(frequent)
    assert list(coverage.without) == sorted(frequent.keys() - known, key=lambda word: (-frequent[word], word))[:10]


# where an embedding starts


def random_vectors(words: Sequence[str], width: int = 5, seed: int = 0) -> WordVectors:
    rng = np.random.default_rng(seed)
    scales = np.arange(1, width + 1)
    return WordVectors((rng.standard_normal((len(words), width)) * scales + 3).astype(np.float32), tuple(words))


def vocabulary_of(size: int) -> Vocabulary:
    return Vocabulary.build([[f"w{number:05}" for number in range(size)]])


def test_found_words_start_at_their_vectors_and_pad_at_zero() -> None:
    vocabulary = vocabulary_of(50)
    vectors = random_vectors([*vocabulary.words[:3:-2], "not in the vocabulary"])
    embedding_VD = initial_embedding(vocabulary, vectors, 1)
    assert embedding_VD.dtype == np.float32
    assert embedding_VD.shape == (54, 5)
    for word, vector in zip(vectors.found[:-1], vectors.vectors_FD, strict=False):
        assert np.array_equal(embedding_VD[vocabulary.id_of(word)], vector)
    assert not embedding_VD[PAD].any()
    others = embedding_VD[[START, END, UNK, *(vocabulary.id_of(word) for word in vocabulary.words[4::2])]]
    assert len(np.unique(others, axis=0)) == len(others)
    assert np.isfinite(others).all()


def test_words_without_a_vector_are_drawn_like_the_found_ones() -> None:
    vocabulary = vocabulary_of(40_000)
    vectors = random_vectors(vocabulary.words[4:304])
    drawn_VD = initial_embedding(vocabulary, vectors, 1)[304:].astype(np.float64)
    mean_D, std_D = vectors.vectors_FD.mean(0), vectors.vectors_FD.std(0)
    assert drawn_VD.mean(0) == pytest.approx(mean_D, abs=4 * float(std_D.max()) / len(drawn_VD) ** 0.5)
    assert drawn_VD.std(0) == pytest.approx(std_D, rel=0.02)
    correlation_DD = np.corrcoef(((drawn_VD - mean_D) / std_D).T)
    assert np.abs(correlation_DD - np.eye(5)).max() < 0.03
    within = (np.abs(drawn_VD - mean_D) < std_D).mean()
    assert within == pytest.approx(0.6827, abs=0.005)  # Gaussian


def test_the_noise_depends_on_the_seed_and_the_word_alone() -> None:
    vocabulary = vocabulary_of(20)
    some = random_vectors(vocabulary.words[4:14])
    one, same, other = (initial_embedding(vocabulary, some, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.isclose(one[14:], other[14:]).any()
    assert np.array_equal(one[4:14], other[4:14])

    def noise(embedding_VD: NDArray[Any], vectors: WordVectors) -> NDArray[Any]:
        kept = vectors.vectors_FD.astype(np.float64)
        return (embedding_VD - kept.mean(0)) / kept.std(0)

    fewer = random_vectors(vocabulary.words[4:10], seed=5)
    assert noise(initial_embedding(vocabulary, fewer, 1), fewer)[14:] == pytest.approx(noise(one, some)[14:], abs=1e-4)


def test_an_embedding_and_its_digest_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes(glove([(f"W{number}", (number, 1.5, -number)) for number in range(40)]))
    program = (
        "import sys; from showtell.learn.embeddings import *; from showtell.text import Vocabulary\n"
        "vocabulary = Vocabulary.build([{f'w{number}' for number in range(60)}])\n"  # a set: ordered by its hashes
        "vectors = read_vectors(sys.argv[1], vocabulary.words[4:])\n"
        "embedding = initial_embedding(vocabulary, vectors, 3)\n"
        "print(vectors.digest(), vectors.missing, embedding.tolist())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "v.txt")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4000000000")
    }
    assert len(found) == 1


def test_a_digest_tells_words_and_numbers_apart() -> None:
    def digest(table: Mapping[str, Row]) -> str:
        return WordVectors(np.array(list(table.values()), np.float32), tuple(table)).digest()

    base = digest({"a": (1, 2), "b": (3, 4)})
    assert base == digest({"a": (1, 2), "b": (3, 4)})
    others = [{"a": (1, 2), "c": (3, 4)}, {"a": (1, 2), "b": (3, 4.0000005)}, {"b": (1, 2), "a": (3, 4)}]
    assert len({base, *(digest(table) for table in others)}) == 4
