"""Flickr8k and Flickr30k, as published and as Kaggle has them."""

from __future__ import annotations

import csv
import shutil
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.datasets.flickr import looks_like_flickr, read_flickr
from showtell.errors import DataError
from showtell.records import Example, Finding

TOKENS = 'a.jpg#0\tA dog , "running" .\na.jpg#1\tThe dog # 2 runs .\nb.jpg#0\tTwo cats .\n'


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    text = tmp_path / "Flickr8k_text"
    text.mkdir()
    (text / "Flickr8k.token.txt").write_text(TOKENS)
    (text / "Flickr_8k.trainImages.txt").write_text("a.jpg\n")
    (text / "Flickr_8k.devImages.txt").write_text("b.jpg\n")
    pictures(tmp_path / "Flicker8k_Dataset", "a.jpg", "b.jpg")
    return tmp_path


def test_the_originals_have_captions_and_splits(originals: Path) -> None:
    images = originals / "Flicker8k_Dataset"
    assert looks_like_flickr(originals)
    assert read_flickr(originals) == [
        Example("a.jpg", str(images / "a.jpg"), ('A dog , "running" .', "The dog # 2 runs ."), "train"),
        Example("b.jpg", str(images / "b.jpg"), ("Two cats .",), "val"),
    ]


def test_windows_lines_a_mark_and_pictures_in_a_zip_are_no_matter(originals: Path) -> None:
    expected = read_flickr(originals)
    listing = originals / "Flickr8k_text" / "Flickr8k.token.txt"
    listing.write_bytes(b"\xef\xbb\xbf" + TOKENS.replace("\n", "\r\n").encode())
    with zipfile.ZipFile(originals / "Images.zip", "w") as archive:
        for name in ("a.jpg", "b.jpg"):
            archive.writestr(f"Images/{name}", b"")
            (originals / "Flicker8k_Dataset" / name).unlink()
    packed = read_flickr(originals)
    assert [(one.id, one.references, one.split) for one in packed] == [
        (one.id, one.references, one.split) for one in expected
    ]
    assert packed[0].image == f"{originals}/Images.zip!Images/a.jpg"


def test_pictures_that_are_missing_or_in_no_list_are_left_out_and_counted(originals: Path) -> None:
    text = originals / "Flickr8k_text"
    more = "2258277193_586949ec62.jpg.1#0\tPeople in a park .\nc.jpg#0\tA bus .\nlost.jpg#0\tA boat .\n"
    (text / "Flickr8k.token.txt").write_text(TOKENS + more)
    (text / "Flickr_8k.testImages.txt").write_text("lost.jpg\nunknown.jpg\nnew.jpg\n")
    pictures(originals / "Flicker8k_Dataset", "c.jpg")
    findings: list[Finding] = []
    assert [example.id for example in read_flickr(originals, findings.append)] == ["a.jpg", "b.jpg"]
    unknown, split, missing = findings
    listing = text / "Flickr8k.token.txt"
    assert f"2 names of the split lists have no caption in {listing} (unknown.jpg, new.jpg, first" in unknown.message
    assert unknown.where == f"{text}/Flickr_8k.testImages.txt:2"
    assert "2 pictures of" in split.message
    assert "are in none of its splits (2258277193_586949ec62.jpg.1, c.jpg); they are left out" in split.message
    assert f"1 of 3 pictures that {listing} names are not below {originals}" in missing.message
    assert missing.where.endswith("Flickr8k.token.txt:6")
    assert not any(finding.breaks for finding in findings)


def test_none_of_the_pictures_is_there(originals: Path) -> None:
    for path in (originals / "Flicker8k_Dataset").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"2 of 2 pictures that .* they are looked for in Images/, .* put them there"):
        read_flickr(originals)


@pytest.mark.parametrize(
    ("line", "kind", "sentence"),
    [
        ("a.jpg a dog", "row", r"token\.txt:4 is not `name\.jpg#0<TAB>caption`; mend the line or remove it"),
        ("a.jpg#x\ta dog", "row", r"token\.txt:4 is not `name\.jpg#0<TAB>caption`"),
        ("a.jpg#2\t  ", "caption", r"token\.txt:4 has an empty caption"),
        ("a.jpg#2\t" + "x" * 10**6, "caption", r"token\.txt:4 has a caption of 1,000,000 characters; at most 10,000"),
    ],
)
def test_a_line_that_is_wrong_is_named(originals: Path, line: str, kind: str, sentence: str) -> None:
    (originals / "Flickr8k_text" / "Flickr8k.token.txt").write_text(f"{TOKENS}{line}\n")
    with pytest.raises(DataError, match=sentence):
        read_flickr(originals)
    findings: list[Finding] = []
    assert len(read_flickr(originals, findings.append)) == 2
    assert [finding.kind for finding in findings] == [kind]


