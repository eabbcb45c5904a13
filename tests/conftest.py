"""What tests of several modules share: the given data, and a toy data set with a real run on it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from showtell.cli import main

# Before the first import of torch, and for the processes that tests start: its threads wait for each other far longer
# than the toy networks compute when something else runs on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (40, 60, 220),
    "yellow": (235, 220, 40),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SHAPES = ("square", "circle", "stripes", "cross")


def draw_toy(colour: str, shape: str) -> Image.Image:
    """A 64-pixel picture of one shape on grey."""
    picture = Image.new("RGB", (64, 64), (128, 128, 128))
    pen = ImageDraw.Draw(picture)
    fill = COLOURS[colour]
    if shape == "square":
        pen.rectangle((10, 10, 54, 54), fill=fill)
    elif shape == "circle":
        pen.ellipse((4, 4, 60, 60), fill=fill)
    elif shape == "stripes":
        for top in range(2, 64, 16):
            pen.rectangle((0, top, 64, top + 7), fill=fill)
    else:
        pen.rectangle((26, 0, 38, 64), fill=fill)
        pen.rectangle((0, 26, 64, 38), fill=fill)
    return picture


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of test data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}")
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native-layout folder: 24 coloured shapes, every one with 3 references of which 2 are the same; 18 train, 6 val.

    Do not write into it.
    """
    folder = tmp_path_factory.mktemp("toy")
    (folder / "images").mkdir()
    lines = []
    for number, (colour, shape) in enumerate((colour, shape) for colour in COLOURS for shape in SHAPES):
        name = f"images/{colour}_{shape}.png"
        draw_toy(colour, shape).save(folder / name)
        plain = f"a {colour} {shape} on grey paper"
        captions = [plain, f"there is one {shape} painted in {colour} .", plain]
        split = "val" if number % 4 == (number // 4) % 4 else "train"
        lines.append(json.dumps({"image": name, "captions": captions, "split": split}) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="session")
def toy_settings() -> Any:
    """The `RunConfig` of a run on `toy_data` that takes seconds; frozen, so vary it with `dataclasses.replace`."""
    pytest.importorskip("torch", reason="needs the extra 'train'")
    from showtell.learn.config import ConceptsConfig, ModelConfig, RunConfig, TrainConfig

    return RunConfig(
        describe="Coloured shapes.",
        model=ModelConfig(
            encoder="test_convnext",
            encoder_weights="random",
            image_size=64,
            conditioning="attention",
            embedding=16,
            hidden=32,
            attention=16,
            dropout=0.1,
        ),
        train=TrainConfig(
            seed=4,
            epochs=16,
            batch_pictures=3,
            learning_rate=2e-2,
            warmup_steps=3,
            label_smoothing=0.0,
            min_count=1,
            patience=16,
            beam=2,
        ),
        concepts=ConceptsConfig(size=12, min_agreement=0.05, epochs=1, stages=1, folds=2, head_epochs=2),
    )


@pytest.fixture(scope="session")
def toy_run(toy_data: Path, toy_settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run with attention; its bundle is in `bundle`. Copy what you change."""
    from showtell.datasets import read_native
    from showtell.learn.run import train

    directory = tmp_path_factory.mktemp("runs") / "toy"
    train(toy_settings, read_native(toy_data), directory, describe={"data": ["toy (drawn shapes)"]})
    return directory


@pytest.fixture(scope="session")
def aligned_settings(toy_settings: Any) -> Any:
    """The `RunConfig` of an alignment on `toy_data` that describes regions too."""
    from showtell.learn.config import AlignmentConfig, RegionsConfig

    return replace(
        toy_settings,
        model=replace(toy_settings.model, conditioning="init", hidden=16),
        train=replace(toy_settings.train, epochs=10, batch_pictures=9, learning_rate=1e-2),
        alignment=AlignmentConfig(width=24, wide_size=96),
        regions=RegionsConfig(epochs=12, batch_regions=8, learning_rate=1e-2),
    )


@pytest.fixture(scope="session")
def aligned_run(toy_data: Path, aligned_settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished alignment; its bundle is in `bundle`. Copy what you change."""
    from showtell.datasets import read_native
    from showtell.learn.alignment_run import train_alignment

    directory = tmp_path_factory.mktemp("runs") / "aligned"
    train_alignment(aligned_settings, read_native(toy_data), directory, describe={"data": ["toy"]})
    return directory


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`showtell` in this process, which spares the imports."""

    def run(*arguments: str | os.PathLike[str]) -> Result:
        monkeypatch.setattr(sys, "argv", ["showtell", *map(os.fspath, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        result = Result(left.value.code or 0, *capsys.readouterr())  # type: ignore[arg-type]
        assert "Traceback" not in result.err
        return result

    return run


@pytest.fixture(
    scope="module"
)  # what drives it keeps an event loop running, which others could not start theirs beside
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs chromium")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
