"""The memory of training on a set of RSICD's size and on one ten times as large: python bench/memory.py [--steps N]

Makes synthetic captions and a feature store of each size on disk (pooled MobileNetV2 features of 9,828 pictures are
25 MB; with --grid, which the `attention` decoder reads, 1.2 GB), then trains with the real loop in a process of its own
while a thread samples RssAnon: the memory that is not page cache. Features are written in pieces and read through the
store; the peak of each size and their difference are printed. The temporary folder needs the room: see --folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from showtell.learn.config import TrainConfig
    from showtell.learn.features import FeatureStore
    from showtell.learn.steps import Decoder
    from showtell.learn.training import Source
    from showtell.records import Example
    from showtell.text import Vocabulary

RSICD = 9_828  # pictures, with five captions each
GRID, WIDTH = 49, 1280  # cells and channels of MobileNetV2 at 224 pixels
WORDS = 2_000  # that occur in the captions
VAL = 64  # pictures that are captioned at the end of the epoch
PIECE = 256  # pictures written at once


def write_store(folder: Path, pictures: int, cells: int) -> None:
    """A finished feature store in the layout of showtell.learn.features, of random numbers."""
    folder.mkdir(parents=True)
    shape = (pictures, cells, WIDTH)
    rng = np.random.default_rng(0)
    np.lib.format.open_memmap(folder / "features.npy", mode="w+", dtype=np.float16, shape=shape)
    with (folder / "features.npy").open("r+b") as file:
        file.seek(0, 2)
        file.seek(file.tell() - int(np.prod(shape)) * 2)
        for start in range(0, pictures, PIECE):
            file.write(rng.random((min(PIECE, pictures - start), cells, WIDTH), np.float32).astype(np.float16))
    (folder / "index.jsonl").write_text("".join(json.dumps({"image": f"{i}.jpg"}) + "\n" for i in range(pictures)))
    about = {"format": 1, "fingerprint": "synthetic", "pooled": cells == 1, "images": pictures}
    (folder / "store.json").write_text(json.dumps(about))


class Sampler(threading.Thread):
    """The peak of this process's RssAnon, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        from showtell.learn.training import anonymous_memory_mb

        while True:
            self.peak = max(self.peak, anonymous_memory_mb())
            time.sleep(0.02)


def run_words(
    folder: Path,
    decoder: Decoder,
    vocabulary: Vocabulary,
    source: Source,
    val: list[Example],
    store: FeatureStore,
    config: TrainConfig,
) -> None:
    """Trains a decoder on captions with the real loop, until it has done all epochs or `source` ends it.

    Args:
        folder: Where the loop keeps its files.
        source: A KeyboardInterrupt in its `table` or `start` ends the training.
        val: The first pictures of the store, which are captioned after each epoch.
    """
    from showtell.learn.batches import CaptionTable
    from showtell.learn.losses import Loss, caption_loss
    from showtell.learn.training import Loop, Phase, Started, run_phases
    from showtell.learn.validation import Validation

    decoder.expect_words(source.table.count_words(len(vocabulary)))

    def loss(started: Started, done: float) -> Loss:
        batch = started.batch
        value, tokens = caption_loss(decoder, started.memory, started.state, batch, config.label_smoothing)
        return Loss(value, value.item(), tokens)

    validation = Validation(val, CaptionTable(val, vocabulary, config.max_words), store.read)
    rates = [(list(decoder.parameters()), config.learning_rate)]
    phase = Phase("words", config.epochs, [source], validation, loss, rates, config.batch_pictures)
    loop = Loop(config, decoder, None, vocabulary, folder, {})
    with contextlib.suppress(KeyboardInterrupt):
        run_phases(loop, [lambda: phase], resume=False)


def train(folder: Path, pictures: int, steps: int, conditioning: str) -> None:
    """Trains on the store in `folder` and prints what it took, as JSON."""
    import torch

    from showtell.learn.batches import Batch, CaptionTable
    from showtell.learn.config import ModelConfig, TrainConfig
    from showtell.learn.decoders import build_decoder
    from showtell.learn.features import FeatureStore
    from showtell.learn.training import Source, Started, anonymous_memory_mb, build_vocabulary, store_start
    from showtell.records import Example

    sampler = Sampler()
    sampler.start()
    torch.manual_seed(0)
    imported = anonymous_memory_mb()
    rng = np.random.default_rng(0)
    names = np.array([f"word{i}" for i in range(WORDS)])
    examples = [
        Example(f"{i}.jpg", None, tuple(" ".join(names[rng.integers(0, WORDS, 11)]) for _ in range(5)))
        for i in range(pictures)
    ]
    config = TrainConfig(epochs=1, batch_pictures=64, min_count=1, device="cpu")
    vocabulary = build_vocabulary(examples, config)
    store = FeatureStore(folder)
    decoder = build_decoder(ModelConfig(conditioning=conditioning), width=WIDTH, vocabulary_size=len(vocabulary))
    table = CaptionTable(examples, vocabulary, config.max_words)
    start = store_start(decoder, store, np.arange(pictures))
    left = steps

    def counted(batch: Batch, rng: np.random.Generator) -> Started:  # as `store_start`'s, until the steps are done
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return start(batch, rng)

    source = Source(table, counted, [example.id for example in examples])
    prepared = anonymous_memory_mb()
    began = time.perf_counter()
    run_words(folder, decoder, vocabulary, source, examples[:VAL], store, config)
    done = steps - max(left, 0)
    print(
        json.dumps(
            {
                "pictures": pictures,
                "imported": imported,
                "prepared": prepared,
                "peak": sampler.peak,
                "steps": done,
                "seconds": time.perf_counter() - began,
                "store": (folder / "features.npy").stat().st_size / 1e6,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100, help="of 64 pictures with five captions each")
    parser.add_argument("--grid", action="store_true", help="grid features and the attention decoder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10], help="in times of RSICD")
    parser.add_argument("--folder", type=Path, help="where the stores go for a while [default: the temporary folder]")
    parser.add_argument("--train", nargs=2, metavar=("STORE", "PICTURES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    conditioning = "attention" if arguments.grid else "init"
    if arguments.train:
        train(Path(arguments.train[0]), int(arguments.train[1]), arguments.steps, conditioning)
        return
    print(f"{conditioning}, {arguments.steps} steps; RssAnon in MB (beside the page cache)", flush=True)
    print("  pictures  store MB  imported  prepared      peak  steps/s", flush=True)
    peaks = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            store, pictures = Path(folder) / "store", size * RSICD
            write_store(store, pictures, GRID if arguments.grid else 1)
            command = [sys.executable, __file__, "--train", str(store), str(pictures), "--steps", str(arguments.steps)]
            command += ["--grid"] if arguments.grid else []
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        peaks.append(found["peak"])
        print(
            f"{found['pictures']:10,}{found['store']:10,.0f}{found['imported']:10,}{found['prepared']:10,}"
            f"{found['peak']:10,}{found['steps'] / found['seconds']:9.1f}",
            flush=True,
        )
    print(f"largest beside smallest: {peaks[-1] - peaks[0]:+,} MB")


if __name__ == "__main__":
    main()
