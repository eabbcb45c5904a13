"""The Ray engine beside the local one: python bench/cluster.py PHOTOGRAPHS [--only MEASURE] [--data DIR]

    speed    the folder job on one actor a core against the local engine, in turn; Ray's start-up, and the time until
             every actor has done its first block, are left out
    memory   the driver's memory and time while 10,000 and then 100,000 listed pictures go by (links to the same files,
             whose networks are not run): what a picture costs beyond its caption
    kills    a cluster of two nodes on this machine; in the middle of each job an actor or the second node is killed
    train    a run on two workers against one process, same batches: tokens a second, CIDEr on val (needs --data)

A measure fails (exit code 1) where results are lost, repeated or different.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from showtell.bundle import Bundle, read_bundle
from showtell.captioner import Captioner
from showtell.cluster import Cluster, count_actors, joined, spread
from showtell.decoding import SearchOptions
from showtell.jobs import parts
from showtell.jobs.batch import caption_pictures
from showtell.jobs.parts import caption_parts
from showtell.jobs.tables import read_table
from showtell.records import Caption, Failure

CLOSE = 1e-3  # nats between the log-probabilities of one caption, by the batch that a picture was in
MANY = (10_000, 100_000)
_QUEUED = 64  # pictures in a block of the timed jobs


def options_of(bundle: Bundle) -> SearchOptions:
    return SearchOptions(**bundle.manifest.search)  # type: ignore[arg-type]


@contextlib.contextmanager
def listed(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """(a list of the pictures, a folder for results)."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures.txt"
        pictures.write_text("".join(f"{path}\n" for path in paths), "utf-8")
        yield pictures, Path(folder)


def measure_speed(paths: list[Path], arguments: argparse.Namespace) -> None:
    bundle, cluster = read_bundle(arguments.model), Cluster(actors=arguments.actors)
    options, captioner = options_of(bundle), Captioner(bundle)
    parts._BLOCK = _QUEUED
    ratios = []
    with joined(cluster):
        actors = count_actors(cluster)
        for _ in range(arguments.repeats):
            with listed(paths) as (pictures, folder):
                begun = time.perf_counter()
                caption_pictures([pictures], folder / "here.jsonl", captioner, options)
                local = len(paths) / (time.perf_counter() - begun)
                stamps: list[tuple[float, int]] = []

                def engine(make: Any, blocks: Any, stamps: list[tuple[float, int]] = stamps) -> Iterator[Any]:
                    for number, said in spread(make, blocks, cluster):
                        stamps.append((time.perf_counter(), said[0]))
                        yield number, said

                caption_parts([pictures], str(folder / "ray.jsonl"), bundle, options, engine=engine, threads=1)
            warm, rest = stamps[actors - 1], stamps[actors:]
            ray = sum(count for _, count in rest) / (rest[-1][0] - warm[0])
            ratios.append(ray / local)
            print(f"local {local:7.1f}/s   ray, {actors} actors {ray:7.1f}/s   ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f} over {len(paths):,} pictures  (at least 0.7)", flush=True)


