"""Single items from many threads -> batches for a few workers, in the order they came; nothing of the network here.

A worker takes the oldest item and those that wait with the same key, since they can go through a model together. It
waits a few milliseconds for company, and a little longer while items that were announced are still being prepared.

Places are taken before the work of an item begins (a picture must be decoded first), so that the queue with everything
on its way into it is bounded. Who leaves the `with` block of its places takes what has not begun out of the queue.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from showtell.errors import BackendError

Run = Callable[[Any, Sequence[Any]], Iterable[Any]]
"""A key and the items of a batch -> for each item, in order, its result, or the exception that is raised for it."""

_SMOOTHING = 0.2  # of the last batch in the running mean of the time an item takes


class Overloaded(BackendError):
    """There is no room in the queue, or it takes nothing more.

    Units: `retry_after` in whole seconds, after which there may be room.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(eq=False, slots=True)
class _Job:
    key: Hashable
    item: Any
    alone: bool
    future: Future[Any] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Places:
    """Room for some items in a queue, to be used in a `with` block (see `Batcher.reserve`)."""

    def __init__(self, batcher: Batcher, count: int) -> None:
        self._batcher, self._left = batcher, count
        self._jobs: list[_Job] = []

    def submit(self, key: Hashable, item: Any, *, alone: bool = False) -> Future[Any]:
        """What the worker will say of an item, which takes one of the places.

        Args:
            key: Only items of equal keys run together.
            alone: Run it by itself, without waiting for company.

        Raises:
            ValueError: No place is left.
        """
        job = _Job(key, item, alone)
        with self._batcher._changed:
            self._use()
            self._jobs.append(job)
            self._batcher._queue.append(job)
            self._batcher._changed.notify_all()
        return job.future

    def forgo(self) -> None:
        """Gives one place back: its item did not come about.

        Raises:
            ValueError: No place is left.
        """
        with self._batcher._changed:
            self._use()
            self._batcher._taken -= 1
            self._batcher._changed.notify_all()

    def _use(self) -> None:
        if not self._left:
            raise ValueError("all places that were reserved are used")
        self._left -= 1

    def __enter__(self) -> Places:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._batcher._changed:
            self._batcher._taken -= self._left
            self._left = 0
            for job in self._jobs:
                if job in self._batcher._queue:
                    self._batcher._queue.remove(job)
                    self._batcher._taken -= 1
                    job.future.cancel()
            self._batcher._changed.notify_all()


class Batcher:
    """A queue and the threads that work it off.

    Args:
        run: Called in those threads alone. What it raises is raised for every item of its batch, and the next one runs.
        workers: Threads, and so batches that run beside each other.
        size: Items that run together at most.
        wait: How long the oldest item waits for company.
        patience: How long instead, while items that were announced are not yet in the queue.
        limit: Items in the queue and announced at most.
        observe: Told the size of each batch and how long its oldest item waited, when it begins.

    Units: `wait` and `patience` in seconds.
    """

    def __init__(
        self,
        run: Run,
        *,
        workers: int = 1,
        size: int = 16,
        wait: float = 0.005,
        patience: float = 0.03,
        limit: int = 64,
        observe: Callable[[int, float], None] = lambda size, waited: None,
    ) -> None:
        if min(size, limit) < 1:
            raise ValueError(f"size is {size} and limit {limit}; both must be at least 1")
        self._run, self._observe = run, observe
        self._size, self._wait, self._patience, self._limit = size, wait, max(wait, patience), limit
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._taken = 0  # places: items in the queue and announced
        self._closing = False
        self._pace = 0.0  # seconds an item
        self._threads = [
            threading.Thread(target=self._work, name="showtell-model", daemon=True) for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def taken(self) -> int:
        """Items in the queue and announced; those that run are not among them."""
        return self._taken

    @property
    def open(self) -> bool:
        """Whether items are accepted."""
        return self.alive and not self._closing

    @property
    def alive(self) -> bool:
        """Whether all of the threads work."""
        return all(thread.is_alive() for thread in self._threads)

    def check_room(self, count: int = 1) -> None:
        """Raises:
        Overloaded: There is no room for so many items now.
        """
        if not self.open:
            raise Overloaded("the service is shutting down; ask again when it is back", 5)
        if self._taken + count > self._limit:
            seconds = max(1, math.ceil(self._taken * self._pace))
            raise Overloaded(
                f"the queue is full ({self._taken} of {self._limit} places are taken); ask again in {seconds} s",
                seconds,
            )

    def reserve(self, count: int) -> Places:
        """Room for some items; it is given back at the end of the `with` block, as far as it was not used.

        Raises:
            Overloaded: There is none.
        """
        with self._changed:
            self.check_room(count)
            self._taken += count
            return Places(self, count)

    def close(self, timeout: float | None = None) -> bool:
        """Whether everything that had a place is finished, or given up by who asked; nothing more is accepted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while jobs := self._next_batch():
            begun = time.monotonic()
            self._observe(len(jobs), begun - jobs[0].arrived)
            try:
                results = list(self._run(jobs[0].key, [job.item for job in jobs]))
                if len(results) != len(jobs):
                    raise RuntimeError(f"{len(results)} results came of a batch of {len(jobs)} items")
            except BaseException as error:  # a thread must outlive whatever a model or its libraries do
                results = [error] * len(jobs)
            each = (time.monotonic() - begun) / len(jobs)
            self._pace = each if not self._pace else (1 - _SMOOTHING) * self._pace + _SMOOTHING * each
            for job, result in zip(jobs, results, strict=True):
                if isinstance(result, BaseException):
                    job.future.set_exception(result)
                else:
                    job.future.set_result(result)

    def _next_batch(self) -> list[_Job]:
        """The items that run next, taken out of the queue; none at the end."""
        with self._changed:
            while True:
                if not self._queue:
                    if self._closing and not self._taken:
                        return []
                    self._changed.wait()
                    continue
                jobs = self._company(self._queue[0])
                announced = self._taken > len(self._queue)
                until = jobs[0].arrived + (self._patience if announced else self._wait)
                left = until - time.monotonic()
                if left > 0 and len(jobs) < self._size and not jobs[0].alone and not (self._closing and not announced):
                    self._changed.wait(left)
                    continue
                for job in jobs:
                    self._queue.remove(job)
                self._taken -= len(jobs)
                self._changed.notify_all()  # another worker may wait for the end
                if jobs := [job for job in jobs if job.future.set_running_or_notify_cancel()]:
                    return jobs

    def _company(self, first: _Job) -> list[_Job]:
        if first.alone:
            return [first]
        return [job for job in self._queue if job.key == first.key and not job.alone][: self._size]
