"""Work on a Ray cluster: the same results as here, whatever dies, and a sentence for what is not there."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Run
from showtell.bundle import read_bundle
from showtell.captioner import Captioner
from showtell.cluster import Cluster, count_actors, joined, spread
from showtell.datasets import read_native
from showtell.decoding import SearchOptions
from showtell.errors import BackendError, ConfigError, DataError
from showtell.jobs import parts
from showtell.jobs.parts import caption_parts
from showtell.jobs.tables import read_table
from showtell.records import Failure
from showtell.report.curves import read_metrics

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.jpg"))
OURS = Cluster(actors=1)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray on this machine, with two cores, as this process is connected to it."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal")
    module = pytest.importorskip("ray", reason="needs the extra 'ray'")
    module.init(
        address="local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False
    )
    module.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which the actors could not import
    yield module
    module.shutdown()


def mark(folder: Path) -> Callable[[int], int]:
    """Work that leaves a file for each time it is begun, and kills its process the first time that it meets a 3."""

    def work(block: int) -> int:
        first = not list(folder.glob("3-*"))
        (folder / f"{block}-{os.getpid()}").touch()
        if block == 3 and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if block < 0:
            raise DataError(f"{block} is no block")
        return block * block

    return work


def test_a_killed_actor_loses_nothing_and_repeats_nothing(ray: Any, tmp_path: Path) -> None:
    with joined(OURS):
        results = list(spread(partial(mark, tmp_path), range(8), OURS))
    assert sorted(results) == [(number, number * number) for number in range(8)]
    assert len(list(tmp_path.glob("3-*"))) == 2


def test_what_an_actor_raises_is_raised_here(ray: Any, tmp_path: Path) -> None:
    with joined(OURS), pytest.raises(DataError, match="-1 is no block"):
        list(spread(partial(mark, tmp_path), [1, -1], OURS))


def test_captions_of_a_cluster_are_those_of_one_process(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts, "_BLOCK", 2)
    Path("photos").mkdir()
    for number, path in enumerate(EXAMPLES):
        Path(f"photos/{number}.jpg").symlink_to(path)
    Path("photos/broken.jpg").touch()
    result = run("batch", "photos", "--out", "ray.jsonl", "--beam", "1", "--engine", "ray", "--actors", "1", "--json")
    assert (result.code, result.rows[0]["captioned"], result.rows[0]["failed"]) == (1, 4, 1)
    assert "photos/broken.jpg is empty" in result.err
    bundle = read_bundle("default")
    caption_parts(["photos"], "here.jsonl", bundle, SearchOptions(**{**bundle.manifest.search, "beam": 1}), threads=1)
    ours, theirs = (list(read_table(Path(name))) for name in ("here.jsonl", "ray.jsonl"))
    assert [(one.image, getattr(one, "text", "")) for one in ours] == [
        (one.image, getattr(one, "text", "")) for one in theirs
    ]
    assert sum(isinstance(one, Failure) for one in theirs) == 1
    Path("ray.jsonl/part-00001.jsonl").unlink()
    here = run("batch", "photos", "--out", "ray.jsonl", "--beam", "1", "--json")
    assert (here.code, here.rows[0]["captioned"] + here.rows[0]["unchanged"]) == (1, 4)


# training


def losses(run: Path) -> list[float]:
    return [epoch.values["train_loss"] for epoch in read_metrics(run / "metrics.csv")]


@pytest.fixture(scope="module")
def steady(toy_settings: Any) -> Any:
    """Settings whose loss depends on no draw but the order of the batches."""
    return replace(
        toy_settings,
        model=replace(toy_settings.model, dropout=0.0),
        train=replace(toy_settings.train, epochs=5, batch_pictures=5, learning_rate=5e-3),
    )


@pytest.fixture(scope="module")
def alone(steady: Any, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process; its features are in `features`."""
    from showtell.learn.run import fit

    directory = tmp_path_factory.mktemp("alone")
    fit(steady, read_native(toy_data), directory)
    return directory


