"""How a folder job grows with machines, by simulation: python bench/scale.py [--caption SECONDS] [--dispatch SECONDS] …

Blocks of pictures go to actors, one a core. For each, the driver takes a while, one block after the other; the pictures
come through the network card of the machine and out of the store of objects, which all share; then one core reads and
captions them. Machines die now and then, and their blocks begin anew elsewhere. The first two figures are measured
(bench/cluster.py on one machine), the others are assumptions; `--help` lists them.
"""

from __future__ import annotations

import argparse
import heapq
import random
from typing import NamedTuple

BLOCK = 256  # pictures


class Outcome(NamedTuple):
    """Of a simulated job: seconds, and the share of them that each resource was in use."""

    seconds: float
    cores: float
    card: float
    store: float
    driver: float

    @property
    def bottleneck(self) -> str:
        return max(("cores", "card", "store", "driver"), key=lambda name: getattr(self, name))


def simulate(machines: int, pictures: int, given: argparse.Namespace) -> Outcome:
    """A job, block by block."""
    chance = random.Random(machines)
    blocks, size = -(-pictures // BLOCK), BLOCK * given.bytes
    idle = [(given.start, machine) for machine in range(machines) for _ in range(given.cores)]
    heapq.heapify(idle)
    card, store, driver, busy, end = [0.0] * machines, 0.0, 0.0, 0.0, 0.0
    used_card = used_store = used_driver = 0.0
    while blocks:
        now, machine = heapq.heappop(idle)
        driver = max(now, driver) + given.dispatch
        card[machine] = max(driver, card[machine]) + size / given.card
        store = max(driver, store) + size / given.store
        used_driver, used_card, used_store = (
            used_driver + given.dispatch,
            used_card + size / given.card / machines,
            used_store + size / given.store,
        )
        # Reading goes on while the networks run, so the slower of the two counts.
        work = BLOCK * given.caption * chance.lognormvariate(0, given.jitter)
        done = max(card[machine], store, driver + work)
        if chance.random() < (done - now) / given.life / given.cores:  # the machine dies, and one is started anew
            heapq.heappush(idle, (done + given.start, machine))
            continue
        blocks, busy, end = blocks - 1, busy + work, max(end, done)
        heapq.heappush(idle, (done, machine))
    cores = busy / (end * machines * given.cores)
    return Outcome(end, cores, used_card / end, used_store / end, used_driver / end)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--caption", type=float, default=0.013, help="seconds of one core a picture (measured)")
    parser.add_argument("--dispatch", type=float, default=0.01, help="seconds of the driver a block (measured)")
    parser.add_argument("--bytes", type=float, default=200e3, help="of a picture")
    parser.add_argument("--cores", type=int, default=16, help="of a machine")
    parser.add_argument("--card", type=float, default=1.25e9, help="bytes a second of a machine's network card")
    parser.add_argument("--store", type=float, default=10e9, help="bytes a second of the store, for all")
    parser.add_argument("--start", type=float, default=60, help="seconds until a machine works")
    parser.add_argument("--life", type=float, default=86_400, help="seconds between deaths of a machine")
    parser.add_argument("--jitter", type=float, default=0.2, help="standard deviation of a block's log time")
    parser.add_argument("--price", type=float, default=0.7, help="of a machine's hour")
    parser.add_argument("--pictures", type=int, default=10_000_000)
    given = parser.parse_args()
    alone = None
    print(f"{given.pictures:,} pictures, {given.cores} cores a machine")
    print(f"{'machines':>8} {'hours':>8} {'pictures/s':>11} {'of linear':>10} {'price':>8}  {'in use':<40} bottleneck")
    for machines in (1, 3, 10, 30, 100, 300):
        found = simulate(machines, given.pictures, given)
        rate = given.pictures / found.seconds
        alone = alone or rate
        used = ", ".join(f"{name} {getattr(found, name):.0%}" for name in ("cores", "card", "store", "driver"))
        print(
            f"{machines:>8} {found.seconds / 3600:>8.2f} {rate:>11,.0f} {rate / alone / machines:>10.2f} "
            f"{machines * found.seconds / 3600 * given.price:>8.1f}  {used:<40} {found.bottleneck}"
        )


if __name__ == "__main__":
    main()
