"""The options that say which engine works: this process, or a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from showtell.cluster import Cluster

ENGINES = ("local", "ray")

Engine = Annotated[
    str, typer.Option("--engine", help="local: this process; ray: a Ray cluster, needs 'showtell[ray]'.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="Of the cluster: auto, host:port or ray://host:port. [default: start one on this machine]"
    ),
]
Actors = Annotated[
    int | None, typer.Option("--actors", help="That work side by side. [default: one a core of the cluster]")
]
GpusPerActor = Annotated[float, typer.Option("--gpus-per-actor", help="A share of a GPU for each actor.")]


Workers = Annotated[
    int | None, typer.Option("--workers", help="Of the cluster, side by side. [default: one a core of the cluster]")
]
UseGpu = Annotated[bool, typer.Option("--use-gpu", help="A GPU for each worker.")]


def choose_workers(engine: str, address: str | None, workers: int | None, use_gpu: bool) -> Cluster | None:
    """The same, in the words of a training.

    Raises:
        ConfigError: As `choose_cluster`.
    """
    return choose_cluster(engine, address, workers, float(use_gpu), names=("--workers", "--use-gpu"))


def choose_cluster(
    engine: str,
    address: str | None = None,
    actors: int | None = None,
    gpus_per_actor: float = 0,
    names: tuple[str, str] = ("--actors", "--gpus-per-actor"),
) -> Cluster | None:
    """The cluster that was asked for, None for this process.

    Raises:
        ConfigError: There is no such engine, or options of a cluster come without one.
    """
    from showtell.cluster import Cluster
    from showtell.errors import ConfigError

    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; accepted are {' and '.join(ENGINES)}")
    given = {"--address": address, names[0]: actors, names[1]: gpus_per_actor}
    if engine == "local":
        for name, value in given.items():
            if value:
                raise ConfigError(f"{name} is of a cluster; add --engine ray, or leave it out")
        return None
    return Cluster(address=address, actors=actors, gpus_per_actor=gpus_per_actor)