def test_a_name_that_climbs_out_is_refused(originals: Path) -> None:
    (originals / "Flickr8k_text" / "Flickr8k.token.txt").write_text("../secret.jpg#0\tA dog .\na.jpg#0\tA dog .\n")
    (originals / "Flickr8k_text" / "Flickr_8k.trainImages.txt").write_text("a.jpg\n../secret.jpg\n")
    with pytest.raises(DataError, match=r"token\.txt:1 names '\.\./secret\.jpg', which is not inside"):
        read_flickr(originals)


def test_a_picture_of_two_lists_is_refused(originals: Path) -> None:
    (originals / "Flickr8k_text" / "Flickr_8k.testImages.txt").write_text("\nb.jpg\n")
    with pytest.raises(DataError, match=r"testImages\.txt:2 puts b\.jpg into test, another list into val"):
        read_flickr(originals)


def test_cp1252_and_mojibake_are_read_and_told(originals: Path) -> None:
    rows = TOKENS.encode() + "a.jpg#2\tEin Mädchen .\n".encode("cp1252") + "b.jpg#1\tEin MÃ¤dchen .\n".encode()
    (originals / "Flickr8k_text" / "Flickr8k.token.txt").write_bytes(rows)
    findings: list[Finding] = []
    a, b = read_flickr(originals, findings.append)
    assert a.references[-1] == "Ein Mädchen ."
    assert [(finding.kind, finding.where.rpartition(":")[2]) for finding in findings] == [
        ("encoding", "4"),
        ("mojibake", "5"),
    ]
    assert b.split == "val"


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ('a.jpg,A dog , a cat , and "more" .', 'A dog , a cat , and "more" .'),
        ('a.jpg,"A ""red"", wet dog ."', 'A "red", wet dog .'),
        ('"a.jpg","A dog ."', "A dog ."),
        ('a.jpg,"Hello" says a man , waving .', '"Hello" says a man , waving .'),
        ('a.jpg,"A man says "hello" , waving', '"A man says "hello" , waving'),
    ],
)
def test_kaggles_flickr8k_keeps_commas_and_quotes(tmp_path: Path, line: str, caption: str) -> None:
    pictures(tmp_path / "Images", "a.jpg", "b.jpg")
    (tmp_path / "captions.txt").write_text(f"image,caption\n{line}\nb.jpg,Two cats .\n")
    assert [(one.references, one.split) for one in read_flickr(tmp_path)] == [
        ((caption,), None),
        (("Two cats .",), None),
    ]


@given(st.lists(st.text('a," |#', min_size=1).filter(lambda text: text.strip(' "')), min_size=1))
def test_what_a_csv_writer_writes_is_read(captions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures(folder / "Images", "a.jpg")
        with (folder / "captions.txt").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("image", "caption"), *(("a.jpg", caption) for caption in captions)])
        (example,) = read_flickr(folder)
        assert example.references == tuple(caption.strip() for caption in captions)


def test_kaggles_files_use_the_lists_beside_them(originals: Path) -> None:
    (originals / "Flickr8k_text" / "Flickr8k.token.txt").unlink()
    (originals / "captions.txt").write_text("image,caption\na.jpg,A dog .\nb.jpg,Two cats .\n")
    assert [(one.id, one.split) for one in read_flickr(originals)] == [("a.jpg", "train"), ("b.jpg", "val")]


def test_the_originals_go_before_kaggles_file(originals: Path) -> None:
    expected = read_flickr(originals)
    (originals / "captions.txt").write_text("image,caption\na.jpg,Another .\n")
    assert read_flickr(originals) == expected


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        ("image,caption\na.jpg A dog .\n", "row", r"captions\.txt:2 is not `image,caption`; mend the line or remove"),
        ("image,caption\n,A dog .\n", "row", r"captions\.txt:2 is not `image,caption`"),
        ("image,caption\na.jpg,\n", "caption", r"captions\.txt:2 has an empty caption"),
        ("image_name,comment_number,comment\na.jpg,x,A dog\n", "row", r"captions\.txt:2 is not `image_name,comment_nu"),
    ],
)
def test_a_line_of_kaggles_that_is_wrong_is_named(tmp_path: Path, content: str, kind: str, sentence: str) -> None:
    pictures(tmp_path / "Images", "b.jpg")
    (tmp_path / "captions.txt").write_text(f"{content}b.jpg,0,Two cats .\n")
    with pytest.raises(DataError, match=sentence):
        read_flickr(tmp_path)
    findings: list[Finding] = []
    assert [example.id for example in read_flickr(tmp_path, findings.append)] == ["b.jpg"]
    assert [(finding.kind, finding.breaks) for finding in findings] == [(kind, True)]


