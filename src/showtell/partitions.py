"""Tables in parts: a folder whose files are the parts, and a note that says how many there are to be.

`showtell.jobs.parts` writes them; its module says what else is there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from showtell.errors import DataError

JOB = "_job.json"


def part_name(number: int, suffix: str) -> str:
    return f"part-{number:05d}{suffix}"


def holds_job(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder of parts; a URL can be nothing else."""
    return "://" in os.fspath(path) or (Path(path) / JOB).exists()


def list_parts(folder: Path) -> list[Path]:
    """The parts of a folder, in order.

    Raises:
        DataError: It is no folder of parts, or some of them are not there yet.
    """
    try:
        job = json.loads((folder / JOB).read_bytes())
        expected = -(-job["pictures"] // job["block"]) + job["shards"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is a folder, and no {JOB} in it says of what; give a table of captions") from error
    parts = [folder / part_name(number, folder.suffix.lower()) for number in range(expected)]
    there = sum(part.exists() for part in parts)
    if there < expected:
        raise DataError(
            f"{folder} is unfinished: {there} of {expected} parts; start the same `showtell batch` again and it goes on"
        )
    return parts
