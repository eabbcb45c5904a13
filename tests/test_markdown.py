"""Markdown: which pictures want a text, and that it is read there as it was meant."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from showtell.jobs.markdown import find_in_markdown
from showtell.jobs.slots import PageOptions, fill


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
    changed = fill(text, [(slot, alt) for slot in find_in_markdown(text, PageOptions())])
    rendered = MarkdownIt("commonmark").enable("table").render(changed)
    expected = [alt] * len(find_in_markdown(text, PageOptions()))
    assert [html.unescape(written) for written in re.findall(r'alt="([^"]*)"', rendered)] == expected
    assert find_in_markdown(changed, PageOptions()) == []


def test_what_is_inside_of_a_link_is_known() -> None:
    text = "x </a> ![](a.jpg) <a href=x>![](b.jpg)</a> ![](c.jpg) [![](d.jpg)](y)"
    assert [slot.linked for slot in find_in_markdown(text, PageOptions())] == [False, True, False, True]
