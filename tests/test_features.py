"""The feature store: what is in it, and that a stopped extraction goes on to the same bytes."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell.datasets import read_native  # noqa: E402
from showtell.errors import ConfigError, DataError  # noqa: E402
from showtell.images import read_pixels  # noqa: E402
from showtell.learn.config import ModelConfig  # noqa: E402
from showtell.learn.encoders import Encoder, build_encoder  # noqa: E402
from showtell.learn.features import FeatureStore, extract_features  # noqa: E402
from showtell.records import Example  # noqa: E402


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return build_encoder(ModelConfig(encoder="test_resnet", encoder_weights="random", image_size=64))


@pytest.fixture
def examples(toy_data: Path) -> list[Example]:
    return read_native(toy_data)


def encode(encoder: Encoder, examples: list[Example]) -> np.ndarray:
    pixels = np.stack([read_pixels(str(example.image), encoder.preprocessing) for example in examples])
    with torch.inference_mode():
        return encoder(torch.from_numpy(pixels)).numpy()


def test_the_store_holds_what_the_encoder_says(encoder: Encoder, examples: list[Example], tmp_path: Path) -> None:
    direct = encode(encoder, examples)
    seen: list[tuple[str, int, int]] = []
    store = extract_features(
        encoder, examples, tmp_path / "grid", pooled=False, progress=lambda *told: seen.append(told)
    )
    assert (len(store), store.shape) == (24, (4, 96))
    assert store.images == [example.id for example in examples]
    assert store.failures == {}
    read = store.read(np.arange(24))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, direct, rtol=2e-3, atol=1e-3 * np.abs(direct).max())
    assert not np.allclose(read[0], read[1], rtol=1e-2)
    assert np.load(tmp_path / "grid" / "features.npy", mmap_mode="r").dtype == np.float16
    assert [(done, total) for _, done, total in seen] == [(16, 24), (24, 24)]
    pooled = extract_features(encoder, examples, tmp_path / "pooled", pooled=True)
    assert pooled.shape == (1, 96)
    np.testing.assert_allclose(
        pooled.read(np.arange(24))[:, 0], direct.mean(1), rtol=2e-3, atol=1e-3 * np.abs(direct).max()
    )


def test_rows_are_read_in_the_order_asked(encoder: Encoder, examples: list[Example], tmp_path: Path) -> None:
    store = extract_features(encoder, examples, tmp_path, pooled=False)
    whole = np.load(tmp_path / "features.npy").astype(np.float32)
    rows = np.random.default_rng(0).integers(24, size=50)
    np.testing.assert_array_equal(store.read(rows), whole[rows])
    assert store.read(np.zeros(0, np.int64)).shape == (0, 4, 96)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class Stop(Exception):
    pass


@pytest.mark.parametrize("damage", ["clean", "cut index line", "half-written rows", "no index"])
def test_a_stopped_extraction_goes_on_to_the_same_store(
    damage: str, encoder: Encoder, examples: list[Example], tmp_path: Path
) -> None:
    examples = [*examples, *(replace(example, id=f"again/{example.id}") for example in examples)]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    extract_features(encoder, examples, whole, pooled=False)

    def stop_at_32(what: str, done: int, total: int) -> None:
        if done == 32:
            raise Stop

    with pytest.raises(Stop):
        extract_features(encoder, examples, stopped, pooled=False, progress=stop_at_32)
    with pytest.raises(DataError, match=r"stopped is unfinished: 32 of 48 pictures; start the same command again"):
        FeatureStore(stopped)
    index = stopped / "index.jsonl"
    expected = 32
    if damage == "cut index line":  # in the middle of the last line
        index.write_bytes(index.read_bytes()[:-9])
        expected = 31
    elif damage == "half-written rows":
        features = np.load(stopped / "features.npy", mmap_mode="r+")
        features[32:35] = 7
        features.flush()
    elif damage == "no index":
        index.unlink()
        expected = 0
    counts: list[int] = []
    extract_features(encoder, examples, stopped, pooled=False, progress=lambda what, done, total: counts.append(done))
    assert counts[0] == min(expected + 16, 48)  # what was done is not done again
    one, other = contents(whole), contents(stopped)
    assert one["index.jsonl"] == other["index.jsonl"]
    assert one["store.json"] == other["store.json"]
    np.testing.assert_allclose(  # batches cut differently may round differently
        FeatureStore(stopped).read(np.arange(48)), FeatureStore(whole).read(np.arange(48)), rtol=2e-3, atol=1e-3
    )
    if damage != "cut index line":
        assert one["features.npy"] == other["features.npy"]


def test_a_finished_store_is_not_encoded_again(encoder: Encoder, examples: list[Example], tmp_path: Path) -> None:
    extract_features(encoder, examples, tmp_path, pooled=True)
    before = contents(tmp_path)

    def never(*told: object) -> None:
        raise AssertionError(told)

    extract_features(encoder, examples, tmp_path, pooled=True, progress=never)
    assert contents(tmp_path) == before


def test_a_finished_store_serves_runs_with_some_of_its_pictures(
    encoder: Encoder, examples: list[Example], tmp_path: Path
) -> None:
    extract_features(encoder, examples, tmp_path, pooled=False)
    before = contents(tmp_path)
    for some, pooled in ((examples[::-1], False), (examples[1:9], False), (examples, True)):
        store = extract_features(encoder, some, tmp_path, pooled=pooled)
        assert store.images == [example.id for example in examples]
        assert store.shape[0] == 4
    assert contents(tmp_path) == before


def test_features_of_something_else_are_refused(encoder: Encoder, examples: list[Example], tmp_path: Path) -> None:
    extract_features(encoder, examples, tmp_path, pooled=True)
    before = contents(tmp_path)
    torch.manual_seed(1)
    other = build_encoder(ModelConfig(encoder="test_resnet", encoder_weights="random", image_size=64))
    with pytest.raises(ConfigError, match="holds features of another encoder or data set; give another directory"):
        extract_features(other, examples, tmp_path, pooled=True)
    with pytest.raises(ConfigError, match="another encoder or data set"):
        extract_features(encoder, examples, tmp_path, pooled=False)
    with pytest.raises(ConfigError, match="holds features of other pictures"):
        extract_features(encoder, [replace(examples[0], id="new"), *examples[1:]], tmp_path, pooled=True)
    assert contents(tmp_path) == before


def test_a_picture_that_cannot_be_read_is_a_failure_with_a_zero_row(
    encoder: Encoder, examples: list[Example], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    mixed = [
        examples[0],
        replace(examples[1], id="broken", image=str(broken)),
        replace(examples[2], id="gone", image=str(tmp_path / "gone.jpg")),
        examples[3],
    ]
    store = extract_features(encoder, mixed, tmp_path / "store", pooled=False)
    assert set(store.failures) == {"broken", "gone"}
    assert "broken.jpg cannot be read as a picture" in store.failures["broken"]
    assert "gone.jpg does not exist" in store.failures["gone"]
    read = store.read(np.arange(4))
    assert not read[1:3].any()
    assert read[0].any()
    np.testing.assert_allclose(read[[0, 3]], encode(encoder, [examples[0], examples[3]]), rtol=2e-3, atol=1e-2)
    lines = (tmp_path / "store" / "index.jsonl").read_text("utf-8").splitlines()
    assert [sorted(json.loads(line)) for line in lines] == [
        ["image"],
        ["error", "image"],
        ["error", "image"],
        ["image"],
    ]


def test_a_batch_of_failures_alone_is_recorded(encoder: Encoder, tmp_path: Path) -> None:
    gone = [Example(str(i), str(tmp_path / f"{i}.jpg"), ("a",)) for i in range(17)]
    assert len(extract_features(encoder, gone, tmp_path / "store", pooled=True).failures) == 17


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a feature store.*extract the features again"):
        FeatureStore(tmp_path)


def test_a_disk_without_room_is_told_before_the_first_picture(
    encoder: Encoder, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"the features need .* GB at .*No space left on device; make room"):
        extract_features(encoder, examples, tmp_path / "store", pooled=True)
    assert not (tmp_path / "store" / "features.npy").exists()
