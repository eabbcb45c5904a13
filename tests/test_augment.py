"""Views of training pictures: where pixels go, and which words go with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell.learn.augment import Sides, Views, draw_views, show  # noqa: E402
from showtell.learn.config import FinetuneConfig  # noqa: E402
from showtell.text import PAD, Vocabulary, tokenise  # noqa: E402

PLAIN = FinetuneConfig(epochs=1, flip=False, turn=False, crop=1.0, colour=0.0)
VOCABULARY = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "dog", "left", "right", "rightmost"))
SIDES = Sides((("left", "right"), ("leftmost", "rightmost")), VOCABULARY)


def pictures(count: int = 2, size: int = 8) -> Any:
    return torch.randint(0, 256, (count, size, size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def nobody(count: int) -> np.ndarray:
    return np.zeros(count, np.bool_)


def views(config: FinetuneConfig, count: int, seed: int = 0) -> Views:
    return draw_views(config, nobody(count), nobody(count), np.random.default_rng(seed))


def test_no_augmentation_shows_the_picture_as_it_is() -> None:
    shown = show(pictures(), views(PLAIN, 2))
    assert shown.dtype == torch.float32
    torch.testing.assert_close(shown, pictures().float(), rtol=0, atol=1e-2)
    assert shown.is_contiguous()


def test_a_mirror_exchanges_left_and_right_of_half_the_pictures() -> None:
    config = FinetuneConfig(epochs=1, crop=1.0, colour=0.0)
    drawn = views(config, 400)
    assert 160 < drawn.mirrored_B.sum() < 240
    some = Views(np.array([True, False]), drawn.placed_B23[[drawn.mirrored_B.argmax(), drawn.mirrored_B.argmin()]],
                 drawn.colour_B3[:2])  # fmt: skip
    shown = show(pictures(), some)
    torch.testing.assert_close(shown[0], pictures()[0].flip(1).float(), rtol=0, atol=1e-2)
    torch.testing.assert_close(shown[1], pictures()[1].float(), rtol=0, atol=1e-2)


def test_turns_are_the_eight_symmetries_of_the_square() -> None:
    config = FinetuneConfig(epochs=1, crop=1.0, colour=0.0, turn=True)
    picture = pictures(1)
    shown = show(picture.expand(200, -1, -1, -1), views(config, 200)).round().to(torch.uint8)
    symmetries = [side.rot90(quarter, (0, 1)) for quarter in range(4) for side in (picture[0], picture[0].flip(1))]
    found = {next(i for i, one in enumerate(symmetries) if torch.equal(one, view)) for view in shown}
    assert found == set(range(8))


def test_crops_show_no_less_than_the_smallest_area_and_nothing_outside() -> None:
    config = FinetuneConfig(epochs=1, flip=False, crop=0.5, colour=0.0)
    drawn = views(config, 500)
    scale = drawn.placed_B23[:, [0, 1], [0, 1]]
    area = scale.prod(1)
    assert area.min() >= 0.5 - 1e-5
    assert area.min() < 0.55
    assert area.max() > 0.95
    assert (np.abs(drawn.placed_B23[:, :, 2]) + scale <= 1 + 1e-5).all()
    ramp = torch.arange(64.0).view(1, 1, 64, 1).expand(500, 64, 64, 3)
    shown = show(ramp, drawn)
    width = (shown[:, 0, -1, 0] - shown[:, 0, 0, 0]) / 63
    np.testing.assert_allclose(width.numpy(), scale[:, 0], atol=0.03)


def test_colours_keep_within_their_bounds() -> None:
    config = FinetuneConfig(epochs=1, flip=False, crop=1.0, colour=0.2)
    drawn = views(config, 300)
    assert drawn.colour_B3.min() >= 0.8
    assert drawn.colour_B3.max() <= 1.2
    grey = torch.full((300, 4, 4, 3), 100, dtype=torch.uint8)
    shown = show(grey, drawn)
    expected = np.broadcast_to(100 * drawn.colour_B3[:, :1, None, None], (300, 4, 4, 3))
    np.testing.assert_allclose(shown.numpy(), expected, rtol=1e-3)  # contrast and saturation leave grey alone
    bright = show(torch.full((300, 4, 4, 3), 250, dtype=torch.uint8), drawn)
    assert bright.max() <= 255


def test_saturation_is_a_distance_from_grey() -> None:
    red = torch.tensor([200, 40, 40], dtype=torch.uint8).expand(1, 4, 4, 3)
    none = Views(np.array([False]), views(PLAIN, 1).placed_B23, np.array([[1, 1, 0]], np.float32))
    shown = show(red, none)[0, 0, 0]
    assert shown.tolist() == pytest.approx([0.299 * 200 + 0.701 * 40] * 3, abs=0.01)


def ids(text: str) -> list[int]:
    return VOCABULARY.encode(tokenise(text))


def test_words_of_a_mirrored_picture_change_sides() -> None:
    tokens = torch.tensor([ids("a dog left"), ids("a dog right")])
    mirrored = SIDES.mirror(tokens, torch.tensor([True, False]))
    assert mirrored.tolist() == [ids("a dog right"), ids("a dog right")]
    assert tokens.tolist() == [ids("a dog left"), ids("a dog right")]
    assert SIDES.mirror(SIDES.mirror(tokens, torch.ones(2, dtype=torch.bool)), torch.ones(2, dtype=torch.bool)).equal(
        tokens
    )


def test_pictures_whose_captions_name_a_side_are_found() -> None:
    tokens = torch.tensor([ids("a dog left"), [*ids("a dog"), PAD], [*ids("a rightmost"), PAD], [*ids("a a"), PAD]])
    named, lonely = SIDES.find(tokens, torch.tensor([0, 0, 1, 2]), 4)
    assert named.tolist() == [True, True, False, False]
    assert lonely.tolist() == [False, True, False, False]  # there is no leftmost in the vocabulary


def test_named_sides_are_never_turned_and_lonely_ones_never_mirrored() -> None:
    config = FinetuneConfig(epochs=1, crop=1.0, colour=0.0, turn=True)
    named, lonely = np.ones(300, np.bool_), np.arange(300) < 150
    drawn = draw_views(config, named, lonely, np.random.default_rng(0))
    assert np.abs(drawn.placed_B23[:, [0, 1], [1, 0]]).max() < 1e-6  # no quarter turn
    assert (drawn.placed_B23[:, 1, 1] > 0).all()  # nothing stands on its head
    assert not drawn.mirrored_B[:150].any()
    assert drawn.mirrored_B[150:].any()


def test_views_are_the_seeds() -> None:
    config = FinetuneConfig(epochs=1, turn=True)
    one, same, other = (views(config, 16, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.placed_B23, same.placed_B23)
    assert not np.array_equal(one.placed_B23, other.placed_B23)
