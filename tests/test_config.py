"""Settings from TOML: what is accepted, and the sentence for what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from showtell.errors import ConfigError
from showtell.learn.config import ModelConfig, RunConfig, list_recipes, read_config


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def reader(text: str) -> RunConfig:
        path = tmp_path / "run.toml"
        path.write_text(text, "utf-8")
        return read_config(path)

    return reader


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_accepted(name: str) -> None:
    config = read_config(name)
    assert config.describe
    assert RunConfig(**json.loads(json.dumps(config.to_json()))) == config  # as config.json of a run keeps it


def test_there_are_recipes() -> None:
    assert {"mobile", "rsicd"} <= set(list_recipes())


def test_values_are_read_and_the_rest_are_defaults(read: Any) -> None:
    config = read('[model]\nencoder = "resnet50"\nmean = [0, 0.5, 1]\nencoder_options = { pad_type = "same", n = 3 }\n')
    assert config.model.encoder == "resnet50"
    assert config.model.mean == (0.0, 0.5, 1.0)
    assert config.model.encoder_options == {"pad_type": "same", "n": 3}
    assert config.model.hidden == ModelConfig().hidden
    assert config.train == RunConfig().train
    assert read("") == RunConfig()
    words = read('[model]\nword_vectors = "glove.txt"\ntune_words = false\n[train]\nmax_vocabulary = 10\n')
    assert (words.model.word_vectors, words.model.tune_words, words.train.max_vocabulary) == ("glove.txt", False, 10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '[model]\nencodr = "x"\n',
            r"unknown key 'encodr' in .*run\.toml:2; did you mean 'encoder'\? \[model\] accepts",
        ),
        (
            "# a\n\n[train]\nepochs = 3\nlr_rate = 1\n",
            r"unknown key 'lr_rate' in .*run\.toml:5; .*\[train\] accepts see",
        ),
        ("[train]\nqqq = 1\n", r"unknown key 'qqq' in .*run\.toml:2; \[train\] accepts seed, device, "),
        ("[modle]\nhidden = 3\n", r"unknown key 'modle' in .*run\.toml:1; did you mean 'model'\? accepts describe, "),
        (
            "[train]\nepochs = 0\n",
            r"epochs = 0 in .*run\.toml:2 is not accepted: it should be greater than or equal to 1",
        ),
        ("[model]\n\ndropout = 1.0\n", r"dropout = 1\.0 in .*run\.toml:3 is not accepted: it should be less than 1"),
        ("[train]\nlearning_rate = nan\n", r"learning_rate = nan in .*run\.toml:2 is not accepted"),
        ("[train]\nmax_vocabulary = 9\n", r"max_vocabulary = 9 in .*run\.toml:2.*greater than or equal to 10"),
        ('[model]\ntune_words = "no idea"\n', r"tune_words = 'no idea' in .*run\.toml:2.*boolean"),
        ("[train]\nlearning_rate = 0\n", r"learning_rate = 0 in .*run\.toml:2.*greater than 0"),
        ("[concepts]\nfolds = 1\n", r"folds = 1 in .*run\.toml:2.*greater than or equal to 2"),
        ("[train]\nepochs = 1.5\n", r"epochs = 1\.5 in .*run\.toml:2.*integer"),
        ('[model]\nfit = "stretch"\n', r"fit = 'stretch' in .*run\.toml:2.*'squash', 'crop' or 'pad'"),
        (
            '[model]\nconditioning = "inject"\n',
            r"conditioning = 'inject' in .*run\.toml:2.*'init', 'first', 'every', 'merge', 'att",
        ),
        ("[model]\nmean = [0.5, 0.5]\n", r"in .*run\.toml:2 is not accepted"),
        ('[model]\nmean = [0.5, "x", 0.5]\n', r"'x' in .*run\.toml:2 is not accepted"),
        ("model = 3\n", r"model = 3 in .*run\.toml:1 is not accepted"),
        ("[model\n", r"run\.toml is not TOML: .*line 1"),
        ("[concepts]\nepochs = 4\n\n[train]\nseed = 1\nepochs = 0\n", r"epochs = 0 in .*run\.toml:6 is not accepted"),
        ("[train]\nepochs = 4\n\n[concepts]\nepochs = -1\n", r"epochs = -1 in .*run\.toml:5 is not accepted"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(read: Any, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(text)


def test_a_space_is_for_the_search(read: Any) -> None:
    with pytest.raises(ConfigError, match=r"run\.toml has a \[space\]: 'showtell tune' searches it, and writes a best"):
        read('[space]\n"model.hidden" = { choices = [256, 512] }\n')


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'mobil'; accepted are .*\.toml file or one of: .*mobile.*rsicd"):
        read_config("mobil")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*nothere\.toml"):
        read_config(tmp_path / "nothere.toml")
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*odd\.toml"):
        read_config(tmp_path / "odd.toml")


def test_settings_are_frozen_and_named() -> None:
    with pytest.raises(AttributeError):
        ModelConfig().hidden = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="positional"):
        ModelConfig("resnet50")  # type: ignore[misc]


@pytest.mark.parametrize("conditioning", ["attention", "adaptive", "topdown", "concepts+grid"])
def test_only_decoders_that_do_not_attend_look_words_up(conditioning: Any) -> None:
    with pytest.raises(ValueError, match="'lookup' needs a decoder that does not attend; this model has conditioning"):
        ModelConfig(conditioning=conditioning, lookup=True)
