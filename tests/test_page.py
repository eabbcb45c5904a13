"""The page of `showtell serve` in a real browser: adding pictures, words and maps, keyboard, speech, accessibility."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from showtell.cli.report import report

pytest.importorskip("uvicorn", reason="needs the extra 'web'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"
COFFEE = CAT.with_name("coffee.jpg")

# What the browser would say, and how far things have moved by themselves, is noted down.
_WATCH = """
window.said = [];
Object.defineProperty(window, "speechSynthesis", {
  value: {
    cancel() {},
    speak(spoken) { window.said.push(spoken.text); },
    getVoices: () => [{ name: "stub", lang: "en" }],
  },
});
window.moved = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""

_HAND_OVER = """([kind, name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true })
    : new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


def serve(*arguments: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "showtell", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "SHOWTELL_API_KEY"},
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "http://" in line, line + process.stderr.read()
    try:
        yield line.split()[1]
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    yield from serve()


@pytest.fixture(scope="module")
def of_run(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run = Path(shutil.copytree(toy_run, tmp_path_factory.mktemp("served") / "run"))
    report(run, resamples=0)
    yield from serve("--run", str(run))


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that has left for no other machine and thrown nothing, when the test is over."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.add_init_script(_WATCH)
    opened.set_default_timeout(30_000)
    hosts, errors = set(), []
    opened.on("request", lambda request: hosts.add(request.url.split("/")[2] if "://" in request.url else ""))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert not errors
    assert all(host == "" or host.startswith("127.0.0.1:") for host in hosts), hosts


def wait_for_cards(page: Any, count: int) -> None:
    page.wait_for_selector(f".card >> nth={count - 1}")
    page.wait_for_selector(".card[aria-busy]", state="detached")


def text_of(page: Any, number: int = 0) -> str:
    area = page.locator(".card textarea").nth(number)
    playwright.expect(area).not_to_have_value("")
    return str(area.input_value())


def test_a_picture_is_captioned_in_one_request_and_nothing_moves(page: Any, address: str) -> None:
    page.goto(address)
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.set_input_files("#files", str(CAT))
    wait_for_cards(page, 1)
    text = text_of(page)
    assert text[0].isupper()
    assert text.endswith(".")
    assert page.inner_text(".words") == text[0].lower() + text[1:-1]
    assert page.get_attribute(".card img", "alt") == text
    assert len(posts) == 1
    assert page.evaluate("window.moved") < 0.05
    assert page.inner_text("#news").startswith(f"cat.jpg: {page.inner_text('.words')}")


def test_the_page_says_how_sure_a_caption_is(page: Any, address: str, of_run: str, tmp_path: Path) -> None:
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)).save(noise)
    page.goto(address)
    page.set_input_files("#files", [str(COFFEE), str(noise)])
    wait_for_cards(page, 2)
    lines = page.locator(".card .sure")
    assert re.fullmatch(r"\d+ % likely to be a good caption\.", lines.nth(0).inner_text())
    assert re.fullmatch(r"Do not rely on this one: \d % likely to be a good caption\.", lines.nth(1).inner_text())
    assert page.locator("#news p").all_inner_texts()[1].endswith(lines.nth(1).inner_text())
    page.goto(of_run)  # it has too few pictures to be calibrated
    page.set_input_files("#files", str(CAT))
    wait_for_cards(page, 1)
    assert lines.nth(0).inner_text() == ""


def test_several_pictures_keep_their_order_and_a_broken_one_says_why(page: Any, address: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    page.goto(address)
    page.set_input_files("#files", [str(CAT), str(broken), str(CAT.with_name("cat.jpg"))])
    wait_for_cards(page, 3)
    names = page.locator(".card .name").all_inner_texts()
    assert names == ["cat.jpg", "broken.jpg", "cat.jpg"]
    assert "cannot be read as a picture" in page.locator(".card .words").nth(1).inner_text()
    assert not page.locator(".card").nth(1).locator("textarea").is_visible()
    assert text_of(page, 0) == text_of(page, 2)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(kind: str, page: Any, address: str) -> None:
    page.goto(address)
    playwright.expect(page.locator("#model")).to_contain_text("Model default")
    page.evaluate(_HAND_OVER, [kind, "holiday.jpg", base64.b64encode(CAT.read_bytes()).decode()])
    wait_for_cards(page, 1)
    assert page.inner_text(".card .name") == "holiday.jpg"
    assert text_of(page)


def test_the_text_is_spoken_edited_and_kept_with_the_picture(page: Any, address: str) -> None:
    page.goto(address)
    page.set_input_files("#files", str(CAT))
    wait_for_cards(page, 1)
    text = text_of(page)
    page.click(".speak")
    assert page.evaluate("window.said") == [text]
    page.fill(".card textarea", "My cat Tibbles.")
    page.locator(".card textarea").blur()
    page.click(".speak")
    assert page.evaluate("window.said")[-1] == "My cat Tibbles."
    playwright.expect(page.locator(".card img")).to_have_attribute("alt", "My cat Tibbles.")
    page.reload()
    page.set_input_files("#files", str(CAT))
    wait_for_cards(page, 1)
    assert text_of(page) == "My cat Tibbles."
    page.click(".more summary")
    likely = [page.inner_text(".more summary"), *page.locator(".alternatives li").all_inner_texts()]
    assert sum(int(re.search(r"(\d+) %", text)[1]) for text in likely) == pytest.approx(100, abs=2)
    other = page.locator(".alternatives button").first.inner_text()
    page.locator(".alternatives button").first.click()
    assert text_of(page).lower() == f"{other}."


@pytest.mark.parametrize("attends", [True, False])
def test_words_show_where_they_come_from(attends: bool, page: Any, address: str, of_run: str, toy_data: Path) -> None:
    page.goto(of_run if attends else address)
    page.set_input_files("#files", str(toy_data / "images" / "red_circle.png"))
    wait_for_cards(page, 1)
    inked = (
        "() => { const c = document.querySelector('.stage canvas');"
        " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0); }"
    )
    page.focus(".words button >> nth=0")
    assert page.evaluate(inked)
    page.focus(".speak")
    assert not page.evaluate(inked)
    page.hover(".words button >> nth=1")
    assert page.evaluate(inked)


def test_parts_are_shown_in_the_picture(page: Any, address: str) -> None:
    page.goto(address)
    page.set_input_files("#files", str(CAT))
    wait_for_cards(page, 1)
    page.click(".parts summary")
    page.focus(".regions button >> nth=0")
    mark, image = page.locator(".boxes span").bounding_box(), page.locator(".card img").bounding_box()
    assert mark is not None
    assert image is not None
    assert image["x"] - 1 <= mark["x"] < mark["x"] + mark["width"] <= image["x"] + image["width"] + 1
    assert image["y"] - 1 <= mark["y"] < mark["y"] + mark["height"] <= image["y"] + image["height"] + 1


def test_everything_is_reached_by_keyboard(page: Any, address: str) -> None:
    page.goto(address)
    page.set_input_files("#files", str(CAT))
    wait_for_cards(page, 1)
    text_of(page)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className"
                " || document.activeElement.textContent || document.activeElement.tagName"
            )
        )
    for name in ("theme", "files", "camera", "Parts of the picture", "TEXTAREA", "speak", "copy"):
        assert name in reached, (name, reached)
    page.focus(".remove")
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 0
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_run_has_a_view_of_its_scores(page: Any, of_run: str, address: str) -> None:
    page.goto(address)
    playwright.expect(page.locator("#model")).to_contain_text("Model default")
    assert not page.locator("#views").is_visible()
    page.goto(of_run)
    page.click("#views >> text=Scores")
    assert not page.locator("#drop").is_visible()
    frame = page.frame_locator("iframe")
    playwright.expect(frame.locator("h1")).to_have_text("run")
    assert frame.locator("svg").count() == 3  # losses, scores and their spread
    playwright.expect(frame.locator("#count")).to_have_text("6 of 6 pictures")
    frame.locator("#order").select_option("worst")
    first, last = (frame.locator("#sheet .about b").nth(2 * place).inner_text() for place in (0, 5))
    assert float(first) <= float(last)
    page.go_back()
    assert page.locator("#drop").is_visible()
    page.goto(f"{of_run}#scores")
    playwright.expect(page.frame_locator("iframe").locator("h1")).to_have_text("run")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_no_violations(theme: str, width: int, page: Any, address: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=theme)
    page.goto(address)
    page.set_input_files("#files", str(CAT))
    wait_for_cards(page, 1)
    page.click(".parts summary")
    page.wait_for_selector(".regions button")
    found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]})
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found.response["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_files_have_a_card_each_that_says_what_is_wrong(page: Any, address: str, shared_data: Path) -> None:
    hostile = sorted(path for path in (shared_data / "hostile").rglob("*") if path.is_file() and path.stat().st_size)[
        ::4
    ]
    statuses: list[int] = []
    refused = 0
    page.on("response", lambda response: statuses.append(response.status) if "/v1/" in response.url else None)
    page.goto(address)
    for start in range(0, len(hostile), 32):
        group = hostile[start : start + 32]
        page.set_input_files("#files", [str(path) for path in group])
        wait_for_cards(page, len(group))
        said = page.locator(".card .words").all_inner_texts()
        assert len(said) == len(group)
        assert all(said)
        refused += page.locator(".card .words.problem").count()
        page.evaluate("document.querySelector('#cards').replaceChildren()")
    assert set(statuses) <= {200, 413, 422}
    assert 0 < refused < len(hostile)
    page.set_input_files("#files", str(CAT))
    wait_for_cards(page, 1)
    assert text_of(page)
