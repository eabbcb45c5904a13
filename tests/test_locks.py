"""Locks: one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from showtell.errors import DataError
from showtell.locks import alone

_HOLD = """
import sys, time
from pathlib import Path
from showtell.errors import DataError
from showtell.locks import alone
with alone(Path(sys.argv[1]), DataError("taken")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_held_by_one_process_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="taken"), alone(path, DataError("taken")):
            pass
    finally:
        holder.kill()
        holder.wait()
    with alone(path, DataError("taken")):
        pass
