"""Alt text in HTML and Markdown: which pictures want one, where it goes, and that nothing else changes."""

from __future__ import annotations

import base64
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from showtell.images import Source
from showtell.jobs.alttext import AltText, Wording
from showtell.jobs.markup import (
    Page,
    PageOptions,
    fill,
    fill_pages,
    find_in_html,
    find_in_markdown,
    find_pages,
    read_page,
    resolve,
)
from showtell.records import Failure

TEXT = 'A “dog” & a <cat>\'s "toy".'
EMPTY = PageOptions(empty=True)
RENEW = PageOptions(renew=True, wording=Wording(mark="(automatic)"))


class _Images(HTMLParser):
    """The images that Python's own parser sees."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(reversed(attrs)))


def _filled(text: str, options: PageOptions | None = None, alt: str = TEXT) -> str:
    return fill(text, [(slot, alt) for slot in find_in_html(text, options or PageOptions())])


def _filled_markdown(text: str, options: PageOptions | None = None, alt: str = TEXT) -> str:
    return fill(text, [(slot, alt) for slot in find_in_markdown(text, options or PageOptions())])


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
    for name in ("a.jpg", "b c.jpg", "é.png", "broken.jpg", "unsure.jpg", "sub/d.jpg"):
        (tmp_path / "site" / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "site" / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    return tmp_path / "site"


# HTML


@pytest.mark.parametrize(
    "tag",
    [
        "<img src=a.jpg>",
        '<img src="a.jpg"/>',
        "<IMG\n SRC='a.jpg'\n>",
        "<img/src=a.jpg>",
        "<img src=a.jpg/>",
        '<img srcset="a.jpg 1x, b.jpg 2x">',
        '<img title="" src="a.jpg">',
        '<img data-src="a.jpg" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">',
        '<img class="{{ card }}" src="a.jpg">',
        '<img onclick="a > b" src="a.jpg">',
        '<noscript><img src="a.jpg"></noscript>',
        '<p>5 < 6 <img src="a.jpg">',
        '<svg><title/></svg><img src="a.jpg">',
        "<img src=a.jpg width=100 height=80px>",
    ],
)
def test_a_picture_without_alt_gets_one_and_nothing_else_changes(tag: str) -> None:
    page = f"<!doctype html>\r\n<body>{tag}\r\n</body>\n"
    changed = _filled(page)
    assert [image["alt"] for image in _Images(changed).found] == [TEXT]
    assert re.sub(r' alt="[^"]*"', "", changed) == page
    assert _filled(changed) == changed
    before, after = _Images(page).found[0], _Images(changed).found[0]
    assert {**before, "alt": TEXT} == after


@pytest.mark.parametrize(
    "page",
    [
        '<img src="a.jpg" alt="A cat.">',
        "<img src=a.jpg alt=cat>",
        '<img src="a.jpg" alt="">',
        "<img src=a.jpg alt>",
        '<img src="a.jpg" ALT=" ">',
        '<img src="a.jpg" title="A cat">',
        '<img src="a.jpg" aria-label="A cat">',
        '<img src="a.jpg" aria-labelledby="cat">',
        '<img src="a.jpg" role="presentation">',
        "<img src='a.jpg' role=none>",
        '<img src="a.jpg" aria-hidden=true>',
        '<img src="a.jpg" width="1" height="1">',
        '<img src="a.jpg" :alt="name">',
        '<img src="a.jpg" v-bind="all">',
        '<img src="a.jpg" [attr.alt]="name">',
        '<img src="a.jpg" {...props}>',
        '<img src="a.jpg" alt={name}>',
        '<img src="a.jpg" {% if x %}alt="x"{% endif %}>',
        '<img src="a.jpg" <?php echo $alt; ?>>',
        '<img src="a.jpg" <%= alt("x > y") %>>',
        "<img>",
        '<img src="">',
        '<!-- <img src="a.jpg"> -->',
        '<!--[if IE]><img src="a.jpg"><![endif]-->',
        "<script>x = '<img src=\"a.jpg\">';</script>",
        "<script><!-- <script> '</script>' <img src=a.jpg> --></script>",
        '<style>/* <img src="a.jpg"> */</style>',
        '<textarea><img src="a.jpg"></textarea>',
        '<title><img src="a.jpg"></title>',
        '<?php echo "<img src=a.jpg>"; $a->b(); ?>',
        '<?php echo "<img src=a.jpg>"; $a->b();',
        '<% x = "<img src=a.jpg>" %>',
        '{{ "<img src=a.jpg>" }}',
        '<a title="<img src=a.jpg>">x</a>',
        "<imgage src=a.jpg>",
        '<img src="a.jpg',
        "<div<img src=a.jpg>",
        "<![CDATA[ <img src=a.jpg> <img src=a.jpg> ]]>",
        "<plaintext><img src=a.jpg>",
    ],
)
def test_what_is_no_picture_or_has_a_text_is_left_alone(page: str) -> None:
    assert find_in_html(page, PageOptions()) == []


@pytest.mark.parametrize(
    "tag",
    [
        '<img src="a.jpg" alt="">',
        "<img src='a.jpg' alt='' class=x>",
        "<img alt src=a.jpg>",
        "<img src=a.jpg alt=>",
        "<img src=a.jpg alt>",
        "<img src=a.jpg alt = ''>",
    ],
)
def test_empty_texts_are_filled_on_request(tag: str) -> None:
    changed = _filled(tag, EMPTY)
    assert [image["alt"] for image in _Images(changed).found] == [TEXT]
    assert len(_Images(changed).found[0]) == len(_Images(tag).found[0])
    assert _filled(changed, EMPTY) == changed
    for sign in ("role=none", "aria-hidden=true", "width=1", 'title="A cat"'):
        assert find_in_html(tag.replace("src", f"{sign} src"), EMPTY) == []


def test_only_texts_with_the_mark_are_renewed() -> None:
    page = "<img src=a.jpg alt='A dog. (automatic)'><img src=b.jpg alt=\"A cat.\"><img src=c.jpg alt=''>"
    assert _filled(page, RENEW, "A fox.") == page.replace("A dog. (automatic)", "A fox.")
    text = "![A dog. (automatic)](a.jpg) ![A cat.](b.jpg) `![A dog. (automatic)](a.jpg)`\n"
    assert _filled_markdown(text, RENEW, "A fox.") == text.replace("A dog. (automatic)", "A fox.", 1)


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


# Markdown


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("![](a.jpg)", ["a.jpg"]),
        ('![ ](<b c.jpg> "title")', ["b%20c.jpg"]),
        ("# x ![](a.jpg)\n\ntext ![](b.jpg)![cat](c.jpg)\n", ["a.jpg", "b.jpg"]),
        ("![][ref]\n\n[ref]: a.jpg\n", ["a.jpg"]),
        ("[![](a.jpg)](http://x)", ["a.jpg"]),
        ("1. x\n\n   ![](a.jpg)\n\n> - ![](b.jpg)\n", ["a.jpg", "b.jpg"]),
        ("| a | b |\n|---|---|\n| ![](a.jpg) | `![](b.jpg)` |\n", ["a.jpg"]),
        ("x <img src='a.jpg'> `<img src=b.jpg>`\n\n<div>\n<img src=c.jpg>\n</div>\n", ["a.jpg", "c.jpg"]),
        ("---\nimage: '![](x.jpg)'\n---\n![](a.jpg)", ["a.jpg"]),
        ("\ufeff![](a.jpg)\r\n\r\n![](b.jpg)\r\n", ["a.jpg", "b.jpg"]),
        ("`![](a.jpg)` ``` ![](a.jpg) ``` \\![](a.jpg) !\\[](a.jpg)", []),
        ("```\n![](a.jpg)\n```\n\n~~~md\n![](a.jpg)\n~~~\n\n    ![](a.jpg)\n", []),
        ("<!-- ![](a.jpg)\n\n<img src=a.jpg> -->\n", []),
        ("![](bad url.jpg) ![]() ![x](a.jpg) ![][nothing]", [""]),
        ("![a ![](b.jpg)](c.jpg)", []),
        ("<script>\n'<img src=a.jpg>'\n</script>\n", []),
        ("<pre>\n![](a.jpg)\n</pre>\n", []),
    ],
)
def test_the_pictures_of_markdown_are_those_of_commonmark(text: str, sources: list[str]) -> None:
    assert [slot.sources[0] for slot in find_in_markdown(text, PageOptions())] == sources


@pytest.mark.parametrize(
    "text",
    [
        "x ![](a.jpg) *y* ![ ](b.jpg)\r\n",
        "![][ref]\n\n[ref]: a.jpg\n",
        "| a |\n|---|\n| ![](a.jpg) |\n",
        "<img src=a.jpg> and ![](b.jpg)\n",
    ],
)
def test_what_is_written_into_markdown_is_read_as_it_was_meant(text: str) -> None:
    alt = r"A [dog] *runs* `x` | <b> & _it_ \ !"
    changed = _filled_markdown(text, alt=alt)
    rendered = MarkdownIt("commonmark").enable("table").render(changed)
    expected = [alt] * len(find_in_markdown(text, PageOptions()))
    assert [image["alt"] for image in _Images(rendered).found] == expected
    assert find_in_markdown(changed, PageOptions()) == []


# Sources


def test_only_what_is_below_the_root_is_read(site: Path) -> None:
    page = site / "sub" / "page.html"
    top = Path(site).resolve()
    (site / "link.jpg").symlink_to(site.parent / "secret.jpg")
    expected: dict[str, Path | str] = {
        "d.jpg": top / "sub" / "d.jpg",
        "../a.jpg?v=3#x": top / "a.jpg",
        "/a.jpg": top / "a.jpg",
        "..\\a.jpg": top / "a.jpg",
        " /b%20c.jpg\n": top / "b c.jpg",
        "/%C3%A9.png": top / "é.png",
        "/é.png": top / "é.png",
        "../../secret.jpg": "outside",
        "/../secret.jpg": "outside",
        "/%2e%2e/secret.jpg": "outside",
        "/link.jpg": "outside",
        "/etc/passwd": "missing",
        "//host/a.jpg": "remote",
        "\\\\host\\a.jpg": "remote",
        "http://host/a.jpg": "remote",
        "file:///a.jpg": "remote",
        "C:\\a.jpg": "remote",
        "http://[": "remote",
        "nothere.jpg": "missing",
        "a%00.jpg": "missing",
        "": "missing",
        "..": "missing",
        "logo.svg": "drawing",
        "{{ path }}/a.jpg": "template",
        "x" * 5000: "missing",
        "data:image/svg+xml,<svg/>": "drawing",
        "data:,": "missing",
    }
    for source, found in expected.items():
        assert resolve([source], page, site) == found, source
    assert resolve(["nothere.jpg", "d.jpg"], page, site) == top / "sub" / "d.jpg"
    assert resolve(["a.jpg"], page, site, "/") == top / "a.jpg"
    assert resolve(["a.jpg"], page, site, "https://cdn/") == "remote"


def test_pictures_inside_of_the_page_are_read(site: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode().rstrip('=')}"
    assert resolve([url], site / "page.html", site) == data.getvalue()
    (site / "page.html").write_text(f"<img src={url}>")
    assert [picture.state for picture in _fill(site, "page.html")[0].pictures] == ["written"]


# Files


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
