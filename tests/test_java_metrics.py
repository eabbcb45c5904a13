"""METEOR equals pycocoevalcap's and its Java always ends; what is missing is said; SPICE is asked and read."""

from __future__ import annotations

import gc
import importlib.util
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from showtell.errors import BackendError
from showtell.metrics import java as java_metrics
from showtell.metrics import read_references, tokenise_ptb
from showtell.metrics.java import Meteor, rate_meteor, spice, unavailable

Words = list[list[str]]

# In place of Java: answers METEOR's requests with one match of all words that are in the last reference, and SPICE's
# file with the share of a candidate's words that are in its references.
FAKE_JAVA = f"""#!{sys.executable}
import json, os, sys, time
with open(os.environ["FAKE_LOG"], "a") as log:
    print(os.getpid(), *sys.argv[1:], file=log)
mood = os.environ.get("FAKE_MOOD", "")
if mood == "loud":
    sys.stderr.write("x" * 79 + "\\n" * 20000)
    sys.stderr.flush()
if mood == "broken":
    sys.exit("Error: Could not find or load main class\\n\\tat nowhere(Unknown)")
if "-stdio" not in sys.argv:
    options = dict(zip(sys.argv, sys.argv[1:]))
    if mood == "hangs":
        time.sleep(60)
    if "-cache" in options:
        open(os.path.join(options["-cache"], "parses"), "a").write("x")
    source = sys.argv[sys.argv.index("-jar") + 2]
    rows = []
    for item in json.load(open(source)):
        words = set(" ".join(item["refs"]).split())
        said = item["test"].split()
        share = sum(word in words for word in said) / len(said) if said else None
        rows.append({{"image_id": item["image_id"], "scores": {{"All": {{"f": share}}}}}})
    if mood != "empty":
        with open(options["-out"], "w") as out:
            json.dump([] if mood == "short" else rows[::-1], out)
    sys.exit(0)
for number, line in enumerate(sys.stdin):
    if mood == "dies" and number == 2:
        sys.exit("java.lang.OutOfMemoryError: Java heap space")
    if mood == "hangs" and number == 2:
        time.sleep(60)
    if mood == "babbles" and number == 2:
        print("Error: specify SCORE or EVAL or SING", flush=True)
        continue
    if mood == "loud":
        sys.stderr.write("y" * 100000)
    *_, written, said = (field.split() for field in line.split("|||"))
    matched = sum(word in written for word in said)
    print(len(said), len(written), 0, 0, matched, matched, *[0] * 14, 1, matched, matched, flush=True)
"""


