"""Tokenised candidates and references -> METEOR 1.5 (Denkowski & Lavie 2014) and SPICE (Anderson et al. 2016).

Both are Java programs that the package pycocoevalcap (extra `metrics`) carries; nothing else of showtell needs them.
`unavailable` says what is missing. Java is `$JAVA_HOME/bin/java`, or else the `java` on the PATH. METEOR spends its
first ten seconds reading a table of paraphrases, so `Meteor` keeps one process for everything it scores.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from showtell.errors import BackendError
from showtell.metrics.ptb import tokenise_ptb

JavaMetric = Literal["METEOR", "SPICE"]
Tokens = Sequence[Sequence[str]]  # captions as words

_PROGRAMS: Mapping[JavaMetric, tuple[str, ...]] = {
    "METEOR": ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz"),
    "SPICE": ("spice/spice-1.0.jar",),
}
_PARSER, _MODELS = "spice/lib/stanford-corenlp-3.6.0.jar", "spice/lib/stanford-corenlp-3.6.0-models.jar"
_FETCH = "python -m pycocoevalcap.spice.get_stanford_models"
_INSTALL_JAVA = "apt-get install default-jre-headless on Debian and Ubuntu, or set JAVA_HOME"
_SPICE_JAVA = range(8, 15)  # it writes its results with the JavaScript engine that Java 15 dropped
_HEAP = {"METEOR": "-Xmx2G", "SPICE": "-Xmx8G"}  # the most they may take; METEOR takes 1.2 GB

# METEOR 1.5's parameters for English.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # of words that are equal, of one stem, synonyms, paraphrases
STATISTICS = 23
_CHUNKS = 20


def unavailable(metric: JavaMetric) -> str | None:
    """The sentence that says what `metric` lacks and how to get it, or None where it can run.

    Looks at files only: no Java is started and nothing is downloaded.

    Raises:
        ValueError: The metric is none of the two.
    """
    if metric not in _PROGRAMS:
        raise ValueError(f"{metric!r} is no metric that runs in Java; accepted are {', '.join(_PROGRAMS)}")
    folder, javas = _package(metric), _javas()
    needs = []
    if folder is None:
        needs.append("pycocoevalcap (run: pip install 'showtell[metrics]')")
    if not javas:
        needs.append(f"Java ({_INSTALL_JAVA})")
    elif metric == "SPICE" and not any(map(_suits_spice, javas)):
        found = " and ".join(f"{java} is Java {_version(java)}" for java in javas)
        needs.append(
            f"Java {_SPICE_JAVA[0]} to {_SPICE_JAVA[-1]} ({found}; install openjdk-8-jre-headless or Temurin 11 beside "
            "it and set JAVA_HOME to its folder)"
        )
    if metric == "SPICE" and folder is not None:
        needs.extend(_missing_models(folder))
    return f"{metric} needs {' and '.join(needs)}" if needs else None


def _missing_models(folder: Path) -> Iterator[str]:
    if not (folder / _PARSER).is_file():
        yield f"the models of Stanford CoreNLP 3.6.0 (fetch them, several hundred MB, with: {_FETCH})"
    elif not (folder / _MODELS).is_file():  # the script fetches both or, where it finds the first, nothing
        yield f"{folder / _MODELS} (remove {folder / _PARSER} and fetch both with: {_FETCH})"


class Meteor:
    """METEOR 1.5 in one Java process, which starts at the first use and is ended by `close`, the end of a `with`
    block, an error, or when nothing refers to it any more. After `close`, the next use starts another.

    Several threads may share one; they take turns.

    Units: `timeout` is in seconds, for the start and for each caption.
    """

    def __init__(self, *, timeout: float = 300.0) -> None:
        self.timeout = timeout
        self._process: _LineProcess | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def score(self, candidates: Tokens, references: Sequence[Tokens]) -> tuple[float, NDArray[np.float64]]:
        """METEOR of all pictures together, and of each one; equal to pycocoevalcap's when words are its PTB tokens.

        Shape: `candidates` B captions of words, `references` B lists of captions; the array is (B,). METEOR of the
            corpus is not the mean of the pictures' scores.

        Raises:
            BackendError: Something is not installed, or Java fails, stops, or gives no answer in time.
            ValueError: There are not as many lists of references as candidates, or a list is empty.
        """
        counts = self.count(candidates, references)
        return float(rate_meteor(counts.sum(0))), rate_meteor(counts)

    def count(self, candidates: Tokens, references: Sequence[Tokens]) -> NDArray[np.float64]:
        """What METEOR counts of each picture against the reference where it scores best; `rate_meteor` makes scores.

        Counts of pictures add up to those of the pictures together, so that a sample of them is scored without Java.

        Shape: as `score`; the result is (B, 23) in METEOR's order: the words of the candidate and of the reference;
            their function words; for each way to match (equal, stem, synonym, paraphrase) the content words matched
            in the candidate and in the reference, and the function words matched in each; the runs of matched words
            (0 where all of both is one run); the words in them, in the candidate and in the reference.

        Raises:
            BackendError, ValueError: As `score`.
        """
        lines = [_request(said, written) for said, written in _pairs(candidates, references)]
        with self._turn:
            try:
                counts = self._ask(lines)
            except BaseException:  # whoever asks next must not read what this one left
                self.close()
                raise
        return counts

    def similarity(self, candidate: str, references: Sequence[str]) -> float:
        """How alike a caption and the nearest of its references are, from 0 to 1; texts, whose PTB tokens are scored.

        Raises:
            BackendError, ValueError: As `score`.
        """
        return self.score([tokenise_ptb(candidate)], [[tokenise_ptb(reference) for reference in references]])[0]

    def _ask(self, lines: Sequence[str]) -> NDArray[np.float64]:
        counts = np.zeros((len(lines), STATISTICS))
        if not lines:
            return counts
        if self._process is None:
            self._process = _start_meteor(self.timeout)
        self._process.send(lines)
        for number in range(len(lines)):
            counts[number] = _parse_counts(self._process.receive(self.timeout, f"caption {number + 1:,}"), number + 1)
        return _forgive_chunks(counts)


def rate_meteor(counts: ArrayLike) -> NDArray[np.float64]:
    """METEOR of what was counted.

    Shape: (…, 23) -> (…), 0 where nothing was matched.

    Source: Denkowski & Lavie 2014, section 2 (precision and recall of weighted matches, content words three times as
        much as function words, their mean weighted towards recall, and a penalty for matches in many runs).
    """
    counts = np.asarray(counts, np.float64)
    lengths, function = counts[..., 0:2], counts[..., 2:4]
    matches = counts[..., 4:_CHUNKS].reshape(*counts.shape[:-1], 4, 2, 2)  # way, content or function, side
    weighted = np.einsum("...wks,w,k->...s", matches, _WEIGHTS, np.array([_DELTA, 1 - _DELTA]))
    length = _DELTA * (lengths - function) + (1 - _DELTA) * function
    matched = weighted.min(-1) > 0
    precision, recall = np.moveaxis(np.divide(weighted, length, out=np.ones_like(length), where=length > 0), -1, 0)
    precision, recall = np.where(matched, precision, 1), np.where(matched, recall, 1)
    runs = counts[..., _CHUNKS] / np.where(matched, counts[..., _CHUNKS + 1 :].mean(-1), 1)
    score = (1 - _GAMMA * runs**_BETA) / ((1 - _ALPHA) / precision + _ALPHA / recall)
    return np.where(matched, score.clip(0), 0.0)


def _forgive_chunks(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The counts with no run where a candidate is its reference: one run is then no disorder, nor part of a sum."""
    matched = counts[:, 4:_CHUNKS].reshape(-1, 8, 2).sum(1)
    counts[(matched == counts[:, :2]).all(1) & (counts[:, _CHUNKS] == 1), _CHUNKS] = 0
    return counts


