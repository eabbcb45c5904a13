"""What the service did -> the text that Prometheus reads (exposition format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_WAITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Histogram:
    """Counts of values up to each bound, their number and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str = "") -> Iterator[str]:
        below = 0
        for bound, count in zip((*map(_number, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            yield f'{name}_bucket{{{labels}{"," if labels else ""}le="{bound}"}} {below}'
        marks = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{marks} {_number(self._sum)}"
        yield f"{name}_count{marks} {below}"


class Metrics:
    """The counts of one service since it started; threads may add to them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._latencies: dict[str, Histogram] = {}
        self._sizes, self._waits = Histogram(_SIZES), Histogram(_WAITS)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Args:
        route: The pattern of the path, or a word for all paths that have none: its values are few.
        """
        with self._lock:
            self._requests[method, route, status] += 1
            self._latencies.setdefault(route, Histogram(_SECONDS)).add(seconds)

    def count_batch(self, size: int, waited: float) -> None:
        with self._lock:
            self._sizes.add(size)
            self._waits.add(waited)

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Everything, with what is measured now: name -> (help, value)."""
        with self._lock:
            return "\n".join(self._lines(gauges)) + "\n"

    def _lines(self, gauges: Mapping[str, tuple[str, float]]) -> Iterator[str]:
        yield from _head("showtell_requests_total", "counter", "Requests that were answered; 499: the client left.")
        for (method, route, status), count in sorted(self._requests.items()):
            labels = f'method="{_escape(method)}",route="{_escape(route)}",status="{status}"'
            yield f"showtell_requests_total{{{labels}}} {count}"
        name = "showtell_request_seconds"
        yield from _head(name, "histogram", "From the head of a request to the end of its answer.")
        for route, histogram in sorted(self._latencies.items()):
            yield from histogram.lines(name, f'route="{_escape(route)}"')
        yield from _head("showtell_batch_size", "histogram", "Items that ran together.")
        yield from self._sizes.lines("showtell_batch_size")
        yield from _head("showtell_queue_seconds", "histogram", "How long the oldest item of a batch was in the queue.")
        yield from self._waits.lines("showtell_queue_seconds")
        for name, (told, value) in gauges.items():
            yield from _head(name, "gauge", told)
            yield f"{name} {_number(value)}"


def _head(name: str, kind: str, told: str) -> Iterator[str]:
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"


def _number(value: float) -> str:
    return f"{value:.10g}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