class FakeJava:
    """A JAVA_HOME whose Java writes down how it was called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.log = folder / "jdk", folder / "log"
        (self.home / "bin").mkdir(parents=True)
        (self.home / "bin/java").write_text(FAKE_JAVA, "utf-8")
        (self.home / "bin/java").chmod(0o755)
        self.say_version("11.0.20")
        self.package = folder / "site/pycocoevalcap"
        for name in ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz", "spice/spice-1.0.jar"):
            self.add(name)
        self._monkeypatch = monkeypatch
        monkeypatch.syspath_prepend(str(folder / "site"))
        monkeypatch.setenv("JAVA_HOME", str(self.home))
        monkeypatch.setenv("FAKE_LOG", str(self.log))
        monkeypatch.delenv("FAKE_MOOD", raising=False)

    def say_version(self, version: str) -> None:
        (self.home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n', "utf-8")

    def add(self, name: str) -> None:
        (self.package / name).parent.mkdir(parents=True, exist_ok=True)
        (self.package / name).write_bytes(b"jar")

    def add_models(self) -> None:
        for name in ("", "-models"):
            self.add(f"spice/lib/stanford-corenlp-3.6.0{name}.jar")

    def be(self, mood: str) -> None:
        self._monkeypatch.setenv("FAKE_MOOD", mood)

    def calls(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text("utf-8").splitlines()] if self.log.exists() else []

    def running(self) -> list[int]:
        return [pid for pid in (int(call[0]) for call in self.calls()) if is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # a zombie counts as running
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeJava:
    if os.name != "posix":
        pytest.skip("the fake Java is a script")
    return FakeJava(tmp_path, monkeypatch)


# METEOR's values


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Meteor, Callable[[Words, list[Words]], tuple[float, list[float]]]]]:
    """METEOR here and in pycocoevalcap, started at the same time."""
    if missing := unavailable("METEOR"):
        pytest.skip(missing)
    from pycocoevalcap.meteor.meteor import Meteor as TheirMeteor

    theirs = TheirMeteor()

    def ask_them(said: Words, written: list[Words]) -> tuple[float, list[float]]:
        result: tuple[float, list[float]] = theirs.compute_score(
            {i: [" ".join(words) for words in group] for i, group in enumerate(written)},
            {i: [" ".join(words)] for i, words in enumerate(said)},
        )
        return result

    with Meteor() as ours:
        yield ours, ask_them
    for pipe in (theirs.meteor_p.stdout, theirs.meteor_p.stderr):
        pipe.close()


def pictures(shared_data: Path) -> tuple[Words, list[Words]]:
    """The last reference of real pictures against the others; every third candidate is another picture's."""
    groups = list(read_references(shared_data / "coco/annotations/captions_val2017.json").values())[:250]
    groups += list(read_references(shared_data / "rsicd/captions.jsonl").values())[:50]
    tokens = [[tokenise_ptb(caption) for caption in group] for group in groups]
    said = [group[-1] for group in tokens]
    for index in range(0, len(said), 3):
        said[index] = tokens[(index + 7) % len(tokens)][0]
    said[5] = []
    said[8] = ["zzz", "qqq"]
    said[10] = tokens[10][0]  # in full one of its references
    written = [group[:-1] for group in tokens]
    said[20], written[20] = tokenise_ptb("Một con chó 1 1/2 café"), [tokenise_ptb("một con mèo 1 1/2 CAFÉ"), []]
    return said, written


def test_meteor_equals_the_coco_code(both: Any, shared_data: Path) -> None:
    meteor, ask_them = both
    said, written = pictures(shared_data)
    corpus, each = meteor.score(said, written)
    theirs, theirs_each = ask_them(said, written)
    np.testing.assert_allclose(each, theirs_each, atol=1e-9)
    assert corpus == pytest.approx(theirs, abs=1e-9)
    assert each[5] == each[8] == 0
    assert each[10] == pytest.approx(1)
    assert 0.15 < corpus < 0.5


def test_meteor_of_a_sample_is_that_of_its_summed_counts(both: Any, shared_data: Path) -> None:
    meteor, ask_them = both
    said, written = pictures(shared_data)
    counts = meteor.count(said, written)
    sample = [*random.Random(3).choices(range(len(said)), k=40), 5, 10, 10]
    theirs, _ = ask_them([said[i] for i in sample], [written[i] for i in sample])
    assert rate_meteor(counts[sample].sum(0)) == pytest.approx(theirs, abs=1e-9)
    together = rate_meteor(np.stack([counts.sum(0), counts[sample].sum(0)]))
    assert together[1] == pytest.approx(theirs, abs=1e-9)


def test_signs_and_line_ends_in_captions_shift_no_answer(both: Any) -> None:
    meteor, _ = both
    plain = [["a", "dog", "runs"], ["a", "cat"], ["two", "birds"]]
    written = [[["a", "dog", "is", "running"]], [["a", "red", "cat"]], [["two", "birds", "fly"], ["birds"]]]
    odd = [["a", "|||", "dog\n", "runs\r\n"], ["\x00\x07", "a", "cat", "\ud800"], ["two", "birds", "||||||"]]
    signs = [[["a", "|||", "dog", "is\nrunning"]], [["a", "red", "cat|||"]], [["two", "birds\r", "fly"], ["birds"]]]
    _, expected = meteor.score(plain, written)
    _, found = meteor.score(odd, signs)
    assert found[[0, 2]] == pytest.approx(expected[[0, 2]])
    assert 0 < found[1] <= expected[1]
    assert meteor.score(plain, written)[1] == pytest.approx(expected)


