"""Regions with words, pictures with sentences: the model, its losses, a run, and the same without PyTorch."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from safetensors.torch import load_file  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from showtell import Captioner  # noqa: E402
from showtell.alignment import Aligner  # noqa: E402
from showtell.boxes import iou  # noqa: E402
from showtell.bundle import pack_bundle, read_bundle  # noqa: E402
from showtell.cli.commands import app  # noqa: E402
from showtell.datasets import read_native  # noqa: E402
from showtell.errors import BundleError, ConfigError, DataError, TrainingError  # noqa: E402
from showtell.evaluation import compare  # noqa: E402
from showtell.images import read_pixels  # noqa: E402
from showtell.learn import aligning, alignment_run  # noqa: E402
from showtell.learn.aligning import Captions, pad  # noqa: E402
from showtell.learn.alignment import Alignment, contrastive_loss, ranking_loss, region_scores  # noqa: E402
from showtell.learn.alignment_run import train_alignment  # noqa: E402
from showtell.learn.batches import CaptionTable  # noqa: E402
from showtell.learn.config import AlignmentConfig, ModelConfig, RunConfig, read_config  # noqa: E402
from showtell.learn.features import FeatureStore  # noqa: E402
from showtell.learn.phases import rows_in  # noqa: E402
from showtell.learn.regions import cut_snippets  # noqa: E402
from showtell.learn.run import kept_encoder  # noqa: E402
from showtell.learn.run import train as train_captioner  # noqa: E402
from showtell.metrics.retrieval import retrieval  # noqa: E402
from showtell.records import Example  # noqa: E402
from showtell.regions import RegionCaptioner  # noqa: E402
from showtell.text import Vocabulary  # noqa: E402


def small_model(cells: int = 4, regions: int = 3) -> Alignment:
    torch.manual_seed(0)
    pool_RL = torch.rand(regions, cells)
    return Alignment(
        ModelConfig(embedding=6, hidden=5, dropout=0.0),
        AlignmentConfig(width=7),
        width=9,
        vocabulary_size=20,
        pool_RL=pool_RL / pool_RL.sum(1, keepdim=True),
    ).eval()


def test_vectors_have_their_shapes_and_unit_length() -> None:
    seen = small_model().see(torch.randn(2, 4, 9))
    said = small_model().read(torch.tensor([[5, 6, 7], [8, 0, 0]]))
    assert seen.regions_BRE.shape == (2, 3, 7)
    assert said.words_NTE.shape == (2, 3, 7)
    for vectors in (seen.regions_BRE, seen.pictures_BE, said.sentences_NE):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))


def test_padding_and_neighbours_in_the_batch_change_no_caption() -> None:
    model = small_model()
    alone, together = model.read(torch.tensor([[8, 9]])), model.read(torch.tensor([[8, 9, 0, 0], [5, 6, 7, 4]]))
    torch.testing.assert_close(together.sentences_NE[:1], alone.sentences_NE)
    torch.testing.assert_close(together.words_NTE[:1, :2], alone.words_NTE)
    assert not together.words_NTE[0, 2:].any()


def test_pooling_the_projected_cells_is_projecting_the_pooled_ones() -> None:
    model, features_BLD = small_model(), torch.randn(2, 4, 9)
    pooled_BRD = torch.einsum("rl,bld->brd", model.pool_RL, features_BLD)
    expected = torch.nn.functional.normalize(model.region(pooled_BRD), dim=-1)
    torch.testing.assert_close(model.see(features_BLD).regions_BRE, expected)


def test_the_score_of_regions_is_each_words_best_one_summed() -> None:
    regions, words = torch.randn(2, 3, 4), torch.randn(5, 6, 4)
    words[0, 4:] = 0  # words that are not there
    expected = torch.zeros(2, 5)
    for b, n, t in product(range(2), range(5), range(6)):
        expected[b, n] += max(float(regions[b, r] @ words[n, t]) for r in range(3))
    torch.testing.assert_close(region_scores(regions, words), expected)


@pytest.mark.parametrize("hardest", [False, True])
def test_the_ranking_loss_is_its_definition(hardest: bool) -> None:
    torch.manual_seed(1)
    similarity, owner = torch.randn(3, 4), torch.tensor([0, 1, 1, 2])
    wrong = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 1], [1, 0, 1, 0]], dtype=torch.bool)  # caption 1 is said of 2 as well
    gather = max if hardest else sum
    expected = 0.0
    for n in range(4):
        right = similarity[owner[n], n]
        over = [max(0.0, float(0.5 - right + similarity[b, n])) for b in range(3) if wrong[b, n]]
        across = [max(0.0, float(0.5 - right + similarity[owner[n], m])) for m in range(4) if wrong[owner[n], m]]
        expected += (gather(over) + gather(across)) / 4
    found = ranking_loss(similarity, owner, wrong, margin=0.5, hardest=hardest)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_contrastive_loss_is_its_definition() -> None:
    rng = np.random.default_rng(3)
    similarity, owner = rng.normal(size=(4, 6)), np.array([0, 0, 1, 2, 3, 3])
    wrong = (rng.random((4, 6)) < 0.7) & (np.arange(4)[:, None] != owner)
    expected = 0.0
    for caption in range(6):
        own = np.exp(similarity[owner[caption], caption] / 0.3)
        pictures = sum(np.exp(similarity[p, caption] / 0.3) for p in range(4) if wrong[p, caption])
        captions = sum(
            np.exp(similarity[owner[caption], c] / 0.3) for c in range(6) if wrong[owner[caption], c] and c != caption
        )
        expected -= (np.log(own / (own + pictures)) + np.log(own / (own + captions))) / 6
    arguments = (torch.from_numpy(similarity), torch.from_numpy(owner), torch.from_numpy(wrong))
    assert float(contrastive_loss(*arguments, temperature=0.3)) == pytest.approx(expected)


def test_a_caption_that_several_pictures_share_is_wrong_of_none_of_them() -> None:
    examples = [
        Example("a", "a.png", ("two red planes", "a large field")),
        Example("b", "b.png", ("a large field",)),
        Example("c", "c.png", ("one river",)),
    ]
    vocabulary = Vocabulary.build([text.split() for example in examples for text in example.references])
    captions = Captions.of(CaptionTable(examples, vocabulary, 10))
    for seed in range(8):
        tokens, wrong = captions.draw(np.array([0, 1, 2]), np.random.default_rng(seed))
        words = [" ".join(vocabulary.decode(row)) for row in tokens.tolist()]
        texts = [text.replace(" <pad>", "").strip() for text in words]
        for picture, caption in product(range(3), range(3)):
            assert bool(wrong[picture, caption]) == (texts[caption] not in examples[picture].references)


def test_rows_of_different_length_are_padded_at_the_end() -> None:
    assert pad([np.array([5, 6]), np.array([7])]).tolist() == [[5, 6], [7, 0]]


# a run


@pytest.fixture(scope="module")
def settings(aligned_settings: RunConfig) -> RunConfig:
    return aligned_settings


@pytest.fixture(scope="module")
def run(aligned_run: Path) -> Path:
    return aligned_run


def test_a_run_learns_to_find_training_pictures(run: Path, toy_data: Path) -> None:
    aligner = Aligner.load(run / "bundle")
    train = [example for example in read_native(toy_data) if example.split == "train"]
    pixels = np.stack([read_pixels(str(example.image), aligner.preprocessing) for example in train])
    pictures_BE = aligner.embed_pictures(pixels)
    sentences_NE = np.stack([aligner.embed_sentence(example.references[0]) for example in train])
    np.testing.assert_allclose(np.linalg.norm(pictures_BE, axis=1), 1, rtol=1e-5)
    ranks = ((sentences_NE @ pictures_BE.T).argsort(1)[:, ::-1] == np.arange(len(train))[:, None]).argmax(1)
    assert np.median(ranks) <= 1  # of 18; by chance 8.5


def test_the_bundle_says_how_good_it_is(run: Path) -> None:
    bundle = read_bundle(run / "bundle")
    assert bundle.manifest.graphs == ("encoder", "start", "step", "wide")
    rows = (run / "metrics.csv").read_text("utf-8").splitlines()
    best = max(float(dict(zip(rows[0].split(","), row.split(","), strict=True))["mean recall"]) for row in rows[1:])
    assert bundle.manifest.scores["metrics"]["mean recall"] == pytest.approx(best, abs=1e-6)
    assert f"{bundle.manifest.scores['metrics']['mean recall']:.4f}" in bundle.card


def test_words_are_read_as_pytorch_reads_them(run: Path, settings: RunConfig) -> None:
    aligner, best = Aligner.load(run / "bundle"), load_file(run / "best.safetensors")
    reader = torch.nn.GRU(16, 16, batch_first=True, bidirectional=True)
    reader.load_state_dict({name.removeprefix("reader."): best[name] for name in best if name.startswith("reader.")})
    text = "there is one circle painted in green"
    ids = [aligner.vocabulary.id_of(word) for word in text.split()]
    with torch.inference_mode():
        states = reader(best["words.weight"][ids][None])[0][0]
        expected = states @ best["word.weight"].T + best["word.bias"]
    words, vectors_TE = aligner.embed_words(text)
    assert words == text.split()
    np.testing.assert_allclose(vectors_TE, expected, atol=1e-5)


def test_sentences_are_read_together_as_alone(run: Path) -> None:
    aligner = Aligner.load(run / "bundle")
    texts = ["a red circle", "there is one square painted in blue", "paper", "a zebra on grey paper"]
    together = aligner.embed_sentences(texts)
    assert together.shape == (4, 24)
    for text, vector_E in zip(texts, together, strict=True):
        np.testing.assert_allclose(aligner.embed_sentence(text), vector_E, atol=1e-6)


def test_a_bundle_is_evaluated_as_its_run_was(run: Path, toy_data: Path, tmp_path: Path) -> None:
    bundle = str(run / "bundle")
    recorded = read_bundle(run / "bundle").manifest.scores["metrics"]
    found = compare(Aligner.load(bundle), read_native(toy_data), "val")
    assert found.similarity_BN.shape == (6, 18)
    assert retrieval(found.similarity_BN, found.owner_N) == pytest.approx(recorded)
    said = json.loads(CliRunner().invoke(app, ["evaluate", bundle, "--data", str(toy_data), "--json"]).stdout)
    assert said["metrics"] == pytest.approx(recorded)
    assert (said["n"], said["captions"], said["split"]) == (6, 18, "val")
    refused = CliRunner().invoke(app, ["evaluate", bundle, "--data", str(toy_data), "--beam", "2"]).exception
    assert isinstance(refused, ConfigError)
    assert "--meteor and --spice are of captions" in str(refused)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    odd = [
        Example("1", str(tmp_path / "broken.png"), ("a red circle",), "val"),
        Example("2", str(toy_data / "images" / "red_circle.png"), ("a red circle", "zebra piano"), "val"),
    ]
    partly = compare(Aligner.load(bundle), odd, "val")
    assert partly.images == ("2",)
    assert [failure.image for failure in partly.failures] == ["1"]
    assert partly.similarity_BN[0, 1] == 0  # no word of it is known
    with pytest.raises(DataError, match="none of the 1 pictures of 'val' can be read"):
        compare(Aligner.load(bundle), odd[:1], "val")


def test_the_full_frame_of_the_wide_grid_is_its_mean(run: Path, toy_data: Path) -> None:
    aligner = Aligner.load(run / "bundle")
    pixels = read_pixels(str(toy_data / "images" / "red_circle.png"), aligner.wide)
    assert pixels.shape == (96, 96, 3)
    features_RD = aligner.pool_regions(pixels, [[0, 0, 640, 480], [0, 0, 320, 240]], 640, 480)
    grid_LD = aligner._run("wide", pixels[None])[0]
    np.testing.assert_allclose(features_RD[0], grid_LD.mean(0), rtol=1e-3, atol=1e-4)
    vectors_RE = aligner.embed_regions(features_RD)
    assert vectors_RE.shape == (2, 24)
    assert not np.allclose(vectors_RE[0], vectors_RE[1])


def test_regions_are_described_and_words_are_found(run: Path, toy_data: Path) -> None:
    describer, picture = RegionCaptioner.load(run / "bundle"), str(toy_data / "images" / "red_circle.png")
    counts = []
    for path in sorted((toy_data / "images").glob("*.png")):
        found = describer.describe(str(path), top=5, overlap=0.2)
        counts.append(len(found))
        assert all(iou([one.box], [other.box])[0, 0] <= 0.2 for one, other in combinations(found, 2))
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        words = [set(one.text.split()) for one in found]
        assert not any(one <= other or other <= one for one, other in combinations(words, 2))
    assert min(counts) >= 1
    assert 2 <= max(counts) <= 5
    boxes = [[0, 0, 64, 64], [8, 8, 40, 40], [0, 0, 64, 64]]
    mine = describer.describe(picture, boxes=boxes)
    assert [list(one.box) for one in mine] == boxes
    assert mine[0].text == mine[2].text
    grounded = describer.ground(picture, "a red circle on grey paper")
    assert grounded[0].start == 0
    assert grounded[-1].stop == 6
    assert " ".join(one.text for one in grounded) == "a red circle on grey paper"
    single = describer.ground(picture, "a red circle on grey paper", smoothing=1e6)
    assert len(single) == 1
    with pytest.raises(BundleError, match=r"is an alignment model that captions regions; use showtell regions"):
        Captioner.load(run / "bundle")


def test_a_stopped_run_goes_on_to_the_same_numbers(
    run: Path, settings: RunConfig, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, finish, epochs = read_native(toy_data), aligning._finish_epoch, 0

    def stop_in_the_fourth(*arguments: Any) -> None:
        nonlocal epochs
        epochs += 1
        finish(*arguments)
        if epochs == 4:
            raise KeyboardInterrupt  # scored, not saved: the epoch is trained again

    monkeypatch.setattr(aligning, "_finish_epoch", stop_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        train_alignment(settings, examples, tmp_path / "run")
    monkeypatch.setattr(aligning, "_finish_epoch", finish)
    train_alignment(settings, examples, tmp_path / "run", resume=True)
    columns = ["epoch", "train_loss", "mean recall"]
    assert _columns(tmp_path / "run", columns) == _columns(run, columns)


def _columns(directory: Path, names: list[str]) -> list[list[str]]:
    header, *rows = [line.split(",") for line in (directory / "metrics.csv").read_text("utf-8").splitlines()]
    return [[row[header.index(name)] for name in names] for row in rows]


def test_a_checkpoint_of_other_settings_is_refused(
    run: Path, settings: RunConfig, toy_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    other = replace(settings, train=replace(settings.train, learning_rate=1e-3))
    with pytest.raises(TrainingError, match="other settings"):
        train_alignment(other, read_native(toy_data), tmp_path / "run", resume=True)


def test_snippets_have_known_words_and_whole_ends(run: Path, settings: RunConfig, toy_data: Path) -> None:
    vocabulary = read_bundle(run / "bundle").vocabulary
    store = FeatureStore(run / "features")
    text = "a red circle on grey paper with a zebra and a circle"
    examples = [replace(example, references=(text,)) for example in read_native(toy_data) if example.split == "train"]
    captions = Captions.of(CaptionTable(examples, vocabulary, 25))
    model = alignment_run._build(settings, kept_encoder(run, settings), len(vocabulary), 16)
    model.load_state_dict(load_file(run / "best.safetensors"))
    found = cut_snippets(model, store, rows_in(store, examples), examples, captions, vocabulary, settings.regions)
    parts = [part for example in found.examples if not example.id.endswith("#0") for part in example.references]
    assert len(parts) > len(examples) // 2
    for part in parts:
        assert part in text
        assert part.split()[-1] not in settings.regions.hanging.split()
        assert not {"zebra", "<unk>"} & set(part.split())


# mistakes


def test_captions_without_pictures_are_refused(settings: RunConfig, toy_data: Path, tmp_path: Path) -> None:
    examples = read_native(toy_data)
    with pytest.raises(ConfigError, match="leave --text out"):
        train_alignment(settings, examples, tmp_path / "run", text=examples[:2])


def test_a_captioners_training_refuses_an_alignment(settings: RunConfig, toy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"settings with \[alignment\] are no captioner's"):
        train_captioner(settings, read_native(toy_data), tmp_path / "run")


def test_captions_without_a_word_are_a_clear_sentence(settings: RunConfig, toy_data: Path, tmp_path: Path) -> None:
    examples = [
        replace(example, references=("!",)) if example.split == "val" else example for example in read_native(toy_data)
    ]
    with pytest.raises(DataError, match="no caption of the val split has a word"):
        train_alignment(settings, examples, tmp_path / "run")


def test_unknown_words_alone_are_a_clear_sentence(run: Path) -> None:
    aligner = Aligner.load(run / "bundle")
    with pytest.raises(DataError, match="knows none of the words 'zebra', 'piano'"):
        aligner.embed_sentence("zebra piano")
    with pytest.raises(DataError, match="was given no words"):
        aligner.embed_words(" !? ")
    assert np.isfinite(aligner.embed_sentence("a zebra")).all()


def test_each_kind_of_bundle_is_taken_for_what_it_is(run: Path, tmp_path: Path) -> None:
    bundle = read_bundle(run / "bundle")
    alone = replace(bundle, manifest=replace(bundle.manifest, graphs=("encoder", "wide")))
    with pytest.raises(BundleError, match="writes no captions"):
        Captioner(replace(alone, graphs={name: bundle.graphs[name] for name in ("encoder", "wide")}))
    with pytest.raises(BundleError, match="is a captioner"):
        Aligner.load("default")
    pack_bundle(run / "bundle", tmp_path / "aligned.zip")
    assert Aligner.load(tmp_path / "aligned.zip").model == Aligner.load(run / "bundle").model


def test_a_configuration_that_aligns_has_nothing_that_writes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[alignment]\nwidth = 64\n[finetune]\nepochs = 2\n", "utf-8")
    with pytest.raises(Exception, match="leave \\[finetune\\] out"):
        read_config(path)
    path.write_text("[alignment]\nwidth = 64\n", "utf-8")
    assert read_config(path).alignment == AlignmentConfig(width=64)
    assert json.loads(json.dumps(read_config(path).to_json()))["alignment"]["width"] == 64
