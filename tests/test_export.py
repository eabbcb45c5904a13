"""From PyTorch to a bundle: the same numbers and captions, and nothing of the machine that made it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell import Captioner  # noqa: E402
from showtell.bundle import GRAPHS, Bundle, read_bundle, write_bundle  # noqa: E402
from showtell.captioner import Runtime  # noqa: E402
from showtell.datasets import read_native  # noqa: E402
from showtell.decoding import SearchOptions, search  # noqa: E402
from showtell.errors import BackendError, TrainingError  # noqa: E402
from showtell.learn import run  # noqa: E402
from showtell.learn.config import ModelConfig, RunConfig  # noqa: E402
from showtell.learn.decoders import build_decoder  # noqa: E402
from showtell.learn.encoders import Encoder, build_encoder  # noqa: E402
from showtell.learn.export import check_parity, export_bundle, halve  # noqa: E402
from showtell.learn.quantise import quantise  # noqa: E402
from showtell.learn.steps import Decoder  # noqa: E402
from showtell.learn.validation import TorchStep  # noqa: E402
from showtell.report.card import write_card  # noqa: E402
from showtell.text import Vocabulary  # noqa: E402

Made = tuple[Encoder, Decoder, Bundle]
OPTIONS = SearchOptions(beam=3)


KINDS: dict[str, dict[str, Any]] = {
    "init": {},
    "init of two GRU layers": {"conditioning": "init", "cell": "gru", "layers": 2},
    "first": {},
    "every": {},
    "merge, tied words": {"conditioning": "merge", "tie_words": True},
    "attention": {},
    "adaptive": {},
    "topdown": {},
    "transformer": {"conditioning": "attention", "cell": "transformer", "layers": 2, "heads": 2},
    "concepts": {},
    "concepts+vector": {},
    "concepts+grid": {},
    "init, looked up": {"conditioning": "init", "lookup": True},
    "two GRU layers, looked up": {"conditioning": "every", "cell": "gru", "layers": 2, "lookup": True},
    "merge, looked up": {"conditioning": "merge", "lookup": True},
    "concepts, tied words, looked up": {"conditioning": "concepts", "tie_words": True, "lookup": True},
}


def build(kind: str) -> Made:
    torch.manual_seed(4)
    config = ModelConfig(
        encoder="test_resnet",
        encoder_weights="random",
        image_size=64,
        embedding=16,
        hidden=24,
        attention=12,
        **{"conditioning": kind, **KINDS[kind]},
    )
    encoder = build_encoder(config)
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *(f"w{number}" for number in range(30))))
    decoder = build_decoder(config, width=encoder.width, vocabulary_size=len(vocabulary), concepts=20).eval()
    with torch.no_grad():  # sharp enough that captions differ
        for parameter in decoder.parameters():
            parameter.mul_(4 if kind.startswith("concepts") else 3)
    return encoder, decoder, export_bundle(encoder, decoder, vocabulary, "tiny")


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest) -> Made:
    return build(request.param)


def pictures(count: int = 20) -> np.ndarray:
    """Smooth random pictures, each of another colour."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 4, 4, 3)) * rng.random((count, 1, 1, 3))
    return small.astype(np.uint8).repeat(16, 1).repeat(16, 2)


@pytest.mark.parametrize("count", [1, 5])
def test_every_step_says_what_pytorch_says(made: Made, count: int) -> None:
    encoder, decoder, bundle = made
    runtime, reference = Runtime(bundle), TorchStep(decoder)
    pixels = pictures(count)
    features = runtime.encode(pixels)
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(pixels)).contiguous().numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * scale)
    (memory, state), (torch_memory, torch_state) = runtime.start(expected), reference.start(expected)
    assert decoder.config.lookup or list(memory) == list(torch_memory)
    assert list(state) == list(torch_state)
    rng = np.random.default_rng(1)
    for beams in (1, 3, 3):  # rows that grow to K hypotheses a picture, in a new order
        rows = np.arange(count * beams) // (beams if len(next(iter(state.values()))) == count else 1)
        state, torch_state = ({k: v[rows] for k, v in each.items()} for each in (state, torch_state))
        tokens = rng.integers(1, 34, count * beams)
        ours, theirs = runtime.step(tokens, memory, state), reference.step(tokens, torch_memory, torch_state)
        np.testing.assert_allclose(ours.logprobs_NC, theirs.logprobs_NC, atol=1e-4)
        np.testing.assert_allclose(np.exp(ours.logprobs_NC).sum(1), 1, atol=1e-4)
        assert ours.state.keys() == theirs.state.keys()
        for name in state:
            np.testing.assert_allclose(ours.state[name], theirs.state[name], atol=1e-4)
        few = runtime.step(tokens, memory, state, best=5)
        ranked = np.argsort(-ours.logprobs_NC, 1, kind="stable")[:, :5]
        np.testing.assert_array_equal(few.tokens_NC, ranked)
        np.testing.assert_array_equal(few.logprobs_NC, np.take_along_axis(ours.logprobs_NC, ranked, 1))
        assert runtime.step(tokens, memory, state, best=99).logprobs_NC.shape == ours.logprobs_NC.shape
        if decoder.attends:
            np.testing.assert_allclose(ours.alpha_NL, theirs.alpha_NL, atol=1e-4)
        else:
            assert ours.alpha_NL is theirs.alpha_NL is None
        state, torch_state = ours.state, theirs.state