def test_similarity_of_texts_is_that_of_their_tokens(both: Any) -> None:
    meteor, _ = both
    alike = meteor.similarity("A small dog runs!", ["the cat", "a little dog is running"])
    assert alike == pytest.approx(
        meteor.score([["a", "small", "dog", "runs"]], [[["a", "little", "dog", "is", "running"]]])[0]
    )
    assert 0.3 < alike < 1
    assert meteor.similarity("", ["a dog"]) == 0


def test_rate_meteor_by_hand() -> None:
    # "the red dogs" against "a red dog": one content word equal, one by its stem, in one run of two; "the" and "a" are
    # function words that match nothing.
    counts = [3, 3, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2]
    share = 0.75 * (1 + 0.6) / (0.75 * 2 + 0.25)  # of the weight of each side's words: precision and recall
    assert rate_meteor(counts) == pytest.approx(share * (1 - 0.6 * (1 / 2) ** 0.2))
    assert rate_meteor(np.zeros((2, 23))).tolist() == [0, 0]
    assert rate_meteor([3, 5, 1, 1, *[0] * 19]) == 0


# METEOR's process


def test_one_process_scores_several_systems(fake: FakeJava) -> None:
    with Meteor() as meteor:
        assert not fake.calls()  # starts at the first use
        for said in (["a", "dog"], ["a", "cat"], []):
            meteor.score([said, ["a"]], [[["a", "dog"]], [["a"]]])
        meteor.score([], [])
        assert len(fake.calls()) == 1
        assert len(fake.running()) == 1
    assert not fake.running()
    assert "-Duser.language=en" in fake.calls()[0]


def test_answers_belong_to_their_captions(fake: FakeJava) -> None:
    said = [["w"] * (index + 1) for index in range(2000)]
    with Meteor() as meteor:
        counts = meteor.count(said, [[["x"], ["w"]]] * len(said))
    assert counts[:, 0].tolist() == list(range(1, 2001))


