"""Alt text in pages: what HTML and Markdown have in common, and what becomes of the files."""

from __future__ import annotations

import base64
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from showtell.images import Source
from showtell.jobs.alttext import AltText, Wording
from showtell.jobs.html import find_in_html
from showtell.jobs.markdown import find_in_markdown
from showtell.jobs.markup import Page, fill_pages, find_pages, read_page
from showtell.jobs.slots import PageOptions, fill
from showtell.jobs.sources import resolve
from showtell.records import Failure

TEXT = 'A “dog” & a <cat>\'s "toy".'
EMPTY = PageOptions(empty=True)
RENEW = PageOptions(renew=True, wording=Wording(mark="(automatic)"))


def _say(text: str = TEXT) -> object:
    def describe(sources: Iterable[Source]) -> Iterator[AltText | Failure]:
        for source in sources:
            name = "picture" if isinstance(source, bytes) else str(source)
            if "broken" in name:
                yield Failure(name, f"{name} is broken")
            else:
                yield AltText(name, None if "unsure" in name else text, 0.5)

    return describe


def _fill(folder: Path, *pages: str, root: Path | None = None, options: PageOptions | None = None) -> list[Page]:
    return list(fill_pages([(folder / page, root or folder) for page in pages], _say(), options))  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name in ("a.jpg", "broken.jpg", "unsure.jpg", "sub/d.jpg"):
        (tmp_path / "site" / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "site" / name)
    return tmp_path / "site"


def test_only_texts_with_the_mark_are_renewed() -> None:
    page = "<img src=a.jpg alt='A dog. (automatic)'><img src=b.jpg alt=\"A cat.\"><img src=c.jpg alt=''>"
    changed = fill(page, [(slot, "A fox.") for slot in find_in_html(page, RENEW)])
    assert changed == page.replace("A dog. (automatic)", "A fox.")
    text = "![A dog. (automatic)](a.jpg) ![A cat.](b.jpg) `![A dog. (automatic)](a.jpg)`\n"
    changed = fill(text, [(slot, "A fox.") for slot in find_in_markdown(text, RENEW)])
    assert changed == text.replace("A dog. (automatic)", "A fox.", 1)


def test_pictures_in_links_and_buttons_are_told_apart() -> None:
    page = "<a href=x><img src=a.jpg></a><img src=b.jpg><button><img src=c.jpg></button>"
    assert [slot.linked for slot in find_in_html(page, PageOptions())] == [True, False, True]
    text = "[![](a.jpg)](x) ![](b.jpg)\n\n<a href=x><img src=c.jpg></a>\n"
    assert [slot.linked for slot in find_in_markdown(text, PageOptions())] == [True, False, True]


