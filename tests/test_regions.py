"""Words of a sentence and places in a picture, by the maps of a captioner."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell import Captioner
from showtell.bundle import read_bundle
from showtell.errors import BundleError, DataError
from showtell.records import Caption
from showtell.regions import RegionCaptioner


@pytest.fixture(scope="module")
def grounder(toy_run: Path) -> RegionCaptioner:
    return RegionCaptioner.load(toy_run / "bundle")


@pytest.fixture(scope="module")
def picture(toy_data: Path) -> str:
    return str(toy_data / "images" / "red_circle.png")


def test_maps_are_the_attention_along_the_sentence(grounder: RegionCaptioner, toy_run: Path, picture: str) -> None:
    said = Captioner.load(toy_run / "bundle").caption([picture])[0]
    assert isinstance(said, Caption)
    assert said.maps is not None
    found = grounder.map_words(picture, said.text)
    assert found.words == said.words
    np.testing.assert_allclose(found.maps_TRC, said.maps, atol=1e-5)
    with Image.open(picture) as opened:
        assert found.box == (0, 0, *opened.size)


def test_without_a_sentence_the_models_own_is_grounded(grounder: RegionCaptioner, toy_run: Path, picture: str) -> None:
    said = Captioner.load(toy_run / "bundle").caption([picture])[0]
    assert isinstance(said, Caption)
    assert " ".join(one.text for one in grounder.ground(picture)) == said.text
    assert grounder.map_words(picture).words == said.words


def test_a_word_is_given_the_box_with_most_attention_beyond_its_share(grounder: RegionCaptioner, picture: str) -> None:
    with Image.open(picture) as opened:
        width, height = opened.size
    maps = grounder.map_words(picture, "a red circle on grey paper").maps_TRC
    rows, columns = maps.shape[1:]
    assert rows == columns == 2
    halves = [
        [column * width / 2, row * height / 2, (column + 1) * width / 2, (row + 1) * height / 2]
        for row in range(2)
        for column in range(2)
    ]
    found = grounder.ground(picture, "a red circle on grey paper", boxes=halves, smoothing=0)
    for one in found:
        for word in range(one.start, one.stop):
            assert list(one.box) == halves[int(maps[word].argmax())]
    expected = sum(float(maps[word].max()) - 1 / 4 for word in range(6))
    assert sum(one.score for one in found) == pytest.approx(expected, abs=1e-5)


def test_words_that_no_model_knows_and_models_that_cannot_ground(grounder: RegionCaptioner, picture: str) -> None:
    with pytest.raises(DataError, match="knows none of the words of 'zebra piano'"):
        grounder.ground(picture, "zebra piano")
    default = read_bundle("default")
    vector = replace(default, manifest=replace(default.manifest, rows=1, columns=1))
    with pytest.raises(BundleError, match=r"sees a picture as one vector, .* give an alignment model, or a captioner"):
        RegionCaptioner(vector).ground(picture, "a red circle")


def test_a_captioner_without_attention_grounds_by_occlusion() -> None:
    cat = os.fspath(Path(__file__).parents[1] / "examples" / "cat.jpg")
    default = RegionCaptioner.load("default")
    seen = default.map_words(cat, "a cat with green eyes")
    assert seen.maps_TRC.shape == (5, 7, 7)
    np.testing.assert_allclose(seen.maps_TRC.sum((1, 2)), 1, atol=1e-5)
    said = Captioner.load("default").caption([cat], maps=True)[0]
    assert isinstance(said, Caption)
    assert said.maps is not None
    np.testing.assert_allclose(said.maps, default.map_words(cat, said.text).maps_TRC, atol=1e-3)
    assert " ".join(one.text for one in default.ground(cat, "a cat with green eyes")) == "a cat with green eyes"
