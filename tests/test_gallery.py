"""The page of an evaluation says what the evaluation holds, shows the right pictures and needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from showtell.datasets import read_native
from showtell.errors import BackendError, DataError
from showtell.evaluation import Evaluation, evaluate
from showtell.metrics import ScoreOptions, score, tokenise_ptb
from showtell.records import Caption, Example, Failure
from showtell.report.gallery import (
    choose_pictures,
    rank_sentences,
    score_pictures,
    write_captions,
    write_gallery,
)

pytest.importorskip("matplotlib", reason="needs the extra 'report'")
pytest.importorskip("jinja2", reason="needs the extra 'report'")

_VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """A page's elements; every one must be closed by its own end, and every picture has words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.images: list[dict[str, str | None]] = []
        self.figures: list[str] = []
        self.rows: list[dict[str, Any]] = []  # of the sheet of all pictures
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "figure":
            self.figures.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            if data.startswith("["):
                self.rows = json.loads(data)
            else:
                digest = base64.b64encode(hashlib.sha256(data.encode()).digest()).decode()
                assert f"script-src 'sha256-{digest}'\"" in self.html  # the one that may run
        if "figure" in self._open:
            self.figures[-1] += f"{data} "

    @property
    def cards(self) -> list[str]:
        """The words of each card."""
        return [" ".join(text.split()) for text in self.figures if "reference" in text]