def test_kaggles_flickr30k_and_its_broken_line(tmp_path: Path) -> None:
    pictures(tmp_path / "flickr30k_images" / "flickr30k_images", "1.jpg", "2199200615.jpg")
    (tmp_path / "results.csv").write_text(
        "image_name| comment_number| comment\n1.jpg| 0| Two men , one | two .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"
    )
    findings: list[Finding] = []
    one, two = read_flickr(tmp_path, findings.append)
    assert (one.references, two.references) == (("Two men , one | two .",), ("A dog runs across the grass .",))
    (found,) = findings
    assert "results.csv:3 lacks its second |; it was read as caption 4: 'A dog runs" in found.message
    assert not found.breaks


def test_kaggles_flickr30k_with_its_listing_among_the_pictures_and_commas(tmp_path: Path) -> None:
    pictures(tmp_path / "flickr30k_images" / "flickr30k_images", "1.jpg")
    listing = tmp_path / "flickr30k_images" / "results.csv"
    listing.write_text(
        'image_name,comment_number,comment\r\n1.jpg,0,"Two men , one dog ."\r\n1.jpg,1,A man , a dog .\r\n'
    )
    assert looks_like_flickr(tmp_path)
    (example,) = read_flickr(tmp_path)
    assert example.references == ("Two men , one dog .", "A man , a dog .")
    assert example.image == f"{tmp_path}/flickr30k_images/flickr30k_images/1.jpg"
    (again,) = read_flickr(tmp_path / "flickr30k_images")
    assert again == example


@pytest.mark.parametrize("suffix", [".jpg", ""], ids=["file names", "as Flickr30k Entities has them"])
def test_flickr30k_with_lists(tmp_path: Path, suffix: str) -> None:
    pictures(tmp_path / "flickr30k-images", "1.jpg", "2.jpg")
    (tmp_path / "results_20130124.token").write_text("1.jpg#0\tA man .\n2.jpg#0\tA dog .\n")
    (tmp_path / "train.txt").write_text(f"1{suffix}\n")
    (tmp_path / "test.txt").write_text(f"2{suffix}\n")
    assert [one.split for one in read_flickr(tmp_path)] == ["train", "test"]


def test_lists_of_other_pictures_are_refused(originals: Path) -> None:
    for name in ("trainImages", "devImages"):
        (originals / "Flickr8k_text" / f"Flickr_8k.{name}.txt").write_text(f"{name}.jpg\n")
    with pytest.raises(DataError, match=r"2 names of the split lists have no caption in .*\.txt:1\), and no other is"):
        read_flickr(originals)


@pytest.mark.parametrize(
    "place",
    [
        "Flickr8k_Dataset.zip!Flicker8k_Dataset/",  # as published
        "Flicker8k_Dataset.zip!",
        "Flicker8k_Dataset.zip!Flicker8k_Dataset/Flicker8k_Dataset/",
        "flickr30k-images.zip!flickr30k-images/",
        "Flicker8k_Dataset/Flicker8k_Dataset/",
        "flickr8k_images/",
        "My photographs/",
        "My photographs.zip!",
        "",
    ],
)
def test_pictures_are_found_where_people_keep_them(originals: Path, place: str) -> None:
    shutil.rmtree(originals / "Flicker8k_Dataset")
    archive, packed, member = place.partition("!")
    if packed:
        with zipfile.ZipFile(originals / archive, "w") as opened:
            for name in ("a.jpg", "b.jpg"):
                opened.writestr(f"{member}{name}", b"")
    else:
        pictures(originals / place, "a.jpg", "b.jpg")
    assert [example.image for example in read_flickr(originals)] == [
        f"{originals}/{place}a.jpg",
        f"{originals}/{place}b.jpg",
    ]