def test_threads_take_turns(fake: FakeJava) -> None:
    found: dict[int, list[float]] = {}
    with Meteor() as meteor:

        def work(length: int) -> None:
            found[length] = meteor.count([["w"] * length] * 50, [[["w"]]] * 50)[:, 0].tolist()

        threads = [threading.Thread(target=work, args=(length,)) for length in range(1, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == {length: [length] * 50 for length in range(1, 6)}
    assert len(fake.calls()) == 1


@pytest.mark.parametrize(
    ("mood", "sentence"),
    [
        ("dies", r"METEOR stopped at caption 2 with exit status 1 and said 'java\.lang\.OutOfMemoryError: Java heap"),
        ("hangs", r"METEOR gave no answer to caption 2 in 2 seconds and was stopped"),
        ("babbles", r"METEOR answered 'Error: specify SCORE or EVAL or SING' to caption 2, not 23 numbers"),
        (
            "broken",
            r"METEOR stopped at its start with exit status 1 and said 'Error: Could not find or load main class'",
        ),
    ],
)
def test_trouble_in_java_is_a_sentence_and_ends_it(fake: FakeJava, mood: str, sentence: str) -> None:
    fake.be(mood)
    meteor = Meteor(timeout=2)
    with pytest.raises(BackendError, match=sentence) as caught:
        meteor.score([["a"]] * 3, [[["a"]]] * 3)
    assert "\n" not in str(caught.value)
    assert not fake.running()
    fake.be("")
    assert meteor.score([["a", "dog"]], [[["a", "dog"]]])[0] == pytest.approx(1)
    meteor.close()
    meteor.close()
    assert not fake.running()


def test_another_thread_may_close_it(fake: FakeJava) -> None:
    fake.be("hangs")
    meteor = Meteor(timeout=20)
    closing = threading.Timer(0.5, meteor.close)
    closing.start()
    with pytest.raises(BackendError, match="METEOR stopped at caption 2"):
        meteor.score([["a"]] * 3, [[["a"]]] * 3)
    closing.join()
    assert not fake.running()


def test_a_flood_of_messages_does_not_stop_it(fake: FakeJava) -> None:
    fake.be("loud")
    with Meteor(timeout=20) as meteor:
        assert len(meteor.score([["a"]] * 30, [[["a"]]] * 30)[1]) == 30


def test_an_interruption_ends_the_process(fake: FakeJava, monkeypatch: pytest.MonkeyPatch) -> None:
    meteor = Meteor()
    meteor.score([["a"]], [[["a"]]])

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(java_metrics._LineProcess, "receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        meteor.score([["a"]], [[["a"]]])
    assert not fake.running()


def test_an_exception_in_the_block_ends_the_process(fake: FakeJava) -> None:
    with pytest.raises(ZeroDivisionError), Meteor() as meteor:  # noqa: PT012
        meteor.score([["a"]], [[["a"]]])
        _ = 1 / 0
    assert not fake.running()


def test_what_nothing_refers_to_ends(fake: FakeJava) -> None:
    meteor = Meteor()
    meteor.score([["a"]], [[["a"]]])
    assert fake.running()
    del meteor
    gc.collect()
    assert not fake.running()


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "os.kill(os.getpid(), 9)"])
def test_the_end_of_python_ends_the_process(fake: FakeJava, end: str) -> None:
    script = f"import os; from showtell.metrics.java import Meteor; m = Meteor(); m.score([['a']], [[['a']]]); {end}"
    path = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, timeout=60)
    assert len(fake.calls()) == 1
    for _ in range(100):
        if not fake.running():
            break
        time.sleep(0.05)
    assert not fake.running()


def test_lists_that_do_not_fit_are_refused_and_leave_the_process(fake: FakeJava) -> None:
    with Meteor() as meteor:
        meteor.score([["a"]], [[["a"]]])
        with pytest.raises(ValueError, match="no reference"):
            meteor.score([["a"]], [[]])
        with pytest.raises(ValueError, match="shorter"):
            meteor.score([["a"], ["b"]], [[["a"]]])
        meteor.score([["a"]], [[["a"]]])
    assert len(fake.calls()) == 1


# what is missing


