"""`showtell alt` from the outside: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from showtell.captioner import Captioner
from showtell.cli import main
from showtell.jobs.alttext import Wording, word_alt

CUP = Path(__file__).parents[1] / "examples" / "coffee.jpg"
needs_exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: str | os.PathLike[str]) -> Result:
        monkeypatch.setattr(sys, "argv", ["showtell", "alt", *map(os.fspath, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Result(int(left.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def said() -> str:
    """What the default model says of the cat, as alt text."""
    caption = Captioner.load("default").caption([CUP])[0]
    return word_alt(caption.text, Wording())  # type: ignore[union-attr]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    (site / "img").mkdir(parents=True)
    shutil.copy(CUP, site / "img" / "cup.jpg")
    (site / "index.html").write_text(
        '<p>\n<img src="/img/cup.jpg">\n<img src="img/cup.jpg" alt="Mine.">\n<a href="x"><img src="img/cup.jpg"></a>\n'
    )
    (site / "page.md").write_text("# Cup\n\n![](img/cup.jpg)\n")
    return site


def _alts(page: Path) -> list[str | None]:
    found: list[str | None] = []

    class Images(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "img":
                found.append(dict(attrs).get("alt"))

    Images().feed(page.read_text())
    return found


def test_a_site_gets_the_texts_that_the_model_says(run: Run, site: Path, said: str) -> None:
    pages = [site / "index.html", site / "page.md"]
    before = [page.read_bytes() for page in pages]
    dry = run(site, "--dry-run")
    assert (dry.code, [page.read_bytes() for page in pages]) == (0, before)
    assert f'+<img alt="{said}" src="/img/cup.jpg">' in dry.out.splitlines()
    assert f"+![{said}](img/cup.jpg)" in dry.out.splitlines()
    assert "3 alt texts to write, 2 pages read" in dry.err
    done = run(site)
    assert done.code == 0
    assert done.out.splitlines() == [
        f"{pages[0]}: /img/cup.jpg: {said}",
        f"{pages[0]}: img/cup.jpg: {said}",
        f"{pages[1]}: img/cup.jpg: {said}",
    ]
    assert "1 of them in links and buttons" in done.err
    assert _alts(pages[0]) == [said, "Mine.", said]
    assert pages[1].read_text() == f"# Cup\n\n![{said}](img/cup.jpg)\n"
    assert (site / "img" / "cup.jpg").read_bytes() == CUP.read_bytes()
    again = run(site)
    assert (again.code, again.out) == (0, "")


def test_marked_texts_are_renewed_and_unsure_ones_held_back(run: Run, site: Path, said: str) -> None:
    held = run(site / "page.md", "--min-confidence", "1")
    assert (held.code, held.out) == (0, "")
    assert "not sure enough of 1" in held.err
    run(site / "page.md", "--mark", "(automatic)")
    assert f"![{said} (automatic)](img/cup.jpg)" in (site / "page.md").read_text()
    renewed = run(site / "page.md", "--mark", "(automatic)", "--renew", "--max-length", "40", "--json")
    row = json.loads(renewed.out)
    assert (row["state"], len(row["alt"]) <= 40, 0 < row["confidence"] < 1) == ("written", True, True)
    refused = run(site, "--renew")
    assert refused.code == 2
    assert "--mark" in refused.err


def test_pictures_that_are_missing_or_broken_are_named(run: Run, site: Path, said: str) -> None:
    (site / "img" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (site / "page.md").write_text("![](img/broken.jpg) ![](img/no.jpg) ![](http://x/a.jpg) ![](img/cup.jpg)\n")
    told = run(site / "page.md")
    assert told.code == 1
    assert said in (site / "page.md").read_text()
    assert "broken.jpg" in told.err
    assert "'img/no.jpg' does not exist" in told.err
    assert "on other hosts, which are not asked: 1" in told.err


def test_the_root_says_what_a_leading_slash_is(run: Run, site: Path, said: str) -> None:
    (site / "img" / "page.html").write_text("<img src=/img/cup.jpg>")
    assert run(site / "img" / "page.html").code == 1
    assert run(site / "img" / "page.html", "--root", site).code == 0
    assert _alts(site / "img" / "page.html") == [said]


@needs_exiftool
def test_a_folder_without_pages_gets_texts_in_its_pictures(run: Run, site: Path, said: str) -> None:
    folder = site / "img"
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    dry = run(folder, "--dry-run")
    assert f"{folder / 'cup.jpg'}: {said}" in dry.out.splitlines()
    assert (folder / "cup.jpg").read_bytes() == CUP.read_bytes()
    done = run(folder)
    assert done.code == 1
    assert done.out == f"{folder / 'cup.jpg'}: {said}\n"
    assert "broken.png" in done.err
    with Image.open(folder / "cup.jpg") as picture, Image.open(CUP) as plain:
        assert said.encode() in picture.info["xmp"]
        assert picture.tobytes() == plain.tobytes()
    kept = [json.loads(line) for line in run(folder, "--json").out.splitlines()]
    assert [row["state"] for row in kept] == ["failed", "kept"]
    assert kept[1]["alt"] == said


@needs_exiftool
def test_sidecars_and_pictures_of_a_site_are_asked_for_by_name(run: Run, site: Path, said: str) -> None:
    assert run(site, "--into", "sidecars").code == 0
    assert said in (site / "img" / "cup.jpg.xmp").read_text("utf-8")
    assert (site / "img" / "cup.jpg").read_bytes() == CUP.read_bytes()
    assert 'alt="Mine."' in (site / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nothere"], 1, "nothere does not exist"),
        ([str(CUP), "--into", "clouds"], 2, "accepted are pages, pictures, sidecars"),
        ([str(CUP), "--into", "pages"], 2, "is no page"),
        ([str(CUP), "--root", "."], 2, "--root is of pages"),
        ([str(CUP), "--max-length", "3"], 2, "accepted are 20 to 250"),
        ([".", "--into", "pages", "--mark", "x" * 200], 2, "leaves no room"),
    ],
)
def test_mistakes_are_one_sentence(run: Run, arguments: list[str], code: int, sentence: str) -> None:
    told = run(*arguments)
    assert (told.code, told.out) == (code, "")
    assert sentence in told.err
    assert len(told.err.splitlines()) == 1


def test_an_empty_folder_is_told_of(run: Run, tmp_path: Path) -> None:
    told = run(tmp_path)
    assert told.code == 1
    assert "no pages and no pictures" in told.err


@needs_exiftool
def test_hostile_pictures_neither_crash_nor_stop_the_others(run: Run, shared_data: Path, tmp_path: Path) -> None:
    names = sorted((shared_data / "hostile" / "pillow").iterdir())[::40]
    for name in names:
        shutil.copyfile(name, tmp_path / name.name)
    shutil.copy(CUP, tmp_path / "zz.jpg")
    told = run(tmp_path, "--json")
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert rows[-1]["state"] == "written"
    assert all(row.get("error") for row in rows if row["state"] == "failed")
    assert "Traceback" not in told.err
