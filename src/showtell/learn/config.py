"""What a training run is made of: frozen records, read from TOML; an unknown key is an error that lists the valid ones.

The tables of the file are `[model]`, `[train]`, `[finetune]`, `[selfcritical]`, `[concepts]`, `[alignment]` and
`[regions]`; every key has a default, and ranges are checked when a record is made. Sizes that follow from the encoder
are computed, never typed.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import asdict, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from showtell.errors import ConfigError

_STRICT = ConfigDict(extra="forbid")
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Conditioning = Literal[
    "init",
    "first",
    "every",
    "merge",
    "attention",
    "adaptive",
    "topdown",
    "concepts",
    "concepts+vector",
    "concepts+grid",
]
LOOKS_AT_GRID = ("attention", "adaptive", "topdown", "concepts+grid")  # the other conditionings: at the mean feature
Channels = Annotated[tuple[float, float, float], Field()]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelConfig:
    """The network: an encoder by its timm name and a decoder that is conditioned on its features.

    `conditioning` says where the picture enters the decoder (Tanti et al. 2018): `init` sets the initial state, `first`
    is the first input, `every` is part of each input, `merge` meets the cell's output, `attention`, `adaptive` and
    `topdown` look at the grid at every word, `concepts` predicts content words and hands their confidences to the
    decoder, alone or with the picture's mean feature (`concepts+vector`) or grid (`concepts+grid`). The cell
    `transformer` looks at the grid with `attention`.
    """

    encoder: str = "mobilenetv2_100"
    encoder_weights: str = "pretrained"  # "pretrained", "random", a file, or the directory of a run
    encoder_options: dict[str, str | int | float | bool] = field(default_factory=dict)  # for timm.create_model
    image_size: Positive | None = None  # pixels; None: the encoder's own
    fit: Literal["squash", "crop", "pad"] = "squash"  # squash sees the whole picture; crop is timm's centre crop
    interpolation: Literal["bilinear", "bicubic"] | None = None  # bilinear is read faster; None: the encoder's own
    mean: Channels | None = None  # of RGB in 0..1; None: the encoder's own
    std: Channels | None = None
    conditioning: Conditioning = "init"
    cell: Literal["lstm", "gru", "transformer"] = "lstm"
    layers: Annotated[int, Field(ge=1, le=6)] = 1  # of the cell; up to 3, or of the Transformer up to 6
    heads: Positive = 8  # of the Transformer's attention
    tie_words: bool = False  # the output layer is the embedding once more
    embedding: Positive = 256  # numbers a word; word_vectors bring their own width, this one is not used then
    word_vectors: str = ""  # a file of pretrained ones: GloVe, word2vec or fastText; empty: learned from nothing
    tune_words: bool = True  # False: every word stays where word_vectors start it
    hidden: Positive = 512
    attention: Positive = 256  # width of the attention's keys and queries
    dropout: Share = 0.5  # on word vectors and before the output layer
    shortlist: Annotated[int, Field(ge=10)] | None = None  # words of the bundle, the most frequent; None: all of them
    lookup: bool = False  # bundle a table of what each word adds to the cell's gates: larger, and less to compute
    half: bool = False  # store the bundle's weights as float16
    int8: bool = False  # the decoder's large matrices in eight bits, where CIDEr on val stays (learn/quantise.py)

    def __post_init__(self) -> None:
        looks = self.conditioning in LOOKS_AT_GRID
        for wrong, sentence in (
            (self.cell == "transformer" and self.conditioning != "attention", "cell 'transformer' needs 'attention'"),
            (self.cell != "lstm" and self.conditioning == "adaptive", "'adaptive' needs cell 'lstm'"),
            (self.cell != "transformer" and self.layers > 3, "a recurrent cell has 1 to 3 layers"),
            (self.conditioning == "topdown" and self.layers > 1, "'topdown' has two cells of one layer"),
            (self.lookup and (self.cell == "transformer" or looks), "'lookup' needs a decoder that does not attend"),
            (self.cell == "transformer" and self.hidden % self.heads > 0, "heads must divide hidden"),
            (self.cell == "transformer" and self.hidden % 2 > 0, "hidden must be even for cell 'transformer'"),
        ):
            if wrong:
                raise ValueError(
                    f"{sentence}; this model has conditioning {self.conditioning!r}, cell {self.cell!r}, "
                    f"layers {self.layers}, hidden {self.hidden}, heads {self.heads}"
                )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainConfig:
    """How the decoder is trained, on the features of the encoder as it came."""

    seed: Count = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a CUDA device where there is one
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the matrix products; float16 needs CUDA
    compile: bool = False  # torch.compile of teacher forcing; pays on CUDA
    epochs: Positive = 20
    batch_pictures: Positive = 64  # a batch holds all references of so many pictures
    accumulate: Positive = 1  # batches whose gradients are added up for one update
    learning_rate: Rate = 1e-3  # AdamW, at its peak
    warmup_steps: Count = 200  # linear, then a half cosine down to zero
    weight_decay: Weight = 1e-5
    clip_norm: Annotated[float, Field(gt=0)] = 5.0
    average: Share = 0.0  # decay of the moving average of the weights that is validated and kept; 0: none
    label_smoothing: Share = 0.1
    own_words: Share = 0.0  # scheduled sampling: share of inputs that the decoder said itself, in the last epoch
    attention_penalty: Weight = 0.0  # doubly stochastic attention: of cells that are looked at too much or too little
    min_count: Positive = 5  # rarer words are UNK
    max_vocabulary: Annotated[int, Field(ge=10)] | None = None  # the most words to keep, by count; None: all of them
    max_words: Positive = 25  # longer captions are cut for training (never for scoring)
    pair_epochs: Count = 0  # further passes over the pictures with captions alone, after text has been learned
    pair_rate: Rate = 5e-5  # their learning rate, at its peak
    patience: Positive = 5  # epochs without a better validation CIDEr before a phase stops
    beam: Positive = 3  # of the validation search, and of the bundle unless its user asks for another
    length_penalty: Weight = 0.7  # likewise; 1 ranks captions by the mean of a word
    val_pictures: Positive | None = None  # score the first so many only; None: all of them


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FinetuneConfig:
    """Training the encoder together with the decoder, from pixels, once the decoder has learned on frozen features.

    Statistics of batch normalisation stay as they came.
    """

    epochs: Count = 0  # 0: the encoder stays frozen
    stages: Positive = 1  # of the encoder that are tuned, from its end
    unfreeze_every: Count = 0  # epochs after which one more stage joins, from the end; 0: all of them at once
    encoder_rate: Rate = 1e-4  # learning rate of the encoder, at its peak
    learning_rate: Rate = 3e-4  # of the decoder, at its peak
    batch_pictures: Positive = 32
    accumulate: Positive = 1
    checkpointing: bool = False  # compute the encoder's activations twice in place of keeping them
    flip: bool = True  # half of the pictures are mirrored, and the words of their captions with them
    turn: bool = False  # pictures are turned by quarters too, where there is no up, as from the air
    mirror_words: tuple[tuple[str, str], ...] = (("left", "right"), ("leftmost", "rightmost"))
    crop: Rate = 0.8  # the smallest share of a picture's area that is shown; 1: always all of it
    colour: Share = 0.2  # the largest change of brightness, contrast and saturation


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SelfCriticalConfig:
    """Training on the CIDEr-D of the decoder's own captions, after all else (Rennie et al. 2017)."""

    epochs: Count = 0
    learning_rate: Rate = 5e-5  # at its peak
    batch_pictures: Positive = 64
    captions: Annotated[int, Field(ge=1, le=50)] = 5  # that are sampled of a picture
    top_words: Count = 8  # each word is drawn from so many, the likeliest; 0: from all
    baseline: Literal["others", "greedy"] = "others"  # what a caption must beat: the mean of the others, or greedy's
    cross_entropy: Share = 0.05  # the share of the loss that stays cross-entropy on the references

    def __post_init__(self) -> None:
        if self.baseline == "others" and self.captions < 2:
            raise ValueError("baseline 'others' needs two captions or more; give captions = 5, or baseline = 'greedy'")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ConceptsConfig:
    """How content words are chosen and predicted; used when `conditioning` is `concepts`."""

    size: Positive = 800  # content words that are predicted
    min_agreement: Share = 0.12  # of the captions of a picture, beyond chance, that makes a word a content word
    min_lift: Annotated[float, Field(ge=1)] = 2.5  # how much likelier a content word is where another caption has it
    epochs: Count = 3  # of fine-tuning the encoder on them; in the first one only the head learns
    stages: Count = 1  # of the encoder that are tuned, from its end
    encoder_rate: Rate = 2e-5  # learning rate of the encoder's tuned stages
    captions: Count = 5  # of a picture; where there are fewer, what the others would say is guessed from text; 0: never
    folds: Annotated[int, Field(ge=2)] = 5  # cross-fitted heads, so that training sees honest predictions
    head_epochs: Positive = 4


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AlignmentConfig:
    """Aligning regions with words and pictures with sentences; a configuration with this table is of such a model.

    Of `[model]` it takes the encoder, `embedding`, `word_vectors`, `tune_words`, `hidden` (of each direction of the
    GRU) and `dropout`; of `[train]` what is no matter of writing captions.
    """

    width: Positive = 512  # of the spaces
    loss: Literal["softmax", "hardest", "sum"] = "softmax"  # over all; or what is within a margin: the worst, the sum
    temperature: Annotated[float, Field(gt=0)] = 0.07  # of the softmax over the cosines of pictures and sentences
    margin: Annotated[float, Field(gt=0, lt=2)] = 0.2  # of pictures and sentences, as cosines
    region_margin: Annotated[float, Field(gt=0)] = 1.0  # of regions and words
    region_weight: Weight = 0.2  # of their loss beside the other
    sum_epochs: Count = 2  # of `hardest` that count all offenders, before the worst alone
    wide_size: Positive = 448  # pixels of the picture whose grid regions are cut from