def page_of(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def evaluation_of(said: dict[str, str], examples: Sequence[Example], failures: Sequence[Failure] = ()) -> Evaluation:
    """What `evaluate` gives for a captioner that says this."""
    references = {example.id: example.references for example in examples if example.id in said}
    captions = {name: Caption(name, text, -1.0, (), ()) for name, text in said.items()}
    scores = score(said, references, split="val", beam=2, options=ScoreOptions(resamples=50))
    return Evaluation(scores, captions, tuple(failures), None)


@pytest.fixture(scope="module")
def val(toy_data: Path) -> list[Example]:
    """All 24 toy pictures, as if they were val."""
    return [replace(example, split="val") for example in read_native(toy_data)]


@pytest.fixture(scope="module")
def mixed(val: list[Example]) -> Evaluation:
    """A captioner that is perfect of every third picture, half right of another and says the same of the rest."""
    said = {}
    for number, example in enumerate(val):
        shape = example.references[0].split()[2]
        said[example.id] = (example.references[0], f"a {shape} on grey paper", "a red")[number % 3]
    return evaluation_of(said, val)


def test_the_page_of_a_real_run(toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    from showtell.captioner import Captioner

    examples = read_native(toy_data)
    found = evaluate(Captioner.load(toy_run / "bundle"), examples, "val", scoring=ScoreOptions(resamples=100))
    write_gallery(found, examples, tmp_path / "page.html", title="runs/toy", metrics=toy_run / "metrics.csv")
    page = page_of(tmp_path / "page.html")
    assert len(page.cards) == len(page.images) == 6
    assert page.html.count("<svg") == page.html.count('role="img" aria-label="') == 3
    assert [row["name"] for row in page.rows] == list(found.captions)
    ciders = score_pictures(found, examples)
    for row in page.rows:
        assert row["said"] == found.captions[row["name"]].text
        assert row["cider"] == pytest.approx(ciders[row["name"]], abs=1e-4)
        assert sum(times for _, times in row["references"]) == 3
    for example in examples:
        assert any(example.id in card for card in page.cards) == (example.split == "val")
    for name, caption in found.captions.items():
        card = next(card for card in page.cards if name in card)
        assert card.startswith(f"{caption.text} CIDEr-D")
        assert "3 references, 2 distinct" in card
        assert "on grey paper ×2" in card
    for name, value in found.scores.metrics.items():
        assert f"<td>{name}<small>" in page.html
        assert (f"{value:.0f}" if name == "vocabulary" else f"{value:.4f}") in page.html
    low, high = found.scores.intervals["CIDEr"]
    assert f"{low:.4f} to {high:.4f}" in page.html
    assert "6 pictures of the split val, beam 2" in page.html
    assert not re.search(r"""(src|href)=["'](?!data:|#)|@import|url\((?!#)""", page.html)


def test_pictures_score_as_the_whole_set_does(mixed: Evaluation, val: list[Example]) -> None:
    ciders = score_pictures(mixed, val)
    assert list(ciders) == list(mixed.captions)
    assert np.mean(list(ciders.values())) == pytest.approx(mixed.scores.metrics["CIDEr"], abs=1e-9)


def test_pictures_score_as_the_coco_code_says(mixed: Evaluation, val: list[Example]) -> None:
    coco = pytest.importorskip("pycocoevalcap.cider.cider")
    written = {example.id: [" ".join(tokenise_ptb(text)) for text in example.references] for example in val}
    said = {name: [" ".join(tokenise_ptb(caption.text))] for name, caption in mixed.captions.items()}
    theirs = dict(zip(written, coco.Cider().compute_score(written, said)[1], strict=True))
    assert score_pictures(mixed, val) == pytest.approx(theirs, abs=1e-6)


@given(st.dictionaries(st.text(max_size=5), st.sampled_from([0.0, 0.5, 2.0, 10.0]), min_size=1), st.integers(1, 8))
def test_galleries_are_the_ends_and_the_middle(ciders: dict[str, float], each: int) -> None:
    good, median, worst = choose_pictures(ciders, each)
    shown = [*good, *median, *worst]
    assert len(set(shown)) == len(shown) == min(len(ciders), 3 * min(each, max(1, len(ciders) // 3)))
    values = sorted(ciders.values(), reverse=True)
    assert [ciders[name] for name in good] == values[: len(good)]
    assert [ciders[name] for name in worst] == values[len(values) - len(worst) :]
    start = (len(values) - len(median)) // 2
    assert [ciders[name] for name in median] == values[start : start + len(median)]
    noisy = {name: cider + 1e-13 * (number % 3) for number, (name, cider) in enumerate(ciders.items())}
    assert choose_pictures(dict(reversed(noisy.items())), each) == (good, median, worst)


def test_the_galleries_of_the_page_are_in_order(mixed: Evaluation, val: list[Example], tmp_path: Path) -> None:
    write_gallery(mixed, val, tmp_path / "page.html", title="toy", each=3)
    page = page_of(tmp_path / "page.html")
    shown = [float(re.findall(r"CIDEr-D ([\d.]+)", card)[0]) for card in page.cards]
    values = sorted(score_pictures(mixed, val).values(), reverse=True)
    assert shown == pytest.approx([*values[:3], *values[10:13], *values[-3:]], abs=6e-4)
    headings = [page.html.index(title) for title in ("Good captions", "Median captions", "Worst captions")]
    assert headings == sorted(headings)


def test_sentences_are_ranked_by_how_often_they_are_said() -> None:
    ranked = rank_sentences({"1": "b", "2": "a", "3": "b", "4": "c"}, {"1": 1.0, "2": 0.5, "3": 2.0, "4": 0.0})
    assert [(one.text, one.count, one.share, one.cider) for one in ranked] == [
        ("b", 2, 0.5, 1.5),
        ("a", 1, 0.25, 0.5),
        ("c", 1, 0.25, 0.0),
    ]


def test_one_sentence_for_everything_is_seen_at_once(val: list[Example], tmp_path: Path) -> None:
    for sentence, told in (("a red square on grey paper", "a red square on grey paper"), ("", "nothing")):
        write_gallery(
            evaluation_of({example.id: sentence for example in val}, val), val, tmp_path / "page.html", title="toy"
        )
        page = page_of(tmp_path / "page.html")
        assert f'class="verdict bad">It says one sentence of 100% of the pictures: “{told}”.' in page.html
        assert "<b>1</b><span>distinct sentences</span>" in page.html
        assert "<b>100.0%</b><span>share of the commonest sentence</span>" in page.html


def test_the_verdict_follows_what_is_said(val: list[Example], mixed: Evaluation, tmp_path: Path) -> None:
    perfect = {example.id: example.references[0] for example in val}
    strange = {example.id: f"something {number} else" for number, example in enumerate(val)}
    for found, verdict in (
        (evaluation_of(perfect, val), '"verdict good">CIDEr '),
        (mixed, '"verdict warn">It says one sentence of 33% of the pictures: “a red”'),
        (evaluation_of(strange, val), '"verdict bad">One sentence said of every picture would do as well: CIDEr '),
    ):
        write_gallery(found, val, tmp_path / "page.html", title="toy", each=1)
        assert f"<p class={verdict}" in (tmp_path / "page.html").read_text("utf-8")
    write_gallery(evaluation_of(perfect, val), val, tmp_path / "page.html", title="toy", each=1)
    assert "24 distinct sentences of 24 pictures; none was said twice." in (tmp_path / "page.html").read_text("utf-8")


def test_what_people_and_models_write_is_escaped(val: list[Example], tmp_path: Path) -> None:
    evil = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>{{ 7 * 7 }} $x^{"""
    examples = [replace(val[0], id=f"{evil}.png", references=(evil, evil)), *val[1:]]
    said = {example.id: evil for example in examples}
    failures = [Failure(f"{evil}/a.png", f"{evil} cannot be read")]
    write_gallery(evaluation_of(said, examples, failures), examples, tmp_path / "page.html", title=evil)
    page = page_of(tmp_path / "page.html")  # refuses elements and attributes that could run
    assert {row["said"] for row in page.rows} == {evil}
    assert page.html.count("<script") == page.html.count("</script") == 2
    assert evil in next(image["alt"] or "" for image in page.images if "alert" in (image["alt"] or ""))
    assert "{{ 7 * 7 }}" in page.html
    assert "&lt;script&gt;" in page.html
    assert "<noscript>" in page.html


def test_a_name_with_half_a_character_is_written(val: list[Example], tmp_path: Path) -> None:
    examples = [replace(val[0], id="a\udcff.png"), *val[1:]]
    found = evaluation_of({example.id: "a red square" for example in examples}, examples)
    write_gallery(found, examples, tmp_path / "page.html", title="toy")
    assert "a?.png" in (tmp_path / "page.html").read_text("utf-8")


def test_pictures_without_a_caption_or_a_file_are_told(val: list[Example], tmp_path: Path) -> None:
    gone = replace(val[0], image=str(tmp_path / "gone.png"))
    examples = [gone, *val[1:3], val[5]]
    said = {example.id: example.references[0] for example in examples[:3]}
    failures = [Failure(str(val[5].image), f"{val[5].image} is damaged")]
    write_gallery(evaluation_of(said, examples, failures), examples, tmp_path / "page.html", title="toy")
    page = page_of(tmp_path / "page.html")
    assert f"{val[5].image} is damaged</td>" in page.html
    assert "gone.png does not exist" in page.html
    assert sum("gone.png does not exist" in card for card in page.cards) == 1
    assert (len(page.cards), len(page.images)) == (3, 2)
    assert ["error" in row for row in page.rows] == [True, False, False]


def test_pictures_stand_upright(val: list[Example], tmp_path: Path) -> None:
    stored = Image.new("RGB", (600, 300), "blue")
    stored.paste("red", (0, 0, 300, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: red, at the left, comes to the top
    stored.save(tmp_path / "turned.jpg", exif=exif)
    examples = [replace(val[0], image=str(tmp_path / "turned.jpg"))]
    found = evaluation_of({val[0].id: "a red square"}, examples)
    write_gallery(found, examples, tmp_path / "page.html", title="toy")
    (image,) = page_of(tmp_path / "page.html").images
    source = image["src"] or ""
    assert image["alt"] == val[0].references[0]
    shown = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
    assert shown.size == (120, 240)
    top, bottom = (np.asarray(shown.convert("RGB"))[row, 60].tolist() for row in (40, 200))
    assert top == pytest.approx([255, 0, 0], abs=12)
    assert bottom == pytest.approx([0, 0, 255], abs=12)


def test_a_page_is_the_same_each_time(mixed: Evaluation, val: list[Example], tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_gallery(mixed, val, tmp_path / name, title="toy")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_examples_of_other_splits_do_not_count(mixed: Evaluation, val: list[Example]) -> None:
    others = [replace(example, split="train", references=("something else",)) for example in val]
    assert score_pictures(mixed, [*val, *others]) == pytest.approx(score_pictures(mixed, val))
    with pytest.raises(DataError, match=r"was captioned but is not among the 23 examples of 'val'"):
        score_pictures(mixed, [*val[1:], *others])


def test_what_cannot_be_done_is_said(
    mixed: Evaluation, val: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="each is 0"):
        write_gallery(mixed, val, tmp_path / "page.html", title="toy", each=0)
    with pytest.raises(DataError, match="cannot write"):
        write_gallery(mixed, val, tmp_path / "nowhere" / "page.html", title="toy")
    with pytest.raises(DataError, match="cannot read"):
        write_gallery(mixed, val, tmp_path / "page.html", title="toy", metrics=tmp_path / "metrics.csv")
    for module in ("jinja2", "matplotlib"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(BackendError, match=r"pip install 'showtell\[report\]'"):
                write_gallery(mixed, val, tmp_path / "page.html", title="toy")
    assert not list(tmp_path.iterdir())


# captions that nobody scored


def test_captions_have_a_page(val: list[Example], tmp_path: Path) -> None:
    said: list[Caption | Failure] = [
        Caption(Path(str(example.image)).name, f"a {number % 4}", -2.0, ("a", "x"), (-1.0, -0.5))
        for number, example in enumerate(val)
    ]
    said.insert(3, Failure("gone.png", "gone.png does not exist"))
    folder = Path(str(val[0].image)).parent
    write_captions(iter(said), tmp_path / "page.html", title="captions.jsonl", pictures=[tmp_path, folder])
    page = page_of(tmp_path / "page.html")
    assert [row["name"] for row in page.rows] == [one.image for one in said if isinstance(one, Caption)]
    assert all(row["picture"] and row["sure"] == pytest.approx(np.exp(-2 / 3), abs=1e-3) for row in page.rows)
    assert not any("cider" in row or "maps" in row for row in page.rows)
    assert "4 distinct sentences of 24 pictures." in page.html
    assert "<b>1</b><span>that could not be read</span>" in page.html
    assert "gone.png does not exist</td>" in page.html
    assert "CIDEr-D<small>" not in page.html


def test_what_is_no_path_is_no_picture(tmp_path: Path) -> None:
    said = [Caption("x" * 5000, "a dog", -1.0, (), ()), Caption("a\0b", "a cat", -1.0, (), ())]
    write_captions(said, tmp_path / "page.html", title="toy", pictures=[tmp_path])
    assert all("error" in row for row in page_of(tmp_path / "page.html").rows)


def test_of_many_captions_the_same_few_are_drawn_in_order(val: list[Example], tmp_path: Path) -> None:
    said = [Caption(f"{number}.png", f"a {number}", -1.0, (), ()) for number in range(400)]
    drawn = []
    for name in ("one", "two"):
        write_captions(said, tmp_path / name, title="toy", most=40)
        page = page_of(tmp_path / name)
        drawn.append([int(row["name"].removesuffix(".png")) for row in page.rows])
        assert "40 of the 400 pictures" in page.html
        assert "400 distinct sentences of 400 pictures" in page.html
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert len(drawn[0]) == 40
    assert drawn[0][0] < 100 < 300 < drawn[0][-1]


def test_a_page_of_no_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"toy holds no caption; give what showtell batch"):
        write_captions([Failure("a.png", "a.png is empty")], tmp_path / "page.html", title="toy")
