"""Training speed from cached features, beside Keras 3 and a plain loop: python bench/training.py [--rounds N]

Decoders of one size (LSTM-512, words of 256 numbers, dropout on words and before the output layer) learn the same
batches of 64 pictures with five captions each. Each has a process of its own, all have as many threads, and they take
turns, so that what else the machine does hits all alike; medians over the rounds are printed.

    init          the real loop of showtell.learn.training, from pooled features
    attention     the same, from whole grids of 49 cells
    Keras         Keras 3 on PyTorch, `init`: LSTM, Dense, AdamW, train_on_batch
    plain         torch.nn.LSTMCell, `init`, stepped over the words in Python, logits at every place

In the last two every reference is a row of its own, and a batch holds pictures at random, as a straightforward script
has it, padded to its longest caption. showtell puts pictures of similar caption length together; `Keras, sorted` and
`plain, sorted` are given its very batches, so that it can be seen how much of the difference that is. None of them does
the label smoothing and gradient clipping of the real loop. Keras's LSTM is given no mask, which it needs not where
padding comes last and weighs nothing: with mask_zero=True it was slower by 5 to 15 %.

A token is a word, or the END, of a reference. RSICD repeats its references, and showtell learns equal ones of a
picture as one row with a weight, which counts as many tokens as its references have. So that nobody is misled, all is
measured a second time on captions that all differ: random words, as many of them as RSICD's captions have. Features are
random numbers in both. Where RSICD's captions are not there, only the second part is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from memory import GRID, WIDTH, Sampler, run_words, write_store
from showtell.datasets import read_native
from showtell.learn.batches import Batch, CaptionTable
from showtell.learn.config import ModelConfig, TrainConfig
from showtell.learn.decoders import build_decoder
from showtell.learn.features import FeatureStore
from showtell.learn.training import Source, build_vocabulary, store_start
from showtell.records import Example
from showtell.text import PAD, Vocabulary, tokenise

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PICTURES, REFERENCES = 7_862, 5  # of RSICD's training split
WORDS = 2_000  # that captions which all differ are made of
MEAN, DEVIATION = 10.4, 3.1  # words of RSICD's captions, where they are not there
SHORTEST = 3  # words; shorter random captions would be equal now and then
MODEL = ModelConfig()  # embedding, hidden and dropout of all
TRAIN = TrainConfig(device="cpu", batch_pictures=64)
WARM_UP = 2  # batches before the first round
SORTED = ("init", "attention", "Keras, sorted", "plain, sorted")


@dataclass(frozen=True)
class Work:
    """What is learned: picture i of `examples` is row i of the stores folder/pooled and folder/grid."""

    title: str
    examples: Sequence[Example]
    vocabulary: Vocabulary
    folder: Path
    threads: int

    def table(self) -> CaptionTable:
        return CaptionTable(self.examples, self.vocabulary, TRAIN.max_words)

    def store(self, name: str = "pooled") -> FeatureStore:
        return FeatureStore(self.folder / name)


Batches = Iterator[NDArray[np.int64]]  # the numbers of each batch's pictures


# showtell


class OrderedTable(CaptionTable):
    """Captions of which the loop is given the batches that are asked for from outside, for as long as any are."""

    def __init__(self, work: Work, batches: Batches) -> None:
        super().__init__(work.examples, work.vocabulary, TRAIN.max_words)
        self._batches = batches

    def epoch(self, rng: np.random.Generator, pictures: int) -> list[NDArray[np.int64]]:
        """An epoch without an end, in effect."""
        return [np.zeros(0, np.int64)] * 100_000

    def batch(self, items_B: NDArray[np.int64]) -> Batch:
        """The captions of the next pictures."""
        wanted_B = next(self._batches, None)
        if wanted_B is None:
            raise KeyboardInterrupt
        return super().batch(wanted_B)


def learn_here(conditioning: Any, work: Work, batches: Batches) -> None:
    """The real loop."""
    store = work.store("grid" if conditioning == "attention" else "pooled")
    size = len(work.vocabulary)
    decoder = build_decoder(ModelConfig(conditioning=conditioning), width=WIDTH, vocabulary_size=size)
    start = store_start(decoder, store, np.arange(len(work.examples)))
    source = Source(OrderedTable(work, batches), start, [example.id for example in work.examples])
    with tempfile.TemporaryDirectory() as folder:
        run_words(Path(folder), decoder, work.vocabulary, source, list(work.examples[:1]), store, TRAIN)


# the others


def read_batches(work: Work, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """(features (N, D) float32, tokens (N, T) int64 from START to END) of each batch, a row a reference."""
    table, store = work.table(), work.store()
    for items_B in batches:
        batch = table.batch(items_B)
        times_N = batch.weights_N.long()
        features_BD = torch.from_numpy(store.read(items_B)[:, 0])
        rows_N = batch.rows_N.repeat_interleave(times_N)
        yield features_BD[rows_N], batch.tokens_NT.repeat_interleave(times_N, 0)


class Plain(nn.Module):
    """Vinyals et al. with an initial state, as it is usually written down at first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(size, MODEL.embedding, padding_idx=PAD)
        self.initial_hidden = nn.Linear(WIDTH, MODEL.hidden)
        self.initial_cell = nn.Linear(WIDTH, MODEL.hidden)
        self.cell = nn.LSTMCell(MODEL.embedding, MODEL.hidden)
        self.dropout = nn.Dropout(MODEL.dropout)
        self.output = nn.Linear(MODEL.hidden, size)

    def forward(self, features_ND: Tensor, tokens_NT: Tensor) -> Tensor:
        hidden, cell = torch.tanh(self.initial_hidden(features_ND)), self.initial_cell(features_ND)
        inputs_NTE = self.dropout(self.words(tokens_NT))
        logits = []
        for place in range(tokens_NT.shape[1]):
            hidden, cell = self.cell(inputs_NTE[:, place], (hidden, cell))
            logits.append(self.output(self.dropout(hidden)))
        return torch.stack(logits, 1)