def test_what_is_missing_is_said_with_the_way_to_get_it(fake: FakeJava, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable("METEOR") is None
    assert not fake.calls()  # no Java was started to find out
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert unavailable("METEOR") == "METEOR needs pycocoevalcap (run: pip install 'showtell[metrics]')"
    monkeypatch.setenv("JAVA_HOME", str(fake.home / "none"))
    monkeypatch.setenv("PATH", str(fake.home))
    for metric in ("METEOR", "SPICE"):
        sentence = unavailable(metric)  # type: ignore[arg-type]
        assert sentence is not None
        assert sentence.startswith(f"{metric} needs pycocoevalcap (run: pip install 'showtell[metrics]') and Java (")
        assert "default-jre-headless" in sentence
    with pytest.raises(BackendError, match=r"METEOR needs pycocoevalcap .* and Java .*, or leave the metric out"):
        Meteor().score([["a"]], [[["a"]]])
    with pytest.raises(ValueError, match="'BLEU' is no metric that runs in Java"):
        unavailable("BLEU")  # type: ignore[arg-type]


def test_a_package_without_its_table_is_incomplete(fake: FakeJava, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake.package / "meteor/data/paraphrase-en.gz").unlink()
    monkeypatch.setattr(sys, "path", [str(fake.package.parent)])
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    importlib.invalidate_caches()
    assert "needs pycocoevalcap" in str(unavailable("METEOR"))


def test_spice_says_which_models_it_lacks(fake: FakeJava) -> None:
    assert unavailable("SPICE") == (
        "SPICE needs the models of Stanford CoreNLP 3.6.0 (fetch them, several hundred MB, with: "
        "python -m pycocoevalcap.spice.get_stanford_models)"
    )
    with pytest.raises(BackendError, match=r"models of Stanford CoreNLP 3\.6\.0"):
        spice([["a"]], [[["a"]]])
    fake.add("spice/lib/stanford-corenlp-3.6.0.jar")
    assert "remove" in str(unavailable("SPICE"))
    fake.add("spice/lib/stanford-corenlp-3.6.0-models.jar")
    assert unavailable("SPICE") is None
    assert not fake.calls()


@pytest.mark.parametrize(
    ("version", "suits"), [("1.8.0_312", True), ("9", True), ("14.0.2", True), ("15", False), ("17.0.15", False)]
)
def test_spice_says_which_java_it_runs_in(
    fake: FakeJava, monkeypatch: pytest.MonkeyPatch, version: str, suits: bool
) -> None:
    fake.add_models()
    fake.say_version(version)
    monkeypatch.setenv("PATH", str(fake.home))
    sentence = unavailable("SPICE")
    assert (sentence is None) == suits
    if not suits:
        assert str(sentence).startswith(
            f"SPICE needs Java 8 to 14 ({fake.home}/bin/java is Java {version[:2]}; install "
        )
    assert unavailable("METEOR") is None


# SPICE's protocol


def test_spice_is_asked_and_read(fake: FakeJava) -> None:
    fake.add_models()
    mean, each = spice(
        [["a", "dog"], ["một", "cat"], ["bus"]], [[["a"], ["cat"]], [["một", "cat"]], [["a", "red"], ["bus"]]]
    )
    assert each.tolist() == [0.5, 1, 1]
    assert mean == pytest.approx(2.5 / 3)
    (call,) = fake.calls()
    assert "-Xmx8G" in call
    assert call[call.index("-jar") + 1] == str(fake.package / "spice/spice-1.0.jar")
    assert not Path(call[call.index("-out") + 1]).parent.exists()
    assert sorted(path.name for path in (fake.package / "spice").iterdir()) == ["lib", "spice-1.0.jar"]


def test_spice_keeps_parses_where_it_is_told(fake: FakeJava, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.add_models()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for _ in range(2):
        spice([["a"]], [[["a"]]], cache=tmp_path / "kept")
    assert (tmp_path / "kept/parses").read_text() == "xx"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    spice([["a"]], [[["a"]]], cache=tmp_path / "kept")
    assert "-cache" not in fake.calls()[-1]


@pytest.mark.parametrize(
    ("mood", "sentence"),
    [
        (
            "broken",
            "SPICE stopped at its captions with exit status 1 and said 'Error: Could not find or load main class'",
        ),
        ("hangs", "SPICE was not done in 1 seconds and was stopped"),
        ("short", "SPICE wrote no scores that can be read .KeyError"),
        ("empty", "SPICE wrote no scores that can be read .*it runs in Java 8 to 14"),
    ],
)
def test_trouble_in_spice_is_a_sentence(fake: FakeJava, mood: str, sentence: str) -> None:
    fake.add_models()
    fake.be(mood)
    with pytest.raises(BackendError, match=sentence) as caught:
        spice([["a"]], [[["a"]]], timeout=1 if mood == "hangs" else 30)
    assert "\n" not in str(caught.value)
    assert not fake.running()


def test_spice_refuses_a_caption_without_references(fake: FakeJava) -> None:
    fake.add_models()
    with pytest.raises(ValueError, match="no reference"):
        spice([["a"]], [[]])
    assert not fake.calls()
