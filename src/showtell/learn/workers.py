"""A run on the workers of a Ray cluster: Ray Train starts them, and starts them again when one has died.

Each of them is one of the run's processes (`showtell.learn.parallel`); gloo carries their gradients, nccl between GPUs.
A run that was started again goes on from its last checkpoint, as `--resume` does; so the settings, the checkpoint and
the bundle are those of a run on one process.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from showtell.cluster import Cluster, count_actors, joined, listening
from showtell.errors import ConfigError, ShowtellError
from showtell.learn.config import RunConfig
from showtell.learn.parallel import Processes
from showtell.learn.progress import Progress, silent
from showtell.learn.run import finish, fit
from showtell.records import Example

_DEATHS = 5  # of workers, after each of which a run goes on
_PATIENCE = timedelta(days=2)  # that a worker waits for another


@dataclass(frozen=True)
class _Told:
    """What each worker is given."""

    config: RunConfig
    examples: Sequence[Example]
    directory: Path
    text: Sequence[Example]
    describe: dict[str, Any] | None
    features: Path | None


def train_on_cluster(
    config: RunConfig,
    examples: Sequence[Example],
    directory: str | Path,
    cluster: Cluster,
    *,
    text: Sequence[Example] = (),
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
    told = _Told(config, examples, directory, text, describe, Path(features).absolute() if features else None)
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
            resume=processes.agree((told.directory / "checkpoint.pt").exists()),
            describe=told.describe,
            features=told.features,
            progress=progress,
            processes=processes,
        )
    except ShowtellError as error:  # what the user can mend comes again however often it is tried
        loop["say"](type(error)(str(error)))
