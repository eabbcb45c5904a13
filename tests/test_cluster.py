"""Work on a Ray cluster: the same results as here, whatever dies, and a sentence for what is not there."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from showtell.bundle import read_bundle
from showtell.cluster import Cluster, count_actors, joined, spread
from showtell.decoding import SearchOptions
from showtell.errors import BackendError, ConfigError, DataError
from showtell.jobs import parts
from showtell.jobs.parts import caption_parts
from showtell.jobs.tables import read_table
from showtell.records import Failure

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
