"""exiftool as a process: it is replaced when it dies, leaves nothing behind, and is asked for where it is missing."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from PIL import Image

from showtell.errors import BackendError, DataError
from showtell.jobs import exiftool as module
from showtell.jobs.exiftool import ExifTool
from showtell.jobs.fields import CONFIG, READ


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")
def test_an_exiftool_that_dies_or_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (8, 8)).save(path)
    nothing = {"SourceFile": "in.jpg"}
    with contextlib.closing(ExifTool(CONFIG)) as tool:
        assert tool.read(path, "jpg", READ) == nothing
        process = tool._process
        assert process is not None
        process.kill()
        process.wait()
        with pytest.raises(DataError, match="exiftool stopped at"):
            tool.read(path, "jpg", READ)
        assert tool.read(path, "jpg", READ) == nothing
        monkeypatch.setattr(module, "_SECONDS", 0.0)
        with pytest.raises(DataError, match="did not finish in 0 seconds"):
            tool.read(path, "jpg", READ)
        monkeypatch.undo()
        assert tool.read(path, "jpg", READ) == nothing
        folder = tool._folder
    assert not folder.exists()


def test_without_exiftool_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match=r"apt install libimage-exiftool-perl.*brew install exiftool"):
        ExifTool(CONFIG)
