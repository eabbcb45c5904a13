"""Tables of any format give the same examples; columns are guessed from names and cells; what is wrong is named."""

from __future__ import annotations

import csv
import io
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from showtell.datasets.files import check_caption
from showtell.datasets.tables import Columns, find_tables, guess_columns, read_table
from showtell.errors import BackendError, DataError
from showtell.records import Example, Finding

Make = Callable[..., Path]


@pytest.fixture
def findings() -> list[Finding]:
    return []


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a table beside the (empty) pictures a.jpg, b.jpg, images/c.jpg and deep/ảnh.png."""

    def write(content: str | bytes, name: str = "t.csv") -> Path:
        for picture in ("a.jpg", "b.jpg", "images/c.jpg", "deep/ảnh.png"):
            (tmp_path / picture).parent.mkdir(exist_ok=True)
            (tmp_path / picture).touch()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def captions(examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    return {example.id: example.references for example in examples}


# formats

ROWS: list[dict[str, Any]] = [
    {"file": "b.jpg", "text": "a dog, running", "split": "dev"},
    {"file": "deep/ảnh.png", "text": 'một "con mèo"', "split": "train"},
    {"file": "b.jpg", "text": "two dogs; or | three\tfour", "split": "validation"},
    {"file": "images/c.jpg", "text": "a hen\nsits", "split": "TEST"},
]


def delimited(rows: Sequence[dict[str, Any]], delimiter: str = ",", end: str = "\n", quoting: int = 0) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", delimited(ROWS)),
        ("t.csv", delimited(ROWS, end="\r\n")),
        ("t.csv", delimited(ROWS, end="\r", quoting=csv.QUOTE_ALL)),
        ("t.csv", delimited(ROWS, ";", quoting=csv.QUOTE_ALL)),
        ("t.csv", "sep=|\r\n" + delimited(ROWS, "|", "\r\n")),
        ("t.tsv", delimited(ROWS, "\t")),
        ("t.tsv", delimited(ROWS).encode("utf-8-sig")),
        ("t.csv", delimited(ROWS).encode("utf-16")),
        ("t.txt", delimited(ROWS, "|")),
        ("t.jsonl", lines(ROWS)),
        ("t.json", lines(ROWS)),
        ("t.json", json.dumps(ROWS, indent=1)),
        ("t.jsonl", json.dumps(ROWS)),
        ("table", " \n" + json.dumps(ROWS)),
        ("t.json", json.dumps(ROWS, ensure_ascii=False).encode("utf-8-sig")),
    ],
)
def test_one_table_in_every_format(make: Make, findings: list[Finding], name: str, content: str | bytes) -> None:
    path = make(content, name)
    assert read_table(path, notice=findings.append) == [
        Example("b.jpg", f"{path.parent}/b.jpg", ("a dog, running", "two dogs; or | three four"), "val"),
        Example("deep/ảnh.png", f"{path.parent}/deep/ảnh.png", ('một "con mèo"',), "train"),
        Example("images/c.jpg", f"{path.parent}/images/c.jpg", ("a hen sits",), "test"),
    ]
    assert not findings
    assert guess_columns(path) == Columns("file", ("text",), "split")
    assert str(guess_columns(path)) == "pictures from 'file', captions from 'text', splits from 'split'"


def test_parquet_reads_as_csv_does(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = make(delimited(ROWS))
    table = pyarrow.Table.from_pylist(ROWS * 4000)
    table = table.append_column("vector", pyarrow.array([[0.5, 1.0]] * len(table)))
    files = {
        "plain": table,
        "dictionary": table.set_column(0, "file", table["file"].dictionary_encode()),
        "large": table.set_column(1, "text", table["text"].cast(pyarrow.large_string())),
    }
    for name, content in files.items():
        parquet.write_table(content, path.with_name(f"{name}.parquet"), row_group_size=5000)
        examples = read_table(path.with_name(f"{name}.parquet"))
        assert [(example.id, example.split) for example in examples] == [
            (example.id, example.split) for example in read_table(path)
        ]
        assert [example.references for example in examples] == [
            example.references * 4000 for example in read_table(path)
        ]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendError, match=r"plain\.parquet is Parquet, which needs pyarrow; run: pip install 'showt"):
        read_table(path.with_name("plain.parquet"))


def test_several_captions_a_row_in_every_way(make: Make) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    expected = {"a.jpg": ("a cat", "it's a cat, sitting"), "b.jpg": ("a dog",)}
    tables = [
        make('image,caption_0,caption_1\na.jpg,a cat,"it\'s a cat, sitting"\nb.jpg,,a dog\n', "1.csv"),
        make(
            lines([{"img": "a.jpg", "captions": expected["a.jpg"]}, {"img": "b.jpg", "captions": "a dog"}]), "2.jsonl"
        ),
        make('img;captions\na.jpg;"[""a cat"", ""it\'s a cat, sitting""]"\nb.jpg;"[\'a dog\']"\n', "3.csv"),
        make('img;captions\na.jpg;"[\'a cat\' ""it\'s a cat, sitting""]"\nb.jpg;a dog\n', "4.csv"),
        make("img;captions\na.jpg;\"['a cat', 'it\\'s a cat, sitting',]\"\nb.jpg;\"['', 'a dog']\"\n", "5.csv"),
    ]
    rows = [{"img": "a.jpg", "raw": ["a cat", None, "it's a cat, sitting"]}, {"img": "b.jpg", "raw": ["a dog"]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tables[0].with_name("6.parquet"))
    for path in [*tables, tables[0].with_name("6.parquet")]:
        assert captions(read_table(path)) == expected, path


def test_text_in_brackets_is_a_caption(make: Make) -> None:
    path = make('image,caption\na.jpg,[\'a\' sign\nb.jpg,"[""x"", 3]"\n')
    found: list[Finding] = []
    assert captions(read_table(path, notice=found.append)) == {"a.jpg": ("['a' sign",)}
    assert [finding.message for finding in found] == [
        f"{path}:3 has a caption that is int, not text; write it as text",
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_any_text_comes_out_of_a_table_as_it_went_in(
    make: Make, texts: list[str], delimiter: str, end: str, quoting: int
) -> None:
    path = make(delimited([{"image": "a.jpg", "caption": f"x {text}"} for text in texts], delimiter, end, quoting))
    meant = [f"x {text}".replace("\r\n", "\n") for text in texts]
    (example,) = read_table(path, notice=lambda finding: None)
    assert example.references == tuple(check_caption(text, "x") for text in meant)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    table=st.sampled_from([("t.csv", delimited(ROWS)), ("t.jsonl", lines(ROWS)), ("t.json", json.dumps(ROWS))]),
    place=st.integers(0, 300),
    cut=st.integers(0, 40),
    put=st.binary(max_size=8) | st.sampled_from([b'"', b"\n", b"\0", b"[", b"\\", b"\xff\xfe", b"null", b"\\ud800"]),
)
def test_damage_is_a_sentence_and_never_a_crash(
    make: Make, table: tuple[str, str], place: int, cut: int, put: bytes
) -> None:
    name, content = table
    data = content.encode()
    path = make(data[:place] + put + data[place + cut :], name)
    try:
        examples = read_table(path, notice=lambda finding: None)
    except DataError:
        return
    assert examples
    assert all(example.references and all(map(str.strip, example.references)) for example in examples)


# columns


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("image,caption", "a.jpg,a cat", Columns("image", ("caption",))),
        ("Image Path,Alt-Text,Set", "a.jpg,a cat,train", Columns("Image Path", ("Alt-Text",), "Set")),
        ("set,image_id,file_name,label", "kitchen,7,a.jpg,a cat", Columns("file_name", ("label",))),
        ("image,asset,note", "Mona Lisa,a.jpg,a cat on a mat", Columns("asset", ("note",))),
        ("id,url,photo,Caption1,caption_2,caption_id", "7,https://x/a.jpg,a.jpg,a,b,9",
         Columns("photo", ("Caption1", "caption_2"))),
        ("file,kind,words,text_id", "a.jpg,cat,a cat on a mat,7", Columns("file", ("words",))),
        ("file,label,note", "a.jpg,3,a cat on a mat", Columns("file", ("note",))),
        ("file,kind,标题", "a.jpg,cat,一只猫坐在垫子上", Columns("file", ("标题",))),
        ("file,fold,partition,text", "a.jpg,train,test,a cat", Columns("file", ("text",), "partition")),
        (",image,title,description", "0,a.jpg,Cat,a cat", Columns("image", ("description",))),
        ("image,caption,caption", "a.jpg,a cat,a pet", Columns("image", ("caption", "caption"))),
        ("path,comment,title", "a,a cat,Cat", Columns("path", ("comment",))),
        ("file,caption", "a.jpg,3", Columns("file", ("caption",))),
    ],
)  # fmt: skip
def test_columns_are_guessed(make: Make, header: str, row: str, expected: Columns) -> None:
    expected = Columns(expected.image, tuple(dict.fromkeys(expected.captions)), expected.split)
    assert guess_columns(make(f"{header}\n{row}\n")) == expected


def test_columns_that_are_named_are_read(make: Make) -> None:
    path = make("image,thumb,caption,title,fold\na.jpg,b.jpg,a cat,Cat,test\n")
    (plain,) = read_table(path)
    assert (plain.id, plain.references, plain.split) == ("a.jpg", ("a cat",), None)
    (named,) = read_table(path, Columns("THUMB", ("title", "caption"), "fold"))
    assert (named.id, named.references, named.split) == ("b.jpg", ("a cat", "Cat"), "test")
    assert guess_columns(path, Columns("thumb")) == Columns("thumb", ("caption",))
    assert captions(read_table(make("image,caption,caption\na.jpg,a cat,a pet\n"))) == {"a.jpg": ("a cat", "a pet")}


@pytest.mark.parametrize(
    ("content", "columns", "sentence"),
    [
        ("image,caption\na.jpg,a cat\n", Columns(captions=("capton",)),
         r"t\.csv has no column 'capton'; its columns are 'image', 'caption'; did you mean 'caption'\?$"),
        ("image,caption\na.jpg,a cat\n", Columns("thumb"),
         r"has no column 'thumb'; its columns are 'image', 'caption'$"),
        ("image,caption\na.jpg,a cat\n", Columns(split="fold"), r"no column 'fold'"),
        ("image,caption\na.jpg,a cat\n", Columns(captions=("image",), image="image"),
         r"the column 'image' of .*t\.csv cannot hold both pictures and captions; name another"),
        ("image,caption\na.jpg,a cat\n", Columns(pictures=Path("lost")),
         r"there is no folder lost; give the folder that the pictures are in \(--pictures DIR\)"),
        ("name,caption\nCat,a cat\n", Columns(),
         r"no column that looks like paths of pictures; its columns are 'name', 'caption': name one \(--columns ima"),
        ("name,url\nCat,http://x/a.jpg\n", Columns(),
         r"holds web addresses in 'url', not paths; download the pictures and name a column of their paths"),
        ("image,id\na.jpg,7\n", Columns(),
         r"no column that looks like captions; its columns are 'image', 'id': name one \(--columns caption=NAME\)"),
        ("image,image,caption\na.jpg,b.jpg,a cat\n", Columns(),
         r"t\.csv has 2 columns 'image'; give each a name of its own"),
        ("image,caption\n", Columns(), r"t\.csv has no row below the names of its columns \('image', 'caption'\)"),
        ("a.jpg,a cat\nb.jpg,a dog\n", Columns(),
         r"t\.csv begins with a row \('a\.jpg'\), not with the names of its columns; put a first line such as "
         r"'image,caption' above it"),
        ("caption\na cat\n", Columns(), r"t\.csv begins with one column \('caption\\na cat'\); a table has one of"),
        ("", Columns(), r"t\.csv is empty; get the file again"),
        ("image,caption\n".encode("utf-16-le"), Columns(), r"is not text, or UTF-16 without a byte order mark"),
        (b"PK\x03\x04....", Columns(), r"t\.csv is a spreadsheet or a zip; save its table as CSV \(UTF-8\)"),
        (b"\x1f\x8b....", Columns(), r"t\.csv is packed with gzip; unpack it first"),
        ("image,caption\na.jpg,a cat, sitting\nb.jpg,a dog, running\n", Columns(),
         r"t\.csv:2 has 3 cells, but there are 2 columns; put a cell that holds ',' between double quotes"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read(make: Make, content: str | bytes, columns: Columns, sentence: str) -> None:
    path = make(content)
    with pytest.raises(DataError, match=sentence):
        read_table(path, columns)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.json", b"", r"t\.json is empty"),
        ("t.json", b'[{"image": "a.jpg", "capt', r"t\.json:1 breaks off in the middle"),
        ("t.json", b"[]", r"holds no rows; it should hold a list of objects, such as \{\"image\""),
        ("t.json", b"[1, 2]", r"t\.json, entry 1 is int, not an object such as"),
        ("t.jsonl", b'{"image": "a.jpg"', r"t\.jsonl:1 is not JSON"),
        ("t.json", b'{\n "image": "a.jpg"\n}', r"t\.json:1 is not JSON"),
        ("t.parquet", b"image,caption\n", r"t\.parquet is not Parquet \(it does not begin with PAR1\); get the file"),
        ("t.parquet", b"PAR1", r"t\.parquet is not Parquet that can be read \(.*\); get the file again"),
        ("t.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", r"t\.parquet is not Parquet that can be read"),
    ],
)
def test_a_file_that_is_not_what_it_is_called(make: Make, name: str, content: bytes, sentence: str) -> None:
    pytest.importorskip("pyarrow")
    path = make(content, name)
    with pytest.raises(DataError, match=sentence):
        read_table(path)
    with pytest.raises(DataError, match=r"cannot read .*lost\.csv \(No such file or directory\); check the path"):
        read_table(path.with_name("lost.csv"))


def test_parquet_that_is_damaged_or_holds_the_pictures_themselves(make: Make) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = make(delimited(ROWS)).with_name("t.parquet")
    rows = [{"image": {"bytes": b"\xff\xd8", "path": "a.jpg"}, "file": "a.jpg", "text": "a cat"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert captions(read_table(path)) == {"a.jpg": ("a cat",)}
    sentence = (
        r"t\.parquet holds the pictures themselves in 'image', not their paths; write them to files and name a column "
        r"of their paths \(--columns image=NAME\)"
    )
    with pytest.raises(DataError, match=sentence):
        read_table(path, Columns("image"))
    parquet.write_table(pyarrow.Table.from_pylist([{"image": rows[0]["image"], "text": "a cat"}]), path)
    with pytest.raises(DataError, match=sentence):
        guess_columns(path)
    parquet.write_table(pyarrow.Table.from_pylist(ROWS * 1000), path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"t\.parquet is not Parquet that can be read"):
        read_table(path)


# pictures


def test_pictures_are_found_where_tables_keep_them(make: Make, tmp_path: Path) -> None:
    path = make(
        f"image,caption\nc.jpg,a hen\n.\\a.jpg,a cat\n{tmp_path}/deep/ảnh.png,một con mèo\nb.jpg,a dog\n", "set.csv"
    )
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "b.jpg").touch()
    (tmp_path / "set" / "d.jpg").touch()
    path.write_text(path.read_text() + "d.jpg,a door\n")
    assert [(example.id, example.image) for example in read_table(path)] == [
        (name, f"{tmp_path}/{name}") for name in ("images/c.jpg", "a.jpg", "deep/ảnh.png", "b.jpg", "set/d.jpg")
    ]


def test_pictures_are_found_below_another_folder(make: Make, tmp_path: Path) -> None:
    path = make("image,caption\nc.jpg,a hen\n", "lists/t.csv")
    with pytest.raises(DataError, match=r"none of the 1 pictures .*t\.csv names is in .*lists \('c\.jpg'; first at"):
        read_table(path)
    (example,) = read_table(path, Columns(pictures=tmp_path / "images"))
    assert (example.id, example.image) == ("c.jpg", f"{tmp_path}/images/c.jpg")
    (example,) = read_table(path, Columns(pictures=tmp_path))
    assert example.id == "images/c.jpg"


def test_pictures_are_found_in_a_zip(make: Make, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("z.jpg", b"z")
    (example,) = read_table(make("image,caption\nz.jpg,a zebra\n"))
    assert (example.id, example.image) == ("images/z.jpg", f"{tmp_path}/images.zip!z.jpg")


def test_names_without_a_suffix_are_completed(make: Make, tmp_path: Path, findings: list[Finding]) -> None:
    rows = [{"image_id": name, "caption": f"picture {name}"} for name in (7, "x.y", 8.0, "c", "twice", True, 9)]
    path = make(lines(rows), "t.jsonl")
    for name in ("7.jpg", "images/x.y.PNG", "8.webp", "twice.jpg", "twice.png", "9.txt"):
        (tmp_path / name).touch()
    assert captions(read_table(path, notice=findings.append)) == {
        "7.jpg": ("picture 7",),
        "images/x.y.PNG": ("picture x.y",),
        "8.webp": ("picture 8.0",),
        "images/c.jpg": ("picture c",),
    }
    assert [(found.kind, found.message) for found in findings] == [
        ("path", f"{path}:5 names 'twice', which may be twice.jpg or twice.png; write the suffix"),
        ("path", f"{path}:6 names no picture; give the path of a picture inside {tmp_path}"),
        (
            "missing-picture",
            f"1 of the 5 pictures that {path} names are not in {tmp_path} ('9'; first at {path}:7); they are left out",
        ),
    ]  # fmt: skip


def test_paths_that_lead_out_are_refused(make: Make, tmp_path: Path, findings: list[Finding]) -> None:
    outside = [
        "../a.jpg",
        "deep/../../a.jpg",
        "/etc/a.jpg",
        "C:\\a.jpg",
        "https://x/a.jpg",
        "a\0.jpg",
        f"{tmp_path}/../a.jpg",
    ]
    content = "image,caption\n" + "".join(f"{name},a cat\n" for name in [*outside, "", "a.jpg"])
    path = make(content)
    assert captions(read_table(path, notice=findings.append)) == {"a.jpg": ("a cat",)}
    assert [(found.kind, found.where) for found in findings] == [("path", f"{path}:{line}") for line in range(2, 10)]
    assert findings[2].message == (
        f"{path}:4 names '/etc/a.jpg', which is not inside {tmp_path}; name the folder that the pictures are in "
        "(--pictures DIR)"
    )
    with pytest.raises(DataError, match=r"t\.csv:2 names '\.\./a\.jpg', which is not inside"):
        read_table(path)


def test_a_link_that_leads_out_is_noticed_and_followed(
    make: Make, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, findings: list[Finding]
) -> None:
    path = make("image,caption\nl.jpg,a link\n")
    (tmp_path / "l.jpg").symlink_to(tmp_path_factory.mktemp("outside") / "l.jpg")
    assert captions(read_table(path, notice=findings.append)) == {"l.jpg": ("a link",)}
    assert [(found.kind, found.where, found.breaks) for found in findings] == [("link", f"{tmp_path}/l.jpg", False)]


def test_missing_pictures_are_counted_once(make: Make, findings: list[Finding]) -> None:
    path = make("image,caption\na.jpg,a cat\n" + "".join(f"x{i % 4}.jpg,a dog\n" for i in range(8)))
    assert captions(read_table(path, notice=findings.append)) == {"a.jpg": ("a cat",)}
    (found,) = findings
    assert (found.kind, found.where, found.breaks) == ("missing-picture", f"{path}:3", False)
    assert found.message == (
        f"4 of the 5 pictures that {path} names are not in {path.parent} ('x0.jpg', 'x1.jpg', 'x2.jpg', …; first at "
        f"{path}:3); they are left out"
    )
    path.write_text("image,caption\nx.jpg,a dog\ny.jpg,a dog\n")
    with pytest.raises(DataError, match=r"none of the 2 pictures that .*t\.csv names is in .*:2\); name the folder"):
        read_table(path, notice=findings.append)


# rows


def test_rows_that_cannot_be_used_are_named_and_left_out(make: Make, findings: list[Finding]) -> None:
    path = make(
        "image,caption,split\n"
        "a.jpg,a cat,train\n"
        "\n"
        ",,\n"
        'b.jpg,"a dog\nthat runs\n",val\n'
        "b.jpg,,val\n"
        "b.jpg\n"
        "a.jpg,a cat, sitting,train\n"
        "a.jpg,a pet,test\n"
        "a.jpg,a pet,fold1\n"
        f"a.jpg,{'a' * 10**6},train\n"
        f"a.jpg,{'a' * 20_000},train\n"
        "a.jpg,\x00\x1b,train\n"
        "a.jpg,a\x07 pet,train,,\n"
    )
    assert read_table(path, notice=findings.append) == [
        Example("a.jpg", f"{path.parent}/a.jpg", ("a cat", "a  pet"), "train"),
        Example("b.jpg", f"{path.parent}/b.jpg", ("a dog that runs",), "val"),
    ]
    assert [(found.kind, found.where.removeprefix(f"{path}:"), found.breaks) for found in findings] == [
        ("caption", "8", True),
        ("caption", "9", True),
        ("row", "10", True),
        ("split", "11", True),
        ("split", "12", True),
        ("caption", "13", True),
        ("caption", "14", True),
        ("caption", "15", True),
    ]
    sentences = [found.message.removeprefix(f"{path}:") for found in findings]
    assert sentences[0] == "8 has no caption; write one, or remove the row"
    assert sentences[2].startswith("10 has 4 cells, but there are 3 columns; put a cell that holds ',' between")
    assert sentences[3] == "11 lists 'a.jpg' in test, and earlier in train; a picture has one split"
    assert sentences[4].startswith("12 has split 'fold1'; accepted are train, val, test")
    assert sentences[5] == (
        f"13 has a cell of more than {csv.field_size_limit():,} characters; at most 10,000 are accepted of a caption: "
        "cut it, or remove its column"
    )
    assert sentences[6] == "14 has a caption of 20,000 characters; at most 10,000 are accepted: cut it"
    for finding in findings:
        assert finding.breaks
    with pytest.raises(DataError, match=r"t\.csv:8 has no caption"):
        read_table(path)


def test_a_quote_that_nothing_closes_costs_its_own_row_only(make: Make, findings: list[Finding]) -> None:
    rows = ["a.jpg,one", 'a.jpg,"two', "b.jpg,three", 'a.jpg,"four, five"', "b.jpg,six", 'a.jpg,"seven', "b.jpg,eight"]
    path = make("image,caption\n" + "\n".join(rows))
    examples = read_table(path, notice=findings.append)
    assert captions(examples) == {"a.jpg": ("one", "four, five"), "b.jpg": ("three", "six", "eight")}
    assert [(found.kind, found.where) for found in findings] == [("row", f"{path}:3"), ("row", f"{path}:7")]
    assert (
        findings[0].message
        == f"{path}:3 opens a quote that nothing closes; close it, or double each quote inside a cell"
    )
    many = "image,caption\n" + 'a.jpg,"one\n' + "b.jpg,a dog that runs in the park\n" * 20_000
    findings.clear()
    (example,) = read_table(make(many), notice=findings.append)
    assert len(example.references) == 20_000
    assert [found.where for found in findings if found.breaks] == [f"{path}:2"]


def test_rows_of_one_picture_belong_together_unless_each_holds_all_its_captions(
    make: Make, findings: list[Finding]
) -> None:
    path = make("image,caption1,caption2\na.jpg,a cat,a pet\nb.jpg,a dog,\na.jpg,fur,\n")
    assert captions(read_table(path, notice=findings.append)) == {"a.jpg": ("a cat", "a pet"), "b.jpg": ("a dog",)}
    (found,) = findings
    assert (found.kind, found.where, found.breaks) == ("repeated-picture", f"{path}:4", True)
    assert found.message == (
        f"{path}:4 lists 'a.jpg' a second time; a row with several captions holds all of its picture: make one row of "
        "the two"
    )


def test_rows_that_are_there_twice_are_noticed(make: Make, findings: list[Finding]) -> None:
    path = make("image,caption\nb.jpg,a dog\na.jpg,a cat\na.jpg,a pet\n./a.jpg,a cat\n")
    assert captions(read_table(path, notice=findings.append)) == {
        "b.jpg": ("a dog",),
        "a.jpg": ("a cat", "a pet", "a cat"),
    }
    (found,) = findings
    assert (found.kind, found.breaks) == ("caption", False)
    assert found.message == (
        f"{path} gives 1 of 2 pictures the same caption more than once ('a.jpg': 'a cat'); remove the rows that are "
        "there twice"
    )


def test_a_picture_without_a_split_among_others_that_name_theirs_is_train(make: Make, findings: list[Finding]) -> None:
    path = make("image,caption,split\na.jpg,a cat,\nb.jpg,a dog,val\nc.jpg,a hen,\na.jpg,a pet,test\n")
    examples = read_table(path, notice=findings.append)
    assert [(example.id, example.split) for example in examples] == [
        ("a.jpg", "test"), ("b.jpg", "val"), ("images/c.jpg", "train"),
    ]  # fmt: skip
    (found,) = findings
    assert (found.kind, found.breaks) == ("split", False)
    assert "names no split for 1 of 3 pictures ('images/c.jpg'); they are read as train" in found.message
    assert [example.split for example in read_table(make("image,caption,split\na.jpg,a cat,\n"))] == [None]


def test_mixed_encodings_are_read_and_named_with_their_lines(make: Make, findings: list[Finding]) -> None:
    rows = [b"image,caption", "a.jpg,schön".encode(), "a.jpg,größer".encode("cp1252"), "b.jpg,schÃ¶n".encode()]
    path = make(b"\xef\xbb\xbf" + b"\r\n".join(rows))
    assert captions(read_table(path, notice=findings.append)) == {"a.jpg": ("schön", "größer"), "b.jpg": ("schÃ¶n",)}
    assert [(found.kind, found.where, found.breaks) for found in findings] == [
        ("encoding", f"{path}:3", False),
        ("mojibake", f"{path}:4", False),
    ]
    findings.clear()
    path = make(
        '[{"image": "a.jpg", "caption": "schön"}, {"image": "b.jpg", "caption": "a dog"}]'.encode("cp1252"), "t.json"
    )
    assert captions(read_table(path, notice=findings.append)) == {"a.jpg": ("schön",), "b.jpg": ("a dog",)}
    assert [(found.kind, found.where, found.breaks) for found in findings] == [("encoding", f"{path}, entry 1", False)]


def test_lines_and_entries_that_are_no_rows_are_named(make: Make, findings: list[Finding]) -> None:
    rows = [
        '{"image": "a.jpg", "caption": "a cat"}',
        "{",
        "3",
        '{"image": "b.jpg"}',
        '{"image": "b.jpg", "caption": 3}',
    ]
    path = make("\n".join(rows), "t.jsonl")
    assert captions(read_table(path, notice=findings.append)) == {"a.jpg": ("a cat",)}
    assert [(found.kind, found.where) for found in findings] == [
        ("row", f"{path}:2"), ("row", f"{path}:3"), ("caption", f"{path}:4"), ("caption", f"{path}:5"),
    ]  # fmt: skip
    findings.clear()
    path = make(f"[{rows[0]}, 3, {rows[3]}, {rows[4]}]", "t.json")
    assert captions(read_table(path, notice=findings.append)) == {"a.jpg": ("a cat",)}
    assert [(found.kind, found.where.removeprefix(f"{path}, ")) for found in findings] == [
        ("row", "entry 2"), ("caption", "entry 3"), ("caption", "entry 4"),
    ]  # fmt: skip


def test_a_table_without_a_row_that_can_be_used_is_refused(make: Make) -> None:
    path = make("image,caption\n../a.jpg,a cat\n")
    with pytest.raises(
        DataError, match=r"t\.csv has no row that can be used; it needs a picture and a caption in each"
    ):
        read_table(path, notice=lambda finding: None)


# folders


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["metadata.csv", "more.csv"], {"metadata.csv": None}),
        (["train/metadata.jsonl", "test/metadata.csv", "more/metadata.csv"],
         {"test/metadata.csv": "test", "train/metadata.jsonl": "train"}),
        (["train.csv", "Validation.tsv", "test.jsonl", "more.csv"],
         {"Validation.tsv": "val", "test.jsonl": "test", "train.csv": "train"}),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
         {"train-00000-of-00002.parquet": "train", "train-00001-of-00002.parquet": "train"}),
        (["captions_train.csv", "captions_dev.csv"], {"captions_dev.csv": "val", "captions_train.csv": "train"}),
        (["my_test.csv"], {"my_test.csv": None}),
        (["test_train.csv", ".hidden.csv", "notes.txt", "more/x.csv"], {"test_train.csv": None}),
        (["metadata.csv", "metadata.jsonl"], {}),
        (["a.csv", "b.csv"], {}),
        (["notes.txt"], {}),
    ],
)  # fmt: skip
def test_the_tables_of_a_folder(tmp_path: Path, files: list[str], expected: dict[str, str | None]) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {str(table.relative_to(tmp_path)): split for table, split in find_tables(tmp_path)} == expected
    if not expected:
        tables = sorted(name for name in files if not name.endswith(".txt"))
        trouble = rf"several tables \({', '.join(tables)}\)" if tables else "no table"
        with pytest.raises(DataError, match=rf"holds {trouble}; give the path of the one to read"):
            read_table(tmp_path)


def test_a_folder_of_split_folders_gives_paths_below_it(make: Make, tmp_path: Path, findings: list[Finding]) -> None:
    make(
        lines([{"file_name": "x.jpg", "text": "a fox"}, {"file_name": "lost.jpg", "text": "x"}]), "train/metadata.jsonl"
    )
    make("file_name,text,split\nx.jpg,an ox,\ny.jpg,a yak,val\n", "test/metadata.csv")
    for name in ("train/x.jpg", "test/x.jpg", "test/images/y.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert read_table(tmp_path, notice=findings.append) == [
        Example("test/x.jpg", f"{tmp_path}/test/x.jpg", ("an ox",), "test"),
        Example("test/images/y.jpg", f"{tmp_path}/test/images/y.jpg", ("a yak",), "val"),
        Example("train/x.jpg", f"{tmp_path}/train/x.jpg", ("a fox",), "train"),
    ]
    assert [(found.kind, found.where) for found in findings] == [
        ("missing-picture", f"{tmp_path}/train/metadata.jsonl:2")
    ]
    assert guess_columns(tmp_path) == Columns("file_name", ("text",), "split")


def test_tables_of_splits_share_their_pictures(make: Make, tmp_path: Path, findings: list[Finding]) -> None:
    make("image,caption\na.jpg,a cat\n", "train.csv")
    path = make("image,caption\nb.jpg,a dog\na.jpg,a cat\n", "val.csv")
    examples = read_table(tmp_path, notice=findings.append)
    assert [(example.id, example.split) for example in examples] == [("a.jpg", "train"), ("b.jpg", "val")]
    assert [found.message for found in findings] == [
        f"{path}:3 lists 'a.jpg' in val, and earlier in train; a picture has one split"
    ]
    assert [example.split for example in read_table(path)] == ["val", "val"]


def test_captions_of_flickr8k_read_as_they_are(shared_data: Path, findings: list[Finding]) -> None:
    folder = shared_data / "flickr8k"
    examples = read_table(folder / "captions.txt", notice=findings.append)
    expected: dict[str, list[str]] = {}
    with (folder / "captions.txt").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            expected.setdefault(f"Images/{row['image']}", []).append(row["caption"].strip())
    there = {f"Images/{path.name}" for path in (folder / "Images").iterdir()}
    assert captions(examples) == {name: tuple(texts) for name, texts in expected.items() if name in there}
    assert {found.kind for found in findings} <= {"missing-picture", "caption"}
    assert not any(found.breaks for found in findings)
