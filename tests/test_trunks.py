"""The lower part of an encoder and the rest of it, beside the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell.datasets import read_native  # noqa: E402
from showtell.learn.config import ModelConfig  # noqa: E402
from showtell.learn.encoders import build_encoder  # noqa: E402
from showtell.learn.features import extract_features  # noqa: E402
from showtell.learn.trunks import Trunk, encode_rest  # noqa: E402


def build(name: str = "test_resnet"):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return build_encoder(ModelConfig(encoder=name, encoder_weights="random", image_size=64))


def pixels(count: int = 3):  # type: ignore[no-untyped-def]
    return torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_035", "efficientnet_b0", "convnext_atto"])
@pytest.mark.parametrize("stages", [1, 2, 99])
def test_trunk_and_rest_are_the_encoder(name: str, stages: int) -> None:
    encoder = build(name)
    trunk = Trunk(encoder, stages)
    with torch.inference_mode():
        whole, lower = encoder(pixels()), trunk(pixels())
        torch.testing.assert_close(encode_rest(encoder, trunk, lower), whole)
    assert lower.shape == (3, trunk.rows * trunk.columns, trunk.width)
    assert trunk.rows > encoder.rows


def test_gradients_reach_the_rest_alone() -> None:
    encoder = build()
    trunk = Trunk(encoder, 1)
    with torch.inference_mode():
        lower = trunk(pixels())
    encode_rest(encoder, trunk, lower.clone()).sum().backward()
    top = {id(parameter) for parameter in encoder.top_parameters(1)}
    for parameter in encoder.network.parameters():
        assert (parameter.grad is not None) == (id(parameter) in top)


def test_mirrored_pictures_are_mirrored() -> None:
    encoder = build()
    with torch.inference_mode():
        mirrored = Trunk(encoder, 0, mirrored=True)(pixels())
        torch.testing.assert_close(mirrored, encoder(pixels().flip(2)))
        assert not torch.equal(mirrored, encoder(pixels()))


def test_a_store_of_one_is_not_taken_for_that_of_another(toy_data: Path, tmp_path: Path) -> None:
    encoder, examples = build(), read_native(toy_data)[:3]
    prints = {Trunk(encoder, 1).fingerprint(), Trunk(encoder, 2).fingerprint(), encoder.fingerprint()}
    assert len({*prints, Trunk(encoder, 1, mirrored=True).fingerprint()}) == 4
    trunk = Trunk(encoder, 1)
    store = extract_features(trunk, examples, tmp_path, pooled=False)
    assert store.shape == (trunk.rows * trunk.columns, trunk.width)
