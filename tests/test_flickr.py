"""Flickr8k and Flickr30k, as published and as Kaggle has them."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pytest

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
    (text / "Flickr_8k.testImages.txt").write_text("lost.jpg\n")
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
    pictures(originals / "Flicker8k_Dataset", "c.jpg")
    findings: list[Finding] = []
    assert [example.id for example in read_flickr(originals, findings.append)] == ["a.jpg", "b.jpg"]
    split, missing = findings
    assert "2 pictures of" in split.message
    assert "are in none of its splits (2258277193_586949ec62.jpg.1, c.jpg); they are left out" in split.message
    assert f"1 of 3 pictures that {text / 'Flickr8k.token.txt'} names are not below {originals}" in missing.message
    assert missing.where.endswith("Flickr8k.token.txt:6")
    assert not split.breaks
    assert not missing.breaks


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
    (originals / "Flickr8k_text" / "Flickr_8k.testImages.txt").write_text("lost.jpg\nb.jpg\n")
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


def test_kaggles_flickr8k_keeps_commas_and_quotes(tmp_path: Path) -> None:
    pictures(tmp_path / "Images", "a.jpg", "b.jpg")
    (tmp_path / "captions.txt").write_text(
        'image,caption\na.jpg,A dog , a cat , and "more" .\na.jpg,"A ""red"", wet dog ."\nb.jpg,Two cats .\n'
    )
    assert [(one.references, one.split) for one in read_flickr(tmp_path)] == [
        (('A dog , a cat , and "more" .', 'A "red", wet dog .'), None),
        (("Two cats .",), None),
    ]


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
    assert "results.csv:3 lacks its second |; it was read as caption '4': 'A dog runs" in found.message
    assert not found.breaks


def test_flickr30k_with_lists_of_ones_own(tmp_path: Path) -> None:
    pictures(tmp_path / "flickr30k-images", "1.jpg", "2.jpg")
    (tmp_path / "results_20130124.token").write_text("1.jpg#0\tA man .\n2.jpg#0\tA dog .\n")
    (tmp_path / "train.txt").write_text("1.jpg\n")
    (tmp_path / "test.txt").write_text("2.jpg\n")
    assert [one.split for one in read_flickr(tmp_path)] == ["train", "test"]


def test_other_folders_do_not_look_like_flickr(tmp_path: Path) -> None:
    assert not looks_like_flickr(tmp_path)
    (tmp_path / "captions.txt").write_text("a cat\ntwo dogs\n")
    (tmp_path / "results.csv").write_text("epoch,loss\n1,2\n")
    assert not looks_like_flickr(tmp_path)
    with pytest.raises(DataError, match=r"has none of flickr8k\.token\.txt, .*, nor has a folder in it"):
        read_flickr(tmp_path)


def test_the_given_flickr8k(shared_data: Path) -> None:
    findings: list[Finding] = []
    examples = read_flickr(shared_data / "flickr8k", findings.append)
    assert Counter(example.split for example in examples) == {"train": 232, "val": 20, "test": 13}
    assert {len(example.references) for example in examples} == {5}
    assert not any(finding.breaks for finding in findings)