def test_a_run_of_two_workers_follows_one_process_past_a_death(
    ray: Any, steady: Any, alone: Path, toy_data: Path, tmp_path: Path
) -> None:
    from showtell.learn.workers import train_on_cluster

    run, killed = tmp_path / "run", []

    def kill_one(what: str, done: int, total: int) -> None:
        if what.startswith("epoch 2 (") and not killed:
            workers = [path for path in Path("/proc").glob("[0-9]*") if b"RayTrainWorker" in _command(path)]
            killed.append(int(workers[-1].name))
            os.kill(killed[0], signal.SIGKILL)

    bundle = train_on_cluster(
        steady, read_native(toy_data), run, Cluster(actors=2), features=alone / "features", progress=kill_one
    )
    assert killed
    assert losses(run) == pytest.approx(losses(alone), rel=1e-3)
    assert Captioner.load(bundle).caption([toy_data / "images/red_square.png"])[0].to_json()["caption"]
    with pytest.raises(ConfigError, match="already holds a run; go on with it with --resume"):
        train_on_cluster(steady, read_native(toy_data), run, Cluster(actors=2))


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_what_a_worker_cannot_do_is_said_once(ray: Any, steady: Any, toy_data: Path, tmp_path: Path) -> None:
    from showtell.learn.workers import train_on_cluster

    mistaken = replace(steady, train=replace(steady.train, min_count=1000))
    with pytest.raises(ConfigError, match="only 0 words occur 1000 times"):
        train_on_cluster(mistaken, read_native(toy_data), tmp_path / "run", Cluster(actors=1))