class Idle(parts._Writer):
    """Writes parts whose captions cost nothing."""

    def _caption(self, sources: Iterator[tuple[str, Any]], readers: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
        for label, _ in sources:
            yield label, {"caption": "a picture", "logprob": -1.0, "words": [{"word": "picture", "logprob": -1.0}]}


def memory_mb() -> float:
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def measure_memory(paths: list[Path], arguments: argparse.Namespace) -> None:
    bundle, cluster = read_bundle(arguments.model), Cluster(actors=arguments.actors)
    with joined(cluster):
        for count in MANY:
            with tempfile.TemporaryDirectory() as folder:
                links = Path(folder) / "pictures"
                for number in range(count):
                    link = links / f"{number // 1000:03d}" / f"{number:06d}.jpg"
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(paths[number % len(paths)])
                seen: list[float] = []

                def engine(make: Any, blocks: Any, seen: list[float] = seen) -> Iterator[Any]:
                    for result in spread(partial(Idle, *make.args), blocks, cluster):
                        seen.append(memory_mb())
                        yield result

                begun = time.perf_counter()
                found = caption_parts(
                    [links],
                    f"{folder}/out.jsonl",
                    bundle,
                    options_of(bundle),
                    settings=parts.BatchOptions(recursive=True),
                    engine=engine,
                    threads=1,
                )
                seconds = time.perf_counter() - begun
                if found.pictures != count:
                    raise SystemExit(f"{found.pictures:,} rows for {count:,} pictures")
            print(
                f"{count:>7,} pictures: driver {seen[0]:.0f} MB at the first block, {seen[len(seen) // 2]:.0f} in the "
                f"middle, {max(seen):.0f} at most; {seconds:.1f} s, {1e6 * seconds / count:.0f} µs a picture",
                flush=True,
            )


def try_kills(paths: list[Path], arguments: argparse.Namespace) -> None:
    import ray
    from ray.cluster_utils import Cluster as Nodes

    bundle, cluster, chance = read_bundle(arguments.model), Cluster(actors=2), random.Random(arguments.seed)
    options = options_of(bundle)
    parts._BLOCK = 16
    node = {"num_cpus": 1, "object_store_memory": 200 << 20}
    nodes = Nodes(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = nodes.add_node(**node)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    with listed(paths) as (pictures, folder):
        caption_pictures([pictures], folder / "whole.jsonl", Captioner(bundle), options)
        whole = list(read_table(folder / "whole.jsonl"))
        for turn in range(arguments.kills):
            kind = ("an actor", "a node")[turn % 2]
            goal = chance.randrange(2, max(3, len(paths) // 16 - 4))

            def kill(second: Any = second, kind: str = kind) -> None:
                if kind == "a node":
                    nodes.remove_node(second, allow_graceful=False)
                    return
                os.kill(chance.choice(find_actors()), signal.SIGKILL)

            out = folder / f"{turn}.jsonl"
            engine = partial(killing, cluster=cluster, goal=goal, kill=kill)
            begun = time.perf_counter()
            caption_parts([pictures], str(out), bundle, options, engine=engine, threads=1)
            compare(list(read_table(out)), whole)
            print(
                f"{turn + 1}: {kind} killed after {goal} of {-(-len(paths) // 16)} blocks: {len(whole):,} pictures, "
                f"each once, as when left alone; {time.perf_counter() - begun:.0f} s",
                flush=True,
            )
            if kind == "a node":
                second = nodes.add_node(**node)
    ray.shutdown()
    nodes.shutdown()


def killing(
    make: Any, blocks: Sequence[Any], *, cluster: Cluster, goal: int, kill: Callable[[], None]
) -> Iterator[Any]:
    for done, result in enumerate(spread(make, blocks, cluster)):
        if done == goal:
            kill()
        yield result


def find_actors() -> list[int]:
    """The processes of the actors that caption."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"ray::MapWorker" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def compare(ours: Sequence[Caption | Failure], theirs: Sequence[Caption | Failure]) -> None:
    """Raises SystemExit where a picture is lost, twice or different."""
    if [one.image for one in ours] != [one.image for one in theirs]:
        raise SystemExit(f"{len(ours):,} rows for {len(theirs):,} pictures, or others")
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, Caption) and isinstance(other, Caption):
            if one.text == other.text and abs(one.logprob - other.logprob) < CLOSE:
                continue
        elif one == other:
            continue
        raise SystemExit(f"the results of {one.image} differ")


def measure_training(paths: list[Path], arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from showtell.datasets import find_layout, read_all
    from showtell.evaluation import evaluate
    from showtell.learn.config import read_config
    from showtell.learn.run import train
    from showtell.learn.shards import extract
    from showtell.learn.workers import train_on_cluster
    from showtell.metrics import ScoreOptions
    from showtell.report.curves import read_metrics

    if arguments.data is None:
        raise SystemExit("train needs --data DIR with splits")
    config = read_config(arguments.config)
    model = replace(config.model, encoder_weights=arguments.encoder_weights or config.model.encoder_weights)
    phases = {"finetune": replace(config.finetune, epochs=0), "selfcritical": replace(config.selfcritical, epochs=0)}
    config = replace(config, model=model, train=replace(config.train, epochs=arguments.epochs), **phases)
    examples = read_all([arguments.data], layout=find_layout(arguments.data))
    val = [example for example in examples if example.split == "val"][: config.train.val_pictures]
    runs: dict[str, Callable[..., Path]] = {
        "one process": train,
        "two workers": partial(train_on_cluster, cluster=Cluster(actors=2)),
    }
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder) / "features"
        extract(config, examples, features)
        for number, (name, run) in enumerate(runs.items()):
            bundle = run(config, examples, Path(folder) / str(number), features=features)
            rates = [epoch.values["tokens_per_second"] for epoch in read_metrics(bundle.parent / "metrics.csv")]
            captioner = Captioner.load(bundle)
            found = evaluate(captioner, val, "val", options=captioner.options(), scoring=ScoreOptions(resamples=1000))
            low, high = found.scores.intervals["CIDEr"]
            print(
                f"{name}: {statistics.median(rates):,.0f} tokens/s, CIDEr {found.scores.metrics['CIDEr']:.4f} "
                f"({low:.4f} to {high:.4f})  {json.dumps(rates)}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of photographs")
    parser.add_argument("--only", choices=("speed", "memory", "kills", "train"))
    parser.add_argument("--count", type=int, default=2000, help="photographs, at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--actors", type=int)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path, help="of train: pictures with captions, in splits")
    parser.add_argument("--config", default="rsicd", help="of train: its first phase is trained")
    parser.add_argument("--encoder-weights", help="of train")
    parser.add_argument("--epochs", type=int, default=3, help="of train")
    arguments = parser.parse_args()
    paths = sorted(path.resolve() for path in arguments.folder.rglob("*.jpg"))[: arguments.count]
    if not paths:
        raise SystemExit(f"no .jpg in {arguments.folder}")
    measures = {"speed": measure_speed, "memory": measure_memory, "kills": try_kills, "train": measure_training}
    for name, measure in measures.items():
        if arguments.only == name or (arguments.only is None and (name != "train" or arguments.data)):
            measure(paths, arguments)


if __name__ == "__main__":
    main()
