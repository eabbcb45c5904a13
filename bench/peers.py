"""showtell beside its peers on the same photographs: python bench/peers.py [PICTURES] [--plot FILE] [--json FILE]

    showtell    the default model, ONNX Runtime
    blip        BLIP-base, 384 pixels, Hugging Face transformers on PyTorch
    git         GIT-base, 224 pixels, the same
    vit-gpt2    ViT-base and GPT-2, 224 pixels, the same
    keras       InceptionV3 and an LSTM, greedy, as tutorials on Flickr8k write it; Keras 3 on PyTorch
    pytorch     ResNet-101, soft attention, beam search picture by picture, as PyTorch tutorials write it

From JPEG bytes to captions on the CPU, as many threads for all (on Linux, as many cores too), float32 for the peers.
The peers have random weights of their real sizes, which take as long as learned ones; nothing is downloaded. Every
caption has the same number of words: END is barred, for showtell too. The peers' answers are token ids: what their
tokenisers would take is not counted, what showtell takes to join its words is. Beams are of 3 hypotheses (`keras` is
greedy), batches of 16 pictures where there are batches (`keras` and `pytorch` have none); showtell is given eight
batches at once, as a folder would give them, and reads the next while one is captioned. `keras` on TensorFlow may be
faster or slower.

Each has a process of its own. The peers take turns, and showtell has a short turn before and after each; the ratio is
of neighbouring turns, its median over the rounds is printed, so that what else the machine does hits both alike.
showtell's encoder alone, other searches and the peak of the machine (a product of two matrices of 2048 x 2048 float32
by ONNX Runtime or numpy, whichever is faster) take turns in the same way, shorter ones and six times as many. The
encoder's operations are counted in its graph: two a multiplication of convolutions and matrix products.

Other work on the machine is not fair even so: beside other busy processes PyTorch's threads, which wait for each other
in a loop, were seen to fall to a tenth of their speed, showtell to two thirds. On Linux the benchmark looks at what
others take of the cores. While it is more than a tenth of a core it waits; a turn in which it was more is taken again,
up to three times, and the least disturbed counts. When `--patience` is spent, turns are taken as they come. The table
says how much there was, and with much more than that its ratios favour showtell.

First caption: from the start of a new process to its first line of output, with imports, weights read from files in the
page cache, and one picture; for showtell it is `showtell caption`. Memory is the most that was resident (Linux:
VmHWM), of that process and of the one that captions batches. All captioners are in memory at once, and their weights
take 3 GB of disk: see --folder.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

# Nothing large is imported here: a child's ru_maxrss begins with the size of its parent.

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
SUFFIXES = (".jpg", ".jpeg")
US = "showtell"
WORDS, BEAM, BATCH = 12, 3, 16
QUIET = 0.1  # cores that others may take
TAKES = 3  # of a turn in which they take more
GLANCE = 0.5  # seconds for which is looked at what they do


@dataclass(frozen=True)
class Peer:
    module: str  # in bench/peers
    packages: tuple[str, ...]
    times: float  # how many times its captions a second showtell should make


PEERS = {
    "blip": Peer("transformers_models.py", ("transformers", "torch", "torchvision"), 150),
    "git": Peer("transformers_models.py", ("transformers", "torch", "torchvision"), 100),
    "vit-gpt2": Peer("transformers_models.py", ("transformers", "torch", "torchvision"), 60),
    "keras": Peer("keras_loop.py", ("keras", "torch"), 40),
    "pytorch": Peer("pytorch_loop.py", ("torch", "torchvision"), 25),
}
OURS = "showtell_default.py"
OWN_WORKS = ("captions", "encoder", "one batch", "as it ends", "greedy", "beam 5", "product", "numpy")


@dataclass
class Found:
    """What was measured of a captioner; seconds, MB, and one entry a round."""

    about: dict[str, Any] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)  # captions a second
    ratios: list[float] = field(default_factory=list)  # showtell's rate over it, of neighbouring turns
    first: list[float] = field(default_factory=list)
    first_memory: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)  # cores that others took meanwhile
    batch_memory: float = 0.0
    words: float = 0.0  # of a caption


# processes


class Server:
    """A captioner's process."""

    def __init__(self, name: str, settings: dict[str, Any], patience: Patience) -> None:
        self.name = name
        self._patience = patience
        self._process = subprocess.Popen(
            command(name, "serve", json.dumps(settings)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = self._answer()
        self.peak = 0.0  # MB, once it is warm

    def turn(self, work: str, seconds: float) -> dict[str, float]:
        """What so many seconds of a work took, in whole calls; 0: one call. "others": cores that others took."""
        return self._patience.measure(lambda: self._turn(work, seconds))

    def _turn(self, work: str, seconds: float) -> dict[str, float]:
        assert self._process.stdin is not None
        try:
            print(json.dumps({"work": work, "seconds": seconds}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise SystemExit(f"the process of {self.name!r} has ended; what it said last is above") from None
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.name!r} has ended; what it said last is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def command(name: str, *told: str) -> list[str]:
    module = PEERS[name].module if name in PEERS else OURS
    return [sys.executable, str(HERE / "peers" / module), name, *told]


def run_first(command: list[str]) -> dict[str, float]:
    """Seconds from its start to its first line, MB at its peak and CPU seconds of a process."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - begun
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not line:
        sys.exit(f"{said.decode(errors='replace')}\n{' '.join(command)} ended with {process.returncode}")
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return {"seconds": seconds, "memory": memory, "cpu": usage.ru_utime + usage.ru_stime}


# a machine that others use


def busy_seconds() -> float | None:
    """Seconds of all cores that were not idle since the machine started, those of other guests included; Linux."""
    if not Path("/proc/stat").exists():
        return None
    user, nice, system, _, _, *interrupts_and_stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")


class Patience:
    """Takes measurements while others leave the cores alone, as far as so many seconds of waiting allow."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def measure(self, take: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The least disturbed of a few takes, with "others": the cores that others took meanwhile; 0: unknown."""
        takes: list[dict[str, float]] = []
        while True:
            self._wait()
            begun, before = time.perf_counter(), busy_seconds()
            took = take()
            wall, after = time.perf_counter() - begun, busy_seconds()
            if before is None or after is None:
                return {**took, "others": 0.0}
            takes.append({**took, "others": max(0.0, after - before - took["cpu"]) / wall})
            if takes[-1]["others"] <= QUIET or self._left <= 0 or len(takes) == TAKES:
                return min(takes, key=lambda each: each["others"])
            self._left -= wall

    def _wait(self) -> None:
        """Comes back when others leave the cores alone, or when there is no patience left."""
        before = busy_seconds()
        while before is not None and self._left > 0:
            time.sleep(GLANCE)
            after = busy_seconds()
            if after is None or after - before <= GLANCE * QUIET:
                return
            self._left -= GLANCE
            before = after


# measuring


def measure_first(
    found: dict[str, Found], settings: dict[str, dict[str, Any]], repeats: int, patience: Patience
) -> None:
    """First captions, in turn; the first round, which fills the page cache, does not count."""
    ours = settings[US]
    picture = ours["pictures"][0]
    commands = {name: command(name, "first", json.dumps(settings[name]), picture) for name in found if name != US}
    commands[US] = [sys.executable, "-m", "showtell", "caption", picture, "--threads", str(ours["threads"])]
    commands[US] += ["--model", ours["model"]]
    for repeat in range(repeats + 1):
        for name, each in commands.items():
            took = patience.measure(partial(run_first, each))
            if repeat:
                found[name].first.append(took["seconds"])
                found[name].first_memory.append(took["memory"])
                found[name].others.append(took["others"])
        if repeat:
            say(f"first captions, {repeat} of {repeats}")


def measure_rates(found: dict[str, Found], servers: dict[str, Server], rounds: int, seconds: float) -> None:
    """Each peer between two turns of showtell; the direction changes with every round."""
    short = seconds / 2

    def turn(name: str) -> float:
        took = servers[name].turn("captions", short if name == US else seconds)
        found[name].words = took["words"]
        found[name].others.append(took["others"])
        found[name].rates.append(took["pictures"] / took["seconds"])
        return found[name].rates[-1]

    peers = [name for name in servers if name != US]
    for number in range(rounds):
        before = turn(US)
        for name in peers[:: -1 if number % 2 else 1]:
            theirs = turn(name)
            after = turn(US)
            found[name].ratios.append((before + after) / 2 / theirs)
            before = after
        say(f"round {number + 1} of {rounds}, {found[US].rates[-1]:.1f} captions/s of showtell")


def measure_own(ours: Found, server: Server, rounds: int, seconds: float) -> dict[str, list[float]]:
    """By work and round: pictures a second, or matrix products; see `OWN_WORKS`."""
    works = [work for work in OWN_WORKS if work != "product" or server.about["encoder_flops"]]
    rates: dict[str, list[float]] = {work: [] for work in works}
    for number in range(rounds + 1):
        for work in works[:: -1 if number % 2 else 1]:
            took = server.turn(work, seconds)
            if number:  # the first one warms up
                rates[work].append(took["pictures"] / took["seconds"])
                ours.others.append(took["others"])
    return rates


def compare_own(rates: dict[str, list[float]], about: dict[str, Any]) -> dict[str, list[float]]:
    """The ratios within showtell, by round."""

    def over(above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(rates[above], rates[below], strict=True)]

    told = {
        "path to encoder": over("captions", "encoder"),
        "path as it ends to encoder": over("as it ends", "encoder"),
        "path to encoder, one batch": over("captions", "one batch"),
        "beam 5 to greedy, time": over("greedy", "beam 5"),
    }
    if about["encoder_flops"]:
        peaks = [max(both) for both in zip(rates["product"], rates["numpy"], strict=True)]
        flops = [rate * about["encoder_flops"] for rate in rates["encoder"]]
        told["peak GFLOP/s"] = [rate * about["product_flops"] / 1e9 for rate in peaks]
        told["encoder GFLOP/s"] = [each / 1e9 for each in flops]
        told["encoder's share of the peak"] = [
            each / (rate * about["product_flops"]) for each, rate in zip(flops, peaks, strict=True)
        ]
    return told


# telling


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def middle(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def print_table(found: dict[str, Found]) -> None:
    """A row a captioner; each ratio is against showtell and above 1 where showtell is better."""
    ours = found[US]
    print("             captions/s   ratio  (in the rounds)    first  ratio   MB, one  ratio   MB, batch   MB on disk")
    for name, each in found.items():
        if name == US:
            ratio, spread, first, memory = 1.0, "", 1.0, 1.0
        else:
            ratio, spread = middle(each.ratios), f"({min(each.ratios):.1f} to {max(each.ratios):.1f})"
            first = middle([theirs / own for theirs, own in zip(each.first, ours.first, strict=True)])
            memory = middle(each.first_memory) / middle(ours.first_memory)
        print(
            f"{name:<12}{middle(each.rates):11.2f}{ratio:8.1f}  {spread:<16}{middle(each.first):7.2f} s{first:6.1f}"
            f"{middle(each.first_memory):10.0f}{memory:7.1f}{each.batch_memory:12.0f}{each.about['disk']:13.1f}"
        )
    others = ", ".join(
        f"{name} {middle(each.others):.2f}, at most {max(each.others):.2f}" for name, each in found.items()
    )
    print(f"cores that others took meanwhile (0 where unknown): {others}")
    if any(middle(each.others) > QUIET for each in found.values()):
        print("others kept the cores busy, which slows PyTorch most: these ratios favour showtell")
    print(f"words a caption: {', '.join(f'{name} {each.words:g}' for name, each in found.items())}")


def judge(found: dict[str, Found], own: dict[str, list[float]]) -> list[tuple[str, float, str, bool]]:
    """(what, the figure, what is wanted, whether it is met) of each target that was measured."""
    told = []

    def at_least(what: str, figure: float, wanted: float) -> None:
        told.append((what, figure, f">= {wanted:g}", figure >= wanted))

    def at_most(what: str, figure: float, wanted: float) -> None:
        told.append((what, figure, f"<= {wanted:g}", figure <= wanted))

    ours = found[US]
    for name, peer in PEERS.items():
        if name in found:
            at_least(f"captions/s, times {name}'s", middle(found[name].ratios), peer.times)
    at_most("MB of the process of a first caption", middle(ours.first_memory), 250)
    if "blip" in found:
        blip = found["blip"]
        at_most("the same, of blip's", middle(ours.first_memory) / middle(blip.first_memory), 0.1)
        share = middle([own / theirs for own, theirs in zip(ours.first, blip.first, strict=True)])
        at_most("first caption, of blip's", share, 0.1)
    at_least("whole path, of the encoder alone", middle(own["path to encoder"]), 0.7)
    at_least("the same, all threads on one batch", middle(own["path to encoder, one batch"]), 0.7)
    at_most("beam 5, of greedy's time", middle(own["beam 5 to greedy, time"]), 1.6)
    at_most("MB of the model on disk", ours.about["disk"], 20)
    return told


def print_own(rates: dict[str, list[float]], own: dict[str, list[float]], about: dict[str, Any]) -> None:
    print(
        "\nshowtell alone, /s: " + ", ".join(f"{work} {middle(rates[work]):.1f}" for work in rates if work in CAPTIONS)
    )
    for what, values in own.items():
        print(f"  {what:<32}{middle(values):8.2f}  ({min(values):.2f} to {max(values):.2f} in the rounds)")
    if about["encoder_flops"]:
        print(f"  {'GFLOP of the encoder, a picture':<32}{about['encoder_flops'] / 1e9:8.2f}")
    else:
        print("  the encoder's share of the machine's peak needs onnx, which reads its graph; run: pip install onnx")


CAPTIONS = ("captions", "as it ends", "greedy", "beam 5", "encoder", "one batch")


def draw(found: dict[str, Found], path: Path) -> None:
    """The table as four panels of bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "captions a second (batch 16)": {name: middle(each.rates) for name, each in found.items()},
        "first caption, seconds from the start": {name: middle(each.first) for name, each in found.items()},
        "memory of the first caption, MB": {name: middle(each.first_memory) for name, each in found.items()},
        "weights on disk, MB": {name: each.about["disk"] for name, each in found.items()},
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 1.6 + 0.75 * len(found)), layout="constrained")
    for (title, values), axis in zip(panels.items(), axes.flat, strict=True):
        names = list(values)[::-1]
        bars = axis.barh(
            names, [values[name] for name in names], color=["C1" if name == US else "C7" for name in names]
        )
        axis.bar_label(bars, [f"{values[name]:,.{0 if values[name] >= 100 else 2}f}" for name in names], padding=3)
        axis.set(title=title, xscale="log")
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def describe_machine(threads: int) -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": " ".join(["python", "bench/peers.py", *sys.argv[1:]]),
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in ("onnxruntime", "numpy", "torch", "transformers", "keras")},
    }


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# what is run


def find_pictures(folder: Path, most: int) -> list[str]:
    found = [str(path) for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise SystemExit(f"no {' or '.join(SUFFIXES)} in {folder}")
    return found[:most]


def choose(only: str | None) -> list[str]:
    """The captioners to run, showtell first; says which are left out."""
    asked = list(PEERS) if only is None else [name for name in only.split(",") if name and name != US]
    if unknown := [name for name in asked if name not in PEERS]:
        raise SystemExit(f"unknown peer {unknown[0]!r}; accepted are {', '.join(PEERS)}")
    chosen = [US]
    for name in asked:
        missing = [package for package in PEERS[name].packages if importlib.util.find_spec(package) is None]
        if missing:
            say(f"{name} is left out; it needs: pip install {' '.join(missing)}")
        else:
            chosen.append(name)
    return chosen


def prepare(name: str, common: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a captioner, whose weights are written where they are not there."""
    mine = folder / name
    if name != US and not mine.exists():
        say(f"writing random weights of {name}")
        half = folder / f"{name}.part"
        subprocess.run(command(name, "write", str(half)), check=True, stdout=sys.stderr)
        half.rename(mine)
    return {**common, "folder": str(mine)}


@contextmanager
def serving(settings: dict[str, dict[str, Any]], patience: Patience) -> Iterator[dict[str, Server]]:
    """The captioners' processes, warm."""
    with ExitStack() as stack:
        servers = {}
        for name, each in settings.items():
            servers[name] = Server(name, each, patience)
            stack.callback(servers[name].close)
            took = servers[name].turn("captions", 0)
            servers[name].peak = took["peak"]
            say(f"{name} is warm: {took['pictures']} in {took['seconds']:.1f} s")
        yield servers


def limit(threads: int) -> None:
    """Holds this process's children to so many threads, and on Linux to so many cores."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    os.environ.update(dict.fromkeys(variables, str(threads)))
    os.environ.update(KERAS_BACKEND="torch", HF_HUB_OFFLINE="1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="?", type=Path, default=EXAMPLES, help="a folder of .jpg [default: examples]")
    parser.add_argument("--only", metavar="NAMES", help="peers, with commas between them [default: all]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a peer's turn, at least; showtell has half")
    parser.add_argument("--starts", type=int, default=3, help="new processes of each for the first caption")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait, in all, for a quiet machine")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each [default: all cores]")
    parser.add_argument("--count", type=int, default=256, help="pictures of the folder, at most")
    parser.add_argument("--model", default="default", help="showtell's: an embedded bundle's name, a directory, a zip")
    parser.add_argument("--folder", type=Path, help="keeps the random weights for the next time [default: a new one]")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG of the table; needs matplotlib")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all that was measured")
    arguments = parser.parse_args()
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("--plot needs matplotlib; run: pip install matplotlib")
    pictures = find_pictures(arguments.pictures, arguments.count)
    names = choose(arguments.only)
    limit(arguments.threads)
    machine = describe_machine(arguments.threads)
    common = {"pictures": pictures, "threads": arguments.threads, "batch": BATCH, "beam": BEAM, "words": WORDS}
    common["model"] = arguments.model
    print(
        f"{machine['date']}, {machine['processor']}, {arguments.threads} threads, load {machine['load']}; "
        f"{len(pictures)} pictures, batch {BATCH}, beam {BEAM}, {WORDS} words\n",
        flush=True,
    )
    found = {name: Found() for name in names}
    patience = Patience(arguments.patience)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {name: prepare(name, common, folder) for name in names}
        measure_first(found, settings, arguments.starts, patience)
        with serving(settings, patience) as servers:
            for name, server in servers.items():
                disk = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file()) / 1e6
                found[name].about = {"disk": disk, **server.about}
                found[name].batch_memory = server.peak
            own_rates = measure_own(found[US], servers[US], 6 * arguments.rounds, arguments.seconds / 8)
            measure_rates(found, servers, arguments.rounds, arguments.seconds)
    own = compare_own(own_rates, found[US].about)
    targets = judge(found, own)
    machine["load at the end"] = round(os.getloadavg()[0], 2)
    print_table(found)
    print_own(own_rates, own, found[US].about)
    print("\nwanted")
    for what, figure, wanted, met in targets:
        print(f"  {what:<38}{figure:8.2f}  {wanted:<8}{'met' if met else 'NOT met'}")
    if arguments.json:
        told = {
            "machine": machine,
            "systems": {name: asdict(each) for name, each in found.items()},
            "showtell": {"rates": own_rates, "ratios": own},
            "targets": [dict(zip(("what", "figure", "wanted", "met"), each, strict=True)) for each in targets],
        }
        arguments.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    if arguments.plot:
        draw(found, arguments.plot)


if __name__ == "__main__":
    main()