@pytest.mark.parametrize("beam", [1, 3])
def test_every_caption_is_pytorchs(made: Made, beam: int) -> None:
    encoder, decoder, bundle = made
    runtime = Runtime(bundle)
    options = SearchOptions(beam=beam, top=beam)
    with torch.inference_mode():
        features = encoder(torch.from_numpy(pictures())).contiguous().numpy()
    expected = search(TorchStep(decoder), features, options)
    found = search(runtime, runtime.encode(pictures()), options)
    assert [[one.tokens for one in best] for best in found] == [[one.tokens for one in best] for best in expected]
    assert len({best[0].tokens for best in found}) > 2
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[0].logprob == pytest.approx(theirs[0].logprob, abs=1e-3)


def test_parity_is_measured(made: Made) -> None:
    encoder, decoder, bundle = made
    parity = check_parity(bundle, encoder, decoder, list(pictures()), OPTIONS)
    assert (parity.pictures, parity.same_captions) == (20, 1.0)
    assert 0 <= parity.features < 1e-4
    assert 0 <= parity.logprobs < 1e-4


@pytest.mark.parametrize("graph", GRAPHS)
def test_parity_sees_weights_that_are_not_pytorchs(made: Made, graph: str) -> None:
    encoder, decoder, bundle = made
    weights = {
        name: array * np.float32(1.1 if name.startswith(f"{graph}/") else 1) for name, array in bundle.weights.items()
    }
    with pytest.raises(BackendError, match=r"the exported graphs do not say what PyTorch says: Parity\("):
        check_parity(replace(bundle, weights=weights), encoder, decoder, list(pictures()), OPTIONS)


def test_halved_weights_seldom_change_a_caption(toy_run: Path, toy_data: Path) -> None:
    whole = read_bundle(toy_run / "bundle")
    half = halve(whole)
    assert {array.dtype for array in half.weights.values()} == {np.dtype(np.float16)}
    assert {array.dtype for array in whole.weights.values()} == {np.dtype(np.float32)}
    paths = [str(example.image) for example in read_native(toy_data)]
    said = [[one.text for one in Captioner(bundle).caption(paths)] for bundle in (whole, half)]  # type: ignore[union-attr]
    assert np.mean([one == other for one, other in zip(*said, strict=True)]) >= 0.95


