"""Tables of captions: what is written is read back, and what is broken is said."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from showtell.errors import BackendError, ConfigError, DataError
from showtell.jobs.tables import SUFFIXES, read_table, write_table
from showtell.records import Caption, Failure

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
logprobs = st.floats(-50, 0).map(lambda value: round(value, 4))
captions = st.builds(
    lambda image, words, logprob, sure: Caption(
        image, " ".join(w for w, _ in words), logprob, *zip(*words, strict=True), confidence=sure
    ),
    text,
    st.lists(st.tuples(text, logprobs), min_size=1, max_size=4),
    logprobs,
    st.none() | st.floats(0, 1).map(lambda value: round(value, 4)),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(results=st.lists(captions | st.builds(Failure, text, text), min_size=1, max_size=8))
@settings(deadline=None)
def test_what_is_written_is_read_back(
    suffix: str, results: list[Caption | Failure], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
    path = tmp_path_factory.mktemp("table") / f"captions{suffix}"
    rows = [one.to_json() for one in results]
    write_table(path, ((row.pop("image"), row) for row in rows))
    read = list(read_table(path))
    assert [(one.image, getattr(one, "error", None)) for one in read] == [
        (one.image, getattr(one, "error", None)) for one in results
    ]
    for one, other in zip(read, results, strict=True):
        if isinstance(one, Caption) and isinstance(other, Caption):
            assert (one.text, one.logprob) == (other.text, other.logprob)
            assert (one.words, one.word_logprobs) == (
                ((), ()) if suffix == ".csv" else (other.words, other.word_logprobs)
            )
            assert one.confidence == (other.confidence if suffix == ".jsonl" else None)


def test_a_table_from_elsewhere_needs_no_probabilities(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption\na.jpg,a dog\n", "utf-8")
    (one,) = read_table(tmp_path / "a.csv")
    assert isinstance(one, Caption)
    assert (one.image, one.text, one.words) == ("a.jpg", "a dog", ())
    assert math.isnan(one.logprob)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"image": "a.jpg"}', r'a\.jsonl:1 lacks "image" or "caption"'),
        ("a.jsonl", '{"image": "a.jpg", "caption": 3}', r'a\.jsonl:1 lacks "image" or "caption"'),
        (
            "a.jsonl",
            '{"image": "a.jpg", "caption": "a", "logprob": []}',
            r'a\.jsonl:1 has "words", "logprob" or "conf',
        ),
        (
            "a.jsonl",
            '{"image": "a.jpg", "caption": "a", "words": ["a"]}',
            r'a\.jsonl:1 has "words", "logprob" or "conf',
        ),
        (
            "a.jsonl",
            '{"image": "a.jpg", "caption": "a", "confidence": "high"}',
            r'a\.jsonl:1 has "words", "logprob" or "conf',
        ),
        ("a.jsonl", "nonsense", r"a\.jsonl:1 is not JSON"),
        ("a.csv", "picture,text\na.jpg,a dog\n", r'a\.csv:2 lacks "image" or "caption"'),
        ("a.csv", "image,caption\na.jpg,\xff\n", r"cannot read .*a\.csv"),
        ("a.parquet", "no parquet", r"cannot read .*a\.parquet"),
        ("gone.csv", None, r"cannot read .*gone\.csv \(No such file"),
        ("gone.parquet", None, r"cannot read .*gone\.parquet"),
        ("gone.jsonl", None, r"cannot read .*gone\.jsonl"),
    ],
)
def test_what_is_broken_is_one_sentence(name: str, content: str | None, told: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=told):
        list(read_table(tmp_path / name))


def test_other_names_and_missing_packages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"a\.txt is no table of captions; accepted are names that end in \.jsonl"):
        list(read_table(tmp_path / "a.txt"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendError, match=r"pip install 'showtell\[parquet\]'"):
        list(read_table(tmp_path / "a.parquet"))
