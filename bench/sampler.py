"""What the benchmarks of memory share."""

from __future__ import annotations

import threading
import time
from pathlib import Path


class Sampler(threading.Thread):
    """The peak of this process's RssAnon, in MB; it imports nothing that would count."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            self.peak = max(self.peak, int(status.partition("RssAnon:")[2].split()[0]) / 1024)
            time.sleep(0.01)
