"""Encode a data set before its runs: here, or in shards by the actors of a cluster. See `showtell.learn.features`.

A shard is extracted under a name that nobody else has and then takes its own in one step, so that it is whole or not
there, whoever extracts it and however often; an extraction that was stopped goes on with the shards that are missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from showtell.cluster import Cluster, joined, spread
from showtell.errors import ConfigError, DataError
from showtell.learn.checkpoint import write_atomically
from showtell.learn.config import ModelConfig, RunConfig
from showtell.learn.decoders import looks_at_grid
from showtell.learn.encoders import Encoder, build_encoder
from showtell.learn.features import FeatureStore, describe_store, extract_features, shard_of
from showtell.learn.progress import Progress, silent
from showtell.learn.run import learned_from
from showtell.records import Example

_SHARD = 2048  # pictures


def extract(
    config: RunConfig,
    examples: Sequence[Example],
    directory: str | Path,
    *,
    cluster: Cluster | None = None,
    progress: Progress = silent,
) -> FeatureStore:
    """The store that runs with these settings, on these examples, take as their `features`; made or completed.

    Args:
        cluster: Who encodes; None: this process. `directory` lies on a disk that its machines share.

    Raises:
        ConfigError: The encoder is tuned by each run, or the directory holds other features.
        DataError: The examples cannot make a run.
    """
    if config.model.conditioning.startswith("concepts"):
        raise ConfigError(
            f"a run with conditioning {config.model.conditioning!r} tunes its encoder on content words first, so no "
            "features can be made before it; leave this out"
        )
    train, val = learned_from(config, examples)
    grid = config.alignment is not None or looks_at_grid(config.model)
    torch.manual_seed(config.train.seed)  # as a run does, for an encoder with random weights
    encoder = build_encoder(config.model)
    if cluster is None:
        return extract_features(encoder, [*train, *val], directory, pooled=not grid, progress=progress)
    with joined(cluster):
        return _extract_shards(encoder, config.model, [*train, *val], Path(directory), not grid, cluster, progress)


def _extract_shards(
    encoder: Encoder,
    model: ModelConfig,
    examples: Sequence[Example],
    directory: Path,
    pooled: bool,
    cluster: Cluster,
    progress: Progress,
) -> FeatureStore:
    blocks: list[dict[str, Any]] = [
        {"shard": number, "pictures": [(example.id, example.image) for example in examples[start : start + _SHARD]]}
        for number, start in enumerate(range(0, len(examples), _SHARD))
    ]
    ids = hashlib.sha256("\n".join(example.id for example in examples).encode("utf-8", "surrogatepass")).hexdigest()
    about = describe_store(encoder.fingerprint(), pooled, len(examples))
    _claim(directory, {**about, "shards": len(blocks), "ids": ids})
    left = [block for block in blocks if not shard_of(directory, block["shard"]).exists()]
    make = partial(
        _Extraction, replace(model, encoder_weights="random"), encoder.network.state_dict(), directory, pooled
    )
    there = len(blocks) - len(left)
    for done, _ in enumerate(spread(make, left, cluster), there + 1):
        progress("encoding shards of pictures", done, len(blocks))
    missing = [block["shard"] for block in blocks if not shard_of(directory, block["shard"]).exists()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(blocks)} shards are not in {directory}, although they were written; give a "
            "directory on a disk that all machines of the cluster share"
        )
    return FeatureStore(directory)


def _claim(directory: Path, about: dict[str, Any]) -> None:
    """Nothing, where the directory is new or holds a part of this very store."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "store.json"
    if path.exists() and json.loads(path.read_text("utf-8")) != about:
        raise ConfigError(
            f"{directory} holds features of another encoder or data set; give another directory, or remove this one"
        )

    def write(partial: Path) -> None:
        partial.write_text(json.dumps(about), "utf-8")

    write_atomically(path, write)


class _Extraction:
    """Encodes shards, in whichever process."""

    def __init__(self, model: ModelConfig, weights: dict[str, torch.Tensor], directory: Path, pooled: bool) -> None:
        self._encoder = build_encoder(model)
        self._encoder.network.load_state_dict(weights)
        if torch.cuda.is_available():
            self._encoder.to("cuda")
        self._directory, self._pooled = directory.absolute(), pooled

    def __call__(self, block: dict[str, Any]) -> int:
        """How many rows the shard has."""
        mine = self._directory / f".{secrets.token_hex(8)}"
        examples = [Example(name, image, ()) for name, image in block["pictures"]]
        try:
            extract_features(self._encoder, examples, mine, pooled=self._pooled)
            with contextlib.suppress(OSError):  # another has made it meanwhile
                mine.rename(shard_of(self._directory, block["shard"]))
        finally:
            shutil.rmtree(mine, ignore_errors=True)
        return len(examples)