def test_names_that_lead_elsewhere_are_refused_and_links_are_told(originals: Path, tmp_path: Path) -> None:
    outside = tmp_path.with_name(f"{tmp_path.name}-outside.jpg")
    outside.touch()
    (originals / "Flicker8k_Dataset" / "b.jpg").unlink()
    (originals / "Flicker8k_Dataset" / "b.jpg").symlink_to(outside)
    listing = originals / "Flickr8k_text" / "Flickr8k.token.txt"
    listing.write_text(f"{TOKENS}../x.jpg#0\tA .\n/etc/passwd#0\tB .\nC:\\x.jpg#0\tC .\n")
    for name in ("trainImages", "devImages"):
        (originals / "Flickr8k_text" / f"Flickr_8k.{name}.txt").unlink()
    findings: list[Finding] = []
    assert [example.id for example in read_flickr(originals, findings.append)] == ["a.jpg", "b.jpg"]
    found = [(finding.kind, finding.where, finding.breaks) for finding in findings]
    assert sorted(found) == [
        ("link", f"{originals}/Flicker8k_Dataset/b.jpg", False),
        *(("path", f"{listing}:{line}", True) for line in (4, 5, 6)),
    ]
    with pytest.raises(DataError, match=r"token\.txt:4 names '\.\./x\.jpg', which is not inside .*; use a path below"):
        read_flickr(originals)


def test_control_characters_become_spaces(originals: Path) -> None:
    (originals / "Flickr8k_text" / "Flickr8k.token.txt").write_bytes(b"a.jpg#0\tA\x00 dog\x1b[2J .\nb.jpg#0\tB\x0b\n")
    assert [one.references for one in read_flickr(originals)] == [("A  dog [2J .",), ("B",)]


@pytest.mark.parametrize("content", [b"", b" \n\n"])
def test_an_empty_listing_is_named(originals: Path, content: bytes) -> None:
    (originals / "Flickr8k_text" / "Flickr8k.token.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"Flickr8k\.token\.txt is empty; get the file again"):
        read_flickr(originals)


def test_other_folders_do_not_look_like_flickr(tmp_path: Path) -> None:
    assert not looks_like_flickr(tmp_path)
    assert not looks_like_flickr(tmp_path / "lost")
    with pytest.raises(
        DataError, match=r"has none of Flickr8k\.token\.txt, .*, nor has a folder in it; put the captions"
    ):
        read_flickr(tmp_path)
    (tmp_path / "results.csv").write_text("epoch,loss\n1,2\n")
    (tmp_path / "captions.txt").touch()
    assert not looks_like_flickr(tmp_path)
    assert not looks_like_flickr(tmp_path / "captions.txt")


def test_a_wrong_header_is_told_with_those_that_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("file,text\na.jpg,A cat\n")
    assert not looks_like_flickr(tmp_path)
    with pytest.raises(DataError, match=r"captions\.txt:1 has the header 'file,text'; accepted is 'image,caption' or"):
        read_flickr(tmp_path)


@pytest.mark.parametrize("kaggle", [False, True])
def test_the_given_flickr8k(shared_data: Path, tmp_path: Path, kaggle: bool) -> None:
    source = shared_data / "flickr8k"
    if kaggle:  # without the official text, whose lists stay
        shutil.copytree(source / "Flickr8k_text", tmp_path / "lists")
        (tmp_path / "lists" / "Flickr8k.token.txt").chmod(0o600)
        (tmp_path / "lists" / "Flickr8k.token.txt").unlink()
        shutil.copy(source / "captions.txt", tmp_path)
        (tmp_path / "Images").symlink_to(source / "Images")
    findings: list[Finding] = []
    examples = read_flickr(tmp_path if kaggle else source, findings.append)
    assert Counter(example.split for example in examples) == {"train": 232, "val": 20, "test": 13}
    assert {len(example.references) for example in examples} == {5}
    assert not any(finding.breaks for finding in findings)
    left = {path.name for path in (source / "Images").iterdir()} - {example.id for example in examples}
    (outside,) = [finding for finding in findings if "are in none of its splits" in finding.message]
    assert len(left) == 1
    if kaggle:
        assert f"({left.pop()})" in outside.message


def test_the_given_files_of_kaggle_and_of_the_originals_agree(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "flickr8k"
    shutil.copy(source / "captions.txt", tmp_path)
    (tmp_path / "Images").symlink_to(source / "Images")
    kaggle = read_flickr(tmp_path)
    assert len(kaggle) == 266
    assert {example.split for example in kaggle} == {None}
    words = {example.id: sorted(example.references) for example in kaggle}
    for example in read_flickr(source):
        assert sorted(example.references) == words[example.id]