_HANGING = (
    "a an the this that these those some any many several both each every another other two three four of in on"
    " at by with without to from for into onto over under near behind between through around and or while as is"
    " are was were be has have his her its their there which who very next front top side close back middle piece"
    " pieces pair couple group bunch kind number small little large big huge tall long young old white black red"
    " blue green brown yellow grey gray pink purple wooden sitting standing holding wearing"
)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RegionsConfig:
    """A captioner of regions, after the alignment: it learns from snippets of captions, or from described regions."""

    epochs: Count = 0  # 0: the model finds and grounds, and describes nothing
    learning_rate: Rate = 1e-3  # at its peak
    batch_regions: Positive = 64
    smoothing: Weight = 0.3  # what neighbouring words that tell of the same region are worth
    shortest: Positive = 2  # words of a snippet
    hanging: str = _HANGING  # words that no snippet ends with, between spaces; give those of your language
    val_regions: Positive = 500  # that are captioned after each epoch


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RunConfig:
    """All of a run's settings; `describe` and `licence` are free text for the model card."""

    describe: str = ""
    licence: str = ""  # of the weights it starts from and of the data
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    selfcritical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)
    concepts: ConceptsConfig = field(default_factory=ConceptsConfig)
    alignment: AlignmentConfig | None = None
    regions: RegionsConfig = field(default_factory=RegionsConfig)

    def __post_init__(self) -> None:
        if self.regions.epochs and self.alignment is None:
            raise ValueError("[regions] needs an alignment that says which words tell of which; give [alignment] too")
        if self.alignment is not None:
            for table, epochs in (("finetune", self.finetune.epochs), ("selfcritical", self.selfcritical.epochs)):
                if epochs:
                    raise ValueError(f"[alignment] learns on stored features and captions; leave [{table}] out")
            if self.model.conditioning not in ("init", "first", "every", "merge"):
                raise ValueError(
                    f"regions are captioned from one vector each, and conditioning {self.model.conditioning!r} needs "
                    "more; choose init, first, every or merge"
                )
        if self.train.attention_penalty and self.model.conditioning not in LOOKS_AT_GRID:
            raise ValueError(
                f"attention_penalty needs a decoder that attends; this model has conditioning "
                f"{self.model.conditioning!r}: choose another, or leave attention_penalty out"
            )
        if self.finetune.epochs and self.model.conditioning.startswith("concepts"):
            raise ValueError(
                "'concepts' tunes its encoder on the content words, see [concepts]; leave epochs out of [finetune]"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def list_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.name[:-5] for path in files("showtell.recipes").iterdir() if path.name.endswith(".toml"))


