"""Captions a second of the service on loopback: python bench/serve.py [--seconds 60] [--clients 1,8,32,256] [PICTURE…]

A server (`showtell serve`) in a process of its own, and as many clients as asked, each with one connection, which send
one picture after the other. A client that is told to come back (503) waits `--pause` seconds first, which is far less
than Retry-After asks for: that is how the overload is made, with clients beyond the places of the queue. The last
column compares with the rate of `caption_stream` on the same bytes in this process, without a server, measured in turn
with the server's, some seconds each, for what else the machine does changes from minute to minute. Memory is the
server's own (RssAnon), at the start of each measurement, at its most, and at the end.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from showtell.captioner import Captioner
from showtell.decoding import SearchOptions

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
_TURN = 10.0  # seconds
_START = "from showtell.cli.serve import serve; import sys; serve(port=0, model=sys.argv[1], queue=int(sys.argv[2]))"


@dataclass
class Told:
    """What the clients of one measurement were told."""

    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # seconds, of captions
    memory: list[float] = field(default_factory=list)  # MiB
    seconds: float = 0.0


def find_pictures(given: list[Path]) -> list[bytes]:
    """The bytes of the given files, and of those in the given folders."""
    paths = [path for place in given for path in (sorted(place.glob("*.[jJpP][pPnN]*")) if place.is_dir() else [place])]
    if not paths:
        raise SystemExit(f"no .jpg, .jpeg or .png in {', '.join(map(str, given))}")
    return [path.read_bytes() for path in paths]


def measure_in_process(captioner: Captioner, pictures: list[bytes], seconds: float, options: SearchOptions) -> float:
    """Pictures a second of `Captioner.caption_stream`."""
    begun = time.perf_counter()
    for done, _ in enumerate(captioner.caption_stream(cycle(pictures), options), 1):
        if done % 16 == 0 and time.perf_counter() - begun >= seconds:
            return done / (time.perf_counter() - begun)
    raise AssertionError("the pictures never end")


@contextmanager
def serving(model: str, queue: int) -> Iterator[tuple[int, int]]:
    """(the process, the port) of a server."""
    command = [sys.executable, "-c", _START, model, str(queue)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r":(\d+) ", line)
        if found is None:
            raise SystemExit(line + process.stderr.read())
        threading.Thread(target=lambda: [print(line, end="") for line in process.stderr or ()], daemon=True).start()
        try:
            yield process.pid, int(found[1])
        finally:
            process.terminate()


def memory_of(process: int) -> float:
    """MiB that a process has for itself."""
    text = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"RssAnon:\s*(\d+) kB", text)
    return int(found[1]) / 1024 if found else float("nan")


def load(
    told: Told, process: int, port: int, pictures: list[bytes], clients: int, seconds: float, path: str, pause: float
) -> None:
    """Adds what so many clients are told for so long."""
    lock, stop = threading.Lock(), threading.Event()

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for picture in islice(cycle(pictures), number, None):
            if stop.is_set():
                break
            begun = time.perf_counter()
            try:
                connection.request("POST", path, picture, {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                response.read()
                status = str(response.status)
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
                connection.close()
            with lock:
                told.statuses[status] += 1
                if status == "200":
                    told.latencies.append(time.perf_counter() - begun)
            if status != "200":
                stop.wait(pause)
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    begun = time.perf_counter()
    told.memory.append(memory_of(process))
    for thread in threads:
        thread.start()
    while time.perf_counter() - begun < seconds:
        time.sleep(0.25)
        told.memory.append(memory_of(process))
    stop.set()
    for thread in threads:
        thread.join()
    told.seconds += time.perf_counter() - begun
    told.memory.append(memory_of(process))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pictures", nargs="*", type=Path, default=[EXAMPLES], help="files or folders")
    parser.add_argument("--model", default="default", help="an embedded bundle's name, a directory or a zip")
    parser.add_argument("--clients", default="1,8,32,256", help="how many at once, one measurement each")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--beam", type=int)
    parser.add_argument("--queue", type=int, default=64, help="places of the server's queue")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds that a client waits after a 503")
    arguments = parser.parse_args()

    pictures = find_pictures(arguments.pictures)
    captioner = Captioner.load(arguments.model)
    options = captioner.options(**({} if arguments.beam is None else {"beam": arguments.beam}))
    captioner.caption(list(islice(cycle(pictures), 32)), options)
    print(
        f"{arguments.model}, {len(pictures)} pictures, {arguments.seconds:g} s each, queue {arguments.queue}, "
        f"{os.cpu_count()} cores"
    )
    print("clients      /s  p50 ms  p99 ms  503   others  MiB at start  most   end  in process  ratio", flush=True)
    path = "/v1/captions" + ("" if arguments.beam is None else f"?beam={arguments.beam}")
    with serving(arguments.model, arguments.queue) as (process, port):
        load(Told(), process, port, pictures, 32, min(arguments.seconds, 5.0), path, arguments.pause)  # it allocates
        for clients in map(int, arguments.clients.split(",")):
            told, rates = Told(), []
            turns = max(1, round(arguments.seconds / _TURN))
            for _ in range(turns):
                rates.append(measure_in_process(captioner, pictures, _TURN / 2, options))
                load(told, process, port, pictures, clients, arguments.seconds / turns, path, arguments.pause)
            batch_rate = sum(rates) / turns
            asked, rate = sum(told.statuses.values()), told.statuses["200"] / told.seconds
            ordered = sorted(told.latencies) or [float("nan")]
            others = {status: count for status, count in told.statuses.items() if status not in ("200", "503")}
            print(
                f"{clients:7}{rate:8.1f}{1000 * ordered[len(ordered) // 2]:8.0f}"
                f"{1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]:8.0f}"
                f"{told.statuses['503'] / asked:6.0%}{others or 'none'!s:>8}{told.memory[0]:14.1f}"
                f"{max(told.memory):6.1f}{told.memory[-1]:6.1f}{batch_rate:12.1f}{rate / batch_rate:7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
