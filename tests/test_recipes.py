"""Every recipe runs, with random weights, on 64 pictures of its own kind of data; each says where it is from."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from pathlib import Path

import pytest
from typer.main import get_command

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell import Captioner  # noqa: E402
from showtell.bundle import read_bundle  # noqa: E402
from showtell.cli.commands import app  # noqa: E402
from showtell.datasets import read_native  # noqa: E402
from showtell.datasets.layouts import read_data  # noqa: E402
from showtell.learn.alignment_run import train_alignment  # noqa: E402
from showtell.learn.config import RunConfig, list_recipes, read_config  # noqa: E402
from showtell.learn.run import train  # noqa: E402
from showtell.records import Caption, Example  # noqa: E402
from showtell.regions import RegionCaptioner  # noqa: E402

PICTURES = 64
VAL = 16  # of them
SIZE = 96  # pixels; InceptionV3 takes no fewer than 75


def copy_native(source: Path, folder: Path) -> None:
    """The first pictures of a native folder, some of them for `val`."""
    lines = []
    for line in islice((source / "captions.jsonl").open(encoding="utf-8"), PICTURES):
        row = json.loads(line)
        target = folder / row["image"]
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source / row["image"], target)
        lines.append({**row, "split": "val" if len(lines) < VAL else "train"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), "utf-8")


def copy_flickr8k(source: Path, folder: Path) -> None:
    """Pictures of Flickr8k as Kaggle hands them out: Images/ and captions.txt, with the official lists."""
    header, *rows = (source / "captions.txt").read_text("utf-8").splitlines(keepends=True)
    lists = {
        split: (source / "Flickr8k_text" / f"Flickr_8k.{name}Images.txt").read_text("utf-8").split()
        for split, name in (("train", "train"), ("val", "dev"))
    }
    there = {path.name for path in (source / "Images").iterdir()}
    chosen = [name for name in lists["train"] if name in there][: PICTURES - VAL]
    chosen += [name for name in lists["val"] if name in there][:VAL]
    (folder / "Images").mkdir()
    for name in chosen:
        shutil.copy(source / "Images" / name, folder / "Images")
    (folder / "captions.txt").write_text(
        header + "".join(row for row in rows if row.partition(",")[0] in chosen), "utf-8"
    )
    (folder / "Flickr8k_text").mkdir()
    for path in (source / "Flickr8k_text").glob("Flickr_8k.*Images.txt"):
        shutil.copy(path, folder / "Flickr8k_text")


def copy_coco(source: Path, folder: Path) -> None:
    """Photographs of COCO as its own zips of 2014."""
    captioned = [example for example in read_native(source) if len(example.references) == 5][:PICTURES]
    for split, part in (("train", captioned[VAL:]), ("val", captioned[:VAL])):
        images, annotations = [], []
        with zipfile.ZipFile(folder / f"{split}2014.zip", "w") as archive:
            for number, example in enumerate(part, 1):
                name = f"COCO_{split}2014_{number:012d}.jpg"
                archive.write(str(example.image), f"{split}2014/{name}")
                images.append({"id": number, "file_name": name})
                annotations += [{"id": 0, "image_id": number, "caption": text} for text in example.references]
        written = json.dumps({"images": images, "annotations": annotations})
        with zipfile.ZipFile(folder / "annotations_trainval2014.zip", "a") as archive:
            archive.writestr(f"annotations/captions_{split}2014.json", written)


COPIES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "flickr8k": ("flickr8k", copy_flickr8k),
    "coco": ("coco", copy_coco),
    "coco2014": ("coco", copy_coco),
    "rsicd": ("rsicd", copy_native),
    "vietnamese": ("vietnamese", copy_native),
    "mobile": ("coco", copy_native),
    "photos": ("coco", copy_native),
}


def small(config: RunConfig, vectors: Path) -> RunConfig:
    """The same recipe in a size for tests: small pictures, one epoch of each phase, every word kept."""
    once = {name: replace(part, epochs=min(part.epochs, 1)) for name, part in (
        ("finetune", config.finetune), ("selfcritical", config.selfcritical), ("concepts", config.concepts)
    )}  # fmt: skip
    once["regions"] = replace(config.regions, epochs=min(config.regions.epochs, 1), val_regions=8)
    if config.alignment is not None:
        once["alignment"] = replace(config.alignment, wide_size=128)
    once["concepts"] = replace(config.concepts, epochs=1, head_epochs=1, min_agreement=0.05, folds=2)
    word_vectors = {"word_vectors": str(vectors)} if config.model.word_vectors else {}
    return replace(
        config,
        model=replace(config.model, encoder_weights="random", image_size=SIZE, **word_vectors),
        train=replace(
            config.train,
            epochs=2,
            batch_pictures=16,
            min_count=1,
            warmup_steps=2,
            max_words=12,
            pair_epochs=min(1, config.train.pair_epochs),
        ),
        **once,
    )


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_runs_on_a_sample(name: str, shared_data: Path, tmp_path: Path) -> None:
    source, copy = COPIES[name.rpartition("-")[2]]
    data = tmp_path / "data"
    data.mkdir()
    copy(shared_data / source, data)
    examples = read_data(data)
    assert len([example for example in examples if example.split in ("train", "val")]) == PICTURES
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("".join(f"{word} 0.1 -0.2 0.3 0.4\n" for word in ("a", "dog", "man", "the", "in")), "utf-8")
    recipe = read_config(name)
    config = small(recipe, vectors)
    text = [Example("t", None, ("a man on a horse", "a man rides a horse"))] if name == "mobile" else ()
    rows = []
    run_training = train if config.alignment is None else train_alignment
    bundle = run_training(
        config,
        examples,
        tmp_path / "run",
        text=text,
        describe={"data": [source]},
        watch=lambda row, _: rows.append(row),
    )
    wanted = {
        "alignment": recipe.alignment is not None,
        "words": recipe.alignment is None,
        "pairs": recipe.train.pair_epochs,
        "finetune": recipe.finetune.epochs,
        "selfcritical": recipe.selfcritical.epochs,
    }
    assert list(dict.fromkeys(row["phase"] for row in rows)) == [phase for phase, asked in wanted.items() if asked]
    manifest = read_bundle(bundle).manifest
    assert manifest.encoder == recipe.model.encoder
    assert manifest.config["model"]["conditioning"] == recipe.model.conditioning
    assert manifest.scores["n"] == VAL
    if recipe.alignment is not None:
        described = RegionCaptioner.load(bundle).describe(str(examples[0].image), top=3)
        assert all(one.text for one in described)
        return
    (said,) = Captioner.load(bundle).caption([str(next(e.image for e in examples if e.split == "val"))])
    assert isinstance(said, Caption)
    assert said.text


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_names_its_source_and_what_was_published(name: str) -> None:
    text = (files("showtell.recipes") / f"{name}.toml").read_text("utf-8")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    said = [line[2:].split()[0] for line in comments if line[2:3].strip()]
    assert [word for word in said if word in ("source", "reproduces", "changes", "published")] == [
        "source",
        "reproduces",
        "changes",
        "published",
    ]
    assert read_config(name).licence


def test_make_models_trains_recipes_with_options_that_there_are() -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    told = subprocess.run(
        ["make", "--dry-run", "--always-make", "models", "DATA=data", "MODELS=out"],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    commands = [shlex.split(line)[1:] for line in told.splitlines() if "showtell train" in line]
    assert [command[1] for command in commands] == ["mobile", "rsicd", "vietnamese"]
    known = {option for param in get_command(app).commands["train"].params for option in param.opts}
    for (_, recipe, *options), name in zip(commands, ("default", "aerial", "vietnamese"), strict=True):
        assert recipe in list_recipes()
        assert {option for option in options if option.startswith("--")} <= known
        assert options[-1] == "--resume"
        assert f"out/{name}" in options
