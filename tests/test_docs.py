"""The site of the documentation: built strictly and offline, and true to the commands, the code and the model."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

import showtell
from showtell import Captioner
from showtell.learn.config import list_recipes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md"])

# What makes a browser fetch something: a tag and its attribute. A link to follow (<a href>) does not.
FETCHES = {
    *(("script", "src"), ("img", "src"), ("img", "srcset"), ("source", "src"), ("source", "srcset"), ("iframe", "src")),
    *(("link", "href"), ("video", "src"), ("video", "poster"), ("audio", "src"), ("embed", "src"), ("object", "data")),
    *(("use", "href"), ("image", "href"), ("input", "src"), ("track", "src"), ("form", "action")),
}


def hook(name: str) -> Any:
    """A module of docs/hooks."""
    spec = spec_from_file_location(f"docs_hooks_{name}", DOCS / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(directory: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict` of the site in a directory."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=directory,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason="needs the extra 'docs'")
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """The addresses, names and words of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.classes: set[str] = set()
        self.text: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        self.classes |= set(given.get("class", "").split())
        for name, value in given.items():
            if (tag, name) in FETCHES and given.get("rel") not in ("canonical", "next", "prev"):
                self.fetched += [part.split()[0] for part in value.split(",")] if name == "srcset" else [value]
            if name == "style":
                self.fetched += re.findall(r"url\(([^)]*)\)", value)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address.strip("\"' ")).netloc)


