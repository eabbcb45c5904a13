"""The queue in front of the models: every item gets its own answer, whatever happens to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from showtell.web.batching import Batcher, Overloaded


class Gate:
    """A model that says (key, item) of each item, when it may."""

    def __init__(self, *, opened: bool = False) -> None:
        self.batches: list[tuple[Any, list[Any]]] = []
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()
        if opened:
            self.open.set()

    def __call__(self, key: Any, items: Sequence[Any]) -> list[Any]:
        self.batches.append((key, list(items)))
        self.begun.release()
        assert self.open.wait(20)
        return [(key, item) for item in items]


def ask(batcher: Batcher, key: Any, item: Any, **how: Any) -> Future[Any]:
    """The future of one item; its places are left only when it is done."""
    places = batcher.reserve(1)
    future = places.submit(key, item, **how)
    future.add_done_callback(lambda _: places.__exit__(None, None, None))
    return future


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 7),
    st.integers(1, 4),
)
def test_every_item_gets_its_own_answer_in_batches_of_one_key(
    items: list[tuple[str, bool]], size: int, clients: int
) -> None:
    gate = Gate(opened=True)
    batcher = Batcher(gate, size=size, wait=0.001, limit=64)
    with ThreadPoolExecutor(clients) as pool:
        asked = [
            pool.submit(lambda number, key, alone: ask(batcher, key, number, alone=alone).result(20), number, *item)
            for number, item in enumerate(items)
        ]
        answers = [one.result(20) for one in asked]
    assert batcher.close(20)
    assert answers == [(key, number) for number, (key, _) in enumerate(items)]
    assert all(len(batch) <= size for _, batch in gate.batches)
    for key, batch in gate.batches:
        assert {items[number][0] for number in batch} == {key}
        assert len(batch) == 1 or not any(items[number][1] for number in batch)
    assert sorted(number for _, batch in gate.batches for number in batch) == list(range(len(items)))
    assert batcher.taken == 0


def test_items_wait_together_and_the_oldest_runs_first() -> None:
    gate = Gate()
    batcher = Batcher(gate, size=3, wait=0.001, limit=20)
    first = ask(batcher, "x", 0)
    gate.begun.acquire(timeout=20)  # the worker is busy: what follows is in the queue
    rest = [ask(batcher, key, number) for number, key in enumerate("abababaa", 1)]
    gate.open.set()
    wait([first, *rest], 20)
    assert gate.batches == [("x", [0]), ("a", [1, 3, 5]), ("b", [2, 4, 6]), ("a", [7, 8])]
    batcher.close(20)


def test_a_first_item_waits_for_one_that_was_announced() -> None:
    gate = Gate(opened=True)
    batcher = Batcher(gate, size=2, wait=0.0, patience=20.0, limit=4)
    late = batcher.reserve(1)
    early = ask(batcher, "k", 1)
    assert not gate.begun.acquire(timeout=0.05)
    with late:
        late.submit("k", 2).result(20)
    assert early.result(20) == ("k", 1)
    assert gate.batches == [("k", [1, 2])]
    given_up = batcher.reserve(1)
    waiting = ask(batcher, "k", 3)
    given_up.forgo()
    assert waiting.result(10) == ("k", 3)  # sooner than the announced one could have come
    batcher.close(20)


def test_a_full_queue_refuses_and_says_when_to_return() -> None:
    gate = Gate()
    batcher = Batcher(gate, size=1, wait=0.0, limit=3)
    running = ask(batcher, "k", 0)
    gate.begun.acquire(timeout=20)
    waiting = [ask(batcher, "k", number) for number in (1, 2)]
    announced = batcher.reserve(1)
    with pytest.raises(Overloaded, match=r"the queue is full \(3 of 3 places are taken\); ask again in 1 s") as full:
        batcher.reserve(1)
    assert full.value.retry_after >= 1
    announced.forgo()
    with pytest.raises(ValueError, match="all places"):
        announced.submit("k", 9)
    with pytest.raises(Overloaded):
        batcher.reserve(2)
    batcher.reserve(1).__exit__(None, None, None)
    gate.open.set()
    assert [one.result(20) for one in (running, *waiting)] == [("k", 0), ("k", 1), ("k", 2)]
    assert batcher.close(20)


def test_who_leaves_takes_what_has_not_begun_out_of_the_queue() -> None:
    gate = Gate()
    batcher = Batcher(gate, size=1, wait=0.0, limit=8)
    with batcher.reserve(4) as places:
        begun = places.submit("k", 0)
        gate.begun.acquire(timeout=20)
        left = [places.submit("k", number) for number in (1, 2)]
        assert batcher.taken == 3
    assert batcher.taken == 0
    for future in left:
        with pytest.raises(CancelledError):
            future.result(20)
    stays = ask(batcher, "k", 5)
    gate.open.set()
    assert (begun.result(20), stays.result(20)) == (("k", 0), ("k", 5))
    assert gate.batches == [("k", [0]), ("k", [5])]
    batcher.close(20)


def test_a_cancelled_item_does_not_run() -> None:
    gate = Gate()
    batcher = Batcher(gate, size=4, wait=0.0, limit=8)
    ask(batcher, "k", 0)
    gate.begun.acquire(timeout=20)
    cancelled, kept = ask(batcher, "k", 1), ask(batcher, "k", 2)
    assert cancelled.cancel()
    gate.open.set()
    assert kept.result(20) == ("k", 2)
    assert gate.batches[1:] == [("k", [2])]
    batcher.close(20)
    assert batcher.taken == 0


def test_the_exception_of_a_batch_does_not_reach_the_next_one() -> None:
    def run(key: str, items: Sequence[int]) -> list[Any]:
        if key == "bad":
            raise OSError("the model fell over")
        if key == "short":
            return []
        if key == "exit":
            raise SystemExit(3)
        return [ValueError(f"not {item}") if item < 0 else item for item in items]

    batcher = Batcher(run, size=4, wait=0.001, limit=20)
    bad, short, leave = ask(batcher, "bad", 1), ask(batcher, "short", 1), ask(batcher, "exit", 1)
    mixed = [ask(batcher, "good", item) for item in (1, -2, 3)]
    with pytest.raises(OSError, match="the model fell over"):
        bad.result(20)
    with pytest.raises(RuntimeError, match="0 results came of a batch of 1 items"):
        short.result(20)
    with pytest.raises(SystemExit):
        leave.result(20)
    assert mixed[0].result(20) == 1
    with pytest.raises(ValueError, match="not -2"):
        mixed[1].result(20)
    assert mixed[2].result(20) == 3
    assert batcher.open
    batcher.close(20)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 30), st.integers(0, 5), st.integers(1, 8))
def test_closing_finishes_what_was_accepted_and_refuses_the_rest(queued: int, announced: int, size: int) -> None:
    gate = Gate(opened=True)
    batcher = Batcher(gate, size=size, wait=0.03, patience=0.03, limit=40)
    futures = [ask(batcher, number % 2, number) for number in range(queued)]
    late = [batcher.reserve(1) for _ in range(announced)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while batcher.open:
        time.sleep(0.001)
    with pytest.raises(Overloaded, match="is shutting down"):
        batcher.reserve(1)
    for number, places in enumerate(late):
        futures.append(places.submit("late", number))
    wanted = [(number % 2, number) for number in range(queued)] + [("late", number) for number in range(announced)]
    assert [future.result(20) for future in futures] == wanted
    for places in late:
        places.__exit__(None, None, None)
    closing.join(20)
    assert not closing.is_alive()
    assert not batcher.alive


def test_a_batcher_that_does_not_finish_in_time_says_so() -> None:
    gate = Gate()
    batcher = Batcher(gate, limit=4)
    future = ask(batcher, "k", 1)
    assert not batcher.close(0.02)
    gate.open.set()
    assert future.result(20) == ("k", 1)
    assert batcher.close(20)


def test_batches_are_told_of() -> None:
    told: list[tuple[int, float]] = []
    gate = Gate()
    batcher = Batcher(gate, size=8, wait=0.0, limit=8, observe=lambda size, waited: told.append((size, waited)))
    futures = [ask(batcher, "k", 0)]
    gate.begun.acquire(timeout=20)
    futures += [ask(batcher, "k", number) for number in (1, 2, 3)]
    gate.open.set()
    wait(futures, 20)
    batcher.close(20)
    assert [size for size, _ in told] == [1, 3]
    assert all(waited >= 0 for _, waited in told)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"limit": 0}])
def test_sizes_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Batcher(lambda key, items: items, **wrong)


def test_workers_run_batches_beside_each_other_and_all_end() -> None:
    beside = threading.Barrier(3)

    def run(key: Any, items: Sequence[int]) -> list[int]:
        beside.wait(30)  # or nobody goes on
        return [item * 10 for item in items]

    batcher = Batcher(run, workers=3, size=1, wait=0.0, limit=8)
    with batcher.reserve(6) as places:
        futures = [places.submit("key", item) for item in range(6)]
        assert [future.result(60) for future in futures] == [0, 10, 20, 30, 40, 50]
    assert batcher.alive
    assert batcher.close(60)
    assert not batcher.alive
