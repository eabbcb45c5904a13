"""URLs of pages: which pictures they name, and that nothing outside of the site is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from showtell.jobs.sources import resolve


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b c.jpg", "é.png", "sub/d.jpg"):
        (tmp_path / "site" / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "site" / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    return tmp_path / "site"


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