def read_config(source: str | Path) -> RunConfig:
    """The settings of a TOML file, or of a recipe by its name.

    Raises:
        ConfigError: There is no such file or recipe, it is not TOML, or a key or value is not accepted.
    """
    tables, text, where = read_tables(source)
    if "space" in tables:
        raise ConfigError(f"{where} has a [space]: 'showtell tune' searches it, and writes a best.toml to train with")
    return parse_tables(tables, text, where)


def read_tables(source: str | Path) -> tuple[dict[str, Any], str, str]:
    """(the tables, the text, its name for messages) of a TOML file, or of a recipe by its name.

    Raises:
        ConfigError: There is no such file or recipe, or it is not TOML.
    """
    path = Path(source)
    if path.suffix != ".toml" and not path.exists():
        if str(source) not in list_recipes():
            raise ConfigError(
                f"there is no recipe {str(source)!r}; accepted are the path of a .toml file or one of: "
                + ", ".join(list_recipes())
            )
        text, where = (files("showtell.recipes") / f"{source}.toml").read_text("utf-8"), f"{source}.toml"
    else:
        try:
            text, where = path.read_text("utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    try:
        return tomllib.loads(text), text, where
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {error}") from error


def parse_tables(tables: dict[str, Any], text: str, where: str) -> RunConfig:
    """The settings of a TOML file's tables.

    Raises:
        ConfigError: A key or value is not accepted.
    """
    try:
        return RunConfig(**tables)
    except ValidationError as error:
        raise ConfigError(_first_complaint(error, text, where)) from error


def _first_complaint(error: ValidationError, text: str, where: str) -> str:
    """One sentence for the first thing that is wrong, with its line in the file."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # settings that do not go together, each accepted by itself
        return f"{first['ctx']['error']} (in {where})"
    *tables, key = [str(part) for part in first["loc"]] or [""]
    if tables and tables[0] not in _TABLES:
        tables, key = [], tables[0]  # a complaint inside a value, such as the second number of a triple
    elif len(tables) > 1:
        tables, key = tables[:1], tables[1]
    header = re.search(rf"^[ \t]*\[\s*{re.escape(tables[0])}\s*\]", text, re.MULTILINE) if tables else None
    entry = re.compile(rf"^[ \t]*(?:\[\s*)?{re.escape(key)}\b", re.MULTILINE)
    found = entry.search(text, header.end() if header else 0)
    line = f"{where}:{text.count(chr(10), 0, found.start()) + 1}" if found else where
    record = _TABLES[tables[0]] if tables else RunConfig
    if first["type"] == "unexpected_keyword_argument":
        valid = [item.name for item in fields(record)]
        close = difflib.get_close_matches(key, valid, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        table = f"[{tables[0]}] " if tables else ""
        return f"unknown key {key!r} in {line}; {hint}{table}accepts {', '.join(valid)}"
    message = first["msg"].lower().replace("input should", "it should")
    return f"{key} = {first['input']!r} in {line} is not accepted: {message}"


_TABLES: dict[str, Any] = {
    "model": ModelConfig,
    "train": TrainConfig,
    "finetune": FinetuneConfig,
    "selfcritical": SelfCriticalConfig,
    "concepts": ConceptsConfig,
    "alignment": AlignmentConfig,
    "regions": RegionsConfig,
}
