"""Files of captions in every accepted form are read alike, or refused with one sentence that says where and why."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.errors import ConfigError, DataError
from showtell.metrics import match_ids, read_candidates, read_references

LONG = "a dog , " * 125_000  # a million characters


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.json", '[{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": ""}]'),
        ("plain.json", '{"1": "x", "2": ""}'),
        (
            "coco.json",
            '{"images": [], "annotations": [{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": ""}]}',
        ),
        ("lines.jsonl", '{"image": "1", "caption": "x"}\n\n{"image": "2", "caption": "", "logprob": -1}\n'),
        ("lines.txt", '\ufeff{"image": "1", "caption": "x"}\n{"image": "2", "caption": ""}'),
        ("lines.json", '{"image": "1", "caption": "x"}\r\n{"image": "2", "caption": ""}\r\n'),
        ("table.csv", "image,caption\n1,x\n2,\n"),
        ("table.tsv", "\ufeffcaption\tid\r\nx\t1\r\n\r\n\t2\r\n"),
        ("table.txt", '"image_id";"score";"text"\n1;0.5;x\n2;0;""\n'),
        ("Flickr.token.txt", "1#0\tx\r\n2#0\t\r\n"),
        ("tokens.tsv", "1#0\tx\n2#0\t"),
        ("karpathy.json", '{"dataset": "x", "images": [{"filename": "1", "split": "val", "sentences": [{"raw": "x"}]}, '
         '{"filename": "2", "split": "test", "sentences": [{"raw": ""}]}]}'),
    ],
)  # fmt: skip
def test_every_form_of_candidates_is_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_candidates(tmp_path / name) == {"1": "x", "2": ""}


def test_a_file_of_one_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text('{"image": "a.jpg", "caption": "x", "words": [{"word": "x", "logprob": -1}]}\n', "utf-8")
    assert read_candidates(path) == {"a.jpg": "x"}


def test_every_form_of_references_is_read(tmp_path: Path, shared_data: Path) -> None:
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({"a": ["x", "y"], "b": "z"}), "utf-8")
    assert read_references(plain) == {"a": ["x", "y"], "b": ["z"]}
    assert {
        len(group) >= 5 for group in read_references(shared_data / "coco/annotations/captions_val2017.json").values()
    } == {True}
    assert "images/airport_1.webp" in read_references(shared_data / "rsicd/captions.jsonl")


def test_both_listings_of_flickr8k_say_the_same(shared_data: Path) -> None:
    original = read_references(shared_data / "flickr8k/Flickr8k_text/Flickr8k.token.txt")
    kaggle = read_references(shared_data / "flickr8k/captions.txt")
    with (shared_data / "flickr8k/captions.txt").open(encoding="utf-8", newline="") as file:
        rows = [(row["image"], row["caption"].strip()) for row in csv.DictReader(file)]
    assert [(image, caption) for image, group in kaggle.items() for caption in group] == rows
    assert len(kaggle) > 200
    assert {image: [caption.strip('"') for caption in original[image]] for image in kaggle} == {
        image: [caption.strip('"') for caption in group] for image, group in kaggle.items()
    }


# tables

CELLS = st.text(alphabet="ab1é ,;|\t\n\"'#", max_size=12).map(str.strip)
NAMES = st.text(alphabet="ab1é ,\"'#/_", min_size=1, max_size=8).map(str.strip).filter(bool)


@given(st.dictionaries(NAMES, st.lists(CELLS, min_size=1, max_size=3), min_size=1, max_size=5), st.sampled_from(",\t;"))
def test_whatever_csv_writes_is_read_back(tmp_path_factory: Any, said: dict[str, list[str]], delimiter: str) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["number", "image", "caption"])
    writer.writerows([index, image, caption] for index, (image, group) in enumerate(said.items()) for caption in group)
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(file.getvalue().encode())
    # Line ends are read as one kind.
    assert read_references(path) == {
        image: [caption.replace("\r\n", "\n") for caption in said[image]] for image in said
    }


def test_flickr30k_of_kaggle_is_read_with_its_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(
        'image_name| comment_number| comment\n1.jpg| 0| A man , in "blue" .\n1.jpg| 1| "Two men" talk | walk\n'
        "2199200615.jpg| 4   A dog runs across the grass .\n",
        "utf-8",
    )
    assert read_references(path) == {
        "1.jpg": ['A man , in "blue" .', '"Two men" talk | walk'],
        "2199200615.jpg": ["A dog runs across the grass ."],
    }


def test_commas_without_quotes_stay_in_a_last_caption(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text('image,caption\na.jpg,One dog , 1,000 cats\nb.jpg,He said "hi", and left\n', "utf-8")
    assert read_references(path) == {"a.jpg": ["One dog , 1,000 cats"], "b.jpg": ['He said "hi", and left']}


def test_the_name_of_the_picture_goes_before_the_id_of_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,Image_ID ,Caption\n7,42,x\n8,42,y\n", "utf-8")
    assert read_references(path) == {"42": ["x", "y"]}


def test_several_captions_in_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("path,caption_1,caption 2,caption3,caption_language\na.jpg,x,y,z,en\nb.jpg,x,,,en\n", "utf-8")
    assert read_references(path) == {"a.jpg": ["x", "y", "z"], "b.jpg": ["x"]}


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ('["x, \\u00e9", "it\'s"]', ["x, é", "it's"]),
        ("['x, é', \"it's\"]", ["x, é", "it's"]),
        ("['x, é'\n \"it's\"]", ["x, é", "it's"]),
        ("[a sign]", ["[a sign]"]),
        ("['x', y]", ["['x', y]"]),
        ("[1, 2]", ["[1, 2]"]),
        ("[]", ["[]"]),
    ],
)
def test_a_list_in_a_cell_is_several_captions(tmp_path: Path, cell: str, captions: list[str]) -> None:
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image", "captions"], ["a", cell]])
    assert read_references(tmp_path / "a.csv") == {"a": captions}


# splits

KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filename": f"{split}.jpg",
            "split": split,
            "sentences": [{"raw": f"a {split}", "tokens": ["a"]}, {"raw": "b"}],
        }
        for split in ("train", "restval", "val", "test")
    ],
}
NATIVE = '{"image": "t", "captions": ["a"], "split": "train"}\n{"image": "n", "captions": ["b"]}\n' + (
    '{"image": "v", "captions": ["c", "d"], "split": "val"}\n'
)


def test_references_of_a_split(tmp_path: Path) -> None:
    karpathy, native, table = tmp_path / "dataset_coco.json", tmp_path / "captions.jsonl", tmp_path / "a.csv"
    karpathy.write_text(json.dumps(KARPATHY), "utf-8")
    native.write_text(NATIVE, "utf-8")
    table.write_text("image,split,caption\na,dev,x\nb,Train,y\na,dev,z\n", "utf-8")
    assert list(read_references(karpathy)) == ["train.jpg", "restval.jpg", "val.jpg", "test.jpg"]
    assert list(read_references(karpathy, "train")) == ["train.jpg", "restval.jpg"]
    assert read_references(karpathy, "test") == {"test.jpg": ["a test", "b"]}
    assert read_references(native, "val") == {"v": ["c", "d"]}
    assert read_references(native, "train") == {"t": ["a"], "n": ["b"]}
    assert list(read_references(native)) == ["t", "n", "v"]
    karpathy.write_text('{"a": "x"}', "utf-8")
    assert read_references(karpathy, "train") == {"a": ["x"]}
    assert read_references(table, "validation") == {"a": ["x", "z"]}


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    native, table, plain = tmp_path / "captions.jsonl", tmp_path / "a.csv", tmp_path / "a.json"
    native.write_text(NATIVE, "utf-8")
    table.write_text("image,split,caption\na,holdout,x\n", "utf-8")
    plain.write_text('{"a": "x"}', "utf-8")
    with pytest.raises(DataError, match=r"no picture of split 'test'; .* train \(1\), none, as train \(1\), val \(1\)"):
        read_references(native, "test")
    with pytest.raises(DataError, match=r"a\.csv:2 has split 'holdout'; accepted are train"):
        read_references(table, "test")
    assert read_references(table) == {"a": ["x"]}
    with pytest.raises(DataError, match=r"a\.json does not say which split its pictures are in"):
        read_references(plain, "val")
    with pytest.raises(ConfigError, match="unknown split 'tset'; accepted are train, val and test"):
        read_references(plain, "tset")


# ids


def test_ids_match_by_stem_only_when_none_matches_as_it_is() -> None:
    assert match_ids({"out/a.png": "x", "000042.jpg": "y"}, {"a.jpg": [], "42": []}) == {"a.jpg": "x", "42": "y"}
    assert match_ids({"a.png": "x", "b": "y"}, {"a.jpg": [], "b": []}) == {"a.png": "x", "b": "y"}


def test_ids_of_coco_match_its_file_names() -> None:
    references: dict[str, list[str]] = {"COCO_val2014_000000000139.jpg": [], "COCO_train2014_000000000042.jpg": []}
    matched = match_ids({"139": "x", "42": "y"}, references)
    assert matched == {"COCO_val2014_000000000139.jpg": "x", "COCO_train2014_000000000042.jpg": "y"}
    assert match_ids({"val2017/000000000139.jpg": "x"}, references) == {"COCO_val2014_000000000139.jpg": "x"}


# what is refused


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", "", r"a\.json:1 is empty; accepted are COCO results"),
        ("a.csv", "\ufeff\r\n ", r"a\.csv:1 is empty"),
        ("a.json", '[{"image_id": 1,\n "caption": "x"', r"a\.json:2 is not JSON \(Expecting"),
        ("a.json", '[{"image_id": 1, "caption": "a do', r"a\.json:1 is not JSON \(Unterminated string"),
        ("a.jsonl", '{"image": "1", "caption": "x"}\n{"image": ', r"a\.jsonl:2 is not JSON"),
        ("a.jsonl", '{"image": "1", "caption": "x"}\n[3]', r"a\.jsonl:2 is list, not an object"),
        ("a.json", "[3]", r"a\.json, entry 1, is int, not an object"),
        ("a.json", "7", r"a\.json:1 is int, not captions"),
        ("a.json", "[]", r"a\.json:1 holds no captions"),
        ("a.json", "[" * 100_000, r"a\.json:1 is not JSON"),
        ("a.json", '[{"caption": "x"}]', 'entry 1, has no "image" or "image_id"'),
        ("a.json", '[{"image_id": 1.5, "caption": "x"}]', "entry 1, names its picture '1.5'; an id is text or a whole"),
        ("a.json", '[{"image_id": 1, "caption": 3}]', "has no caption of '1' that is text"),
        ("a.json", '{"1": ["x", "y"]}', "gives '1' more than one caption"),
        ("a.json", '{"1": "x", "2": "z", "1": "y"}', "has '1' twice in one object"),
        ("a.jsonl", '{"image": "1", "caption": "x"}\n{"image": "2", "caption": "x", "caption": "y"}',
         r"a\.jsonl, from line 2 on, has 'caption' twice"),
        ("a.json", '[{"image_id": 1, "caption": "x"}, {"image_id": "1", "caption": "y"}]', "entry 2, gives '1' more"),
        ("a.jsonl", '{"image": "1", "error": "broken"}\n{"image": "2", "caption": "x"}',
         r"1 picture has an error instead of a caption \('1' at .*a\.jsonl:1\)"),
        ("a.json", '{"images": [{"filename": "a"}]}', r'image 1, has no "filename" and "sentences" .*KeyError'),
        ("a.csv", "image,caption\na,x\nb,y\na,z\n", r"a\.csv:4 gives 'a' more than one caption"),
        ("a.csv", "image,caption\n", r"a\.csv:1 holds no captions"),
        ("a.csv", "picture,caption\na,x\n", r"has the columns 'picture', 'caption', none of which names the picture; "
         r"call one image, image_id, .* or id and one caption, "),
        ("a.tsv", "image\tlabel\na\tx\n", r"has the columns 'image', 'label', none of which names the captions"),
        ("a.txt", "a dog runs\n", r"a\.txt:1 has the columns 'a dog runs', none of which names the picture"),
        ("a.csv", "image,caption\na.jpg,x\n,y\n", r"a\.csv:3 names its picture ''"),
        ("a.csv", "caption,image\nx, y,a.jpg\n", r"a\.csv:2 does not have 2 cells \('caption', 'image'\) but 3;"),
        ("a.csv", "image,caption\na.jpg\n", r"a\.csv:2 does not have 2 cells .* but 1; put a"),
        ("a.csv", 'image,caption\na.jpg,"x\ny"\nb.jpg,"x\nc.jpg,y\n', r"a\.csv:4 opens a quote that nothing closes"),
        ("a.csv", 'image,caption\na.jpg,"x\nb.jpg,y\nc.jpg,"z"\n', r"a\.csv:2 opens a quote that nothing closes"),
        ("a.csv", f'image,caption\na.jpg,"{LONG}"\n', r"a\.csv:2 has a cell that is too long .*131072"),
        ("a.csv", LONG, r"a\.csv:1 has the columns 'a dog', 'a dog', "),
        ("a.txt", "a.jpg#0\tx\na.jpg#1 y\n", r"a\.txt:2 is not `name\.jpg#0<TAB>caption`"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_with_a_sentence(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DataError, match=sentence) as caught:
        read_candidates(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.json: No such file"):
        read_references(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"a": "caf\xe9"}')
    with pytest.raises(DataError, match=r"latin\.json is not UTF-8 text"):
        read_references(tmp_path / "latin.json")
    (tmp_path / "empty.json").write_text('{"a": []}')
    with pytest.raises(DataError, match="gives 'a' no caption"):
        read_references(tmp_path / "empty.json")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.token"])
def test_a_caption_of_a_million_characters_is_read(tmp_path: Path, name: str) -> None:
    text = {
        "a.json": json.dumps([{"image_id": "a", "caption": LONG}]),
        "a.jsonl": json.dumps({"image": "a", "caption": LONG}),
        "a.token": f"a#0\t{LONG}\n",
    }[name]
    (tmp_path / name).write_text(text, "utf-8")
    assert read_candidates(tmp_path / name)["a"].strip() == LONG.strip()


def test_control_characters_and_line_ends_stay_out_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfimage,caption\r\n a.jpg ,x\x00\x07y\r\nb.jpg,"two\r\nlines"\r\n')
    assert read_references(path) == {"a.jpg": ["x\x00\x07y"], "b.jpg": ["two\nlines"]}