def learn_plainly(work: Work, batches: Batches) -> None:
    """Cross-entropy that ignores PAD, and AdamW."""
    decoder = Plain(len(work.vocabulary))
    optimiser = torch.optim.AdamW(decoder.parameters(), TRAIN.learning_rate)
    for features_ND, tokens_NT in read_batches(work, batches):
        logits_NTV = decoder(features_ND, tokens_NT[:, :-1])
        loss = functional.cross_entropy(logits_NTV.flatten(0, 1), tokens_NT[:, 1:].flatten(), ignore_index=PAD)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def build_keras(size: int) -> Any:
    """The compiled Keras model: (features, tokens) -> logits."""
    import keras
    from keras import layers

    features, tokens = keras.Input((WIDTH,)), keras.Input((None,), dtype="int32")
    state = [layers.Dense(MODEL.hidden, activation="tanh")(features), layers.Dense(MODEL.hidden)(features)]
    words = layers.Embedding(size, MODEL.embedding)(tokens)
    words = layers.Dropout(MODEL.dropout)(words)
    said = layers.LSTM(MODEL.hidden, return_sequences=True)(words, initial_state=state)
    logits = layers.Dense(size)(layers.Dropout(MODEL.dropout)(said))
    model = keras.Model([features, tokens], logits)
    model.compile(
        optimizer=keras.optimizers.AdamW(TRAIN.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def learn_with_keras(work: Work, batches: Batches) -> None:
    """`train_on_batch`; padding weighs nothing."""
    model = build_keras(len(work.vocabulary))
    for features_ND, tokens_NT in read_batches(work, batches):
        tokens = tokens_NT.numpy().astype(np.int32)
        targets = tokens[:, 1:]
        weights = (targets != PAD).astype(np.float32)
        model.train_on_batch([features_ND.numpy(), tokens[:, :-1]], targets, sample_weight=weights)


LEARNERS: dict[str, Callable[[Work, Batches], None]] = {
    "init": partial(learn_here, "init"),
    "attention": partial(learn_here, "attention"),
    "Keras": learn_with_keras,
    "Keras, sorted": learn_with_keras,
    "plain": learn_plainly,
    "plain, sorted": learn_plainly,
}


# rounds


def serve(name: str, work: Work, orders: Connection) -> None:
    """A learner's process: learns each list of batches that is sent, and answers (seconds, peak RssAnon in MB)."""
    torch.set_num_threads(work.threads)
    torch.manual_seed(0)
    sampler = Sampler()
    sampler.start()

    def batches() -> Batches:
        while asked := orders.recv():
            began = perf_counter()
            yield from asked
            orders.send((perf_counter() - began, sampler.peak))

    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):  # whoever asks has been stopped
        LEARNERS[name](work, batches())


def ask(name: str, orders: Connection, batches: list[NDArray[np.int64]]) -> tuple[float, int]:
    try:
        orders.send(batches)
        return orders.recv()
    except (EOFError, BrokenPipeError):
        raise SystemExit(f"the process of {name!r} has ended; what it said last is above") from None


def measure(work: Work, rounds: int, batches: int) -> None:
    """Lets all learn in turn, and prints what they took."""
    table = work.table()
    tokens_of = np.array(
        [sum(times * (len(ids) - 1) for ids, times in table.captions_of(i)) for i in range(len(table))]
    )
    rng = np.random.default_rng(0)
    plans = {True: [items for items in table.epoch(rng, 64) if len(items) == 64]}
    plans[False] = list(rng.permutation(len(table))[: 64 * len(plans[True])].reshape(-1, 64))
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    for name in LEARNERS:
        ends[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, work, theirs), daemon=True).start()
        theirs.close()
    peaks = {name: ask(name, end, plans[name in SORTED][-WARM_UP:])[1] for name, end in ends.items()}
    costs: dict[str, list[float]] = {name: [] for name in ends}  # seconds a token, by round
    for number in range(rounds):
        for name in list(ends)[:: -1 if number % 2 else 1]:
            part = list(islice(cycle(plans[name in SORTED]), number * batches, (number + 1) * batches))
            seconds, peaks[name] = ask(name, ends[name], part)
            costs[name].append(seconds / tokens_of[np.concatenate(part)].sum())
    for end in ends.values():
        end.send([])

    distinct = np.mean([len(table.captions_of(item)) for item in range(len(table))])
    print(
        f"{work.title}: {len(table):,} pictures, {distinct:.1f} distinct of {REFERENCES}, V = {len(work.vocabulary):,}"
    )
    print("                tokens/s   an epoch in s   peak RssAnon in MB")
    for name, each in costs.items():
        cost = float(np.median(each))
        print(f"  {name:14}{1 / cost:8,.0f}{cost * tokens_of.sum():16.1f}{peaks[name]:21,}")
    tell("tokens/s, init to Keras", costs["Keras"], costs["init"], "wanted >= 3")
    tell("tokens/s, init to Keras, sorted", costs["Keras, sorted"], costs["init"], "for comparison")
    tell("an epoch, init to plain", costs["init"], costs["plain"], "wanted <= 0.33")
    tell("an epoch, init to plain, sorted", costs["init"], costs["plain, sorted"], "for comparison")
    tell("an epoch, attention to plain", costs["attention"], costs["plain"], "wanted <= 1")
    print(
        f"  {'peak of init and attention':32}{max(peaks['init'], peaks['attention']) / 1000:6.2f} GB (wanted <= 3)\n",
        flush=True,
    )


