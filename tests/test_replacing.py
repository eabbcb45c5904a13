"""New content of files: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from showtell.jobs.replacing import replace_file


def test_a_write_that_breaks_off_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"after")
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