def test_torchrun_shares_a_run_that_one_process_goes_on_with(
    steady: Any, alone: Path, toy_data: Path, tmp_path: Path, run: Run
) -> None:
    from showtell.learn.tuning import to_toml

    config, directory = tmp_path / "steady.toml", tmp_path / "run"
    config.write_text(to_toml(replace(steady, train=replace(steady.train, epochs=6))), "utf-8")
    command = [str(config), "--data", str(toy_data), "--out", str(directory), "--features", str(alone / "features")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "showtell", "train"]
    with subprocess.Popen([*launch, *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None and len(_rows(directory)) < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0, err
    done = len(losses(directory))
    assert run("train", *command, "--resume").code == 0
    assert 2 <= done < 6
    assert losses(directory)[:2] == pytest.approx(_losses_of_six(steady, toy_data, alone, tmp_path)[:2], rel=1e-3)
    assert len(losses(directory)) == 6


def _rows(directory: Path) -> list[str]:
    path = directory / "metrics.csv"
    return path.read_text("utf-8").splitlines()[1:] if path.exists() else []


def _losses_of_six(steady: Any, toy_data: Path, alone: Path, tmp_path: Path) -> list[float]:
    from showtell.learn.run import fit

    longer = replace(steady, train=replace(steady.train, epochs=6))
    fit(longer, read_native(toy_data), tmp_path / "six", features=alone / "features")
    return losses(tmp_path / "six")


# features and indexes


def test_shards_of_features_are_one_store(
    ray: Any, steady: Any, alone: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from showtell.learn import shards
    from showtell.learn.features import FeatureStore
    from showtell.learn.run import fit

    monkeypatch.setattr(shards, "_SHARD", 10)
    cluster, examples = Cluster(actors=1), read_native(toy_data)
    store = shards.extract(steady, examples, tmp_path / "store", cluster=cluster)
    whole = FeatureStore(alone / "features")
    assert (store.images, store.shape, store.failures) == (whole.images, whole.shape, {})
    rows = np.array([23, 0, 10, 9, 10])
    np.testing.assert_allclose(store.read(rows), whole.read(rows), atol=2e-3, rtol=2e-3)
    fit(steady, examples, tmp_path / "run", features=tmp_path / "store")
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=1e-2)
    shutil.rmtree(tmp_path / "store/shard-00001")
    with pytest.raises(DataError, match="is not a feature store"):
        FeatureStore(tmp_path / "store")
    assert shards.extract(steady, examples, tmp_path / "store", cluster=cluster).images == whole.images
    with pytest.raises(ConfigError, match="holds features of another encoder or data set"):
        shards.extract(steady, examples[1:], tmp_path / "store", cluster=cluster)
    concepts = replace(steady, model=replace(steady.model, conditioning="concepts"))
    with pytest.raises(ConfigError, match="tunes its encoder on content words first"):
        shards.extract(concepts, examples, tmp_path / "other")


def test_an_index_of_a_cluster_finds_the_same(
    ray: Any, aligned_run: Path, toy_data: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(toy_data / "images", tmp_path / "pictures")
    (tmp_path / "pictures/broken.png").write_bytes(b"no picture")
    command = ("index", tmp_path / "pictures", "--model", aligned_run / "bundle", "--out")
    here = run(*command, tmp_path / "here.index", "--json")
    there = run(*command, tmp_path / "there.index", "--json", "--engine", "ray", "--actors", "1")
    assert (here.code, there.code) == (1, 1)
    assert {**here.rows[0], "index": ""} == {**there.rows[0], "index": ""}
    found = [run("search", tmp_path / name, "a red square", "--top", "3") for name in ("here.index", "there.index")]
    assert found[0].lines == found[1].lines
    assert run(*command, tmp_path / "there.index", "--json").rows[0]["unchanged"] == 24


def test_trials_side_by_side_are_one_search(ray: Any, steady: Any, alone: Path, toy_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs the extra 'tune'")
    from showtell.learn.space import Choices, Range, Search
    from showtell.learn.tuning import tune

    config = replace(steady, train=replace(steady.train, epochs=2))
    space = {"train.learning_rate": Range(low=1e-4, high=1e-1, log=True), "model.hidden": Choices((16, 32))}
    search, examples, told = Search(config, space, "shapes"), read_native(toy_data), []

    def listen(what: str, done: int, total: int) -> None:
        told.append(what)

    find = partial(tune, search, examples, tmp_path, features=alone / "features")
    found = find(trials=3, cluster=Cluster(actors=2), progress=listen)
    assert [trial.state for trial in found.trials] == ["finished"] * 3
    assert all(len(trial.curve) == 2 for trial in found.trials)
    assert found.best is not None
    assert found.best.cider == max(trial.cider for trial in found.trials if trial.cider is not None)
    begun = [place for place, what in enumerate(told) if what.startswith("trial ") and "hidden" in what]
    ended = [place for place, what in enumerate(told) if ": CIDEr" in what]
    assert begun[1] < ended[0], "two were under way at once"
    assert [trial.number for trial in find(trials=4).trials] == [1, 2, 3, 4]


# what is not there


def test_more_actors_than_there_is_room_for(ray: Any) -> None:
    with pytest.raises(ConfigError, match=r"3 actors of 1 CPU each were asked for, and the cluster has 2 CPU; give at"):
        count_actors(Cluster(actors=3))
    with pytest.raises(ConfigError, match=r"1 actors of 1 GPU each .* the cluster has 0 GPU; give fewer for each"):
        count_actors(Cluster(gpus_per_actor=1))
    assert count_actors(Cluster()) == 2


def test_a_machine_without_the_package_is_named(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "showtell.py").write_text("raise ModuleNotFoundError(\"No module named 'showtell'\")", "utf-8")
    remote = ray.remote
    environment = {"env_vars": {"PYTHONPATH": str(tmp_path)}}
    monkeypatch.setattr(ray, "remote", lambda **options: remote(**options, runtime_env=environment))
    with pytest.raises(BackendError, match=r"cannot run showtell \(showtell is not installed there\); install it on"):
        joined(OURS).__enter__()


def test_an_address_where_nothing_answers(run: Run, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ("batch", str(EXAMPLES[0]), "--out", tmp_path / "out.jsonl", "--engine", "ray", "--address")
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        result = run(*command, address)
        assert result.code == 2
        assert f"nothing answers at {address} (Connection refused" in result.err
    assert "--address is 'there'; accepted are auto, host:port and ray://host:port" in run(*command, "there").err


def test_without_ray_the_extra_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("batch", str(EXAMPLES[0]), "--out", tmp_path / "out.jsonl", "--engine", "ray")
    assert result.code == 2
    assert result.err == "showtell: --engine ray needs Ray, which is not installed; run: pip install 'showtell[ray]'\n"


@pytest.mark.parametrize(
    ("options", "trouble"),
    [
        (("--engine", "spark"), "unknown engine 'spark'; accepted are local and ray"),
        (("--actors", "2"), "--actors is of a cluster; add --engine ray, or leave it out"),
        (("--engine", "ray", "--actors", "0"), "actors is 0; it must be at least 1"),
    ],
)
def test_options_of_an_engine_are_checked(run: Run, tmp_path: Path, options: tuple[str, ...], trouble: str) -> None:
    result = run("batch", str(EXAMPLES[0]), "--out", tmp_path / "out.jsonl", *options)
    assert (result.code, result.err) == (2, f"showtell: {trouble}\n")
