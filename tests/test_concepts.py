"""Content words: which they are, honest predictions of them, and their imitation for captions without pictures."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell import Captioner  # noqa: E402
from showtell.datasets import read_native  # noqa: E402
from showtell.errors import ConfigError  # noqa: E402
from showtell.learn.concepts import (  # noqa: E402
    Imitation,
    Lesson,
    choose_concepts,
    count_concepts,
    find_unrepeated,
    fit_heads,
    tune_encoder,
)
from showtell.learn.config import ConceptsConfig, ModelConfig  # noqa: E402
from showtell.learn.encoders import build_encoder  # noqa: E402
from showtell.learn.run import train  # noqa: E402
from showtell.records import Example  # noqa: E402
from showtell.text import Vocabulary, tokenise  # noqa: E402

THINGS = ["dog", "cat", "horse", "boat", "plane", "tree", "house", "car", "ball", "bird", "bus", "sheep"]


def corpus(seed: int = 0, count: int = 240) -> list[Example]:
    """Pictures of one thing; their captions agree on the thing, and use filler words as chance wants."""
    rng = np.random.default_rng(seed)
    fillers = ["there", "maybe", "quite", "just", "really", "somehow"]
    examples = []
    for number in range(count):
        thing = THINGS[int(rng.integers(len(THINGS)))]
        texts = tuple(
            f"{rng.choice(fillers)} a {thing if rng.random() < 0.8 else 'something'} {rng.choice(fillers)}"
            for _ in range(5)
        )
        examples.append(Example(str(number), None, texts))
    return examples


def vocabulary_of(examples: list[Example]) -> Vocabulary:
    return Vocabulary.build([tokenise(text) for example in examples for text in example.references])


def test_content_words_are_those_that_captions_of_a_picture_agree_on() -> None:
    examples = corpus()
    vocabulary = vocabulary_of(examples)
    chosen = choose_concepts(examples, vocabulary, ConceptsConfig(min_agreement=0.3))
    assert set(chosen) == set(THINGS)
    assert chosen == [word for word in vocabulary.words if word in THINGS]  # in the vocabulary's order


def test_size_keeps_the_most_frequent_content_words() -> None:
    examples = corpus()
    vocabulary = vocabulary_of(examples)
    config = ConceptsConfig(min_agreement=0.3, size=10)
    all_of_them = choose_concepts(examples, vocabulary, replace(config, size=99))
    assert choose_concepts(examples, vocabulary, config) == all_of_them[:10]


def test_single_captions_tell_nothing() -> None:
    examples = [replace(example, references=example.references[:1]) for example in corpus()]
    with pytest.raises(
        ConfigError, match=r"only 0 such words were found; give more pictures .* or lower min_agreement"
    ):
        choose_concepts(examples, vocabulary_of(examples), ConceptsConfig())


def test_words_that_people_repeat_may_be_repeated() -> None:
    texts = ["a red dog and a blue dog", "a dog beside a sink", *["a sink"] * 30, "a sink on a sink"]
    assert find_unrepeated([Example("a", None, tuple(texts))], ["dog", "sink", "unsaid"]) == ["sink"]


def test_counts_are_shares_of_a_pictures_captions() -> None:
    examples = [
        Example("a", None, ("a dog, a DOG!", "a cat", "the dog and the cat", "nothing")),
        Example("b", None, ("hot dogs",)),
    ]
    np.testing.assert_allclose(count_concepts(examples, ["dog", "cat", "bird"]), [[0.5, 0.5, 0], [0, 0, 0]])


def toy_task(seed: int = 0, pictures: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Features, of one view, that say linearly which of 4 words is there."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((pictures, 4)) < 0.4).astype(np.float32)
    noise = rng.normal(0, 0.3, (pictures, 12)).astype(np.float32)
    return (truth @ rng.normal(0, 2, (4, 12)).astype(np.float32) + noise)[:, None], truth


def test_a_pictures_own_words_do_not_reach_its_prediction() -> None:
    features, truth = toy_task()
    config = ConceptsConfig(folds=3, head_epochs=3)
    honest = fit_heads(features, truth, config, seed=1).honest_NWC
    for picture in (0, 17, 59):
        turned = truth.copy()
        turned[picture] = 1 - turned[picture]
        again = fit_heads(features, turned, config, seed=1).honest_NWC
        np.testing.assert_array_equal(again[picture], honest[picture])
        assert np.abs(again - honest).max() > 1e-4  # but it reaches those of others


def test_heads_learn_and_are_seeded() -> None:
    features, truth = toy_task(pictures=300)
    config = ConceptsConfig(folds=3, head_epochs=120)
    heads = fit_heads(features, truth, config, seed=1)
    prior = truth.mean(0)
    guess = -(prior * np.log(prior) + (1 - prior) * np.log(1 - prior)).mean()
    assert heads.loss < 0.6 * guess
    assert ((heads.honest_NWC[:, 0] > 0) == (truth > 0.5)).mean() > 0.9
    said = features[:, 0] @ heads.weight.numpy().T + heads.bias.numpy()
    assert ((said > 0) == (truth > 0.5)).mean() > 0.9  # the head that ships
    np.testing.assert_array_equal(fit_heads(features, truth, config, seed=1).honest_NWC, heads.honest_NWC)
    assert not np.array_equal(fit_heads(features, truth, config, seed=2).honest_NWC, heads.honest_NWC)


def test_a_view_that_is_drawn_too_is_learned() -> None:
    features, truth = toy_task(pictures=300)
    both = np.concatenate([features, -features], 1)  # as if mirrored pictures looked the opposite
    config = ConceptsConfig(folds=3, head_epochs=120)
    plain, views = (fit_heads(inputs, truth, config, seed=1) for inputs in (features, both))
    assert views.honest_NWC.shape == (300, 2, 4)
    assert np.abs(views.weight.numpy()).max() < 0.5 * np.abs(plain.weight.numpy()).max()  # nothing linear suits both
    assert views.loss > plain.loss


def linear(seed: int = 0, count: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    effect, base = rng.normal(0, 1, (5, 5)), rng.normal(-2, 1, 5)
    truth = (rng.random((count, 5)) < 0.3).astype(np.float32)
    honest = (base + truth @ effect + rng.normal(0, 0.5, (count, 5))).astype(np.float32)
    return effect, base, truth, honest


def test_imitation_recovers_a_known_linear_map() -> None:
    effect, base, truth, honest = linear()
    imitation = Imitation.fit(honest, truth)
    np.testing.assert_allclose(imitation.effect_CC, effect, atol=0.05)
    np.testing.assert_allclose(imitation.base_C, base, atol=0.05)
    np.testing.assert_allclose(imitation.residuals_NC.std(0), 0.5, atol=0.02)
    np.testing.assert_allclose(imitation.residuals_NC.mean(0), 0, atol=1e-3)


def test_draws_are_seeded_and_spread_as_the_residuals() -> None:
    effect, base, truth, honest = linear()
    imitation = Imitation.fit(honest, truth)
    asked = np.repeat(truth[:2], 5000, 0)

    def draw(seed: int) -> np.ndarray:
        return imitation.draw(asked, np.random.default_rng(seed))

    drawn = draw(3)
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, draw(3))
    assert not np.array_equal(drawn, draw(4))
    for part, words in ((drawn[:5000], truth[0]), (drawn[5000:], truth[1])):
        np.testing.assert_allclose(part.mean(0), base + words @ effect, atol=0.1)
        np.testing.assert_allclose(part.std(0), 0.5, atol=0.05)


def test_a_word_that_no_caption_uses_says_nothing() -> None:
    _, _, truth, honest = linear(count=200)
    truth[:, 4] = 0
    imitation = Imitation.fit(honest, truth)
    assert np.abs(imitation.effect_CC[4]).max() < 1e-6
    assert np.isfinite(imitation.effect_CC).all()


def test_tuning_moves_the_last_stage_alone(toy_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(encoder="test_resnet", encoder_weights="random", image_size=64))
    before = {key: value.clone() for key, value in encoder.network.state_dict().items()}
    examples = [*read_native(toy_data)[:6], Example("gone", "gone.jpg", ("a",), "train")]
    truth = np.eye(7, 5, dtype=np.float32)
    config = ConceptsConfig(epochs=2, stages=1, encoder_rate=1e-2)
    tune_encoder(encoder, [Lesson(examples, truth)], config, tmp_path, seed=1)
    after = encoder.network.state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"layer4"}
    assert not any("running" in key and not torch.equal(before[key], after[key]) for key in before)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not list(tmp_path.iterdir())  # what the frozen stages said is not kept


def test_a_second_lesson_has_words_of_its_own_and_teaches_too(toy_data: Path, tmp_path: Path) -> None:
    pictures = read_native(toy_data)
    config = ConceptsConfig(epochs=2, encoder_rate=1e-2)
    first, second = Lesson(pictures[:6], np.eye(6, 5, dtype=np.float32)), Lesson(pictures[6:12], np.eye(6, 3, 1, "f"))
    prints = []
    for lessons in ([first], [first, second], [first, second]):
        torch.manual_seed(0)
        encoder = build_encoder(ModelConfig(encoder="test_resnet", encoder_weights="random", image_size=64))
        tune_encoder(encoder, lessons, config, tmp_path, seed=1)
        prints.append(encoder.fingerprint())
    assert prints[0] != prints[1] == prints[2]


def test_the_first_epoch_of_tuning_is_the_heads_alone(toy_data: Path, tmp_path: Path) -> None:
    encoder = build_encoder(ModelConfig(encoder="test_resnet", encoder_weights="random", image_size=64))
    before = encoder.fingerprint()
    examples = read_native(toy_data)[:17]
    lesson = Lesson(examples, np.eye(17, 5, dtype=np.float32))
    tune_encoder(encoder, [lesson], ConceptsConfig(epochs=1, encoder_rate=1e-2), tmp_path, seed=1)
    assert encoder.fingerprint() == before


def test_a_run_with_text_trains_to_a_bundle(toy_data: Path, toy_settings: Any, tmp_path: Path) -> None:
    config = replace(
        toy_settings,
        model=replace(toy_settings.model, conditioning="concepts", half=True),
        train=replace(toy_settings.train, epochs=2),
    )
    examples = read_native(toy_data)
    val = next(example for example in examples if example.split == "val")
    text = [
        Example("t1", None, ("a purple square on grey paper", "a purple circle")),
        Example("t2", None, ("there is one orange cross painted in orange",)),
        Example(f"elsewhere/{Path(val.id).stem}.jpg", None, ("a secret leak",)),
    ]
    told: list[str] = []
    bundle = train(config, examples, tmp_path / "run", text=text, progress=lambda what, done, total: told.append(what))
    captioner = Captioner.load(bundle)
    assert captioner.manifest.training["captions_without_pictures"] == 3
    concepts = captioner.manifest.training["concepts"]
    assert 2 < len(concepts) <= captioner.manifest.config["concepts"]["size"]
    assert {"red", "square"} <= set(concepts) <= set(captioner.vocabulary.words)
    assert "purple" in captioner.vocabulary  # text adds words
    assert "secret" not in captioner.vocabulary  # but not that of the pictures kept for scoring
    assert captioner.manifest.memory == ("context",)
    assert "square" in captioner.manifest.once
    assert set(captioner.manifest.once) <= set(concepts)
    assert captioner.vocabulary.id_of("square") in captioner.restrictions.once
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert any(what.startswith("tuning the encoder on 1") for what in told)
    assert all(getattr(one, "text", "") for one in captioner.caption([str(example.image) for example in examples[:3]]))


def test_foreign_pictures_teach_the_encoder_and_nothing_else(toy_data: Path, toy_settings: Any, tmp_path: Path) -> None:
    config = replace(
        toy_settings,
        model=replace(toy_settings.model, conditioning="concepts"),
        train=replace(toy_settings.train, epochs=1),
        concepts=replace(toy_settings.concepts, epochs=2),
    )
    examples = read_native(toy_data)
    foreign = [replace(one, references=tuple(text[::-1] for text in one.references)) for one in examples]
    runs = [tmp_path / "without", tmp_path / "with"]
    bundles = [
        train(config, examples, directory, foreign=others)
        for directory, others in zip(runs, ((), foreign), strict=True)
    ]
    without, with_them = (Captioner.load(bundle) for bundle in bundles)
    assert with_them.vocabulary == without.vocabulary
    assert with_them.manifest.training["concepts"] == without.manifest.training["concepts"]
    trained = sum(example.split == "train" for example in examples)
    assert with_them.manifest.training["pictures_of_another_language"] == trained
    assert "pictures_of_another_language" not in without.manifest.training
    assert (runs[0] / "encoder.safetensors").read_bytes() != (runs[1] / "encoder.safetensors").read_bytes()


def test_foreign_pictures_need_concepts(toy_data: Path, toy_settings: Any, tmp_path: Path) -> None:
    examples = read_native(toy_data)
    with pytest.raises(ConfigError, match=r"--foreign.* teach the encoder of conditioning 'concepts', this run has"):
        train(toy_settings, examples, tmp_path / "run", foreign=examples)
