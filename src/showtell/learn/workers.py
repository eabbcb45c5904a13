"""Runs on a Ray cluster: one that several workers share, or many side by side.

Ray Train starts the workers of a shared run, and starts them again when one has died. Each of them is one of the run's
processes (`showtell.learn.parallel`); gloo carries their gradients, nccl between GPUs. What was started again goes on
from its last checkpoint, as `--resume` does; so the settings, the checkpoint and the bundle are those of one process.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from showtell import errors
from showtell.cluster import Cluster, count_actors, joined, listening
from showtell.errors import BackendError, ConfigError, ShowtellError
from showtell.learn.config import RunConfig
from showtell.learn.parallel import Processes
from showtell.learn.progress import Progress, silent
from showtell.learn.run import finish, fit
from showtell.learn.training import Row, Watch
from showtell.records import Example

_LOOK = 0.2  # seconds between looks at a task
_DEATHS = 5  # of workers, after each of which a run goes on
_PATIENCE = timedelta(days=2)  # that a worker waits for another


@dataclass(frozen=True)
class _Told:
    """What each worker is given."""

    config: RunConfig
    examples: Sequence[Example]
    directory: Path
    text: Sequence[Example]
    foreign: Sequence[Example]
    describe: dict[str, Any] | None
    features: Path | None


def train_on_cluster(
    config: RunConfig,
    examples: Sequence[Example],
    directory: str | Path,
    cluster: Cluster,
    *,
    text: Sequence[Example] = (),
    foreign: Sequence[Example] = (),
    resume: bool = False,
    describe: dict[str, Any] | None = None,
    features: str | Path | None = None,
    progress: Progress = silent,
) -> Path:
    """As `showtell.learn.run.train`, on the cluster's actors; `directory` lies on a disk that its machines share.

    Raises:
        BackendError: There is no cluster, or workers die again and again.
        ConfigError: The cluster has no room for so many workers, or the settings are no captioner's.
    """
    directory = Path(directory).absolute()
    if config.alignment is not None:
        raise ConfigError("an alignment is trained by one process; leave --engine ray out")
    if (directory / "checkpoint.pt").exists() and not resume:
        raise ConfigError(f"{directory} already holds a run; go on with it with --resume, or give another directory")
    if not resume:  # what a run that never reached a checkpoint left
        (directory / "config.json").unlink(missing_ok=True)
    told = _Told(config, examples, directory, text, foreign, describe, Path(features).absolute() if features else None)
    with joined(cluster):
        _run_workers(told, count_actors(cluster), cluster, progress)
    return finish(directory, progress=progress)


def _run_workers(told: _Told, workers: int, cluster: Cluster, progress: Progress) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    failed: list[ShowtellError] = []

    def hear(message: Any) -> None:
        if isinstance(message, ShowtellError):
            failed.append(message)
        else:
            progress(*message)

    resources: dict[str, float] = {"CPU": cluster.cpus_per_actor}
    if cluster.gpus_per_actor:
        resources["GPU"] = cluster.gpus_per_actor
    with listening(hear) as say:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"told": ray.put(pickle.dumps(told)), "say": say},
            torch_config=TorchConfig(timeout_s=int(_PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=cluster.gpus_per_actor > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name="workers",
                storage_path=str(told.directory / "ray"),
                failure_config=FailureConfig(max_failures=_DEATHS),
            ),
        )
        trainer.fit()
    if failed:
        raise failed[0]


def _work(loop: dict[str, Any]) -> None:
    import ray
    import ray.train
    import ray.train.torch

    told: _Told = pickle.loads(ray.get(loop["told"]))
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    processes = Processes(context.get_world_rank(), context.get_world_size(), str(device))

    def progress(what: str, done: int, total: int) -> None:
        loop["say"]((what, done, total))

    try:
        fit(
            told.config,
            told.examples,
            told.directory,
            text=told.text,
            foreign=told.foreign,
            resume=processes.agree((told.directory / "checkpoint.pt").exists()),
            describe=told.describe,
            features=told.features,
            progress=progress,
            processes=processes,
        )
    except ShowtellError as error:  # what the user can mend comes again however often it is tried
        loop["say"](type(error)(str(error)))


# many runs


def fit_elsewhere(
    config: RunConfig,
    examples: Sequence[Example],
    directory: Path,
    *,
    cluster: Cluster,
    over: threading.Event,
    resume: bool,
    watch: Watch,
    progress: Progress,
    **given: Any,
) -> float:
    """As `showtell.learn.run.fit`, by a task of the cluster that this process has joined; it waits for the result.

    Args:
        over: Set when nobody waits any longer; the task is then stopped, and can go on from its checkpoint.

    Raises:
        KeyboardInterrupt: `over` was set.
        ShowtellError: What the run raised, or `watch`, which stops it.
    """
    import ray

    heard: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
    listeners: dict[str, Callable[..., None]] = {"watch": watch, "progress": progress}
    told = ray.put(pickle.dumps((config, examples, Path(directory).absolute(), resume, given)))
    with listening(heard.put) as say:
        options = {"num_cpus": cluster.cpus_per_actor, "num_gpus": cluster.gpus_per_actor, "max_retries": _DEATHS}
        task = ray.remote(**options)(_fit).remote(told, say)
        try:
            ended = False
            while not (ended and heard.empty()):
                ended = ended or bool(ray.wait([task], timeout=_LOOK)[0])
                if over.is_set():
                    raise KeyboardInterrupt
                with contextlib.suppress(queue.Empty):
                    while True:
                        kind, message = heard.get(timeout=_LOOK)
                        listeners[kind](*message)
            raised, said, is_of_machine = ray.get(task)
        except ray.exceptions.RayError as error:
            raise BackendError(f"a run died on the cluster again and again ({error!s:.200})") from error
        finally:
            if not ended:
                ray.cancel(task, force=True)
                ray.wait([task])
    if raised is None:
        return float(said)
    raise getattr(errors, raised)(said) from (OSError(said) if is_of_machine else None)


def _fit(told: bytes, say: Callable[[Any], None]) -> tuple[str | None, Any, bool]:
    """(the kind of an error or None, its sentence or the best CIDEr, whether the machine is at fault)."""
    config, examples, directory, resume, given = pickle.loads(told)

    def watch(row: Row, captions: dict[str, str]) -> None:
        say(("watch", (row, {})))

    def progress(*told: Any) -> None:
        say(("progress", told))

    resume = resume or (directory / "checkpoint.pt").exists()
    try:
        return None, fit(config, examples, directory, resume=resume, watch=watch, progress=progress, **given), False
    except ShowtellError as error:
        return type(error).__name__, str(error), error.__cause__ is not None
    except torch.OutOfMemoryError as error:
        return "TrainingError", f"there is not enough memory on the device: {error}", False