def test_eight_bits_say_nearly_the_same_whatever_the_batch(made: Made) -> None:
    _, decoder, bundle = made
    pixels = pictures()
    smaller = quantise(bundle, list(pixels), OPTIONS, least=300)
    stored = {name: array for name, array in smaller.weights.items() if array.dtype == np.int8}
    assert stored
    assert sum(array.nbytes for array in smaller.weights.values()) < sum(
        array.nbytes for array in bundle.weights.values()
    )
    for name, array in stored.items():
        whole = bundle.weights[name.removesuffix(".int8")]
        assert array.shape in (whole.shape, whole.shape[::-1])
        assert abs(array).max() == (127 if name.endswith(("words.weight.int8", "places.int8")) else 63)
    shared = "step/decoder.output.weight"
    if decoder.config.tie_words and not decoder.config.lookup:
        assert {shared, f"{shared}.int8"} <= smaller.weights.keys()
    (exact, rough), tokens_BT = map(Runtime, (bundle, smaller)), np.random.default_rng(2).integers(4, 34, (20, 6))
    features = exact.encode(pixels)
    said = []
    for runtime, rows in ((exact, slice(None)), (rough, slice(None)), (rough, slice(3, 4))):
        memory, state = runtime.start(features[rows])
        logprobs = []
        for tokens_B in tokens_BT[rows].T:
            output = runtime.step(np.ascontiguousarray(tokens_B), memory, state)
            state = output.state
            logprobs.append(output.logprobs_NC)
        said.append(np.stack(logprobs, 1))
    whole_BTV, rough_BTV, alone_1TV = said
    assert np.abs(np.exp(whole_BTV) - np.exp(rough_BTV)).mean() < 0.01
    np.testing.assert_allclose(rough_BTV[3:4], alone_1TV, atol=1e-3)
    halved = halve(smaller)
    assert {array.dtype for array in halved.weights.values()} == {np.dtype(np.float16), np.dtype(np.int8)}
    assert all(best[0].tokens for best in search(Runtime(halved), features, OPTIONS))


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_eight_bits_are_kept_where_the_captions_are_as_good(
    share: float, toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(toy_run, tmp_path / "run"))
    config = json.loads((copy / "config.json").read_text("utf-8"))
    config["model"]["int8"] = True
    (copy / "config.json").write_text(json.dumps(config), "utf-8")
    monkeypatch.setattr(run, "_KEPT", share)
    monkeypatch.setattr(run, "quantise", partial(quantise, least=300))
    bundle = read_bundle(run.export_run(copy, tmp_path / "bundle"))
    told = bundle.manifest.training["int8"]
    assert told["kept"] == (share == 0) == any(array.dtype == np.int8 for array in bundle.weights.values())
    assert bundle.manifest.scores["metrics"]["CIDEr"] == pytest.approx(
        told["CIDEr" if told["kept"] else "CIDEr in float"], abs=1e-5
    )


def test_a_bundle_with_a_shortlist_says_its_words_alone(toy_run: Path, tmp_path: Path) -> None:
    copy, whole = Path(shutil.copytree(toy_run, tmp_path / "run")), read_bundle(toy_run / "bundle")
    config = json.loads((copy / "config.json").read_text("utf-8"))
    config["model"]["shortlist"] = 10
    (copy / "config.json").write_text(json.dumps(config), "utf-8")
    short = read_bundle(run.export_run(copy, tmp_path / "bundle"))
    assert short.vocabulary.words == whole.vocabulary.words[:14] != whole.vocabulary.words
    features_BLD = np.random.default_rng(0).random((2, whole.manifest.rows * whole.manifest.columns, 64), np.float32)
    said = []
    for runtime in map(Runtime, (whole, short)):
        memory, state = runtime.start(features_BLD)
        said.append(runtime.step(np.array([1, 1]), memory, state).logprobs_NC[:, :14])
    odds_of_these, odds = (logprobs - logprobs[:, :1] for logprobs in said)
    np.testing.assert_allclose(odds, odds_of_these, atol=1e-4)
    np.testing.assert_allclose(np.exp(said[1]).sum(1), 1, atol=1e-5)


def test_a_halved_bundle_is_half_the_size(toy_run: Path, tmp_path: Path) -> None:
    write_bundle(halve(read_bundle(toy_run / "bundle")), tmp_path / "half")
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (tmp_path / "half", toy_run / "bundle")]
    assert sizes[0] < 0.55 * sizes[1]
    whole, half = read_bundle(toy_run / "bundle").weights, read_bundle(tmp_path / "half").weights
    assert half.keys() == {f"{name}.half" for name in whole}


def test_large_weights_are_outside_the_graphs(made: Made) -> None:
    encoder, decoder, bundle = made
    parameters = sum(parameter.numel() for module in (encoder, decoder) for parameter in module.parameters())
    outside = sum(array.size for array in bundle.weights.values())
    inside = sum(map(len, bundle.graphs.values()))
    assert outside > 0.9 * parameters
    assert inside < 150_000


def test_nothing_of_the_machine_is_in_the_graphs(made: Made, toy_run: Path) -> None:
    graphs = [*made[2].graphs.values(), *read_bundle(toy_run / "bundle").graphs.values()]
    home = [os.path.expanduser("~/"), str(Path(torch.__file__).parents[1]), str(Path(__file__).parents[1])]  # noqa: PTH111
    for content in graphs:
        assert not [path for path in home if path.encode() in content]
        for trace in (rb"\.py\b", rb"site-packages", rb"Traceback", rb"File \"", rb"stack_trace"):
            assert re.search(trace, content) is None, trace