def _pairs(candidates: Tokens, references: Sequence[Tokens]) -> list[tuple[Sequence[str], Tokens]]:
    pairs = list(zip(candidates, references, strict=True))
    if not all(written for _, written in pairs):
        raise ValueError("a caption has no reference to be scored against; give each one or more")
    return pairs


def _request(said: Sequence[str], written: Tokens) -> str:
    return " ||| ".join(("SCORE", *map(_field, written), _field(said)))


def _field(words: Sequence[str]) -> str:
    # METEOR's signs between captions and between requests.
    return " ".join(words).replace("|||", "").replace("\n", " ").replace("\r", " ")


def _parse_counts(line: str, number: int) -> list[float]:
    try:
        counts = [float(value) for value in line.split()]
    except ValueError:
        counts = []
    if len(counts) != STATISTICS:
        raise BackendError(
            f"METEOR answered {line[:200]!r} to caption {number:,}, not {STATISTICS} numbers; install pycocoevalcap "
            "again (pip install --force-reinstall pycocoevalcap)"
        )
    return counts


def _start_meteor(timeout: float) -> _LineProcess:
    folder, java = _require("METEOR")
    jar = folder / _PROGRAMS["METEOR"][0]
    # Lower case must not depend on the country: a Turkish Java makes "I" a letter that no reference has.
    command = [str(java), _HEAP["METEOR"], "-Duser.language=en", "-Duser.country=US", "-Djava.awt.headless=true"]
    process = _LineProcess("METEOR", [*command, "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"], jar.parent)
    try:
        process.send(["SCORE ||| a ||| a"])
        _parse_counts(process.receive(timeout, "its start"), 0)
    except BaseException:
        process.stop()
        raise
    return process


