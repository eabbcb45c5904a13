"""Blocks of work -> their results, through a pool of actors on a Ray cluster (Moritz et al. 2018).

The cluster is the one at an address, or one that is started on this machine for as long as the work takes. Ray Data
hands the blocks out, starts actors again that have died, and gives their blocks to others. A block may therefore be
worked on twice: what an actor writes has to be whole or not there, under a name that follows from the block.

Needs the extra `ray`, which is imported when it is used. Nothing is reported to Ray's authors, and no dashboard runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from showtell.errors import BackendError, ConfigError, DataError, ImageError, ShowtellError, TrainingError

_ANSWER = 5.0  # seconds in which an address has to take a connection
_JOIN = 60.0  # seconds in which a cluster has to take us in, or start
_LOOK = 120.0  # seconds in which each machine has to say what is installed there
_FRUITLESS = 2  # passes in a row that break off before any block is done
_HEAR = 0.5  # seconds between looks for messages
_LOCAL = "local"
_RAISED = {error.__name__: error for error in (BackendError, ConfigError, DataError, ImageError, TrainingError)}

Work = Callable[[Any], Any]  # a block -> its result


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which cluster works, and with how much of it.

    Attributes:
        address: "auto" (the one that runs on this machine), "host:port", or "ray://host:port"; None: what RAY_ADDRESS
            says, else a cluster that is started here.
        actors: That work side by side; None: as many as there is room for.
        gpus_per_actor: A share of a GPU; 0: none.
        cpus_per_actor: Cores, and threads, of each.
    """

    address: str | None = None
    actors: int | None = None
    gpus_per_actor: float = 0
    cpus_per_actor: int = 1

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise ConfigError(f"actors is {self.actors!r}; it must be at least 1")
        if not 0 <= self.gpus_per_actor <= 64:
            raise ConfigError(f"gpus_per_actor is {self.gpus_per_actor!r}; it must be from 0 to 64")


@contextlib.contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """A connection to the cluster; one that this process has already is used, and kept.

    Raises:
        BackendError: Ray is not installed, there is no cluster at the address, or one of its machines has no showtell
            or another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    try:
        import ray
    except ImportError as error:
        raise BackendError(
            "--engine ray needs Ray, which is not installed; run: pip install 'showtell[ray]'"
        ) from error
    address = cluster.address or os.environ.get("RAY_ADDRESS") or _LOCAL
    if address not in (_LOCAL, "auto"):
        _knock(address)
    ours = not ray.is_initialized()
    if ours:
        _connect(address)
    try:
        _check_machines()
        yield
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str) -> None:
    failed: list[BaseException] = []

    def connect() -> None:
        import ray

        local = {"include_dashboard": False} if address == _LOCAL else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (Exception, SystemExit) as error:  # Ray gives some connections up by leaving
            failed.append(error)

    hangs = False
    if address == _LOCAL:  # what is started here dies with the thread that started it
        connect()
    else:  # Ray itself tries for minutes, and offers no limit
        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(_JOIN)
        hangs = thread.is_alive()
    if hangs or failed:
        reason = f"no answer within {_JOIN:.0f} s" if hangs else _first_line(failed[0])
        raise BackendError(
            f"cannot join a Ray cluster at {address!r} ({reason}); start one with 'ray start --head', or leave "
            "--address out to start one on this machine"
        ) from (failed[0] if failed else None)


def _knock(address: str) -> None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ConfigError(f"--address is {address!r}; accepted are auto, host:port and ray://host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()
    except (OSError, OverflowError) as error:
        raise BackendError(
            f"nothing answers at {address} ({getattr(error, 'strerror', None) or error}, asked for {_ANSWER:.0f} s); "
            "check --address, or start a cluster there with 'ray start --head'"
        ) from error


def _look() -> str:
    return version("showtell")


def _check_machines() -> None:
    """Nothing, where every machine of the cluster has this version of the package."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ours = _look()
    remote = ray.remote(num_cpus=0, max_retries=0)(_look)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    asked = {
        place: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node, place in nodes.items()
    }
    for place, answer in asked.items():
        try:
            there = ray.get(answer, timeout=_LOOK)
        except ray.exceptions.RayError as error:
            missing = "No module named 'showtell'" in str(error)
            reason = "showtell is not installed there" if missing else _first_line(error)
            raise BackendError(
                f"the machine {place} of the cluster cannot run showtell ({reason}); install it on every machine: "
                f"pip install 'showtell[ray]=={ours}'"
            ) from error
        if there != ours:
            raise BackendError(
                f"the machine {place} of the cluster has showtell {there}, this one has {ours}; install the "
                f"same on every machine: pip install 'showtell[ray]=={ours}'"
            )