def tell(what: str, above: list[float], below: list[float], wanted: str) -> None:
    ratios = np.divide(above, below)
    spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
    print(f"  {what:32}{np.median(ratios):6.2f} ({spread} in the rounds; {wanted})")


# captions


def read_rsicd(folder: Path) -> list[Example]:
    """The training pictures of RSICD; none where it is not there."""
    if not (folder / "captions.jsonl").exists():
        return []
    return [example for example in read_native(folder) if example.split == "train"]


def make_differing(rsicd: Sequence[Example]) -> list[Example]:
    """Random captions, each as long as RSICD's in its place."""
    rng = np.random.default_rng(0)
    names = np.array([f"word{i}" for i in range(WORDS)])
    lengths = [[len(tokenise(text)) for text in example.references] for example in rsicd]
    if not lengths:
        lengths = np.rint(rng.normal(MEAN, DEVIATION, (PICTURES, REFERENCES))).astype(int).tolist()
    return [
        Example(f"{i}.jpg", None, tuple(" ".join(names[rng.integers(0, WORDS, max(SHORTEST, n))]) for n in group))
        for i, group in enumerate(lengths)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=6, help="of 64 pictures, in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process [default: all cores]")
    parser.add_argument("--data", type=Path, default=DATA / "rsicd", help="a folder with RSICD's captions.jsonl")
    parser.add_argument(
        "--folder", type=Path, help="where 1 GB of features goes for a while [default: the temporary one]"
    )
    arguments = parser.parse_args()
    if importlib.util.find_spec("keras") is None:
        raise SystemExit("this compares with Keras, which is not installed; run: pip install keras")
    os.environ.update(KERAS_BACKEND="torch", OMP_NUM_THREADS=str(arguments.threads))  # for the learners' processes
    rsicd = read_rsicd(arguments.data)
    parts = {"captions that all differ": make_differing(rsicd)}
    if rsicd:
        parts = {"RSICD's captions": rsicd, **parts}
    else:
        print(f"{arguments.data} has no captions.jsonl; only captions that all differ are measured")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_store(folder / "pooled", len(rsicd) or PICTURES, 1)
        write_store(folder / "grid", len(rsicd) or PICTURES, GRID)
        rounds = f"{arguments.rounds} rounds of {arguments.batches} batches of 64 pictures with {REFERENCES} captions"
        print(f"random features, {arguments.threads} threads, {rounds}\n", flush=True)
        for title, examples in parts.items():
            work = Work(title, examples, build_vocabulary(examples, TRAIN), folder, arguments.threads)
            measure(work, arguments.rounds, arguments.batches)


if __name__ == "__main__":
    main()
