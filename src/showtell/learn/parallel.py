"""One run on several processes: each takes its share of every batch, and the gradients are summed before a step.

Every process holds the same weights and goes through the same batches, so the settings and the checkpoint are those of
one process, and a run may move from one to several and back. A gradient is the mean over the tokens of the whole batch,
wherever its pictures were, as in one process; dropout and views of pictures are drawn by each process for itself. The
first process leads: it alone writes, validates and tells.

Gradients travel in one buffer after the whole backward pass. PyTorch's DistributedDataParallel sends them meanwhile,
but wants one `forward` a step; here a decoder starts, reads its own words and is rewarded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from showtell.errors import TrainingError

_PATIENCE = timedelta(days=2)  # that a process waits for another, which may have pictures to encode

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them. With one, everything here does nothing."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"  # where what they send each other lies

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def salt(self) -> tuple[int, ...]:
        """What random draws are seeded with besides; the first process draws what one alone would."""
        return (self.rank,) if self.rank else ()

    def share(self, items_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pictures of a batch that are this process's; none where there are fewer than processes."""
        return items_B[self.rank :: self.size]

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def agree(self, value: Value) -> Value:
        """The first process's value."""
        if self.size == 1:
            return value
        told = [value]
        torch.distributed.broadcast_object_list(told, device=torch.device(self.device))
        return told[0]

    def wait(self) -> None:
        """Until all are here."""
        self.total(0.0)

    @contextmanager
    def lead_first(self) -> Iterator[None]:
        """The first process goes through the block, then the others, who find on disk what it has written."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    @torch.no_grad()
    def align(self, tensors: Sequence[Tensor]) -> None:
        """Gives every process the first one's values."""
        if self.size > 1:
            for tensor in tensors:
                sent = tensor.to(self.device, copy=True)
                torch.distributed.broadcast(sent, 0)
                tensor.copy_(sent)

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sums each parameter's gradients; one that has none anywhere stays without."""
        if self.size == 1:
            return
        there = [float(parameter.grad is not None) for parameter in parameters]
        flat = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        buffer = torch.cat([*(part.flatten() for part in flat), torch.tensor(there).to(flat[0])]).to(self.device)
        torch.distributed.all_reduce(buffer)
        sizes = [parameter.numel() for parameter in parameters]
        *sums, counts = buffer.to(flat[0].device).split([*sizes, len(there)])
        for parameter, summed, count in zip(parameters, sums, counts.tolist(), strict=True):
            parameter.grad = summed.view_as(parameter) if count else None


ALONE = Processes()


@contextmanager
def started_by_torchrun() -> Iterator[Processes]:
    """The processes that `torchrun` has started, or this one alone.

    Raises:
        TrainingError: They do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "MASTER_ADDR" not in os.environ:
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available() and torch.cuda.device_count() > local
    if cuda:
        torch.cuda.set_device(local)
    try:
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the processes of torchrun do not find each other ({error}); start them again") from error
    try:
        yield Processes(torch.distributed.get_rank(), size, f"cuda:{local}" if cuda else "cpu")
    finally:
        torch.distributed.destroy_process_group()