def count_actors(cluster: Cluster) -> int:
    """How many actors work; to be asked while joined.

    Raises:
        ConfigError: There are more actors than the cluster has room for.
    """
    import ray

    there = ray.cluster_resources()
    rooms: dict[str, tuple[float, float]] = {"CPU": (there.get("CPU", 0), cluster.cpus_per_actor)}
    if cluster.gpus_per_actor:
        rooms["GPU"] = (there.get("GPU", 0), cluster.gpus_per_actor)
    most, name = min((int(number // each), name) for name, (number, each) in rooms.items())
    wanted = most if cluster.actors is None else cluster.actors
    if not 0 < wanted <= most:
        number, each = rooms[name]
        raise ConfigError(
            f"{max(wanted, 1)} actors of {each:g} {name} each were asked for, and the cluster has {number:g} {name}; "
            "give " + (f"at most --actors {most}, or add machines" if most else "fewer for each, or add machines")
        )
    return wanted


def spread(make: Callable[[], Work], blocks: Sequence[Any], cluster: Cluster) -> Iterator[tuple[int, Any]]:
    """(the number of a block, its result) of all blocks, as they are done; to be called while joined.

    Args:
        make: Called once in each actor, with this process's current folder as its own. It is pickled.
        blocks: They and their results travel pickled too, between machines that trust each other.

    Raises:
        ShowtellError: What the work has raised.
        BackendError: The actors die before they get anything done.
    """
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # whose import has set it
    actors = count_actors(cluster)
    left = dict(enumerate(blocks))
    fruitless = 0
    while left:
        before = len(left)
        try:
            for number, said in _pass(make, left, min(actors, before), cluster):
                if left.pop(number, None) is not None:
                    yield number, said
        except ray.exceptions.RayError as error:
            fruitless = fruitless + 1 if len(left) == before else 0
            if fruitless >= _FRUITLESS:
                raise BackendError(
                    f"the actors died before they got anything done ({_first_line(error)}); is there memory for "
                    f"{actors} of them? give fewer --actors, or look into the logs of Ray"
                ) from error


def _pass(make: Callable[[], Work], left: dict[int, Any], actors: int, cluster: Cluster) -> Iterator[tuple[int, Any]]:
    import ray.data

    rows = [{"number": number, "block": pickle.dumps(block)} for number, block in left.items()]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(make, str(Path.cwd())),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cluster.cpus_per_actor,
        num_gpus=cluster.gpus_per_actor or None,
    )
    for row in results.iter_rows():
        raised, said = pickle.loads(row["said"])
        if raised is not None:
            raise _RAISED.get(raised, ShowtellError)(said)
        yield int(row["number"]), said


@contextlib.contextmanager
def listening(hear: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
    """A function that can be sent to the cluster: what it is called with, there, `hear` is called with here."""
    import ray
    from ray.util.queue import Empty, Queue

    queue, over = Queue(actor_options={"num_cpus": 0}), threading.Event()

    def listen() -> None:
        while True:
            with contextlib.suppress(Empty):
                hear(queue.get(timeout=_HEAR))
                continue
            if over.is_set():
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield queue.put
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(ray.exceptions.RayError):
            queue.shutdown(force=True)


class _Actor:
    """Works on blocks in a process of its own; what the user can mend is handed back, as Ray would wrap it."""

    def __init__(self, make: Callable[[], Work], folder: str) -> None:
        with contextlib.suppress(OSError):  # a machine that does not have it: relative paths are then missing
            os.chdir(folder)
        self._work = _once(make)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        blocks = map(pickle.loads, batch["block"])
        said = [pickle.dumps(self._try(block)) for block in blocks]
        return {"number": batch["number"], "said": said}

    def _try(self, block: Any) -> tuple[str | None, Any]:
        try:
            return None, self._work(block)
        except ShowtellError as error:
            return type(error).__name__, str(error)
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            return "DataError", f"cannot write{where}: {error.strerror or error}; give another path, or make room"


def _once(make: Callable[[], Work]) -> Work:
    """The work, made when the first block comes, so that what making it raises is handed back as well."""
    made: list[Work] = []

    def work(block: Any) -> Any:
        if not made:
            made.append(make())
        return made[0](block)

    return work


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