SOUP = st.lists(
    st.sampled_from(
        [
            "<img", " src=a.jpg", " alt", "=", '"', "'", ">", "/>", "/", "<", "<!--", "-->", "<script>", "</script>",
            "<p>", "</p>", " title=x", "{{", "}}", "<%", "%>", "<?php ", "?>", " ", "\n", "\r\n", "é", "&amp;",
            "<a b=c", '<img src="a.jpg">', "<img src='b.jpg' alt='x'>", "<textarea>", "</textarea>", "<svg>",
            "<title/>", "]]>", "<![CDATA[", "![](a.jpg)", "`", "    ", "> ", "- ", "```\n", "[", "]", "(", ")", "\\",
            "|",
        ]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(SOUP)
def test_soup_without_what_was_put_in_is_the_soup(soup: str) -> None:
    slots = find_in_html(soup, PageOptions())
    changed = fill(soup, [(slot, "TXT") for slot in slots])
    assert changed.replace(' alt="TXT"', "") == soup
    assert find_in_html(changed, PageOptions()) == []

    slots = find_in_markdown(soup, PageOptions())
    changed = fill(soup, [(slot, "TXT") for slot in slots])
    assert all(not soup[slot.start : slot.stop].strip() for slot in slots)
    assert _squeeze(changed.replace(' alt="TXT"', "").replace("TXT", "")) == _squeeze(soup)
    assert find_in_markdown(changed, PageOptions()) == []

    slots = find_in_html(soup, EMPTY)
    changed = fill(soup, [(slot, "TXT") for slot in slots])
    assert all(not soup[slot.start : slot.stop].strip() for slot in slots)
    assert re.sub('alt|TXT|[="]', "", _squeeze(changed)) == re.sub('alt|TXT|[="]', "", _squeeze(soup))
    assert find_in_html(changed, EMPTY) == []


def _squeeze(text: str) -> str:
    return "".join(text.split())


@pytest.mark.timeout(120)  # what is quadratic takes hours
def test_hostile_pages_end() -> None:
    for piece in ('<a b="', "<!--", "<img ", "<script", "{{", "<%", "<?php", "<![CDATA[", "![](", "![][", "[", "> "):
        assert find_in_html(piece * 20_000, EMPTY) == []
        assert find_in_markdown(piece * 1000, EMPTY) == []


# Files


def test_pictures_inside_of_the_page_are_read(site: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode().rstrip('=')}"
    assert resolve([url], site / "page.html", site) == data.getvalue()
    (site / "page.html").write_text(f"<img src={url}>")
    assert [picture.state for picture in _fill(site, "page.html")[0].pictures] == ["written"]


@pytest.mark.parametrize(
    ("encoding", "head", "alt"),
    [
        ("utf-8", "", "“"),
        ("utf-8-sig", "", "“"),
        ("utf-16", "", "“"),
        ("cp1252", "<meta charset=windows-1252>", "“"),
        ("latin-1", '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1">', "&#8220;"),
        ("shift_jis", "<meta charset=shift_jis>", "“"),
        ("cp1252", "", "&#8220;"),  # and says so nowhere
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_pages_of_any_encoding_change_in_the_text_alone(
    encoding: str, head: str, alt: str, end: str, site: Path
) -> None:
    own = "ソ表" if encoding == "shift_jis" else "é ü"
    page = site / "page.html"
    parts = (f"{head}{end}<p>{own}{end}<img", f" src=a.jpg>{end}{own}")
    page.write_bytes("".join(parts).encode(encoding))
    assert [picture.state for picture in _fill(site, "page.html")[0].pictures] == ["written"]
    written = f' alt="A {alt}dog'
    closed = " ”" if alt == "“" else "&#8221;"
    changed = page.read_bytes()
    text = changed.decode(encoding)
    assert text.startswith(parts[0] + written)
    assert text.endswith(parts[1])
    assert closed.strip() in text
    assert changed[: len(parts[0].encode(encoding))] == parts[0].encode(encoding)


def test_a_site_is_filled_once(site: Path) -> None:
    (site / "index.html").write_text('<base href="/"><img src=a.jpg>\n<img src=sub/d.jpg>\n<img src=http://x/y.jpg>\n')
    (site / "sub" / "page.md").write_text("![](d.jpg) ![](../broken.jpg) ![](../unsure.jpg) ![](../nothere.jpg)\n")
    (site / ".git").mkdir()
    (site / ".git" / "page.html").write_text("<img src=../a.jpg>")
    asked: list[str] = []

    def describe(sources: Iterable[Source]) -> Iterator[AltText | Failure]:
        sources = list(sources)
        asked.extend(Path(str(source)).name for source in sources)
        yield from _say()(sources)  # type: ignore[operator]

    pages = [(page, site) for page in find_pages(site)]
    assert [page.name for page, _ in pages] == ["index.html", "page.md"]
    first = list(fill_pages(pages, describe))
    assert [[picture.state for picture in page.pictures] for page in first] == [
        ["written", "written", "remote"],
        ["written", "failed", "unsure", "missing"],
    ]
    assert asked == ["a.jpg", "d.jpg", "broken.jpg", "unsure.jpg"]
    assert "broken" in str(first[1].pictures[1].error)
    bytes_after = {page: page.read_bytes() for page, _ in pages}
    again = list(fill_pages(pages, describe))
    assert not any(page.diff for page in again)
    assert {page: page.read_bytes() for page, _ in pages} == bytes_after


def test_a_dry_run_writes_nothing_and_its_diff_makes_the_page(site: Path) -> None:
    page = site / "page.html"
    page.write_text("one\n<img src=a.jpg>\nthree", newline="")
    before = page.read_bytes()
    diff = _fill(site, "page.html", options=PageOptions(dry=True))[0].diff
    assert page.read_bytes() == before
    removed = [line for line in diff.splitlines() if re.match(r"-(?!--)", line)]
    added = [line for line in diff.splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert removed == ["-<img src=a.jpg>"]
    assert diff.endswith("\\ No newline at end of file\n")
    _fill(site, "page.html")
    assert added[0][1:] in page.read_text().splitlines()


def test_a_page_keeps_its_permissions_and_on_request_its_time(site: Path) -> None:
    page = site / "page.html"
    for options, kept in ((PageOptions(), False), (PageOptions(keep_time=True), True)):
        page.write_text("<img src=a.jpg>")
        page.chmod(0o640)
        os.utime(page, (1_000_000_000, 1_000_000_000))
        _fill(site, "page.html", options=options)
        assert "alt=" in page.read_text()
        assert page.stat().st_mode & 0o777 == 0o640
        assert (page.stat().st_mtime == 1_000_000_000) is kept
    assert not list(site.glob(".showtell-*"))


def test_pages_that_cannot_be_read_are_named(site: Path) -> None:
    (site / "odd.html").write_bytes(b"\xff\xfe\x00\xd8x")
    (site / "folder.html").mkdir()
    pages = _fill(site, "odd.html", "folder.html", "nothere.html")
    assert ["utf-16-le" in str(pages[0].error), *(bool(page.error) for page in pages[1:])] == [True, True, True]


@given(st.binary(max_size=300))
def test_any_bytes_come_back(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_bytes(data)
        if data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
            page = read_page(path)
            assert page.text.encode(page.encoding) == data
