"""What the service takes and answers, as `/openapi.json` tells it; the answers are made by the records' `to_json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Word(BaseModel):
    word: str
    logprob: float


class Alternative(BaseModel):
    caption: str
    logprob: float
    probability: float


class CaptionResult(BaseModel):
    """A caption, or `error`, the sentence that says why there is none."""

    image: str = Field(description="The name of the file.")
    caption: str | None = None
    logprob: float | None = Field(None, description="Natural logarithm, of all words and the end.")
    probability: float | None = Field(None, description="Of the whole caption.")
    confidence: float | None = Field(
        None, description="The probability that the caption is good; absent where the model is not calibrated."
    )
    words: list[Word] | None = None
    alternatives: list[Alternative] | None = Field(None, description="The next best captions, where top is above 1.")
    maps: list[list[list[float]]] | None = Field(
        None,
        description="For each word a grid over the picture, rows from the top, which sums to 1: the model's attention, "
        "or what hiding each part takes from the word.",
    )
    maps_box: tuple[float, float, float, float] | None = Field(
        None, description="What the grids cover: x0, y0, x1, y1 in shares of width and height; null is all of it."
    )
    error: str | None = None


class Captions(BaseModel):
    model: str
    results: list[CaptionResult] = Field(description="One for each file, in order.")


class Region(BaseModel):
    box: tuple[float, float, float, float] = Field(description="x0, y0, x1, y1 in pixels of the upright picture.")
    caption: str
    score: float
    probability: float | None = None
    alignment: float | None = None


class Regions(BaseModel):
    model: str
    image: str
    regions: list[Region]


class SearchQuestion(BaseModel):
    """What is looked for."""

    model_config = ConfigDict(extra="forbid")

    sentence: str = Field(min_length=1)
    top: int | None = None


class Match(BaseModel):
    picture: int = Field(description="Its row in the index.")
    path: str
    score: float
    thumbnail: str = Field(description="Where a small JPEG of it is.")


class Matches(BaseModel):
    results: list[Match]


class Model(BaseModel):
    name: str
    tasks: list[str]
    encoder: str
    attends: bool
    search: dict[str, float]
    scores: dict[str, Any]


class Models(BaseModel):
    version: str
    models: list[Model]
    words: str = Field(description="What captions are kept from saying.")
    indexed: int | None = Field(description="Pictures that a search looks at; null without an index.")
    report: str | None = Field(description="Where the page about the run is that made the model.")
    limits: dict[str, float]


class Status(BaseModel):
    status: str
