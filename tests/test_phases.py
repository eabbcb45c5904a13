"""What phases do to the weights, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell.datasets import read_native  # noqa: E402
from showtell.errors import ConfigError, TrainingError  # noqa: E402
from showtell.learn import checkpoint, phases, run, training  # noqa: E402
from showtell.learn.batches import CaptionTable  # noqa: E402
from showtell.learn.checkpoint import split_weights  # noqa: E402
from showtell.learn.config import FinetuneConfig, RunConfig, SelfCriticalConfig  # noqa: E402
from showtell.learn.encoders import build_encoder  # noqa: E402
from showtell.learn.run import export_run, fit  # noqa: E402
from showtell.learn.selfcritical import Judge  # noqa: E402
from showtell.records import Example  # noqa: E402

Fit = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def examples(toy_data: Path) -> list[Example]:
    return read_native(toy_data)


@pytest.fixture
def settings(toy_settings: RunConfig) -> RunConfig:
    """An encoder with batch normalisation; two epochs of words."""
    short = replace(toy_settings.train, epochs=2, batch_pictures=6, learning_rate=5e-3)
    return replace(toy_settings, model=replace(toy_settings.model, encoder="test_resnet"), train=short)


@pytest.fixture
def fitted(examples: list[Example]) -> Fit:
    def fitted(settings: RunConfig, directory: Path, **options: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        fit(settings, examples, directory, watch=lambda row, captions: rows.append(row), **options)
        return rows

    return fitted


def encoders(directory: Path, settings: RunConfig) -> tuple[Any, Any, set[str]]:
    """(the encoder's weights as they came, as the last epoch left them, the names that differ)."""
    before = checkpoint.read_weights(directory / "encoder.safetensors")
    _, after = split_weights(checkpoint.read_checkpoint(directory / "checkpoint.pt")["weights"])
    assert before.keys() == after.keys()
    return before, after, {name for name in before if not torch.equal(before[name], after[name])}


def test_only_the_stages_that_are_asked_for_change_and_no_statistics(
    settings: RunConfig, fitted: Fit, tmp_path: Path
) -> None:
    tuned = replace(settings, finetune=FinetuneConfig(epochs=1, stages=2, encoder_rate=1e-2, batch_pictures=6))
    rows = fitted(tuned, tmp_path / "run")
    assert [row["phase"] for row in rows] == ["words", "words", "finetune"]
    _, _, changed = encoders(tmp_path / "run", tuned)
    network = build_encoder(tuned.model)
    top = {id(parameter) for parameter in network.top_parameters(2)}
    expected = {name for name, parameter in network.network.named_parameters() if id(parameter) in top}
    assert changed == expected
    assert not any("running" in name for name in changed)


def test_stages_join_one_by_one(settings: RunConfig, fitted: Fit, tmp_path: Path) -> None:
    tuned = FinetuneConfig(epochs=1, stages=3, unfreeze_every=1, encoder_rate=1e-2, batch_pictures=6)
    names = {}
    for epochs in (1, 2, 3):
        now = replace(settings, finetune=replace(tuned, epochs=epochs), train=replace(settings.train, patience=9))
        fitted(now, tmp_path / str(epochs))
        names[epochs] = encoders(tmp_path / str(epochs), now)[2]
    assert names[1] < names[2] < names[3]


def test_a_tuned_encoder_is_in_the_bundle(
    settings: RunConfig, fitted: Fit, examples: list[Example], tmp_path: Path
) -> None:
    """The export compares its graphs with PyTorch's encoder; here the best epoch is one that tuned it."""
    tuned = replace(
        settings,
        finetune=FinetuneConfig(epochs=12, stages=9, learning_rate=2e-2, batch_pictures=3, crop=0.95, colour=0.0),
        train=replace(settings.train, epochs=1, learning_rate=1e-7, warmup_steps=3, patience=20, label_smoothing=0.0),
    )
    rows = fitted(tuned, tmp_path / "run")
    best = max(rows, key=lambda row: row["CIDEr"])
    assert best["phase"] == "finetune"
    _, weights = split_weights(checkpoint.read_weights(tmp_path / "run" / "best.safetensors"))
    before = checkpoint.read_weights(tmp_path / "run" / "encoder.safetensors")
    assert any(not torch.equal(before[name], weights[name]) for name in before)
    from showtell import Captioner

    scores = Captioner.load(export_run(tmp_path / "run")).manifest.scores["metrics"]
    assert scores["CIDEr"] == pytest.approx(best["CIDEr"], abs=1e-5)


def test_self_critical_training_raises_the_reward_on_tuned_features(
    settings: RunConfig, fitted: Fit, tmp_path: Path
) -> None:
    tuned = replace(
        settings,
        train=replace(settings.train, epochs=12, learning_rate=1e-2, patience=99, seed=5),
        finetune=FinetuneConfig(epochs=1, encoder_rate=1e-3, batch_pictures=6),
        selfcritical=SelfCriticalConfig(epochs=8, learning_rate=5e-3, batch_pictures=6, captions=20),
    )
    rows = fitted(tuned, tmp_path / "run")
    rewards = [row["reward"] for row in rows if row["phase"] == "selfcritical"]
    assert len(rewards) == 8
    assert rewards[-1] > rewards[0]
    _, best = split_weights(checkpoint.read_weights(tmp_path / "run" / "best.safetensors"))
    assert (tmp_path / "run" / "features-tuned" / "features.npy").exists()
    before, after, _ = encoders(tmp_path / "run", tuned)
    assert before.keys() == after.keys() == best.keys()


def test_captions_without_pictures_are_rewarded_where_there_are_any(
    settings: RunConfig, examples: list[Example], fitted: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = replace(
        settings,
        model=replace(settings.model, conditioning="concepts"),
        selfcritical=SelfCriticalConfig(epochs=1, batch_pictures=2),
    )
    text = [Example(f"t{word}", None, (f"a purple {word} on paper", f"one {word}")) for word in ("moon", "sun", "star")]
    judged: list[int] = []

    def judge(table: CaptionTable, words: int) -> Judge:
        judged.append(len(table))
        return Judge(table, words)

    monkeypatch.setattr(phases, "Judge", judge)
    rows = fitted(told, tmp_path / "text", text=text)
    assert rows[-1]["phase"] == "selfcritical"
    fitted(told, tmp_path / "pictures")
    assert judged == [3, sum(example.split == "train" for example in examples)]


@pytest.mark.parametrize("kind", ["concepts+vector", "concepts+grid"])
def test_concepts_beside_the_picture_learn_from_text_too(
    kind: str, settings: RunConfig, fitted: Fit, tmp_path: Path
) -> None:
    told = replace(
        settings,
        model=replace(settings.model, conditioning=kind),
        train=replace(settings.train, pair_epochs=1),
        selfcritical=SelfCriticalConfig(epochs=1, batch_pictures=6),
    )
    text = [Example(f"t{word}", None, (f"a purple {word} on paper", f"one {word}")) for word in ("moon", "sun")]
    rows = fitted(told, tmp_path / "run", text=text)
    assert [row["phase"] for row in rows] == ["words", "words", "pairs", "selfcritical"]
    weights = checkpoint.read_checkpoint(tmp_path / "run" / "checkpoint.pt")["weights"]
    assert weights["absent"].abs().max() > 0  # what stands for the pictures of captions without one
    export_run(tmp_path / "run")


def test_gradients_of_several_batches_make_one_update(
    settings: RunConfig, fitted: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    update = training._update
    monkeypatch.setattr(training, "_update", lambda *arguments: (updates.append(1), update(*arguments)))
    fitted(replace(settings, train=replace(settings.train, epochs=1, batch_pictures=4, accumulate=3)), tmp_path / "run")
    assert len(updates) == 2  # 18 pictures are five batches: three, then the rest


def test_a_sum_of_equal_batches_is_the_gradient_of_one(settings: RunConfig, tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    tools = training._Tools(
        torch.optim.SGD([{"params": [weight], "peak": 1.0}], lr=1.0),
        torch.amp.GradScaler("cpu", enabled=False),
        training.MovingAverage([weight], 0.0),
        [weight],
    )
    for _ in range(4):
        (weight**2 / 4).sum().backward()
    training._update(tools, 0.5, 100.0)
    assert weight.item() == pytest.approx(2.0 - 0.5 * 4.0)
    assert weight.grad is None


def test_the_average_is_what_is_scored_and_kept(settings: RunConfig, fitted: Fit, tmp_path: Path) -> None:
    fitted(replace(settings, train=replace(settings.train, epochs=1, average=0.5)), tmp_path / "run")
    best = checkpoint.read_weights(tmp_path / "run" / "best.safetensors")
    state = checkpoint.read_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert not torch.equal(best["output.bias"], state["weights"]["output.bias"])
    values = [tuple(value.shape) for value in state["average"]["values"]]
    assert tuple(best["output.bias"].shape) in values
    assert any(torch.equal(best["output.bias"], value) for value in state["average"]["values"])


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16")
def test_bfloat16_learns(settings: RunConfig, fitted: Fit, tmp_path: Path) -> None:
    rows = fitted(replace(settings, train=replace(settings.train, epochs=4, precision="bfloat16")), tmp_path / "run")
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_compiled_training_gives_the_same_losses(
    settings: RunConfig, fitted: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the compiler's own 'eager' backend, which needs no C++ compiler."""
    compiled: list[Any] = []
    build = torch.compile

    def record(module: Any, **options: Any) -> Any:
        compiled.append(module)
        return build(module, backend="eager", **options)

    plain = fitted(settings, tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", record)
    rows = fitted(replace(settings, train=replace(settings.train, compile=True)), tmp_path / "compiled")
    assert compiled
    assert [row["train_loss"] for row in rows] == pytest.approx([row["train_loss"] for row in plain], abs=1e-5)


def test_activations_computed_twice_give_the_same_losses(toy_settings: RunConfig, fitted: Fit, tmp_path: Path) -> None:
    tuned = replace(
        toy_settings,
        train=replace(toy_settings.train, epochs=1, batch_pictures=6),
        finetune=FinetuneConfig(epochs=1, stages=2, batch_pictures=6),
    )
    plain = fitted(tuned, tmp_path / "plain")
    twice = fitted(replace(tuned, finetune=replace(tuned.finetune, checkpointing=True)), tmp_path / "twice")
    assert twice[-1]["train_loss"] == pytest.approx(plain[-1]["train_loss"], abs=1e-5)


def test_devices_that_are_not_there_are_named(settings: RunConfig, fitted: Fit, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=r"device = 'cuda' in \[train\], but PyTorch finds no CUDA device; give"):
        fitted(replace(settings, train=replace(settings.train, device="cuda")), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"precision = 'float16' in \[train\] needs a CUDA device; CPUs compute in"):
        fitted(replace(settings, train=replace(settings.train, precision="float16")), tmp_path / "run")


def test_settings_that_do_not_go_together_are_named() -> None:
    from showtell.learn.config import ModelConfig, TrainConfig

    with pytest.raises(ValueError, match=r"attention_penalty needs a decoder that attends; this model has .* 'init'"):
        RunConfig(model=ModelConfig(conditioning="init"), train=TrainConfig(attention_penalty=1.0))
    with pytest.raises(ValueError, match=r"'concepts' tunes its encoder on the content words, see \[concepts\]"):
        RunConfig(model=ModelConfig(conditioning="concepts"), finetune=FinetuneConfig(epochs=1))


def test_a_picture_that_goes_away_during_a_run_is_named(
    settings: RunConfig, examples: list[Example], tmp_path: Path
) -> None:
    import shutil

    moved = []
    for example in examples:
        copy = tmp_path / Path(example.id).name
        shutil.copy(str(example.image), copy)
        moved.append(replace(example, image=str(copy)))
    tuned = replace(settings, finetune=FinetuneConfig(epochs=1, batch_pictures=6))

    def lose(row: Any, captions: Any) -> None:
        for example in moved:
            Path(str(example.image)).unlink(missing_ok=True)

    with pytest.raises(TrainingError, match=r"could be read when the run began and cannot be now; put it back and go"):
        run.fit(tuned, moved, tmp_path / "run", watch=lose)


def test_features_beyond_the_stores_range_are_cut(examples: list[Example], tmp_path: Path, settings: RunConfig) -> None:
    from showtell.learn.features import extract_features

    encoder = build_encoder(settings.model)
    forward = encoder.forward
    encoder.forward = lambda pixels: forward(pixels) * 1e9  # type: ignore[method-assign]
    store = extract_features(encoder, examples[:3], tmp_path, pooled=True)
    assert np.isfinite(store.read(np.arange(3))).all()