def test_no_page_makes_a_browser_fetch_anything_from_another_machine(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert not [address for address in page.fetched if is_elsewhere(address)], name
        # What the theme's script would fetch for: diagrams, and the stars of a repository.
        assert not page.classes & {"mermaid", "md-source"}, name
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        text = re.sub(r"/\*.*?\*/", "", style.read_text("utf-8"), flags=re.DOTALL)
        addresses = re.findall(r"url\(([^)]*)\)", text) + re.findall(r"@import\s+([^;]+);", text)
        assert not [address for address in addresses if is_elsewhere(address)], style


def test_every_internal_link_leads_to_a_page_and_a_place_in_it(pages: dict[str, Page]) -> None:
    checked = 0
    for name, page in pages.items():
        if name == "404.html":  # its links begin at the root of the site
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = os.path.normpath(Path(name).parent / unquote(parts.path)) if parts.path else name
            target = "index.html" if target == "." else target
            if target.endswith(".html"):
                assert target in pages, f"{name}: {link}"
                assert not parts.fragment or unquote(parts.fragment) in pages[target].names, f"{name}: {link}"
                checked += 1
    assert checked > 500


def test_the_reference_has_the_public_names_and_no_private_ones(site: Path, pages: dict[str, Page]) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entries = [line.split() for line in zlib.decompress(inventory).decode().splitlines()]
    places = {entry[0]: entry[3].replace("$", entry[0]) for entry in entries}
    for package in ("showtell", "showtell.metrics", "showtell.datasets"):
        for name in import_module(package).__all__:
            if name != "__version__":
                # A function may have the name of its module, which then has the shorter address.
                page, _, anchor = (places.get(f"{package}.{name}") or places[f"{package}.{name}.{name}"]).partition("#")
                assert anchor in pages[page].names, f"{package}.{name}"
    assert "showtell.learn.config.TrainConfig" in places
    assert not [name for name in places if any(part.startswith("_") for part in name.split("."))]


def test_the_reference_tells_what_fields_are_for(pages: dict[str, Page]) -> None:
    words = pages["reference/learn.html"].words
    assert "A batch holds all references of so many pictures. Default: 64" in words
    assert "Linear, then a half cosine down to zero. Default: 200" in words
    assert "Shape. N = B * K rows" in pages["reference/decoding.html"].words
    assert "dict[str, float" in pages["reference/metrics.html"].words


def test_docstrings_become_markdown_and_sections() -> None:
    pytest.importorskip("griffe", reason="needs the extra 'docs'")
    text = """What comes back.

    Shape: `a_BL` (B, L),
        float.
    Raises: ConfigError for nonsense.
    A layout:
        a line
    Args:
        one, two: Numbers,
            of all.
        three: Another.

    Example:
        >>> 1
    """
    assert hook("docstrings").rewrite(text).split("\n") == [
        *("What comes back.", "", "", "**Shape.** `a_BL` (B, L), float.", ""),
        *("", "**Raises.** ConfigError for nonsense.", "", "A layout:", "", "    a line", ""),
        *(
            "Args:",
            "    one: Numbers,",
            "        of all.",
            "    two: Numbers,",
            "        of all.",
            "    three: Another.",
        ),
        *("", "", "Examples:", "    >>> 1"),
    ]


def test_every_command_and_option_is_on_the_page_of_commands(pages: dict[str, Page]) -> None:
    words = pages["cli.html"].words
    commands = dict(hook("commands").walk())
    assert "showtell data convert" in commands
    for name, command in commands.items():
        assert name.replace(" ", "-") in pages["cli.html"].names
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert option in words, f"{name} {option}"


def test_every_recipe_is_told_of(pages: dict[str, Page]) -> None:
    assert set(list_recipes()) <= pages["reproduce.html"].names
    read = hook("recipes").read_opening
    for name in list_recipes():
        said = read((files("showtell.recipes") / f"{name}.toml").read_text("utf-8"))
        assert {"source", "reproduces", "changes", "published"} <= set(said), name
        assert said["source"] in pages["reproduce.html"].words, name


def gallery() -> list[dict[str, str]]:
    return tomllib.loads((DOCS / "gallery" / "gallery.toml").read_text("utf-8"))["picture"]


def test_the_gallery_shows_what_the_model_says(pages: dict[str, Page]) -> None:
    paths = [DOCS / "gallery" / picture["file"] for picture in gallery()]
    captioner = Captioner.load("default")
    for picture, said in zip(gallery(), captioner.caption(paths), strict=True):
        assert isinstance(said, showtell.Caption)
        assert said.text == picture["caption"]
        assert f"{said.text} {picture['verdict']}" in pages["gallery.html"].words


def test_the_pictures_of_the_gallery_are_small_and_have_owners() -> None:
    pictures = gallery()
    assert {picture["file"] for picture in pictures} == {path.name for path in (DOCS / "gallery").glob("*.jpg")}
    assert all(picture["source"] and picture["licence"] and picture["verdict"] for picture in pictures)
    paths = [DOCS / "gallery" / picture["file"] for picture in pictures]
    assert sum(path.stat().st_size for path in paths) < 700_000
    for path in paths:
        with Image.open(path) as opened:
            assert max(opened.size) <= 480, path.name


def test_a_stale_verdict_ends_a_strict_build(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra 'docs'")
    (tmp_path / "docs" / "gallery").mkdir(parents=True)
    shutil.copy(DOCS / "gallery" / "cat.jpg", tmp_path / "docs" / "gallery")
    (tmp_path / "docs" / "index.md").write_text("# Pictures\n\n<!-- gallery -->\n", "utf-8")
    (tmp_path / "mkdocs.yml").write_text(
        f"site_name: t\nexclude_docs: '*.toml'\nhooks: [{DOCS / 'hooks' / 'gallery.py'}]\n"
        "markdown_extensions: [attr_list, md_in_html]\n",
        "utf-8",
    )
    cat = next(picture for picture in gallery() if picture["file"] == "cat.jpg")
    for caption, code in ((cat["caption"], 0), ("a cat on a sofa", 1)):
        lines = [f'{name} = "{value}"' for name, value in {**cat, "caption": caption}.items()]
        (tmp_path / "docs" / "gallery" / "gallery.toml").write_text("\n".join(["[[picture]]", *lines]), "utf-8")
        done = build(tmp_path, tmp_path / "site")
        assert done.returncode == code, done.stderr
    assert (
        "the verdict on cat.jpg in docs/gallery/gallery.toml is stale: it was written for 'a cat on a sofa', and the "
        f"model now says {cat['caption']!r}" in " ".join(done.stderr.split())
    )


def test_pictures_without_an_entry_and_entries_without_a_picture_are_told() -> None:
    find = hook("gallery").find_stale
    known = {"file": "a.jpg", "caption": "a dog", "rating": "fine"}
    assert find([known], {}) == [
        "gallery.toml names a.jpg, which is not in docs/gallery; add the picture or take it out",
        "gallery.toml rates a.jpg 'fine'; accepted are right, partly, wrong",
    ]
    said = showtell.Caption("a.jpg", "a dog", -1.0, ("a", "dog"), (-0.5, -0.5))
    sentences = find([known], {"a.jpg": said, "b.jpg": said})
    assert sentences == [
        "gallery.toml rates a.jpg 'fine'; accepted are right, partly, wrong",
        "docs/gallery/b.jpg has no entry in gallery.toml; write its source, licence and verdict",
    ]


def test_a_notebook_becomes_a_page_with_its_outputs() -> None:
    pytest.importorskip("mkdocs", reason="needs the extra 'docs'")
    cells = [
        {"cell_type": "markdown", "source": ["# A title\n", "Some `words`."]},
        {
            "cell_type": "code",
            "source": "print('```')",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["```\n"]},
                {"output_type": "display_data", "data": {"image/jpeg": "AAEC", "text/plain": ["A plot [of] loss"]}},
                {"output_type": "execute_result", "data": {"text/plain": ["\x1b[31m7\x1b[0m"]}},
            ],
        },
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    text, pictures = hook("notebooks").write_page({"nbformat": 4, "cells": cells}, "walk")
    assert text == (
        "# A title\nSome `words`.\n\n````python\nprint('```')\n````\n\n````text\n```\n````\n\n"
        "![A plot [of loss](walk-1.jpg)\n\n```text\n7\n```\n"
    )
    assert pictures == {"walk-1.jpg": b"\x00\x01\x02"}


def test_notebooks_are_in_the_navigation(pages: dict[str, Page]) -> None:
    for notebook in DOCS.glob("*.ipynb"):
        assert f"{notebook.stem}.html" in pages["index.html"].links
        assert f"{notebook.stem}.html" in pages


def commands_of(path: Path) -> Iterator[tuple[str, bool]]:
    """The lines of a document that call showtell, and whether they are whole: those in blocks, without an ellipsis."""
    text = path.read_text("utf-8")
    fence = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    for block in fence.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(\$ )?showtell\s", line):
                yield line.removeprefix("$ "), "…" not in line
    for code in re.findall(r"`(showtell\s[^`]*)`", fence.sub("", text)):
        yield " ".join(code.split()), False


def check_command(line: str, whole: bool) -> None:
    """Raises an error where a command line has a command or option that there is not, or a value that is not taken."""
    words = [word for word in shlex.split(line, comments=True) if word not in ("…", "...")]
    commands = dict(hook("commands").walk())
    groups = {name.rsplit(" ", 1)[0] for name in commands}
    if " ".join(words) in groups or words[1:] in (["--help"], ["COMMAND", "--help"]):
        return
    name = next((name for name in (" ".join(words[:3]), " ".join(words[:2])) if name in commands), None)
    assert name is not None, f"there is no command {' '.join(words[:3])!r}"
    arguments = words[len(name.split()) :]
    options = {option for parameter in commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in arguments:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in options | {"--help"}, f"{name} has no option {word}"
    if whole:
        commands[name].make_context(name, arguments)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_documents_are_accepted(path: Path) -> None:
    for line, whole in commands_of(path):
        try:
            check_command(line, whole)
        except Exception as error:
            raise AssertionError(f"{path.name}: {line}: {error}") from error


def test_a_command_that_is_not_accepted_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ showtell caption a.jpg --top three\n```\nor `showtell batch\nx …  --outs`\n", "utf-8"
    )
    wrong, partial = commands_of(page)
    with pytest.raises(Exception, match="valid integer"):
        check_command(*wrong)
    with pytest.raises(AssertionError, match="showtell batch has no option --outs"):
        check_command(*partial)
    with pytest.raises(AssertionError, match="no command 'showtell look'"):
        check_command("showtell look", False)
    assert sum(len(list(commands_of(path))) for path in PAGES) > 80


def test_extras_in_documents_exist() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    for path in PAGES:
        for group in re.findall(r"(?:showtell|'\.)\[([a-z,]+)\]", path.read_text("utf-8")):
            assert set(group.split(",")) <= extras, f"{path.name}: {group}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_pages_stay_on_a_phone_and_ask_nobody(served: str, pages: dict[str, Page], browser: Any) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page = context.new_page()
    asked: set[str] = set()
    errors: list[str] = []
    page.on("request", lambda request: asked.add(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in pages:
        page.goto(served + name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        assert page.evaluate("[...document.images].every((one) => one.alt !== '')"), name
    assert page.evaluate("document.body.dataset.mdColorScheme") == "slate"
    assert not {url for url in asked if not url.startswith((served, "data:", "blob:"))}
    assert not errors
    context.close()


def test_the_search_finds_an_option_and_a_name(served: str, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    for words, found in (("min-confidence", "cli.html"), ("caption_stream", "reference/captioner.html")):
        page.goto(served + "index.html")
        page.get_by_role("textbox", name="Search").fill(words)
        page.locator(f".md-search-result__item a[href*='{found}']").first.wait_for(state="attached")
    context.close()
