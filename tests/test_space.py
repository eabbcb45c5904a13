"""The space of a search from TOML: what is accepted, and the sentence for what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from showtell.errors import ConfigError
from showtell.learn.config import ModelConfig, RunConfig, TrainConfig, list_recipes
from showtell.learn.space import Choices, Range, Search, accepts, default_space, read_search, with_values

Read = Callable[..., Search]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def reader(text: str, apart: str | None = None) -> Search:
        (tmp_path / "run.toml").write_text(text, "utf-8")
        if apart is None:
            return read_search(tmp_path / "run.toml")
        (tmp_path / "apart.toml").write_text(apart, "utf-8")
        return read_search(tmp_path / "run.toml", tmp_path / "apart.toml")

    return reader


def test_a_space_is_read_beside_its_configuration(read: Read) -> None:
    search = read(
        'describe = "x"\n[model]\nencoder = "resnet50"\n[space]\n'
        '"train.learning_rate" = { low = 1e-4, high = 3e-3, log = true }\n'
        '"model.hidden" = { choices = [256, 512] }\n'
        '"train.label_smoothing" = { low = 0, high = 0.23, step = 0.05 }\n'
        '"model.layers" = { low = 1, high = 3 }\n'
        '"train.max_vocabulary" = { low = 100, high = 1000, step = 250 }\n'
        '"model.mean" = { choices = [[0.5, 0.5, 0.5], [0, 0, 0]] }\n'
        '"model.tie_words" = { choices = [true, false] }\n'
    )
    assert search.config == RunConfig(describe="x", model=ModelConfig(encoder="resnet50"))
    assert search.name == "run"
    assert search.space == {
        "train.learning_rate": Range(low=1e-4, high=3e-3, log=True),
        "model.hidden": Choices((256, 512)),
        "train.label_smoothing": Range(low=0.0, high=0.2, step=0.05),  # as far as whole steps go
        "model.layers": Range(low=1, high=3, whole=True),
        "train.max_vocabulary": Range(low=100, high=850, step=250, whole=True),
        "model.mean": Choices(([0.5, 0.5, 0.5], [0, 0, 0])),
        "model.tie_words": Choices((True, False)),
    }


@pytest.mark.parametrize(
    "text",
    [
        '[space]\n"train.epochs" = { low = 1, high = 3 }\n',
        "[space]\ntrain.epochs = { low = 1, high = 3 }\n",
        "[space.train]\nepochs = { low = 1, high = 3 }\n",
        "[space]\ntrain = { epochs = { low = 1, high = 3 } }\n",
    ],
)
def test_a_field_is_named_in_any_way_that_toml_has(text: str, read: Read) -> None:
    assert read(text).space == {"train.epochs": Range(low=1, high=3, whole=True)}


def test_a_space_apart_is_taken_in_place_of_the_configurations(read: Read) -> None:
    own = '[train]\nepochs = 2\n[space]\n"train.epochs" = { low = 1, high = 3 }\n'
    apart = '[space]\n"model.layers" = { choices = [1, 2] }\n'
    search = read(own, apart)
    assert (search.space, search.config.train.epochs) == ({"model.layers": Choices((1, 2))}, 2)
    with pytest.raises(ConfigError, match=r"apart\.toml has no table \[space\]; give fields to search, such as \"tr"):
        read(own, "[train]\nepochs = 3\n")


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_searched_around_its_own_values(name: str) -> None:
    search = read_search(name)
    own = search.config.to_json()
    assert search.space == default_space(search.config)
    for field, values in search.space.items():
        table, _, key = field.partition(".")
        assert values.holds(own[table][key])
        assert all(accepts(search.config, {field: value}) for value in values.ends())


def test_widths_that_a_configuration_cannot_have_are_not_searched() -> None:
    model = ModelConfig(cell="transformer", conditioning="attention", heads=8, hidden=24)
    assert default_space(RunConfig(model=model))["model.hidden"] == Choices((24, 48))


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            '"train.lerning_rate" = { low = 1, high = 2 }',
            r"unknown field 'train\.lerning_rate'; did you mean 'train\.lea",
        ),
        (
            '"train.zzz" = { low = 1, high = 2 }',
            r"unknown field 'train\.zzz'; .*train\. is followed by one of seed, device",
        ),
        (
            '"epochs" = { low = 1, high = 2 }',
            r"unknown field 'epochs'; did you mean 'train\.epochs'\? a field is written as in",
        ),
        ('"tran.epochs" = { low = 1, high = 2 }', r"unknown field 'tran\.epochs'; did you mean 'train\.epochs'"),
        ('"train.epochs" = 3', r"'train\.epochs' has 3; give it \{ low = \.\.\., high = \.\.\. \} or \{ choices = \["),
        (
            '"train.epochs" = { low = 1 }',
            r"'train\.epochs' has the keys low; accepted are low and high, with step or log",
        ),
        ('"train.epochs" = { }', r"'train\.epochs' has no keys; accepted are low and high"),
        ('"train.epochs" = { low = 1, high = 2, lgo = true }', r"has the keys low, high, lgo; accepted are"),
        ('"train.epochs" = { low = 1, high = 2, choices = [1] }', r"has the keys low, high, choices; accepted are"),
        ('"train.epochs" = { low = 1, high = 2.5 }', r"'train\.epochs' has high = 2\.5; accepted is a whole number"),
        (
            '"train.dropout" = { low = "a", high = 2.5 }',
            r"unknown field 'train\.dropout'; did you mean 'model\.dropout'",
        ),
        ('"model.dropout" = { low = "a", high = 0.5 }', r"'model\.dropout' has low = 'a'; accepted is a number"),
        ('"model.dropout" = { low = false, high = 0.5 }', r"'model\.dropout' has low = False; accepted is a number"),
        ('"model.dropout" = { low = nan, high = 0.5 }', r"'model\.dropout' has low = nan; accepted is a number"),
        (
            '"model.cell" = { low = 1, high = 2 }',
            r"'model\.cell' is not a number and has no low and high; give it \{ cho",
        ),
        ('"model.half" = { low = 0, high = 1 }', r"'model\.half' is not a number"),
        ('"model.mean" = { low = 0, high = 1 }', r"'model\.mean' is not a number"),
        ('"model.dropout" = { low = 0.5, high = 0.1 }', r"'model\.dropout' has low = 0\.5 above high = 0\.1; exchange"),
        (
            '"model.dropout" = { low = 0, high = 0.1, log = true }',
            r"log = true and low = 0; give a low above 0, or leave",
        ),
        (
            '"model.dropout" = { low = 0, high = 0.1, log = 1 }',
            r"'model\.dropout' has log = 1; accepted are true and f",
        ),
        (
            '"model.dropout" = { low = 0.1, high = 0.3, log = true, step = 0.1 }',
            r"both log = true and a step; leave one",
        ),
        ('"model.dropout" = { low = 0.1, high = 0.3, step = 0 }', r"has step = 0; give one above 0, up to high - low"),
        ('"model.dropout" = { low = 0.1, high = 0.3, step = 0.5 }', r"has step = 0\.5; give one above 0, up to high"),
        ('"model.hidden" = { choices = [] }', r"'model\.hidden' has choices = \[\]; give a list of one value or more"),
        ('"model.hidden" = { choices = 3 }', r"'model\.hidden' has choices = 3; give a list"),
        ('"model.hidden" = { choices = [3, 4, 3] }', r"'model\.hidden' has the choice 3 twice; leave one out"),
        ('"model.dropout" = { low = 0, high = 1 }', r"'model\.dropout' cannot have 1\.0: it should be less than 1"),
        (
            '"model.layers" = { low = 0, high = 1 }',
            r"'model\.layers' cannot have 0: it should be greater than or equal",
        ),
        (
            '"model.fit" = { choices = ["crop", "stretch"] }',
            r"'model\.fit' cannot have 'stretch': it should be 'squash'",
        ),
        (
            '"model.cell" = { choices = ["lstm", "transformer"] }',
            r"'model\.cell' cannot have 'transformer': cell 'transf",
        ),
        ("train.epochs = { low = 1, high = 0 }", r"'train\.epochs' has low = 1 above high = 0"),
    ],
)
def test_what_is_not_accepted_is_told_with_its_line(entry: str, sentence: str, read: Read) -> None:
    with pytest.raises(ConfigError, match=rf"{sentence}.* \(in .*run\.toml:5\)$"):
        read(f"[train]\nepochs = 2\n\n[space]\n{entry}\n")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[space]\n",
            r"\[space\] in .*run\.toml:1 has no field; give fields to search, such as \"train\.learning_rate\" =",
        ),
        ("space = 3\n", r"\[space\] in .*run\.toml:1 has no field"),
        (
            '[space]\n"train.epochs" = { low = 1, high = 2 }\n[space.train]\nepochs = { low = 1, high = 2 }\n',
            "is there twi",
        ),
        ("[space.train]\n\nepochs = { low = 1, high = 0 }\n", r"exchange them \(in .*run\.toml:3\)"),
        ("[train]\nepochs = 0\n[space]\n", r"epochs = 0 in .*run\.toml:2 is not accepted"),
        ("[trian]\n[space]\n", r"unknown key 'trian' in .*run\.toml:1"),
        ("[space\n", r"run\.toml is not TOML"),
    ],
)
def test_what_is_wrong_with_the_file_is_told(text: str, sentence: str, read: Read) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(text)


def test_a_missing_file_and_an_unknown_recipe_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*nothing\.toml"):
        read_search(tmp_path / "nothing.toml")
    with pytest.raises(
        ConfigError, match=r"there is no recipe 'nothing'; accepted are the path of a \.toml file or one of"
    ):
        read_search("nothing")


def test_a_value_needs_one_combination_in_which_it_is_accepted(read: Read) -> None:
    cells = '[space]\n"model.cell" = { choices = ["lstm", "transformer"] }\n'
    space = read(cells + '"model.conditioning" = { choices = ["init", "attention"] }\n').space
    assert space["model.cell"] == Choices(("lstm", "transformer"))
    with pytest.raises(
        ConfigError, match=r"cannot have 'transformer': cell 'transformer' needs 'attention'; this model"
    ):
        read(cells + '"model.conditioning" = { choices = ["init", "first"] }\n')


def test_values_go_into_a_configuration_or_are_refused_with_their_names() -> None:
    config = with_values(RunConfig(), {"train.epochs": 3, "model.mean": [0.1, 0.2, 0.3]})
    assert config == RunConfig(train=TrainConfig(epochs=3), model=ModelConfig(mean=(0.1, 0.2, 0.3)))
    with pytest.raises(ConfigError, match=r"cell 'transformer' needs 'attention'; .* \(model\.cell = 'transformer'\)"):
        with_values(RunConfig(), {"model.cell": "transformer"})


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        (Range(low=0.0, high=0.3, step=0.1), (0.0, 0.1, 0.2, 0.3), (0.15, 0.4, -0.1, None, "0.1")),
        (Range(low=2, high=8, step=3, whole=True), (2, 5, 8), (3, 11)),
        (Range(low=1e-4, high=1e-2, log=True), (1e-4, 5e-3), (1e-5, 1)),
        (Choices((1, "a", [0.5, 0.5])), (1, "a", (0.5, 0.5)), (2, None)),
    ],
)
def test_a_space_knows_its_values(values: Range | Choices, inside: tuple[Any, ...], outside: tuple[Any, ...]) -> None:
    assert all(values.holds(value) for value in inside)
    assert not any(values.holds(value) for value in outside)