class _LineProcess:
    """A program that answers each line with a line. Threads of its own feed and read it, and its messages go to a file,
    so that no full pipe can stop it and everything that waits for it has a time limit.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self._name = name
        self._requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages
            )
        except OSError as error:
            self._messages.close()
            raise BackendError(
                f"cannot start {command[0]} ({error.strerror}); install Java ({_INSTALL_JAVA})"
            ) from error
        # Neither threads nor finaliser refer to self, which must stay collectable.
        self.stop = weakref.finalize(self, _end, self._process, self._requests, self._messages)
        for work, pipe, lines in (
            (_feed, self._process.stdin, self._requests),
            (_drain, self._process.stdout, self._answers),
        ):
            threading.Thread(target=work, args=(pipe, lines), name=f"{name} pipe", daemon=True).start()

    def send(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._requests.put(line)

    def receive(self, timeout: float, what: str) -> str:
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise BackendError(
                f"{self._name} gave no answer to {what} in {timeout:g} seconds and was stopped; "
                "shorten captions of many hundred words, or leave the metric out"
            ) from None
        if answer is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            raise BackendError(_failure(self._name, what, self._process.returncode, self._messages))
        return answer


def _feed(pipe: IO[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    with suppress(OSError), pipe:
        while (line := lines.get()) is not None:
            pipe.write(line.encode("utf-8", "replace") + b"\n")
            if lines.empty():
                pipe.flush()


def _drain(pipe: IO[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    with suppress(OSError), pipe:
        for line in pipe:
            lines.put(line.decode("utf-8", "replace").rstrip("\r\n"))
    lines.put(None)


def _end(process: subprocess.Popen[bytes], requests: queue.SimpleQueue[str | None], messages: IO[bytes]) -> None:
    process.kill()
    requests.put(None)
    process.wait()
    messages.close()


def spice(
    candidates: Tokens, references: Sequence[Tokens], *, cache: str | Path | None = None, timeout: float = 4 * 3600.0
) -> tuple[float, NDArray[np.float64]]:
    """The mean SPICE, and each picture's; as pycocoevalcap's when words are its PTB tokens.

    Every call is one Java process, which parses each caption: minutes for a thousand references.

    Shape: `candidates` B captions of words, `references` B lists of captions; the array is (B,).
    Units: `timeout` in seconds.

    Args:
        cache: A folder to keep parses in, so that another call against the same references takes half the time. When
            not given, one that is removed afterwards.

    Raises:
        BackendError: Something is not installed, or Java fails or takes longer than `timeout`.
        ValueError: There are not as many lists of references as candidates, or a list is empty.

    Source: Anderson et al. 2016, sections 3.1 to 3.3.
    """
    pairs = _pairs(candidates, references)
    folder, java = _require("SPICE")
    rows = [
        {"image_id": index, "test": " ".join(said), "refs": [" ".join(words) for words in written]}
        for index, (said, written) in enumerate(pairs)
    ]
    with tempfile.TemporaryDirectory(prefix="showtell-spice-") as scratch:
        source, target = Path(scratch, "captions.json"), Path(scratch, "scores.json")
        source.write_text(json.dumps(rows), "ascii")
        jar = folder / _PROGRAMS["SPICE"][0]
        command = [str(java), _HEAP["SPICE"], "-jar", str(jar), str(source), "-out", str(target), "-silent"]
        if platform.machine().lower() in ("x86_64", "amd64"):  # the cache is a native library for no other machine
            kept = Path(scratch, "cache") if cache is None else Path(cache).resolve()
            kept.mkdir(parents=True, exist_ok=True)
            command += ["-cache", str(kept)]
        _run("SPICE", command, jar.parent, timeout)
        scores = _read_spice(target, len(rows))
    return float(scores.mean()), scores


def _run(name: str, command: Sequence[str], folder: Path, timeout: float) -> None:
    with tempfile.TemporaryFile() as messages:
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise BackendError(
                f"{name} was not done in {timeout:g} seconds and was stopped; score fewer pictures, allow more time, "
                "or leave the metric out"
            ) from None
        except OSError as error:
            raise BackendError(
                f"cannot start {command[0]} ({error.strerror}); install Java ({_INSTALL_JAVA})"
            ) from error
        if done.returncode:
            raise BackendError(_failure(name, "its captions", done.returncode, messages))


def _read_spice(path: Path, rows: int) -> NDArray[np.float64]:
    try:
        found = {item["image_id"]: item["scores"]["All"]["f"] for item in json.loads(path.read_text("utf-8"))}
        return np.array([found[row] for row in range(rows)], np.float64)  # null, where it has no number, becomes NaN
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"SPICE wrote no scores that can be read ({error!r}); it runs in Java {_SPICE_JAVA[0]} to "
            f"{_SPICE_JAVA[-1]}: set JAVA_HOME to one of those, or leave the metric out"
        ) from error


def _failure(name: str, what: str, status: int | None, messages: IO[bytes]) -> str:
    text = b""
    with suppress(ValueError):  # closed, by another thread
        messages.seek(max(0, messages.seek(0, os.SEEK_END) - 4096))
        text = messages.read()
    said = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in said if not line.startswith(("at ", "... "))] or said  # a stack says less than its head
    heap = _HEAP.get(name, "")[4:]
    return (
        f"{name} stopped at {what} with exit status {status} and said {' / '.join(told[-3:])[:600] or 'nothing'!r}; "
        f"check that `java -version` works and that {heap}B of memory are free, or leave the metric out"
    )


def _require(metric: JavaMetric) -> tuple[Path, Path]:
    missing = unavailable(metric)
    folder, javas = _package(metric), _javas()
    if missing or folder is None:
        raise BackendError(f"{missing}, or leave the metric out")
    return folder, next(java for java in javas if metric != "SPICE" or _suits_spice(java))


def _package(metric: JavaMetric) -> Path | None:
    """The folder of pycocoevalcap that has the program of a metric."""
    spec = importlib.util.find_spec("pycocoevalcap")
    for place in (spec and spec.submodule_search_locations) or ():
        if all(Path(place, name).is_file() for name in _PROGRAMS[metric]):
            return Path(place).resolve()
    return None


def _javas() -> list[Path]:
    """The Java that JAVA_HOME names and the one on the PATH, as far as there are."""
    home = os.environ.get("JAVA_HOME")
    found = (shutil.which("java", path=str(Path(home, "bin"))) if home else None, shutil.which("java"))
    return list(dict.fromkeys(Path(java).absolute() for java in found if java))


def _suits_spice(java: Path) -> bool:
    version = _version(java)
    return version is None or version in _SPICE_JAVA


def _version(java: Path) -> int | None:
    """8 for 1.8.0_312 and 17 for 17.0.15, from the file that Java's folder has for it; None where it has none."""
    for home in java.resolve().parents[1:3]:  # Java 8 lies in jre/bin
        with suppress(OSError):
            text = (home / "release").read_text("utf-8", "replace")
            if match := re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', text, re.MULTILINE):
                return int(match[1])
    return None
