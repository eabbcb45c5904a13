"""What a hyper-parameter search may change: the values that fields of a configuration can take, read from TOML.

A space is a table of the configuration's file, or of a file of its own:
    [space]
    "train.learning_rate" = { low = 1e-4, high = 3e-3, log = true }
    "train.label_smoothing" = { low = 0.0, high = 0.2, step = 0.05 }
    "model.layers" = { low = 1, high = 3 }        # whole numbers, where the field is one
    "model.hidden" = { choices = [256, 512] }
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from showtell.errors import ConfigError
from showtell.learn.config import RunConfig, parse_tables, read_tables
from showtell.report.trials import show

if TYPE_CHECKING:
    import optuna

_COMBINATIONS = 1000  # of other fields' values that are tried before a value is said to go with none


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; `high` is a whole number of steps above `low`."""

    low: float
    high: float
    step: float | None = None
    log: bool = False  # small values are tried as often as large ones
    whole: bool = False

    def describe(self) -> str:
        steps = f", in steps of {show(self.step)}" if self.step is not None else ""
        return f"{show(self.low)} to {show(self.high)}{steps}{', logarithmic' if self.log else ''}"

    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or abs(math.remainder(value - self.low, self.step)) < 1e-6 * self.step

    def to_optuna(self, value: Any) -> Any:
        return value

    def from_optuna(self, kept: Any) -> Any:
        return kept

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(name, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


@dataclass(frozen=True)
class Choices:
    """Values of any kind."""

    values: tuple[Any, ...]

    def describe(self) -> str:
        return ", ".join(map(show, self.values))

    def ends(self) -> tuple[Any, ...]:
        return self.values

    def holds(self, value: Any) -> bool:
        return _plain(value) in self.values

    def to_optuna(self, value: Any) -> Any:
        """What Optuna keeps of a value: it takes no lists and tables."""
        return value if isinstance(value, str | int | float | bool) else json.dumps(_plain(value), sort_keys=True)

    def from_optuna(self, kept: Any) -> Any:
        return self.values[[self.to_optuna(value) for value in self.values].index(kept)]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        return self.from_optuna(trial.suggest_categorical(name, [self.to_optuna(value) for value in self.values]))


Space = Mapping[str, Range | Choices]  # by "table.field"


@dataclass(frozen=True)
class Search:
    """What is searched: a configuration, and the values that some of its fields may take."""

    config: RunConfig
    space: Space
    name: str = "search"


def read_search(source: str | Path, space: str | Path | None = None) -> Search:
    """The search of a TOML file, or of a recipe by its name.

    Args:
        space: A file whose table `[space]` is taken in place of the configuration's. Without one anywhere, the learning
            rate, the dropout, the label smoothing and the width of the decoder are searched around the configuration.

    Raises:
        ConfigError: A file cannot be read, or a key or value is not accepted.
    """
    tables, text, where = read_tables(source)
    given = tables.pop("space", None)
    config = parse_tables(tables, text, where)
    if space is not None:
        others, text, where = read_tables(space)
        if "space" not in others:
            raise ConfigError(f"{where} has no table [space]; {_EXAMPLE}")
        given = others["space"]
    parsed = default_space(config) if given is None else _parse_space(given, config, text, where)
    return Search(config, parsed, Path(source).name.removesuffix(".toml"))


def default_space(config: RunConfig) -> dict[str, Range | Choices]:
    """The fields that most runs depend on, around those of a configuration."""
    rate, hidden = config.train.learning_rate, config.model.hidden
    widths = tuple(width for width in (hidden // 2, hidden, 2 * hidden) if accepts(config, {"model.hidden": width}))
    return {
        "train.learning_rate": Range(low=rate / 10, high=min(1.0, 3 * rate), log=True),
        "model.dropout": Range(low=0.0, high=0.7),
        "train.label_smoothing": Range(low=0.0, high=0.2, step=0.05),
        "model.hidden": Choices(widths),
    }


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The configuration with other values of some fields, by "table.field".

    Raises:
        ConfigError: It would not be accepted.
    """
    try:
        return _changed(config, values)
    except ValidationError as error:
        told = ", ".join(f"{name} = {_plain(value)!r}" for name, value in values.items())
        raise ConfigError(f"{_refusal(error)} ({told})") from error


def accepts(config: RunConfig, values: Mapping[str, Any]) -> bool:
    """Whether a configuration can have these values."""
    try:
        _changed(config, values)
    except ValidationError:
        return False
    return True


def _changed(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    tables = config.to_json()
    for name, value in values.items():
        table, _, key = name.partition(".")
        tables[table][key] = value
    return RunConfig(**tables)


def _refusal(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return first["msg"].lower().replace("input should", "it should")


_EXAMPLE = 'give fields to search, such as "train.learning_rate" = { low = 1e-4, high = 3e-3, log = true }'
_TABLES: dict[str, Any] = {
    name: hint for name, hint in get_type_hints(RunConfig).items() if isinstance(hint, type) and is_dataclass(hint)
}


def _parse_space(given: Any, config: RunConfig, text: str, where: str) -> dict[str, Range | Choices]:
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"[space] in {_place('space', text, where)} has no field; {_EXAMPLE}")
    space: dict[str, Range | Choices] = {}
    for name, entry in _flat(given):
        try:
            if name in space:
                raise ConfigError(f"{name!r} is there twice; leave one out")
            space[name] = _parse_entry(name, entry)
        except ConfigError as error:
            raise ConfigError(f"{error} (in {_place(name, text, where)})") from error
    for name in space:
        try:
            _check_values(name, space, config)
        except ConfigError as error:
            raise ConfigError(f"{error} (in {_place(name, text, where)})") from error
    return space


def _flat(given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries by "table.field"; TOML makes tables of dotted keys without quotes, and of `[space.train]`."""
    for name, entry in given.items():
        if name in _TABLES and isinstance(entry, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in entry.items())
        else:
            yield name, entry


def _place(name: str, text: str, where: str) -> str:
    """Where the file has an entry of the space, as "path:line"."""
    table, _, key = (re.escape(part) for part in name.partition("."))
    quote = "[\"']?"
    dotted = (
        rf"^[ \t]*{quote}{table}{quote}\.{quote}{key}{quote}[ \t]*=" if key else rf"^[ \t]*{quote}{table}{quote}[ \t]*="
    )
    header = re.search(r"^[ \t]*\[[ \t]*space\b|^[ \t]*space\b", text, re.MULTILINE)
    inner = re.search(rf"^[ \t]*\[[ \t]*space[ \t]*\.[ \t]*{table}\b", text, re.MULTILINE)
    below = re.compile(rf"^[ \t]*{quote}{key}{quote}[ \t]*=", re.MULTILINE)
    found = re.compile(dotted, re.MULTILINE).search(text, header.end() if header else 0)
    found = found or (below.search(text, inner.end()) if inner and key else None) or header
    return f"{where}:{text.count(chr(10), 0, found.start()) + 1}" if found else where


def _parse_entry(name: str, entry: Any) -> Range | Choices:
    """The values of one field."""
    number = _number_type(name)
    if not isinstance(entry, dict):
        raise ConfigError(f"{name!r} has {entry!r}; give it {{ low = ..., high = ... }} or {{ choices = [...] }}")
    keys = set(entry)
    if keys == {"choices"}:
        return _parse_choices(name, entry["choices"])
    if "choices" in keys or not {"low", "high"} <= keys <= {"low", "high", "step", "log"}:
        raise ConfigError(
            f"{name!r} has {'the keys ' + ', '.join(entry) if entry else 'no keys'}; accepted are low and high, with "
            "step or log = true where wanted, or choices alone"
        )
    if number is None:
        raise ConfigError(f"{name!r} is not a number and has no low and high; give it {{ choices = [...] }}")
    return _parse_range(name, entry, whole=number is int)


def _number_type(name: str) -> type | None:
    """`int` or `float`, where a field is such a number."""
    table, _, key = name.partition(".")
    if table not in _TABLES or key not in (valid := [item.name for item in fields(_TABLES[table])]):
        known = [f"{table}.{item.name}" for table, record in _TABLES.items() for item in fields(record)]
        close = [other for other in known if other.endswith(f".{key or table}")] or difflib.get_close_matches(
            name, known
        )
        hint = f"did you mean {close[0]!r}? " if close else ""
        accepted = f"{table}. is followed by one of {', '.join(valid)}" if table in _TABLES else _of_tables()
        raise ConfigError(f"unknown field {name!r}; {hint}{accepted}")
    hint_of_field = get_type_hints(_TABLES[table])[key]
    union = get_origin(hint_of_field) in (Union, UnionType)
    kinds = {kind for kind in (get_args(hint_of_field) if union else (hint_of_field,)) if kind is not NoneType}
    return next((kind for kind in (int, float) if kinds == {kind}), None)


def _of_tables() -> str:
    return f"a field is written as in 'train.epochs', and the tables are {', '.join(_TABLES)}"


def _parse_choices(name: str, values: Any) -> Choices:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{name!r} has choices = {values!r}; give a list of one value or more")
    if twice := [value for place, value in enumerate(values) if value in values[:place]]:
        raise ConfigError(f"{name!r} has the choice {twice[0]!r} twice; leave one out")
    return Choices(tuple(values))


def _parse_range(name: str, entry: dict[str, Any], *, whole: bool) -> Range:
    log = entry.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{name!r} has log = {log!r}; accepted are true and false")
    kind, accepted = ((int,), "a whole number") if whole else ((int, float), "a number")
    for key in ("low", "high", "step"):
        value = entry.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            raise ConfigError(f"{name!r} has {key} = {value!r}; accepted is {accepted}")
    low, high, step = entry["low"], entry["high"], entry.get("step")
    for wrong, sentence in (
        (low > high, f"low = {low} above high = {high}; exchange them"),
        (log and low <= 0, f"log = true and low = {low}; give a low above 0, or leave log out"),
        (log and step is not None, "both log = true and a step; leave one of them out"),
        (step is not None and not 0 < step <= high - low, f"step = {step}; give one above 0, up to high - low"),
    ):
        if wrong:
            raise ConfigError(f"{name!r} has {sentence}")
    if step is not None:
        low_, high_, step_ = (Decimal(str(value)) for value in (low, high, step))
        high = low_ + (high_ - low_) // step_ * step_
    number = int if whole else float
    return Range(low=number(low), high=number(high), step=None if step is None else number(step), log=log, whole=whole)


def _check_values(name: str, space: Space, config: RunConfig) -> None:
    """Tries the ends of a field's values; one that goes with none of the others' ends is refused."""
    others = [other for other in space if other != name]
    for value in space[name].ends():
        try:
            _changed(config, {name: value})
        except ValidationError as error:
            together = error.errors()[0]["type"] == "value_error"
            rest = itertools.product(*(space[other].ends() for other in others)) if together else iter(())
            if not any(
                accepts(config, {name: value, **dict(zip(others, values, strict=True))})
                for values in itertools.islice(rest, _COMBINATIONS)
            ):
                raise ConfigError(f"{name!r} cannot have {value!r}: {_refusal(error)}") from error


def _plain(value: Any) -> Any:
    """The value as TOML has it: tuples are lists."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
