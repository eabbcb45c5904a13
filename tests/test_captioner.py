"""The runtime: order, batches, streams, attention maps, threads, and a process without PyTorch."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from showtell import Caption, Captioner, Failure
from showtell.bundle import read_bundle
from showtell.captioner import Runtime
from showtell.datasets import read_native
from showtell.errors import BundleError, ConfigError, DataError
from showtell.evaluation import evaluate
from showtell.images import ImageLimits


@pytest.fixture(scope="module", params=[1, 3])
def captioner(request: pytest.FixtureRequest, toy_run: Path) -> Captioner:
    return Captioner.load(toy_run / "bundle", threads=request.param)


@pytest.fixture
def pictures(toy_data: Path) -> list[str]:
    return [str(example.image) for example in read_native(toy_data)]


def say(results: list[Caption | Failure]) -> list[tuple[str, str]]:
    return [(one.image, one.error if isinstance(one, Failure) else one.text) for one in results]


def test_results_come_in_order_with_failures_among_them(
    captioner: Captioner, pictures: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    alone = {path: captioner.caption([path])[0] for path in pictures}
    gone = str(tmp_path / "gone.png")
    mixed = [gone, *pictures[:3], str(broken), str(broken), *pictures[3:20], str(tmp_path)]
    for batch in (1, 2, 4, 16):
        results = captioner.caption(mixed, batch=batch)
        assert [one.image for one in results] == mixed
        failed = [place for place, one in enumerate(results) if isinstance(one, Failure)]
        assert failed == [0, 4, 5, 23]
        for one in results:
            if isinstance(one, Caption):
                assert one.text == alone[one.image].text  # type: ignore[union-attr]
    assert results[0].error.endswith("gone.png does not exist; check the path")  # type: ignore[union-attr]
    assert "broken.jpg cannot be read as a picture" in results[4].error  # type: ignore[union-attr]
    assert len(set(say(results))) > 10


def test_a_batch_says_what_each_picture_alone_says(captioner: Captioner, pictures: list[str]) -> None:
    options = captioner.options(beam=3, top=2)
    together = captioner.caption(pictures, options, batch=24)
    alone = [captioner.caption([path], options)[0] for path in pictures]
    assert len({one.text for one in together if isinstance(one, Caption)}) > 10
    for mine, other in zip(together, alone, strict=True):
        assert isinstance(mine, Caption)
        assert isinstance(other, Caption)
        assert mine.words == other.words
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert mine.word_logprobs == pytest.approx(other.word_logprobs, abs=1e-4)
        assert [one.words for one in mine.alternatives] == [one.words for one in other.alternatives]
        np.testing.assert_allclose(mine.maps, other.maps, atol=1e-4)


def test_bytes_and_paths_are_the_same_picture(captioner: Captioner, pictures: list[str]) -> None:
    path = Path(pictures[0])
    by_text, by_path, by_bytes, broken = captioner.caption([str(path), path, path.read_bytes(), b"no picture"])
    assert isinstance(by_text, Caption)
    assert by_text == by_path
    assert by_bytes == replace(by_text, image="picture 3")
    assert isinstance(broken, Failure)
    assert broken.image == "picture 4"
    assert broken.error.startswith("picture 4 cannot be read as a picture")


def test_no_pictures_no_captions(captioner: Captioner) -> None:
    assert captioner.caption([]) == []


@pytest.mark.parametrize("batch", [1, 4])
def test_a_stream_reads_a_bounded_number_ahead(captioner: Captioner, pictures: list[str], batch: int) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield pictures[taken % len(pictures)]

    stream = captioner.caption_stream(endless(), batch=batch)
    assert taken == 0  # nothing before it is asked for
    for given in range(1, 40):
        assert isinstance(next(stream), Caption)
        assert taken <= given + (2 * captioner.runtime.threads + 2) * batch + 1
    threads = threading.active_count()
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() < threads  # the readers are gone


def test_limits_reach_the_reader(captioner: Captioner, pictures: list[str]) -> None:
    (result,) = captioner.caption_stream(pictures[:1], limits=ImageLimits(max_pixels=100))
    assert isinstance(result, Failure)
    assert "too large (64 × 64)" in result.error


def test_words_and_maps_belong_together(captioner: Captioner, pictures: list[str]) -> None:
    manifest = captioner.manifest
    assert (manifest.rows, manifest.columns) == (2, 2)
    for one in captioner.caption(pictures[:5], captioner.options(beam=3, top=3)):
        assert isinstance(one, Caption)
        for caption in (one, *one.alternatives):
            assert caption.text == " ".join(caption.words)
            assert len(caption.words) == len(caption.word_logprobs)
            assert caption.maps is not None
            assert caption.maps.shape == (len(caption.words), 2, 2)
            np.testing.assert_allclose(caption.maps.sum((1, 2)), 1, atol=1e-5)
            assert caption.maps.min() >= 0
            assert caption.logprob <= sum(caption.word_logprobs) + 1e-6  # END costs something too


def test_alternatives_are_other_captions_best_first(captioner: Captioner, pictures: list[str]) -> None:
    options = captioner.options(beam=5, top=4, length_penalty=0.0)
    for one in captioner.caption(pictures[:6], options):
        assert isinstance(one, Caption)
        ranked = [one, *one.alternatives]
        assert len(ranked) == 4
        assert len({caption.text for caption in ranked}) == 4
        assert [caption.logprob for caption in ranked] == sorted((c.logprob for c in ranked), reverse=True)
        assert {caption.image for caption in ranked} == {one.image}
        assert all(caption.alternatives == () for caption in one.alternatives)
    (plain,) = captioner.caption(pictures[:1])
    assert plain.alternatives == ()  # type: ignore[union-attr]


def test_options_are_the_models_with_changes(captioner: Captioner) -> None:
    assert captioner.options().beam == captioner.manifest.search["beam"] == 2
    assert captioner.options(beam=5).beam == 5
    with pytest.raises(ConfigError, match="search option top is 3"):
        captioner.options(top=3)


def test_threads_may_share_a_captioner(captioner: Captioner, pictures: list[str]) -> None:
    expected = captioner.caption(pictures, batch=5)
    barrier = threading.Barrier(4)

    def caption(number: int) -> list[Caption | Failure]:
        barrier.wait(30)
        return captioner.caption(pictures if number % 2 else pictures[::-1], batch=5)

    with ThreadPoolExecutor(4) as pool:
        for number, results in enumerate(pool.map(caption, range(4))):
            assert say(results if number % 2 else results[::-1]) == say(expected)


def test_groups_are_worked_on_beside_each_other_and_come_in_order(toy_run: Path) -> None:
    runtime = Captioner.load(toy_run / "bundle", threads=3).runtime
    beside, seen = threading.Barrier(3), []

    def work(own: Runtime, items: Sequence[int]) -> list[tuple[int, int]]:
        if len(items) == 4:  # of the whole groups three at a time, or this would wait for ever
            beside.wait(60)
        seen.append(len(items))
        return [(item, own.threads) for item in items]

    found = list(runtime.spread(work, ([first, first + 1, first + 2, first + 3] for first in range(0, 28, 4))))
    assert found == [[(first + i, 1) for i in range(4)] for first in range(0, 28, 4)]
    assert sorted(seen) == [1, 1, 2, 4, 4, 4, 4, 4, 4]  # the last is shared out
    assert list(runtime.spread(work, [[1, 2]])) == [[(1, 3), (2, 3)]]  # too few to share
    assert list(runtime.spread(work, [])) == []


def test_an_error_in_one_group_reaches_the_caller(toy_run: Path) -> None:
    runtime = Captioner.load(toy_run / "bundle", threads=2).runtime

    def work(_: Runtime, items: Sequence[int]) -> list[int]:
        if 5 in items:
            raise DataError("five")
        return list(items)

    groups = runtime.spread(work, iter([[0, 1], [2, 3], [4, 5], [6, 7]]))
    assert next(groups) == [0, 1]
    assert next(groups) == [2, 3]
    with pytest.raises(DataError, match="five"):
        next(groups)


def test_a_fresh_process_captions_without_pytorch(toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    picture = toy_data / "images" / "red_square.png"
    code = (
        "import sys\n"
        "from showtell import Captioner\n"
        "said = Captioner.load(sys.argv[1]).caption([sys.argv[2]])[0]\n"
        "heavy = {'torch', 'timm', 'torchvision', 'onnx', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(said.text)\n"
    )
    command = [sys.executable, "-c", code, str(toy_run / "bundle"), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    (here,) = Captioner.load(toy_run / "bundle").caption([picture])
    assert done.stdout == f"{here.text}\n"  # type: ignore[union-attr]


def test_a_graph_that_onnx_runtime_refuses_is_named(toy_run: Path) -> None:
    whole = read_bundle(toy_run / "bundle")
    with pytest.raises(BundleError, match=r"ONNX Runtime refuses start\.onnx of 'toy': "):
        Captioner(replace(whole, graphs={**whole.graphs, "start": b"no graph"}))
    less = {name: array for name, array in whole.weights.items() if not name.startswith("step/")}
    with pytest.raises(BundleError, match=r"ONNX Runtime refuses step\.onnx of 'toy': "):
        Captioner(replace(whole, weights=less))


# evaluation


def test_an_evaluation_scores_what_it_can_read(captioner: Captioner, toy_data: Path) -> None:
    examples = read_native(toy_data)
    whole = evaluate(captioner, examples, "val")
    stored = captioner.manifest.scores["metrics"]
    assert whole.scores.metrics == pytest.approx(stored, abs=1e-5)
    assert (whole.scores.n, whole.scores.split, whole.scores.beam) == (6, "val", 2)
    first = next(number for number, example in enumerate(examples) if example.split == "val")
    examples[first] = replace(examples[first], image="gone.png")
    fewer = evaluate(captioner, examples, "val")
    assert fewer.scores.n == len(fewer.captions) == 5
    assert [failure.image for failure in fewer.failures] == ["gone.png"]
    assert examples[first].id not in fewer.captions


def test_an_evaluation_of_nothing_is_named(captioner: Captioner, toy_data: Path) -> None:
    examples = read_native(toy_data)
    with pytest.raises(DataError, match="no picture in the split 'test'; it has train, val"):
        evaluate(captioner, examples, "test")
    gone = [replace(example, image="gone.png") for example in examples]
    with pytest.raises(
        DataError, match=r"none of the 6 pictures of 'val' can be read; the first: gone\.png does not ex"
    ):
        evaluate(captioner, gone, "val")


def test_one_path_is_not_taken_letter_by_letter(captioner: Captioner) -> None:
    with pytest.raises(TypeError, match=r"give a list of pictures: \['photo.jpg'\]"):
        captioner.caption("photo.jpg")
