"""One caption in a fresh process, against what its neighbours only import: python bench/start.py [--model MODEL]

Wall time and peak memory (ru_maxrss) of whole processes, run in turn and several times over; the medians are printed,
and their ratio to the first row. The first round, which fills the page cache, does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "examples" / "cat.jpg"
TORCH = "import torch, timm"
# Beside a CPU-only PyTorch, timm cannot be imported without what showtell.learn.encoders does first.
GUARDED_TORCH = "from showtell.learn.encoders import list_encoders; list_encoders('mobilenetv2_100')"


def run(command: list[str]) -> tuple[float, float]:
    """(seconds, MB at its peak) of a process.

    A child's ru_maxrss begins with the size of its parent, so this process imports nothing large.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="default", help="an embedded bundle's name, a directory or a zip")
    parser.add_argument("--picture", default=str(PICTURE))
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    python = sys.executable
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    plain = subprocess.run([python, "-c", TORCH], **quiet).returncode == 0
    commands = {
        f"showtell caption {Path(arguments.picture).name}": [
            *(python, "-m", "showtell", "caption", arguments.picture, "--model", arguments.model)
        ],
        TORCH if plain else f"{TORCH}, guarded": [python, "-c", TORCH if plain else GUARDED_TORCH],
        "import onnxruntime, numpy, PIL": [python, "-c", "import onnxruntime, numpy, PIL.Image"],
        "nothing": [python, "-c", ""],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for repeat in range(arguments.repeats + 1):
        for name, command in commands.items():
            measured = run(command)
            if repeat:
                found[name].append(measured)
    seconds, memory = ({name: statistics.median(m[i] for m in found[name]) for name in found} for i in (0, 1))
    first = next(iter(commands))
    print(f"{'whole process, ' + str(arguments.repeats) + ' runs each':<34}    wall    ratio     peak    ratio")
    for name in commands:
        print(
            f"{name:<34}{seconds[name]:6.2f} s{seconds[name] / seconds[first]:9.2f}"
            f"{memory[name]:6.0f} MB{memory[name] / memory[first]:9.2f}"
        )


if __name__ == "__main__":
    main()