def test_nothing_of_the_machine_is_in_the_manifest_and_the_card(toy_run: Path, toy_data: Path) -> None:
    for name in ("bundle.json", "README.md"):
        text = (toy_run / "bundle" / name).read_text("utf-8")
        assert not [path for path in (str(toy_data), str(toy_run), str(Path(__file__).parents[1])) if path in text]


# runs


def test_the_bundle_of_a_run_says_what_it_is(toy_run: Path, toy_settings: RunConfig) -> None:
    bundle = read_bundle(toy_run / "bundle")
    manifest = bundle.manifest
    assert (manifest.name, manifest.encoder, manifest.attends) == ("toy", "test_convnext", True)
    assert manifest.config["model"]["conditioning"] == "attention"
    assert manifest.search["beam"] == toy_settings.train.beam
    assert manifest.training["pictures"] == 18
    assert manifest.training["captions"] == 54
    assert (manifest.scores["n"], manifest.scores["split"], manifest.scores["beam"]) == (6, "val", 2)
    assert "Coloured shapes." in bundle.card
    assert "toy (drawn shapes)" in bundle.card
    assert f"{manifest.scores['metrics']['CIDEr']:.4f}" in bundle.card


def test_the_card_has_intervals_and_says_which_words_were_scored(toy_run: Path) -> None:
    bundle = read_bundle(toy_run / "bundle")
    low, high = bundle.manifest.scores["intervals"]["CIDEr"]
    assert low <= bundle.manifest.scores["metrics"]["CIDEr"] <= high
    assert f"({low:.4f} to {high:.4f}) |" in bundle.card
    assert "beam 2, all words, PTB tokens" in bundle.card
    assert "No list of safe words is in its language" in bundle.card
    assert "How to reproduce" not in bundle.card  # nobody said how
    scores = {**bundle.manifest.scores, "words": "safe words"}
    training = {**bundle.manifest.training, "command": "showtell train toy --data toy --out RUN"}
    manifest = replace(bundle.manifest, scores=scores, training=training)
    card = write_card(replace(bundle, manifest=manifest))
    assert "beam 2, safe words, PTB tokens" in card
    assert "Safe words keep it from naming people's race" in card
    assert "```console\n$ showtell train toy --data toy --out RUN\n```" in card


def test_what_a_person_writes_ends_the_card_of_every_export(toy_run: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(toy_run, tmp_path / "toy"))
    (directory / "notes.md").write_text("## Failures\n\nStripes look like squares: “so”.\n", "utf-8")
    for out in ("once", "twice"):
        card = read_bundle(run.export_run(directory, tmp_path / out)).card
        assert card.endswith("\n\n## Failures\n\nStripes look like squares: “so”.\n")
        assert card.startswith(read_bundle(toy_run / "bundle").card)


def test_exporting_again_gives_the_same_bundle(toy_run: Path, tmp_path: Path) -> None:
    out = run.export_run(toy_run, tmp_path / "again")
    assert out == tmp_path / "again"
    for path in (toy_run / "bundle").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_interrupted_run_gives_a_bundle_of_its_best_epoch(
    toy_settings: RunConfig, toy_data: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(toy_settings, read_native(toy_data), directory, progress=stop)
    assert not (directory / "bundle").exists()
    bundle = run.export_run(directory)
    assert bundle == directory / "bundle"
    captioner = Captioner.load(bundle)
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    best = max(float(row["CIDEr"]) for row in rows)
    assert captioner.manifest.scores["metrics"]["CIDEr"] == pytest.approx(best, abs=1e-5)


def test_a_folder_without_a_finished_epoch_is_named(toy_run: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"has no val\.jsonl: no run is there, or its first epoch is not finish"):
        run.export_run(tmp_path)
    for name in ("config.json", "data.json", "vocabulary.json", "val.jsonl"):
        shutil.copy(toy_run / name, tmp_path / name)
    with pytest.raises(TrainingError, match=r"has no best\.safetensors: no run is there, or its first epoch is not f"):
        run.export_run(tmp_path)


def test_settings_in_the_bundle_can_train_again(toy_run: Path, toy_settings: Any) -> None:
    manifest = json.loads((toy_run / "bundle" / "bundle.json").read_text("utf-8"))
    assert RunConfig(**manifest["config"]) == toy_settings
