"""HTML: which pictures want a text, where it goes, and that nothing else changes."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from showtell.jobs.html import find_in_html
from showtell.jobs.slots import PageOptions, fill

TEXT = 'A “dog” & a <cat>\'s "toy".'
EMPTY = PageOptions(empty=True)


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


def _filled(text: str, options: PageOptions | None = None) -> str:
    return fill(text, [(slot, TEXT) for slot in find_in_html(text, options or PageOptions())])


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
